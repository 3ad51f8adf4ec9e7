"""Reading pictures, and turning them into network input."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import simplejpeg
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

HEAD = 4096
"""Bytes at the start of a JPEG in which its size mostly stands."""

JPEG_SIZES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""The markers of JPEG's segments that tell its size."""

TOGETHER = 256

Item = TypeVar("Item")


def read_image(
    path: Path | str,
    reduction: int = 1,
    size: Sequence[int] | None = None,
    upright: bool = False,
    image_id: int | None = None,
    strict: bool = False,
) -> np.ndarray:
    """An image file as RGB.

    Args:
        path: Of the file.
        reduction: 1, 2, 4 or 8: that many times smaller, each pixel the mean of those that it stands for. A JPEG is
            decoded at that size at once, which takes less time; incomplete pixels at its far edges are kept.
        size: Width and height in pixels that the image must have, as its annotation says.
        upright: Turn it as its EXIF orientation says. Annotations are in the pixels as they are stored.
        image_id: As its annotation numbers it; errors name it.
        strict: Refuse a JPEG that libjpeg has to fill in, too; takes half as long again.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        PartnasError: The file is missing, empty, truncated, of another size, or no image; or damaged, if ``strict``.
    """
    label = _label(path, image_id)
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise PartnasError(_cannot_be_read(label, error)) from None
    if not content:
        raise PartnasError(f"{label}: empty; copy it again")
    if _is_cut_off(content):
        raise PartnasError(f"{label}: truncated JPEG; copy it again")
    at_once = reduction if content[:2] == JPEG_START else 1
    flags = READ_AS[at_once] | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION)
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        image = None
    if image is None:
        raise PartnasError(f"{label}: broken, or no image; replace the file")
    if strict and (damage := _damage(content)):
        raise PartnasError(f"{label}: damaged JPEG ({damage}); copy it again, or leave it if the copy is the same")
    found = image.shape[1::-1]
    if size is not None and found != tuple(-(-side // at_once) for side in size):
        raise PartnasError(_other_size(label, [side * at_once for side in found], size, at_once > 1))
    return image if at_once == reduction else averaged(image, reduction)


def averaged(image: np.ndarray, reduction: int) -> np.ndarray:
    """An image ``reduction`` times smaller, by area; incomplete pixels at the far edges are left out."""
    if reduction == 1:
        return image
    height, width = image.shape[0] // reduction, image.shape[1] // reduction
    whole = image[: height * reduction, : width * reduction]
    return cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)


def unreadable(path: Path | str, size: Sequence[int] | None = None, image_id: int | None = None) -> str:
    """What is wrong with an image file, as far as it tells without being decoded; empty where nothing is.

    A JPEG is looked at from both ends: its size, and whether it was cut off. Other files, which no large set has, are
    decoded.

    Args:
        path: Of the file.
        size: Width and height in pixels that it must have.
        image_id: As its annotation numbers it; what is wrong begins with path and number.
    """
    label = _label(path, image_id)
    try:
        with open(path, "rb") as file:
            start = file.read(HEAD)
            length = file.seek(0, os.SEEK_END)
            file.seek(max(length - TAIL, 0))
            end = file.read()
        if start[:2] != JPEG_START:
            read_image(path, size=size, image_id=image_id)
            return ""
        found = _jpeg_size(start) or _jpeg_size(Path(path).read_bytes())
        is_whole = JPEG_END in end or not _is_cut_off(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        return _cannot_be_read(label, error)
    except PartnasError as error:
        return str(error)
    if not is_whole:
        return f"{label}: truncated JPEG; copy it again"
    if found is None:
        return f"{label}: broken, or no image; replace the file"
    return "" if size is None or found == tuple(size) else _other_size(label, found, size)


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
    scan = next((place for place in _jpeg_segments(content) if content[place : place + 2] == JPEG_SCAN), None)
    return scan is None or JPEG_END not in content[scan:]


def _damage(content: bytes) -> str:
    """What libjpeg says of a JPEG of which it reads a part only; empty where it is whole, or no JPEG."""
    if content[:2] != JPEG_START:
        return ""
    try:
        colours = simplejpeg.decode_jpeg_header(content)[2]
        # Every code is read for a small grey picture as well.
        simplejpeg.decode_jpeg(
            content, "CMYK" if colours in ("CMYK", "YCCK") else "GRAY", min_height=1, min_width=1, min_factor=8
        )
    except ValueError as error:
        return str(error)
    return ""


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG in pixels; None where its header does not tell, or is not whole."""
    for place in _jpeg_segments(content):
        if content[place + 1] in JPEG_SIZES and place + 9 <= len(content):
            height, width = (int.from_bytes(content[place + at : place + at + 2], "big") for at in (5, 7))
            return width, height
    return None


def _jpeg_segments(content: bytes) -> Iterator[int]:
    """Where each segment of a JPEG begins, up to the first scan."""
    place = len(JPEG_START)
    while place + 4 <= len(content) and content[place] == 0xFF:
        if content[place + 1] == 0xFF:  # a marker may be padded
            place += 1
            continue
        yield place
        length = int.from_bytes(content[place + 2 : place + 4], "big")
        if content[place : place + 2] == JPEG_SCAN or length < 2:
            return
        place += 2 + length


def _label(path: Path | str, image_id: int | None) -> str:
    """How an error names an image."""
    return str(path) if image_id is None else f"{path} (image {image_id})"


def _other_size(label: str, found: Sequence[int], size: Sequence[int], at_least: bool = False) -> str:
    shown = f"{found[0]}x{found[1]}{' or a little less' if at_least else ''}"
    return (
        f"{label}: is {shown}, its annotation says {size[0]}x{size[1]}; mend width and height, or copy the image again"
    )


def _cannot_be_read(label: str, error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return f"{label}: cannot be read ({error.strerror}); check the path"
    return f"{label!r}: is no file name; mend it"


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
