"""Where a picture is taken: cameras, light, things that stand around, and the procedural surroundings.

Stage axes: metres, z up, ground at z = 0, the person over the origin.
"""

from dataclasses import dataclass, field

import numpy as np

from partnas.data.synth import rotations
from partnas.data.synth.looks import cloth_colour, ellipsoid

CAMERAS = 4
WALL_TONES = np.array(
    [
        [0.72, 0.71, 0.68], [0.66, 0.60, 0.48], [0.50, 0.50, 0.50], [0.46, 0.54, 0.62], [0.50, 0.58, 0.48],
        [0.60, 0.45, 0.36], [0.30, 0.33, 0.38], [0.34, 0.14, 0.09], [0.62, 0.55, 0.58], [0.24, 0.30, 0.26],
    ]
)  # fmt: skip
FLOOR_TONES = np.array(
    [
        [0.36, 0.22, 0.12], [0.24, 0.13, 0.065], [0.50, 0.36, 0.22], [0.45, 0.44, 0.42], [0.28, 0.28, 0.29],
        [0.60, 0.57, 0.50], [0.16, 0.17, 0.20], [0.30, 0.12, 0.10], [0.14, 0.22, 0.30], [0.34, 0.38, 0.34],
    ]
)  # fmt: skip
WOOD_TONES = np.array(
    [[0.30, 0.18, 0.09], [0.50, 0.36, 0.22], [0.13, 0.07, 0.04], [0.65, 0.65, 0.63], [0.10, 0.10, 0.11]]
)


@dataclass(frozen=True)
class Camera:
    """A pinhole: Xc = R·Xw + t, x right, y down, z forward; ``t`` in millimetres, ``f`` and ``c`` in pixels."""

    R: np.ndarray
    t: np.ndarray
    f: np.ndarray
    c: np.ndarray


@dataclass(frozen=True)
class Thing:
    """A solid in the stage: ``vertices`` [N, 3], ``normals`` [N, 3], ``faces`` [M, 3], linear RGB ``colour`` [3]."""

    vertices: np.ndarray
    normals: np.ndarray
    faces: np.ndarray
    colour: np.ndarray


@dataclass(frozen=True)
class Surroundings:
    """Everything but the person: surface styles, light and solids."""

    style: str
    ground: dict
    wall: dict
    sky: np.ndarray
    sun: np.ndarray
    sun_colour: np.ndarray
    sun_spread: float
    ambient: np.ndarray
    exposure: float
    noise: np.ndarray
    things: list = field(default_factory=list)


def subject_cameras(subject: int, size: int) -> list[Camera]:
    """A subject's four cameras, about 90° apart, looking at the world's origin; the same for every seed.

    Their height, pitch, roll, distance and focal length differ by camera. Translation in millimetres.
    """
    generator = np.random.default_rng([subject, 11])
    pitches = np.deg2rad(generator.permutation([3, 8, 14, 26]) + generator.uniform(-2, 4, CAMERAS))
    fields = np.deg2rad(generator.permutation([24, 32, 40, 48]) + generator.uniform(-3, 3, CAMERAS))
    start = generator.uniform(0, 2 * np.pi)
    cameras = []
    for index in range(CAMERAS):
        yaw = start + index * np.pi / 2 + generator.uniform(-0.3, 0.3)
        roll = np.deg2rad(generator.normal(0, 2))
        R = look_along(yaw, pitches[index], roll)
        focal = size / 2 / np.tan(fields[index] / 2)
        distance = 1000 * 2.0 / (2 * np.tan(fields[index] / 2))
        centre = size / 2 + generator.uniform(-2, 2, 2)
        cameras.append(
            Camera(np.round(R, 9), np.round([0, 0, distance], 2), np.round([focal, focal], 3), np.round(centre, 3))
        )
    return cameras


def look_along(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """World-to-camera rotation [3, 3] of a camera that looks along ``yaw`` (from +x about z) and down by ``pitch``."""
    forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), -np.sin(pitch)])
    right = rotations.normalise(np.cross(forward, [0, 0, 1.0]))
    down = np.cross(forward, right)
    return rotations.about_z(roll) @ np.stack([right, down, forward])


def box(centre, size, yaw, colour) -> Thing:
    """A box standing at ``centre`` [3] (its middle) of ``size`` [3], turned by ``yaw``; flat normals."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) / 2 * np.asarray(size)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    outward = np.array([[-1, 0, 0], [1, 0, 0], [0, -1, 0], [0, 1, 0], [0, 0, -1], [0, 0, 1.0]])
    turn = rotations.about_z(yaw)
    vertices = np.concatenate([corners[list(quad)] for quad in quads]) @ turn.T + centre
    normals = np.repeat(outward, 4, axis=0) @ turn.T
    faces = np.concatenate([[[4 * q, 4 * q + 1, 4 * q + 2], [4 * q, 4 * q + 2, 4 * q + 3]] for q in range(6)])
    return Thing(vertices, normals, faces.astype(np.int32), np.asarray(colour))


def merge(things: list[Thing]) -> list[np.ndarray]:
    """Vertices, normals, faces and per-vertex colours of all things together."""
    vertices, normals, faces, colours, count = [], [], [], [], 0
    for thing in things:
        vertices.append(thing.vertices)
        normals.append(thing.normals)
        faces.append(thing.faces + count)
        colours.append(np.tile(thing.colour, (len(thing.vertices), 1)))
        count += len(thing.vertices)
    empty = np.empty((0, 3))
    return [
        np.concatenate(vertices) if things else empty,
        np.concatenate(normals) if things else empty,
        np.concatenate(faces) if things else np.empty((0, 3), dtype=np.int32),
        np.concatenate(colours) if things else empty,
    ]


def furniture(generator, place, colour) -> list[Thing]:
    """A crate, table, stool, shelf, post, ball or shrub standing at ``place`` [2]."""
    yaw = generator.uniform(0, np.pi)
    kind = generator.choice(["crate", "table", "stool", "shelf", "post", "ball", "shrub"])
    x, y = place
    if kind == "crate":
        size = generator.uniform(0.3, 0.9, 3)
        return [box((x, y, size[2] / 2), size, yaw, colour)]
    if kind in ("table", "stool"):
        wide, deep, high = (1.1, 0.65, 0.74) if kind == "table" else (0.4, 0.4, 0.48)
        turn = rotations.about_z(yaw)
        parts = [box((x, y, high), (wide, deep, 0.05), yaw, colour)]
        for dx, dy in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            foot = turn @ [dx * (wide / 2 - 0.05), dy * (deep / 2 - 0.05), 0]
            parts.append(box((x + foot[0], y + foot[1], high / 2), (0.05, 0.05, high), yaw, colour * 0.7))
        return parts
    if kind == "shelf":
        high = generator.uniform(1.2, 2.1)
        return [box((x, y, high / 2), (generator.uniform(0.6, 1.2), 0.35, high), yaw, colour)]
    if kind == "post":
        return [box((x, y, 1.5), (0.09, 0.09, 3.0), yaw, colour)]
    balls = [((x, y, 0.25), np.full(3, 0.25))]
    if kind == "shrub":
        offsets = generator.normal(0, 0.18, (6, 3))
        balls = [((x + a, y + b, 0.45 + c), generator.uniform(0.15, 0.32, 3)) for a, b, c in offsets]
        colour = np.array([0.05, 0.13, 0.03]) * generator.uniform(0.7, 1.8)
    parts = []
    for centre, radii in balls:
        vertices, faces = ellipsoid(centre, radii)
        parts.append(Thing(vertices, rotations.normalise((vertices - centre) / radii**2), faces, colour))
    return parts


def random_surroundings(generator, camera_centre, forward, radius: float) -> Surroundings:
    """A room, an outdoor place or a studio around a person of horizontal ``radius`` metres.

    ``camera_centre`` [3] and ``forward`` [3] (unit, horizontal) are in the stage; solids keep out of the line of sight.
    """
    style = str(generator.choice(["room", "outdoor", "studio"], p=[0.48, 0.37, 0.15]))
    room, outdoor = style == "room", style == "outdoor"
    elevation = np.deg2rad(generator.uniform(45, 80) if not outdoor else generator.uniform(25, 72))
    azimuth = generator.uniform(0, 2 * np.pi)
    sun = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    warm = generator.normal(0, 0.10)
    tint = np.array([1 + warm, 1.0, 1 - warm])
    strength = generator.uniform(0.5, 1.3) if not outdoor else generator.choice([0.3, 1.2, 1.7])
    ambient = np.array([1 - 0.4 * warm, 1.0, 1 + 0.5 * warm]) * generator.uniform(0.32, 0.6)
    sides = np.array([-forward[1], forward[0], 0.0])
    turn = rotations.about_z(generator.normal(0, 0.25))
    ground = {
        "pattern": str(
            generator.choice(["grass", "paving", "asphalt", "sand"])
            if outdoor
            else generator.choice(
                ["planks", "planks", "tiles", "checker", "carpet", "plain"], p=[0.2, 0.2, 0.2, 0.08, 0.16, 0.16]
            )
        ),
        "colour": _surface_colour(generator, FLOOR_TONES),
        "accent": _surface_colour(generator, FLOOR_TONES),
        "scale": generator.uniform(0.7, 1.4),
        "angle": generator.uniform(0, np.pi),
    }
    if ground["pattern"] == "grass":
        ground["colour"] = np.array([0.09, 0.16, 0.04]) * generator.uniform(0.7, 1.6)
    if ground["pattern"] in ("sand", "asphalt"):
        base = np.array([0.42, 0.33, 0.21]) if ground["pattern"] == "sand" else np.full(3, 0.16)
        ground["colour"] = base * generator.uniform(0.7, 1.5)
    normal = turn @ -np.asarray(forward)
    wall = {
        "normal": normal,
        "distance": radius + generator.uniform(0.5, 3.5),
        "pattern": str(generator.choice(["plain", "plain", "stripes", "bricks", "panels", "wainscot"])),
        "colour": _surface_colour(generator, WALL_TONES),
        "accent": _surface_colour(generator, WALL_TONES),
        "pictures": [
            (
                generator.uniform(-2.5, 2.5),
                generator.uniform(1.0, 1.9),
                *generator.uniform(0.15, 0.6, 2),
                cloth_colour(generator),
            )
            for _ in range(generator.integers(0, 4))
        ],
        "hills": generator.uniform(0.02, 0.12),
        "skyline": bool(generator.random() < 0.5),
        "phase": generator.uniform(0, 6, 3),
    }
    things = []
    for _ in range(generator.integers(0, 2 if style == "studio" else 6)):
        depth, side = generator.uniform(-1.5, wall["distance"] if room else 5), generator.uniform(-3.5, 3.5)
        clear = radius + 0.55
        behind = depth > clear
        if not behind and abs(side) < clear + 0.5 + 0.25 * max(depth, 0):
            continue
        place = depth * np.asarray(forward) + side * sides
        if np.linalg.norm(place[:2] - camera_centre[:2]) > 1.5:
            things += furniture(generator, place[:2], _thing_colour(generator))
    return Surroundings(
        style=style,
        ground=ground,
        wall=wall,
        sky=np.array([0.42, 0.6, 0.9]) * generator.uniform(0.8, 1.1) if generator.random() < 0.6 else np.full(3, 0.8),
        sun=sun,
        sun_colour=tint * strength,
        sun_spread=float(generator.uniform(0.02, 0.05) if outdoor else generator.uniform(0.08, 0.3)),
        ambient=ambient,
        exposure=float(generator.uniform(0.8, 1.25)),
        noise=noise_texture(generator),
        things=things,
    )


def random_occluder(generator, camera_centre, target) -> list[Thing]:
    """A solid between the camera and ``target`` [3], a point of the body, standing on the ground or hanging down."""
    share = generator.uniform(0.5, 0.75)
    point = camera_centre + share * (np.asarray(target) - camera_centre)
    colour = _thing_colour(generator)
    yaw = generator.uniform(0, np.pi)
    kind = generator.choice(["crate", "post", "shrub"])
    if kind == "post":
        return [box((point[0], point[1], 1.5), (0.08, 0.08, 4.0), yaw, colour)]
    if kind == "crate":
        high = max(point[2], 0.1)
        width = generator.uniform(0.25, 0.6)
        return [box((point[0], point[1], high / 2), (width, generator.uniform(0.2, 0.4), high), yaw, colour)]
    parts = []
    colour = np.array([0.05, 0.13, 0.03]) * generator.uniform(0.7, 1.8)
    for offset in generator.normal(0, 0.09, (5, 3)):
        centre = point + offset
        radii = generator.uniform(0.06, 0.14, 3)
        vertices, faces = ellipsoid(centre, radii)
        parts.append(Thing(vertices, rotations.normalise((vertices - centre) / radii**2), faces, colour))
    parts.append(
        box((point[0], point[1], point[2] / 2), (0.03, 0.03, max(point[2], 0.05)), yaw, np.array([0.1, 0.06, 0.03]))
    )
    return parts


def noise_texture(generator, size: int = 128) -> np.ndarray:
    """Tileable noise [size, size] of several octaves, zero mean, within about ±1."""
    total = np.zeros((size, size))
    for octave, weight in ((4, 0.5), (8, 0.35), (16, 0.25), (64, 0.25)):
        grid = generator.uniform(-1, 1, (octave, octave))
        axis = np.arange(size) * octave / size
        low = axis.astype(int)
        share = axis - low
        share = share * share * (3 - 2 * share)
        high = (low + 1) % octave
        rows = grid[low] * (1 - share)[:, None] + grid[high] * share[:, None]
        total += weight * (rows[:, low] * (1 - share) + rows[:, high] * share)
    return total


def ground_albedo(points, surroundings: Surroundings, distance) -> np.ndarray:
    """Linear RGB [N, 3] of ground points [N, 2]; detail fades with ``distance`` [N] metres from the camera."""
    ground, noise = surroundings.ground, surroundings.noise
    turned = points @ rotations.about_z(ground["angle"])[:2, :2]
    u, v = turned[:, 0] / ground["scale"], turned[:, 1] / ground["scale"]
    fade = np.clip(1.6 - distance / 8, 0.1, 1)
    grain = sample(noise, u * 0.9, v * 0.9) + 0.6 * sample(noise, u * 0.23, v * 0.23)
    colour = np.empty((len(points), 3))
    colour[:] = ground["colour"]
    pattern = ground["pattern"]
    if pattern == "planks":
        row = np.floor(u / 0.14)
        colour *= (1 + 0.22 * fade * _hash(row, np.floor(v / 1.6 + 0.37 * row)))[:, None]
        colour *= (1 - 0.45 * fade * ((u / 0.14 - row) < 0.06))[:, None]
        grain = sample(noise, u * 1.5, v * 0.15)
    elif pattern in ("tiles", "paving", "checker"):
        a, b = u / 0.45, v / 0.45
        joint = np.minimum(np.abs(a - np.round(a)), np.abs(b - np.round(b))) < 0.03
        if pattern == "checker":
            odd = (np.floor(a) + np.floor(b)) % 2 == 1
            colour[odd] = 0.5 * ground["colour"] + 0.5 * ground["accent"]
        colour *= (1 + 0.10 * fade * _hash(np.floor(a), np.floor(b)) - 0.35 * fade * joint)[:, None]
    elif pattern == "carpet":
        inside = np.maximum(np.abs(points[:, 0]), np.abs(points[:, 1])) < 1.5
        colour[inside] = ground["accent"]
        grain = grain * 0.5
    elif pattern in ("grass", "asphalt", "sand"):
        grain = 1.5 * grain
    return colour * (1 + 0.22 * fade * grain)[:, None]


def wall_albedo(across, up, surroundings: Surroundings) -> np.ndarray:
    """Linear RGB [N, 3] of wall points, ``across`` and ``up`` [N] in metres."""
    wall, noise = surroundings.wall, surroundings.noise
    colour = np.empty((len(across), 3))
    colour[:] = wall["colour"]
    pattern = wall["pattern"]
    if pattern == "stripes":
        colour[np.sin(across * 2 * np.pi / 0.35) > 0] *= 0.8
    elif pattern == "bricks":
        row = np.floor(up / 0.12)
        a = across / 0.3 + 0.5 * (row % 2)
        joint = (np.abs(up / 0.12 - row) < 0.1) | (np.abs(a - np.floor(a)) < 0.05)
        colour *= (1 + 0.18 * _hash(row, np.floor(a)) - 0.2 * joint)[:, None]
    elif pattern == "panels":
        a = across / 1.1
        colour *= (1 - 0.35 * (np.abs(a - np.round(a)) < 0.012))[:, None]
    elif pattern == "wainscot":
        colour[up < 1.0] = wall["accent"]
    for left, middle, wide, high, paint in wall["pictures"]:
        dx, dy = np.abs(across - left) / wide, np.abs(up - middle) / high
        colour[(dx < 1) & (dy < 1)] = 0.06
        colour[(dx < 0.9) & (dy < 0.9)] = paint
    colour[up < 0.09] = wall["colour"] * 0.45
    return np.clip(colour * (1 + 0.05 * sample(noise, across * 0.3, up * 0.3))[:, None], 0.01, 0.9)


def sky_colour(directions, surroundings: Surroundings) -> np.ndarray:
    """Linear RGB [N, 3] of the far background along unit directions [N, 3]."""
    up = directions[:, 2]
    azimuth = np.arctan2(directions[:, 1], directions[:, 0])
    share = np.clip(up / 0.6, 0, 1)[:, None] ** 0.6
    colour = (1 - share) * np.array([0.85, 0.88, 0.92]) + share * surroundings.sky
    if surroundings.style == "studio":
        return np.tile(surroundings.ground["colour"], (len(up), 1)) * (1.0 - 0.3 * np.clip(up, 0, 1)[:, None])
    wall = surroundings.wall
    phase = wall["phase"]
    if wall["skyline"]:
        block = np.floor(azimuth / 0.13 + phase[0])
        height = wall["hills"] * (1.3 + _hash(block, block * 0 + 3))
        ridge = up < height
        tone = wall["colour"] * (0.55 + 0.3 * _hash(block, block * 0 + 5))[:, None]
        windows = (np.sin(azimuth * 2 * np.pi / 0.02) > 0.2) & (np.sin(up * 2 * np.pi / 0.03) > 0)
        tone = tone * (1 - 0.35 * windows)[:, None]
    else:
        height = wall["hills"] * (1 + 0.5 * np.sin(3 * azimuth + phase[0]) + 0.3 * np.sin(11 * azimuth + phase[1]))
        ridge = up < height
        tone = np.tile(np.array([0.16, 0.24, 0.16]) * (0.6 + wall["accent"].mean()), (len(up), 1))
    colour[ridge] = 0.75 * tone[ridge] + 0.25 * np.array([0.7, 0.75, 0.8])
    return colour


def sample(texture, u, v) -> np.ndarray:
    """Bilinear, repeating look-up [N] of a square texture whose period is 1."""
    size = len(texture)
    x, y = (u * size) % size, (v * size) % size
    a, b = x.astype(int), y.astype(int)
    s, t = x - a, y - b
    a, b = a % size, b % size
    c, d = (a + 1) % size, (b + 1) % size
    return (texture[b, a] * (1 - s) + texture[b, c] * s) * (1 - t) + (texture[d, a] * (1 - s) + texture[d, c] * s) * t


def _hash(a, b):
    """A number in ±1 for every pair of whole numbers."""
    value = np.sin(a * 127.1 + b * 311.7) * 43758.5453
    return 2 * (value - np.floor(value)) - 1


def _surface_colour(generator, tones):
    tone = tones[generator.integers(len(tones))] * generator.uniform(0.75, 1.25)
    return np.clip(tone * (1 + generator.normal(0, 0.06, 3)), 0.02, 0.8)


def _thing_colour(generator):
    return cloth_colour(generator) if generator.random() < 0.4 else _surface_colour(generator, WOOD_TONES)
