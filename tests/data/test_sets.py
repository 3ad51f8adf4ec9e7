"""The loaders of MPII, COCO, MuCo-3DHP and MuPoTS-3D on small sets in their formats."""

import json
import re

import numpy as np
import pytest
from small_sets import CENTRE, FOCAL, keypoints, write_coco, write_mpii, write_muco, write_mupots

from partnas.data import PoseDataset, read_coco, read_mpii, read_muco, read_mupots
from partnas.data.muco import kept
from partnas.skeleton import COCO, MUCO, MUPOTS

SETS = {
    "mpii": (write_mpii, read_mpii, "annotations/train.json", "images/000000001.jpg", 1),
    "coco": (write_coco, read_coco, "annotations/person_keypoints_train2017.json", "images/train2017/000000000009.jpg", 101),
    "muco": (write_muco, read_muco, "data/MuCo-3DHP.json", "data/augmented_set/1/00000.jpg", 1),
    "mupots": (write_mupots, read_mupots, "data/MuPoTS-3D.json", "data/MultiPersonTestSet/TS1/img_000000.jpg", 1),
}  # fmt: skip
"""Writer, loader, annotation file, the first image, and the id of the first person."""


def test_mpii(tmp_path):
    frames = read_mpii(write_mpii(tmp_path))
    assert frames.ids.tolist() == [1, 3]
    assert frames.left_out == {"no keypoints": 1}
    assert frames.visible.sum(1).tolist() == [14, 1]
    written = np.array(keypoints(16, 1, unseen=(0, 5)), np.float32).reshape(16, 3)
    np.testing.assert_array_equal(frames.joints_image[0][frames.visible[0]], written[frames.visible[0], :2])
    assert np.isnan(frames.joints_image[~frames.visible]).all()
    assert np.isnan(frames.joints_camera).all()
    assert not frames.has_depth.any()
    assert (frames.focal == 1500).all()
    assert frames.principal.tolist() == [[80, 60]] * 2


def test_mpii_names_images_below_its_folder_or_below_images(tmp_path):
    def shorten(content):
        content["images"][0]["file_name"] = content["images"][0]["file_name"].removeprefix("images/")

    paths = list(read_mpii(write_mpii(tmp_path, change=shorten)).image_paths)
    assert paths == [str(tmp_path / "images" / f"{n:09}.jpg") for n in (1, 2)]


def test_coco_leaves_out_crowds_and_the_unlabelled(tmp_path):
    frames = read_coco(write_coco(tmp_path))
    assert frames.ids.tolist() == [101, 102, 107]
    assert frames.left_out == {"crowd": 1, "no keypoints": 1}
    assert ["annotation 105" in frames.skipped[0], "annotation 106" in frames.skipped[1]] == [True, True]
    assert len(frames.skipped) == 2
    assert frames.image_path(2) == str(tmp_path / "images/train2017/000000000025.jpg")
    assert (frames.focal == 1500).all()
    assert frames.principal.tolist() == [[80, 60]] * 3


def test_coco_midpoints_are_seen_where_both_sides_are(tmp_path):
    frames = read_coco(write_coco(tmp_path))
    place = {part: COCO.parts.index(part) for part in COCO.parts}
    thorax = frames.joints_image[:, [place["L_Shoulder"], place["R_Shoulder"]]].mean(1)
    np.testing.assert_array_equal(frames.joints_image[:, place["Thorax"]], thorax)
    assert frames.visible[:, place["Thorax"]].tolist() == [True] * 3
    assert frames.visible[:, place["Pelvis"]].tolist() == [True, False, True]
    assert np.isnan(frames.joints_image[1, place["Pelvis"]]).all()


def test_coco_validation_split(tmp_path):
    frames = read_coco(write_coco(tmp_path, "val2017"), "val2017")
    assert frames.image_path(0) == str(tmp_path / "images/val2017/000000000009.jpg")


def test_muco(tmp_path):
    frames = read_muco(write_muco(tmp_path))
    assert frames.ids.tolist() == [1, 3, 4]
    assert frames.left_out == {"too near another person": 3}
    np.testing.assert_allclose(frames.root_depth, [3000, 3600, 2500])
    np.testing.assert_allclose(frames.joints_camera[:, MUCO.root], [[0, 0, 3000], [900, 0, 3600], [0, 0, 2500]])
    assert frames.visible.sum(1).tolist() == [20] * 3
    assert frames.has_depth.all()
    assert (frames.focal == FOCAL).all()
    assert (frames.principal == CENTRE).all()
    projected = frames.joints_camera[..., :2] / frames.joints_camera[..., 2:] * FOCAL + CENTRE
    np.testing.assert_allclose(frames.joints_image, projected, atol=1e-3)


def test_muco_keeps_whom_the_rule_says():
    random = np.random.default_rng(0)
    image = random.integers(0, 40, 200)
    root = random.uniform(-1000, 1000, (200, 3)) + [0, 0, 4000]
    distance = np.linalg.norm(root[:, None] - root, axis=-1)
    expected = []
    for person in range(200):
        others = [other for other in range(200) if image[other] == image[person] and other != person]
        nearest = all(root[person, 2] < root[other, 2] for other in others)
        expected.append(nearest or all(distance[person, other] >= 500 for other in others))
    assert kept(image, root).tolist() == expected
    assert 0 < sum(expected) < 200


def test_mupots(tmp_path):
    frames = read_mupots(write_mupots(tmp_path))
    assert frames.skeleton is MUPOTS
    assert frames.ids.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert frames.left_out == {"not valid": 1}
    assert frames.action.tolist() == ["TS1"] * 4 + ["TS2"] * 3
    assert frames.image_ids.tolist() == [0, 0, 1, 1, 2, 2, 3]
    np.testing.assert_allclose(frames.root_depth, 3000)
    assert (frames.focal == FOCAL).all()
    corner, far = frames.joints_image.min(1), frames.joints_image.max(1)
    np.testing.assert_allclose(frames.bboxes, np.column_stack([corner, far - corner]), atol=1e-3)


@pytest.mark.parametrize("name", SETS)
def test_every_set_gives_samples_of_numbers(tmp_path, name):
    write, read, *_ = SETS[name]
    frames = read(write(tmp_path))
    dataset = PoseDataset(frames, 32, 8, 16)
    for index in range(len(dataset)):
        sample = dataset[index]
        assert sample["coordinates"].shape == (len(frames.skeleton.parts), 3)
        assert sample["coordinates"].isfinite().all()
        assert sample["has_depth"] == frames.has_depth[index]
        assert sample["visible"].sum() > 0


def first(content, **changes):
    content["annotations"][0].update(changes)


def nan_joint(content):
    person = content["annotations"][0]
    field = "keypoints_cam" if "keypoints_cam" in person else "keypoints"
    joints = np.array(person[field], float)
    joints.reshape(-1)[0] = np.nan
    person[field] = joints.tolist()


def joint_field(content):
    return "keypoints_cam" if "keypoints_cam" in content["annotations"][0] else "keypoints"


FAULTS = {
    "no box": (lambda c: c["annotations"][0].pop("bbox"), r"annotation {id}: field 'bbox' is missing"),
    "box of text": (lambda c: first(c, bbox="wide"), r"annotation {id}: bbox 'wide' is not 4 numbers"),
    "box of three": (lambda c: first(c, bbox=[1, 2, 3]), r"annotation {id}: bbox .* is not 4 numbers"),
    "null box": (lambda c: first(c, bbox=None), r"annotation {id}: bbox None is not 4 numbers"),
    "infinite box": (lambda c: first(c, bbox=[1, 2, 3, float("inf")]), r"annotation {id}: bbox .* not finite"),
    "NaN joint": (nan_joint, r"annotation {id}: keypoints\w* holds a value that is not finite"),
    "too few joints": (lambda c: c["annotations"][0][joint_field(c)].pop(), r"annotation {id}: keypoints\w* .*numbers"),
    "no such image": (lambda c: first(c, image_id=77), r"annotation {id}: image_id 77 names no usable image"),
    "one id for two": (
        lambda c: first(c, id=next(p["id"] for p in c["annotations"][1:] if p.get("num_keypoints", 1))),
        r"annotation \d+: id \d+ stands twice",
    ),
    "id of text": (lambda c: first(c, id="one"), r"annotation one: id 'one' is not a whole number"),
    "no object": (lambda c: c["annotations"].insert(0, [1]), r"annotation at place 0 is a list, not an object"),
    "image without width": (lambda c: c["images"][0].pop("width"), r"image \d+: field 'width' is missing"),
    "image of no height": (lambda c: c["images"][0].update(height=0), r"image \d+: height .* at least 1"),
    "image without name": (lambda c: c["images"][0].update(file_name=""), r"image \d+: file_name '' is not a text"),
    "one id for two images": (
        lambda c: c["images"][1].update(id=c["images"][0]["id"]),
        r"image \d+: id \d+ stands twice",
    ),
}


def joint(field, place, value):
    def change(content):
        person = next(p for p in content["annotations"] if field in p and p.get("num_keypoints", 1))
        joints = np.array(person[field], float)
        joints[..., place].flat[0] = value
        person[field] = joints.tolist()

    return change


COCO_FORM, IN_SPACE = ("mpii", "coco"), ("muco", "mupots")
OUT_OF_RANGE = {
    "box": ((*COCO_FORM, *IN_SPACE), lambda c: first(c, bbox=[0, 0, 1e308, 5]), "bbox holds a value over 1e"),
    "flag": (COCO_FORM, joint("keypoints", 2, 9), "keypoints: flag 9 is none of 0, 1 and 2"),
    "visibility": (IN_SPACE, joint("keypoints_vis", slice(None), 5), "keypoints_vis holds a flag that is none of"),
    "pixels": (IN_SPACE, joint("keypoints_img", 0, 1e9), "keypoints_img holds a value over 1e"),
    "millimetres": (IN_SPACE, joint("keypoints_cam", 0, -1e9), "keypoints_cam holds a value over 1e"),
    "behind": (IN_SPACE, joint("keypoints_cam", 2, -5), "keypoints_cam: joint 0 is visible and behind the camera"),
    "centre": (("muco",), lambda c: c["images"][0].update(c=[1e12, 3]), "image .*: c holds a value over 1e"),
    "calibration": (
        ("mupots",), lambda c: c["images"][0].update(intrinsic=[1e12, 1, 1, 1]), "image .*: intrinsic holds a value over"
    ),
    "id of true": (COCO_FORM, lambda c: c["annotations"][-1].update(id=True), "annotation True: id 'True' is not a whole"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "fault"), [(name, fault) for fault, row in OUT_OF_RANGE.items() for name in row[0]])
def test_a_value_out_of_range_is_one_line_or_left_out(tmp_path, name, fault, error_line):
    write, read, file, *_ = SETS[name]
    _, change, line = OUT_OF_RANGE[fault]
    write(tmp_path, change=change)
    error_line(f"{tmp_path}/{file}: .*{line}", lambda: read(tmp_path))
    assert any(re.search(line, skipped) for skipped in read(tmp_path, skip_broken=True).skipped)


def test_a_labelled_joint_far_outside_and_one_that_is_not_labelled(tmp_path, error_line):
    write_coco(tmp_path, change=joint("keypoints", 0, 1e7))
    error_line("keypoints holds a labelled joint over 1e", lambda: read_coco(tmp_path))

    def hidden(content):
        joint("keypoints", 0, 1e7)(content)
        joint("keypoints", 2, 0)(content)

    assert len(read_coco(write_coco(tmp_path / "hidden", change=hidden)))


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_entry_is_one_line_or_left_out(tmp_path, name, fault, caplog, error_line):
    write, read, file, _, number = SETS[name]
    change, line = FAULTS[fault]
    whole = len(read(write(tmp_path / "whole")))
    write(tmp_path / "set", change=change)
    pattern = rf"{tmp_path}/set/{file}: {line.format(id=number)}"
    error_line(pattern, lambda: read(tmp_path / "set"))
    caplog.clear()
    frames = read(tmp_path / "set", skip_broken=True)
    assert len(frames) <= whole
    assert any(re.search(pattern, skipped) for skipped in frames.skipped)
    assert f"left out as broken: {len(frames.skipped)}" in caplog.text


FILE_FAULTS = {
    "no annotations": (lambda c: c.pop("annotations"), "the file: field 'annotations' is missing"),
    "annotations are an object": (lambda c: c.update(annotations={}), "field 'annotations' is a dict, not a list"),
    "images are a number": (lambda c: c.update(images=3), "field 'images' is a int, not a list"),
    "nothing": (lambda c: c["annotations"].clear(), "no usable annotation"),
    "unknown joint": (
        lambda c: c.update(categories=[{"id": 1, "keypoints": ["nose", "tail"]}]),
        "categories: keypoints: .* is none of the joints",
    ),
    "joints are a number": (
        lambda c: c.update(categories=[{"id": 1, "keypoints": 3}]),
        "categories: keypoints: no list of joint names",
    ),
}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("fault", FILE_FAULTS)
def test_a_broken_file_is_one_line_in_either_mode(tmp_path, name, fault, error_line):
    write, read, file, *_ = SETS[name]
    change, line = FILE_FAULTS[fault]
    write(tmp_path, change=change)
    for skip_broken in (False, True):
        error_line(rf"{tmp_path}/{file}: {line}", lambda skip=skip_broken: read(tmp_path, skip_broken=skip))


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("content", ["", "[]", "3", '{"images": [', "\x00"])
def test_a_file_that_is_no_such_json(tmp_path, name, content, error_line):
    _, read, file, *_ = SETS[name]
    error_line(rf"{file}: cannot be read \(No such file", lambda: read(tmp_path))
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(content)
    error_line(rf"{file}: ", lambda: read(tmp_path))


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("fault", ["missing", "empty", "truncated"])
def test_an_unreadable_image(tmp_path, name, fault, error_line):
    write, read, _, image, number = SETS[name]
    frames = read(write(tmp_path))
    path = tmp_path / image
    content = path.read_bytes()
    path.unlink()
    if fault != "missing":
        path.write_bytes(b"" if fault == "empty" else content[:500])
    named = f"{path} (image {frames.image_ids[0]}): "
    error_line(re.escape(named), lambda: PoseDataset(frames, 32, 8, 16)[0])
    left = read(tmp_path, skip_broken=True)
    assert number not in left.ids
    assert set(left.image_ids) == set(frames.image_ids) - {frames.image_ids[0]}
    assert left.skipped[-1].startswith(named)


def zero_focal(content):
    image = content["images"][0]
    if "f" in image:
        image["f"] = [0, 300]
    else:
        image["intrinsic"][1] = 0


@pytest.mark.parametrize("name", ["muco", "mupots"])
def test_zero_focal_length(tmp_path, name, error_line):
    write, read, file, *_ = SETS[name]
    write(tmp_path, change=zero_focal)
    error_line(rf"{file}: image 0: (f|intrinsic) .*: a focal length must be positive", lambda: read(tmp_path))
    left = read(tmp_path, skip_broken=True)
    assert 0 not in left.image_ids
    assert len(left.image_ids) > 0


@pytest.mark.parametrize("name", ["muco", "mupots"])
def test_a_person_behind_the_camera(tmp_path, name, error_line):
    def behind(content):
        person = content["annotations"][0]
        person["keypoints_cam"] = (np.array(person["keypoints_cam"]) - [0, 0, 9000]).tolist()

    write, read, *_ = SETS[name]
    write(tmp_path, change=behind)
    error_line("annotation 1: keypoints_cam: the pelvis lies behind the camera", lambda: read(tmp_path))
    assert 1 not in read(tmp_path, skip_broken=True).ids


def test_joint_names_in_another_order(tmp_path, error_line):
    def swap(content):
        names = content["categories"][0]["keypoints"]
        names[1], names[2] = names[2], names[1]

    write_coco(tmp_path, change=swap)
    error_line("are not in the order Nose, L_Eye", lambda: read_coco(tmp_path))


def test_mpii_spells_joints_in_its_own_way(tmp_path):
    names = [
        "r_ankle",
        "r_knee",
        "r_hip",
        "l_hip",
        "l_knee",
        "l_ankle",
        "pelvis",
        "thorax",
        "upper_neck",
        "head_top",
        "r_wrist",
        "r_elbow",
        "r_shoulder",
        "l_shoulder",
        "l_elbow",
        "l_wrist",
    ]
    write_mpii(tmp_path, change=lambda content: content["categories"][0].update(keypoints=names))
    assert len(read_mpii(tmp_path)) == 2


def test_many_batches_read_as_one(tmp_path, monkeypatch):
    whole = read_coco(write_coco(tmp_path))
    monkeypatch.setattr("partnas.data.records.BATCH", 2)
    parted = read_coco(tmp_path)
    for name, value in vars(whole).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(parted, name), value)
        else:
            assert getattr(parted, name) == value


def test_a_file_with_a_byte_order_mark_or_nan_reads_as_the_plain_one(tmp_path):
    whole = read_coco(write_coco(tmp_path))
    path = tmp_path / "annotations/person_keypoints_train2017.json"
    content = json.loads(path.read_text())
    content["info"]["version"] = float("nan")
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
    again = read_coco(tmp_path)
    np.testing.assert_array_equal(again.joints_image, whole.joints_image)
