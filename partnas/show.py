"""What training sees: a picture grid of a data set's crops, with the joints of their targets drawn in."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from partnas.data import Augmentation, Frames, PoseDataset, concatenated
from partnas.data.check import parts_in
from partnas.data.images import MEAN, STD
from partnas.errors import PartnasError
from partnas.files import write_atomically
from partnas.skeleton import Skeleton
from partnas.viz.colours import FAINT_INK, INK, rgb
from partnas.viz.overlay import draw_pose, picture_grid

SIDE, GAP, COLUMNS = 224, 6, 8
HEADING, CAPTION, LABEL = 34, 18, 118
"""Pixels: height of a set's heading and of a crop's caption, width of a row's label."""

NOTHING = Augmentation(
    rotation_probability=0, scale=0, flip_probability=0, colour=0, occlusion_probability=0, rotation=0
)
ONE_BY_ONE = {
    "as it is": NOTHING,
    "rotation": replace(NOTHING, rotation=Augmentation.rotation, rotation_probability=1),
    "flip": replace(NOTHING, flip_probability=1),
    "colour": replace(NOTHING, colour=Augmentation.colour),
    "scale": replace(NOTHING, scale=Augmentation.scale),
    "occlusion": replace(NOTHING, occlusion_probability=1),
    "all together": Augmentation(),
}
"""Each augmentation of the paper by itself, always applied, and all as training draws them."""


def show(
    root: Path | str,
    out: Path | str,
    count: int = 24,
    seed: int = 0,
    augmentation: Augmentation | None = None,
    one_by_one: bool = False,
    progress: bool = True,
) -> dict[str, int]:
    """Write a picture of randomly chosen people of every set that a folder holds.

    Args:
        root: The folder of one set, or the folder above several, in the layout of Moon et al.'s public release.
        out: The picture to write, PNG or JPEG.
        count: People of each set.
        seed: Of the choice and of the augmentation, which differs from set to set.
        augmentation: As in training; None shows the plain crops.
        one_by_one: Show the same people in rows, under each augmentation by itself; then ``count`` is cut to a row's
            eight, and of ``augmentation`` only ``occluders`` counts.
        progress: Show a bar.

    Returns:
        The number of people that each set has.

    Raises:
        PartnasError: There is no set, or one that is broken beyond skipping people; or the suffix is unknown.
    """
    out = Path(out)
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise PartnasError(f"{out}: unknown kind of picture; give a name that ends in .png or .jpg")
    blocks, found = [], {}
    for place, source in enumerate(_sets(Path(root))):
        chosen = np.random.default_rng(seed).permutation(len(source))[: min(count, COLUMNS) if one_by_one else count]
        people = source.subset(np.sort(chosen))
        heading = f"{source.name}: {len(people)} of {len(source):,} people, {len(source.skeleton.parts)} joints"
        title = f"{source.name} crops"
        if one_by_one:
            occluders = augmentation.occluders if augmentation else None
            rows = {label: replace(each, occluders=occluders) for label, each in ONE_BY_ONE.items()}
            picture = _rows(people, rows, seed + place, tqdm(rows, desc=title, disable=None if progress else True))
        else:
            picture = picture_grid(
                [
                    _captioned(crop, f"id {people.ids[index]}")
                    for index, crop in enumerate(
                        tqdm(
                            _crops(people, augmentation, seed + place),
                            desc=title,
                            total=len(people),
                            disable=None if progress else True,
                        )
                    )
                ],
                COLUMNS,
                GAP,
            )
        blocks.append(_under(heading, picture))
        found[source.name] = len(source)
    page = _stacked(blocks)
    written, content = cv2.imencode(out.suffix, page[..., ::-1])
    if not written:
        raise PartnasError(f"{out}: OpenCV could not encode the picture; give another --count")
    write_atomically(out, lambda temporary: temporary.write_bytes(content.tobytes()))
    return found


def _sets(root: Path) -> list[Frames]:
    """Every set below ``root``, its parts (subjects, splits) put together."""
    folders = [root, *sorted(path for path in root.glob("*") if path.is_dir())]
    read = [part.read(skip_broken=True) for folder in folders for part in parts_in(folder)]
    names = dict.fromkeys(source.name for source in read)
    sets = [concatenated([source for source in read if source.name == name]) for name in names]
    sets = [source for source in sets if len(source)]
    if not sets:
        raise PartnasError(
            f"{root}: holds no people of Human3.6M, MPII, COCO, MuCo-3DHP or MuPoTS-3D; name the folder of a set or the "
            "one above, and see `partnas data check`"
        )
    return sets


def _crops(people: Frames, augmentation: Augmentation | None, seed: int):
    """What the loader gives of each person, as pictures ``(SIDE, SIDE, 3)`` RGB uint8."""
    dataset = PoseDataset(people, SIDE, SIDE, SIDE, augmentation=augmentation, seed=seed)
    for index in range(len(people)):
        sample = dataset[index]
        yield drawn(sample["image"].numpy(), sample["coordinates"].numpy(), sample["visible"].numpy(), people.skeleton)


def drawn(image: np.ndarray, coordinates: np.ndarray, visible: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """A sample of :class:`partnas.data.PoseDataset` as a picture.

    Args:
        image: ``(3, S, S)`` network input.
        coordinates: ``(P, 3)`` in voxels of a heatmap as large as the image.
        visible: ``(P,)``; other joints are not drawn.

    Returns:
        ``(S, S, 3)`` RGB uint8.
    """
    picture = (image.transpose(1, 2, 0) * STD + MEAN) * 255
    picture = np.ascontiguousarray(picture.round().clip(0, 255).astype(np.uint8))
    return draw_pose(picture, coordinates[:, :2], visible > 0, skeleton=skeleton)


def _rows(people: Frames, rows: dict[str, Augmentation], seed: int, labels: Sequence[str]) -> np.ndarray:
    strips = []
    for label in labels:
        strip = picture_grid(list(_crops(people, rows[label], seed)), COLUMNS, GAP)
        margin = np.full((strip.shape[0], LABEL, 3), 255, np.uint8)
        _write(margin, label, (4, SIDE // 2 + 5), 0.55, INK)
        strips.append(np.concatenate([margin, strip], axis=1))
    return picture_grid(strips, 1, GAP)


def _captioned(crop: np.ndarray, text: str) -> np.ndarray:
    strip = np.full((CAPTION, crop.shape[1], 3), 255, np.uint8)
    _write(strip, text, (2, CAPTION - 5), 0.4, FAINT_INK)
    return np.concatenate([crop, strip])


def _under(heading: str, picture: np.ndarray) -> np.ndarray:
    strip = np.full((HEADING, picture.shape[1], 3), 255, np.uint8)
    _write(strip, heading, (4, HEADING - 11), 0.65, INK)
    return np.concatenate([strip, picture])


def _stacked(blocks: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures below each other, on white, with a margin all round."""
    width = max(block.shape[1] for block in blocks)
    filled = [np.pad(b, ((0, GAP), (0, width - b.shape[1]), (0, 0)), constant_values=255) for b in blocks]
    return np.pad(np.concatenate(filled), ((GAP, GAP), (GAP, GAP), (0, 0)), constant_values=255)


def _write(picture: np.ndarray, text: str, at: tuple[int, int], size: float, colour: str) -> None:
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, rgb(colour), 1, cv2.LINE_AA)
