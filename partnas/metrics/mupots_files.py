"""MuPoTS-3D's files in MATLAB's format: its annotations, and results for its evaluator (need the extra ``mupots``)."""

from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from partnas.errors import PartnasError
from partnas.files import write_atomically
from partnas.metrics.mupots import People

FILE_2D = "preds_2d_kpt_mupots.mat"
FILE_3D = "preds_3d_kpt_mupots.mat"
ANNOTATIONS = "annot.mat"


def frame_key(image_name: str) -> str:
    """The evaluator's name of an image: ``TS1_img_000000`` of ``TS1/img_000000.jpg``, whatever folders stand before."""
    path = Path(image_name)
    return f"{path.parent.name}_{path.stem}"


def write_results(folder: Path, people: People, frames: Iterable[str]) -> list[Path]:
    """Write both files into ``folder``; returns their paths.

    Args:
        folder: Made where it is missing.
        people: What was predicted.
        frames: Names of further images, in which nobody was predicted; theirs are arrays of no people.

    Raises:
        PartnasError: scipy is not installed.
    """
    io = scipy_io()
    places = people.by_frame()
    names = sorted({*places, *frames})
    nobody = np.empty(0, dtype=int)
    paths = []
    for name, poses in ((FILE_2D, people.image), (FILE_3D, people.camera)):
        arrays = {frame: np.asarray(poses[places.get(frame, nobody)], dtype=np.float64) for frame in names}
        paths.append(folder / name)
        write_atomically(paths[-1], lambda path, arrays=arrays: io.savemat(path, arrays, appendmat=False))
    return paths


def read_results(folder: Path) -> People:
    """Read both files of :func:`write_results`, or of another program that keeps to the evaluator's format.

    Raises:
        PartnasError: A file is missing, damaged or of another format, an array has another shape than ``(n, 17, 2)`` or
            ``(n, 17, 3)``, or the files differ in their images or in the number of people of one; scipy is missing.
    """
    image, camera = _read(folder / FILE_2D, 2), _read(folder / FILE_3D, 3)
    if differing := sorted(image.keys() ^ camera.keys()):
        lacking = FILE_3D if differing[0] in image else FILE_2D
        raise PartnasError(
            f"{folder / lacking}: {differing[0]} is missing, which the other file holds; write both again"
        )
    for frame, points in image.items():
        if len(points) != len(camera[frame]):
            raise PartnasError(
                f"{folder / FILE_3D}: {frame} holds {len(camera[frame])} people where {FILE_2D} holds {len(points)}; "
                "write both again"
            )
    counts = [len(points) for points in image.values()]
    return People(
        np.repeat(np.array(list(image), dtype=str), counts),
        np.concatenate([*image.values(), np.empty((0, 17, 2))]),
        np.concatenate([*camera.values(), np.empty((0, 17, 3))]),
    )


def scipy_io() -> ModuleType:
    """The module that reads and writes MATLAB's files.

    Raises:
        PartnasError: scipy is not installed.
    """
    try:
        import scipy.io
    except ImportError:
        raise PartnasError("scipy: not installed; pip install 'partnas[mupots]' for MATLAB's files") from None
    return scipy.io


def has_annotations(folder: Path) -> bool:
    """Whether some sequence's folder below ``folder`` holds an ``annot.mat``."""
    return any(folder.glob(f"TS*/{ANNOTATIONS}"))


def read_annotations(folder: Path, sequences: Iterable[str] = ()) -> People:
    """The valid people of all ``TS*/annot.mat``, with ``univ_annot3``, which the evaluator compares with.

    These are the annotated poses in the size of one universal skeleton.

    Args:
        folder: The data set's ``MultiPersonTestSet``.
        sequences: Those that must have a file.

    Raises:
        PartnasError: A file is missing, damaged or lacks a field, or an array has another shape; scipy is missing.
    """
    for path in (folder / sequence / ANNOTATIONS for sequence in sequences):
        if not path.is_file():
            raise PartnasError(
                f"{path}: no such file, where other sequences have theirs; copy it, or move theirs away to compare with "
                "MuPoTS-3D.json"
            )
    frames, image, camera = [], [np.empty((0, 17, 2))], [np.empty((0, 17, 3))]
    for path in sorted(folder.glob(f"TS*/{ANNOTATIONS}")):
        cells = _load(path).get("annotations")
        if cells is None or cells.dtype != object or cells.ndim != 2:
            raise PartnasError(f"{path}: annotations is no cell array of frames and people; copy the file again")
        for (frame, person), cell in np.ndenumerate(cells):
            place = f"{path}: annotations{{{frame + 1},{person + 1}}}"
            if _field(cell, "isValidFrame", (1, 1), place)[0, 0]:
                frames.append(f"{path.parent.name}_img_{frame:06d}")
                image.append(_field(cell, "annot2", (2, 17), place).T[None])
                camera.append(_field(cell, "univ_annot3", (3, 17), place).T[None])
    return People(np.array(frames, dtype=str), np.concatenate(image), np.concatenate(camera))


def _field(cell: np.ndarray, name: str, shape: tuple[int, int], place: str) -> np.ndarray:
    """One matrix of a person's structure, float64."""
    if cell.dtype.names is None or name not in cell.dtype.names:
        raise PartnasError(f"{place}: field {name} is missing; copy the file again")
    value = cell[name].item() if cell.size == 1 else np.empty(0)
    if value.shape != shape:
        raise PartnasError(f"{place}: {name} has shape {value.shape}, not {shape}; copy the file again")
    return value.astype(np.float64)


def _load(path: Path) -> dict[str, Any]:
    io = scipy_io()
    try:
        return io.loadmat(path, appendmat=False)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise PartnasError(f"{path}: cannot be read ({reason}); write it in MATLAB's format 5 to 7.2") from None


def _read(path: Path, width: int) -> dict[str, np.ndarray]:
    """The arrays of one file by image; each ``(n, 17, width)`` float64."""
    if not path.is_file():
        raise PartnasError(f"{path}: no such file; name the folder that holds {FILE_2D} and {FILE_3D}")
    arrays = {name: value for name, value in _load(path).items() if not name.startswith("__")}
    for frame, value in arrays.items():
        if not np.issubdtype(value.dtype, np.number) or np.iscomplexobj(value):
            raise PartnasError(f"{path}: {frame} holds {value.dtype}, not numbers; write (n, 17, {width}) coordinates")
        if value.size == 0:
            arrays[frame] = np.empty((0, 17, width))
        elif value.ndim != 3 or value.shape[1:] != (17, width):
            raise PartnasError(f"{path}: {frame} has shape {value.shape}, not (n, 17, {width}); write it again")
        else:
            arrays[frame] = value.astype(np.float64)
    return arrays
