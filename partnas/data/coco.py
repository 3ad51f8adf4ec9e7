"""COCO's people: 17 joints in the image and two midpoints, no depth."""

from pathlib import Path

import numpy as np

from partnas.data.annotations import (
    finished,
    frames_of,
    read_file,
    read_images,
    read_people,
    require_boxes,
)
from partnas.data.frames import Frames
from partnas.data.records import Numbers, Whole
from partnas.data.roots import crops, read_root_people
from partnas.skeleton import COCO

SPLITS = ("train2017", "val2017")
ON_DISK = 17
MIDPOINTS = {"Thorax": ("L_Shoulder", "R_Shoulder"), "Pelvis": ("L_Hip", "R_Hip")}


def annotation_file(root: Path, split: str) -> Path:
    return root / "annotations" / f"person_keypoints_{split}.json"


def read_coco(
    root: Path | str, split: str = "train2017", roots: Path | str | None = None, skip_broken: bool = False
) -> Frames:
    """The people of COCO who are no crowd and have a joint.

    Thorax and Pelvis are the middles of the shoulders and hips, visible where both sides are. The camera is not known:
    f = 1500, c = the image's centre.

    Args:
        root: Folder that holds ``images/{train2017,val2017}`` and ``annotations``.
        split: ``train2017`` or ``val2017``.
        roots: A RootNet-style file, whose people take the place of the annotated ones; see
            :func:`partnas.data.roots.read_root_people`.
        skip_broken: List broken annotations and images in ``skipped`` and leave them out, instead of raising.

    Raises:
        PartnasError: A missing or broken file, field or value; the message names file, id and field.
    """
    root = Path(root)
    path, folder = annotation_file(root, split), root / "images" / split
    image_rows, people_rows = read_file(path, COCO.parts[:ON_DISK])
    images = read_images(path, image_rows, {}, skip_broken)
    if roots is not None:
        people = read_root_people(roots, images, skip_broken)
        return finished(frames_of(COCO, folder, images, people, **crops(people)), Path(roots), skip_broken)
    people = read_people(
        path,
        people_rows,
        images,
        {
            "keypoints": Numbers((ON_DISK, 3), np.float32),
            "num_keypoints": Whole(),
            "iscrowd": Whole(default=0),
        },
        skip_broken,
        leave_out={
            "crowd": ("iscrowd", lambda flag: flag != 0),
            "no keypoints": ("num_keypoints", lambda number: number == 0),
        },
    )
    require_boxes(people, images)
    joints, visible = with_midpoints(people["keypoints"])
    frames = frames_of(COCO, folder, images, people, joints_image=joints, visible=visible)
    return finished(frames, path, skip_broken)


def with_midpoints(keypoints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``(N, 17, 3)`` x, y and COCO's flag, as joints ``(N, 19, 2)``, NaN where not labelled, and visibility ``(N, 19)``."""
    sides = [[COCO.parts.index(side) for side in MIDPOINTS[part]] for part in COCO.parts[ON_DISK:]]
    visible = keypoints[..., 2] > 0
    joints = np.where(visible[..., None], keypoints[..., :2], np.float32(np.nan))
    return (
        np.concatenate([joints, joints[:, sides].mean(2)], axis=1),
        np.concatenate([visible, visible[:, sides].all(2)], axis=1),
    )
