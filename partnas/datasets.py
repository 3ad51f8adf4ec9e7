"""Which people a job reads: the sets that it names and their splits, as data sets of tensors."""

import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from partnas.config import FOLDERS, DataConfig, JobConfig, SetConfig
from partnas.data import (
    SPLITS,
    Frames,
    PoseDataset,
    RootDataset,
    coco,
    embedded_root,
    human36m,
    mixed,
    mpii,
    muco,
    read_coco,
    read_human36m,
    read_mpii,
    read_muco,
)
from partnas.errors import PartnasError
from partnas.nn.root_net import HEATMAP_STRIDE
from partnas.space import SearchSpace

SEARCH_TRAIN, SEARCH_VALIDATION, TRAIN, TEST = "search_train", "search_validation", "train", "test"
log = logging.getLogger(__name__)
ANNOTATIONS = {
    "muco": muco.ANNOTATIONS, "mpii": mpii.ANNOTATIONS, "coco": coco.annotation_file(Path(), coco.SPLITS[0]),
}  # fmt: skip
READERS = {"muco": read_muco, "mpii": read_mpii, "coco": read_coco}


def folder_of(chosen: SetConfig) -> Path:
    """The folder of a set: the one that is named, or the set's own in it; the embedded sample where none is named."""
    if chosen.root is None:
        return embedded_root()
    root = Path(chosen.root)
    if not root.is_dir():
        raise PartnasError(
            f"{root}: no such folder; --data names that of {chosen.name}, or of another set as NAME=DIR with NAME one "
            f"of {', '.join(FOLDERS)}"
        )
    return own_folder(root, chosen.name)


def own_folder(root: Path, name: str) -> Path:
    """The set's own folder below ``root`` where it has one there, else ``root``."""
    inside = root / FOLDERS[name]
    return inside if inside.is_dir() else root


def annotation_files(chosen: SetConfig, data: DataConfig, split: str) -> list[Path]:
    """The files that a split of a set has its annotations in.

    Raises:
        PartnasError: The set's folder is missing, or it has no such split.
    """
    root = folder_of(chosen)
    if chosen.name == "human36m":
        return [path for subject in SPLITS[data.protocol][split] for path in human36m.annotation_files(root, subject)]
    _require_training(chosen, root, split)
    return [root / ANNOTATIONS[chosen.name]]


def _require_training(chosen: SetConfig, root: Path, split: str) -> None:
    if split not in (TRAIN, SEARCH_TRAIN):
        raise PartnasError(
            f"{root}: {chosen.name} is read for training alone; name a human36m set to search or to evaluate on"
        )


def require_annotations(data: DataConfig, training: str, measured: str) -> None:
    """See that the annotation files of a job are there: of all sets those it trains on, of the first those it measures.

    Raises:
        PartnasError: One of them, a set's folder or the file of boxes and roots is missing, or the first set has no such
            split.
    """
    first, *others = data.in_order()
    for chosen, split in ((first, training), (first, measured), *((other, training) for other in others)):
        for path in annotation_files(chosen, data, split):
            if not os.path.isfile(path):
                raise PartnasError(f"{path}: is missing; copy it, or name another folder by --data")
    if data.roots is not None and not os.path.isfile(data.roots):
        raise PartnasError(f"{data.roots}: is missing; mend data.roots")


def read(chosen: SetConfig, data: DataConfig, split: str) -> Frames:
    """The people of a set; of Human3.6M those of a split, subsampled as the protocol says.

    The boxes and root depths of the test people are those of ``data.roots`` where that is given.

    Raises:
        PartnasError: The set is missing or broken, or has no such split.
    """
    root = folder_of(chosen)
    if chosen.name == "human36m":
        stride, roots = (data.test_stride, data.roots) if split == TEST else (data.train_stride, None)
        return read_human36m(root, SPLITS[data.protocol][split], stride, roots, data.skip_broken)
    _require_training(chosen, root, split)
    return READERS[chosen.name](root, skip_broken=data.skip_broken)


def frames(data: DataConfig, split: str) -> Frames:
    """A split of the first 3D set."""
    return read(data.in_order()[0], data, split)


def training_frames(data: DataConfig) -> Frames | None:
    """The training people of the first 3D set, for a measurement on its test people that can do without them.

    None, and one logged warning, where files of a training subject of Human3.6M are not there: a mean over the others
    would be another figure.

    Raises:
        PartnasError: What is there is broken.
    """
    first = data.in_order()[0]
    if first.name == "human36m":
        root = folder_of(first)
        absent = sorted(set(SPLITS[data.protocol][TRAIN]) - set(human36m.subjects_in(root)))
        if absent:
            names = ", ".join(map(str, absent))
            log.warning("%s: no training subjects %s; what their mean would give is not measured", root, names)
            return None
    return frames(data, TRAIN)


def name_of(data: DataConfig) -> str:
    """What to call the first 3D set."""
    root = data.in_order()[0].root
    return "embedded sample" if root is None else Path(root).resolve().name


def account(source: Frames) -> dict[str, Any]:
    """How many people are read, with and without depth, and who is left out, in a form that JSON can hold."""
    return {
        "sets": source.name,
        "people": len(source),
        "with_depth": int(np.count_nonzero(source.has_depth)),
        "left_out": source.left_out,
        "skipped": source.skipped,
    }


def as_dataset(source: Frames, space: SearchSpace, data: DataConfig, **options) -> PoseDataset:
    return PoseDataset(source, space.input_size, space.heatmap_size, space.depth, cache=data.cache, **options)


def as_root_dataset(source: Frames, input_size: int, data: DataConfig, **options) -> RootDataset:
    return RootDataset(source, input_size, input_size // HEATMAP_STRIDE, depth=1, cache=data.cache, **options)


def training_set(config: JobConfig, split: str) -> PoseDataset:
    """All sets, mixed, with augmentation."""
    sets = [read(chosen, config.data, split) for chosen in config.data.in_order()]
    return _augmented(config, sets, _pose_dataset_of(config))


def training_and_monitor_sets(
    config: JobConfig, split: str, make: Callable[..., PoseDataset] | None = None
) -> tuple[PoseDataset, PoseDataset]:
    """:func:`training_set` without ``monitor_frames`` evenly spaced frames of the first 3D set, and those without
    augmentation.

    ``make(people, **options)`` makes a data set of people; one of poses where left out.
    """
    make = make or _pose_dataset_of(config)
    first, *others = (read(chosen, config.data, split) for chosen in config.data.in_order())
    held_out = _evenly_spaced(len(first), min(config.data.monitor_frames, len(first) // 10))
    rest = np.setdiff1d(np.arange(len(first)), held_out)
    return _augmented(config, [first.subset(rest), *others], make), make(first.subset(held_out))


def plain_set(config: JobConfig, split: str) -> PoseDataset:
    return as_dataset(frames(config.data, split), config.space(), config.data)


def spread(config: JobConfig, split: str, count: int) -> PoseDataset:
    """``count`` evenly spaced frames of a split, without augmentation."""
    source = frames(config.data, split)
    return as_dataset(source.subset(_evenly_spaced(len(source), count)), config.space(), config.data)


def _pose_dataset_of(config: JobConfig) -> Callable[..., PoseDataset]:
    return functools.partial(as_dataset, space=config.space(), data=config.data)


def _augmented(config: JobConfig, sets: list[Frames], make: Callable[..., PoseDataset]) -> PoseDataset:
    return make(mixed(sets, config.space().body), augmentation=config.augmentation, seed=config.seed)


def _evenly_spaced(length: int, count: int) -> np.ndarray:
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int))
