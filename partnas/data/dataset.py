"""Annotated frames as tensors for training and evaluation."""

from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from partnas.data.augmentation import Augmentation
from partnas.data.crop import apply_transform, crop_transform, depth_to_voxels, expand_boxes, voxels_to_camera, warp
from partnas.data.human36m import Human36M
from partnas.data.images import normalise, read_image
from partnas.errors import PartnasError
from partnas.skeleton import ROOT, mirrored_parts


class PoseDataset(Dataset):
    """Crops and voxel targets of annotated frames.

    ``dataset[index]`` or ``dataset[epoch, index]`` gives ``image`` float32 ``(3, S, S)``, ``coordinates`` float32
    ``(18, 3)`` in voxels, ``visible`` float32 ``(18,)``, ``has_depth`` float32 scalar and ``index`` int64. A part that
    is outside the crop or the depth range is not visible. Augmentation depends on ``(seed, epoch, index)`` alone.

    Args:
        source: The frames.
        input_size: Side S of the crop in pixels.
        heatmap_size: Voxels across the crop.
        depth: Voxels along z.
        augmentation: What to vary, or None.
        seed: Of the augmentation.
        cache: Keep decoded images in memory: for small sets (a 160² image takes 77 kB). Worker processes keep their own.
    """

    def __init__(
        self,
        source: Human36M,
        input_size: int,
        heatmap_size: int,
        depth: int,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        cache: bool = False,
    ):
        self.source = source
        self.input_size, self.heatmap_size, self.depth = input_size, heatmap_size, depth
        self.augmentation, self.seed = augmentation, seed
        self.boxes = expand_boxes(source.bboxes, source.image_sizes)
        self._cached: dict[int, np.ndarray] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, torch.Tensor]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(index)
        source, size = self.source, self.input_size
        image = self._image(index)
        joints = source.joints_image[index]  # [18, 2]
        relative_depth = source.joints_camera[index, :, 2] - source.joints_camera[index, ROOT, 2]
        visible = source.visible[index]
        if self.augmentation is None:
            transform = crop_transform(self.boxes[index], size)
            crop = warp(image, transform, size)
        else:
            random = np.random.default_rng([self.seed, epoch, index])
            drawn = self.augmentation.draw(random)
            transform = crop_transform(self.boxes[index], size, drawn.rotation, drawn.scale, drawn.flip)
            crop = self.augmentation.occlude(warp(image, transform, size), random)
            crop = np.clip(crop * drawn.colour.astype(np.float32), 0, 255)
            if drawn.flip:
                swap = mirrored_parts()
                joints, relative_depth, visible = joints[swap], relative_depth[swap], visible[swap]
        xy = apply_transform(transform, joints) / size * self.heatmap_size  # [18, 2]
        z = depth_to_voxels(relative_depth, self.depth)  # [18]
        inside = (xy >= 0).all(1) & (xy < self.heatmap_size).all(1) & (z >= 0) & (z < self.depth)
        return {
            "image": torch.from_numpy(normalise(crop)),
            "coordinates": torch.from_numpy(np.column_stack([xy, z]).astype(np.float32)),
            "visible": torch.from_numpy((visible & inside).astype(np.float32)),
            "has_depth": torch.tensor(1.0),
            "index": torch.tensor(index),
        }

    def to_camera(self, xyz: np.ndarray) -> np.ndarray:
        """Camera millimetres ``(N, 18, 3)`` of predictions ``(N, 18, 3)`` in voxels for all frames, without augmentation.

        The pelvis's depth is the annotation's.
        """
        source = self.source
        root_depth = source.joints_camera[:, ROOT, 2]
        return voxels_to_camera(
            xyz, self.boxes, source.focal, source.principal, root_depth, self.heatmap_size, self.depth
        )

    def _image(self, index: int) -> np.ndarray:
        if self._cached is None:
            return read_image(self.source.image_path(index))
        if index not in self._cached:
            self._cached[index] = read_image(self.source.image_path(index))
        return self._cached[index]


def mean_pose(source: Human36M) -> np.ndarray:
    """The mean root-relative pose ``(18, 3)`` of a set, in camera millimetres."""
    return (source.joints_camera - source.joints_camera[:, [ROOT]]).mean(0)


def embedded_root() -> Path:
    """The folder of the rendered sample that ships with the package."""
    root = Path(__file__).parent / "sample"
    if not (root / "annotations").is_dir():
        raise PartnasError(f"{root}: the embedded sample is missing from this installation; install partnas again")
    return root


cv2.setNumThreads(0)
