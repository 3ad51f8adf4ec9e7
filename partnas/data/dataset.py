"""Annotated people as tensors for training and evaluation."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from partnas.data.augmentation import Augmentation
from partnas.data.crop import (
    apply_transform,
    crop_transform,
    depth_to_voxels,
    expand_boxes,
    of_reduced,
    shrink_of,
    voxels_to_camera,
    warp,
)
from partnas.data.frames import Frames
from partnas.data.images import normalise, read_image, reduction_for
from partnas.errors import PartnasError


class PoseDataset(Dataset):
    """Crops and voxel targets of annotated people.

    ``dataset[index]`` or ``dataset[turn, index]`` gives ``image`` float32 ``(3, S, S)``, ``coordinates`` float32
    ``(P, 3)`` in voxels, ``visible`` float32 ``(P,)``, ``has_depth`` float32 scalar, ``area`` float32 scalar, the pixels
    of the image that the crop covers, and ``index`` int64. A part that is outside the crop or, where the depth is known,
    outside the depth range is not visible; a coordinate that is not known is 0. Augmentation depends on ``(seed, turn,
    index)`` alone.

    Args:
        source: The people.
        input_size: Side S of the crop in pixels.
        heatmap_size: Voxels across the crop.
        depth: Voxels along z.
        augmentation: What to vary, or None.
        seed: Of the augmentation.
        cache: Keep decoded images in memory: for small sets (a 160² image takes 77 kB). Worker processes keep their own,
            and those of a job begin anew each epoch.
    """

    def __init__(
        self,
        source: Frames,
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
        if augmentation is not None and augmentation.occlusion_probability:
            augmentation.objects()  # a missing folder is told now, and what is read is shared with forked workers
        extended = expand_boxes(source.bboxes, source.image_sizes)
        self.boxes = np.where(source.boxes_are_extended[:, None], source.bboxes, extended)
        self._cached: dict[tuple[bytes, int], np.ndarray] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.source)

    @property
    def has_depth(self) -> np.ndarray:
        """``(N,)`` bool, who comes with 3D annotation."""
        return self.source.has_depth

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, torch.Tensor]:
        turn, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(index)
        source, size = self.source, self.input_size
        joints = source.joints_image[index]  # [P, 2]
        relative_depth = source.joints_camera[index, :, 2] - source.joints_camera[index, source.skeleton.root, 2]
        visible = source.visible[index]
        if self.augmentation is None:
            transform = crop_transform(self.boxes[index], size)
            crop, colour = self._crop(index, transform), None
        else:
            random = np.random.default_rng([self.seed, turn, index])
            drawn = self.augmentation.draw(random)
            transform = crop_transform(self.boxes[index], size, drawn.rotation, drawn.scale, drawn.flip)
            crop, colour = self.augmentation.occlude(self._crop(index, transform), random), drawn.colour
            if drawn.flip:
                swap = source.skeleton.mirrored()
                joints, relative_depth, visible = joints[swap], relative_depth[swap], visible[swap]
        xy = apply_transform(transform, joints) / size * self.heatmap_size  # [P, 2]
        z = depth_to_voxels(relative_depth, self.depth)  # [P]
        inside = (xy >= 0).all(1) & (xy < self.heatmap_size).all(1)
        if source.has_depth[index]:
            inside &= (z >= 0) & (z < self.depth)
        return {
            "image": torch.from_numpy(normalise(crop, colour)),
            "coordinates": torch.from_numpy(np.nan_to_num(np.column_stack([xy, z]).astype(np.float32))),
            "visible": torch.from_numpy((visible & inside).astype(np.float32)),
            "has_depth": torch.tensor(float(source.has_depth[index])),
            "area": torch.tensor((size * shrink_of(transform)) ** 2, dtype=torch.float32),
            "index": torch.tensor(index),
        }

    def to_camera(self, xyz: np.ndarray) -> np.ndarray:
        """Camera millimetres ``(N, P, 3)`` of predictions ``(N, P, 3)`` in voxels for all people, without augmentation.

        The pelvis's depth is ``source.root_depth``; NaN where that is not known.
        """
        source = self.source
        return voxels_to_camera(
            xyz, self.boxes, source.focal, source.principal, source.root_depth, self.heatmap_size, self.depth
        )

    def _crop(self, index: int, transform: np.ndarray) -> np.ndarray:
        reduction = reduction_for(shrink_of(transform), self.source.image_sizes[index])
        return warp(self._image(index, reduction), of_reduced(transform, reduction), self.input_size)

    def _image(self, index: int, reduction: int) -> np.ndarray:
        if self._cached is None:
            return self._read(index, reduction)
        key = self.source.image_names[index], reduction
        if key not in self._cached:
            self._cached[key] = self._read(index, reduction)
        return self._cached[key]

    def _read(self, index: int, reduction: int) -> np.ndarray:
        source = self.source
        return read_image(
            source.image_path(index), reduction, source.image_sizes[index].tolist(), image_id=source.image_ids[index]
        )


def collate(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Samples as a batch, whose images ``(B, 3, S, S)`` are channels-last as the networks want them."""
    last = [{**sample, "image": sample["image"].permute(1, 2, 0)} for sample in samples]
    batch = default_collate(last)
    return {**batch, "image": batch["image"].permute(0, 3, 1, 2)}


def batches_of(
    dataset: Dataset, batch_size: int, workers: int = 0, **options: Any
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of a data set as :func:`collate` makes them; ``options`` are those of ``DataLoader``.

    Raises:
        PartnasError: A sample cannot be read: the same one line, whichever process found it.
    """
    try:
        yield from DataLoader(dataset, batch_size, num_workers=workers, collate_fn=collate, **options)
    except PartnasError as error:
        # A worker's error comes with its traceback as the message, the error itself last.
        raise PartnasError(str(error).strip().rsplit(f"{PartnasError.__name__}: ", 1)[-1]) from None


def mean_pose(source: Frames) -> np.ndarray:
    """The mean root-relative pose ``(P, 3)`` of a set, in camera millimetres, over the people with depth."""
    joints = source.joints_camera[source.has_depth]
    return (joints - joints[:, [source.skeleton.root]]).mean(0)


def embedded_root() -> Path:
    """The folder of the rendered sample that ships with the package."""
    root = Path(__file__).parent / "sample"
    if not (root / "annotations").is_dir():
        raise PartnasError(f"{root}: the embedded sample is missing from this installation; install partnas again")
    return root


cv2.setNumThreads(0)
