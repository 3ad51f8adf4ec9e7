"""MPII in COCO's form: 16 joints in the image, no depth."""

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
from partnas.skeleton import MPII

ANNOTATIONS = "annotations/train.json"
ALIASES = {"upperneck": "neck", "headtop": "head", "throax": "thorax"}


def read_mpii(root: Path | str, skip_broken: bool = False) -> Frames:
    """The people of MPII's training set who have a joint.

    The camera is not known: f = 1500, c = the image's centre.

    Args:
        root: Folder that holds ``images`` and ``annotations/train.json``. The file names images below ``root``, as the
            public release does, or below ``images``.
        skip_broken: List broken annotations and images in ``skipped`` and leave them out, instead of raising.

    Raises:
        PartnasError: A missing or broken file, field or value; the message names file, id and field.
    """
    root = Path(root)
    path = root / ANNOTATIONS
    image_rows, people_rows = read_file(path, MPII.parts, ALIASES)
    images = read_images(path, image_rows, {}, skip_broken)
    images.columns["file_name"] = names_below_root(images["file_name"])
    people = read_people(
        path,
        people_rows,
        images,
        {"keypoints": Numbers((len(MPII.parts), 3), np.float32), "num_keypoints": Whole()},
        skip_broken,
        leave_out={"no keypoints": ("num_keypoints", lambda number: number == 0)},
    )
    require_boxes(people, images)
    visible = people["keypoints"][..., 2] > 0
    frames = frames_of(
        MPII,
        root,
        images,
        people,
        joints_image=np.where(visible[..., None], people["keypoints"][..., :2], np.float32(np.nan)),
        visible=visible,
    )
    return finished(frames, path, skip_broken)


def names_below_root(names: np.ndarray) -> np.ndarray:
    """Image names ``(N,)`` bytes, whether the file writes them below the set's folder or below ``images``."""
    return np.where(np.char.startswith(names, b"images/"), names, np.char.add(b"images/", names))
