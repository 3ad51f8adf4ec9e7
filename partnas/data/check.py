"""Reading a whole data set to find what is broken in it."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from partnas.data.crop import expand_box
from partnas.data.frames import Frames
from partnas.data.human36m import read_human36m, subjects_in
from partnas.data.images import read_image
from partnas.errors import PartnasError


def check(root: Path | str, progress: bool = True) -> list[str]:
    """Read every annotation and decode every image under ``root``.

    Returns:
        One line for each problem, naming file, id and field; empty where all is well.
    """
    root = Path(root)
    subjects = subjects_in(root)
    if not subjects:
        return [
            f"{root}/annotations: no Human36M_subject*_data.json; name the folder that holds images/ and annotations/"
        ]
    problems = []
    for subject in subjects:
        try:
            source = read_human36m(root, [subject])
        except PartnasError as error:
            problems.append(str(error))
            continue
        title = f"subject {subject}"
        for index in tqdm(range(len(source)), desc=title, unit="image", disable=None if progress else True):
            problem = _check_frame(source, index)
            if problem:
                problems.append(problem)
    return problems


def _check_frame(source: Frames, index: int) -> str:
    path, size = source.image_paths[index], source.image_sizes[index]
    try:
        height, width = read_image(path).shape[:2]
    except PartnasError as error:
        return str(error)
    if (width, height) != tuple(size):
        return f"{path}: is {width}x{height}, its annotation says {size[0]}x{size[1]}; mend width and height"
    if expand_box(source.bboxes[index], size) is None:
        return f"{path}: annotation {source.ids[index]}: bbox {source.bboxes[index].tolist()} lies outside the image"
    if not np.isfinite(source.joints_image[index]).all():
        return f"{path}: annotation {source.ids[index]}: a joint cannot be projected"
    return ""
