import math

import numpy as np
import pytest

from partnas.metrics import mupots
from partnas.metrics.mupots import People, match, pck_report, with_bones_of

RANDOM = np.random.default_rng(0)
PELVIS = 14
STANDING = np.array(
    [
        [0, -700, 0], [0, -500, 0], [-200, -500, 0], [-200, -200, 0], [-200, 0, 0], [200, -500, 0], [200, -200, 0],
        [200, 0, 0], [-100, 0, 0], [-100, 400, 0], [-100, 800, 0], [100, 0, 0], [100, 400, 0], [100, 800, 0],
        [0, 0, 0], [0, -250, 0], [0, -600, 0],
    ],
    dtype=float,
)  # fmt: skip
"""A person of whole millimetres, in MuPoTS-3D's order."""


def people(frames, cameras, images=None):
    cameras = np.array(cameras, dtype=float).reshape(-1, 17, 3)
    images = cameras[..., :2] if images is None else np.array(images, dtype=float).reshape(-1, 17, 2)
    return People(np.array(frames, dtype=str), images, cameras)


def at(x=0.0, z=3000.0):
    return STANDING + [x, 0, z]


def slow_report(truth, predicted, relative, everybody):
    """The evaluator's algorithm, joint by joint, in its own 1-based numbers."""
    parents = [None, 2, 16, 2, 3, 4, 2, 6, 7, 15, 9, 10, 15, 12, 13, 15, 15, 2]
    order = [16, 2, 1, 17, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]
    per_sequence = {}
    for frame in sorted(set(truth.frames.tolist())):
        used = set()
        for person in [n for n in range(len(truth)) if truth.frames[n] == frame]:
            best, best_score = None, 0
            for other in [n for n in range(len(predicted)) if predicted.frames[n] == frame]:
                score = 0
                for joint in range(2, 15):
                    dx = abs(truth.image[person][joint - 1][0] - predicted.image[other][joint - 1][0])
                    dy = abs(truth.image[person][joint - 1][1] - predicted.image[other][joint - 1][1])
                    predicted_at_all = tuple(predicted.image[other][joint - 1]) != (0, 0)
                    score += dx < 40 and dy < 40 and predicted_at_all
                if other not in used and score > best_score:
                    best, best_score = other, score
            if best is None:
                if everybody:
                    per_sequence.setdefault(frame.split("_")[0], []).append([math.inf] * 14)
                continue
            used.add(best)
            target = [None, *truth.camera[person].tolist()]
            pose = [None, *predicted.camera[best].tolist()]
            if relative:
                target = [None] + [[a - b for a, b in zip(point, target[15], strict=True)] for point in target[1:]]
                pose = [None] + [[a - b for a, b in zip(point, pose[15], strict=True)] for point in pose[1:]]
            mapped = list(pose)
            for joint in order:
                parent = parents[joint]
                bone = [a - b for a, b in zip(pose[joint], pose[parent], strict=True)]
                factor = math.dist(target[joint], target[parent]) / math.hypot(*bone)
                mapped[joint] = [a + factor * b for a, b in zip(mapped[parent], bone, strict=True)]
            errors = [math.dist(mapped[joint], target[joint]) for joint in range(1, 15)]
            per_sequence.setdefault(frame.split("_")[0], []).append(errors)

    def share(errors, joints, threshold):
        hits = [person[joint - 1] < threshold for person in errors for joint in joints]
        return 100 * sum(hits) / len(hits)

    def mean(values):
        return sum(values) / len(values)

    groups = {
        "Head": [1], "Neck": [2], "Shoulders": [3, 6], "Elbows": [4, 7], "Wrists": [5, 8], "Hips": [9, 12],
        "Knees": [10, 13], "Ankles": [11, 14],
    }  # fmt: skip
    joints = range(1, 15)
    pck = {name: share(errors, joints, 150) for name, errors in per_sequence.items()}
    auc = {
        name: mean([share(errors, joints, threshold) for threshold in range(0, 151, 5)])
        for name, errors in per_sequence.items()
    }
    return {
        "pck": mean(list(pck.values())),
        "auc": mean(list(auc.values())),
        "pck_per_sequence": pck,
        "auc_per_sequence": auc,
        "pck_per_joint": {
            name: mean([share(errors, group, 150) for errors in per_sequence.values()])
            for name, group in groups.items()
        },
    }


def test_agrees_with_the_slow_version():
    frames, truth, image = [], [], []
    for sequence in ("TS2", "TS10", "TS1"):
        for frame in range(12):
            for person in range(RANDOM.integers(1, 4)):
                frames.append(f"{sequence}_img_{frame:06d}")
                truth.append(at(900 * person) + RANDOM.normal(0, 60, (17, 3)))
                image.append(truth[-1][:, :2] / truth[-1][:, 2:] * 300 + 30)
    kept = RANDOM.random(len(frames)) < 0.8
    predictions = [pose + RANDOM.normal(0, 70, (17, 3)) + RANDOM.normal(0, 60, 3) for pose in np.array(truth)[kept]]
    found = [points + RANDOM.normal(0, 15, (17, 2)) + RANDOM.normal(0, 20, 2) for points in np.array(image)[kept]]
    for points in found:
        points[RANDOM.random(17) < 0.3] = 0
    order = RANDOM.permutation(len(predictions))
    annotated = people(frames, truth, image)
    predicted = people(np.array(frames)[kept][order], np.array(predictions)[order], np.array(found)[order])
    report = pck_report(annotated, predicted)
    assert list(report["relative"]["all"]["pck_per_sequence"]) == ["TS1", "TS2", "TS10"]
    for kind, relative in (("relative", True), ("absolute", False)):
        for mode, everybody in (("all", True), ("matched", False)):
            slow = slow_report(annotated, predicted, relative, everybody)
            for field, expected in slow.items():
                assert report[kind][mode][field] == pytest.approx(expected, abs=1e-9), (kind, mode, field)
    assert 0 < report["matched_people"] < report["people"]
    assert report["absolute"]["all"]["pck"] < report["relative"]["all"]["pck"] < report["relative"]["matched"]["pck"]


def test_all_right():
    truth = people(["TS1_a", "TS1_a", "TS2_a"], [at(), at(900), at()])
    report = pck_report(truth, truth)
    for kind in ("relative", "absolute"):
        for mode in ("all", "matched"):
            assert report[kind][mode]["pck"] == 100
            assert set(report[kind][mode]["pck_per_joint"].values()) == {100}
            assert report[kind][mode]["auc"] == pytest.approx(100 * 30 / 31)  # nothing is below a threshold of 0


def test_no_predictions():
    nothing = people([], [])
    report = pck_report(people(["TS1_a", "TS2_a"], [at(), at()]), nothing)
    assert report["frames_without_predictions"] == report["frames"] == 2
    for kind in ("relative", "absolute"):
        assert report[kind]["all"]["pck"] == report[kind]["all"]["auc"] == 0
        assert report[kind]["matched"]["pck"] is None
        assert report[kind]["matched"]["pck_per_sequence"] == {"TS1": None, "TS2": None}


def test_all_missed():
    truth = people(["TS1_a"], [at()])
    report = pck_report(truth, people(["TS1_a"], [at(z=9000)], truth.image))
    assert report["matched_people"] == 1
    assert report["absolute"]["all"]["pck"] == report["absolute"]["matched"]["pck"] == 0
    assert report["absolute"]["all"]["auc"] == 0
    assert report["relative"]["all"]["pck"] == 100


def test_a_person_upside_down():
    truth = people(["TS1_a"], [at()])
    report = pck_report(truth, people(["TS1_a"], [at() * [1, -1, 1]], truth.image))
    joints = report["relative"]["all"]["pck_per_joint"]
    assert joints == {name: 100 if name in ("Wrists", "Hips") else 0 for name in mupots.JOINT_GROUPS}  # at y = 0
    assert report["relative"]["all"]["pck"] == pytest.approx(100 * 4 / 14)


def test_an_unmatched_person_counts_only_in_all():
    truth = people(["TS1_a", "TS1_a", "TS2_a"], [at(), at(900), at()])
    predicted = people(["TS1_a", "TS2_a"], [at(), at()])
    report = pck_report(truth, predicted)
    assert report["matched_people"] == 2
    assert report["relative"]["all"]["pck_per_sequence"] == {"TS1": 50, "TS2": 100}
    assert report["relative"]["all"]["pck"] == 75  # the mean of the sequences, not 2 of 3 people
    assert report["relative"]["matched"]["pck"] == 100


def test_the_threshold_itself_is_missed():
    truth = people(["TS1_a"], [at()])
    for distance, right in ((149.0, 100), (150.0, 0), (151.0, 0)):
        report = pck_report(truth, people(["TS1_a"], [at(distance)], truth.image))
        assert report["absolute"]["all"]["pck"] == right
        assert report["relative"]["all"]["pck"] == 100
    beside = pck_report(truth, people(["TS1_a"], [at(100)], truth.image))["absolute"]["all"]
    assert beside["auc"] == pytest.approx(100 * 10 / 31)  # 105, 110, ..., 150; not 100


def test_forty_pixels_are_too_far_in_either_direction():
    truth = RANDOM.integers(0, 500, (1, 17, 2)).astype(float)
    for shift, place in (((39.5, -39.5), 0), ((40, 0), -1), ((0, 40), -1), ((0, -40), -1)):
        assert match(truth, truth + shift).tolist() == [place]


def test_one_joint_is_enough_but_not_the_head_or_those_behind_the_fourteenth():
    truth = np.ones((1, 17, 2))
    for joint in range(17):
        predicted = np.full((1, 17, 2), 100.0)
        predicted[0, joint] = [1, 0]
        assert match(truth, predicted).tolist() == [0 if 1 <= joint <= 13 else -1]
        predicted[0, joint] = 0  # the evaluator's mark of a joint that was not predicted
        assert match(truth, predicted).tolist() == [-1]


def test_matching_is_greedy_in_the_order_of_the_annotations():
    first, second = np.ones((17, 2)), np.ones((17, 2))
    second[:7] = 200
    # The first person takes the only prediction, which is the second person's to the pixel.
    assert match(np.array([first, second]), second[None]).tolist() == [0, -1]
    assert match(np.array([second, first]), second[None]).tolist() == [0, -1]
    # Of two predictions the better one, wherever it stands; of equal ones the first.
    assert match(first[None], np.array([second, first])).tolist() == [1]
    assert match(np.array([first, first]), np.array([first, first, first])).tolist() == [0, 1]


def test_more_predictions_than_people():
    truth = people(["TS1_a"], [at()])
    report = pck_report(truth, people(["TS1_a"] * 3 + ["TS1_b"], [at(5000), at(), at(20), at()]))
    assert report["matched_people"] == 1
    assert report["predictions"] == 4
    assert report["absolute"]["all"]["auc"] == pytest.approx(100 * 30 / 31)


def test_bones_twice_as_long_are_all_right():
    truth = people(["TS1_a"], [at()])
    pelvis = truth.camera[:, [PELVIS]]
    doubled = people(["TS1_a"], pelvis + 2 * (truth.camera - pelvis), truth.image)
    np.testing.assert_allclose(with_bones_of(doubled.camera, truth.camera), truth.camera, atol=1e-9)
    report = pck_report(truth, doubled)
    assert report["relative"]["all"]["pck"] == report["absolute"]["all"]["pck"] == 100


def test_a_rescaled_bone_moves_what_hangs_on_it_but_keeps_the_predicted_directions():
    truth = STANDING[None].copy()
    predicted = STANDING[None].copy()
    predicted[0, 3] += [0, 300, 0]  # a right upper arm of 600 for 300 mm, and with it a forearm that points up
    rescaled = with_bones_of(predicted, truth)
    expected = STANDING.copy()
    expected[4] = STANDING[3] + [0, -200, 0]
    np.testing.assert_allclose(rescaled[0], expected, atol=1e-9)


def test_a_bone_without_length_is_missed_with_all_that_hangs_on_it():
    truth = people(["TS1_a"], [at()])
    predicted = people(["TS1_a"], [at()])
    predicted.camera[0, 9] = predicted.camera[0, 8]
    joints = pck_report(truth, predicted)["relative"]["all"]["pck_per_joint"]
    assert joints == {name: 50 if name in ("Knees", "Ankles") else 100 for name in mupots.JOINT_GROUPS}
