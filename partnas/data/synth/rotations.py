"""Quaternions (w, x, y, z) and rotation matrices, in plain NumPy."""

import numpy as np


def normalise(vectors):
    """Vectors [..., K] scaled to unit length."""
    vectors = np.asarray(vectors, dtype=np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def from_axis_angle(axis, angle):
    """Unit quaternions [..., 4] of turns by ``angle`` [...] (radians) about ``axis`` [..., 3]."""
    half = np.asarray(angle, dtype=np.float64)[..., None] / 2
    return np.concatenate([np.cos(half), np.sin(half) * normalise(axis)], axis=-1)


def multiply(first, second):
    """Hamilton product [..., 4]: the turn ``second`` followed by ``first``."""
    w, v = first[..., :1], first[..., 1:]
    u, q = second[..., :1], second[..., 1:]
    return np.concatenate([w * u - (v * q).sum(-1, keepdims=True), w * q + u * v + np.cross(v, q)], axis=-1)


def to_matrix(quaternion):
    """Rotation matrices [..., 3, 3] of quaternions [..., 4] (normalised here)."""
    w, x, y, z = np.moveaxis(normalise(quaternion), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def from_matrix(matrix):
    """Unit quaternion [4] with w >= 0 of one rotation matrix [3, 3]."""
    m = np.asarray(matrix, dtype=np.float64)
    # The eigenvector of Bar-Itzhack's symmetric matrix: stable for every angle.
    k = np.array(
        [
            [m[0, 0] + m[1, 1] + m[2, 2], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
            [0, m[0, 0] - m[1, 1] - m[2, 2], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0]],
            [0, 0, m[1, 1] - m[0, 0] - m[2, 2], m[1, 2] + m[2, 1]],
            [0, 0, 0, m[2, 2] - m[0, 0] - m[1, 1]],
        ]
    )
    quaternion = np.linalg.eigh(k + np.triu(k, 1).T)[1][:, -1]
    return -quaternion if quaternion[0] < 0 else quaternion


def slerp(start, end, share):
    """Spherical interpolation [..., 4] from ``start`` to ``end`` along the shorter arc; ``share`` is in 0–1."""
    start, end = normalise(start), normalise(end)
    cosine = (start * end).sum(-1, keepdims=True)
    end = np.where(cosine < 0, -end, end)
    angle = np.arccos(np.clip(np.abs(cosine), 0, 1))
    sine = np.sin(angle)
    near = sine < 1e-6
    safe = np.where(near, 1, sine)
    first = np.where(near, 1 - share, np.sin((1 - share) * angle) / safe)
    second = np.where(near, share, np.sin(share * angle) / safe)
    return normalise(first * start + second * end)


def blend(start, end, share):
    """Slerp between two rotation matrices [3, 3]."""
    return to_matrix(slerp(from_matrix(start), from_matrix(end), share))


def shortest(source, target):
    """The rotation [3, 3] of least angle that takes direction ``source`` [3] to ``target`` [3] (not opposite)."""
    a, b = normalise(source), normalise(target)
    v = np.cross(a, b)
    cross = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    return np.eye(3) + cross + cross @ cross / (1 + a @ b)


def frame(direction, hinge):
    """Orthonormal columns [3, 3]: ``direction``, the part of ``hinge`` across it, and their cross product."""
    d = normalise(direction)
    h = normalise(hinge - (hinge @ d) * d)
    return np.stack([d, h, np.cross(d, h)], axis=1)


def about_z(angle):
    """Rotation matrix [3, 3] by ``angle`` radians about +z."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
