import numpy as np
import pytest
from small_set import write_set
from small_sets import write_coco, write_mupots, write_roots

from partnas.data import PoseDataset, read_coco, read_human36m, read_mupots
from partnas.skeleton import COCO


def test_people_of_mupots_from_a_file(tmp_path):
    path = write_roots(tmp_path / "bbox_root" / "bbox_root_mupots_output.json", [0, 0, 3])
    frames = read_mupots(write_mupots(tmp_path), roots=path)
    assert frames.ids.tolist() == [0, 1, 2]
    assert frames.image_ids.tolist() == [0, 0, 3]
    assert frames.action.tolist() == ["TS1", "TS1", "TS2"]
    assert frames.root_depth.tolist() == [3000, 3001, 3002]
    assert frames.focal.tolist() == [[300, 310]] * 3
    assert not frames.has_depth.any()
    assert not frames.visible.any()


def test_the_boxes_of_a_file_are_crops_already(tmp_path):
    path = write_roots(tmp_path / "roots.json", [25])
    frames = read_coco(write_coco(tmp_path, "val2017"), "val2017", roots=path)
    assert frames.skeleton is COCO
    dataset = PoseDataset(frames, 32, 8, 16)
    assert dataset.boxes.tolist() == [[30, 10, 80, 80]]
    voxels = np.full((1, 19, 3), [4.0, 4.0, 8.0])
    expected = [(70 - 80) / 1500 * 3000, (50 - 60) / 1500 * 3000, 3000]
    np.testing.assert_allclose(dataset.to_camera(voxels)[0], np.tile(expected, (19, 1)))
    assert dataset[0]["coordinates"].isfinite().all()


def test_human36m_takes_box_and_depth_from_the_best_entry(tmp_path):
    def change(entries):
        entries.append({"image_id": 2, "bbox": [1, 2, 30, 40], "root_cam": [0, 0, 5000], "score": 0.95})
        entries.append({"image_id": 2, "bbox": [1, 2, 30, 40], "root_cam": [0, 0, 7000], "score": 0.5})

    root = write_set(tmp_path / "set")
    frames = read_human36m(root, [1], roots=write_roots(tmp_path / "roots.json", [3, 2, 1], change))
    assert frames.root_depth.tolist() == [3002, 5000, 3000]
    assert frames.bboxes.tolist() == [[30, 10, 80, 80], [1, 2, 30, 40], [30, 10, 80, 80]]
    assert frames.boxes_are_extended.all()
    assert frames.has_depth.all()
    assert (PoseDataset(frames, 32, 8, 16).boxes == frames.bboxes).all()


def test_an_image_without_an_entry(tmp_path, error_line):
    root, path = write_set(tmp_path / "set"), write_roots(tmp_path / "roots.json", [1, 3])
    error_line(rf"{path}: image_id 2: has no entry", lambda: read_human36m(root, [1], roots=path))
    frames = read_human36m(root, [1], roots=path, skip_broken=True)
    assert frames.ids.tolist() == [1, 3]
    assert len(frames.skipped) == 1


def test_a_file_without_roots_or_scores(tmp_path):
    def change(entries):
        for entry in entries:
            del entry["root_cam"], entry["score"]

    path = write_roots(tmp_path / "roots.json", [0, 1], change)
    assert np.isnan(read_mupots(write_mupots(tmp_path), roots=path).root_depth).all()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda e: e[0].pop("bbox"), "entry for image 0: field 'bbox' is missing"),
        (lambda e: e[0].update(bbox=[1, 2, 0, 4]), "entry for image 0: bbox .* has no area"),
        (lambda e: e[0].update(root_cam=[0, 0, -5]), "entry for image 0: root_cam .* behind the camera"),
        (
            lambda e: e[0].update(root_cam=[0, 0, float("nan")]),
            "entry for image 0: root_cam holds a value that is not finite",
        ),
        (lambda e: e[0].update(root_cam=None), "entry for image 0: root_cam None is not 3 numbers"),
        (lambda e: e[0].update(score="high"), "entry for image 0: score 'high' is not a number"),
        (lambda e: e[0].update(image_id=77), "image_id 77 names no usable image"),
        (lambda e: e[0].update(image_id="a.jpg"), "image_id 'a.jpg' is not a whole number"),
        (lambda e: e.insert(0, 3), "at place 0 is a int, not an object"),
    ],
)
def test_broken_entries(tmp_path, change, line, error_line):
    root = write_mupots(tmp_path)
    path = write_roots(tmp_path / "roots.json", [0, 1], change)
    error_line(rf"{path}: .*{line}", lambda: read_mupots(root, roots=path))
    frames = read_mupots(root, roots=path, skip_broken=True)
    assert 1 in frames.image_ids
    assert len(frames.skipped) == 1


def test_a_file_that_is_no_list(tmp_path, error_line):
    root, path = write_mupots(tmp_path), tmp_path / "roots.json"
    error_line(r"roots\.json: cannot be read", lambda: read_mupots(root, roots=path))
    path.write_text("{}")
    error_line(r"roots\.json: is a dict, not a list", lambda: read_mupots(root, roots=path))
    path.write_text("[]")
    error_line(r"roots\.json: no usable annotation", lambda: read_mupots(root, roots=path))
