"""Reading whole data sets to find what is missing, broken or out of range in them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from partnas.data import coco, human36m, mpii, muco, mupots
from partnas.data.annotations import NothingUsable, read_images
from partnas.data.frames import Frames
from partnas.data.images import faults_of, read_image
from partnas.data.records import Table, read_lists
from partnas.data.roots import read_roots
from partnas.errors import PartnasError

LAYOUT = {
    "Human36M": "annotations/Human36M_subject1_data.json",
    "MPII": mpii.ANNOTATIONS,
    "MSCOCO": "annotations/person_keypoints_train2017.json",
    "MuCo": muco.ANNOTATIONS,
    "MuPoTS": mupots.ANNOTATIONS,
}
"""The folders of the public release, and an annotation file that each must hold."""

ROOT_FILES = "bbox_root/bbox_root_*_output.json"


@dataclass(frozen=True)
class Part:
    """What one annotation file covers."""

    title: str
    annotations: Path
    folder: Path
    read: Callable[..., Frames]
    names: Callable[[np.ndarray], np.ndarray] = np.asarray
    """From the file's image names to names below ``folder``."""


@dataclass
class Report:
    """What a data set holds, and what is wrong in it.

    Attributes:
        parts: One line for each annotation file: how many people in how many images, and who is left out by rule.
        problems: One line for each problem, naming file, id and field; empty where all is well.
    """

    parts: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def check(root: Path | str, progress: bool = True) -> Report:
    """Read every annotation and decode every image of the sets that ``root`` holds.

    Args:
        root: The folder of one set, or the folder above several, in the layout of Moon et al.'s public release.
        progress: Show a bar.
    """
    root = Path(root)
    folders = [root, *sorted(path for path in root.glob("*") if path.is_dir())]
    parts = [part for folder in folders for part in parts_in(folder)]
    report = Report()
    for folder in folders:
        if folder.name in LAYOUT and not any(parts_in(folder)):
            report.problems.append(f"{folder / LAYOUT[folder.name]}: is missing; copy it, or remove the folder")
    if not parts and not report.problems:
        report.problems.append(
            f"{root}: holds no annotations of Human3.6M, MPII, COCO, MuCo-3DHP or MuPoTS-3D; name the folder of a set "
            "or the one above"
        )
    for folder in folders:
        images = [_check_part(part, report, progress) for part in parts_in(folder)]
        if absent := absent_subjects(folder):
            report.parts.append(f"Human3.6M: no subjects {', '.join(map(str, absent))}, which its protocols have")
        known = np.concatenate([of["id"] for of in images]) if images and all(of is not None for of in images) else None
        for path in sorted(folder.glob(ROOT_FILES)):
            report.problems += _root_problems(path, known)
    return report


def absent_subjects(root: Path) -> list[int]:
    """The subjects of the protocols of which ``root`` has no annotation file, where it has some subject's."""
    found = human36m.subjects_in(root)
    wanted = {subject for splits in human36m.SPLITS.values() for split in splits.values() for subject in split}
    return sorted(wanted - set(found)) if found else []


def parts_in(root: Path) -> Iterator[Part]:
    """The annotation files that stand where a set's layout puts them."""
    for subject in human36m.subjects_in(root):
        path = root / "annotations" / f"Human36M_subject{subject}_data.json"
        read = partial(human36m.read_human36m, root, [subject])
        yield Part(f"Human3.6M subject {subject}", path, root / "images", read)
    if (root / mpii.ANNOTATIONS).exists():
        yield Part("MPII", root / mpii.ANNOTATIONS, root, partial(mpii.read_mpii, root), mpii.names_below_root)
    for split in coco.SPLITS:
        if (path := coco.annotation_file(root, split)).exists():
            yield Part(f"COCO {split}", path, root / "images" / split, partial(coco.read_coco, root, split))
    if (root / muco.ANNOTATIONS).exists():
        yield Part("MuCo-3DHP", root / muco.ANNOTATIONS, root / muco.FOLDER, partial(muco.read_muco, root))
    if (root / mupots.ANNOTATIONS).exists():
        yield Part("MuPoTS-3D", root / mupots.ANNOTATIONS, root / mupots.FOLDER, partial(mupots.read_mupots, root))


def _check_part(part: Part, report: Report, progress: bool) -> Table | None:
    """Report on a part; its images, where they can be read."""
    try:
        images = read_images(part.annotations, read_lists(part.annotations, ("images",))["images"], {}, True)
    except PartnasError as error:
        report.problems.append(str(error))
        return None
    files = [part.folder / name.decode() for name in part.names(images["file_name"]).tolist()]
    sizes = np.column_stack([images["width"], images["height"]]).tolist()
    listed = list(zip(files, sizes, images["id"].tolist(), strict=True))
    faults = faults_of(_image_problem, listed, part.title, progress=progress)
    broken = [fault for fault in faults if fault]
    report.problems += broken
    try:
        frames = part.read(skip_broken=True)
    except NothingUsable as error:
        report.problems += _others(error.skipped, broken) or [str(error)]
    except PartnasError as error:
        report.problems.append(str(error))
    else:
        report.problems += _others(frames.skipped, broken)
        report.parts.append(_summary(part, frames, len(files)))
    return images


def _others(lines: Sequence[str], known: Sequence[str]) -> list[str]:
    told = set(known)
    return [line for line in lines if line not in told]


def _image_problem(image: tuple[Path, list[int], int]) -> str:
    path, size, image_id = image
    try:
        read_image(path, size=size, image_id=image_id, strict=True)
    except PartnasError as error:
        return str(error)
    return ""


def _root_problems(path: Path, images: np.ndarray | None) -> list[str]:
    """Of a file of boxes and roots; ``images`` are the ids of its set's, or None where they are not known."""
    try:
        entries = read_roots(path, skip_broken=True)
    except PartnasError as error:
        return [str(error)]
    strangers = [] if images is None else np.setdiff1d(entries["image_id"], images).tolist()
    return entries.skipped + [
        f"{path}: entry for image {number}: no such image in the set; remove it" for number in strangers
    ]


def _summary(part: Part, frames: Frames, images: int) -> str:
    line = f"{part.title}: people {len(frames):,}, images {images:,}"
    reasons = [f"{reason} {number:,}" for reason, number in frames.left_out.items()]
    return line + (f"; left out by rule: {', '.join(reasons)}" if reasons else "")
