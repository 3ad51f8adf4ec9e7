"""Makes a data set of rendered people in the Human3.6M layout, with worker processes."""

import importlib.util
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

from partnas.data.synth import plan, scene
from partnas.data.synth.body import cache_folder
from partnas.data.synth.clips import load_clip
from partnas.data.synth.layout import write_annotations, write_data_card
from partnas.errors import PartnasError
from partnas.files import new_folder, require_free

PACKAGES = {"anny": "anny", "warp": "warp-lang", "pybullet_data": "pybullet"}
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_worker = {}


def synthesize(
    output: str | Path,
    images: int,
    seed: int = 0,
    workers: int = 2,
    size: int = 160,
    quality: int = 70,
    progress: bool = True,
) -> Path:
    """Render people in motion into ``output`` (``images/``, ``annotations/`` and ``DATA_CARD.md``), in the layout of Human3.6M.

    Real motion capture (the DeepMimic clips in ``pybullet``) on the ``anny`` body, ray-cast by ``warp-lang``. Clips
    are split over subjects: 1, 5, 6 train, 7, 8 validation, 9, 11 test. The same seed, count, size and quality give
    the same files whatever the number of workers. Nothing is left behind if it fails. In a script, call it under
    ``if __name__ == "__main__"``, since the workers are spawned.

    Args:
        output: a folder that does not exist yet, or is empty.
        images: how many pictures.
        seed: of every random choice (0 or more).
        workers: processes.
        size: side of the square pictures, pixels.
        quality: of the JPEG files, 1–100.
        progress: show a progress bar.

    Returns:
        The folder.

    Raises:
        PartnasError: a package of the extra ``synth`` is missing, the folder is in use, or a number is out of range.
    """
    output = Path(output)
    _check(output, images, seed, workers, size, quality)
    items = plan.make_plan(images)
    with new_folder(output) as temporary:
        for folder in sorted({item.folder for item in items}):
            (temporary / "images" / folder).mkdir(parents=True)
        records = _render_all(items, temporary / "images", seed, workers, size, quality, progress)
        cameras = {subject: scene.subject_cameras(subject, size) for subject in {item.subject for item in items}}
        write_annotations(temporary / "annotations", list(zip(items, records, strict=True)), cameras, size)
        write_data_card(temporary / "DATA_CARD.md", images, size, quality, seed)
    return output


def _check(output, images, seed, workers, size, quality):
    for name, value, low, high in (
        ("images", images, 1, 10_000_000),
        ("seed", seed, 0, 2**63),
        ("workers", workers, 1, 1024),
        ("size", size, 32, 2048),
        ("quality", quality, 1, 100),
    ):
        if not low <= value <= high:
            raise PartnasError(f"{name}: {value} is out of range; give a number from {low} to {high}")
    require_free(output)
    for module, package in PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            raise PartnasError(f"{package} is not installed, and synthesis needs it: pip install 'partnas[synth]'")


def _render_all(items, folder, seed, workers, size, quality, progress):
    arguments = (str(folder), seed, size, quality)
    context = multiprocessing.get_context("spawn")
    with _single_threaded(), ProcessPoolExecutor(min(workers, len(items)), context, _start, arguments) as pool:
        try:
            if progress and not any(cache_folder().glob("*/build_compact_model_data_*")):
                tqdm.write("The first run prepares the body model; this takes about a minute.", file=sys.stderr)
            finished = pool.map(_make, items, chunksize=4)
            bar = tqdm(finished, total=len(items), desc="Rendering", unit="image", disable=not progress)
            return list(bar)
        except BrokenProcessPool as error:
            raise PartnasError("a rendering process died, perhaps for lack of memory; give fewer --workers") from error
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


@contextmanager
def _single_threaded():
    # Children read these once at start; several workers with a thread pool each would only fight for the cores.
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _start(folder, seed, size, quality):
    _worker.update(folder=Path(folder), seed=seed, size=size, quality=quality)


def _make(item):
    import cv2

    from partnas.data.synth.picture import make_picture

    if "body" not in _worker:
        _load()
    picture = make_picture(item, _worker["seed"], _worker["size"], _worker["body"], _worker["clips"])
    settings = [cv2.IMWRITE_JPEG_QUALITY, _worker["quality"], cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    done, data = cv2.imencode(".jpg", picture.image[:, :, ::-1], settings)
    if not done:
        raise PartnasError(f"{item.file_name}: OpenCV could not encode the picture")
    (_worker["folder"] / item.file_name).write_bytes(data.tobytes())
    return {"bbox": picture.bbox, "joints": picture.joints, "visible": np.asarray(picture.visible)}


def _load():
    """Load the body, the clips and the renderer once a process; one process at a time, as they fill caches on disk."""
    import fcntl

    import cv2

    from partnas.data.synth import body

    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    with (folder / "lock").open("w") as lock, _silence():
        fcntl.flock(lock, fcntl.LOCK_EX)
        from partnas.data.synth import render

        render.initialise()
        _worker["body"] = body.Body()
    _worker["clips"] = {name: load_clip(name) for names in plan.SPLIT_CLIPS.values() for name in names}


@contextmanager
def _silence():
    # Warp's native code reports a missing GPU on the file descriptors themselves.
    saved = os.dup(1), os.dup(2)
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        for target, descriptor in zip((1, 2), saved, strict=True):
            os.dup2(descriptor, target)
            os.close(descriptor)
