import json
import re

import pytest
from small_set import write_set
from small_sets import write_coco, write_mpii, write_muco, write_mupots, write_roots

from partnas.data import check
from partnas.data.check import parts_in

WRITERS = {
    "Human36M": write_set,
    "MPII": write_mpii,
    "MSCOCO": write_coco,
    "MuCo": write_muco,
    "MuPoTS": write_mupots,
}


def sound(content):
    """COCO's set without its two useless boxes, which `check` reports."""
    content["annotations"] = [p for p in content["annotations"] if p["id"] not in (105, 106)]


@pytest.fixture
def release(tmp_path):
    for name, write in WRITERS.items():
        write(tmp_path / name, **({"change": sound} if name == "MSCOCO" else {}))
    return tmp_path


def test_each_set_is_recognised_alone_and_in_the_folder_above(release):
    titles = ["Human3.6M subject 1", "MPII", "COCO train2017", "MuCo-3DHP", "MuPoTS-3D"]
    assert [part.title for name in WRITERS for part in parts_in(release / name)] == titles
    report = check(release, progress=False)
    assert report.problems == []
    absent = report.parts.pop(1)
    assert absent == "Human3.6M: no subjects 5, 6, 7, 8, 9, 11, which its protocols have"
    assert [line.split(":")[0] for line in report.parts] == titles
    assert "COCO train2017: people 3, images 3; left out by rule: crowd 1, no keypoints 1" in report.parts
    for name in WRITERS:
        assert check(release / name, progress=False).problems == []


def test_useless_boxes_are_reported(tmp_path):
    problems = check(write_coco(tmp_path), progress=False).problems
    assert len(problems) == 2
    assert all("has no area inside the 160x120 image" in problem for problem in problems)


IMAGES = {
    "Human36M": "images/s_01_act_02_subact_01_ca_01/s_01_act_02_subact_01_ca_01_000001.jpg",
    "MPII": "images/000000003.jpg",
    "MSCOCO": "images/train2017/000000000030.jpg",
    "MuCo": "data/unaugmented_set/2/00001.jpg",
    "MuPoTS": "data/MultiPersonTestSet/TS2/img_000001.jpg",
}
"""Of MPII and COCO one that no person stands in."""


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    "fault", ["missing", "empty", "truncated", "no image", "damaged in the middle", "of another size"]
)
def test_every_broken_image_is_named_once(release, name, fault):
    path = release / name / IMAGES[name]
    content = path.read_bytes()
    path.unlink()
    broken = {"empty": b"", "truncated": content[:500], "no image": b"\xff\xd8" + bytes(900) + b"\xff\xd9"}
    broken["damaged in the middle"] = content[:-600] + bytes(256) + content[-344:]
    if fault in broken:
        path.write_bytes(broken[fault])
    elif fault == "of another size":
        write_jpeg(path)
    problems = check(release, progress=False).problems
    assert len(problems) == 1
    assert re.match(rf"{re.escape(str(path))} \(image \d+\): ", problems[0])


def write_jpeg(path):
    import cv2
    import numpy as np

    cv2.imwrite(str(path), np.zeros((10, 20, 3), np.uint8))


def test_every_broken_annotation_is_named(tmp_path):
    def spoil(content):
        content["annotations"][0]["bbox"] = [1, 2]
        content["annotations"][1]["keypoints_cam"][3] = [0, 0, float("nan")]
        content["images"][1]["intrinsic"] = [0, 0, 1, 1]

    problems = check(write_mupots(tmp_path, spoil), progress=False).problems
    for line in ("annotation 1: bbox", "annotation 2: keypoints_cam", "image 1: intrinsic", "annotation 3: image_id 1"):
        assert sum(line in problem for problem in problems) == 1
    assert len(problems) == 5


def test_every_fault_is_named_where_none_of_a_part_is_usable(tmp_path):
    def spoil(content):
        content["annotations"] = [p for p in content["annotations"] if p["num_keypoints"]][:2]
        content["annotations"][0]["bbox"] = [1, 2]
        content["annotations"][1]["keypoints"] = "none"

    problems = check(write_mpii(tmp_path / "MPII", spoil), progress=False).problems
    assert ["bbox" in line or "keypoints" in line for line in problems] == [True, True]

    def without_focal(subject, data, camera, joints):
        camera["1"]["f"] = [0, 0]

    problems = check(write_set(tmp_path / "Human36M", change=without_focal), progress=False).problems
    assert len(problems) == 3
    assert all("f must be positive" in line for line in problems)


def test_a_set_without_its_annotations(release):
    (release / "MuCo/data/MuCo-3DHP.json").unlink()
    (release / "Human36M/annotations/Human36M_subject1_data.json").unlink()
    problems = check(release, progress=False).problems
    assert len(problems) == 2
    assert "Human36M_subject1_data.json: cannot be read" in problems[0] + problems[1]
    assert "MuCo/data/MuCo-3DHP.json: is missing" in problems[0] + problems[1]


def test_box_and_root_files_are_read_too(release):
    def spoil(entries):
        entries[1]["root_cam"] = [0, 0, 0]

    write_roots(release / "MuPoTS/bbox_root/bbox_root_mupots_output.json", [0, 1, 999], spoil)
    problems = check(release, progress=False).problems
    assert len(problems) == 2
    assert "bbox_root_mupots_output.json: entry for image 1: root_cam" in problems[0]
    assert "bbox_root_mupots_output.json: entry for image 999: no such image in the set" in problems[1]


def test_a_folder_that_holds_no_set(tmp_path):
    problems = check(tmp_path / "nowhere", progress=False).problems
    assert len(problems) == 1
    assert "holds no annotations" in problems[0]


def test_the_command_lists_every_problem_and_exits_1(release, cli):
    (release / "MPII" / IMAGES["MPII"]).unlink()
    (release / "MuPoTS" / IMAGES["MuPoTS"]).write_bytes(b"")
    lines = cli("data", "check", release, code=1).stdout.splitlines()
    assert len(lines) == 8
    assert lines[0] == "Human3.6M subject 1: people 3, images 3"
    assert [line.split(" (image ")[0] for line in lines[6:]] == [
        str(release / "MPII" / IMAGES["MPII"]),
        str(release / "MuPoTS" / IMAGES["MuPoTS"]),
    ]
    report = json.loads(cli("data", "check", release / "MPII", "--json", code=1).stdout)
    assert [len(report["parts"]), len(report["problems"])] == [1, 1]
