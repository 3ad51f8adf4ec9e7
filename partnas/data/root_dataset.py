"""Where people's roots stand: RootNet's k, and its crops and targets (Moon et al. 2019)."""

import numpy as np
import torch

from partnas.data.crop import voxels_to_camera
from partnas.data.dataset import PoseDataset

PERSON_SIDE = 2000.0
"""Millimetres: k takes the extended box for a square of 2 m."""


def k_values(areas: np.ndarray, focal: np.ndarray) -> np.ndarray:
    """k = sqrt(2000 mm * 2000 mm * fx * fy / area): how far away something of 2 m by 2 m fills that many pixels.

    A root at depth gamma * k lies in a plane of which the box shows 2 m * gamma by 2 m * gamma. So gamma, which RootNet
    predicts, is a length that the picture shows, in units of 2 m.

    Args:
        areas: ``(...)`` pixels of the image inside the extended boxes.
        focal: ``(..., 2)`` pixels.

    Returns:
        ``(...)`` millimetres.
    """
    return PERSON_SIDE * np.sqrt(np.asarray(focal, dtype=np.float64).prod(-1) / areas)


class RootDataset(PoseDataset):
    """Crops and roots of annotated people.

    ``dataset[index]`` or ``dataset[turn, index]`` gives ``image`` float32 ``(3, S, S)``, ``root`` float32 ``(3,)``: x
    and y in voxels of the heatmap and the depth in millimetres, ``k`` float32 scalar in millimetres, ``visible``,
    ``has_depth`` float32 scalars, and ``index`` int64. The root is visible where the annotation says so and the crop
    holds it; its depth is 0 where it is not known.

    Augmentation changes neither camera nor depth, but it changes the box: k is that of the pixels which the augmented
    crop shows, so the target gamma = depth / k grows with a box that is enlarged, as the person then fills less of it.
    A turn about the box's centre and a mirror keep the area, and with it gamma.
    """

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, torch.Tensor]:
        sample = super().__getitem__(key)
        source, index = self.source, int(sample["index"])
        root = source.skeleton.root
        depth = source.joints_camera[index, root, 2] if source.has_depth[index] else 0.0
        x, y = sample["coordinates"][root, :2]
        return {
            "image": sample["image"],
            "root": torch.tensor([x, y, depth], dtype=torch.float32),
            "k": torch.tensor(k_values(float(sample["area"]), source.focal[index]), dtype=torch.float32),
            "visible": sample["visible"][root],
            "has_depth": sample["has_depth"],
            "index": sample["index"],
        }

    @property
    def k(self) -> np.ndarray:
        """Of the crops without augmentation, ``(N,)`` millimetres."""
        return k_values(self.boxes[:, 2:].prod(1), self.source.focal)

    def to_camera(self, xyg: np.ndarray) -> np.ndarray:
        """Camera millimetres ``(N, 3)`` of predictions ``(N, 3)``, x and y in voxels and gamma, without augmentation."""
        return roots_to_camera(xyg, self.boxes, self.source.focal, self.source.principal, self.heatmap_size)

    def roots(self) -> np.ndarray:
        """The annotated roots, ``(N, 3)`` camera millimetres; NaN where not known."""
        return self.source.joints_camera[:, self.source.skeleton.root].astype(np.float64)

    def targets(self) -> np.ndarray:
        """x and y in voxels and gamma, ``(N, 3)`` of the annotations without augmentation; NaN where not known."""
        source, root = self.source, self.source.skeleton.root
        xy = (source.joints_image[:, root] - self.boxes[:, :2]) / self.boxes[:, 2:] * self.heatmap_size
        return np.column_stack([xy, self.roots()[:, 2] / self.k])


def roots_to_camera(
    xyg: np.ndarray, boxes: np.ndarray, focal: np.ndarray, principal: np.ndarray, heatmap_size: int
) -> np.ndarray:
    """A RootNet's output to camera millimetres: depth = gamma * k, then back-projection.

    Args:
        xyg: ``(N, 3)``, x and y in voxels of the heatmap, and gamma.
        boxes: ``(N, 4)`` crop boxes in pixels.
        focal: ``(N, 2)`` pixels.
        principal: ``(N, 2)`` pixels.
        heatmap_size: Voxels across the crop.

    Returns:
        ``(N, 3)`` millimetres in camera axes: x right, y down, z away from the camera.
    """
    xyg = np.asarray(xyg, dtype=np.float64)
    depth = xyg[:, 2] * k_values(boxes[:, 2:].prod(1), focal)
    middle = np.column_stack([xyg[:, :2], np.full(len(xyg), 0.5)])  # the root's own depth is the volume's middle
    return voxels_to_camera(middle[:, None], boxes, focal, principal, depth, heatmap_size, depth=1)[:, 0]
