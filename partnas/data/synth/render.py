"""Ray casting of one picture with warp-lang on the CPU: sun, soft shadows, ambient occlusion, supersampling."""

import cv2
import numpy as np
import warp as wp

from partnas.data.synth import looks, scene
from partnas.data.synth.body import Posed, Surface, vertex_normals
from partnas.data.synth.rotations import normalise

wp.config.quiet = True

SUPERSAMPLING = 2
FAR = 60.0
OCCLUSION_REACH = 0.5


@wp.kernel
def _cast(
    mesh: wp.uint64,
    origin: wp.vec3,
    directions: wp.array(dtype=wp.vec3),
    distance: wp.array(dtype=float),
    face: wp.array(dtype=int),
    corner: wp.array(dtype=wp.vec2),
):
    i = wp.tid()
    hit = wp.mesh_query_ray(mesh, origin, directions[i], 1.0e3)
    if hit.result:
        distance[i] = hit.t
        face[i] = hit.face
        corner[i] = wp.vec2(hit.u, hit.v)
    else:
        face[i] = -1


@wp.kernel
def _blocked(
    mesh: wp.uint64,
    origins: wp.array(dtype=wp.vec3),
    directions: wp.array(dtype=wp.vec3),
    reach: float,
    result: wp.array(dtype=float),
):
    i = wp.tid()
    hit = wp.mesh_query_ray(mesh, origins[i], directions[i], reach)
    if hit.result:
        result[i] = 1.0


def initialise() -> None:
    """Start warp and compile the kernels into its cache in the user's folder."""
    wp.init()
    wp.load_module(device="cpu")


def render(
    surface: Surface,
    posed: Posed,
    look: looks.Look,
    surroundings: scene.Surroundings,
    things: list[scene.Thing],
    camera: scene.Camera,
    size: int,
    generator: np.random.Generator,
) -> tuple[np.ndarray, float]:
    """Render a picture of a posed person.

    Args:
        posed: the body in the stage's axes (metres, z up).
        things: solids of the foreground, besides those of ``surroundings``.
        camera: Xc = R·X + t with ``t`` in metres of the stage.
        size: side of the picture in pixels.

    Returns:
        RGB uint8 [size, size, 3], and the share of the person's pixels that nothing hides (0–1).
    """
    tail, tail_normals, tail_faces = looks.hair_mass(look, posed.eyes)
    body_count, body_faces = len(posed.vertices), len(surface.faces)
    tail = tail @ posed.head[:3, :3].T + posed.head[:3, 3]
    solids, solid_normals, solid_faces, solid_colours = scene.merge(surroundings.things + things)
    vertices = np.concatenate([posed.vertices, tail, solids]).astype(np.float32)
    normals = np.concatenate(
        [vertex_normals(posed.vertices, surface.faces), tail_normals @ posed.head[:3, :3].T, solid_normals]
    )
    faces = np.concatenate([surface.faces, tail_faces + body_count, solid_faces + body_count + len(tail)])
    mesh = _mesh(vertices, faces)

    side = size * SUPERSAMPLING
    directions = _directions(camera, side)
    origin = -camera.R.T @ camera.t
    distance, face, corner = _trace(mesh, origin, directions)
    hit = face >= 0

    count = len(directions)
    points, normal, colour = np.zeros((count, 3)), np.zeros((count, 3)), np.zeros((count, 3))
    lit = hit.copy()
    weights = np.stack([corner[:, 0], corner[:, 1], 1 - corner.sum(1)], axis=1)[hit]
    corners = faces[face[hit]]
    points[hit] = origin + distance[hit, None] * directions[hit]
    normal[hit] = _blend(normals, corners, weights)
    on_body = np.zeros(count, dtype=bool)
    on_body[hit] = face[hit] < body_faces
    _paint(colour, hit, face, corners, weights, surface, look, solid_colours, body_count, len(tail), body_faces)

    missed = ~hit
    lit[missed] = _background(surroundings, origin, directions, missed, points, normal, colour)
    facing = (normal * directions).sum(1) > 0
    normal[facing] *= -1

    near = lit & (np.abs(points).max(1) < 6)
    shadow = np.zeros(count)
    spread = generator.normal(0, surroundings.sun_spread, (int(near.sum()), 3))
    lights = normalise(surroundings.sun + spread)
    shadow[near] = _block(mesh, points[near] + 0.004 * normal[near], lights, 20.0)
    closeness = lit & (np.linalg.norm(points, axis=1) < 2.2)
    open_share = np.ones(count)
    scattered = normalise(normal[closeness] + normalise(generator.normal(size=(int(closeness.sum()), 3))) * 0.98)
    open_share[closeness] = 1 - _block(mesh, points[closeness] + 0.006 * normal[closeness], scattered, OCCLUSION_REACH)
    open_share = _smooth(open_share, lit, on_body, side, 0.028)
    shadow = _smooth(shadow, lit, on_body, side, 0.009 if surroundings.sun_spread < 0.06 else 0.021)

    cosine = np.clip(normal @ surroundings.sun, 0, 1)
    hemisphere = 0.5 + 0.5 * normal[:, 2:]
    bounce = surroundings.ambient * (0.35 + 0.6 * surroundings.ground["colour"])
    ambient = hemisphere * surroundings.ambient + (1 - hemisphere) * bounce
    light = ambient * (0.15 + 0.85 * open_share)[:, None] + surroundings.sun_colour * (cosine * (1 - shadow))[:, None]
    sheen = np.clip((normalise(surroundings.sun - directions) * normal).sum(1), 0, 1) ** 24 * (1 - shadow) * 0.05
    radiance = np.where(lit[:, None], colour * light + (sheen * on_body)[:, None] * surroundings.sun_colour, colour)
    seen = _seen(posed, surface, camera, size, on_body.reshape(side, side))
    return _develop(radiance.reshape(side, side, 3), surroundings.exposure, size, generator), seen


def _mesh(vertices, faces):
    return wp.Mesh(
        points=wp.array(np.ascontiguousarray(vertices, dtype=np.float32), dtype=wp.vec3, device="cpu"),
        indices=wp.array(np.ascontiguousarray(faces.ravel(), dtype=np.int32), dtype=int, device="cpu"),
    )


def _vectors(values):
    return wp.array(np.ascontiguousarray(values, dtype=np.float32), dtype=wp.vec3, device="cpu")


def _trace(mesh, origin, directions):
    count = len(directions)
    distance = wp.zeros(count, dtype=float, device="cpu")
    face = wp.zeros(count, dtype=int, device="cpu")
    corner = wp.zeros(count, dtype=wp.vec2, device="cpu")
    wp.launch(
        _cast,
        dim=count,
        inputs=[mesh.id, wp.vec3(*(float(v) for v in origin)), _vectors(directions), distance, face, corner],
        device="cpu",
    )
    return distance.numpy().astype(np.float64), face.numpy(), corner.numpy().astype(np.float64)


def _block(mesh, origins, directions, reach):
    result = wp.zeros(len(origins), dtype=float, device="cpu")
    if len(origins):
        inputs = [mesh.id, _vectors(origins), _vectors(directions), float(reach), result]
        wp.launch(_blocked, dim=len(origins), inputs=inputs, device="cpu")
    return result.numpy().astype(np.float64)


def _directions(camera, side):
    # Sample centres in pixels of the picture: pixel (0, 0) covers [0, 1) x [0, 1).
    axis = (np.arange(side) + 0.5) / SUPERSAMPLING
    x, y = np.meshgrid((axis - camera.c[0]) / camera.f[0], (axis - camera.c[1]) / camera.f[1])
    rays = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3)
    return normalise(rays @ camera.R)


def _blend(values, corners, weights):
    return (values[corners] * weights[..., None]).sum(1)


def _paint(colour, hit, face, corners, weights, surface, look, solid_colours, body_count, tail_count, body_faces):
    """Fill ``colour`` of the samples that hit the body, its free hair or a solid."""
    struck = np.empty((len(corners), 3))
    body = face[hit] < body_faces
    mine, share = corners[body], weights[body]
    points = _blend(surface.canonical, mine, share)
    # The arm position jumps to −1 off the arms: take the nearest corner there instead of a mixture.
    arms = surface.arm[mine]
    mixed = (arms * share).sum(1)
    jump = (arms.min(1) < -0.5) & (arms.max(1) > -0.5)
    mixed[jump] = arms[jump, share[jump].argmax(1)]
    struck[body] = looks.albedo(points, mixed, _blend(surface.part, mine, share), look, surface.landmarks)
    first = corners[:, 0]
    hair = ~body & (first < body_count + tail_count)
    struck[hair] = look.hair
    solid = ~body & ~hair
    struck[solid] = solid_colours[first[solid] - body_count - tail_count]
    colour[hit] = struck


def _background(surroundings, origin, directions, missed, points, normal, colour):
    """Fill points, normals and colours where no solid was hit; returns which of these samples are lit surfaces."""
    rays = directions[missed]
    with np.errstate(divide="ignore", invalid="ignore"):
        ground = np.where(rays[:, 2] < -1e-4, -origin[2] / rays[:, 2], np.inf)
        wall = surroundings.wall
        slope = rays @ wall["normal"]
        behind = np.where(slope < -1e-4, -(origin @ wall["normal"] + wall["distance"]) / slope, np.inf)
    if surroundings.style != "room":
        behind = np.full(len(rays), np.inf)
    on_wall = (behind < ground) & (behind < FAR)
    on_ground = ~on_wall & (ground < FAR)
    distance = np.where(on_wall, behind, np.where(on_ground, ground, 0))
    where = origin + distance[:, None] * rays
    paint = scene.sky_colour(rays, surroundings)
    facing = np.zeros_like(rays)
    floor = scene.ground_albedo(where[on_ground][:, :2], surroundings, distance[on_ground])
    # Studios have no horizon: the floor runs into the backdrop.
    haze = np.clip(distance[on_ground] / (25 if surroundings.style == "outdoor" else 200), 0, 0.8)[:, None]
    paint[on_ground] = floor * (1 - haze) + haze * np.array([0.75, 0.78, 0.82]) * floor.mean(1, keepdims=True) * 2
    facing[on_ground] = [0, 0, 1]
    across = where[on_wall] @ np.cross([0, 0, 1.0], wall["normal"])
    paint[on_wall] = scene.wall_albedo(across, where[on_wall][:, 2], surroundings)
    facing[on_wall] = wall["normal"]
    points[missed], normal[missed], colour[missed] = where, facing, paint
    return on_wall | on_ground


def _smooth(values, lit, on_body, side, share):
    """Average over lit neighbours of the same kind (body or not), in a window of ``share`` of the picture's side."""
    result = values.copy()
    width = 2 * round(side * share / 2) + 1
    for kind in (lit & on_body, lit & ~on_body):
        mask = kind.reshape(side, side).astype(np.float32)
        total = cv2.blur(values.reshape(side, side).astype(np.float32) * mask, (width, width))
        weight = cv2.blur(mask, (width, width))
        result[kind] = (total / np.maximum(weight, 1e-6)).ravel()[kind]
    return result


def _seen(posed, surface, camera, size, on_body):
    """Share of a sample of the body's silhouette that the picture shows as body."""
    projected = posed.vertices @ camera.R.T + camera.t
    pixels = projected[:, :2] / projected[:, 2:] * camera.f + camera.c
    inside = np.floor(pixels * SUPERSAMPLING).astype(int)
    keep = ((inside >= 0) & (inside < size * SUPERSAMPLING)).all(1)
    silhouette = np.zeros(on_body.shape, dtype=bool)
    silhouette[inside[keep, 1], inside[keep, 0]] = True
    return float((silhouette & on_body).sum() / max(silhouette.sum(), 1))


def _develop(radiance, exposure, size, generator):
    """Linear radiance to an RGB uint8 picture: exposure, a soft shoulder, gamma, a little lens blur."""
    image = cv2.resize(radiance.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA) * exposure
    image = image * (1 + 0.12 * image) / (1 + 0.42 * image) * 1.15
    image = np.clip(image, 0, 1) ** (1 / 2.2)
    blur = max(float(generator.uniform(-0.4, 0.55)), 0.0)
    if blur > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    return np.rint(image * 255).clip(0, 255).astype(np.uint8)
