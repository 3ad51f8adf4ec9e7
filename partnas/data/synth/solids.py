"""Signed distances of simple solids: negative inside, in the unit of the points.

Each function takes points ``(N, 3)`` float32 (x right, y away, z up) and gives ``(N,)``. A part of a modelled object is
such a distance beside what it is made of (:mod:`partnas.data.synth.still` draws them).
"""

from collections.abc import Sequence

import numpy as np

AXES = {"x": (1, 2, 0), "y": (2, 0, 1), "z": (0, 1, 2)}
"""For an axis, the two coordinates across it and the one along it."""


def ellipsoid(points, centre, radii):
    local = (points - np.asarray(centre, np.float32)) / np.asarray(radii, np.float32)
    length = np.linalg.norm(local, axis=1)
    slope = np.linalg.norm(local / np.asarray(radii, np.float32), axis=1)
    return length * (length - 1) / np.maximum(slope, 1e-6)


def box(points, centre, half, rounded=0.0):
    """``half`` extents (3) with the rounding of edges and corners in them."""
    beyond = np.abs(points - np.asarray(centre, np.float32)) - (np.asarray(half, np.float32) - rounded)
    return np.linalg.norm(np.maximum(beyond, 0), axis=1) + np.minimum(beyond.max(1), 0) - rounded


def capsule(points, start, end, radius, end_radius=None):
    """A round rod from ``start`` to ``end``, whose radius may change along it."""
    start, axis = np.asarray(start, np.float32), np.subtract(end, start).astype(np.float32)
    share = np.clip((points - start) @ axis / max(float(axis @ axis), 1e-9), 0, 1)
    taper = 0 if end_radius is None else (end_radius - radius) * share
    return np.linalg.norm(points - start - share[:, None] * axis, axis=1) - radius - taper


def cylinder(points, centre, radius, half, axis="z", rounded=0.0):
    a, b, along = AXES[axis]
    local = points - np.asarray(centre, np.float32)
    return _capped(np.hypot(local[:, a], local[:, b]) - radius, np.abs(local[:, along]) - half, rounded)


def torus(points, centre, ring, thickness, axis="z"):
    a, b, along = AXES[axis]
    local = points - np.asarray(centre, np.float32)
    return np.hypot(np.hypot(local[:, a], local[:, b]) - ring, local[:, along]) - thickness


def lathe(points, profile: Sequence[tuple[float, float]], rounded=0.0, centre=(0, 0, 0)):
    """What a polygon of (radius, height) sweeps about the z axis through ``centre``."""
    local = points - np.asarray(centre, np.float32)
    return polygon(np.column_stack([np.hypot(local[:, 0], local[:, 1]), local[:, 2]]), profile) - rounded


def extruded(points, outline: Sequence[tuple[float, float]], half, axis="y", rounded=0.0, centre=(0, 0, 0)):
    """A plate of half thickness ``half`` along ``axis``; ``outline`` is in the other two coordinates, in order."""
    local = points - np.asarray(centre, np.float32)
    along = "xyz".index(axis)
    flat = polygon(np.delete(local, along, axis=1), outline)
    return _capped(flat, np.abs(local[:, along]) - half, rounded)


def polygon(points, corners: Sequence[tuple[float, float]]):
    """Distance of points ``(N, 2)`` to a closed polygon, negative inside."""
    corners = np.asarray(corners, np.float32)
    nearest = np.full(len(points), np.inf, np.float32)
    inside = np.zeros(len(points), bool)
    for corner, previous in zip(corners, np.roll(corners, 1, axis=0), strict=True):
        edge, local = previous - corner, points - corner
        share = np.clip(local @ edge / max(float(edge @ edge), 1e-12), 0, 1)
        nearest = np.minimum(nearest, ((local - share[:, None] * edge) ** 2).sum(1))
        if edge[1]:
            crosses = (corner[1] > points[:, 1]) != (previous[1] > points[:, 1])
            inside ^= crosses & (local[:, 0] < local[:, 1] / edge[1] * edge[0])
    return np.where(inside, -1, 1) * np.sqrt(nearest)


def blended(distances: Sequence[np.ndarray], softness: float):
    """The union of solids, whose seams are filled over about ``softness``."""
    total = distances[0]
    for other in distances[1:]:
        share = np.clip(0.5 + 0.5 * (other - total) / softness, 0, 1)
        total = other + (total - other) * share - softness * share * (1 - share)
    return total


def without(distance, removed):
    """A solid less another one."""
    return np.maximum(distance, -removed)


def shell(distance, thickness):
    """Only the outermost ``thickness`` of a solid."""
    return np.maximum(distance, -distance - thickness)


def turned(points, angle, axis="z", centre=(0, 0, 0)):
    """Points as a solid sees them that is turned by ``angle`` (radians) about ``axis`` through ``centre``."""
    a, b, _ = AXES[axis]
    local = points - np.asarray(centre, np.float32)
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    seen = local.copy()
    seen[:, a] = cosine * local[:, a] + sine * local[:, b]
    seen[:, b] = cosine * local[:, b] - sine * local[:, a]
    return seen + np.asarray(centre, np.float32)


def _capped(across, along, rounded):
    beyond = np.maximum(np.column_stack([across, along]) + rounded, 0)
    return np.minimum(np.maximum(across, along) + rounded, 0) + np.linalg.norm(beyond, axis=1) - rounded
