import sys

import numpy as np
import pytest
import scipy.io

from partnas.errors import PartnasError
from partnas.metrics.mupots import People
from partnas.metrics.mupots_files import (
    FILE_2D,
    FILE_3D,
    frame_key,
    has_annotations,
    read_annotations,
    read_results,
    write_results,
)

RANDOM = np.random.default_rng(0)


def some_people():
    frames = np.array(["TS2_img_000007", "TS1_img_000000", "TS2_img_000007"])
    return People(frames, RANDOM.normal(size=(3, 17, 2)), RANDOM.normal(size=(3, 17, 3)).astype(np.float32))


@pytest.fixture
def folder(tmp_path):
    write_results(tmp_path, some_people(), [])
    return tmp_path


def replace(path, **arrays):
    content = {name: value for name, value in scipy.io.loadmat(path).items() if not name.startswith("__")}
    scipy.io.savemat(path, content | arrays)


def test_keys_are_the_evaluators():
    assert frame_key("TS1/img_000000.jpg") == "TS1_img_000000"
    assert frame_key("data/MultiPersonTestSet/TS20/img_000123.jpg") == "TS20_img_000123"


def test_files_hold_one_array_an_image(tmp_path):
    people = some_people()
    paths = write_results(tmp_path / "new", people, ["TS1_img_000000", "TS3_img_000001"])
    assert [path.name for path in paths] == ["preds_2d_kpt_mupots.mat", "preds_3d_kpt_mupots.mat"]
    for path, poses in zip(paths, (people.image, people.camera), strict=True):
        content = scipy.io.loadmat(path)
        assert {name for name in content if not name.startswith("__")} == {
            "TS1_img_000000", "TS2_img_000007", "TS3_img_000001",
        }  # fmt: skip
        np.testing.assert_array_equal(content["TS1_img_000000"], poses[[1]])
        np.testing.assert_array_equal(content["TS2_img_000007"], poses[[0, 2]])
        assert content["TS3_img_000001"].shape == (0, 17, poses.shape[-1])


def test_what_was_written_is_read(tmp_path):
    people = some_people()
    write_results(tmp_path, people, ["TS3_img_000001"])
    read = read_results(tmp_path)
    assert len(read) == len(people)
    for frame, places in people.by_frame().items():
        again = read.by_frame()[frame]
        np.testing.assert_array_equal(read.image[again], people.image[places])
        np.testing.assert_array_equal(read.camera[again], people.camera[places])


def test_nobody_at_all(tmp_path):
    write_results(tmp_path, People(np.array([], dtype=str), np.empty((0, 17, 2)), np.empty((0, 17, 3))), ["TS1_a"])
    assert len(read_results(tmp_path)) == 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / FILE_3D).unlink(), f"{FILE_3D}: no such file"),
        (lambda folder: (folder / FILE_2D).write_bytes(b"no matrix"), f"{FILE_2D}: cannot be read"),
        (
            lambda folder: (folder / FILE_2D).write_bytes((folder / FILE_2D).read_bytes()[:300]),
            f"{FILE_2D}: cannot be read",
        ),
        (
            lambda folder: replace(folder / FILE_3D, TS1_img_000000=np.zeros((1, 21, 3))),
            r"TS1_img_000000 has shape \(1, 21, 3\), not \(n, 17, 3\)",
        ),
        (lambda folder: replace(folder / FILE_2D, TS1_img_000000="text"), "TS1_img_000000 holds <U4, not numbers"),
        (
            lambda folder: replace(folder / FILE_3D, TS1_img_000000=np.zeros((2, 17, 3))),
            "TS1_img_000000 holds 2 people where preds_2d_kpt_mupots.mat holds 1",
        ),
        (lambda folder: replace(folder / FILE_3D, TS9_x=np.zeros((0, 17, 3))), f"{FILE_2D}: TS9_x is missing"),
    ],
)
def test_broken_files_are_one_line(folder, damage, message):
    damage(folder)
    with pytest.raises(PartnasError, match=message) as caught:
        read_results(folder)
    assert "\n" not in str(caught.value)


def test_without_scipy(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(PartnasError, match=r"pip install 'partnas\[mupots\]'"):
        write_results(tmp_path / "new", some_people(), [])
    assert not (tmp_path / "new").exists()


def write_annotations(folder, valid, **changed):
    """``annot.mat`` of one sequence in the data set's own form; ``valid`` is (frames, people)."""
    folder.mkdir(parents=True)
    cells = np.empty(valid.shape, dtype=object)
    poses = RANDOM.normal(size=(*valid.shape, 17, 5))
    for place in np.ndindex(valid.shape):
        image, camera = poses[place][:, :2].T, poses[place][:, 2:].T
        cells[place] = {
            "annot2": image, "annot3": 2 * camera, "univ_annot3": camera, "isValidFrame": float(valid[place]), **changed,
        }  # fmt: skip
    scipy.io.savemat(folder / "annot.mat", {"annotations": cells})
    return poses


def test_annotations_of_the_data_set(tmp_path):
    valid = np.array([[True, True], [False, False], [False, True]])
    second = write_annotations(tmp_path / "TS2", valid)
    write_annotations(tmp_path / "TS1", np.array([[True]]))
    people = read_annotations(tmp_path)
    assert has_annotations(tmp_path)
    assert people.frames.tolist() == ["TS1_img_000000", "TS2_img_000000", "TS2_img_000000", "TS2_img_000002"]
    np.testing.assert_array_equal(people.image[1:], second[valid][..., :2])
    np.testing.assert_array_equal(people.camera[1:], second[valid][..., 2:])
    assert not has_annotations(tmp_path / "TS1")
    assert len(read_annotations(tmp_path / "TS1")) == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"annot2": np.zeros((2, 28))}, r"annotations\{1,1\}: annot2 has shape \(2, 28\), not \(2, 17\)"),
        ({"isValidFrame": []}, r"annotations\{1,1\}: isValidFrame has shape"),
    ],
)
def test_broken_annotations_are_one_line(tmp_path, changed, message):
    write_annotations(tmp_path / "TS1", np.array([[True]]), **changed)
    with pytest.raises(PartnasError, match=message):
        read_annotations(tmp_path)


def test_foreign_annotation_files_are_one_line(tmp_path):
    (tmp_path / "TS1").mkdir()
    for content, message in (
        ({"annotations": np.zeros((2, 2))}, "annotations is no cell array"),
        ({"other": 1.0}, "annotations is no cell array"),
        ({"annotations": np.array([[{"annot2": 1.0}]], dtype=object)}, "field isValidFrame is missing"),
    ):
        scipy.io.savemat(tmp_path / "TS1" / "annot.mat", content)
        with pytest.raises(PartnasError, match=message):
            read_annotations(tmp_path)
