"""Objects that are pasted over training crops, as Sárándi et al. do: "How Robust is 3D Human Pose Estimation to Occlusion?".

A set of objects is a folder of RGBA pictures (PNG or WebP). One ships with the package, rendered; Pascal VOC 2012's are
cut out by :func:`cut_out_voc`.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import cv2
import defusedxml.ElementTree
import numpy as np
from defusedxml.common import DefusedXmlException
from PIL import Image
from tqdm import tqdm

from partnas.data.images import read_image
from partnas.errors import PartnasError
from partnas.files import new_folder

SHIPPED = Path(__file__).parent / "objects"
LEAST_PIXELS = 500
"""Smaller masks of Pascal VOC are left out."""
BORDER_OPACITY = 192
"""Of 255, within four pixels of an object's outline, so that it blends in."""
VOC_SCALE = 0.5
"""Pascal VOC's objects are kept at half their size, as in the authors' code: at scale 1 in a 256² crop."""
SUFFIXES = (".png", ".webp")
SEGMENTED, PERSON = "SegmentationObject", "person"


class Occluders:
    """Objects to paste.

    Args:
        pictures: ``(H, W, 4)`` RGBA uint8 each, at the size that scale 1 has in a crop of 256 pixels.
    """

    def __init__(self, pictures: Sequence[np.ndarray]):
        self._objects = [_halved(ready(picture)) for picture in pictures]

    def __len__(self) -> int:
        return len(self._objects)

    def paste(self, crop: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """A crop ``(S, S, 3)`` uint8 with 1 to 7 objects over it: scale U(0.2, 1) · S / 256, uniform centre."""
        crop, side = crop.copy(), crop.shape[0]
        for _ in range(random.integers(1, 8)):
            sizes = self._objects[random.integers(len(self._objects))]
            scale = random.uniform(0.2, 1) * side / 256
            size = [max(round(length * scale), 1) for length in sizes[0].shape[1::-1]]
            nearest = sizes[min(max(int(-math.log2(scale)), 0), len(sizes) - 1)]
            blend(crop, cv2.resize(nearest, size, interpolation=cv2.INTER_LINEAR), random.uniform(0, side, 2))
        return crop


def ready(picture: np.ndarray) -> np.ndarray:
    """RGBA ``(H, W, 4)`` uint8 as :func:`blend` wants it: colours times alpha, and 255 less alpha."""
    alpha = picture[..., 3:].astype(np.uint16)
    return np.concatenate([(picture[..., :3] * alpha + 127) // 255, 255 - alpha], axis=2).astype(np.uint8)


def blend(image: np.ndarray, picture: np.ndarray, centre: np.ndarray) -> None:
    """Lay an object over ``image`` (uint8, changed in place) about ``centre`` (x, y); what falls outside is cut off.

    Args:
        image: ``(H, W, 3)``.
        picture: ``(h, w, 4)`` uint8, as :func:`ready` gives it.
    """
    height, width = picture.shape[:2]
    left, top = (np.asarray(centre) - [width / 2, height / 2]).round().astype(int)
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + width, image.shape[1]), min(top + height, image.shape[0])
    if x0 >= x1 or y0 >= y1:
        return
    part, behind = picture[y0 - top : y1 - top, x0 - left : x1 - left], image[y0:y1, x0:x1]
    seen = cv2.cvtColor(cv2.extractChannel(part, 3), cv2.COLOR_GRAY2RGB)
    seen = cv2.multiply(behind, seen, scale=1 / 255)
    image[y0:y1, x0:x1] = cv2.add(seen, cv2.cvtColor(part, cv2.COLOR_RGBA2RGB))


@lru_cache(maxsize=4)
def occluders_in(folder: Path) -> Occluders:
    """The objects of a folder: RGBA pictures, or Pascal VOC 2012 itself. They are read once a process.

    Raises:
        PartnasError: There is no such folder, nothing in it, or a picture that cannot be read or has no alpha.
    """
    if not folder.is_dir():
        raise PartnasError(f"{folder}: no such folder; give one of RGBA pictures, or Pascal VOC 2012's")
    if _voc_root(folder) is not None:
        return Occluders([picture for _, picture in voc_objects(folder)])
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise PartnasError(f"{folder}: no PNG or WebP picture; `partnas data occluders VOC_DIR OUT` makes some")
    return Occluders([_read_rgba(path) for path in paths])


def cut_out_voc(voc: Path | str, out: Path | str, progress: bool = True) -> int:
    """Write the objects of Pascal VOC 2012 to the folder ``out`` as PNG files, and return how many there are.

    Raises:
        PartnasError: The folder exists and is not empty, or as :func:`voc_objects`. Nothing is left half-written.
    """
    count = 0
    with new_folder(Path(out)) as folder:
        for name, picture in voc_objects(voc, progress):
            write_object(folder / f"{name}.png", picture)
            count += 1
    return count


def voc_objects(folder: Path | str, progress: bool = False) -> Iterator[tuple[str, np.ndarray]]:
    """The segmented objects of Pascal VOC 2012 that are no people, neither difficult nor truncated, and large enough.

    Args:
        folder: ``VOC2012`` (with ``Annotations``, ``SegmentationObject`` and ``JPEGImages``) or the folder above it.

    Yields:
        A name, and the object cut out ``(H, W, 4)`` RGBA uint8, with a soft border, at half its size.

    Raises:
        PartnasError: A folder or file is missing, or broken; the message names file, object and field.
    """
    root = _voc_root(Path(folder))
    if root is None:
        raise PartnasError(
            f"{folder}: no {SEGMENTED} in it; name the VOC2012 folder of VOCtrainval_11-May-2012.tar (2 GB)"
        )
    annotations = sorted((root / "Annotations").glob("*.xml"))
    is_empty = True
    for path in tqdm(annotations, desc="Pascal VOC", unit="file", disable=None if progress else True):
        boxes = _usable_boxes(path)
        if not boxes:
            continue
        image = read_image(root / "JPEGImages" / f"{path.stem}.jpg")
        masks = root / SEGMENTED / f"{path.stem}.png"
        labels = _read_labels(masks)
        if labels.shape != image.shape[:2]:
            raise PartnasError(f"{masks}: has another size than its JPEG; extract the archive again")
        for place, box in boxes:
            picture = _cut_out(image, labels == place, box)
            if picture is not None:
                is_empty = False
                yield f"{path.stem}_{place}", picture
    if is_empty:
        raise PartnasError(f"{root}: no usable object in {len(annotations)} annotations; extract the archive again")


def write_object(path: Path, picture: np.ndarray, quality: int = 90) -> None:
    """Write RGBA ``(H, W, 4)`` as PNG or WebP (there ``quality`` is the colours'; alpha is exact)."""
    settings = [cv2.IMWRITE_WEBP_QUALITY, quality] if path.suffix == ".webp" else []
    done, content = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA), settings)
    if not done:
        raise PartnasError(f"{path}: OpenCV could not encode the picture")
    path.write_bytes(content.tobytes())


def _voc_root(folder: Path) -> Path | None:
    candidates = (folder, folder / "VOC2012", folder / "VOCdevkit" / "VOC2012")
    return next((root for root in candidates if (root / SEGMENTED).is_dir()), None)


def _usable_boxes(path: Path) -> list[tuple[int, tuple[int, int, int, int]]]:
    """Number from 1 and box (xmin, ymin, xmax, ymax) of the objects of an annotation that may be cut out."""
    try:
        root = defusedxml.ElementTree.parse(path).getroot()
    except OSError as error:
        raise PartnasError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except (ParseError, DefusedXmlException) as error:
        raise PartnasError(f"{path}: not the XML of an annotation ({type(error).__name__}); extract it again") from None
    if not _number(path, "the picture", root, "segmented"):
        return []
    boxes = []
    for place, element in enumerate(root.findall("object"), start=1):
        who = f"object {place}"
        if element.findtext("name") == PERSON or any(
            _number(path, who, element, flag) for flag in ("difficult", "truncated")
        ):
            continue
        box = tuple(_number(path, who, element, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
        if not (0 <= box[0] < box[2] and 0 <= box[1] < box[3]):
            raise PartnasError(f"{path}: {who}: bndbox {box} is empty; mend xmin, ymin, xmax, ymax")
        boxes.append((place, box))
    return boxes


def _number(path: Path, who: str, element: Element, field: str) -> int:
    text = element.findtext(field)
    try:
        return round(float(text))
    except (TypeError, ValueError, OverflowError):
        raise PartnasError(f"{path}: {who}: {field} is {text!r}; give a whole number") from None


def _read_labels(path: Path) -> np.ndarray:
    """The palette's numbers ``(H, W)`` of a mask: 0 background, n the object n, 255 outlines."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            if picture.mode not in ("P", "L"):
                raise PartnasError(f"{path}: is {picture.mode}, not a picture with a palette; extract it again")
            return np.asarray(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PartnasError(f"{path}: no readable PNG ({type(error).__name__}); extract the archive again") from None


def _cut_out(image: np.ndarray, mask: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray | None:
    part = np.s_[box[1] : box[3], box[0] : box[2]]
    alpha = mask[part].astype(np.uint8) * 255
    if cv2.countNonZero(alpha) < LEAST_PIXELS:
        return None
    inner = cv2.erode(alpha, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (8, 8)))
    alpha[inner < alpha] = BORDER_OPACITY
    picture = np.dstack([image[part], alpha])
    size = [max(round(length * VOC_SCALE), 1) for length in (picture.shape[1], picture.shape[0])]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _read_rgba(path: Path) -> np.ndarray:
    try:
        content = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise PartnasError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    picture = cv2.imdecode(content, cv2.IMREAD_UNCHANGED) if len(content) else None
    if picture is None:
        raise PartnasError(f"{path}: broken, or no image; replace the file")
    if picture.ndim != 3 or picture.shape[2] != 4 or picture.dtype != np.uint8:
        raise PartnasError(f"{path}: has no alpha of 8 bits; give an RGBA picture")
    return cv2.cvtColor(picture, cv2.COLOR_BGRA2RGBA)


def _halved(picture: np.ndarray) -> list[np.ndarray]:
    """A picture and its halves, down to an eighth: from the next larger one any size is a quick resampling away."""
    sizes = [picture]
    for _ in range(3):
        half = [max(length // 2, 1) for length in sizes[-1].shape[1::-1]]
        sizes.append(cv2.resize(sizes[-1], half, interpolation=cv2.INTER_AREA))
    return sizes
