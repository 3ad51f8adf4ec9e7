"""Pictures of single objects with an alpha mask, by sphere tracing of signed distances in NumPy."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from partnas.data.synth.rotations import normalise

SAMPLES = 3
"""Rays of a pixel, across and down."""
REACH = 1.45
"""Objects are modelled within this distance of the origin."""
EYE = 4.2
STEPS, SHADOW_STEPS = 96, 32
NEAR = 1.5e-3

Paint = Callable[[np.ndarray], np.ndarray]


class Part(NamedTuple):
    """One material of an object.

    Attributes:
        distance: Of points ``(N, 3)``, signed, ``(N,)``.
        paint: Linear RGB ``(N, 3)`` of points.
        gloss: 0 (chalk) to 1 (polished).
        metal: Whether reflections take the paint's colour.
        grain: How far the surface's direction is disturbed (fur, leaves).
    """

    distance: Callable[[np.ndarray], np.ndarray]
    paint: Paint
    gloss: float = 0.15
    metal: bool = False
    grain: float = 0.0


class Light(NamedTuple):
    """The sun's direction and colour, and the light of the sky and of the ground."""

    direction: np.ndarray
    sun: np.ndarray
    sky: np.ndarray
    ground: np.ndarray


def random_light(random: np.random.Generator) -> Light:
    elevation, azimuth = np.deg2rad(random.uniform(25, 70)), np.deg2rad(random.uniform(-160, -20))
    across = np.cos(elevation) * np.array([np.cos(azimuth), np.sin(azimuth)])
    warm = random.normal(0, 0.07)
    tint = np.array([1 + warm, 1, 1 - warm])
    return Light(
        np.append(across, np.sin(elevation)).astype(np.float32),
        tint * random.uniform(0.9, 1.8),
        tint[::-1] * random.uniform(0.4, 0.75),
        np.array([1.05, 1, 0.92]) * random.uniform(0.15, 0.35),
    )


def picture(
    parts: Sequence[Part], side: int, yaw: float, pitch: float, light: Light, random: np.random.Generator
) -> np.ndarray:
    """An object, cut out.

    Args:
        parts: Within 1.45 of the origin.
        side: Pixels of the longer side; the picture fits the object.
        yaw: Radians by which the object is turned about the vertical.
        pitch: Radians by which the camera looks down.
        random: For the film's grain and the light's.

    Returns:
        ``(H, W, 4)`` RGBA uint8, alpha not multiplied in.
    """
    frame = _camera(yaw, pitch)
    window = _outline(parts, frame)
    pixel = max(window[2] - window[0], window[3] - window[1]) / side
    width, height = (max(round((window[i + 2] - window[i]) / pixel), 8) for i in (0, 1))
    eye, rays = _rays(frame, window, width * SAMPLES, height * SAMPLES)
    distance = _trace(parts, eye, rays)
    hit = np.isfinite(distance)
    points = eye + distance[hit, None] * rays[hit]
    radiance = np.zeros((len(rays), 4), np.float32)
    radiance[hit, :3] = _shade(parts, points, rays[hit], light, frame, random)
    radiance[hit, 3] = 1
    small = cv2.resize(
        radiance.reshape(height * SAMPLES, width * SAMPLES, 4), (width, height), interpolation=cv2.INTER_AREA
    )
    alpha = small[..., 3:]
    colour = small[..., :3] / np.maximum(alpha, 1e-3) * random.uniform(0.85, 1.1)
    colour = np.clip(colour * (1 + 0.12 * colour) / (1 + 0.42 * colour) * 1.15, 0, 1) ** (1 / 2.2)
    colour += random.normal(0, random.uniform(0.002, 0.012), colour.shape)
    return np.rint(np.concatenate([colour, alpha], 2).clip(0, 1) * 255).astype(np.uint8)


def _camera(yaw, pitch):
    """Rows: right, up, forward."""
    forward = np.array([-np.sin(yaw) * np.cos(pitch), np.cos(yaw) * np.cos(pitch), -np.sin(pitch)])
    right = np.array([np.cos(yaw), np.sin(yaw), 0])
    return np.stack([right, np.cross(right, forward), forward]).astype(np.float32)


def _rays(frame, window, width, height):
    left, bottom, right, top = window
    x = left + (np.arange(width, dtype=np.float32) + 0.5) / width * (right - left)
    y = top - (np.arange(height, dtype=np.float32) + 0.5) / height * (top - bottom)
    x, y = np.meshgrid(x, y)
    directions = np.column_stack([x.ravel(), y.ravel(), np.full(x.size, EYE, np.float32)]) @ frame
    return (-EYE * frame[2]).astype(np.float32), normalise(directions).astype(np.float32)


def _outline(parts, frame, side=112):
    """Left, bottom, right and top of the object on the plane through the origin."""
    limit = REACH * 1.1
    eye, rays = _rays(frame, (-limit, -limit, limit, limit), side, side)
    seen = np.isfinite(_trace(parts, eye, rays)).reshape(side, side)
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    step = 2 * limit / side
    edge = np.array([columns[0] - 1, side - rows[-1] - 2, columns[-1] + 2, side - rows[0] + 1])
    return edge * step - limit


def _distance(parts, points):
    return np.minimum.reduce([part.distance(points) for part in parts])


def _trace(parts, eye, rays):
    """Distance along each ray, infinite where it meets nothing."""
    travelled = np.full(len(rays), EYE - REACH * 1.2, np.float32)
    found = np.full(len(rays), np.inf, np.float32)
    active = np.arange(len(rays))
    for _ in range(STEPS):
        gap = _distance(parts, eye + travelled[active, None] * rays[active])
        met = gap < NEAR
        found[active[met]] = travelled[active[met]]
        travelled[active] += 0.85 * gap
        active = active[~met & (travelled[active] < EYE + REACH * 1.2)]
        if not len(active):
            break
    return found


def _shade(parts, points, rays, light, frame, random):
    each = np.stack([part.distance(points) for part in parts])  # [parts, N]
    owner = each.argmin(0)
    colour, gloss, metal, grain = np.empty_like(points), *np.zeros((3, len(points)), np.float32)
    for index, part in enumerate(parts):
        mine = owner == index
        colour[mine] = part.paint(points[mine])
        gloss[mine], metal[mine], grain[mine] = part.gloss, part.metal, part.grain
    normal = _normals(parts, points)
    rough = normal + grain[:, None] * random.normal(0, 1, points.shape)
    normal = normalise(rough).astype(np.float32)
    # The sun stands where the photographer would have it: its azimuth is told from the camera's right.
    sun = np.array([*(frame[0][:2] * light.direction[0] - frame[2][:2] * light.direction[1]), light.direction[2]])
    sun = normalise(sun * [1, 1, 1]).astype(np.float32)
    start = points + 0.012 * normal
    lit = _shadow(parts, start, sun) * np.clip(normal @ sun, 0, 1)
    openness = _openness(parts, points, normal)
    up = 0.5 + 0.5 * normal[:, 2:]
    ambient = (up * light.sky + (1 - up) * light.ground) * openness[:, None]
    mirrored = rays - 2 * (rays * normal).sum(1, keepdims=True) * normal
    facing = np.clip(-(rays * normal).sum(1), 0, 1)
    fresnel = (0.04 + 0.96 * (1 - facing) ** 5) * gloss
    share = np.where(metal > 0, 0.75, fresnel)[:, None]
    tint = np.where(metal[:, None] > 0, colour, 1)
    room = _surroundings(mirrored, light, gloss) * (0.25 + 0.75 * openness[:, None])
    power = 8 + 240 * gloss**2
    spot = np.clip(mirrored @ sun, 0, 1) ** power * gloss * (lit > 0)
    return colour * (ambient + light.sun * lit[:, None]) * (1 - share) + tint * (
        share * room + 0.8 * spot[:, None] * light.sun
    )


def _normals(parts, points, step=1.5e-3):
    corners = np.array([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]], np.float32)
    return normalise(sum(c * _distance(parts, points + step * c)[:, None] for c in corners)).astype(np.float32)


def _shadow(parts, start, sun, softness=14.0):
    """Share of the sun that reaches each point."""
    share = np.ones(len(start), np.float32)
    travelled = np.full(len(start), 0.02, np.float32)
    active = np.arange(len(start))
    for _ in range(SHADOW_STEPS):
        gap = _distance(parts, start[active] + travelled[active, None] * sun)
        share[active] = np.minimum(share[active], np.clip(softness * gap / travelled[active], 0, 1))
        travelled[active] += np.clip(gap, 0.015, 0.2)
        active = active[(share[active] > 0.02) & (travelled[active] < 2 * REACH)]
        if not len(active):
            break
    return share


def _openness(parts, points, normal):
    """1 where nothing is near in front of the surface, less in folds and corners."""
    hidden = np.zeros(len(points), np.float32)
    for reach, weight in ((0.02, 1.0), (0.05, 0.7), (0.1, 0.5), (0.2, 0.35), (0.35, 0.2)):
        hidden += weight * np.clip(1 - _distance(parts, points + reach * normal) / reach, 0, 1)
    return np.clip(1 - hidden / 2.0, 0.12, 1)


def _surroundings(directions, light, gloss):
    """What a mirror shows: ground, a darker horizon, sky, and a window."""
    height = directions[:, 2]
    blur = (1.05 - gloss) * 0.5
    sky = np.clip((height + blur) / (2 * blur), 0, 1)[:, None]
    image = sky * light.sky * (0.8 + 0.9 * np.clip(height, 0, 1)[:, None]) + (1 - sky) * light.ground * 0.8
    image *= 1 - 0.45 * np.exp(-((height / 0.18) ** 2))[:, None]
    across = np.arctan2(directions[:, 0], -directions[:, 1])
    pane = np.clip(6 * (0.35 - np.abs(across + 0.9)), 0, 1) * np.clip(6 * (0.3 - np.abs(height - 0.45)), 0, 1)
    return image + (pane * 2.2)[:, None]
