"""From a person's box to the network's crop and back: pixels, voxels, camera millimetres.

Positions are continuous: in an image of width W, x runs from 0 at the left edge of the first pixel to W at the right
edge of the last, so pixel i covers [i, i + 1) and a mirror is x' = W − x. A box ``[xmin, ymin, width, height]`` maps to
the crop by x_crop = (x − xmin) / width · S, and to the volume by x_voxel = x_crop / S · heatmap_size. The annotated
joints of the field's sets use the same formula with pixel centres at integers, a difference of half a pixel that no
protocol resolves.

Depth: z = ((Z − Z_root) / 1000 + 1) / 2 · D, a box of 2 m about the root.
"""

import cv2
import numpy as np

from partnas.data.images import SMALL, averaged

DEPTH_HALF_RANGE = 1000.0
"""Millimetres in front of and behind the root that the volume covers."""


def expand_boxes(bboxes: np.ndarray, image_sizes: np.ndarray, aspect: float = 1.0, factor: float = 1.25) -> np.ndarray:
    """The crops' boxes: clipped to the image, widened to ``aspect``, enlarged by ``factor`` about their centres.

    Args:
        bboxes: ``(N, 4)`` ``[xmin, ymin, width, height]`` in pixels.
        image_sizes: ``(N, 2)`` width and height in pixels.
        aspect: Width over height of the network's input.

    Returns:
        ``(N, 4)`` ``[xmin, ymin, width, height]`` float64 (it may reach beyond the image); NaN where less than a pixel
        of the box, across or down, lies inside the image.
    """
    bboxes = np.asarray(bboxes, dtype=np.float64)
    near = np.maximum(bboxes[:, :2], 0)
    far = np.minimum(bboxes[:, :2] + bboxes[:, 2:], image_sizes)
    clipped = far - near  # [N, 2]
    width = np.maximum(clipped[:, 0], clipped[:, 1] * aspect) * factor
    size = np.column_stack([width, width / aspect])
    boxes = np.column_stack([(near + far - size) / 2, size])
    boxes[~(clipped >= 1).all(1)] = np.nan
    return boxes


def expand_box(
    bbox: np.ndarray, image_size: tuple[int, int], aspect: float = 1.0, factor: float = 1.25
) -> np.ndarray | None:
    """:func:`expand_boxes` of one box ``(4,)``; None where less than a pixel of it lies inside the image."""
    box = expand_boxes(np.asarray(bbox)[None], np.asarray(image_size)[None], aspect, factor)[0]
    return None if np.isnan(box[0]) else box


def crop_transform(
    box: np.ndarray, size: int, rotation: float = 0.0, scale: float = 1.0, flip: bool = False
) -> np.ndarray:
    """The affine map from image pixels to crop pixels.

    Args:
        box: ``[xmin, ymin, width, height]`` in pixels.
        size: Side of the crop in pixels.
        rotation: Degrees, counter-clockwise as seen on the screen, about the box's centre.
        scale: Enlarges the box, so that the person looks smaller by as much.
        flip: Mirrors the crop left to right, after the rotation.

    Returns:
        ``(2, 3)`` float64, on continuous positions.
    """
    centre = box[:2] + box[2:] / 2
    angle = np.deg2rad(rotation)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    linear = (size / (box[2:] * scale))[:, None] * turn
    if flip:
        linear[0] *= -1
    return np.column_stack([linear, size / 2 - linear @ centre])


def apply_transform(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Map points ``(N, 2)`` by a ``(2, 3)`` affine map."""
    return points @ transform[:, :2].T + transform[:, 2]


def warp(image: np.ndarray, transform: np.ndarray, size: int) -> np.ndarray:
    """Resample ``(H, W, 3)`` to ``(size, size, 3)`` in one pass; black outside the image.

    A crop that shrinks the image by two or more is taken from an image reduced by area averaging first, since bilinear
    sampling alone would alias.
    """
    shrink = min(int(shrink_of(transform)), *image.shape[:2])
    if shrink >= 2:
        image = averaged(image, shrink)
        transform = of_reduced(transform, shrink)
    # OpenCV puts pixel centres at integers: shift by half a pixel on both sides.
    centred = transform.copy()
    centred[:, 2] += transform[:, :2] @ [0.5, 0.5] - 0.5
    part, offset = _sampled(image, centred, size)
    centred[:, 2] += centred[:, :2] @ offset
    # Four channels take OpenCV less than half of the time of three.
    four = cv2.cvtColor(part, cv2.COLOR_RGB2RGBA)
    crop = cv2.warpAffine(four, centred, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return cv2.cvtColor(crop, cv2.COLOR_RGBA2RGB)


def shrink_of(transform: np.ndarray) -> float:
    """How many pixels of the image a pixel of the crop spans, across as down."""
    (a, b, _), (c, d, _) = transform.tolist()
    return abs(a * d - b * c) ** -0.5


def of_reduced(transform: np.ndarray, reduction: int) -> np.ndarray:
    """The transform for an image that is ``reduction`` times smaller."""
    return np.column_stack([transform[:, :2] * reduction, transform[:, 2]])


def _sampled(image: np.ndarray, transform: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The part of a large image that a crop samples, and its offset (x, y) in the image; a small one as it is."""
    if image.shape[0] * image.shape[1] <= SMALL:
        return image, np.zeros(2)
    corners = np.array([[-1, -1], [-1, size], [size, -1], [size, size]])
    corners = apply_transform(cv2.invertAffineTransform(transform), corners)
    limit = [image.shape[1], image.shape[0]]
    low = np.clip(np.floor(corners.min(0)).astype(int) - 1, 0, limit)
    high = np.clip(np.ceil(corners.max(0)).astype(int) + 2, 0, limit)
    if (high <= low).any():
        return image, np.zeros(2)
    return image[low[1] : high[1], low[0] : high[0]], low


def crop_image(image: np.ndarray, box: np.ndarray, size: int) -> np.ndarray:
    """The plain crop ``(size, size, 3)`` of an RGB image."""
    return warp(image, crop_transform(box, size), size)


def camera_to_voxels(
    joints_camera: np.ndarray,
    boxes: np.ndarray,
    focal: np.ndarray,
    principal: np.ndarray,
    root_depth: np.ndarray,
    heatmap_size: int,
    depth: int,
) -> np.ndarray:
    """Camera millimetres to voxels; the inverse of :func:`voxels_to_camera`, with the same shapes."""
    pixels = joints_camera[..., :2] / joints_camera[..., 2:] * focal[:, None] + principal[:, None]  # [N, P, 2]
    xy = (pixels - boxes[:, None, :2]) / boxes[:, None, 2:] * heatmap_size
    z = depth_to_voxels(joints_camera[..., 2] - root_depth[:, None], depth)
    return np.concatenate([xy, z[..., None]], axis=-1)


def voxels_to_camera(
    xyz: np.ndarray,
    boxes: np.ndarray,
    focal: np.ndarray,
    principal: np.ndarray,
    root_depth: np.ndarray,
    heatmap_size: int,
    depth: int,
) -> np.ndarray:
    """Voxels to camera millimetres, by back-projection at the root's depth.

    Args:
        xyz: ``(N, P, 3)`` voxels (x, y, z).
        boxes: ``(N, 4)`` crop boxes in pixels.
        focal: ``(N, 2)`` pixels.
        principal: ``(N, 2)`` pixels.
        root_depth: ``(N,)`` millimetres from the camera to the pelvis, along the camera's z axis.
        heatmap_size: Voxels across the crop.
        depth: Voxels along z.

    Returns:
        ``(N, P, 3)`` millimetres in camera axes: x right, y down, z away from the camera.
    """
    xyz = np.asarray(xyz, dtype=np.float64)
    pixels = xyz[..., :2] / heatmap_size * boxes[:, None, 2:] + boxes[:, None, :2]  # [N, P, 2]
    z = (xyz[..., 2] / depth * 2 - 1) * DEPTH_HALF_RANGE + root_depth[:, None]  # [N, P]
    xy = (pixels - principal[:, None]) / focal[:, None] * z[..., None]
    return np.concatenate([xy, z[..., None]], axis=-1)


def depth_to_voxels(relative_depth: np.ndarray, depth: int) -> np.ndarray:
    """Millimetres behind the root to voxels along z."""
    return (relative_depth / DEPTH_HALF_RANGE + 1) / 2 * depth
