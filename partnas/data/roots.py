"""Boxes and root depths from elsewhere: the list that RootNet and person detectors write.

``[{"image_id", "bbox": [xmin, ymin, width, height], "root_cam": [X, Y, Z]?, "score"?}, …]``; the boxes are extended
already.
"""

from pathlib import Path
from typing import Any

import numpy as np

from partnas.data.frames import Frames
from partnas.data.records import Column, Numbers, Table, Whole, read_json
from partnas.errors import PartnasError


def read_entries(path: Path, rows: list[Any], image_id: Column, skip_broken: bool = False) -> Table:
    """Entries as columns ``image_id``, ``bbox``, ``root_cam`` (NaN where it is not given) and ``score`` (1 there).

    Raises:
        PartnasError: An entry is broken, its box has no area or its root lies behind the camera, and ``skip_broken`` is
            off.
    """
    columns = {
        "image_id": image_id,
        "bbox": Numbers((4,)),
        "root_cam": Numbers((3,), default=np.nan),
        "score": Numbers(default=1.0),
    }
    entries = Table.read(path, rows, "entry for image", columns, skip_broken, key="image_id")
    boxes = entries["bbox"]
    entries.require(
        (boxes[:, 2:] > 0).all(1),
        lambda index: f"bbox {boxes[index].tolist()} has no area; give width and height in pixels",
    )
    roots = entries["root_cam"]
    entries.require(
        ~(roots[:, 2] <= 0),
        lambda index: f"root_cam {roots[index].tolist()} lies behind the camera; give [X, Y, Z] in millimetres",
    )
    return entries


def read_roots(path: Path | str, skip_broken: bool = False) -> Table:
    """A whole file, its ``image_id`` as int64; see :func:`read_entries`.

    Raises:
        PartnasError: The file is missing, broken or no list, or an entry is broken.
    """
    path = Path(path)
    rows = read_json(path)
    if not isinstance(rows, list):
        raise PartnasError(f"{path}: is a {type(rows).__name__}, not a list of image_id, bbox and root_cam")
    return read_entries(path, rows, Whole(), skip_broken)


def read_root_people(path: Path | str, images: Table, skip_broken: bool = False) -> Table:
    """The people that a file names, joined to a set's images; their ids are their places in the file."""
    people = read_roots(path, skip_broken)
    people.columns["id"] = people.places
    people.join(images, "image_id", "image")
    return people


def crops(people: Table) -> dict[str, np.ndarray]:
    """What a file knows of its people, as attributes of :class:`Frames`."""
    return {
        "bboxes": people["bbox"],
        "root_depth": people["root_cam"][:, 2],
        "boxes_are_extended": np.ones(len(people), bool),
    }


def with_roots(frames: Frames, path: Path | str, skip_broken: bool = False) -> Frames:
    """Annotated people, one to an image, with the boxes and root depths of a file.

    Of several entries for an image the one of highest score counts, of equals the first.

    Raises:
        PartnasError: The file is broken, or lacks an image; with ``skip_broken`` such frames are listed and left out.
    """
    entries = read_roots(path, skip_broken)
    order = np.lexsort([-entries["score"], entries["image_id"]])
    ids, first = np.unique(entries["image_id"][order], return_index=True)
    place = np.minimum(np.searchsorted(ids, frames.image_ids), max(len(ids) - 1, 0))
    found = ids[place] == frames.image_ids if len(ids) else np.zeros(len(frames), bool)
    lines = [f"{path}: image_id {image_id}: has no entry; add it" for image_id in frames.image_ids[~found].tolist()]
    if lines and not (skip_broken and found.any()):
        raise PartnasError(lines[0])
    chosen = frames.subset(found)
    best = order[first[place[found]]]
    for name, values in crops(entries).items():
        setattr(chosen, name, values[best])
    chosen.skipped = frames.skipped + entries.skipped + lines
    return chosen
