import sys

import numpy as np
import pytest
import scipy.io

from partnas.errors import PartnasError
from partnas.metrics.mupots import People
from partnas.metrics.mupots_files import FILE_2D, FILE_3D, frame_key, read_results, write_results

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
