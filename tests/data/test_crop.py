import cv2
import numpy as np
import pytest

from partnas.data.crop import (
    apply_transform,
    camera_to_voxels,
    crop_image,
    crop_transform,
    expand_box,
    voxels_to_camera,
    warp,
)


def test_expand_box_clips_widens_and_enlarges():
    np.testing.assert_allclose(expand_box([10, 20, 40, 80], (200, 200)), [30 - 50, 60 - 50, 100, 100])
    np.testing.assert_allclose(expand_box([-50, 0, 100, 50], (200, 200)), [25 - 31.25, 25 - 31.25, 62.5, 62.5])


@pytest.mark.parametrize("box", [[300, 0, 10, 10], [0, 0, 0, 10], [-20, 0, 10, 10], [0, 0, 10, -5], [0, 0, np.nan, 5]])
def test_a_box_without_a_pixel_in_the_image(box):
    assert expand_box(box, (200, 200)) is None


def test_camera_to_voxels_and_back():
    random = np.random.default_rng(0)
    joints = random.uniform(-800, 800, (3, 18, 3)) + [0, 0, 4000]
    geometry = (
        np.column_stack([random.uniform(-50, 50, (3, 2)), random.uniform(100, 300, (3, 2))]),
        random.uniform(300, 1500, (3, 2)),
        random.uniform(50, 500, (3, 2)),
        joints[:, 0, 2],
        64,
        32,
    )
    voxels = camera_to_voxels(joints, *geometry)
    np.testing.assert_allclose(voxels[:, 0, 2], 16)
    np.testing.assert_allclose(voxels_to_camera(voxels, *geometry), joints, atol=1e-6)


def centre_of(picture):
    weight = picture[..., 0].astype(float)
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]] + 0.5
    return np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()


@pytest.mark.parametrize("size", [40, 64, 200])
@pytest.mark.parametrize(
    ("rotation", "scale", "flip"), [(0, 1, False), (25, 1.2, False), (-30, 0.8, True), (0, 1, True)]
)
def test_a_dot_lands_where_the_transform_says(size, rotation, scale, flip):
    image = np.zeros((150, 200, 3), np.uint8)
    image[60:68, 101:109] = 255
    dot = np.array([[105.0, 64.0]])
    transform = crop_transform(np.array([40.0, 10.0, 120.0, 120.0]), size, rotation, scale, flip)
    expected = apply_transform(transform, dot)[0]
    assert np.abs(centre_of(warp(image, transform, size)) - expected).max() < 0.1


def test_flip_is_the_exact_mirror_of_the_crop():
    image = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    image = cv2.GaussianBlur(image, (5, 5), 0)
    box = np.array([13.0, 7.0, 64.0, 64.0])
    plain = warp(image, crop_transform(box, 64), 64)
    mirrored = warp(image, crop_transform(box, 64, flip=True), 64)
    assert np.abs(mirrored[:, ::-1].astype(int) - plain).max() <= 1


def test_identity_crop_and_black_outside():
    image = np.random.default_rng(0).integers(1, 255, (50, 50, 3), dtype=np.uint8)
    np.testing.assert_array_equal(crop_image(image, np.array([10.0, 10.0, 20.0, 20.0]), 20), image[10:30, 10:30])
    assert crop_image(image, np.array([-20.0, 0.0, 20.0, 20.0]), 20).max() == 0


def test_positive_rotation_is_counter_clockwise_on_the_screen():
    transform = crop_transform(np.array([0.0, 0.0, 100.0, 100.0]), 100, rotation=90)
    np.testing.assert_allclose(apply_transform(transform, np.array([[100.0, 50.0]])), [[50, 0]], atol=1e-9)


@pytest.mark.parametrize("side", [300, 1000])
def test_only_what_a_crop_samples_of_a_large_image_is_touched(side):
    """The part that is cut out before the warp gives the crop that the whole image gives, also at and past its edges."""
    image = np.random.default_rng(0).integers(0, 255, (side, side + 20, 3), dtype=np.uint8)
    large = np.zeros((side + 600, side + 620, 3), np.uint8)
    large[300:-300, 300:-300] = image
    for left, top, rotation, flip in ((-40, 90, 20, True), (side - 60, side - 80, -30, False), (0.3, 0.7, 0, False)):
        transform = crop_transform(np.array([left, top, 120.0, 120.0]), 128, rotation, 1.1, flip)
        moved = crop_transform(np.array([left + 300, top + 300, 120.0, 120.0]), 128, rotation, 1.1, flip)
        difference = warp(image, transform, 128).astype(int) - warp(large, moved, 128)
        assert np.abs(difference).max() <= 1
    assert warp(image, crop_transform(np.array([-500.0, 0, 100, 100]), 64), 64).max() == 0


def test_a_strip_thinner_than_the_crop_shrinks_it():
    image = np.full((8, 9000, 3), 200, np.uint8)
    for box in ([0.0, -4496, 9000, 9000], [0.0, 0, 30_000, 30_000]):
        assert warp(image, crop_transform(np.array(box), 64), 64).shape == (64, 64, 3)
