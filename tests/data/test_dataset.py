import io
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from small_set import write_set
from torch.utils.data import DataLoader

from partnas.data import Augmentation, EpochSampler, PoseDataset, mean_pose, mirror_coordinates, read_human36m
from partnas.data.crop import crop_image
from partnas.data.dataset import batches_of, collate
from partnas.data.images import MEAN, STD, normalise, read_image, reduction_for, unreadable
from partnas.errors import PartnasError


def make(source, **options):
    return PoseDataset(source, 32, 8, 16, **options)


def test_targets_go_back_to_the_camera(small_set):
    dataset = make(read_human36m(small_set, [1, 5]))
    voxels = np.stack([dataset[i]["coordinates"].numpy() for i in range(len(dataset))])
    np.testing.assert_allclose(dataset.to_camera(voxels), dataset.source.joints_camera, atol=0.01)


def test_sample_shapes_and_types(small_set):
    sample = make(read_human36m(small_set, [1]))[1]
    assert {name: (tuple(v.shape), v.dtype) for name, v in sample.items()} == {
        "image": ((3, 32, 32), torch.float32),
        "coordinates": ((18, 3), torch.float32),
        "visible": ((18,), torch.float32),
        "has_depth": ((), torch.float32),
        "area": ((), torch.float32),
        "index": ((), torch.int64),
    }
    assert sample["index"] == 1


def test_parts_outside_the_crop_or_the_depth_range_are_invisible(tmp_path):
    def spread(subject, data, camera, joints):
        joints["2"]["1"]["0"][1] = [5000, 0, 0]
        joints["2"]["1"]["0"][2] = [0, 0, joints["2"]["1"]["0"][0][2] + 1500]
        data["annotations"][0]["keypoints_vis"][3] = False

    dataset = make(read_human36m(write_set(tmp_path / "set", change=spread), [1]))
    visible = dataset[0]["visible"]
    assert visible[[1, 2, 3]].tolist() == [0, 0, 0]
    assert visible[0] == 1


def test_augmentation_is_a_function_of_seed_epoch_and_index(small_set):
    source = read_human36m(small_set, [1])
    first, again, other = (make(source, augmentation=Augmentation(), seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first[2, 1]["image"], again[2, 1]["image"])
    assert not torch.equal(first[2, 1]["image"], first[3, 1]["image"])
    assert not torch.equal(first[2, 1]["image"], other[2, 1]["image"])
    loader = DataLoader(again, 3, sampler=EpochSampler(3, 3, seed=1, epoch=2), num_workers=2)
    batch = next(iter(loader))
    for row, index in enumerate(batch["index"].tolist()):
        assert torch.equal(batch["image"][row], first[2, index]["image"])


def test_a_mirrored_sample_is_the_mirror_of_the_sample(small_set):
    still = Augmentation(rotation=0, scale=0, colour=0, flip_probability=1, occlusion_probability=0)
    source = read_human36m(small_set, [1])
    plain, mirrored = make(source)[0], make(source, augmentation=still)[0]
    torch.testing.assert_close(mirror_coordinates(plain["coordinates"][None], 8)[0], mirrored["coordinates"])
    assert (plain["image"].flip(2) - mirrored["image"]).abs().max() < 0.03


def test_cache_gives_the_same_samples(small_set):
    source = read_human36m(small_set, [1])
    cached, plain = make(source, cache=True), make(source)
    for _ in range(2):
        assert torch.equal(cached[1]["image"], plain[1]["image"])


def test_a_box_outside_its_image_is_named(tmp_path):
    def move(subject, data, camera, joints):
        data["annotations"][0]["bbox"] = [500, 500, 10, 10]

    with pytest.raises(PartnasError, match=r"subject1_data\.json: annotation 1: bbox .* lies outside"):
        make(read_human36m(write_set(tmp_path / "set", change=move), [1]))


def test_mean_pose_is_root_relative(small_set):
    pose = mean_pose(read_human36m(small_set, [1, 5]))
    assert pose.shape == (18, 3)
    assert np.abs(pose[0]).max() == 0


def test_normalise_undoes_to_the_image():
    image = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    restored = (normalise(image).transpose(1, 2, 0) * STD + MEAN) * 255
    np.testing.assert_allclose(restored, image, atol=1e-3)


@pytest.mark.parametrize("content", [b"", b"\xff\xd8 no image", b"\x89PNG\r\n\x1a\n broken"])
def test_broken_images(tmp_path, content):
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(PartnasError, match=r"x\.jpg"):
        read_image(path)
    with pytest.raises(PartnasError, match=r"none\.jpg: cannot be read"):
        read_image(tmp_path / "none.jpg")


def jpeg(image):
    return cv2.imencode(".jpg", image)[1].tobytes()


def test_what_cameras_append_to_a_jpeg_is_no_fault(tmp_path):
    path, content = tmp_path / "x.jpg", jpeg(np.random.default_rng(0).integers(0, 255, (40, 80, 3), dtype=np.uint8))
    thumbnail = b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content
    for whole in (content + b"SEFH" + bytes(100), content[:2] + thumbnail + content[2:] + bytes(100)):
        path.write_bytes(whole)
        assert unreadable(path) == ""
        assert read_image(path).shape == (40, 80, 3)
    path.write_bytes(content[:2] + thumbnail + content[2 : len(content) // 2] + bytes(100))
    assert unreadable(path) == f"{path}: truncated JPEG; copy it again"
    with pytest.raises(PartnasError, match=r"x\.jpg: truncated JPEG"):
        read_image(path)


def png(image):
    return cv2.imencode(".png", image)[1].tobytes()


NOISE = np.random.default_rng(0).integers(0, 255, (40, 80, 3), dtype=np.uint8)
PROGRESSIVE = cv2.imencode(".jpg", NOISE, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 1])[1]
PADDED = b"\xff\xd8" + b"\xff\xe1" + (60002).to_bytes(2, "big") + bytes(60000) + b"\xff" + jpeg(NOISE)[2:]
UNUSABLE = {
    "a web page": b"<html><body>404 Not Found</body></html>" * 20,
    "zeros": bytes(5000),
    "PNG cut off": png(NOISE)[:3000],
    "PNG of another size": png(NOISE[:20]),
    "JPEG of another size": jpeg(NOISE[:20]),
    "JPEG without a size": b"\xff\xd8" + bytes(900) + b"\xff\xd9",
    "JPEG cut off": jpeg(NOISE)[:2000],
    "nothing": b"",
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_read_is_seen_without_decoding_it(tmp_path, name):
    path = tmp_path / "x.jpg"
    path.write_bytes(UNUSABLE[name])
    with pytest.raises(PartnasError) as refused:
        read_image(path, size=(80, 40))
    assert unreadable(path, (80, 40)) == str(refused.value)


@pytest.mark.parametrize("content", [jpeg(NOISE), PROGRESSIVE.tobytes(), PADDED, png(NOISE)])
def test_what_can_be_read_is_not_refused(tmp_path, content):
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    assert read_image(path, size=(80, 40)).shape == (40, 80, 3)
    assert unreadable(path, (80, 40)) == ""


def cmyk(image):
    file = io.BytesIO()
    Image.fromarray(image).convert("CMYK").save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize("content", [jpeg(NOISE), PROGRESSIVE.tobytes(), PADDED, jpeg(NOISE[..., 0]), cmyk(NOISE)])
def test_a_jpeg_damaged_in_the_middle(tmp_path, content, error_line):
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    assert read_image(path, strict=True).shape == (40, 80, 3)
    middle = len(content) - 1500
    path.write_bytes(content[:middle] + bytes(256) + content[middle + 256 :])
    assert read_image(path, image_id=7).shape == (40, 80, 3)
    error_line(r"x\.jpg \(image 7\): damaged JPEG \(.+\); copy it", lambda: read_image(path, image_id=7, strict=True))


def test_annotated_pixels_are_those_that_are_stored(tmp_path):
    path, content = tmp_path / "x.jpg", jpeg(np.zeros((40, 80, 3), np.uint8))
    orientation = b"II*\0" + (8).to_bytes(4, "little") + b"\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0" + bytes(4)
    exif = b"Exif\0\0" + orientation
    path.write_bytes(content[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + content[2:])
    assert read_image(path).shape == (40, 80, 3)
    assert read_image(path, upright=True).shape == (80, 40, 3)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("reduction", [1, 2, 8])
def test_an_image_has_the_size_that_its_annotation_says(tmp_path, suffix, reduction, error_line):
    path = tmp_path / f"x.{suffix}"
    cv2.imwrite(str(path), np.zeros((41, 83, 3), np.uint8))
    assert len(read_image(path, reduction, (83, 41)))
    error_line("its annotation says 166x82; mend width and height", lambda: read_image(path, reduction, (166, 82)))


def test_file_names_that_are_none(tmp_path, error_line):
    for name in ("x\0.jpg", "x\ud800.jpg"):
        error_line("is no file name", lambda name=name: read_image(tmp_path / name))
        assert "is no file name" in unreadable(tmp_path / name)


def test_a_png_that_is_larger_than_can_be(tmp_path, error_line):
    path = tmp_path / "x.png"
    cv2.imwrite(str(path), np.zeros((4, 4, 3), np.uint8))
    content = bytearray(path.read_bytes())
    content[16:24] = (70_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    error_line("broken, or no image", lambda: read_image(path))


def test_a_fault_that_a_worker_finds_is_one_line_too(small_set, error_line):
    dataset = PoseDataset(read_human36m(small_set, [1]), 64, 16, 16)
    Path(dataset.source.image_path(0)).unlink()
    for workers in (0, 1):
        line = error_line("cannot be read", lambda n=workers: list(batches_of(dataset, 2, n)))
        named = f"{dataset.source.image_path(0)} (image {dataset.source.image_ids[0]})"
        assert line == f"{named}: cannot be read (No such file or directory); check the path"


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_reduced_reading_is_the_mean_of_what_it_stands_for(tmp_path, suffix):
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (203, 301, 3), dtype=np.uint8), (0, 0), 5)
    path = tmp_path / f"x.{suffix}"
    cv2.imwrite(str(path), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])
    whole = read_image(path).astype(float)
    assert np.abs(whole - image).mean() < 2
    for reduction in (2, 4, 8):
        reduced = read_image(path, reduction)
        cut = -1 if suffix == "jpg" else 1
        assert reduced.shape == (cut * (cut * 203 // reduction), cut * (cut * 301 // reduction), 3)
        rows, columns = 203 // reduction, 301 // reduction
        blocks = whole[: rows * reduction, : columns * reduction].reshape(rows, reduction, columns, reduction, 3)
        assert np.abs(reduced[:rows, :columns] - blocks.mean((1, 3)))[1:-1, 1:-1].max() < 6


@pytest.mark.parametrize(
    ("shrink", "size", "reduction"),
    [(1.9, (1000, 1000), 1), (2.0, (1000, 1000), 2), (4.5, (640, 480), 4), (30, (4000, 3000), 8), (9, (256, 256), 1)],
)
def test_a_large_image_is_decoded_smaller_where_the_crop_shrinks_it(shrink, size, reduction):
    assert reduction_for(shrink, np.array(size)) == reduction


def test_a_large_image_gives_the_crop_that_its_whole_would(small_set):
    """Decoding at half the size, and warping a part alone, move no pixel of the crop; the cache keeps each size."""
    source = read_human36m(small_set, [1]).subset(np.array([0, 0]))
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (900, 1000, 3), dtype=np.uint8), (0, 0), 12)
    image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)
    cv2.imwrite(source.image_path(0), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])
    source.image_sizes = np.array([[1000, 900]] * 2, np.int32)
    source.bboxes = np.array([[300.0, 250, 300, 400], [600, 500, 100, 100]])
    plain, cached = (PoseDataset(source, 128, 32, 16, cache=cache) for cache in (False, True))
    for index, shrink in enumerate((3.9, 0.97)):
        assert plain.boxes[index, 2] / 128 == pytest.approx(shrink, abs=0.02)
        crop = plain[index]["image"].permute(1, 2, 0).numpy() * STD + MEAN
        whole = crop_image(read_image(source.image_path(0)), plain.boxes[index], 128) / 255
        assert np.abs(crop - whole).mean() < 0.008
        # A shift by half a pixel would be seen.
        assert np.abs(np.roll(crop, 1, axis=1) - whole).mean() > 2 * np.abs(crop - whole).mean()
        assert torch.equal(cached[index]["image"], plain[index]["image"])
        assert torch.equal(cached[index]["image"], plain[index]["image"])


def test_colour_is_multiplied_and_cut_off_before_normalising():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    colour = np.array([0.8, 1.0, 1.2])
    expected = (np.clip(image * colour, 0, 255) / 255 - MEAN) / STD
    np.testing.assert_allclose(normalise(image, colour).transpose(1, 2, 0), expected, atol=1e-6)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_channels_last(small_set, workers):
    dataset = make(read_human36m(small_set, [1]))
    batch = next(iter(DataLoader(dataset, 3, num_workers=workers, collate_fn=collate)))
    assert batch["image"].shape == (3, 3, 32, 32)
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch["image"][1], dataset[1]["image"])
    assert batch["index"].tolist() == [0, 1, 2]


def test_a_folder_of_objects_that_is_missing_is_told_at_the_start(small_set):
    source = read_human36m(small_set, [1])
    with pytest.raises(PartnasError, match="no such folder"):
        make(source, augmentation=Augmentation(occluders="nowhere"))
    assert len(make(source, augmentation=Augmentation(occluders="nowhere", occlusion_probability=0))) == len(source)
