"""Everyday objects with random proportions, materials, light and view, for pasting over training crops.

Models are made of signed distances (:mod:`partnas.data.synth.solids`) within about 1.3 of the origin: x right, y away
from the viewer, z up; the front looks to −y.
"""

from collections.abc import Callable

import numpy as np

from partnas.data.synth import solids, still
from partnas.data.synth.scene import noise_texture, sample
from partnas.data.synth.still import Part

DARK = np.array([0.02, 0.02, 0.025])
RUBBER, STEEL, BRASS = DARK, np.array([0.62, 0.63, 0.65]), np.array([0.70, 0.50, 0.20])
LEAF, EARTH, WHITE = np.array([0.06, 0.20, 0.03]), np.array([0.07, 0.045, 0.03]), np.array([0.8, 0.79, 0.76])
WOODS = np.array([[0.42, 0.24, 0.11], [0.25, 0.12, 0.05], [0.60, 0.42, 0.24], [0.12, 0.06, 0.035], [0.50, 0.30, 0.17]])
FURS = np.array([[0.35, 0.20, 0.09], [0.10, 0.07, 0.05], [0.62, 0.50, 0.36], [0.30, 0.29, 0.28], [0.70, 0.66, 0.60]])
VIVID = np.array(
    [
        [0.60, 0.04, 0.03], [0.03, 0.12, 0.45], [0.75, 0.45, 0.03], [0.04, 0.30, 0.10], [0.70, 0.20, 0.03],
        [0.05, 0.35, 0.42], [0.35, 0.05, 0.30], [0.72, 0.70, 0.66], [0.08, 0.08, 0.09], [0.55, 0.12, 0.20],
        [0.30, 0.33, 0.36], [0.45, 0.36, 0.22],
    ]
)  # fmt: skip
LONGEST, SHORTEST = 190, 80
"""Pixels of an object's longer side."""


def tone(random, colours=VIVID):
    colour = colours[random.integers(len(colours))]
    return np.clip(colour * random.uniform(0.8, 1.2) + random.normal(0, 0.02, 3), 0.012, 0.85)


def plain(colour):
    return lambda p: np.broadcast_to(np.asarray(colour, np.float32), p.shape)


def mottled(random, colour, strength=0.25, scale=1.5):
    """A colour with soft blotches."""
    noise, shift = noise_texture(random), random.uniform(0, 9, 3)

    def paint(p):
        q = p * scale + shift
        blotch = sample(noise, q[:, 0], q[:, 2]) + sample(noise, q[:, 1] + 3.3, q[:, 2] + q[:, 0])
        return np.clip(colour * (1 + strength * blotch[:, None]), 0.005, 0.9)

    return paint


def wood(random, colour, axis=0):
    """Grain along an axis."""
    noise, shift = noise_texture(random), random.uniform(0, 9, 3)
    across = [i for i in range(3) if i != axis]

    def paint(p):
        q = p + shift
        wave = sample(noise, q[:, axis] * 0.25, (q[:, across[0]] + 0.7 * q[:, across[1]]) * 2.5)
        fine = sample(noise, q[:, axis] * 0.8, (q[:, across[0]] - q[:, across[1]]) * 9.0)
        return np.clip(colour * (1 + 0.35 * wave + 0.2 * fine)[:, None], 0.005, 0.9)

    return paint


def banded(first, second, along, low, high):
    """``second`` between two values of a coordinate, which ``along`` gives, ``first`` elsewhere."""
    return lambda p: np.where(((along(p) > low) & (along(p) < high))[:, None], second, first)


def striped(first, second, along, period, share=0.5):
    return lambda p: np.where((np.mod(along(p), period) < share * period)[:, None], second, first)


def where(test, inside: still.Paint, outside: still.Paint):
    return lambda p: np.where(test(p)[:, None], inside(p), outside(p))


def height(p):
    return p[:, 2]


def label(random, ground, low, high):
    """A printed band: a ground colour, a stripe, and lines of writing."""
    paper, ink, accent = tone(random), tone(random), tone(random)

    def paint(p):
        share = (p[:, 2] - low) / (high - low)
        turn = np.arctan2(p[:, 0], -p[:, 1])
        colour = np.where((np.abs(share - 0.68) < 0.17)[:, None], accent, paper)
        lines = (np.mod(share * 11, 1) < 0.45) & (share < 0.4) & (share > 0.08)
        words = np.sin(turn * 37) + np.sin(turn * 23 + np.floor(share * 11) * 5) > -0.3
        colour = np.where((lines & words & (np.abs(turn) < 0.9))[:, None], ink, colour)
        sign = (np.abs(share - 0.68) < 0.1) & (np.abs(turn) < 0.7) & (np.sin(turn * 15) > -0.4)
        return np.where(sign[:, None], paper, colour)

    return where(lambda p: (p[:, 2] > low) & (p[:, 2] < high), paint, plain(ground))


def bottle(random):
    wide, neck, shoulder = random.uniform(0.26, 0.36), random.uniform(0.08, 0.12), random.uniform(0.15, 0.4)
    outline = [
        (0, -1), (wide - 0.04, -1), (wide, -0.95), (wide, shoulder), (wide * 0.85, shoulder + 0.15),
        (neck + 0.02, shoulder + 0.42), (neck, shoulder + 0.5), (neck, 0.92), (0, 0.92),
    ]  # fmt: skip
    glass = tone(random, np.array([[0.02, 0.10, 0.03], [0.10, 0.035, 0.01], [0.55, 0.62, 0.62], [0.05, 0.15, 0.25]]))
    paint = label(random, glass, -0.72, shoulder - 0.12)
    return [
        Part(lambda p: solids.lathe(p, outline, 0.015), paint, gloss=0.9),
        Part(lambda p: solids.cylinder(p, (0, 0, 0.95), neck + 0.025, 0.07, rounded=0.015), plain(tone(random)), 0.4),
    ]


def mug(random):
    high, wide = random.uniform(0.55, 0.75), random.uniform(0.48, 0.62)
    colour, second = tone(random), tone(random)
    style = random.integers(3)
    paint = [
        plain(colour),
        banded(colour, second, height, -0.2, 0.2),
        striped(colour, second, height, random.uniform(0.15, 0.4)),
    ][style]

    def cup(p):
        outer = solids.cylinder(p, (0, 0, 0), wide, high, rounded=0.06)
        hollow = solids.cylinder(p, (0, 0, 0.15), wide - 0.07, high, rounded=0.05)
        handle = solids.torus(p, (wide, 0, 0), high * 0.6, 0.085, "y")
        return solids.without(solids.blended([outer, handle], 0.06), hollow)

    return [
        Part(cup, paint, gloss=0.8),
        Part(lambda p: solids.cylinder(p, (0, 0, 0), wide - 0.06, high * 0.75), plain([0.06, 0.025, 0.01]), 0.9),
    ]


def chair(random):
    colour, leg = tone(random, WOODS), random.uniform(0.035, 0.05)
    seat, slats = -0.15, random.integers(2, 5)
    cushion = tone(random)

    def frame(p):
        found = [solids.box(p, (0, 0, seat), (0.52, 0.5, 0.05), 0.03)]
        for x in (-0.45, 0.45):
            found.append(solids.capsule(p, (x, -0.42, seat), (x * 1.08, -0.5, -1.15), leg))
            found.append(solids.capsule(p, (x, 0.46, 1.05), (x, 0.42, seat), leg))
            found.append(solids.capsule(p, (x, 0.42, seat), (x * 1.08, 0.56, -1.15), leg))
            found.append(solids.capsule(p, (x, -0.47, -0.75), (x, 0.5, -0.75), leg * 0.6))
        for level in np.linspace(0.25, 0.95, slats):
            found.append(solids.box(p, (0, 0.45, level), (0.45, 0.025, 0.09), 0.02))
        return np.minimum.reduce(found)

    parts = [Part(frame, wood(random, colour, 2), gloss=0.35)]
    if random.random() < 0.6:
        cloth = mottled(random, cushion, 0.15, 4)
        parts.append(Part(lambda p: solids.box(p, (0, -0.02, seat + 0.1), (0.47, 0.45, 0.07), 0.07), cloth, 0.02))
    return parts


def office_chair(random):
    cloth = mottled(random, tone(random), 0.15, 5)

    def padding(p):
        back = solids.turned(p, 0.12, "x", (0, 0.45, 0))
        return np.minimum(
            solids.box(p, (0, 0, -0.15), (0.52, 0.5, 0.1), 0.09),
            solids.box(back, (0, 0.48, 0.6), (0.46, 0.08, 0.5), 0.08),
        )

    def frame(p):
        found = [
            solids.capsule(p, (0, 0.1, -0.2), (0, 0.1, -0.85), 0.06),
            solids.capsule(p, (0, 0.45, -0.2), (0, 0.6, 0.4), 0.05),
            solids.capsule(p, (0, 0.1, -0.25), (0, 0.48, -0.2), 0.05),
        ]
        for turn in np.arange(5) * 2 * np.pi / 5 + 0.3:
            x, y = 0.6 * np.cos(turn), 0.1 + 0.6 * np.sin(turn)
            found.append(solids.capsule(p, (0, 0.1, -0.85), (x, y, -0.95), 0.05))
            found.append(solids.ellipsoid(p, (x, y, -1.03), (0.09, 0.09, 0.09)))
        for x in (-0.56, 0.56):
            found.append(solids.box(p, (x, 0, 0.18), (0.06, 0.28, 0.035), 0.03))
            found.append(solids.capsule(p, (x, 0.1, -0.2), (x, 0.1, 0.16), 0.04))
        return np.minimum.reduce(found)

    return [Part(padding, cloth, 0.03), Part(frame, plain(DARK), 0.4)]


def table(random):
    is_round, colour = random.random() < 0.4, tone(random, WOODS)
    wide, deep = random.uniform(0.85, 1.2), random.uniform(0.5, 0.75)

    def top(p):
        if is_round:
            return solids.cylinder(p, (0, 0, 0.5), 0.95, 0.045, rounded=0.03)
        return solids.box(p, (0, 0, 0.5), (wide, deep, 0.05), 0.025)

    def legs(p):
        if is_round:
            feet = [
                solids.capsule(p, (0, 0, -0.6), (0.5 * np.cos(t), 0.5 * np.sin(t), -0.75), 0.06)
                for t in np.arange(4) * np.pi / 2 + 0.4
            ]
            return np.minimum.reduce([solids.capsule(p, (0, 0, 0.5), (0, 0, -0.65), 0.09, 0.13), *feet])
        x, y = wide - 0.1, deep - 0.1
        return solids.box(np.column_stack([np.abs(p[:, :2]), p[:, 2]]), (x, y, -0.15), (0.055, 0.055, 0.65), 0.015)

    return [
        Part(top, wood(random, colour), gloss=0.5),
        Part(legs, wood(random, colour * random.uniform(0.5, 1), 2), gloss=0.3),
    ]


def sofa(random):
    cloth, seats = tone(random), int(random.integers(1, 4))
    wide = 0.3 + 0.3 * seats
    paint, pillow = mottled(random, cloth, 0.12, 4), mottled(random, tone(random), 0.12, 4)

    def body(p):
        mirrored = np.column_stack([np.abs(p[:, 0]), p[:, 1:]])
        return np.minimum.reduce(
            [
                solids.box(p, (0, 0.05, -0.42), (wide, 0.5, 0.17), 0.04),
                solids.box(p, (0, 0.47, 0.0), (wide, 0.14, 0.5), 0.1),
                solids.box(mirrored, (wide + 0.03, 0.05, -0.22), (0.13, 0.52, 0.38), 0.1),
            ]
        )

    def cushions(p):
        found = []
        for seat in range(seats):
            x = (seat - (seats - 1) / 2) * 2 * (wide - 0.1) / seats
            half = (wide - 0.1) / seats - 0.01
            found.append(solids.box(p, (x, -0.05, -0.17), (half, 0.43, 0.11), 0.08))
            back = solids.turned(p, 0.2, "x", (0, 0.3, 0.1))
            found.append(solids.box(back, (x, 0.28, 0.14), (half, 0.12, 0.26), 0.1))
        return np.minimum.reduce(found)

    def feet(p):
        return solids.cylinder(np.column_stack([np.abs(p[:, :2]), p[:, 2]]), (wide - 0.05, 0.42, -0.64), 0.045, 0.08)

    tilted = random.uniform(0.3, 0.8)
    parts = [Part(body, paint, 0.03), Part(cushions, mottled(random, cloth * 1.12, 0.12, 4), 0.03)]
    parts.append(Part(feet, plain(tone(random, WOODS)), 0.3))
    if random.random() < 0.7:
        at = (wide - 0.3, -0.05, 0.1)
        parts.append(
            Part(lambda p: solids.box(solids.turned(p, tilted, "y", at), at, (0.22, 0.09, 0.22), 0.085), pillow, 0.02)
        )
    return parts


def plant(random):
    pot, leaf = tone(random), LEAF * random.uniform(0.7, 1.6)
    count, kind = int(random.integers(14, 26)), random.integers(2)
    turns, lifts = random.uniform(0, 2 * np.pi, count), random.uniform(-0.1, 1.35, count)
    lengths = random.uniform(0.55, 1.0, count)
    outline = [
        (0, -1.1),
        (0.3, -1.1),
        (0.42, -0.45),
        (0.46, -0.45),
        (0.46, -0.35),
        (0.4, -0.35),
        (0.38, -0.42),
        (0, -0.42),
    ]

    def leaves(p):
        found = []
        for turn, lift, length in zip(turns, lifts, lengths, strict=True):
            local = solids.turned(p - np.array([0, 0, -0.4], np.float32), turn)
            along = solids.turned(local, -lift, "y")
            bend = along[:, 0] - length * (0.75 if kind else 0.6)
            sag = along[:, 2] + 0.25 * np.maximum(along[:, 0], 0) ** 2 * np.cos(lift)
            wide = 0.17 if kind else 0.075
            blade = np.column_stack([bend, along[:, 1], sag]).astype(np.float32)
            found.append(0.6 * solids.ellipsoid(blade, (0, 0, 0), (length * 0.45, wide, 0.022)))
            if kind:
                found.append(solids.capsule(along, (0, 0, 0), (length * 0.5, 0, -0.06), 0.014))
        return np.minimum.reduce(found)

    return [
        Part(lambda p: solids.lathe(p, outline, 0.012), mottled(random, pot, 0.12), gloss=random.uniform(0.05, 0.6)),
        Part(lambda p: solids.cylinder(p, (0, 0, -0.43), 0.38, 0.03), mottled(random, EARTH, 0.6, 6), 0.0, grain=0.3),
        Part(leaves, mottled(random, leaf, 0.5, 2.5), gloss=0.35),
    ]


def shrub(random):
    leaf = LEAF * random.uniform(0.6, 1.6) * [random.uniform(0.7, 1.9), 1, 1]
    centres = np.column_stack([random.normal(0, 0.33, (12, 2)), random.uniform(-0.05, 0.75, 12)])
    radii = random.uniform(0.25, 0.42, 12)
    noise = noise_texture(random)

    def crown(p):
        round_ = solids.blended([solids.ellipsoid(p, c, (r, r, r)) for c, r in zip(centres, radii, strict=True)], 0.08)
        rough = sample(noise, p[:, 0] * 1.6 + p[:, 2], p[:, 1] * 1.6 - p[:, 2]) + sample(
            noise, p[:, 0] * 3, p[:, 2] * 3
        )
        return 0.6 * (round_ + 0.07 * rough)

    return [
        Part(crown, mottled(random, leaf, 0.8, 3.5), 0.05, grain=0.45),
        Part(lambda p: solids.capsule(p, (0, 0, 0), (0, 0, -1.1), 0.07, 0.1), mottled(random, EARTH * 1.5, 0.5, 5)),
    ]


def television(random):
    wide, high = 1.1, random.uniform(0.6, 0.68)
    ground, far, near = np.array([0.25, 0.45, 0.75]), tone(random), tone(random)
    phase, is_off = random.uniform(0, 6, 3), random.random() < 0.35

    def show(p):
        hill = 0.15 * np.sin(3 * p[:, 0] + phase[0]) + 0.06 * np.sin(9 * p[:, 0] + phase[1])
        colour = np.where((p[:, 2] < hill)[:, None], far, ground * (1 + 0.4 * p[:, 2:] / high))
        return 1.3 * np.where((p[:, 2] < hill - 0.25)[:, None], near, colour)

    on_screen = where(
        lambda p: (np.abs(p[:, 0]) < wide - 0.05) & (np.abs(p[:, 2]) < high - 0.05) & (p[:, 1] < -0.03),
        plain([0.012, 0.013, 0.016]) if is_off else show,
        plain(DARK),
    )

    def stand(p):
        foot = solids.cylinder(p, (0, 0.05, -high - 0.25), 0.4, 0.02, rounded=0.015)
        return np.minimum(foot, solids.box(p, (0, 0.07, -high - 0.08), (0.09, 0.03, 0.2), 0.02))

    return [
        Part(lambda p: solids.box(p, (0, 0, 0), (wide, 0.045, high), 0.02), on_screen, gloss=0.85),
        Part(stand, plain(DARK if random.random() < 0.5 else STEEL * 0.6), 0.6),
    ]


def laptop(random):
    case = STEEL * random.uniform(0.5, 1.1) if random.random() < 0.6 else DARK * 2
    opened = random.uniform(0.15, 0.5)
    ground, ink = tone(random), tone(random)
    hinge = (0, 0.6, -0.37)

    def screen(p):
        q = solids.turned(p, opened, "x", hinge)
        shown = (np.abs(q[:, 0]) < 0.86) & (q[:, 2] > -0.28) & (q[:, 2] < 0.68) & (q[:, 1] < 0.59)
        window = (np.abs(q[:, 0] + 0.1) < 0.55) & (np.abs(q[:, 2] - 0.22) < 0.3)
        lines = window & (np.mod(q[:, 2] * 14, 1) < 0.4) & (q[:, 0] < 0.25 + 0.2 * np.sin(np.floor(q[:, 2] * 14) * 7))
        colour = np.where(window[:, None], WHITE, np.maximum(ground, 0.1))
        colour = np.where(lines[:, None], ink * 0.5, colour)
        return np.where(shown[:, None], 1.2 * colour, DARK * 1.5)

    def keys(p):
        pad = (np.abs(p[:, 0]) < 0.8) & (p[:, 1] > -0.18) & (p[:, 1] < 0.48) & (p[:, 2] > -0.36)
        gap = (np.mod(p[:, 0] * 8, 1) < 0.12) | (np.mod(p[:, 1] * 8, 1) < 0.14)
        touch = (np.abs(p[:, 0]) < 0.28) & (p[:, 1] < -0.27) & (p[:, 1] > -0.55) & (p[:, 2] > -0.36)
        colour = np.where((pad & ~gap)[:, None], DARK, case)
        return np.where(touch[:, None], case * 0.8, colour)

    return [
        Part(lambda p: solids.box(p, (0, 0, -0.39), (0.95, 0.64, 0.04), 0.03), keys, 0.5),
        Part(
            lambda p: solids.box(solids.turned(p, opened, "x", hinge), (0, 0.61, 0.2), (0.95, 0.025, 0.58), 0.02),
            screen,
            0.6,
        ),
    ]


def ball(random):
    kind, first, second = random.integers(3), tone(random), tone(random)
    golden = (1 + 5**0.5) / 2
    poles = np.array([(0, a, b * golden) for a in (-1, 1) for b in (-1, 1)])
    poles = np.concatenate([np.roll(poles, turn, axis=1) for turn in range(3)]) / np.hypot(1, golden)

    def football(p):
        near = (p @ poles.T.astype(np.float32)).max(1)
        return np.where((near > 0.93)[:, None], DARK, np.where((np.abs(near - 0.8) < 0.006)[:, None], 0.3, WHITE))

    def basketball(p):
        seam = np.minimum(np.abs(p[:, 0]), np.abs(p[:, 2]))
        seam = np.minimum(seam, np.abs(np.hypot(p[:, 0] - 1.05, p[:, 2]) - 0.75))
        seam = np.minimum(seam, np.abs(np.hypot(p[:, 0] + 1.05, p[:, 2]) - 0.75))
        return np.where((seam < 0.018)[:, None], DARK, [0.58, 0.2, 0.05])

    def beach(p):
        wedge = np.floor((np.arctan2(p[:, 1], p[:, 0]) / np.pi + 1) * 3) % 3
        return np.where((wedge == 0)[:, None], first, np.where((wedge == 1)[:, None], WHITE, second))

    paint = (football, basketball, beach)[kind]
    tilt = random.uniform(-1, 1, 2)

    def turned(p):
        return solids.turned(solids.turned(p, tilt[0], "x"), tilt[1], "y")

    return [
        Part(
            lambda p: solids.ellipsoid(p, (0, 0, 0), (1, 1, 1)),
            lambda p: paint(turned(p)),
            gloss=(0.4, 0.12, 0.7)[kind],
            grain=0.06 if kind == 1 else 0,
        )
    ]


def carton(random):
    size = random.uniform(0.45, 0.95, 3)
    brown = np.array([0.36, 0.23, 0.12]) * random.uniform(0.8, 1.2)
    tape = np.array([0.50, 0.36, 0.17])
    printed = tone(random) * 0.4
    turn = random.choice([-1, 1]) * random.uniform(0.5, 1.0)

    def paint(p):
        colour, p = mottle(p), solids.turned(p, turn)
        colour = np.where((np.abs(p[:, 0]) < 0.07)[:, None] & (p[:, 2] > size[2] * 0.55)[:, None], tape, colour)
        mark = (np.abs(p[:, 0] - size[0] * 0.4) < 0.2) & (np.abs(p[:, 2] + size[2] * 0.45) < 0.16) & (p[:, 1] < 0)
        lines = mark & (np.mod(p[:, 2] * 16, 1) < 0.6)
        return np.where(lines[:, None], printed, colour)

    mottle = mottled(random, brown, 0.1, 2)
    return [Part(lambda p: solids.box(solids.turned(p, turn), (0, 0, 0), size, 0.02), paint, 0.06)]


def books(random):
    parts, level = [], -0.6
    for _ in range(random.integers(3, 7)):
        thick, half = random.uniform(0.06, 0.15), (random.uniform(0.6, 0.9), random.uniform(0.42, 0.6))
        turn, cover, accent = random.normal(0, 0.12), tone(random), tone(random)
        at = (random.normal(0, 0.04), random.normal(0, 0.04), level + thick)
        parts.append(_book(at, (*half, thick), turn, cover, accent))
        level += 2 * thick
    return parts


def _book(at, half, turn, cover, accent):
    def local(p):
        return solids.turned(p, turn, "z", at) - np.asarray(at, np.float32)

    def paint(p):
        q = local(p)
        pages = (np.abs(q[:, 2]) < half[2] - 0.022) & ((q[:, 0] > -half[0] + 0.04) & (q[:, 1] > -half[1] + 0.02))
        spine = (q[:, 1] < -half[1] + 0.03) & (np.abs(q[:, 2]) < half[2] * 0.45)
        title = spine & (np.abs(q[:, 0] + 0.1) < half[0] * 0.5) & (np.sin(q[:, 0] * 45) > -0.5)
        colour = np.where(pages[:, None], WHITE * (0.9 + 0.1 * np.sin(q[:, 2:] * 260)), cover)
        return np.where(title[:, None], accent, colour)

    return Part(lambda p: solids.box(local(p), (0, 0, 0), half, 0.015), paint, 0.3)


def lamp(random):
    shade, is_tall = tone(random), random.random() < 0.5
    low = -1.2 if is_tall else -0.8
    wide, narrow = random.uniform(0.42, 0.6), random.uniform(0.2, 0.4)
    top = [(wide, 0.35), (narrow, 1.05), (narrow - 0.02, 1.05), (wide - 0.02, 0.35)]
    base, metal = tone(random), random.random() < 0.5

    def foot(p):
        pole = solids.capsule(p, (0, 0, low), (0, 0, 0.7), 0.03)
        if is_tall:
            return np.minimum(pole, solids.cylinder(p, (0, 0, low), 0.33, 0.035, rounded=0.02))
        return solids.blended([pole, solids.ellipsoid(p, (0, 0, low + 0.35), (0.3, 0.3, 0.4))], 0.1)

    return [
        Part(lambda p: solids.lathe(p, top, 0.01), lambda p: np.clip(shade * (1.3 + 0.6 * p[:, 2:]), 0, 1.4), 0.02),
        Part(foot, plain(BRASS if metal else base), 0.7, metal=metal),
        Part(lambda p: solids.ellipsoid(p, (0, 0, 0.62), (0.1, 0.1, 0.14)), plain([1.5, 1.4, 1.1]), 0.3),
    ]


def suitcase(random):
    colour, ribs = tone(random), random.random() < 0.6

    def body(p):
        solid = solids.box(p, (0, 0, -0.1), (0.62, 0.3, 0.82), 0.12)
        return solid + (0.012 * np.sin(p[:, 0] * 32) if ribs else 0)

    def fittings(p):
        mirrored = np.column_stack([np.abs(p[:, 0]), p[:, 1:]])
        rods = solids.capsule(mirrored, (0.26, 0.2, 0.7), (0.26, 0.2, 1.12), 0.025)
        grip = solids.capsule(mirrored, (0, 0.2, 1.14), (0.28, 0.2, 1.14), 0.045)
        wheels = solids.cylinder(
            np.column_stack([np.abs(p[:, :2]), p[:, 2]]), (0.48, 0.2, -0.98), 0.09, 0.04, "x", 0.02
        )
        carry = solids.torus(p, (0, -0.02, 0.74), 0.12, 0.025, "y")
        seam = solids.box(p, (0, 0, -0.1), (0.632, 0.018, 0.832), 0.018)
        return np.minimum.reduce([rods, grip, wheels, carry, seam])

    return [Part(body, mottled(random, colour, 0.06), random.uniform(0.2, 0.7)), Part(fittings, plain(DARK * 1.6), 0.4)]


def backpack(random):
    colour, second = tone(random), tone(random)
    cloth, pocket = mottled(random, colour, 0.12, 4), mottled(random, second, 0.12, 4)

    def body(p):
        return solids.blended(
            [
                solids.box(p, (0, 0, -0.1), (0.58, 0.32, 0.75), 0.25),
                solids.ellipsoid(p, (0, 0, 0.55), (0.52, 0.32, 0.35)),
            ],
            0.15,
        )

    def straps(p):
        mirrored = np.column_stack([np.abs(p[:, 0]), p[:, 1:]])
        loop = solids.torus(mirrored[:, [1, 0, 2]], (0.3, 0.32, 0.05), 0.55, 0.05, "y")
        grip = solids.torus(p, (0, 0.1, 0.9), 0.13, 0.03, "y")
        zip_ = solids.torus(p * np.array([1, 1, 0.6], np.float32), (0, -0.3, -0.2), 0.4, 0.016, "y")
        return np.minimum.reduce([loop, grip, zip_ * 0.7])

    return [
        Part(body, cloth, 0.08),
        Part(lambda p: solids.box(p, (0, -0.33, -0.42), (0.42, 0.13, 0.32), 0.11), pocket, 0.08),
        Part(straps, plain(DARK * 1.5), 0.1),
    ]


def car(random):
    paint, is_van = tone(random), random.random() < 0.35
    roof = 0.52 if is_van else 0.42
    body = [(-1.15, -0.3), (1.15, -0.3), (1.18, -0.05), (1.1, 0.08), (0.72, 0.13), (-1.05, 0.13), (-1.17, 0.02)]
    cabin = (
        [(-1.05, 0.1), (0.75, 0.1), (0.5, roof), (-1.0, roof)]
        if is_van
        else [(-0.85, 0.1), (0.7, 0.1), (0.3, roof), (-0.5, roof)]
    )
    glass = [(x * 0.93 - 0.02, z * 0.9 + 0.03) for x, z in cabin]

    def hull(p):
        shape = solids.blended(
            [
                solids.extruded(p, body, 0.5, "y", 0.06),
                solids.extruded(p, cabin, 0.43, "y", 0.06),
            ],
            0.05,
        )
        mirrored = np.column_stack([np.abs(p[:, 0] - 0.02), p[:, 1:]])
        return solids.without(shape, solids.cylinder(mirrored, (0.7, 0, -0.3), 0.27, 0.7, "y"))

    def coat(p):
        inner = solids.polygon(p[:, [0, 2]], glass)
        side = (inner < -0.035) & (np.abs(p[:, 0] + 0.1) > 0.03)
        front = (p[:, 2] > 0.17) & (p[:, 2] < roof - 0.04) & (np.abs(p[:, 1]) < 0.38) & (inner > -0.06)
        colour = np.where((side | front)[:, None] & (p[:, 2] > 0.12)[:, None], DARK, paint)
        lamps = (p[:, 0] > 1.08) & (np.abs(np.abs(p[:, 1]) - 0.36) < 0.09) & (np.abs(p[:, 2] + 0.02) < 0.06)
        tail = (p[:, 0] < -1.05) & (np.abs(np.abs(p[:, 1]) - 0.38) < 0.08) & (np.abs(p[:, 2]) < 0.07)
        door = (np.abs(p[:, 0] + 0.1) < 0.008) & (p[:, 2] < 0.12) & (p[:, 2] > -0.25)
        colour = np.where(lamps[:, None], [1.2, 1.2, 1.1], np.where(tail[:, None], [0.6, 0.02, 0.02], colour))
        trim = (p[:, 2] < -0.22) | door
        return np.where(trim[:, None], DARK * 1.3, colour)

    return [Part(hull, coat, 0.75), *_wheels(random, (0.02 - 0.7, 0.02 + 0.7), 0.43, -0.3, 0.22)]


def _wheels(random, places, side, level, radius):
    """Tyres and hubs on both sides."""
    hub = STEEL * random.uniform(0.5, 1)

    def tyres(p):
        mirrored = np.column_stack([p[:, 0], np.abs(p[:, 1]), p[:, 2]])
        return np.minimum.reduce([solids.cylinder(mirrored, (x, side, level), radius, 0.08, "y", 0.04) for x in places])

    def paint(p):
        local = np.min([np.hypot(p[:, 0] - x, p[:, 2] - level) for x in places], axis=0)
        return np.where((local < radius * 0.62)[:, None], hub, RUBBER)

    return [Part(tyres, paint, 0.3)]


def bus(random):
    paint, second = tone(random), tone(random)

    def coat(p):
        stripe = np.abs(p[:, 2] + 0.12) < 0.05
        panes = (p[:, 2] > 0.06) & (p[:, 2] < 0.38)
        posts = np.mod(p[:, 0] + 0.02, 0.3) < 0.035
        side = panes & ~posts & (np.abs(p[:, 0]) < 1.1)
        ends = (p[:, 2] > 0.02) & (p[:, 2] < 0.4) & (np.abs(p[:, 0]) > 1.13) & (np.abs(p[:, 1]) < 0.3)
        lamps = (p[:, 0] > 1.1) & (np.abs(np.abs(p[:, 1]) - 0.27) < 0.06) & (np.abs(p[:, 2] + 0.3) < 0.05)
        colour = np.where(stripe[:, None], second, paint)
        return np.where(lamps[:, None], 1.2, np.where((side | ends)[:, None], DARK, colour))

    def hull(p):
        solid = solids.box(p, (0, 0, 0.02), (1.18, 0.36, 0.5), 0.07)
        mirrored = np.column_stack([np.abs(p[:, 0]), p[:, 1:]])
        return solids.without(solid, solids.cylinder(mirrored, (0.72, 0, -0.46), 0.2, 0.6, "y"))

    return [Part(hull, coat, 0.7), *_wheels(random, (-0.72, 0.72), 0.3, -0.46, 0.17)]


def bicycle(random):
    colour = tone(random)
    rear, front, crank, seat, head = (
        (-0.75, 0, -0.35),
        (0.75, 0, -0.35),
        (-0.1, 0, -0.38),
        (-0.3, 0, 0.35),
        (0.52, 0, 0.38),
    )

    def frame(p):
        rods = [(rear, crank), (rear, seat), (crank, seat), (crank, head), (seat, head), (head, front)]
        found = [solids.capsule(p, a, b, 0.032) for a, b in rods]
        found.append(solids.capsule(p, head, (0.48, 0, 0.55), 0.032))
        return np.minimum.reduce(found)

    def dark(p):
        found = [solids.torus(p, (x, 0, -0.35), 0.5, 0.042, "y") for x in (-0.75, 0.75)]
        found.append(solids.ellipsoid(p, (-0.36, 0, 0.5), (0.2, 0.1, 0.055)))
        found += [solids.capsule(p, (0.42, s * 0.3, 0.58), (0.5, s * 0.12, 0.58), 0.035) for s in (-1, 1)]
        found += [
            solids.box(p, (-0.1 + s * 0.15, s * 0.13, -0.38 - s * 0.08), (0.09, 0.06, 0.02), 0.015) for s in (-1, 1)
        ]
        return np.minimum.reduce(found)

    def bright(p):
        found = [solids.torus(p, (-0.1, 0, -0.38), 0.1, 0.02, "y")]
        for x in (-0.75, 0.75):
            found.append(solids.torus(p, (x, 0, -0.35), 0.46, 0.016, "y"))
            for turn in np.arange(8) * np.pi / 8:
                reach = np.array([0.46 * np.cos(turn), 0, 0.46 * np.sin(turn)])
                found.append(solids.capsule(p, np.array([x, 0, -0.35]) - reach, np.array([x, 0, -0.35]) + reach, 0.008))
        found.append(solids.capsule(p, (-0.3, 0, 0.35), (-0.34, 0, 0.48), 0.025))
        found.append(solids.capsule(p, (0.5, -0.14, 0.58), (0.5, 0.14, 0.58), 0.022))
        return np.minimum.reduce(found)

    return [Part(frame, plain(colour), 0.7), Part(dark, plain(DARK), 0.2), Part(bright, plain(STEEL), 0.7, metal=True)]


def teddy(random):
    fur, light = tone(random, FURS), WHITE * 0.8
    noise = noise_texture(random)

    def fuzz(p):
        return 0.018 * (
            sample(noise, p[:, 0] * 4 + p[:, 1] * 2, p[:, 2] * 4) + sample(noise, p[:, 1] * 5, p[:, 2] * 5 + p[:, 0])
        )

    def body(p):
        m = np.column_stack([np.abs(p[:, 0]), p[:, 1:]])
        return 0.8 * (
            solids.blended(
                [
                    solids.ellipsoid(p, (0, 0, -0.25), (0.48, 0.42, 0.55)),
                    solids.ellipsoid(p, (0, -0.02, 0.62), (0.42, 0.38, 0.38)),
                    solids.ellipsoid(m, (0.33, 0, 0.95), (0.15, 0.09, 0.15)),
                    solids.capsule(m, (0.42, -0.05, 0.1), (0.62, -0.3, -0.25), 0.15, 0.17),
                    solids.capsule(m, (0.28, -0.15, -0.68), (0.42, -0.65, -0.75), 0.19, 0.2),
                ],
                0.06,
            )
            + fuzz(p)
        )

    def face(p):
        m = np.column_stack([np.abs(p[:, 0]), p[:, 1:]])
        eyes = solids.ellipsoid(m, (0.15, -0.35, 0.72), (0.05, 0.04, 0.05))
        return np.minimum(eyes, solids.ellipsoid(p, (0, -0.51, 0.59), (0.075, 0.05, 0.05)))

    def pale(p):
        m = np.column_stack([np.abs(p[:, 0]), p[:, 1:]])
        snout = solids.ellipsoid(p, (0, -0.36, 0.54), (0.17, 0.15, 0.13))
        soles = solids.ellipsoid(m, (0.44, -0.8, -0.755), (0.14, 0.06, 0.15))
        return np.minimum(
            np.minimum(snout, soles) + 0.5 * fuzz(p), solids.ellipsoid(m, (0.33, -0.06, 0.95), (0.09, 0.06, 0.09))
        )

    return [
        Part(body, mottled(random, fur, 0.2, 5), 0.0, grain=0.25),
        Part(pale, mottled(random, light, 0.1, 5), 0.0, grain=0.2),
        Part(face, plain(DARK), 0.9),
    ]


def animal(random):
    """A dog, a sheep or a cow, standing."""
    kind = int(random.integers(3))
    fur = tone(random, FURS)
    trunk, leg, neck = ((0.3, 0.55, 0.3), (0.4, 0.62, 0.4), (0.38, 0.6, 0.45))[kind]
    spots = noise_texture(random)
    other = WHITE * 0.85 if kind != 1 else fur * 0.9
    step = random.uniform(-0.12, 0.12, 4)

    def coat(p):
        patch = sample(spots, p[:, 0] * 0.5, p[:, 2] * 0.6 + p[:, 1] * 0.3) > 0.1
        face = p[:, 0] > 0.62
        colour = np.where(patch[:, None] & (kind != 1), other, fur)
        return (
            np.where((face & (kind == 1))[:, None], DARK * 2, colour)
            * (1 + 0.2 * sample(spots, p[:, 0] * 5, p[:, 2] * 5))[:, None]
        )

    def body(p):
        rump = trunk * 0.95
        found = [
            solids.capsule(p, (-0.5, 0, 0.1), (0.45, 0, 0.12), rump, trunk),
            solids.capsule(p, (0.5, 0, 0.2), (0.72, 0, 0.2 + neck), trunk * 0.62, trunk * 0.42),
            solids.capsule(p, (0.7, 0, 0.25 + neck), (1.02, 0, 0.12 + neck), trunk * 0.5, trunk * 0.28),
            solids.capsule(p, (-0.72, 0, 0.25), (-0.98, 0, (0.5, 0.0, -0.3)[kind]), 0.06, 0.03),
        ]
        for (x, y), swing in zip(((-0.55, -1), (-0.55, 1), (0.45, -1), (0.45, 1)), step, strict=True):
            hip = (x, y * trunk * 0.55, 0)
            knee = (x + swing * 0.5, y * trunk * 0.6, -leg * 0.75)
            found.append(solids.capsule(p, hip, knee, 0.15, 0.08))
            found.append(solids.capsule(p, knee, (x + swing, y * trunk * 0.6, -leg * 1.55), 0.075, 0.06))
        m = np.column_stack([p[:, 0], np.abs(p[:, 1]), p[:, 2]])
        ear = (0.72, trunk * 0.5, 0.34 + neck)
        found.append(solids.ellipsoid(m, ear, (0.06, 0.12, 0.12) if kind == 0 else (0.05, 0.16, 0.06)))
        return 0.85 * (
            solids.blended(found, 0.09) + (0.03 * sample(spots, p[:, 0] * 4, p[:, 2] * 4 + p[:, 1]) if kind == 1 else 0)
        )

    def eyes(p):
        m = np.column_stack([p[:, 0], np.abs(p[:, 1]), p[:, 2]])
        eye = solids.ellipsoid(m, (0.86, trunk * 0.38, 0.27 + neck), (0.035, 0.035, 0.035))
        return np.minimum(eye, solids.ellipsoid(p, (1.02 + trunk * 0.26, 0, 0.14 + neck), (0.05, 0.06, 0.05)))

    return [Part(body, coat, 0.03, grain=(0.12, 0.4, 0.08)[kind]), Part(eyes, plain(DARK), 0.9)]


def bird(random):
    feather, belly = tone(random), WHITE * random.uniform(0.6, 1)

    def coat(p):
        wing = (
            solids.ellipsoid(np.column_stack([p[:, 0], np.abs(p[:, 1]), p[:, 2]]), (-0.1, 0.42, 0.02), (0.6, 0.2, 0.3))
            < 0.02
        )
        bars = np.mod(p[:, 0] * 5 + p[:, 2] * 3, 1) < 0.35
        colour = np.where((p[:, 2] < -0.1 + 0.25 * p[:, 0])[:, None], belly, feather)
        colour = np.where((wing & bars)[:, None], feather * 0.45, np.where(wing[:, None], feather * 0.8, colour))
        return colour

    def body(p):
        m = np.column_stack([p[:, 0], np.abs(p[:, 1]), p[:, 2]])
        tail = solids.turned(p, -0.35, "y", (-0.6, 0, 0))
        return solids.blended(
            [
                solids.ellipsoid(solids.turned(p, 0.3, "y"), (0, 0, 0), (0.68, 0.42, 0.45)),
                solids.ellipsoid(p, (0.58, 0, 0.42), (0.3, 0.27, 0.28)),
                solids.ellipsoid(solids.turned(m, 0.2, "y"), (-0.15, 0.38, 0.05), (0.6, 0.08, 0.28)),
                solids.box(tail, (-0.9, 0, 0.0), (0.4, 0.13, 0.03), 0.03),
            ],
            0.06,
        )

    def dark(p):
        m = np.column_stack([p[:, 0], np.abs(p[:, 1]), p[:, 2]])
        return solids.ellipsoid(m, (0.7, 0.225, 0.5), (0.045, 0.045, 0.045))

    def horn(p):
        m = np.column_stack([p[:, 0], np.abs(p[:, 1]), p[:, 2]])
        legs = solids.capsule(m, (0, 0.16, -0.35), (0.06, 0.18, -0.85), 0.032)
        toes = solids.capsule(m, (-0.08, 0.18, -0.87), (0.25, 0.2, -0.87), 0.028)
        return np.minimum.reduce([legs, toes, solids.capsule(p, (0.82, 0, 0.4), (1.1, 0, 0.33), 0.075, 0.012)])

    return [
        Part(body, coat, 0.1, grain=0.08),
        Part(dark, plain(DARK), 0.9),
        Part(horn, plain([0.65, 0.35, 0.06]), 0.3),
    ]


def umbrella(random):
    first, second = tone(random), tone(random)

    def paint(p):
        wedge = np.mod(np.floor((np.arctan2(p[:, 1], p[:, 0]) / np.pi + 1) * 4), 2)
        return np.where((wedge == 0)[:, None], first, second)

    def cloth(p):
        turn = np.arctan2(p[:, 1], p[:, 0])
        sag = 0.05 * np.abs(np.sin(turn * 4)) * np.hypot(p[:, 0], p[:, 1]) ** 2
        raised = np.column_stack([p[:, :2], p[:, 2] - sag]).astype(np.float32)
        dome = solids.shell(solids.ellipsoid(raised, (0, 0, 0.1), (1.15, 1.15, 0.75)), 0.03)
        return 0.6 * np.maximum(dome, 0.14 - raised[:, 2])

    def stick(p):
        rod = solids.capsule(p, (0, 0, 0.98), (0, 0, -0.95), 0.028)
        hook = solids.torus(p, (0.13, 0, -0.95), 0.13, 0.04, "y")
        return np.minimum(rod, np.maximum(hook, p[:, 2] + 0.95))

    return [Part(cloth, paint, 0.2), Part(stick, plain(tone(random, WOODS)), 0.5)]


def guitar(random):
    colour, is_electric = tone(random, WOODS) * 1.3, random.random() < 0.4
    colour = tone(random) if is_electric else colour
    half = 0.06 if is_electric else 0.13

    def body(p):
        flat = np.column_stack([np.abs(p[:, 0]), p[:, 2]])
        lower = np.hypot(flat[:, 0], flat[:, 1] + 0.62) - 0.46
        upper = np.hypot(flat[:, 0], flat[:, 1] + 0.08) - 0.34
        outline = solids.blended([lower, upper], 0.12)
        beyond = np.column_stack([outline, np.abs(p[:, 1]) - half]) + 0.03
        return np.minimum(beyond.max(1), 0) + np.linalg.norm(np.maximum(beyond, 0), axis=1) - 0.03

    def coat(p):
        hole = np.hypot(p[:, 0], p[:, 2] + 0.22)
        front = p[:, 1] < -half + 0.02
        grained = wooden(p)
        rim = np.where(front[:, None], grained, grained * 0.45)
        if is_electric:
            pickups = (
                front & (np.abs(p[:, 0]) < 0.14) & (np.abs(np.mod(p[:, 2] + 0.6, 0.3) - 0.15) < 0.05) & (p[:, 2] < 0)
            )
            return np.where(pickups[:, None], DARK, rim)
        rim = np.where((front & (hole < 0.17))[:, None], colour * 0.3, rim)
        return np.where((front & (hole < 0.135))[:, None], DARK, rim)

    def neck(p):
        board = solids.box(p, (0, -half - 0.02, 0.48), (0.065, 0.03, 0.62), 0.01)
        head = solids.box(p, (0, -half, 1.17), (0.1, 0.025, 0.13), 0.02)
        bridge = solids.box(p, (0, -half - 0.01, -0.68), (0.17, 0.03, 0.035), 0.01)
        return np.minimum.reduce([board, head, bridge])

    def frets(p):
        return np.where((np.mod(p[:, 2] * 9, 1) < 0.12)[:, None], STEEL, tone_of_neck)

    def strings(p):
        return np.minimum.reduce(
            [
                solids.capsule(p, (x, -half - 0.065, -0.66), (x, -half - 0.055, 1.08), 0.005)
                for x in np.linspace(-0.045, 0.045, 4)
            ]
        )

    wooden = wood(random, colour, 2)
    tone_of_neck = tone(random, WOODS) * 0.5
    return [Part(body, coat, 0.75), Part(neck, frets, 0.4), Part(strings, plain(STEEL), 0.6, metal=True)]


def vase(random):
    heights = np.linspace(-1, 1, 12)
    phase, ratio = random.uniform(0, 6), random.uniform(1.5, 3)
    radii = 0.42 + 0.16 * np.sin(ratio * heights + phase) + 0.06 * np.sin(2.3 * ratio * heights)
    outer = list(zip(radii, heights, strict=True))
    inner = [(r - 0.05, h) for r, h in outer[::-1] if h > -0.9]
    outline = [(0, -1.0), *outer, *inner, (0, -0.85)]
    colour, second = tone(random), tone(random)
    style = random.integers(3)
    paint = [
        mottled(random, colour, 0.4, 2),
        striped(colour, second, lambda p: p[:, 2] + 0.08 * np.sin(6 * np.arctan2(p[:, 1], p[:, 0])), 0.4),
        banded(colour, second, height, -0.25, 0.3),
    ][style]
    return [Part(lambda p: solids.lathe(p, outline, 0.015), paint, random.uniform(0.3, 0.9))]


def cone(random):
    outline = [(0.0, -0.9), (0.6, -0.9), (0.12, 1.05), (0.08, 1.05), (0.08, 1.0), (0, 1.0)]
    orange = np.array([0.85, 0.17, 0.02])
    paint = where(
        lambda p: (np.abs(p[:, 2] - 0.35) < 0.17) | (np.abs(p[:, 2] + 0.3) < 0.14),
        plain(WHITE),
        mottled(random, orange, 0.12, 3),
    )
    return [
        Part(lambda p: solids.lathe(p, outline, 0.02), paint, 0.35),
        Part(lambda p: solids.box(p, (0, 0, -0.95), (0.8, 0.8, 0.06), 0.04), mottled(random, orange * 0.6, 0.1), 0.2),
    ]


def bucket(random):
    colour, metal = tone(random), random.random() < 0.4
    outline = [
        (0, -0.75), (0.5, -0.75), (0.7, 0.6), (0.75, 0.6), (0.75, 0.68), (0.66, 0.68), (0.46, -0.68), (0, -0.68),
    ]  # fmt: skip

    def handle(p):
        tilted = solids.turned(p, 0.5, "x", (0, 0, 0.6))
        loop = solids.torus(tilted, (0, 0, 0.6), 0.72, 0.025, "y")
        return np.maximum(loop, 0.58 - tilted[:, 2])

    return [
        Part(
            lambda p: solids.lathe(p, outline, 0.012), plain(STEEL * 0.8) if metal else plain(colour), 0.5, metal=metal
        ),
        Part(handle, plain(STEEL), 0.6, metal=True),
    ]


def teapot(random):
    colour, second = tone(random), tone(random)
    metal = random.random() < 0.3

    def body(p):
        return solids.blended(
            [
                solids.ellipsoid(p, (0, 0, -0.1), (0.68, 0.68, 0.58)),
                solids.capsule(p, (0.55, 0, -0.2), (0.98, 0, 0.15), 0.15, 0.08),
                solids.capsule(p, (0.98, 0, 0.15), (1.12, 0, 0.35), 0.085, 0.07),
                solids.torus(p, (-0.72, 0, 0.0), 0.33, 0.065, "y"),
            ],
            0.08,
        )

    def lid(p):
        knob = solids.ellipsoid(p, (0, 0, 0.66), (0.11, 0.11, 0.1))
        return np.minimum(solids.ellipsoid(p, (0, 0, 0.38), (0.42, 0.42, 0.17)), knob)

    paint = plain(STEEL) if metal else banded(colour, second, height, -0.3, 0.05)
    return [
        Part(body, paint, 0.85, metal=metal),
        Part(lid, plain(STEEL) if metal else plain(colour), 0.85, metal=metal),
        Part(lambda p: solids.cylinder(p, (0, 0, -0.64), 0.4, 0.06, rounded=0.03), plain(colour * 0.6), 0.5),
    ]


def aeroplane(random):
    colour, stripe = WHITE * random.uniform(0.8, 1), tone(random)

    def hull(p):
        m = np.column_stack([p[:, 0], np.abs(p[:, 1]), p[:, 2]])
        wing = [(0.25, 0), (0.05, 0), (-0.35, 1.15), (-0.2, 1.15)]
        rear = [(-0.85, 0), (-1.05, 0), (-1.2, 0.42), (-1.1, 0.42)]
        fin = [(-0.8, 0.05), (-1.08, 0.05), (-1.22, 0.5), (-1.08, 0.5)]
        return solids.blended(
            [
                solids.capsule(p, (-0.5, 0, 0), (0.95, 0, 0), 0.15, 0.14),
                solids.capsule(p, (-0.5, 0, 0), (-1.15, 0, 0.07), 0.15, 0.05),
                solids.extruded(m - np.array([0, 0, -0.06], np.float32), wing, 0.022, "z", 0.02),
                solids.extruded(m - np.array([0, 0, 0.06], np.float32), rear, 0.018, "z", 0.015),
                solids.extruded(p, fin, 0.018, "y", 0.015),
            ],
            0.03,
        )

    def coat(p):
        panes = (np.abs(p[:, 2] - 0.04) < 0.025) & (np.mod(p[:, 0], 0.09) < 0.045) & (np.abs(p[:, 0]) < 0.8)
        panes &= np.abs(p[:, 1]) < 0.17
        cockpit = (p[:, 0] > 0.92) & (p[:, 2] > 0.03) & (p[:, 2] < 0.09)
        line = (np.abs(p[:, 2] + 0.05) < 0.03) & (np.abs(p[:, 1]) < 0.17) | (p[:, 2] > 0.2)
        found = np.where(line[:, None], stripe, colour)
        return np.where((panes | cockpit)[:, None], DARK, found)

    def engines(p):
        m = np.column_stack([p[:, 0], np.abs(p[:, 1]), p[:, 2]])
        return solids.capsule(m, (0.15, 0.42, -0.16), (-0.1, 0.42, -0.16), 0.075)

    return [Part(hull, coat, 0.6), Part(engines, plain(STEEL * 0.6), 0.6)]


def clock(random):
    rim, face = tone(random), WHITE
    hour, minute = random.uniform(0, 2 * np.pi, 2)

    def paint(p):
        turn, away = np.arctan2(p[:, 0], p[:, 2]), np.hypot(p[:, 0], p[:, 2])
        ticks = (np.abs(np.mod(turn * 6 / np.pi + 0.5, 1) - 0.5) < 0.12) & (away > 0.66) & (away < 0.8)
        hands = np.zeros(len(p), bool)
        for angle, reach in ((hour, 0.42), (minute, 0.65)):
            along, across = (
                p[:, 0] * np.sin(angle) + p[:, 2] * np.cos(angle),
                p[:, 0] * np.cos(angle) - p[:, 2] * np.sin(angle),
            )
            hands |= (np.abs(across) < 0.03) & (along > -0.1) & (along < reach)
        return np.where((ticks | hands)[:, None], DARK, face)

    return [
        Part(lambda p: solids.cylinder(p, (0, 0.05, 0), 0.9, 0.06, "y"), paint, 0.3),
        Part(lambda p: solids.torus(p, (0, 0, 0), 0.95, 0.09, "y"), plain(rim), 0.8),
    ]


KINDS: dict[str, Callable] = {
    kind.__name__: kind
    for kind in (
        bottle, mug, chair, office_chair, table, sofa, plant, shrub, television, laptop, ball, carton, books, lamp,
        suitcase, backpack, car, bus, bicycle, teddy, animal, bird, umbrella, guitar, vase, cone, bucket, teapot,
        aeroplane, clock,
    )
}  # fmt: skip
LONG = {"car", "bus", "bicycle", "animal", "bird", "aeroplane"}
"""Objects that are seen from the side as a rule; they lie along x."""


def make_object(index: int, seed: int) -> tuple[str, np.ndarray]:
    """Object ``index`` of a set: its kind, and its picture ``(H, W, 4)`` RGBA uint8. It depends on (seed, index) alone."""
    random = np.random.default_rng([seed, index])
    name = list(KINDS)[index % len(KINDS)]
    parts = KINDS[name](random)
    side = int(random.integers(SHORTEST, LONGEST + 1))
    yaw = random.choice([0, np.pi]) + random.normal(0, 0.45) if name in LONG else random.normal(0, 0.55)
    pitch = random.uniform(0.05, 0.5)
    return name, still.picture(parts, side, float(yaw), float(pitch), still.random_light(random), random)
