"""The rendered sample that ships with the package."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import partnas
from partnas.data.synth import plan
from partnas.skeleton import HUMAN36M

PARTS, BONES = HUMAN36M.parts, HUMAN36M.bones

SAMPLE = Path(partnas.__file__).parent / "data" / "sample"
SUBJECTS = sorted(sum(plan.SPLIT_SUBJECTS.values(), ()))
FIELDS = {
    "id", "file_name", "width", "height", "subject", "action_name", "action_idx", "subaction_idx", "cam_idx", "frame_idx",
}  # fmt: skip
BELIEVABLE_MM = {
    ("R_Hip", "R_Knee"): (300, 500), ("R_Knee", "R_Ankle"): (320, 520), ("R_Shoulder", "R_Elbow"): (200, 350),
    ("R_Elbow", "R_Wrist"): (170, 310), ("Pelvis", "R_Hip"): (70, 150), ("Pelvis", "Torso"): (180, 360),
    ("Neck", "R_Shoulder"): (130, 280), ("Nose", "Head"): (120, 240),
}  # fmt: skip


def read(subject, kind):
    return json.loads((SAMPLE / "annotations" / f"Human36M_subject{subject}_{kind}.json").read_text())


@pytest.fixture(scope="module")
def poses():
    """Every picture's record, annotation, camera and world joints [17, 3]."""
    found = []
    for subject in SUBJECTS:
        data, cameras, joints = (read(subject, kind) for kind in ("data", "camera", "joint_3d"))
        by_image = {annotation["image_id"]: annotation for annotation in data["annotations"]}
        assert len(by_image) == len(data["images"]) == len(data["annotations"])
        for image in data["images"]:
            pose = joints[str(image["action_idx"])][str(image["subaction_idx"])][str(image["frame_idx"])]
            found.append((image, by_image[image["id"]], cameras[str(image["cam_idx"])], np.array(pose)))
    return found


def in_camera(camera, joints):
    local = joints @ np.array(camera["R"]).T + camera["t"]
    return local, local[:, :2] / local[:, 2:] * camera["f"] + camera["c"]


def test_sample_is_small_and_large_enough(poses):
    total = sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file())
    assert total <= 12_000_000
    assert len(poses) >= 2000


def test_every_record_has_every_field_and_ids_are_unique(poses):
    assert len({image["id"] for image, *_ in poses}) == len(poses)
    for image, annotation, camera, joints in poses:
        assert set(image) == FIELDS
        assert set(annotation) == {"id", "image_id", "keypoints_vis", "bbox"}
        assert len(annotation["keypoints_vis"]) == 17
        assert {key: np.shape(value) for key, value in camera.items()} == {"R": (3, 3), "t": (3,), "f": (2,), "c": (2,)}
        assert joints.shape == (17, 3)
        folder = (
            f"s_{image['subject']:02d}_act_{image['action_idx']:02d}"
            f"_subact_{image['subaction_idx']:02d}_ca_{image['cam_idx']:02d}"
        )
        assert image["file_name"] == f"{folder}/{folder}_{image['frame_idx'] + 1:06d}.jpg"


def test_pictures_are_exactly_those_of_the_annotations(poses):
    files = {str(path.relative_to(SAMPLE / "images")) for path in (SAMPLE / "images").rglob("*.jpg")}
    assert files == {image["file_name"] for image, *_ in poses}
    for image, *_ in poses:
        pixels = cv2.imread(str(SAMPLE / "images" / image["file_name"]))
        assert pixels is not None
        assert pixels.shape == (image["height"], image["width"], 3)
        assert pixels.std() > 5, "an empty picture"


def test_clips_and_subjects_are_split_as_stated(poses):
    counts = dict.fromkeys(plan.SPLIT_CLIPS, 0)
    for split, subjects in plan.SPLIT_SUBJECTS.items():
        mine = [image for image, *_ in poses if image["subject"] in subjects]
        counts[split] = len(mine)
        assert {image["action_name"] for image in mine} == set(plan.SPLIT_CLIPS[split])
        assert {image["action_idx"] for image in mine} == {plan.ACTIONS[clip] for clip in plan.SPLIT_CLIPS[split]}
    assert counts == plan.split_sizes(len(poses))


def test_joints_fall_inside_their_picture_and_box(poses):
    for image, annotation, camera, joints in poses:
        local, pixels = in_camera(camera, joints)
        x, y, width, height = annotation["bbox"]
        assert local[:, 2].min() > 500
        assert (pixels >= 0).all()
        assert (pixels < [image["width"], image["height"]]).all()
        assert (pixels > [x - 2, y - 2]).all()
        assert (pixels < [x + width + 2, y + height + 2]).all()
        assert all(annotation["keypoints_vis"])
        assert x >= 0
        assert y >= 0
        assert x + width <= image["width"] + 0.1
        assert y + height <= image["height"] + 0.1


def test_bones_are_of_believable_length_and_symmetric(poses):
    joints = np.stack([pose for *_, pose in poses])
    for (start, end), (low, high) in BELIEVABLE_MM.items():
        length = np.linalg.norm(joints[:, PARTS.index(start)] - joints[:, PARTS.index(end)], axis=1)
        assert length.min() > low, (start, end, length.min())
        assert length.max() < high, (start, end, length.max())
    mirror = {a: b for pair in HUMAN36M.flip_pairs for a, b in (pair, pair[::-1])}
    for a, b in ((1, 2), (2, 3), (14, 15), (15, 16)):
        assert (a, b) in BONES
        right = np.linalg.norm(joints[:, a] - joints[:, b], axis=1)
        left = np.linalg.norm(joints[:, mirror[a]] - joints[:, mirror[b]], axis=1)
        assert np.abs(right - left).max() < 3


def test_right_is_the_persons_own_right(poses):
    # Seen from the nose side of an upright person, chirality is fixed: across (right to left) × up points forward.
    upright = agree = 0
    for *_, joints in poses:
        across = joints[PARTS.index("L_Hip")] - joints[PARTS.index("R_Hip")]
        up = joints[PARTS.index("Neck")] - joints[PARTS.index("Pelvis")]
        nose = joints[PARTS.index("Nose")] - joints[PARTS.index("Neck")]
        if up[2] > 0.9 * np.linalg.norm(up):
            upright += 1
            agree += np.cross(across, up) @ nose > 0
    assert upright > 300
    assert agree > 0.97 * upright


def test_no_pose_is_shown_twice(poses):
    rows = {(image["cam_idx"], image["subject"], joints.tobytes()) for image, _, _, joints in poses}
    assert len(rows) == len(poses)
    shapes = np.stack([joints - joints[0] for *_, joints in poses]).reshape(len(poses), -1)
    order = np.lexsort(shapes[:, 3:6].T)
    assert np.abs(np.diff(shapes[order], axis=0)).max(1).min() > 1


def test_data_card_tells_origin_and_licences():
    card = (SAMPLE / "DATA_CARD.md").read_text()
    for word in (
        "DeepMimic",
        "pybullet",
        "zlib",
        "MIT",
        "anny",
        "Apache-2.0",
        "CC0",
        "synthesize",
        "seed",
        "not on record",
    ):
        assert word in card, word
