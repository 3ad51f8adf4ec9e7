"""Human3.6M in the on-disk layout of Moon et al.'s public release; the embedded sample has the same."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from partnas.data.annotations import (
    FARTHEST,
    NothingUsable,
    finished,
    frames_of,
    image_sizes,
    read_file,
    read_images,
    read_people,
    require_boxes,
)
from partnas.data.frames import Frames, concatenated
from partnas.data.records import Numbers, Table, Text, Whole, entry, numbers, read_json
from partnas.data.roots import with_roots
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

ON_DISK = 17
MOMENT = ("action_idx", "subaction_idx", "frame_idx")
"""What names a pose."""

FILE_NAME = r"Human36M_subject(\d+)_(?:data|camera|joint_3d)\.json"
LEFT_SHOULDER, RIGHT_SHOULDER = HUMAN36M.parts.index("L_Shoulder"), HUMAN36M.parts.index("R_Shoulder")


def read_human36m(
    root: Path | str,
    subjects: Sequence[int],
    stride: int = 1,
    roots: Path | str | None = None,
    skip_broken: bool = False,
) -> Frames:
    """The annotated frames of some subjects.

    Frames whose box has no area (less than a pixel of it inside the image) are left out, as the public baseline does;
    they are listed in ``skipped`` and told in one logged warning. Thorax is the middle of the shoulders in world
    space, and visible where both are.

    Args:
        root: Folder that holds ``images`` and ``annotations``.
        subjects: Which subjects to read.
        stride: Keep frames with ``frame_idx % stride == 0``.
        roots: A RootNet-style file, whose boxes and root depths take the place of the annotated ones.
        skip_broken: List broken annotations, cameras and images in ``skipped`` and leave their frames out, instead of
            raising.

    Raises:
        PartnasError: A missing or broken file, a missing field, a value of the wrong kind, a joint that is not finite or
            lies behind its camera, a camera without focal length, a box outside its image, an id that stands twice, or
            nothing left to read. The message names file, id and field.
    """
    root = Path(root)
    if stride < 1:
        raise PartnasError(f"stride: {stride} is not positive; 1 keeps every frame")
    frames = [_read_subject(root, subject, stride, skip_broken) for subject in subjects]
    if not any(map(len, frames)):
        skipped = [line for part in frames for line in part.skipped]
        fix = f"the first fault: {skipped[0]}" if skipped else "name other subjects or a smaller stride"
        raise NothingUsable(
            f"{root}: no usable frame of subjects {list(subjects)} has frame_idx % {stride} == 0; {fix}", skipped
        )
    joined = concatenated(frames)
    joined = _unique(root, joined, joined.ids, "annotation", skip_broken)
    if roots is not None:
        joined = _unique(root, joined, joined.image_ids, "image", skip_broken)
        joined = with_roots(joined, roots, skip_broken)
    return finished(joined, root / "annotations", skip_broken)


def subjects_in(root: Path) -> list[int]:
    """The subjects that have one of the three annotation files under ``root``."""
    names = (re.fullmatch(FILE_NAME, path.name) for path in (root / "annotations").glob("Human36M_subject*.json"))
    return sorted({int(name[1]) for name in names if name})


def _unique(root: Path, frames: Frames, ids: np.ndarray, kind: str, skip_broken: bool) -> Frames:
    """The frames whose id ``(N,)`` does not stand in an earlier one too."""
    first = np.zeros(len(frames), bool)
    first[np.unique(ids, return_index=True)[1]] = True
    if first.all():
        return frames
    lines = [
        f"{root / 'annotations'}: {kind} {number}: id {number} stands twice; ids are unique across subjects"
        for number in ids[~first].tolist()
    ]
    if not skip_broken:
        raise PartnasError(lines[0])
    chosen = frames.subset(first)
    chosen.skipped = frames.skipped + lines
    return chosen


def annotation_files(root: Path, subject: int) -> list[Path]:
    """Where a subject's people, cameras and joints stand."""
    return [root / "annotations" / f"Human36M_subject{subject}_{kind}.json" for kind in ("data", "camera", "joint_3d")]


def _read_subject(root: Path, subject: int, stride: int, skip_broken: bool) -> Frames:
    data_path, camera_path, joint_path = annotation_files(root, subject)
    image_rows, people_rows = read_file(data_path, HUMAN36M.parts[:ON_DISK])
    numbered = {name: Whole() for name in (*MOMENT, "cam_idx")}
    named = {"action_name": Text(), "subject": Whole(default=subject)}
    images = read_images(data_path, image_rows, {**numbered, **named}, skip_broken)
    images.require(
        images["subject"] == subject,
        lambda index: f"subject {images['subject'][index]} stands in the file of subject {subject}; move or remove it",
    )
    people = read_people(data_path, people_rows, images, {"keypoints_vis": Numbers((ON_DISK,), np.bool_)}, skip_broken)
    people.keep(images["frame_idx"][people["image"]] % stride == 0, "between the frames of the stride")
    _require_inside(people, images)
    require_boxes(people, images)
    cameras = _join_cameras(people, images, camera_path)
    _join_joints(people, images, joint_path)
    _read_centres(people, images, cameras)
    camera = _in_camera(people, cameras)
    focal, principal = (cameras[name][people["camera"]] for name in ("f", "c"))
    visible = people["keypoints_vis"]
    return frames_of(
        HUMAN36M,
        root / "images",
        images,
        people,
        focal=focal,
        principal=principal,
        joints_camera=camera.astype(np.float32),
        joints_image=(camera[..., :2] / camera[..., 2:] * focal[:, None] + principal[:, None]).astype(np.float32),
        visible=np.column_stack([visible, visible[:, LEFT_SHOULDER] & visible[:, RIGHT_SHOULDER]]),
        action=np.char.decode(images["action_name"][people["image"]], "utf-8"),
    )


def _require_inside(people: Table, images: Table) -> None:
    boxes, sizes = people["bbox"], image_sizes(people, images)
    outside = (boxes[:, 2:] > 0).all(1) & ((boxes[:, :2] >= sizes) | (boxes[:, :2] + boxes[:, 2:] <= 0)).any(1)
    people.require(
        ~outside,
        lambda index: (
            f"bbox {boxes[index].tolist()} lies outside the {sizes[index, 0]}x{sizes[index, 1]} image; "
            "mend or remove the annotation"
        ),
    )


def _join_cameras(people: Table, images: Table, path: Path) -> dict[str, np.ndarray]:
    """Cameras as R ``(C, 3, 3)``, t ``(C, 3)`` in millimetres, f and c ``(C, 2)`` in pixels: Xc = R·Xw + t.

    A column ``camera`` is added, the index of each frame's camera.
    """
    content = read_json(path)
    numbered, people.columns["camera"] = np.unique(images["cam_idx"][people["image"]], return_inverse=True)
    cameras, faults = [], {}
    for place, number in enumerate(numbered.tolist()):
        try:
            cameras.append(_camera(path, content, str(number)))
        except PartnasError as error:
            cameras.append({"R": np.eye(3), "t": np.zeros(3), "f": np.ones(2), "c": np.zeros(2)})
            faults[place] = str(error)
    camera = people["camera"]
    people.require(~np.isin(camera, list(faults)), lambda index: faults[camera[index]])
    shapes = {"R": (3, 3), "t": (3,), "f": (2,), "c": (2,)}
    return {name: np.array([of[name] for of in cameras]).reshape(-1, *shape) for name, shape in shapes.items()}


def _camera(path: Path, cameras: Any, number: str) -> dict[str, np.ndarray]:
    if not isinstance(cameras, dict) or number not in cameras:
        raise PartnasError(f"{path}: camera {number!r} is missing; copy the file again")
    where, given = f"camera {number}", cameras[number]
    old = isinstance(given, dict) and "t" not in given and "T" in given
    shapes = {"R": (3, 3), "T" if old else "t": (3,), "f": (2,), "c": (2,)}
    camera = {
        name: numbers(path, entry(path, given, name, where), shape, f"{where}: {name}")
        for name, shape in shapes.items()
    }
    far = [name for name, values in camera.items() if np.abs(values).max() > FARTHEST]
    if far:
        raise PartnasError(f"{path}: {where}: {far[0]} holds a value over {FARTHEST:g}; mend the calibration")
    if not (camera["f"] > 0).all():
        raise PartnasError(f"{path}: {where}: f must be positive, not {camera['f'].tolist()}; mend the calibration")
    if np.abs(camera["R"] @ camera["R"].T - np.eye(3)).max() > 1e-2 or np.linalg.det(camera["R"]) < 0:
        raise PartnasError(f"{path}: {where}: R is no rotation; mend the calibration")
    if old:
        camera["t"] = -camera["R"] @ camera.pop("T")
    return camera


def _join_joints(people: Table, images: Table, path: Path) -> None:
    """Add a column ``world``, ``(N, 18, 3)`` world millimetres; the cameras of a moment share one pose on disk."""
    content = read_json(path)
    keys = np.column_stack([images[name] for name in MOMENT])[people["image"]]
    moments, moment_of = np.unique(keys, axis=0, return_inverse=True)
    rows = [_pose_at(content, key) for key in moments.tolist()]
    kind = "action/subaction/frame"
    poses = Table.read(path, rows, kind, {"id": Text(), "joints": Numbers((ON_DISK, 3))}, skip_broken=True)
    world = np.zeros((len(moments), len(HUMAN36M.parts), 3))
    world[poses.places, :ON_DISK] = poses["joints"]
    world[:, HUMAN36M.parts.index("Thorax")] = (world[:, LEFT_SHOULDER] + world[:, RIGHT_SHOULDER]) / 2
    moment_of = moment_of.ravel()
    people.columns["world"] = world[moment_of]
    people.require(np.isin(moment_of, poses.places), lambda index: poses.faults[moment_of[index]])


def _pose_at(content: Any, key: list[int]) -> dict[str, Any]:
    """The pose of a moment, as an entry; without ``joints`` where the file lacks it."""
    name = "/".join(map(str, key))
    for number in key:
        if not isinstance(content, dict) or str(number) not in content:
            return {"id": name}
        content = content[str(number)]
    return {"id": name, "joints": content}


def _read_centres(people: Table, images: Table, cameras: dict[str, np.ndarray]) -> None:
    """Turn ``t`` to the translation for the cameras whose file holds the camera's centre by that name, as the public
    converter writes it: those that see most of their people only if it is so read."""
    centres = {**cameras, "t": -np.einsum("cij,cj->ci", cameras["R"], cameras["t"])}
    share = [_share_seen(people, images, read) for read in (cameras, centres)]
    swapped = (share[1] > 0.5) & (share[0] < 0.5)
    cameras["t"][swapped] = centres["t"][swapped]


def _share_seen(people: Table, images: Table, cameras: dict[str, np.ndarray]) -> np.ndarray:
    """For each camera, of how many of its people it sees the pelvis inside the image."""
    camera, pelvis = people["camera"], _to_camera(people, cameras, [HUMAN36M.root])[:, 0]
    with np.errstate(all="ignore"):
        pixels = pelvis[:, :2] / pelvis[:, 2:] * cameras["f"][camera] + cameras["c"][camera]
    seen = (pelvis[:, 2] > 0) & (pixels >= 0).all(1) & (pixels < image_sizes(people, images)).all(1)
    count = len(cameras["t"])
    return np.bincount(camera, seen, count) / np.maximum(np.bincount(camera, minlength=count), 1)


def _to_camera(people: Table, cameras: dict[str, np.ndarray], parts: Sequence[int] | slice = slice(None)) -> np.ndarray:
    """These joints in camera millimetres, ``(N, P, 3)``."""
    camera = people["camera"]
    return np.einsum("nij,npj->npi", cameras["R"][camera], people["world"][:, parts]) + cameras["t"][camera, None]


def _in_camera(people: Table, cameras: dict[str, np.ndarray]) -> np.ndarray:
    """The joints in camera millimetres, ``(N, 18, 3)``, of the people who are in front of their camera."""
    joints = _to_camera(people, cameras)
    seen = ((joints[..., 2] > 0) & (np.abs(joints) < FARTHEST).all(-1)).all(1)
    people.require(
        seen,
        lambda index: f"a joint lies behind its camera or over {FARTHEST:g} mm from it; mend its camera or its joints",
    )
    return joints[seen]
