"""Which frames a job reads: the splits of Human3.6M's protocols, as data sets of tensors."""

from pathlib import Path

import numpy as np

from partnas.config import DataConfig, JobConfig
from partnas.data import SPLITS, Frames, PoseDataset, embedded_root, read_human36m
from partnas.errors import PartnasError
from partnas.space import SearchSpace

SEARCH_TRAIN, SEARCH_VALIDATION, TRAIN, TEST = "search_train", "search_validation", "train", "test"


def root_of(data: DataConfig) -> Path:
    """The folder that the configuration names, or the embedded sample."""
    if data.root is None:
        return embedded_root()
    root = Path(data.root)
    if not root.is_dir():
        raise PartnasError(f"{root}: no such folder; --data names the one that holds images/ and annotations/")
    return root


def frames(data: DataConfig, split: str) -> Frames:
    """The annotated frames of a split, subsampled as the protocol says."""
    stride = data.test_stride if split == TEST else data.train_stride
    return read_human36m(root_of(data), SPLITS[data.protocol][split], stride=stride)


def as_dataset(source: Frames, space: SearchSpace, data: DataConfig, **options) -> PoseDataset:
    return PoseDataset(source, space.input_size, space.heatmap_size, space.depth, cache=data.cache, **options)


def training_set(config: JobConfig, split: str) -> PoseDataset:
    return _augmented(config, frames(config.data, split))


def training_and_monitor_sets(config: JobConfig, split: str) -> tuple[PoseDataset, PoseDataset]:
    """The training set without ``monitor_frames`` evenly spaced frames, and those frames without augmentation."""
    source = frames(config.data, split)
    held_out = _evenly_spaced(len(source), min(config.data.monitor_frames, len(source) // 10))
    rest = np.setdiff1d(np.arange(len(source)), held_out)
    monitor = as_dataset(source.subset(held_out), config.space(), config.data)
    return _augmented(config, source.subset(rest)), monitor


def plain_set(config: JobConfig, split: str) -> PoseDataset:
    return as_dataset(frames(config.data, split), config.space(), config.data)


def spread(config: JobConfig, split: str, count: int) -> PoseDataset:
    """``count`` evenly spaced frames of a split, without augmentation."""
    source = frames(config.data, split)
    return as_dataset(source.subset(_evenly_spaced(len(source), count)), config.space(), config.data)


def _augmented(config: JobConfig, source: Frames) -> PoseDataset:
    return as_dataset(source, config.space(), config.data, augmentation=config.augmentation, seed=config.seed)


def _evenly_spaced(length: int, count: int) -> np.ndarray:
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int))
