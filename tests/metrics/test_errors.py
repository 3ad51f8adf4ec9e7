import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from partnas.metrics import mpjpe, pa_mpjpe, part_errors, pose_report, procrustes
from partnas.skeleton import HUMAN36M, MUCO

RANDOM = np.random.default_rng(0)
TARGET = RANDOM.normal(0, 300, (5, 18, 3))


def moved(scale=1.0, noise=0.0):
    rotations = Rotation.random(5, rng=1).as_matrix()
    return (
        scale * np.einsum("nij,npj->npi", rotations, TARGET)
        + RANDOM.normal(0, 500, (5, 1, 3))
        + RANDOM.normal(0, 1, TARGET.shape) * noise
    )


def test_mpjpe_by_hand():
    predicted = TARGET + 1000.0
    predicted[:, 3] += [3, 4, 0]
    predicted[:, HUMAN36M.parts.index("Thorax")] += 999
    assert mpjpe(predicted, TARGET) == pytest.approx(5 / 17)
    assert part_errors(predicted, TARGET)[:, 3] == pytest.approx([5] * 5)


def test_alignment_undoes_rotation_translation_and_scale():
    np.testing.assert_allclose(procrustes(moved(), TARGET, scale=False), TARGET, atol=1e-9)
    np.testing.assert_allclose(procrustes(moved(2.5), TARGET, scale=True), TARGET, atol=1e-9)
    assert pa_mpjpe(moved(2.5), TARGET, scale=False) > 100


def test_a_mirror_image_is_not_undone():
    mirrored = TARGET * [-1, 1, 1]
    assert pa_mpjpe(mirrored, TARGET, scale=True) > 10


def test_scale_can_only_help_and_agrees_with_a_search():
    predicted = moved(1.3, noise=20)
    aligned = procrustes(predicted, TARGET, scale=True)
    best = ((aligned - TARGET) ** 2).sum((1, 2))
    for factor in np.linspace(0.5, 1.2, 30):
        tried = procrustes(predicted * factor, TARGET, scale=False)
        assert (best <= ((tried - TARGET) ** 2).sum((1, 2)) + 1e-6).all()


def test_a_point_aligns_without_nan():
    assert np.isfinite(pa_mpjpe(np.zeros((1, 18, 3)), TARGET[:1], scale=True))


def test_another_skeleton_has_its_own_root_and_evaluated_parts():
    target = RANDOM.normal(0, 300, (4, 21, 3))
    predicted = target + RANDOM.normal(0, 20, target.shape)
    moved = predicted - predicted[:, [MUCO.root]] - (target - target[:, [MUCO.root]])
    by_hand = np.linalg.norm(moved[:, :17], axis=-1)
    np.testing.assert_allclose(part_errors(predicted, target, MUCO), by_hand)
    report = pose_report(predicted, target, ["a"] * 4, groups=[[0, 20], [20]], skeleton=MUCO)
    assert list(report["per_part_mm"]) == list(MUCO.parts[:17])
    assert report["mpjpe_mm"] == pytest.approx(mpjpe(predicted, target, MUCO)) == pytest.approx(by_hand.mean())
    assert report["per_group_mm"] == [pytest.approx(by_hand[:, 0].mean()), None]


def test_report_means_agree():
    predicted = TARGET + RANDOM.normal(0, 20, TARGET.shape)
    actions = ["a", "a", "b", "b", "b"]
    mean_pose = TARGET.mean(0)
    report = pose_report(predicted, TARGET, actions, groups=[[0, 1], [17]], mean_pose=mean_pose)
    errors = part_errors(predicted, TARGET)
    assert report["frames"] == 5
    assert report["mpjpe_mm"] == pytest.approx(errors.mean())
    assert report["per_action_mm"] == pytest.approx({"a": errors[:2].mean(), "b": errors[2:].mean()})
    for name, scale in (("per_action_pa_mm", False), ("per_action_pa_scaled_mm", True)):
        expected = {"a": pa_mpjpe(predicted[:2], TARGET[:2], scale), "b": pa_mpjpe(predicted[2:], TARGET[2:], scale)}
        assert report[name] == pytest.approx(expected)
    assert report["per_part_mm"]["R_Knee"] == pytest.approx(errors[:, HUMAN36M.parts.index("R_Knee")].mean())
    assert report["per_group_mm"] == [pytest.approx(errors[:, :2].mean()), None]
    assert report["mean_pose_mpjpe_mm"] == pytest.approx(mpjpe(np.repeat(mean_pose[None], 5, 0), TARGET))
