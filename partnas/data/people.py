"""Boxes, root depths and cameras that a user gives for pictures of his own."""

from pathlib import Path
from typing import Any

import numpy as np

from partnas.data.annotations import DEFAULT_FOCAL
from partnas.data.records import Text, read_json
from partnas.data.roots import read_entries
from partnas.errors import PartnasError


def read_boxes(path: Path | str) -> dict[str, list[dict[str, Any]]]:
    """The people of each image.

    Two forms are read: an object ``{"name.jpg": [[xmin, ymin, width, height], …]}``, and the list that RootNet and
    detectors write, ``[{"image_id": "name.jpg", "bbox": […], "root_cam": [X, Y, Z]?}]``. Where an entry has a
    ``file_name``, as those of ``partnas roots`` have, the last part of that is the image's name. An entry with
    ``root_cam`` is RootNet's, and its box is extended already.

    Returns:
        By image name a list of ``{"bbox": [xmin, ymin, width, height] in pixels}``, with ``"root_depth"``, in
        millimetres, only where it was given.

    Raises:
        PartnasError: The file is missing, broken, or an entry of it is; the message names the image.
    """
    path = Path(path)
    content = read_json(path)
    if isinstance(content, dict):
        rows = []
        for name, boxes in content.items():
            if not isinstance(boxes, list):
                raise PartnasError(f"{path}: {name}: is not a list of boxes; write [[xmin, ymin, width, height], …]")
            rows += [{"image_id": name, "bbox": box} for box in boxes]
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in content}
    elif isinstance(content, list):
        rows, found = content, {}
    else:
        raise PartnasError(f"{path}: is neither an object nor a list; see `partnas predict --help`")
    rows = [_by_file_name(row) for row in rows]
    entries = read_entries(path, rows, Text())
    for name, bbox, root in zip(entries["image_id"], entries["bbox"], entries["root_cam"], strict=True):
        person = {"bbox": bbox.tolist()}
        if not np.isnan(root[2]):
            person["root_depth"] = float(root[2])
        found.setdefault(name.decode(), []).append(person)
    return found


def _by_file_name(row: Any) -> Any:
    if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
        return row
    return {**row, "image_id": Path(row["file_name"]).name}


def read_camera(path: Path | str | None, image_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Focal length and principal point ``(2,)`` each, in pixels.

    Without a file: f = 1500 and c = the image's centre.

    Raises:
        PartnasError: The file is missing or broken, or f is not positive.
    """
    if path is None:
        return np.full(2, DEFAULT_FOCAL), np.array(image_size) / 2
    content = read_json(Path(path))
    if not isinstance(content, dict):
        raise PartnasError(f'{path}: is not an object; write {{"f": [fx, fy], "c": [cx, cy]}} in pixels')
    for field in ("f", "c"):
        if field not in content:
            raise PartnasError(f"{path}: field {field!r} is missing; write two numbers in pixels")
    focal = _numbers(Path(path), content["f"], 2, "f")
    if min(focal) <= 0:
        raise PartnasError(f"{path}: f: {focal} must be positive; give pixels")
    return np.array(focal), np.array(_numbers(Path(path), content["c"], 2, "c"))


def _numbers(path: Path, value: Any, count: int, where: str) -> list[float]:
    try:
        numbers = [float(v) for v in value]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise PartnasError(f"{path}: {where}: {repr(value)[:60]} is not {count} finite numbers; give pixels")
    return numbers
