"""MuPoTS-3D: a test set of 20 sequences with several people, 17 joints in camera space."""

from pathlib import Path

import numpy as np

from partnas.data.annotations import (
    annotated_poses,
    finished,
    frames_of,
    pose_columns,
    read_file,
    read_images,
    read_people,
    require_boxes,
    require_focal,
    require_front,
)
from partnas.data.frames import Frames
from partnas.data.records import Numbers
from partnas.data.roots import crops, read_root_people
from partnas.skeleton import MUPOTS

FOLDER = "data/MultiPersonTestSet"
ANNOTATIONS = "data/MuPoTS-3D.json"


def read_mupots(root: Path | str, roots: Path | str | None = None, skip_broken: bool = False) -> Frames:
    """The valid people of MuPoTS-3D. ``action`` is the sequence, ``TS1`` to ``TS20``.

    Args:
        root: Folder that holds ``data/{MultiPersonTestSet,MuPoTS-3D.json}``.
        roots: A RootNet-style file, whose people take the place of the annotated ones; see
            :func:`partnas.data.roots.read_root_people`.
        skip_broken: List broken annotations and images in ``skipped`` and leave them out, instead of raising.

    Raises:
        PartnasError: A missing or broken file, field or value; the message names file, id and field.
    """
    root = Path(root)
    path, folder = root / ANNOTATIONS, root / FOLDER
    image_rows, people_rows = read_file(path, MUPOTS.parts)
    images = read_images(path, image_rows, {"intrinsic": Numbers((4,))}, skip_broken)
    require_focal(images, "intrinsic")
    if roots is None:
        people = read_people(
            path,
            people_rows,
            images,
            {
                "is_valid": Numbers(dtype=np.bool_),
                **pose_columns(len(MUPOTS.parts)),
            },
            skip_broken,
            leave_out={"not valid": ("is_valid", np.logical_not)},
        )
        require_front(people, MUPOTS.root)
        require_boxes(people, images)
    else:
        people = read_root_people(roots, images, skip_broken)
    names = images["file_name"][people["image"]]
    frames = frames_of(
        MUPOTS,
        folder,
        images,
        people,
        focal=images["intrinsic"][people["image"], :2],
        principal=images["intrinsic"][people["image"], 2:],
        action=np.array([name.decode().split("/")[0] for name in names.tolist()], dtype=np.str_),
        **(annotated_poses(people) if roots is None else crops(people)),
    )
    return finished(frames, path if roots is None else Path(roots), skip_broken)
