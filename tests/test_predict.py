import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from partnas.data import embedded_root, read_human36m
from partnas.errors import PartnasError
from partnas.predict import names_of, predict
from partnas.skeleton import HUMAN36M


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    source = read_human36m(embedded_root(), (9,))
    for name, index in (("first.jpg", 0), ("second.jpg", len(source) - 1)):
        cv2.imwrite(str(folder / name), cv2.imread(str(source.image_paths[index])))
    return folder


def predicted(out):
    return json.loads((out / "predictions.json").read_text())


def test_a_folder_gives_named_joints_overlays_and_3d_views(cli, trained, pictures, tmp_path):
    cli("predict", trained, pictures, "--out", tmp_path)
    result = predicted(tmp_path)
    assert result["units"]["joints_camera"] == "millimetres"
    assert [record["image"] for record in result["images"]] == ["first.jpg", "second.jpg"]
    for record in result["images"]:
        person = record["people"][0]
        assert list(person["joints_camera"]) == list(HUMAN36M.parts)
        assert np.isfinite(list(person["joints_camera"].values())).all()
    for name in ("first", "second"):
        assert cv2.imread(str(tmp_path / f"{name}_overlay.jpg")) is not None
        assert "Pelvis" in (tmp_path / f"{name}_3d.html").read_text()


def test_boxes_and_camera_are_used(cli, trained, pictures, tmp_path):
    boxes, camera = tmp_path / "boxes.json", tmp_path / "camera.json"
    boxes.write_text(json.dumps({"first.jpg": [[10, 10, 60, 90], [40, 20, 60, 90]], "second.jpg": []}))
    camera.write_text(json.dumps({"f": [300, 300], "c": [80, 80]}))
    cli("predict", trained, pictures, "--out", tmp_path / "out", "--boxes", boxes, "--camera", camera)
    people = [len(record["people"]) for record in predicted(tmp_path / "out")["images"]]
    assert people == [2, 0]
    first = predicted(tmp_path / "out")["images"][0]["people"][0]
    x, y, z = first["joints_camera"]["Head"]
    assert first["joints_image"]["Head"] == pytest.approx([300 * x / z + 80, 300 * y / z + 80], abs=0.05)


def test_images_that_differ_in_their_suffix_have_pictures_of_their_own(cli, trained, pictures, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for source, name in (("first.jpg", "a.jpg"), ("second.jpg", "a.png"), ("first.jpg", "b.jpg")):
        cv2.imwrite(str(folder / name), cv2.imread(str(pictures / source)))
    cli("predict", trained, folder, "--out", out)
    names = {f"{name}_{kind}" for name in ("a.jpg", "a.png", "b") for kind in ("overlay.jpg", "3d.html")}
    assert {path.name for path in out.glob("*_*")} == names


def test_a_suffix_is_kept_where_it_tells_images_apart():
    def names(*files):
        return names_of([Path(file) for file in files])

    assert names("a.jpg", "b.png") == ["a", "b"]
    assert names("a.jpg", "a.png", "b.png") == ["a.jpg", "a.png", "b"]
    assert names("a.jpg", "a.jpg.bmp", "a.png") == ["a.jpg", "a.jpg.bmp", "a.png"]


@pytest.mark.parametrize(
    ("out", "named"),
    [
        ("in", "in: is the folder of the images"),
        ("in/first.jpg", "first.jpg is no folder; choose another --out"),
        ("in/first.jpg/below", "first.jpg is no folder; choose another --out"),
    ],
)
def test_a_place_that_cannot_be_written_is_one_line_before_anything_is_read(pictures, tmp_path, out, named):
    shutil.copytree(pictures, tmp_path / "in")
    with pytest.raises(PartnasError, match=named) as error:
        predict(tmp_path / "no run", tmp_path / "in", tmp_path / out)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("boxes", "camera", "named"),
    [
        ({"first.jpg": [[500, 500, 10, 10]]}, None, "first.jpg"),
        ({"other.jpg": [[0, 0, 10, 10]]}, None, "other.jpg"),
        ({"first.jpg": [[0, 0, 10]]}, None, "first.jpg"),
        (None, {"c": [80, 80]}, "'f'"),
    ],
)
def test_bad_boxes_and_cameras(cli, trained, pictures, tmp_path, boxes, camera, named):
    arguments = []
    for flag, value in (("--boxes", boxes), ("--camera", camera)):
        if value is not None:
            path = tmp_path / f"{flag.strip('-')}.json"
            path.write_text(json.dumps(value))
            arguments += [flag, path]
    process = cli("predict", trained, pictures, "--out", tmp_path / "out", *arguments, code=1)
    assert named in process.stderr
    assert process.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_missing_and_broken_images(cli, trained, tmp_path, content):
    image = tmp_path / "picture.jpg"
    if content is not None:
        image.write_bytes(content)
    process = cli("predict", trained, image, "--out", tmp_path / "out", code=1)
    assert "picture.jpg" in process.stderr
    assert process.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
