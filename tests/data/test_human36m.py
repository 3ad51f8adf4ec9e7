import json
import re
from pathlib import Path

import numpy as np
import pytest
from small_set import CAMERA, write_set

from partnas.data import SPLITS, check, embedded_root, read_human36m
from partnas.data.human36m import subjects_in
from partnas.errors import PartnasError
from partnas.skeleton import HUMAN36M


def test_arrays_agree_with_the_files(small_set):
    source = read_human36m(small_set, [1, 5])
    assert len(source) == 6
    world = np.array(json.loads((small_set / "annotations/Human36M_subject5_joint_3d.json").read_text())["2"]["1"]["7"])
    np.testing.assert_allclose(source.joints_camera[5, :17], world + [0, 0, 3000])
    thorax = (world[HUMAN36M.parts.index("L_Shoulder")] + world[HUMAN36M.parts.index("R_Shoulder")]) / 2 + [0, 0, 3000]
    np.testing.assert_allclose(source.joints_camera[5, 17], thorax)
    x, y, z = source.joints_camera[5, 3]
    np.testing.assert_allclose(source.joints_image[5, 3], [400 * x / z + 80, 410 * y / z + 60])
    assert all(array.shape[0] == 6 for array in vars(source).values() if isinstance(array, np.ndarray))


def test_a_rotated_camera(tmp_path):
    def turn(subject, data, camera, joints):
        camera["1"] = {"R": [[0, 0, 1], [1, 0, 0], [0, 1, 0]], "t": [10, 20, 3000], "f": [400, 400], "c": [80, 60]}

    root = write_set(tmp_path / "set", change=turn)
    world = json.loads((root / "annotations/Human36M_subject1_joint_3d.json").read_text())["2"]["1"]["0"][0]
    np.testing.assert_allclose(
        read_human36m(root, [1]).joints_camera[0, 0], [world[2] + 10, world[0] + 20, world[1] + 3000]
    )


def test_stride_and_subset(small_set):
    assert len(read_human36m(small_set, [1, 5], stride=5)) == 4
    source = read_human36m(small_set, [1, 5])
    chosen = source.subset([4, 1])
    assert chosen.ids.tolist() == [source.ids[4], source.ids[1]]
    assert chosen.joints_camera.shape == (2, 18, 3)
    with pytest.raises(PartnasError, match="frame_idx"):
        read_human36m(small_set, [], stride=1)


def spoil(where):
    def change(subject, data, camera, joints):
        where(data, camera, joints)

    return change


FAULTS = [
    (lambda d, c, j: d["annotations"][1].pop("bbox"), r"subject1_data.*annotation 2.*'bbox'"),
    (lambda d, c, j: d["annotations"][1].update(bbox=[1, 2, 3]), r"annotation 2: bbox"),
    (lambda d, c, j: d["annotations"][1].update(bbox=[1, 2, 3, None]), r"annotation 2: bbox"),
    (lambda d, c, j: d["annotations"][0].update(image_id=99), r"image_id 99"),
    (lambda d, c, j: d["annotations"][1].update(id=1), r"annotation 1: id 1 stands twice"),
    (
        lambda d, c, j: d["annotations"][0].update(keypoints_vis=[True] * 3),
        r"annotation 1: keypoints_vis .* is not 17 numbers",
    ),
    (lambda d, c, j: d["annotations"][1].update(bbox="a\nb"), r"annotation 2: bbox 'a\\nb' is not 4 numbers"),
    (lambda d, c, j: d["annotations"][1].update(id=[1, "a\nb"]), r"annotation \[1, 'a\\nb'\]: id .* whole number"),
    (lambda d, c, j: d["annotations"][1].update(id=2**63 + 5), r"'9223372036854775813' is not a whole number"),
    (lambda d, c, j: d["images"][0].update(file_name="\ud800.jpg"), r"image 1: file_name .* is not a text"),
    (lambda d, c, j: d["images"][0].pop("cam_idx"), r"image 1: field 'cam_idx'"),
    (lambda d, c, j: d["images"][0].update(cam_idx=3), r"camera '3'"),
    (lambda d, c, j: c["1"].update(f=[0.0, 400.0]), r"subject1_camera.*f must be positive"),
    (lambda d, c, j: c["1"].pop("R"), r"'R' is missing"),
    (lambda d, c, j: c["1"].update(R=[[-1, 0, 0], [0, 1, 0], [0, 0, 1]]), r"camera 1: R is no rotation"),
    (lambda d, c, j: c["1"].update(t=[9000, 0, -9000]), r"behind its camera"),
    (lambda d, c, j: j["2"]["1"].pop("5"), r"subject1_joint_3d.*2/1/5"),
    (lambda d, c, j: j["2"]["1"]["5"][3].__setitem__(0, float("nan")), r"joint_3d.*2/1/5.*not finite"),
    (lambda d, c, j: j["2"]["1"]["5"].pop(), r"2/1/5: joints is not 17 x 3 numbers"),
]


NO_IMAGES = (lambda d, c, j: d.pop("images"), r"'images' is missing")


@pytest.mark.parametrize(("where", "named"), [*FAULTS, NO_IMAGES])
def test_broken_annotations_are_one_line(tmp_path, where, named):
    root = write_set(tmp_path / "set", change=spoil(where))
    with pytest.raises(PartnasError, match=named) as caught:
        read_human36m(root, [1])
    assert "\n" not in str(caught.value)
    assert re.search(named, check(root, progress=False).problems[0])


@pytest.mark.parametrize(("where", "named"), FAULTS)
def test_broken_annotations_are_left_out_and_listed(tmp_path, where, named, caplog):
    def change(subject, data, camera, joints):
        camera["2"] = dict(CAMERA)
        data["images"][2]["cam_idx"] = 2
        where(data, camera, joints)

    frames = read_human36m(write_set(tmp_path / "set", change=change), [1], skip_broken=True)
    assert 0 < len(frames) < 3
    assert re.search(named, frames.skipped[0])
    assert f"left out as broken: {len(frames.skipped)}" in caplog.text


@pytest.mark.parametrize("name", ["T", "t"])
def test_the_centre_in_the_place_of_the_translation(tmp_path, name):
    turn = [[0, 0, 1], [1, 0, 0], [0, 1, 0]]

    def old(subject, data, camera, joints):
        camera["1"] = {"R": turn, name: [100, 200, -3000], "f": [400, 400], "c": [80, 60]}
        joints["2"]["1"]["0"] = (np.array(joints["2"]["1"]["0"]) + [100, 3200, -3000]).tolist()

    root = write_set(tmp_path / "set", frames=(0,), change=old)
    world = json.loads((root / "annotations/Human36M_subject1_joint_3d.json").read_text())["2"]["1"]["0"]
    expected = (np.array(world) - [100, 200, -3000]) @ np.array(turn).T
    np.testing.assert_allclose(read_human36m(root, [1]).joints_camera[0, :17], expected, rtol=1e-6)


def test_an_id_of_two_subjects(tmp_path, error_line):
    def same(subject, data, camera, joints):
        for number, person in enumerate(data["annotations"]):
            person["id"] = number + 10 * (subject == 5 and number > 0)

    root = write_set(tmp_path / "set", subjects=(1, 5), change=same)
    error_line("annotation 0: id 0 stands twice; ids are unique across subjects", lambda: read_human36m(root, [1, 5]))
    frames = read_human36m(root, [1, 5], skip_broken=True)
    assert frames.ids.tolist() == [0, 1, 2, 11, 12]
    assert len(frames.skipped) == 1


def test_unreadable_images_are_left_out(small_set):
    frames = read_human36m(small_set, [1, 5])
    Path(frames.image_path(0)).unlink()
    left = read_human36m(small_set, [1, 5], skip_broken=True)
    assert left.ids.tolist() == frames.ids.tolist()[1:]
    named = f"{frames.image_path(0)} (image {frames.image_ids[0]})"
    assert left.skipped == [f"{named}: cannot be read (No such file or directory); check the path"]


def test_missing_and_truncated_files(small_set):
    path = small_set / "annotations/Human36M_subject1_camera.json"
    path.write_text(path.read_text()[:20])
    with pytest.raises(PartnasError, match=r"subject1_camera\.json: broken JSON"):
        read_human36m(small_set, [1])
    with pytest.raises(PartnasError, match=r"subject9_data\.json: cannot be read"):
        read_human36m(small_set, [9])


def test_check_names_every_broken_image(small_set):
    paths = read_human36m(small_set, [1, 5]).image_paths
    assert check(small_set, progress=False).problems == []
    with open(paths[0], "r+b") as file:
        file.truncate(500)
    with open(paths[4], "wb"):
        pass
    problems = check(small_set, progress=False).problems
    assert len(problems) == 2
    assert paths[0] in problems[0]
    assert "truncated" in problems[0]
    assert paths[4] in problems[1]


def test_check_of_a_folder_without_annotations(tmp_path):
    assert len(check(tmp_path, progress=False).problems) == 1


def test_the_embedded_sample_reads_as_people():
    root = embedded_root()
    assert subjects_in(root) == [1, 5, 6, 7, 8, 9, 11]
    train, test = (read_human36m(root, SPLITS[2][name]) for name in ("train", "test"))
    assert set(train.action).isdisjoint(test.action)
    for source in (train, test):
        lengths = np.array(
            [
                np.linalg.norm(source.joints_camera[:, a] - source.joints_camera[:, b], axis=-1)
                for a, b in HUMAN36M.bones
            ]
        )
        assert lengths.min() > 40
        assert lengths.max() < 700
        inside = (source.joints_image >= 0) & (source.joints_image < source.image_sizes[:, None])
        assert inside.all(-1).mean() > 0.98
