"""Reading pictures, and turning them into network input."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from tqdm import tqdm

from partnas.errors import PartnasError

MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)
"""ImageNet's channel statistics of RGB values in 0–1."""

LEVELS = np.arange(256, dtype=np.float32)[:, None]

READ_AS = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2 | cv2.IMREAD_COLOR_RGB,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4 | cv2.IMREAD_COLOR_RGB,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_COLOR_RGB,
}
"""OpenCV's flags by reduction; its reduced colours are these bits, beside BGR or RGB."""

SMALL = 1 << 17
"""Pixels; what has no more than that is always decoded at full size, which takes less than half a millisecond."""

JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"

TAIL = 64
"""Bytes at the end of a JPEG in which its end marker mostly stands; some writers pad it, cameras append to it."""

TOGETHER = 256

Item = TypeVar("Item")


def read_image(
    path: Path | str, reduction: int = 1, size: Sequence[int] | None = None, upright: bool = False
) -> np.ndarray:
    """An image file as RGB.

    Args:
        path: Of the file.
        reduction: 1, 2, 4 or 8: that many times smaller, each pixel the mean of those that it stands for. A JPEG is
            decoded at that size at once, which takes less time; incomplete pixels at its far edges are kept.
        size: Width and height in pixels that the image must have, as its annotation says.
        upright: Turn it as its EXIF orientation says. Annotations are in the pixels as they are stored.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        PartnasError: The file is missing, empty, truncated, of another size, or no image.
    """
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise PartnasError(_cannot_be_read(path, error)) from None
    if not content:
        raise PartnasError(f"{path}: empty; copy it again")
    if _is_cut_off(content):
        raise PartnasError(f"{path}: truncated JPEG; copy it again")
    at_once = reduction if content[:2] == JPEG_START else 1
    flags = READ_AS[at_once] | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION)
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        image = None
    if image is None:
        raise PartnasError(f"{path}: broken, or no image; replace the file")
    found = image.shape[1::-1]
    if size is not None and found != tuple(-(-side // at_once) for side in size):
        shown = f"{found[0] * at_once}x{found[1] * at_once}{' or a little less' if at_once > 1 else ''}"
        raise PartnasError(
            f"{path}: is {shown}, its annotation says {size[0]}x{size[1]}; mend width and height, or copy the image again"
        )
    return image if at_once == reduction else averaged(image, reduction)


def averaged(image: np.ndarray, reduction: int) -> np.ndarray:
    """An image ``reduction`` times smaller, by area; incomplete pixels at the far edges are left out."""
    if reduction == 1:
        return image
    height, width = image.shape[0] // reduction, image.shape[1] // reduction
    whole = image[: height * reduction, : width * reduction]
    return cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)


def unreadable(path: Path | str) -> str:
    """What is wrong with an image file, as far as its first and last bytes tell; empty where nothing is."""
    try:
        with open(path, "rb") as file:
            start = file.read(2)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - TAIL, 0))
            is_whole = start != JPEG_START or JPEG_END in file.read()
        is_whole = is_whole or not _is_cut_off(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        return _cannot_be_read(path, error)
    if not size:
        return f"{path}: empty; copy it again"
    return "" if is_whole else f"{path}: truncated JPEG; copy it again"


def faults_of(
    find: Callable[[Item], str], items: Sequence[Item], title: str, threads: int | None = None, progress: bool = True
) -> list[str]:
    """What ``find`` says of each item, found by several threads under a progress bar."""
    faults: list[str] = []
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(total=len(items), desc=title, unit="image", delay=1, disable=None if progress else True) as bar,
    ):
        for start in range(0, len(items), TOGETHER):  # Ctrl-C waits for what is handed out
            faults += pool.map(find, items[start : start + TOGETHER])
            bar.update(len(faults) - start)
    return faults


def _is_cut_off(content: bytes) -> bool:
    """Whether a JPEG has no end marker after the first scan of its own, whatever a thumbnail or a trailer holds."""
    if content[:2] != JPEG_START or JPEG_END in content[-TAIL:]:
        return False
    place = len(JPEG_START)
    while content[place : place + 2] != JPEG_SCAN:
        length = int.from_bytes(content[place + 2 : place + 4], "big")
        if content[place : place + 1] != b"\xff" or length < 2:
            return True
        place += 2 + length
    return JPEG_END not in content[place:]


def _cannot_be_read(path: Path | str, error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return f"{path}: cannot be read ({error.strerror}); check the path"
    return f"{str(path)!r}: is no file name; mend it"


def reduction_for(shrink: float, image_size: np.ndarray) -> int:
    """How much smaller an image of ``image_size`` (width, height) may be decoded for a crop that shrinks it ``shrink``
    times, so that the crop never enlarges; 1 for a small image."""
    if image_size[0] * image_size[1] <= SMALL:
        return 1
    return next((reduction for reduction in (8, 4, 2) if reduction <= min(shrink, *image_size)), 1)


def normalise(image: np.ndarray, colour: np.ndarray | None = None) -> np.ndarray:
    """Network input: 0–255 values to 0–1, then ImageNet's mean and deviation, by one look-up a value.

    The public baseline of Moon et al. feeds 0–255 values through this 0–1 normalisation by mistake.

    Args:
        image: ``(H, W, 3)`` RGB uint8.
        colour: ``(3,)``; multiplies the 0–255 values first, which are then cut off at 255.

    Returns:
        ``(3, H, W)`` float32, channels-last in memory.
    """
    levels = LEVELS if colour is None else np.clip(LEVELS * np.float32(colour), 0, 255)
    table = levels * (1 / (255 * STD)) - MEAN / STD  # [256, 3]
    return cv2.LUT(image, table[None]).transpose(2, 0, 1)
