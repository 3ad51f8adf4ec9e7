"""Human3.6M in the on-disk layout of Moon et al.'s public release; the embedded sample has the same."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from partnas.data.crop import expand_boxes
from partnas.data.frames import Frames, concatenated
from partnas.data.records import Records, entry, numbers, read_json, require_unique
from partnas.errors import PartnasError
from partnas.skeleton import HUMAN36M

SPLITS: dict[int, dict[str, tuple[int, ...]]] = {
    1: {
        "search_train": (1, 5, 6),
        "search_validation": (7, 8),
        "train": (1, 5, 6, 7, 8, 9),
        "test": (11,),
    },
    2: {
        "search_train": (1, 5, 6),
        "search_validation": (7, 8),
        "train": (1, 5, 6, 7, 8),
        "test": (9, 11),
    },
}
"""Subjects of each split, by protocol (section 4.1 of the paper)."""

JOINTS_ON_DISK = 17
LEFT_SHOULDER, RIGHT_SHOULDER = HUMAN36M.parts.index("L_Shoulder"), HUMAN36M.parts.index("R_Shoulder")

log = logging.getLogger(__name__)


def read_human36m(root: Path | str, subjects: Sequence[int], stride: int = 1) -> Frames:
    """The annotated frames of some subjects.

    Frames whose box has no area (less than a pixel of it inside the image) are left out, as the public baseline does;
    they are listed in ``skipped`` and told in one logged warning. Thorax is the middle of the shoulders in world
    space, and visible where both are.

    Args:
        root: Folder that holds ``images`` and ``annotations``.
        subjects: Which subjects to read.
        stride: Keep frames with ``frame_idx % stride == 0``.

    Raises:
        PartnasError: A missing or broken file, a missing field, a value of the wrong kind, a joint that is not finite or
            lies behind its camera, a camera without focal length, a box outside its image, an id that stands twice, or
            nothing left to read. The message names file, id and field.
    """
    root = Path(root)
    if stride < 1:
        raise PartnasError(f"stride: {stride} is not positive; 1 keeps every frame")
    frames = [_read_subject(root, subject, stride) for subject in subjects]
    if not sum(map(len, frames)):
        raise PartnasError(
            f"{root}: no usable frame of subjects {list(subjects)} has frame_idx % {stride} == 0; "
            "name other subjects or a smaller stride"
        )
    joined = concatenated(frames)
    require_unique(root / "annotations", joined.ids, "annotation id")
    if joined.skipped:
        total = len(joined.skipped) + len(joined)
        log.warning("%d of %d frames are left out; the first: %s", len(joined.skipped), total, joined.skipped[0])
    return joined


def subjects_in(root: Path) -> list[int]:
    """The subjects that have an annotation file under ``root``."""
    names = [path.name for path in (root / "annotations").glob("Human36M_subject*_data.json")]
    numbered = [name.removeprefix("Human36M_subject").removesuffix("_data.json") for name in names]
    return sorted(int(number) for number in numbered if number.isdecimal())


def _read_subject(root: Path, subject: int, stride: int) -> Frames:
    data_path, camera_path, joint_path = (
        root / "annotations" / f"Human36M_subject{subject}_{kind}.json" for kind in ("data", "camera", "joint_3d")
    )
    images, annotations = _frames(data_path, stride)
    sizes = np.column_stack([images.integers(side, least=1) for side in ("width", "height")])
    bboxes = annotations.numbers("bbox", (4,))
    usable, skipped = _usable(annotations, bboxes, sizes)
    if skipped:
        images, annotations, sizes, bboxes = (
            images.take(usable),
            annotations.take(usable),
            sizes[usable],
            bboxes[usable],
        )
    rotation, translation, focal, principal = _cameras_of(images, camera_path)
    world = _world_joints(images, joint_path)  # [N, 18, 3]
    camera = np.einsum("nij,npj->npi", rotation, world) + translation[:, None]
    behind = np.flatnonzero((camera[..., 2] <= 0).any(1))
    if len(behind):
        where = annotations.named(behind[0])
        raise PartnasError(f"{data_path}: {where}: a joint lies behind its camera; mend its camera or its joints")
    visible = annotations.numbers("keypoints_vis", (JOINTS_ON_DISK,)) > 0
    return Frames(
        name=HUMAN36M.name,
        skeleton=HUMAN36M,
        root=root / "images",
        image_names=np.array([name.encode() for name in images.strings("file_name")], dtype=np.bytes_),
        image_sizes=sizes.astype(np.int32),
        bboxes=bboxes,
        joints_camera=camera.astype(np.float32),
        joints_image=(camera[..., :2] / camera[..., 2:] * focal[:, None] + principal[:, None]).astype(np.float32),
        visible=np.column_stack([visible, visible[:, LEFT_SHOULDER] & visible[:, RIGHT_SHOULDER]]),
        has_depth=np.ones(len(annotations), bool),
        focal=focal,
        principal=principal,
        root_depth=camera[:, HUMAN36M.root, 2],
        boxes_are_extended=np.zeros(len(annotations), bool),
        ids=annotations.integers("id"),
        image_ids=annotations.integers("image_id"),
        action=np.array(images.strings("action_name"), dtype=np.str_),
        skipped=skipped,
    )


def _frames(path: Path, stride: int) -> tuple[Records, Records]:
    """The annotations that ``stride`` keeps, and beside each its image."""
    data = read_json(path)
    images, annotations = Records(path, data, "images", "image"), Records(path, data, "annotations", "annotation")
    ids = images.integers("id")
    require_unique(path, ids, "image id")
    order = np.argsort(ids)
    wanted = annotations.integers("image_id")
    place = np.searchsorted(ids[order], wanted)
    found = place < len(ids)
    found[found] = ids[order][place[found]] == wanted[found]
    if not found.all():
        first = int(np.argmin(found))
        raise PartnasError(
            f"{path}: {annotations.named(first)}: image_id {wanted[first]} names no image; mend the annotation"
        )
    image_of = order[place]
    kept = np.flatnonzero(images.integers("frame_idx")[image_of] % stride == 0)
    return images.take(image_of[kept]), annotations.take(kept)


def _usable(annotations: Records, bboxes: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The places of the frames whose box has area, and one line for each of the others."""
    left_top, right_bottom = bboxes[:, :2], bboxes[:, :2] + bboxes[:, 2:]
    outside = (bboxes[:, 2:] > 0).all(1) & ((left_top >= sizes) | (right_bottom <= 0)).any(1)
    if outside.any():
        raise PartnasError(_box_line(annotations, bboxes, sizes, int(np.argmax(outside)), "lies outside"))
    empty = np.isnan(expand_boxes(bboxes, sizes)[:, 0])
    lines = [_box_line(annotations, bboxes, sizes, index, "has no area inside") for index in np.flatnonzero(empty)]
    return np.flatnonzero(~empty), lines


def _box_line(annotations: Records, bboxes: np.ndarray, sizes: np.ndarray, index: int, fault: str) -> str:
    size = f"{sizes[index, 0]}x{sizes[index, 1]}"
    return (
        f"{annotations.path}: {annotations.named(index)}: bbox {bboxes[index].tolist()} {fault} the {size} image; "
        "mend or remove the annotation"
    )


def _cameras_of(images: Records, path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """R ``(N, 3, 3)``, t ``(N, 3)`` in millimetres, f and c ``(N, 2)`` in pixels: Xc = R·Xw + t."""
    cameras = read_json(path)
    shapes = {"R": (3, 3), "t": (3,), "f": (2,), "c": (2,)}
    indices = images.integers("cam_idx")
    chosen, camera_of = np.unique(indices, return_inverse=True)
    stacked: dict[str, np.ndarray] = {field: np.empty((len(chosen), *shape)) for field, shape in shapes.items()}
    for place, number in enumerate(chosen):
        user = images.named(int(np.argmax(indices == number)))
        if not isinstance(cameras, dict) or str(number) not in cameras:
            raise PartnasError(f"{path}: camera '{number}', which {user} names, is missing; copy the file again")
        where = f"camera {number}"
        for field, shape in shapes.items():
            value = entry(path, cameras[str(number)], field, where)
            stacked[field][place] = numbers(path, value, shape, f"{where}: {field}")
        focal, turn = stacked["f"][place], stacked["R"][place]
        if not (focal > 0).all():
            raise PartnasError(f"{path}: {where}: f must be positive, not {focal.tolist()}; mend the calibration")
        if np.abs(turn @ turn.T - np.eye(3)).max() > 1e-2:
            raise PartnasError(f"{path}: {where}: R is no rotation; mend the calibration")
    rotation, translation, focal, principal = (array[camera_of] for array in stacked.values())
    return rotation, translation, focal, principal


def _world_joints(images: Records, path: Path) -> np.ndarray:
    """``(N, 18, 3)`` world millimetres; the cameras of a moment share one pose on disk."""
    content = read_json(path)
    keys = np.column_stack([images.integers(name) for name in ("action_idx", "subaction_idx", "frame_idx")])
    moments, moment_of = np.unique(keys, axis=0, return_inverse=True)
    rows = [_pose_at(path, content, key) for key in moments.tolist()]
    poses = Records(path, {"poses": rows}, "poses", "action/subaction/frame")
    world = poses.numbers("joints", (JOINTS_ON_DISK, 3))
    thorax = (world[:, LEFT_SHOULDER] + world[:, RIGHT_SHOULDER]) / 2
    return np.concatenate([world, thorax[:, None]], axis=1)[moment_of.ravel()]


def _pose_at(path: Path, content: Any, key: list[int]) -> dict[str, Any]:
    name = "/".join(map(str, key))
    for number in key:
        content = entry(path, content, str(number), f"action/subaction/frame {name}")
    return {"id": name, "joints": content}
