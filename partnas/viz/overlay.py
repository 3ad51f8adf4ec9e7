"""Skeletons drawn over pictures."""

from collections.abc import Sequence

import cv2
import numpy as np

from partnas.skeleton import BONES, THORAX
from partnas.viz.colours import bone_colour, rgb, side_colour

SUBPIXEL_BITS = 4


def draw_pose(
    image: np.ndarray, joints_image: np.ndarray, visible: np.ndarray | None = None, side: int | None = None
) -> np.ndarray:
    """The picture with the 18-part skeleton over it: the person's right side orange, left blue, trunk green.

    Args:
        image: ``(H, W, 3)`` RGB uint8.
        joints_image: ``(18, 2)`` pixels.
        visible: ``(18,)``; parts that are not are left out, and so are their bones.
        side: Enlarge the picture first, so that its shorter side has this many pixels.

    Returns:
        ``(H', W', 3)`` RGB uint8; ``image`` is not changed.
    """
    joints = np.asarray(joints_image, dtype=np.float64)
    shown = np.isfinite(joints).all(1)
    if visible is not None:
        shown &= np.asarray(visible, dtype=bool)
    picture = image.copy()
    factor = (side or 0) / min(image.shape[:2])
    if factor > 1:
        picture = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        joints = joints * factor
    limit = 4 * max(picture.shape[:2])
    shown &= (np.abs(joints) < limit).all(1)
    width = max(1, round(_extent(joints[shown], picture.shape) / 60))
    points = np.where(shown[:, None], joints, 0) * 2**SUBPIXEL_BITS
    points = points.round().astype(int)
    for outline in (True, False):
        for bone in BONES:
            if shown[list(bone)].all():
                colour = (20, 20, 20) if outline else rgb(bone_colour(bone))
                first, second = (tuple(int(v) for v in points[part]) for part in bone)
                cv2.line(picture, first, second, colour, width + 2 * outline, cv2.LINE_AA, SUBPIXEL_BITS)
    for part in np.flatnonzero(shown):
        if part != THORAX:
            centre, radius = tuple(int(v) for v in points[part]), round(width * 1.1 * 2**SUBPIXEL_BITS)
            cv2.circle(picture, centre, radius + 2**SUBPIXEL_BITS, (255, 255, 255), -1, cv2.LINE_AA, SUBPIXEL_BITS)
            cv2.circle(picture, centre, radius, rgb(side_colour(part)), -1, cv2.LINE_AA, SUBPIXEL_BITS)
    return picture


def picture_grid(images: Sequence[np.ndarray], columns: int, gap: int = 4) -> np.ndarray:
    """Pictures ``(H, W, 3)`` of one size in rows of ``columns``, on white."""
    height, width = images[0].shape[:2]
    rows = -(-len(images) // columns)
    grid = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for place, image in enumerate(images):
        top, left = place // columns * (height + gap), place % columns * (width + gap)
        grid[top : top + height, left : left + width] = image
    return grid


def _extent(joints: np.ndarray, shape: tuple[int, ...]) -> float:
    """How many pixels the person is across, at most the picture's diagonal."""
    if len(joints) < 2:
        return min(shape[:2])
    return float(min(np.ptp(joints, axis=0).max() * 1.2, np.hypot(*shape[:2])))
