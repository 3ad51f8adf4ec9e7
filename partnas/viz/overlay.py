"""Skeletons drawn over pictures."""

from collections.abc import Sequence

import cv2
import numpy as np

from partnas.errors import PartnasError
from partnas.skeleton import HUMAN36M, Skeleton
from partnas.viz.colours import bone_colour, rgb, side_colour

SUBPIXEL_BITS = 4
HALO = (255, 255, 255)
HALO_OPACITY = 0.75


def draw_pose(
    image: np.ndarray,
    joints_image: np.ndarray,
    visible: np.ndarray | None = None,
    side: int | None = None,
    skeleton: Skeleton = HUMAN36M,
) -> np.ndarray:
    """The picture with the skeleton over it: the person's right side orange, left blue, trunk green.

    Line widths follow the size of the person. A part without bones has no dot: Human3.6M's Thorax lies on Neck's.

    Args:
        image: ``(H, W, 3)`` RGB uint8.
        joints_image: ``(P, 2)`` pixels of ``image``; parts that are not finite, or far outside, are left out.
        visible: ``(P,)``; parts that are not are left out, and so are their bones.
        side: Enlarge the picture first, so that its shorter side has this many pixels; a larger picture stays.
        skeleton: Whose parts they are.

    Returns:
        ``(H', W', 3)`` RGB uint8; ``image`` is not changed.

    Raises:
        PartnasError: An array has another shape or dtype.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise PartnasError(f"image: {image.dtype} {image.shape}; give an (H, W, 3) RGB uint8 array")
    joints = np.asarray(joints_image, dtype=np.float64)
    if joints.shape != (len(skeleton.parts), 2):
        raise PartnasError(f"joints_image: shape {joints.shape}; give ({len(skeleton.parts)}, 2) pixels")
    picture, factor = enlarge(image, side)
    joints = joints * factor
    shown = np.isfinite(joints).all(1)
    if visible is not None:
        shown &= np.asarray(visible, dtype=bool)
    shown &= (np.abs(np.where(shown[:, None], joints, 0)) < 4 * max(picture.shape[:2])).all(1)
    width = line_width(joints[shown], picture.shape)
    points = (np.where(shown[:, None], joints, 0) * 2**SUBPIXEL_BITS).round().astype(int).tolist()
    bones = [bone for bone in skeleton.bones if shown[list(bone)].all()]
    dots = [place for place in np.flatnonzero(shown).tolist() if place in np.ravel(skeleton.bones)]
    radius = 0.85 * width
    margin = max(1.0, 0.3 * width)

    halo = picture.copy()
    for first, second in bones:
        _line(halo, points[first], points[second], HALO, width + 2 * round(margin))
    for place in dots:
        _dot(halo, points[place], HALO, radius + margin)
    picture = cv2.addWeighted(halo, HALO_OPACITY, picture, 1 - HALO_OPACITY, 0)
    for bone in bones:
        _line(picture, points[bone[0]], points[bone[1]], rgb(bone_colour(bone, skeleton)), width)
    for place in dots:
        _dot(picture, points[place], rgb(side_colour(skeleton.parts[place])), radius)
        if width >= 4:
            _dot(picture, points[place], HALO, 0.4 * width)
    return picture


def enlarge(image: np.ndarray, side: int | None) -> tuple[np.ndarray, float]:
    """``image`` with at least ``side`` pixels on its shorter side, and the factor by which it grew."""
    factor = (side or 0) / min(image.shape[:2])
    if factor <= 1:
        return image.copy(), 1.0
    height, width = (round(length * factor) for length in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC), factor


def line_width(joints: np.ndarray, shape: tuple[int, ...]) -> int:
    """Whole pixels: a fiftieth of the person's extent, but in reason for the picture."""
    extent = np.ptp(joints, axis=0).max() if len(joints) else 0
    return max(1, round(float(np.clip(extent, 0.25 * min(shape[:2]), max(shape[:2]))) / 55))


def picture_grid(images: Sequence[np.ndarray], columns: int, gap: int = 8) -> np.ndarray:
    """Pictures in rows of ``columns``, on white, each in the middle of a place as large as the largest.

    Args:
        images: ``(H, W, 3)`` RGB uint8 each.
        gap: Pixels between places.

    Returns:
        ``(H', W', 3)`` RGB uint8.

    Raises:
        PartnasError: There is no picture, or no column.
    """
    if not len(images) or columns < 1:
        raise PartnasError(f"picture_grid: {len(images)} pictures in {columns} columns; give at least one of each")
    columns = min(columns, len(images))
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    rows = -(-len(images) // columns)
    grid = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for place, image in enumerate(images):
        row, column = divmod(place, columns)
        top = row * (height + gap) + (height - image.shape[0]) // 2
        left = column * (width + gap) + (width - image.shape[1]) // 2
        grid[top : top + image.shape[0], left : left + image.shape[1]] = image
    return grid


def _line(picture: np.ndarray, first: list[int], second: list[int], colour: tuple, width: int) -> None:
    cv2.line(picture, tuple(first), tuple(second), colour, width, cv2.LINE_AA, SUBPIXEL_BITS)


def _dot(picture: np.ndarray, centre: list[int], colour: tuple, radius: float) -> None:
    cv2.circle(picture, tuple(centre), round(radius * 2**SUBPIXEL_BITS), colour, -1, cv2.LINE_AA, SUBPIXEL_BITS)
