"""How a person looks: body shape, skin, hair and clothes, as fields over the canonical body.

Clothes are no meshes of their own: they are regions of the skin's surface, cut by heights and by the position along
the arm, pushed outward by their thickness and coloured per pixel, so that seams are sharp at any resolution.
"""

from dataclasses import dataclass

import numpy as np

from partnas.data.synth.body import Surface, vertex_normals

SKIN, HAIR, SHIRT, TROUSERS, SHOES, SOCKS, EYES = range(7)
SKIN_TONES = np.array(
    [
        [0.74, 0.50, 0.39],
        [0.68, 0.45, 0.34],
        [0.58, 0.37, 0.26],
        [0.50, 0.31, 0.21],
        [0.36, 0.21, 0.14],
        [0.22, 0.13, 0.09],
    ]
)
HAIR_TONES = np.array(
    [
        [0.02, 0.017, 0.015],
        [0.06, 0.035, 0.02],
        [0.14, 0.075, 0.035],
        [0.36, 0.23, 0.10],
        [0.25, 0.08, 0.03],
        [0.38, 0.37, 0.36],
    ]
)
CLOTH_TONES = np.array(
    [
        [0.02, 0.02, 0.022], [0.03, 0.035, 0.05], [0.10, 0.10, 0.105], [0.25, 0.25, 0.25], [0.45, 0.45, 0.44],
        [0.72, 0.72, 0.70], [0.70, 0.66, 0.56], [0.015, 0.03, 0.09], [0.03, 0.07, 0.20], [0.07, 0.13, 0.26],
        [0.16, 0.26, 0.42], [0.34, 0.03, 0.03], [0.16, 0.02, 0.035], [0.05, 0.12, 0.05], [0.10, 0.11, 0.045],
        [0.38, 0.27, 0.15], [0.17, 0.10, 0.05], [0.55, 0.36, 0.05], [0.45, 0.15, 0.04], [0.46, 0.22, 0.26],
        [0.12, 0.05, 0.16], [0.04, 0.20, 0.22], [0.30, 0.42, 0.30],
    ]
)  # fmt: skip
HAIR_STYLES = ("short", "short", "buzz", "full", "bob", "tail", "bald")
PATTERNS = ("plain", "plain", "plain", "plain", "stripes", "pinstripes", "plaid", "band", "logo", "sleeves")


@dataclass(frozen=True)
class Look:
    """A person's shape (anny's phenotype values), colours (linear RGB) and cuts (canonical metres; ``sleeve`` along
    the arm)."""

    shape: dict
    skin: np.ndarray
    hair: np.ndarray
    hair_style: str
    beard: float
    shirt: np.ndarray
    accent: np.ndarray
    pattern: str
    sleeve: float
    hem: float
    neckline: float
    looseness: float
    trousers: np.ndarray
    cuff: float
    shoes: np.ndarray
    sole: np.ndarray
    shoe_top: float
    socks: np.ndarray
    phases: np.ndarray


def cloth_colour(generator) -> np.ndarray:
    """A linear RGB albedo [3] near a colour that clothes and painted things have."""
    tone = CLOTH_TONES[generator.integers(len(CLOTH_TONES))] * generator.uniform(0.75, 1.3)
    return np.clip(tone + generator.normal(0, 0.1, 3) * tone, 0.012, 0.8)


def subject_shape(subject: int) -> dict:
    """The centre of a subject's body shapes; the same for every seed."""
    generator = np.random.default_rng([subject, 7])
    male = subject in (1, 6, 8, 11)
    return {
        "gender": generator.uniform(0.03, 0.15) if male else generator.uniform(0.85, 0.97),
        "age": generator.uniform(0.66, 0.86),
        "muscle": generator.uniform(0.4, 0.7) if male else generator.uniform(0.35, 0.6),
        "weight": generator.uniform(0.38, 0.6),
        "height": generator.uniform(0.35, 0.44),
        "proportions": generator.uniform(0.5, 0.8),
    }


def random_look(subject: int, generator: np.random.Generator) -> Look:
    """A look within the subject's range: the body varies a little, clothes and hair freely."""
    spread = {"gender": 0.05, "age": 0.06, "muscle": 0.10, "weight": 0.10, "height": 0.035, "proportions": 0.10}
    shape = {k: float(np.clip(v + generator.normal(0, spread[k]), 0.0, 1.0)) for k, v in subject_shape(subject).items()}
    shape["age"] = max(shape["age"], 0.62)
    male = shape["gender"] < 0.5
    weights = np.array([3, 3, 2, 2, 0.3, 0.2, 1.0] if male else [1, 0.5, 0.3, 2, 4, 3, 0.05])
    skin = SKIN_TONES[generator.integers(len(SKIN_TONES))] * generator.uniform(0.88, 1.12)
    dark = skin.mean() < 0.35
    hair = HAIR_TONES[generator.integers(2 if dark else len(HAIR_TONES))] * generator.uniform(0.8, 1.25)
    long_trousers = generator.random() < 0.68
    return Look(
        shape=shape,
        skin=np.clip(skin, 0.05, 0.85),
        hair=hair,
        hair_style=str(generator.choice(HAIR_STYLES, p=weights / weights.sum())),
        beard=float(generator.uniform(0.3, 0.8)) if male and generator.random() < 0.35 else 0.0,
        shirt=cloth_colour(generator),
        accent=cloth_colour(generator),
        pattern=str(generator.choice(PATTERNS)),
        sleeve=float(generator.choice([-0.5, 0.2, 0.28, 0.42, 0.7, 0.97, 0.97, 0.97])),
        hem=float(generator.uniform(0.83, 0.98)),
        neckline=float(generator.uniform(0, 1)),
        looseness=float(generator.uniform(0.4, 1.6)),
        trousers=cloth_colour(generator),
        cuff=float(generator.uniform(0.085, 0.13) if long_trousers else generator.uniform(0.42, 0.64)),
        shoes=cloth_colour(generator) if generator.random() < 0.4 else np.full(3, generator.choice([0.02, 0.1, 0.65])),
        sole=np.full(3, generator.choice([0.03, 0.15, 0.7])),
        shoe_top=0.0 if generator.random() < 0.06 else float(generator.choice([0.095, 0.11, 0.17])),
        socks=np.full(3, generator.choice([0.03, 0.6, 0.75])),
        phases=generator.uniform(0, 2 * np.pi, 8),
    )


def hair_depth(points, landmarks, style):
    """Metres above the hairline [N] (positive = hair) of canonical points [N, 3] on the head."""
    x = np.abs(points[:, 0])
    back = points[:, 1] - landmarks["eyes"][1]
    up = points[:, 2] - landmarks["eyes"][2]
    lower = {"full": 0.015, "bob": 0.03, "tail": 0.0}.get(style, 0.0)
    line = np.interp(back, [0.0, 0.05, 0.08, 0.12, 0.17], [0.066, 0.052, 0.012, -0.01 - lower, -0.085 - lower])
    depth = up - line
    ear = (x > 0.074) & (up < 0.03) & (back > 0.06) & (back < 0.14) & (style != "bob")
    return np.where(ear | (style == "bald"), -1.0, depth)


def materials(points, arm, part, look: Look, landmarks) -> np.ndarray:
    """Material [N] of canonical surface points [N, 3] with arm position [N] and part weights [N, 3]."""
    x, y, z = np.abs(points[:, 0]), points[:, 1], points[:, 2]
    on_arm = arm > -0.4
    head = part[:, 0] > 0.5
    result = np.full(len(points), SKIN)
    result[~on_arm & (z < 1.0) & (z > look.cuff)] = TROUSERS
    # The neckline dips in front; beyond the collar bones the shirt always covers.
    front = np.clip((landmarks["neck"][1] - y) / 0.06, 0, 1)
    collar = landmarks["neck"][2] + 0.005 - front * (0.035 + 0.07 * look.neckline * np.clip(1 - x / 0.07, 0, 1))
    covered = (z < np.where(x > 0.085, 9.0, collar)) & (z > look.hem)
    if look.sleeve < -0.4:
        covered &= (x < 0.135) | (z < 1.33)
    result[~on_arm & ~head & covered] = SHIRT
    result[on_arm & (arm < look.sleeve) & (look.sleeve > -0.4)] = SHIRT
    foot = ~on_arm & ((part[:, 1] > 0.5) | (z < 0.1))
    if look.shoe_top > 0:
        result[~on_arm & (z < look.shoe_top + 0.06) & (z >= look.shoe_top) & (z < look.cuff)] = SOCKS
        result[(foot & (z < 0.12)) | (~on_arm & (z < look.shoe_top) & (z < look.cuff + 0.02))] = SHOES
    result[head & (hair_depth(points, landmarks, look.hair_style) > 0)] = HAIR
    result[part[:, 2] > 0.5] = EYES
    return result


def thickness(surface: Surface, look: Look) -> np.ndarray:
    """Metres [V] by which cloth, hair and shoes stand off the skin, smoothed over the mesh."""
    points = surface.canonical
    kind = materials(points, surface.arm, surface.part, look, surface.landmarks)
    z = points[:, 2]
    result = np.zeros(len(points))
    shirt, trousers = kind == SHIRT, kind == TROUSERS
    result[shirt] = look.looseness * (0.007 + 0.010 * np.clip((1.25 - z[shirt]) / 0.35, 0, 1))
    sleeves = shirt & (surface.arm > -0.4)
    result[sleeves] = look.looseness * 0.009
    result[trousers] = look.looseness * (0.006 + 0.012 * np.clip((0.8 - z[trousers]) / 0.6, 0, 1))
    result[kind == SHOES] = 0.007
    result[kind == SOCKS] = 0.003
    depth = hair_depth(points, surface.landmarks, look.hair_style)
    volume = {"buzz": 0.004, "short": 0.014, "full": 0.028, "bob": 0.022, "tail": 0.012}.get(look.hair_style, 0.0)
    hair = kind == HAIR
    result[hair] = volume * np.clip(depth[hair] / 0.05, 0.15, 1)
    edges = np.concatenate([surface.faces[:, [0, 1]], surface.faces[:, [1, 2]], surface.faces[:, [2, 0]]])
    count = np.maximum(np.bincount(edges.ravel(), minlength=len(points)), 1)
    for _ in range(3):
        total = np.bincount(edges[:, 0], result[edges[:, 1]], len(points))
        total += np.bincount(edges[:, 1], result[edges[:, 0]], len(points))
        result = 0.5 * result + 0.5 * total / count
    # Fingers, ears, lips and eyeballs keep their shape.
    result[(kind == SKIN) & ((surface.part[:, 0] > 0.5) | (surface.arm > 1.0))] = 0
    result[kind == EYES] = 0
    return result


def albedo(points, arm, part, look: Look, landmarks) -> np.ndarray:
    """Linear RGB [N, 3] of canonical surface points."""
    kind = materials(points, arm, part, look, landmarks)
    x, y, z = points[:, 0], points[:, 1], points[:, 2]
    up, back = z - landmarks["eyes"][2], y - landmarks["eyes"][1]
    colour = np.empty((len(points), 3))
    colour[:] = look.skin
    face = (part[:, 0] > 0.5) & (back < 0.06)
    _mix(colour, face & (np.abs(up - 0.021) < 0.006) & (np.abs(np.abs(x) - 0.032) < 0.02), look.hair, 0.7)
    _mix(colour, face & (np.abs(up + 0.076) < 0.008) & (np.abs(x) < 0.024), look.skin * [0.85, 0.45, 0.45], 0.8)
    _mix(colour, face & (np.abs(up) < 0.014) & (np.abs(np.abs(x) - 0.032) < 0.02), look.skin * 0.6, 0.5)
    beard = face & (up < -0.06) & (back < 0.045) & ~((np.abs(up + 0.076) < 0.007) & (np.abs(x) < 0.022))
    _mix(colour, beard, look.hair, look.beard)
    iris = np.hypot(np.abs(x) - 0.032, up) < 0.006
    colour[kind == EYES] = 0.5
    colour[(kind == EYES) & iris] = 0.03
    strands = 1 + 0.25 * np.sin(90 * x + 25 * np.sin(30 * y + look.phases[0])) * np.sin(60 * z + look.phases[1])
    colour[kind == HAIR] = look.hair * strands[kind == HAIR, None]
    colour[kind == SOCKS] = look.socks
    shoes = kind == SHOES
    colour[shoes] = np.where(z[shoes, None] < 0.022, look.sole, look.shoes)
    for cloth, base in ((SHIRT, look.shirt), (TROUSERS, look.trousers)):
        chosen = kind == cloth
        colour[chosen] = base
        if cloth == SHIRT:
            colour[chosen] = _pattern(points[chosen], arm[chosen], look, landmarks)
        # Creases: slow waves along the body, stronger in loose cloth.
        waves = np.sin(38 * z + 17 * x + 2.2 * np.sin(31 * y + look.phases[2]) + look.phases[3])
        waves += np.sin(21 * z - 43 * x + 2.0 * np.sin(27 * x + 19 * z + look.phases[4]) + look.phases[5])
        colour[chosen] *= 1 + 0.08 * look.looseness * waves[chosen, None]
    belt = (kind == TROUSERS) & (z > 0.965)
    colour[belt] *= 0.5
    return colour


def _mix(colour, where, other, share):
    colour[where] = (1 - share) * colour[where] + share * np.asarray(other)


def _pattern(points, arm, look, landmarks):
    x, y, z = points[:, 0], points[:, 1], points[:, 2]
    along = np.where(arm > -0.4, arm * 0.55, 1.4 - z)
    around = np.where(arm > -0.4, y, x)
    front = y < landmarks["neck"][1]
    marks = {
        "stripes": np.sin(along * 2 * np.pi / 0.085) > 0.1,
        "pinstripes": np.sin(around * 2 * np.pi / 0.045) > 0.6,
        "plaid": (np.sin(along * 2 * np.pi / 0.11) > 0.2) ^ (np.sin(around * 2 * np.pi / 0.11) > 0.2),
        "band": (arm <= -0.4) & (np.abs(z - 1.24) < 0.06),
        "logo": front & (arm <= -0.4) & (np.hypot(x / 0.09, (z - 1.24) / 0.06) < 1),
        "sleeves": arm > -0.4,
    }.get(look.pattern)
    colour = np.empty((len(points), 3))
    colour[:] = look.shirt
    if marks is not None:
        _mix(colour, marks, look.accent, 1.0)
    return colour


def hair_mass(look: Look, eyes: np.ndarray):
    """The part of long hair that hangs free of the scalp, in the resting head's axes.

    Returns:
        vertices [N, 3], normals [N, 3] and faces [M, 3], all empty for short styles.
    """
    # Ellipsoids: centre from the eyes' midpoint (x left, y back, z up) and radii, metres.
    balls = {
        "bob": [((0, 0.125, -0.06), (0.092, 0.075, 0.15))],
        "tail": [((0, 0.235, 0.03), (0.032, 0.035, 0.035)), ((0, 0.245, -0.07), (0.032, 0.026, 0.11))],
    }.get(look.hair_style, [])
    parts, faces, count = [], [], 0
    for centre, radii in balls:
        ball, triangles = ellipsoid(np.asarray(eyes) + centre, radii)
        parts.append(ball)
        faces.append(triangles + count)
        count += len(ball)
    if not parts:
        return np.empty((0, 3)), np.empty((0, 3)), np.empty((0, 3), dtype=np.int32)
    vertices, triangles = np.concatenate(parts), np.concatenate(faces)
    return vertices, vertex_normals(vertices, triangles), triangles


def ellipsoid(centre, radii, rings: int = 10, sectors: int = 16):
    """A closed ellipsoid: vertices [N, 3] and outward faces [M, 3]."""
    polar = np.linspace(0, np.pi, rings + 1)
    turn = np.linspace(0, 2 * np.pi, sectors, endpoint=False)
    polar, turn = np.meshgrid(polar, turn, indexing="ij")
    unit = np.stack([np.sin(polar) * np.cos(turn), np.sin(polar) * np.sin(turn), np.cos(polar)], axis=-1).reshape(-1, 3)
    ring, sector = np.meshgrid(np.arange(rings), np.arange(sectors), indexing="ij")
    a, b = ring * sectors + sector, ring * sectors + (sector + 1) % sectors
    faces = np.stack([a, a + sectors, b, b, a + sectors, b + sectors], axis=-1).reshape(-1, 3)
    return unit * np.asarray(radii) + np.asarray(centre), faces.astype(np.int32)
