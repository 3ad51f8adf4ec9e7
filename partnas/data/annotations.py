"""What the sets in COCO's form share: people joined to their images, faults told, columns as :class:`Frames`."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from partnas.data.crop import expand_boxes
from partnas.data.frames import Frames
from partnas.data.images import faults_of, unreadable
from partnas.data.records import FLAGS, Column, Numbers, Table, Text, Whole, decoded, read_lists
from partnas.errors import PartnasError
from partnas.skeleton import Skeleton

DEFAULT_FOCAL = 1500.0
"""Pixels, for a picture whose camera is not known."""

FARTHEST = 1e6
"""Millimetres or pixels beyond which a value is a mistake."""

READERS = 16
"""Threads that look at image files: they wait for the disk, not for a core."""

log = logging.getLogger(__name__)


class NothingUsable(PartnasError):
    """No annotation of a set is left; ``skipped`` has one line for each that was left out as broken."""

    def __init__(self, message: str, skipped: Sequence[str]):
        super().__init__(message)
        self.skipped = list(skipped)


def read_images(path: Path, rows: Any, extra: Mapping[str, Column], skip_broken: bool, **options: Any) -> Table:
    """The ``images`` of an annotation file: ``id``, ``file_name``, ``width``, ``height`` and the ``extra`` columns."""
    columns = {"id": Whole(), "file_name": Text(), "width": Whole(1), "height": Whole(1), **extra}
    images = Table.read(path, rows, "image", columns, skip_broken, **options)
    images.require_unique()
    return images


def read_people(
    path: Path, rows: Any, images: Table, extra: Mapping[str, Column], skip_broken: bool, **options: Any
) -> Table:
    """The ``annotations`` of a file: ``id``, ``image_id``, ``bbox`` and the ``extra`` columns.

    A column ``image`` is added, the index of a person's image in ``images``.
    """
    columns = {"id": Whole(), "image_id": Whole(), "bbox": Numbers((4,)), **extra}
    people = Table.read(path, rows, "annotation", columns, skip_broken, **options)
    for field in ("bbox", "keypoints_img", "keypoints_cam"):
        require_near(people, field)
    _require_flags(people)
    people.require_unique()
    people.join(images, "image_id", "image")
    return people


def read_file(path: Path, parts: Sequence[str], aliases: Mapping[str, str] | None = None) -> tuple[Any, Any]:
    """The ``images`` and ``annotations`` of a file in COCO's form, not decoded yet.

    Args:
        path: The file.
        parts: The joints it must hold, in its order; held against the ``keypoints`` of its ``categories`` where it
            states them.
        aliases: What :func:`plain_name` makes of a name there, to what it makes of ours.
    """
    lists = read_lists(path, ("images", "annotations"), ("categories",))
    expected = [plain_name(part) for part in parts]
    for category in decoded(lists["categories"]):
        names = category.get("keypoints", parts) if isinstance(category, dict) else None
        if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
            raise PartnasError(f"{path}: categories: keypoints: no list of joint names; copy the file again")
        plain = [(aliases or {}).get(plain_name(name), plain_name(name)) for name in names]
        unknown = [name for name, found in zip(names, plain, strict=True) if found not in expected]
        if unknown:
            raise PartnasError(
                f"{path}: categories: keypoints: {unknown[0]!r} is none of the joints {', '.join(parts)}; "
                "use the public release's file"
            )
        if plain != expected:
            raise PartnasError(
                f"{path}: categories: keypoints: {list(names)} are not in the order {', '.join(parts)}; use the public "
                "release's file"
            )
    return lists["images"], lists["annotations"]


def require_near(table: Table, field: str) -> None:
    """Require that no number of a column, where it has it, is over ``FARTHEST``."""
    if field not in table.columns:
        return
    values = table[field]
    far = ((values > FARTHEST) | (values < -FARTHEST)).any(axis=tuple(range(1, values.ndim)))
    table.require(~far, lambda index: f"{field} holds a value over {FARTHEST:g}; mend or remove it")


def _require_flags(people: Table) -> None:
    """Require of ``keypoints``, x, y and COCO's flag, that the flags are such and the labelled joints near."""
    if "keypoints" not in people.columns:
        return
    flags = people["keypoints"][..., 2]
    known = np.isin(flags, FLAGS)
    people.require(
        known.all(1),
        lambda index: f"keypoints: flag {flags[index][~known[index]][0]:g} is none of 0, 1 and 2; mend or remove it",
    )
    joints, labelled = people["keypoints"][..., :2], people["keypoints"][..., 2] > 0
    far = (np.abs(joints).max(2) > FARTHEST) & labelled
    people.require(
        ~far.any(1), lambda index: f"keypoints holds a labelled joint over {FARTHEST:g} pixels away; mend or remove it"
    )


def require_focal(images: Table, field: str) -> None:
    """Require that the first two numbers of a column, the focal lengths, are positive, and that none is too large."""
    require_near(images, field)
    values = images[field]
    images.require(
        (values[:, :2] > 0).all(1),
        lambda index: f"{field} {values[index].tolist()}: a focal length must be positive; mend the calibration",
    )


def require_front(people: Table, root: int) -> None:
    """Require that each pelvis of ``keypoints_cam``, and every other joint that is visible, is in front of its camera."""
    depth = people["keypoints_cam"][:, root, 2]
    people.require(
        depth > 0,
        lambda index: f"keypoints_cam: the pelvis lies behind the camera (z = {depth[index]:g} mm); mend or remove it",
    )
    behind = (people["keypoints_cam"][..., 2] <= 0) & people["keypoints_vis"]
    people.require(
        ~behind.any(1),
        lambda index: (
            f"keypoints_cam: joint {behind[index].argmax()} is visible and behind the camera; mend or remove it"
        ),
    )


def require_boxes(people: Table, images: Table) -> None:
    """List and leave out the people whose box has no area: less than a pixel of it, across or down, in the image."""
    sizes = image_sizes(people, images)
    boxes = people["bbox"]
    people.require(
        ~np.isnan(expand_boxes(boxes, sizes)[:, 0]),
        lambda index: (
            f"bbox {boxes[index].tolist()} has no area inside the {sizes[index, 0]}x{sizes[index, 1]} image; "
            "mend or remove the annotation"
        ),
        fatal=False,
    )


def image_sizes(people: Table, images: Table) -> np.ndarray:
    """Width and height in pixels of each person's image, ``(N, 2)`` int32."""
    return np.column_stack([images["width"], images["height"]]).astype(np.int32)[people["image"]]


def pose_columns(parts: int) -> dict[str, Column]:
    """The joints of MuCo's and MuPoTS's annotations."""
    return {
        "keypoints_img": Numbers((parts, 2), np.float32),
        "keypoints_cam": Numbers((parts, 3), np.float32),
        "keypoints_vis": Numbers((parts,), np.bool_),
    }


def annotated_poses(people: Table) -> dict[str, np.ndarray]:
    """What :func:`pose_columns` has read, as attributes of :class:`Frames`."""
    return {
        "joints_camera": people["keypoints_cam"],
        "joints_image": people["keypoints_img"],
        "visible": people["keypoints_vis"],
    }


def frames_of(
    skeleton: Skeleton,
    root: Path,
    images: Table,
    people: Table,
    focal: np.ndarray | None = None,
    principal: np.ndarray | None = None,
    **columns: Any,
) -> Frames:
    """People as :class:`Frames`.

    Args:
        skeleton: Of the set, which it names.
        root: Folder below which the images' names stand.
        images: As :func:`read_images` gives them.
        people: As :func:`read_people` gives them.
        focal: ``(N, 2)`` pixels; ``DEFAULT_FOCAL`` where left out.
        principal: ``(N, 2)`` pixels; the image's centre where left out.
        columns: Other attributes; what is left out is not annotated.
    """
    count, parts = len(people), len(skeleton.parts)
    sizes = image_sizes(people, images)
    defaults = {
        "bboxes": people["bbox"],
        "joints_camera": np.full((count, parts, 3), np.nan, np.float32),
        "joints_image": np.full((count, parts, 2), np.nan, np.float32),
        "visible": np.zeros((count, parts), bool),
        "has_depth": np.full(count, "joints_camera" in columns),
        "root_depth": np.full(count, np.nan),
        "boxes_are_extended": np.zeros(count, bool),
        "ids": people["id"],
        "action": np.zeros(count, np.str_),
    }
    if "joints_camera" in columns:
        defaults["root_depth"] = columns["joints_camera"][:, skeleton.root, 2].astype(np.float64)
    return Frames(
        name=skeleton.name,
        skeleton=skeleton,
        root=root,
        image_names=images["file_name"][people["image"]],
        image_sizes=sizes,
        focal=np.full((count, 2), DEFAULT_FOCAL) if focal is None else focal,
        principal=sizes / 2 if principal is None else principal,
        image_ids=people["image_id"],
        skipped=images.skipped + people.skipped,
        left_out={reason: number for reason, number in people.left_out.items() if number},
        **{**defaults, **columns},
    )


def finished(frames: Frames, path: Path, skip_broken: bool) -> Frames:
    """What a loader gives: with ``skip_broken`` without people of unreadable images, and after a warning on ``skipped``.

    Raises:
        NothingUsable: Nothing is left; ``path`` is the file to name.
    """
    frames = readable(frames) if skip_broken else frames
    if not len(frames):
        fault = f"the first fault: {frames.skipped[0]}" if frames.skipped else "nothing stands in it"
        raise NothingUsable(f"{path}: no usable annotation; {fault}", frames.skipped)
    if frames.skipped:
        log.warning("%s: left out as broken: %d; first: %s", frames.name, len(frames.skipped), frames.skipped[0])
    return frames


def readable(frames: Frames) -> Frames:
    """The people whose image file is there and not cut off; ``skipped`` gets one line for each other file."""
    stated = np.rec.fromarrays([frames.image_names, *frames.image_sizes.T])
    images, first, image_of = np.unique(stated, return_index=True, return_inverse=True)
    numbered = list(zip(images.tolist(), frames.image_ids[first].tolist(), strict=True))

    def fault_of(item: tuple[tuple[bytes, int, int], int]) -> str:
        (name, *size), image_id = item
        return unreadable(frames.root / name.decode(), size, image_id)

    faults = faults_of(fault_of, numbered, frames.name, READERS)
    broken = np.array([bool(fault) for fault in faults], bool)
    if not broken.any():
        return frames
    chosen = frames.subset(~broken[image_of])
    chosen.skipped = frames.skipped + [fault for fault in faults if fault]
    return chosen


def plain_name(name: str) -> str:
    """A joint's name as files differ in spelling it: ``left_shoulder``, ``L_Shoulder`` and ``l shoulder`` are one."""
    plain = "".join(letter for letter in name.lower() if letter.isalnum())
    for word in ("left", "right"):
        plain = plain.replace(word, word[0])
    return plain
