"""The annotated people of a data set, as arrays: what every loader gives and every job reads."""

import os
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from partnas.errors import PartnasError
from partnas.skeleton import Skeleton


@dataclass
class Frames:
    """N annotated people. Nothing is kept but arrays, which forked loader workers share without copying.

    Attributes:
        name: Of the set.
        skeleton: Which P parts the arrays hold, in which order.
        root: Folder below which the images stand.
        image_names: ``(N,)`` UTF-8 bytes below ``root``; see :meth:`image_path`.
        image_sizes: ``(N, 2)`` width and height in pixels, int32.
        bboxes: ``(N, 4)`` ``[xmin, ymin, width, height]`` in pixels, float64.
        joints_camera: ``(N, P, 3)`` millimetres in camera axes (x right, y down, z away), float32; NaN where the set
            has no 3D.
        joints_image: ``(N, P, 2)`` pixels, float32; NaN where a part is not annotated.
        visible: ``(N, P)`` bool; False for a part that is not annotated, or annotated as unseen.
        has_depth: ``(N,)`` bool, whether ``joints_camera`` is known.
        focal, principal: ``(N, 2)`` pixels, float64.
        root_depth: ``(N,)`` millimetres from the camera to the pelvis along z, float64; NaN where unknown.
        boxes_are_extended: ``(N,)`` bool, whether ``bboxes`` are crops already (those of a RootNet-style file are).
        ids, image_ids: ``(N,)`` int64, as the annotation file numbers people and images.
        action: ``(N,)`` text: Human3.6M's action, MuPoTS-3D's sequence, else empty.
        skipped: One line for each annotation, or image file, that was left out as broken.
        left_out: How many people the set's rules leave out, by reason.
    """

    name: str
    skeleton: Skeleton
    root: Path
    image_names: np.ndarray
    image_sizes: np.ndarray
    bboxes: np.ndarray
    joints_camera: np.ndarray
    joints_image: np.ndarray
    visible: np.ndarray
    has_depth: np.ndarray
    focal: np.ndarray
    principal: np.ndarray
    root_depth: np.ndarray
    boxes_are_extended: np.ndarray
    ids: np.ndarray
    image_ids: np.ndarray
    action: np.ndarray
    skipped: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def image_path(self, index: int) -> str:
        """The image file of a person."""
        return str(self.root / self.image_names[index].decode())

    @property
    def image_paths(self) -> "ImagePaths":
        """The image files of all people, made one at a time as they are asked for."""
        return ImagePaths(self)

    def subset(self, indices: np.ndarray | Sequence[int]) -> "Frames":
        """The people at ``indices``, in that order."""
        chosen = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                setattr(chosen, name, value[indices])
        return chosen

    def mapped_to(self, skeleton: Skeleton) -> "Frames":
        """The same people with the parts of another skeleton, by name; a part that this set lacks is invisible, NaN."""
        if skeleton == self.skeleton:
            return self
        places = self.skeleton.places_of(skeleton.parts)
        known = [place for place, source in enumerate(places) if source is not None]
        sources = [source for source in places if source is not None]
        mapped = copy(self)
        mapped.skeleton = skeleton
        for name in ("joints_camera", "joints_image"):
            joints = getattr(self, name)
            moved = np.full((len(self), len(places), joints.shape[2]), np.nan, np.float32)
            moved[:, known] = joints[:, sources]
            setattr(mapped, name, moved)
        mapped.visible = np.zeros((len(self), len(places)), bool)
        mapped.visible[:, known] = self.visible[:, sources]
        return mapped


@dataclass(frozen=True)
class ImagePaths(Sequence[str]):
    """A view of a set's image files: a million full paths would take half a gigabyte."""

    source: Frames

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> str:
        return self.source.image_path(index)


def concatenated(sets: Sequence[Frames]) -> Frames:
    """The people of several sets, one set after the other.

    Raises:
        PartnasError: There is no set, or they differ in skeleton (see :meth:`Frames.mapped_to`).
    """
    if not sets:
        raise PartnasError("sets: none is given; name at least one")
    if len(sets) == 1:
        return sets[0]
    skeletons = {source.skeleton.name for source in sets}
    if len(skeletons) > 1:
        raise PartnasError(f"sets: skeletons {sorted(skeletons)} differ; map all sets to one")
    root = Path(os.path.commonpath([source.root.absolute() for source in sets]))
    joined = copy(sets[0])
    joined.name, joined.root = "+".join(dict.fromkeys(source.name for source in sets)), root
    for name, value in vars(sets[0]).items():
        if isinstance(value, np.ndarray):
            setattr(joined, name, np.concatenate([getattr(source, name) for source in sets]))
    joined.image_names = np.concatenate([_names_below(root, source) for source in sets])
    joined.skipped = [line for source in sets for line in source.skipped]
    joined.left_out = {}
    for source in sets:
        for reason, number in source.left_out.items():
            reason = reason if joined.name == source.name else f"{source.name}: {reason}"
            joined.left_out[reason] = joined.left_out.get(reason, 0) + number
    return joined


def _names_below(root: Path, source: Frames) -> np.ndarray:
    folder = source.root.absolute().relative_to(root)
    return source.image_names if folder == Path() else np.char.add(f"{folder}/".encode(), source.image_names)
