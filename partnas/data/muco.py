"""MuCo-3DHP: composites of several people with 21 joints in camera space."""

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
    require_near,
)
from partnas.data.frames import Frames
from partnas.data.records import Numbers
from partnas.skeleton import MUCO

FOLDER = "data"
ANNOTATIONS = "data/MuCo-3DHP.json"
CLEARANCE = 500.0
"""Millimetres to the nearest other root at which a person is still kept."""


def read_muco(root: Path | str, skip_broken: bool = False) -> Frames:
    """The people of MuCo-3DHP that are trained on.

    Of each image they are the one nearest the camera, and others only where every other root is at least 500 mm away.

    Args:
        root: Folder that holds ``data/{augmented_set,unaugmented_set,MuCo-3DHP.json}``.
        skip_broken: List broken annotations and images in ``skipped`` and leave them out, instead of raising.

    Raises:
        PartnasError: A missing or broken file, field or value; the message names file, id and field.
    """
    root = Path(root)
    path, folder = root / ANNOTATIONS, root / FOLDER
    image_rows, people_rows = read_file(path, MUCO.parts)
    images = read_images(path, image_rows, {"f": Numbers((2,)), "c": Numbers((2,))}, skip_broken)
    require_focal(images, "f")
    require_near(images, "c")
    people = read_people(
        path,
        people_rows,
        images,
        pose_columns(len(MUCO.parts)),
        skip_broken,
    )
    require_front(people, MUCO.root)
    people.keep(kept(people["image"], people["keypoints_cam"][:, MUCO.root]), "too near another person")
    require_boxes(people, images)
    frames = frames_of(
        MUCO,
        folder,
        images,
        people,
        focal=images["f"][people["image"]],
        principal=images["c"][people["image"]],
        **annotated_poses(people),
    )
    return finished(frames, path, skip_broken)


def kept(image: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Which people are trained on.

    Args:
        image: ``(N,)`` the image of each.
        root: ``(N, 3)`` the pelvis in camera millimetres.

    Returns:
        ``(N,)`` bool.
    """
    order = np.lexsort([root[:, 2], image])
    image, root = image[order], root[order].astype(np.float64)
    chosen = np.ones(len(image), bool)
    for step in range(1, len(image)):
        together = np.flatnonzero(image[:-step] == image[step:])
        if not len(together):
            break
        near = together[np.linalg.norm(root[together] - root[together + step], axis=1) < CLEARANCE]
        chosen[near] = chosen[near + step] = False
    chosen[np.flatnonzero(np.diff(image, prepend=-1))] = True
    result = np.empty_like(chosen)
    result[order] = chosen
    return result
