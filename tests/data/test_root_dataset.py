"""RootNet's k, its crops and targets."""

import numpy as np
import pytest
import torch
from small_set import CAMERA, write_set

from partnas.data import Augmentation, RootDataset, k_values, read_boxes, read_human36m, roots_to_camera
from partnas.data.crop import expand_boxes

STILL = {
    "rotation_probability": 0.0,
    "scale": 0.0,
    "flip_probability": 0.0,
    "colour": 0.0,
    "occlusion_probability": 0.0,
}
SIZE, HEATMAP = 64, 16


@pytest.fixture
def source(small_set):
    return read_human36m(small_set, (1, 5))


def dataset(source, **augmentation):
    options = {"augmentation": Augmentation(**{**STILL, **augmentation})} if augmentation else {}
    return RootDataset(source, SIZE, HEATMAP, depth=1, **options)


def test_k_is_the_distance_at_which_two_metres_fill_the_box():
    focal, depth = np.array([[700.0, 900.0]]), 3456.0
    sides = 2000 / depth * focal
    np.testing.assert_allclose(k_values(sides.prod(1), focal), [depth], rtol=1e-12)


def test_k_of_the_publications_formula():
    focal, areas = np.array([[1145.0, 1143.8], [500.0, 505.0]]), np.array([300.0 * 310.0, 90.0 * 90.0])
    expected = np.sqrt(2000 * 2000 * focal[:, 0] * focal[:, 1] / areas)
    np.testing.assert_allclose(k_values(areas, focal), expected, rtol=1e-12)


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_k_is_the_same_for_a_picture_of_any_resolution(factor):
    focal, box = np.array([600.0, 620.0]), np.array([80.0, 120.0])
    assert k_values((box * factor).prod(), focal * factor) == pytest.approx(k_values(box.prod(), focal), rel=1e-12)


@pytest.mark.parametrize("closer", [0.5, 2.0])
def test_gamma_is_the_same_at_any_distance_and_for_any_lens(closer):
    """A person's box has its sides in inverse proportion to his distance, and in proportion to the focal length."""
    focal, side, depth = np.array([600.0, 600.0]), 150.0, 4000.0
    gamma = depth / k_values(side**2, focal)
    nearer = (depth / closer) / k_values((side * closer) ** 2, focal)
    longer = depth / k_values((side * closer) ** 2, focal * closer)
    assert nearer == pytest.approx(gamma, rel=1e-12)
    assert longer == pytest.approx(gamma, rel=1e-12)


def test_targets_lead_back_to_the_annotated_roots(source):
    frames = dataset(source)
    np.testing.assert_allclose(frames.to_camera(frames.targets()), source.joints_camera[:, 0], rtol=1e-5)


def test_samples_agree_with_the_targets(source):
    frames = dataset(source)
    targets = frames.targets()
    for index in range(len(frames)):
        sample = frames[index]
        assert {name: value.dtype for name, value in sample.items()} == {
            "image": torch.float32, "root": torch.float32, "k": torch.float32, "visible": torch.float32,
            "has_depth": torch.float32, "index": torch.int64,
        }  # fmt: skip
        assert sample["image"].shape == (3, SIZE, SIZE)
        assert sample["k"].item() == pytest.approx(frames.k[index], rel=1e-6)
        np.testing.assert_allclose(sample["root"][:2], targets[index, :2], rtol=1e-4)
        assert sample["root"][2] / sample["k"] == pytest.approx(targets[index, 2], rel=1e-5)
        assert (sample["visible"], sample["has_depth"]) == (1, 1)


def gammas(frames, epochs=1):
    samples = [[frames[epoch, index] for index in range(len(frames))] for epoch in range(epochs)]
    return np.array([[float(sample["root"][2] / sample["k"]) for sample in row] for row in samples])


@pytest.mark.parametrize(
    "augmentation",
    [{"rotation_probability": 1.0}, {"flip_probability": 1.0}, {"colour": 0.5}, {"occlusion_probability": 1.0}],
)
def test_a_turn_a_mirror_and_the_look_keep_gamma(source, augmentation):
    plain = dataset(source).targets()[:, 2]
    np.testing.assert_allclose(gammas(dataset(source, **augmentation), epochs=2), [plain, plain], rtol=1e-5)


def test_a_box_that_is_enlarged_has_its_own_k(source):
    frames = dataset(source, scale=0.25)
    drawn = [frames.augmentation.draw(np.random.default_rng([0, 0, index])).scale for index in range(len(source))]
    assert len({*drawn, 1.0}) > 2
    plain = dataset(source)
    np.testing.assert_allclose(gammas(frames)[0], plain.targets()[:, 2] * drawn, rtol=1e-5)
    # The same crops as boxes of their own, without augmentation.
    centres = plain.boxes[:, :2] + plain.boxes[:, 2:] / 2
    sides = plain.boxes[:, 2:] * np.array(drawn)[:, None]
    source.bboxes, source.boxes_are_extended = np.column_stack([centres - sides / 2, sides]), np.ones(len(source), bool)
    for index in range(len(source)):
        ours, theirs = frames[index], dataset(source)[index]
        torch.testing.assert_close(ours["root"], theirs["root"], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(ours["k"], theirs["k"])
        assert (ours["image"] - theirs["image"]).abs().mean() < 0.02


def test_a_mirror_mirrors_the_place(source):
    plain, mirrored = dataset(source)[0]["root"], dataset(source, flip_probability=1.0)[0]["root"]
    assert mirrored[0].item() == pytest.approx(HEATMAP - plain[0].item(), rel=1e-5)
    assert mirrored[1].item() == pytest.approx(plain[1].item(), rel=1e-5)


def test_a_person_without_depth(source):
    source.has_depth[0], source.joints_camera[0] = False, np.nan
    sample = dataset(source)[0]
    assert (sample["root"][2], sample["has_depth"], sample["visible"]) == (0, 0, 1)
    assert sample["root"].isfinite().all()
    assert np.isnan(dataset(source).targets()[0, 2])


def test_a_root_outside_the_crop_is_not_visible(tmp_path):
    def move_away(subject, data, camera, joints):
        for pose in joints["2"]["1"].values():
            pose[0] = [9000.0, 0.0, 0.0]

    assert dataset(read_human36m(write_set(tmp_path / "set", change=move_away), (1,)))[0]["visible"] == 0


def test_roots_to_camera_by_hand():
    box, focal, principal = np.array([[100.0, 50.0, 200.0, 200.0]]), np.array([CAMERA["f"]]), np.array([CAMERA["c"]])
    k = 2000 * np.sqrt(400 * 410) / 200
    found = roots_to_camera(np.array([[8.0, 4.0, 1.5]]), box, focal, principal, heatmap_size=16)
    depth = 1.5 * k
    np.testing.assert_allclose(found, [[(200 - 80) / 400 * depth, (100 - 60) / 410 * depth, depth]], rtol=1e-12)


def test_a_box_at_the_edge_uses_its_clipped_and_extended_form():
    box = expand_boxes(np.array([[-50.0, 0.0, 100.0, 40.0]]), np.array([[160, 120]]))[0]
    np.testing.assert_allclose(box, [25 - 31.25, 20 - 31.25, 62.5, 62.5])


def test_a_file_of_roots_is_read_by_the_last_part_of_its_file_names(tmp_path):
    path = tmp_path / "roots.json"
    path.write_text(
        '[{"image_id": 7, "file_name": "TS1/img_000000.jpg", "bbox": [1, 2, 3, 3], "root_cam": [1, 2, 3000], "score": 1},'
        ' {"image_id": "x.jpg", "bbox": [1, 2, 3, 3]}]'
    )
    assert read_boxes(path) == {
        "img_000000.jpg": [{"bbox": [1, 2, 3, 3], "root_depth": 3000}], "x.jpg": [{"bbox": [1, 2, 3, 3]}],
    }  # fmt: skip
