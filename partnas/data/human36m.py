"""Human3.6M in the on-disk layout of Moon et al.'s public release; the embedded sample has the same."""

import json
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from partnas.errors import PartnasError
from partnas.skeleton import PARTS

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
LEFT_SHOULDER, RIGHT_SHOULDER = PARTS.index("L_Shoulder"), PARTS.index("R_Shoulder")


class Human36M:
    """The annotated frames of some subjects, as arrays over N frames.

    Attributes:
        image_paths: ``(N,)`` strings.
        image_sizes: ``(N, 2)`` width and height in pixels.
        bboxes: ``(N, 4)`` ``[xmin, ymin, width, height]`` in pixels.
        joints_camera: ``(N, 18, 3)`` millimetres in camera axes (x right, y down, z away).
        joints_image: ``(N, 18, 2)`` pixels.
        visible: ``(N, 18)`` bool.
        focal, principal: ``(N, 2)`` pixels.
        subject: ``(N,)`` int.
        action: ``(N,)`` names.
        ids: ``(N,)`` annotation ids.

    Args:
        root: Folder that holds ``images`` and ``annotations``.
        subjects: Which subjects to read.
        stride: Keep frames with ``frame_idx % stride == 0``.

    Raises:
        PartnasError: A missing or broken file, a missing field, a joint that is not finite, a camera without focal length,
            two annotations with one id, or nothing left to read. The message names file, id and field.
    """

    def __init__(self, root: Path | str, subjects: Sequence[int], stride: int = 1):
        self.root = Path(root)
        parts = [_read_subject(self.root, subject, stride) for subject in subjects]
        if not sum(len(part["ids"]) for part in parts):
            raise PartnasError(f"{self.root}: no frame of subjects {list(subjects)} has frame_idx % {stride} == 0")
        self.image_paths: np.ndarray = np.concatenate([part["image_paths"] for part in parts])
        self.image_sizes: np.ndarray = np.concatenate([part["image_sizes"] for part in parts])
        self.bboxes: np.ndarray = np.concatenate([part["bboxes"] for part in parts])
        self.joints_camera: np.ndarray = np.concatenate([part["joints_camera"] for part in parts])
        self.joints_image: np.ndarray = np.concatenate([part["joints_image"] for part in parts])
        self.visible: np.ndarray = np.concatenate([part["visible"] for part in parts])
        self.focal: np.ndarray = np.concatenate([part["focal"] for part in parts])
        self.principal: np.ndarray = np.concatenate([part["principal"] for part in parts])
        self.subject: np.ndarray = np.concatenate([part["subject"] for part in parts])
        self.action: np.ndarray = np.concatenate([part["action"] for part in parts])
        self.ids: np.ndarray = np.concatenate([part["ids"] for part in parts])
        if len(np.unique(self.ids)) < len(self.ids):
            values, counts = np.unique(self.ids, return_counts=True)
            raise PartnasError(
                f"{self.root}/annotations: annotation id {values[counts > 1][0]} stands twice; ids are unique across subjects"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, indices: np.ndarray | Sequence[int]) -> "Human36M":
        """The frames at ``indices``, in that order."""
        chosen = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                setattr(chosen, name, value[indices])
        return chosen


def subjects_in(root: Path) -> list[int]:
    """The subjects that have an annotation file under ``root``."""
    found = (root / "annotations").glob("Human36M_subject*_data.json")
    return sorted(int(path.name.removeprefix("Human36M_subject").split("_")[0]) for path in found)


def read_json(path: Path) -> Any:
    """A JSON file's content, or one line on what is wrong with it."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise PartnasError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PartnasError(f"{path}: broken JSON ({str(error)[:80]}); copy the file again") from None


def _field(path: Path, record: Any, name: str, where: str) -> Any:
    if not isinstance(record, dict):
        raise PartnasError(f"{path}: {where} is a {type(record).__name__}, not an object; copy the file again")
    if name not in record:
        raise PartnasError(f"{path}: {where}: field {name!r} is missing; copy the file again")
    return record[name]


def _array(path: Path, values: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
    """``values`` as finite float64 of ``shape``; -1 stands for any length."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.ndim != len(shape) or any(want not in (-1, have) for want, have in zip(shape, array.shape, strict=True)):
        raise PartnasError(f"{path}: {where} is not an array of numbers of shape {shape}; mend the annotation")
    if not np.isfinite(array).all():
        raise PartnasError(f"{path}: {where} holds a value that is not finite; mend or remove the annotation")
    return array


def _read_subject(root: Path, subject: int, stride: int) -> dict[str, np.ndarray]:
    folder = root / "annotations"
    data_path, camera_path, joint_path = (
        folder / f"Human36M_subject{subject}_{kind}.json" for kind in ("data", "camera", "joint_3d")
    )
    cameras = _read_cameras(camera_path)
    joints_of = read_json(joint_path)
    data = read_json(data_path)
    images = {}
    for image in _field(data_path, data, "images", "the file"):
        number = _field(data_path, image, "id", "an image")
        if number in images:
            raise PartnasError(f"{data_path}: image id {number} stands twice; ids are unique")
        images[number] = image

    columns: dict[str, list] = {
        name: [] for name in ("image_paths", "image_sizes", "bboxes", "world", "camera", "visible", "action", "ids")
    }
    for annotation in _field(data_path, data, "annotations", "the file"):
        number = _field(data_path, annotation, "id", "an annotation")
        where = f"annotation {number}"
        image_id = _field(data_path, annotation, "image_id", where)
        if image_id not in images:
            raise PartnasError(f"{data_path}: {where}: image_id {image_id} names no image; mend the annotation")
        image, place = images[image_id], f"image {image_id}"
        frame = _field(data_path, image, "frame_idx", place)
        if frame % stride:
            continue
        keys = [str(_field(data_path, image, name, place)) for name in ("action_idx", "subaction_idx")] + [str(frame)]
        world: Any = joints_of
        for key in keys:
            world = _field(joint_path, world, key, "action/subaction/frame " + "/".join(keys))
        camera = str(_field(data_path, image, "cam_idx", place))
        if camera not in cameras:
            raise PartnasError(f"{camera_path}: camera {camera!r}, which {place} names, is missing")
        columns["image_paths"].append(str(root / "images" / _field(data_path, image, "file_name", place)))
        columns["image_sizes"].append([_field(data_path, image, name, place) for name in ("width", "height")])
        columns["bboxes"].append(
            _array(data_path, _field(data_path, annotation, "bbox", where), (4,), f"{where}: bbox")
        )
        columns["world"].append(_array(joint_path, world, (JOINTS_ON_DISK, 3), "joints of " + "/".join(keys)))
        visible = _array(
            data_path, _field(data_path, annotation, "keypoints_vis", where), (-1,), f"{where}: keypoints_vis"
        )
        if len(visible) != JOINTS_ON_DISK:
            raise PartnasError(f"{data_path}: {where}: keypoints_vis has {len(visible)} entries, not {JOINTS_ON_DISK}")
        columns["visible"].append(visible > 0)
        columns["camera"].append(camera)
        columns["action"].append(str(_field(data_path, image, "action_name", place)))
        columns["ids"].append(number)

    count = len(columns["ids"])
    world = np.array(columns["world"]).reshape(count, JOINTS_ON_DISK, 3)
    thorax = (world[:, LEFT_SHOULDER] + world[:, RIGHT_SHOULDER]) / 2
    world = np.concatenate([world, thorax[:, None]], axis=1)  # [N, 18, 3]
    visible = np.array(columns["visible"], dtype=bool).reshape(count, JOINTS_ON_DISK)
    visible = np.column_stack([visible, visible[:, LEFT_SHOULDER] & visible[:, RIGHT_SHOULDER]])
    rotation, translation, focal, principal = (
        np.array([cameras[name][part] for name in columns["camera"]]).reshape(count, *cameras_shape)
        for part, cameras_shape in enumerate(((3, 3), (3,), (2,), (2,)))
    )
    joints_camera = np.einsum("nij,npj->npi", rotation, world) + translation[:, None]
    if count and joints_camera[..., 2].min() <= 0:
        number = columns["ids"][int(joints_camera[..., 2].min(1).argmin())]
        raise PartnasError(f"{data_path}: annotation {number}: a joint lies behind its camera; mend camera or joints")
    return {
        "image_paths": np.array(columns["image_paths"], dtype=str),
        "image_sizes": np.array(columns["image_sizes"], dtype=np.int64).reshape(count, 2),
        "bboxes": np.array(columns["bboxes"]).reshape(count, 4),
        "joints_camera": joints_camera,
        "joints_image": joints_camera[..., :2] / joints_camera[..., 2:] * focal[:, None] + principal[:, None],
        "visible": visible,
        "focal": focal,
        "principal": principal,
        "subject": np.full(count, subject),
        "action": np.array(columns["action"], dtype=str),
        "ids": np.array(columns["ids"], dtype=np.int64),
    }


def _read_cameras(path: Path) -> dict[str, tuple[np.ndarray, ...]]:
    cameras = {}
    for name, camera in read_json(path).items():
        where = f"camera {name}"
        shapes = {"R": (3, 3), "t": (3,), "f": (2,), "c": (2,)}
        values = tuple(
            _array(path, _field(path, camera, field, where), shape, f"{where}: {field}")
            for field, shape in shapes.items()
        )
        if not (values[2] > 0).all():
            raise PartnasError(f"{path}: {where}: f must be positive, not {values[2].tolist()}; mend the calibration")
        cameras[name] = values
    return cameras
