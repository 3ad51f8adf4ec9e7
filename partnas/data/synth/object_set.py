"""Renders a set of objects for the occlusion augmentation, with worker processes."""

from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from partnas.data.occluders import write_object
from partnas.data.synth.objects import make_object
from partnas.files import new_folder

QUALITY = 82


def render_objects(out: Path | str, count: int, seed: int = 0, workers: int = 2, progress: bool = True) -> Path:
    """Write ``count`` rendered objects to the folder ``out`` as WebP files with alpha.

    The same seed gives the same pictures whatever the number of workers; more of them begin with the same ones.

    Raises:
        PartnasError: The folder exists and is not empty. Nothing is left behind if rendering fails.
    """
    out = Path(out)
    with new_folder(out) as folder, get_context("spawn").Pool(workers) as pool:
        made = pool.imap(partial(_write, folder, seed), range(count))
        for _ in tqdm(made, total=count, desc="Rendering", unit="object", disable=None if progress else True):
            pass
    return out


def _write(folder: Path, seed: int, index: int) -> None:
    name, picture = make_object(index, seed)
    write_object(folder / f"{index:03d}_{name}.webp", bled(picture), QUALITY)


def bled(picture: np.ndarray) -> np.ndarray:
    """RGBA whose colours go on beyond the outline, so that lossy compression brings no dark fringe in."""
    alpha = picture[..., 3:].astype(np.float32) / 255
    weighed = np.concatenate([picture[..., :3] * alpha, alpha], axis=2)
    spread = cv2.GaussianBlur(weighed, (0, 0), 3)
    around = spread[..., :3] / np.maximum(spread[..., 3:], 1e-4)
    colours = np.where(picture[..., 3:] > 0, picture[..., :3], np.clip(around, 0, 255).round())
    return np.concatenate([colours.astype(np.uint8), picture[..., 3:]], axis=2)
