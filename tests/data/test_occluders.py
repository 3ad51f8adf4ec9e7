"""Pascal VOC 2012 in its own layout, the objects that ship, and how they are pasted."""

import shutil

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from partnas.cli import app
from partnas.data import Augmentation
from partnas.data.occluders import (
    BORDER_OPACITY,
    SHIPPED,
    Occluders,
    blend,
    cut_out_voc,
    occluders_in,
    ready,
    voc_objects,
    write_object,
)
from partnas.errors import PartnasError

WIDTH, HEIGHT = 120, 90
OBJECTS = (
    ("dog", 0, 0, (10, 10, 50, 60)),
    ("person", 0, 0, (50, 5, 90, 80)),
    ("chair", 1, 0, (60, 5, 100, 40)),
    ("cat", 0, 1, (60, 45, 100, 85)),
    ("bottle", 0, 0, (100, 5, 115, 30)),
    ("sofa", 0, 0, (5, 62, 55, 88)),
)
"""Name, difficult, truncated, box. The bottle's mask is below 500 pixels."""


def xml_of(objects=OBJECTS, segmented=1):
    described = "".join(
        f"<object><name>{name}</name><pose>Left</pose><truncated>{truncated}</truncated><difficult>{difficult}</difficult>"
        f"<bndbox><xmax>{x1}</xmax><xmin>{x0}</xmin><ymax>{y1}</ymax><ymin>{y0}</ymin></bndbox></object>"
        for name, difficult, truncated, (x0, y0, x1, y1) in objects
    )
    return (
        f"<annotation><folder>VOC2012</folder><filename>x.jpg</filename><size><width>{WIDTH}</width><height>{HEIGHT}"
        f"</height><depth>3</depth></size><segmented>{segmented}</segmented>{described}</annotation>"
    )


def voc_palette():
    """Pascal VOC's colours: the bits of the label, spread over red, green and blue."""
    labels = np.arange(256)
    channels = [sum(((labels >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(3)) for channel in range(3)]
    return np.stack(channels, axis=1).astype(np.uint8).ravel().tolist()


def write_voc(root, objects=OBJECTS):
    for folder in ("Annotations", "SegmentationObject", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    random = np.random.default_rng(0)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for place, (_, _, _, (x0, y0, x1, y1)) in enumerate(objects, start=1):
        labels[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1] = place
        labels[y0 + 1, x0 + 1 : x1 - 1] = 255
    image = cv2.GaussianBlur(random.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8), (0, 0), 4)
    for stem in ("2007_000032", "2008_000001"):
        picture = Image.fromarray(labels, mode=None).convert("P")
        picture.putdata(labels.ravel().tolist())
        picture.putpalette(voc_palette())
        picture.save(root / "SegmentationObject" / f"{stem}.png")
        cv2.imwrite(str(root / "JPEGImages" / f"{stem}.jpg"), image[..., ::-1])
        (root / "Annotations" / f"{stem}.xml").write_text(xml_of(objects))
    # Most of Pascal VOC is not segmented; those pictures are not even opened.
    (root / "Annotations" / "2009_000003.xml").write_text(xml_of(objects, segmented=0))
    return root, image, labels


@pytest.fixture
def voc(tmp_path):
    return write_voc(tmp_path / "VOCdevkit" / "VOC2012")


def test_only_whole_large_objects_that_are_no_people_are_taken(voc):
    root, image, labels = voc
    found = dict(voc_objects(root))
    assert sorted(found) == ["2007_000032_1", "2007_000032_6", "2008_000001_1", "2008_000001_6"]
    dog = found["2007_000032_1"]
    assert dog.shape == (25, 20, 4)
    # At half the size, by area: a corner lies outside the mask, the middle is opaque, a border is thinner than that.
    mask = (labels[10:60, 10:50] == 1).reshape(25, 2, 20, 2).mean((1, 3))
    assert ((dog[..., 3] > 0) == (mask > 0)).all()
    assert (dog[6:-6, 6:-6, 3] == 255).all()
    assert dog[2, 10, 3] == BORDER_OPACITY
    colours = cv2.resize(image[10:60, 10:50], (20, 25), interpolation=cv2.INTER_AREA)
    assert np.abs(dog[..., :3].astype(int) - colours).mean() < 6


@pytest.mark.parametrize("above", [0, 1, 2])
def test_the_folder_may_be_named_from_above(voc, above):
    root = [voc[0], *voc[0].parents][above]
    assert len(list(voc_objects(root))) == 4


def test_the_command_writes_what_training_reads(voc, tmp_path):
    out = tmp_path / "objects"
    result = CliRunner().invoke(app, ["data", "occluders", str(voc[0]), str(out), "--quiet"])
    assert result.exit_code == 0, result.output
    assert "4 objects" in result.output
    written, direct = Augmentation(occluders=str(out)).objects(), Augmentation(occluders=str(voc[0])).objects()
    assert len(written) == len(direct) == 4
    crop = np.full((64, 64, 3), 90, np.uint8)
    first, second = (each.paste(crop, np.random.default_rng(5)) for each in (written, direct))
    assert (first == second).all()
    with pytest.raises(PartnasError, match="exists and is not an empty folder"):
        cut_out_voc(voc[0], out)


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;&b;">]><annotation><segmented>&c;</segmented></annotation>'


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("Annotations/2007_000032.xml", "<annotation>", r"2007_000032\.xml: not the XML"),
        ("Annotations/2007_000032.xml", BOMB, r"2007_000032\.xml: not the XML .*EntitiesForbidden"),
        ("Annotations/2007_000032.xml", "<a/>", r"2007_000032\.xml: the picture: segmented is None"),
        (
            "Annotations/2007_000032.xml",
            xml_of().replace("<xmin>10</xmin>", "<xmin>ten</xmin>"),
            r"object 1: bndbox/xmin is 'ten'",
        ),
        (
            "Annotations/2007_000032.xml",
            xml_of().replace("<xmin>10</xmin>", "<xmin>70</xmin>"),
            r"object 1: bndbox \(70, 10, 50, 60\) is empty",
        ),
        ("SegmentationObject/2007_000032.png", "no picture", r"2007_000032\.png: no readable PNG"),
        ("SegmentationObject/2007_000032.png", None, r"2007_000032\.png: no readable PNG"),
        ("JPEGImages/2007_000032.jpg", None, r"2007_000032\.jpg: cannot be read"),
        ("JPEGImages/2007_000032.jpg", "no picture", r"2007_000032\.jpg: broken"),
    ],
)
def test_broken_files_are_named_and_nothing_is_left_behind(voc, tmp_path, name, content, told):
    path = voc[0] / name
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(PartnasError, match=told):
        cut_out_voc(voc[0], tmp_path / "out", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["VOCdevkit"]


def test_a_mask_without_a_palette_or_of_another_size_is_told(voc):
    mask = voc[0] / "SegmentationObject" / "2007_000032.png"
    cv2.imwrite(str(mask), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    with pytest.raises(PartnasError, match=r"2007_000032\.png: is RGB"):
        list(voc_objects(voc[0]))
    cv2.imwrite(str(mask), np.zeros((HEIGHT, WIDTH + 1), np.uint8))
    with pytest.raises(PartnasError, match="another size"):
        list(voc_objects(voc[0]))


def test_folders_that_hold_no_objects_are_told(tmp_path):
    with pytest.raises(PartnasError, match="no such folder"):
        occluders_in(tmp_path / "none")
    with pytest.raises(PartnasError, match="no PNG or WebP"):
        occluders_in(tmp_path)
    with pytest.raises(PartnasError, match="VOCtrainval_11-May-2012"):
        list(voc_objects(tmp_path))
    cv2.imwrite(str(tmp_path / "flat.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(PartnasError, match=r"flat\.png: has no alpha"):
        occluders_in(tmp_path)


def test_an_archive_of_people_has_no_object(tmp_path):
    root, *_ = write_voc(tmp_path / "VOC2012", OBJECTS[1:2])
    with pytest.raises(PartnasError, match="no usable object in 3 annotations"):
        list(voc_objects(root))


def test_the_objects_that_ship_are_many_varied_small_and_cut_out():
    paths = sorted(SHIPPED.glob("*.webp"))
    assert 60 <= len(paths) <= 100
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 1_500_000
    assert len({path.stem.split("_", 1)[1] for path in paths}) >= 25
    for path in paths:
        picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        alpha = picture[..., 3]
        assert 80 <= max(alpha.shape) <= 190, path
        assert (alpha[[0, -1]] == 255).mean() < 0.5, path
        assert (alpha == 255).sum() > 300, path
        # Shading and material: an object is no flat silhouette.
        assert picture[alpha == 255, :3].std(0).max() > 8, path
    assert len(Augmentation().objects()) == len(paths)


def test_objects_are_pasted_at_the_scale_and_number_that_the_paper_draws():
    square = np.full((100, 100, 4), 255, np.uint8)
    random, sizes = np.random.default_rng(0), []
    for _ in range(300):
        pasted = Occluders([square]).paste(np.zeros((256, 256, 3), np.uint8), random)
        count, _, facts, _ = cv2.connectedComponentsWithStats((pasted[..., 0] > 0).astype(np.uint8))
        for left, top, width, height, area in facts[1:]:
            inside = left > 0 and top > 0 and left + width < 256 and top + height < 256
            if inside and area == width * height and width == height:
                sizes.append(width)
        assert count - 1 <= 7
    assert 20 <= min(sizes) < 24
    assert 92 < max(sizes) <= 100


def test_an_object_is_blended_by_its_alpha():
    image = np.full((10, 10, 3), 100, np.uint8)
    picture = np.zeros((4, 4, 4), np.uint8)
    picture[..., :3], picture[..., 3] = 190, 128
    blend(image, ready(picture), np.array([5, 5]))
    assert np.abs(image[3:7, 3:7] - (190 * 128 + 100 * 127) / 255).max() <= 1
    image[3:7, 3:7] = 100
    assert (image == 100).all()


@pytest.mark.parametrize("centre", [(0, 0), (-50, 3), (9.6, 10), (1e4, 1e4)])
def test_what_falls_outside_is_cut_off(centre):
    image = np.zeros((10, 12, 3), np.uint8)
    blend(image, ready(np.full((5, 5, 4), 255, np.uint8)), np.array(centre))
    assert set(np.unique(image)) <= {0, 255}


def test_png_and_webp_bring_alpha_back(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (40, 30, 4), dtype=np.uint8)
    for suffix in ("png", "webp"):
        write_object(tmp_path / f"x.{suffix}", picture)
        read = cv2.imread(str(tmp_path / f"x.{suffix}"), cv2.IMREAD_UNCHANGED)
        assert (read[..., 3] == picture[..., 3]).all()
    shutil.rmtree(tmp_path)
