"""One picture of the plan, from its seed to pixels and labels."""

from dataclasses import dataclass, replace

import numpy as np

from partnas.data.synth import looks, plan, rotations, scene
from partnas.data.synth.body import Body, Posed
from partnas.data.synth.clips import Clip
from partnas.data.synth.retarget import vary, with_arms_of

OCCLUDED = 0.13
"""Share of the pictures with a solid in the foreground."""
LEAST_SEEN = 0.68
"""A foreground solid that leaves less of the person than this is taken away again."""
NEAREST = 0.75
"""Least distance of the camera, as a share of that from which a standing person would fill 0.8 of the picture."""


@dataclass(frozen=True)
class Picture:
    """``image`` RGB uint8 [S, S, 3]; ``joints`` [17, 3] world millimetres, to a tenth; ``bbox`` [x, y, w, h] pixels; ``visible`` [17]:
    inside the picture (as in Human3.6M, a hidden joint counts as visible)."""

    image: np.ndarray
    joints: np.ndarray
    bbox: np.ndarray
    visible: np.ndarray


def make_picture(item: plan.Item, seed: int, size: int, body: Body, clips: dict[str, Clip]) -> Picture:
    """Render ``item``; the result depends on (seed, item, size) alone."""
    from partnas.data.synth.render import render

    generator = np.random.default_rng([seed, item.index])
    look = looks.random_look(item.subject, generator)
    pose = _pose(item, clips, generator)
    posed = body.pose(body.rest(look.shape), pose, looks.thickness(body.surface, look))
    posed = turned(posed, generator.uniform(0, 2 * np.pi))
    camera = scene.subject_cameras(item.subject, size)[item.cam_idx - 1]
    offset = place(posed.vertices, camera, size, generator)
    stage_camera = replace(camera, t=camera.R @ offset + camera.t / 1000)
    centre = -stage_camera.R.T @ stage_camera.t
    forward = rotations.normalise(stage_camera.R[2] * [1, 1, 0])
    radius = float(np.linalg.norm(posed.vertices[:, :2], axis=1).max())
    surroundings = scene.random_surroundings(generator, centre, forward, radius)
    things = []
    if generator.random() < OCCLUDED:
        things = scene.random_occluder(generator, centre, posed.joints[generator.integers(17)])
    noise = int(generator.integers(2**32))

    def shoot(solids):
        return render(body.surface, posed, look, surroundings, solids, stage_camera, size, np.random.default_rng(noise))

    image, seen = shoot(things)
    if things and seen < LEAST_SEEN:
        image, seen = shoot([])
    joints = 1000 * (posed.joints + offset)
    pixels = project(joints, camera)
    outline = np.clip(project(1000 * (posed.vertices + offset), camera), 0, size)
    low, high = outline.min(0), outline.max(0)
    visible = ((pixels >= 0) & (pixels < size)).all(1)
    return Picture(image, np.round(joints, 1), np.concatenate([low, high - low]), visible)


def project(points, camera: scene.Camera) -> np.ndarray:
    """Pixels [N, 2] of world points [N, 3] in millimetres."""
    local = points @ camera.R.T + camera.t
    return local[:, :2] / local[:, 2:] * camera.f + camera.c


def turned(posed: Posed, yaw: float) -> Posed:
    """The posed body turned by ``yaw`` radians about the vertical through the origin."""
    turn = np.eye(4)
    turn[:3, :3] = rotations.about_z(yaw)
    return Posed(posed.vertices @ turn[:3, :3].T, posed.joints @ turn[:3, :3].T, turn @ posed.head, posed.eyes)


def place(vertices, camera: scene.Camera, size: int, generator) -> np.ndarray:
    """World position [3] (metres) of the stage's origin that frames the body in the picture.

    The longer side of the body's box takes 0.68–0.82 of the picture (less for a crouched body), near the middle.
    """
    fill = generator.uniform(0.68, 0.82) * np.clip(np.ptp(vertices, axis=0).max() / 1.4, 0.78, 1.0)
    shift = generator.uniform(-0.5, 0.5, 2) * max(1 - fill - 0.12, 0.03) * size
    local = vertices @ camera.R.T
    # A body seen end on is small in the picture: coming close enough to fill it would distort it.
    nearest = NEAREST * 1.7 * camera.f[1] / (0.8 * size)
    position = np.array([0.0, 0.0, 4.0]) - local.mean(0)
    for _ in range(8):
        points = local + position
        pixels = points[:, :2] / points[:, 2:] * camera.f
        low, high = pixels.min(0), pixels.max(0)
        depth = points[:, 2].mean()
        # The picture's middle, not the principal point, is where the box goes.
        wanted = size / 2 + shift - camera.c
        position[:2] += (wanted - (low + high) / 2) * depth / camera.f
        wanted_depth = max(depth * (high - low).max() / (fill * size), nearest)
        position[2] += wanted_depth - depth
    return camera.R.T @ (position - camera.t / 1000)


def _pose(item, clips, generator):
    clip = clips[item.action]
    pose = clip.sample((item.share + item.slot * generator.random()) * clip.duration)
    if item.split != "train" or generator.random() >= plan.VARIED:
        return pose
    if generator.random() < 0.4:
        other = clips[str(generator.choice(plan.SPLIT_CLIPS["train"]))]
        pose = with_arms_of(pose, other.sample(generator.uniform(0, other.duration)))
    return vary(pose, generator, generator.uniform(0.3, 1.0))
