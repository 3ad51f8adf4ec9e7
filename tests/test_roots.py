"""A root network from training to absolute poses of several people."""

import json
import shutil

import cv2
import numpy as np
import pytest
from jobs import TINY
from muco_run import untrained
from small_set import write_set
from small_sets import write_mupots
from small_sets import write_roots as write_roots_of_elsewhere

from partnas import roots
from partnas.config import data_config, load_config
from partnas.data import embedded_root, read_boxes, read_human36m, read_mupots
from partnas.errors import PartnasError
from partnas.evaluate import evaluate, table
from partnas.mupots import evaluate_mupots
from partnas.networks import build, load_root_network
from partnas.predict import predict
from partnas.roots import write_roots
from partnas.train import network_spec

SETTINGS = [*TINY, "--kind", "rootnet", "--set", "root_net.width=4", "--set", "root_net.channels=4"]


@pytest.fixture(scope="module")
def root_run(cli, tmp_path_factory):
    out = tmp_path_factory.mktemp("roots") / "run"
    cli("train", "--out", out, *SETTINGS)
    return out


@pytest.fixture(scope="module")
def written(cli, root_run, tmp_path_factory):
    path = tmp_path_factory.mktemp("roots") / "bbox_root_output.json"
    cli("roots", root_run, "--out", path, "--stride", "20", "--quiet")
    return path


@pytest.fixture(scope="module")
def source():
    return read_human36m(embedded_root(), (9, 11), stride=20)


@pytest.fixture(scope="module")
def pictures(source, tmp_path_factory):
    """A test picture, and one of two people side by side."""
    folder = tmp_path_factory.mktemp("pictures")
    first, second = (cv2.imread(source.image_path(index)) for index in (0, len(source) - 1))
    cv2.imwrite(str(folder / "pair.png"), np.concatenate([first, second], 1))
    cv2.imwrite(str(folder / source.image_names[0].decode().rpartition("/")[2]), first)
    return folder


def test_a_training_leaves_a_run_with_its_error(root_run):
    rows = [json.loads(line) for line in (root_run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all(np.isfinite(row["mrpe_mm"]) and np.isfinite(row["loss"]) for row in rows)
    network = load_root_network(root_run)
    assert network.spec() == {
        "kind": "rootnet", "input_size": 32, "width": 4, "blocks": [1, 1, 1, 1], "channels": 4,
    }  # fmt: skip
    assert "MRPE" in (root_run / "report.html").read_text()


def test_evaluation_holds_the_error_and_two_baselines(cli, root_run, source):
    printed = json.loads(cli("evaluate", root_run, "--stride", "20", "--json").stdout)
    assert printed == json.loads((root_run / "evaluation.json").read_text())
    assert printed["frames"] == len(source)
    assert set(printed["baselines_mrpe_mm"]) == {"mean_root", "box_area"}
    for errors in (printed["mrpe_mm"], *printed["baselines_mrpe_mm"].values()):
        assert set(errors) == {"total", "x", "y", "z"}
        assert max(errors["x"], errors["y"], errors["z"]) <= errors["total"] <= sum(errors.values())
    assert printed["parameters"] == sum(p.numel() for p in load_root_network(root_run).parameters())
    assert "MRPE" in (root_run / "report.html").read_text()
    table = cli("evaluate", root_run, "--stride", "20", "--out", root_run / "again").stdout
    assert "of the mean training root" in table


def test_without_training_subjects_the_mean_root_is_left_out(root_run, tmp_path, caplog):
    data = data_config({"root": str(write_set(tmp_path / "set", subjects=(9, 11)))})
    result = evaluate(root_run, data, tmp_path / "out", progress=False)
    assert set(result["baselines_mrpe_mm"]) == {"box_area"}
    assert "no training subjects 1, 5, 6, 7, 8" in caplog.text
    assert "of the mean training root" not in table(result)


def test_the_file_holds_the_extended_box_and_root_of_everybody(written, source, root_run):
    entries = json.loads(written.read_text())
    assert [entry["image_id"] for entry in entries] == source.image_ids.tolist()
    for entry, name in zip(entries, source.image_names, strict=True):
        assert list(entry) == ["image_id", "file_name", "bbox", "bbox_from", "root_cam", "score"]
        assert entry["bbox_from"] == "annotation"
        assert entry["file_name"] == name.decode()
        assert entry["bbox"][2] == entry["bbox"][3]
        assert len(entry["root_cam"]) == 3


def test_a_root_network_gives_absolute_poses_of_several_people(cli, trained, root_run, pictures, tmp_path):
    boxes, camera = tmp_path / "boxes.json", tmp_path / "camera.json"
    boxes.write_text(json.dumps({"pair.png": [[20, 10, 90, 110], [148, 10, 90, 60]]}))
    camera.write_text(json.dumps({"f": [200, 210], "c": [128, 64]}))
    options = ["--boxes", boxes, "--camera", camera]
    cli("predict", trained, pictures, "--out", tmp_path / "out", *options, "--root-net", root_run)
    cli("predict", trained, pictures, "--out", tmp_path / "plain", *options)
    found, plain = (people_of(tmp_path / name, "pair.png") for name in ("out", "plain"))
    assert [person["root_depth_from"] for person in found] == ["root net"] * 2
    assert [person["root_depth_from"] for person in plain] == ["box area"] * 2
    assert plain[0]["root_depth_mm"] == pytest.approx(2000 * np.sqrt(200 * 210) / (1.25 * 110), rel=1e-4)
    for person, unlearned in zip(found, plain, strict=True):
        assert person["root_depth_mm"] != unlearned["root_depth_mm"]
        depths = [np.array(list(p["joints_camera"].values()))[:, 2] - p["root_depth_mm"] for p in (person, unlearned)]
        np.testing.assert_allclose(depths[0], depths[1], atol=0.03)
        np.testing.assert_allclose(
            list(person["joints_image"].values()), list(unlearned["joints_image"].values()), atol=0.05
        )
    page = (tmp_path / "out" / "pair_3d.html").read_text()
    assert "person 1" in page
    assert "person 2" in page


def people_of(out, name):
    images = json.loads((out / "predictions.json").read_text())["images"]
    return next(image["people"] for image in images if image["image"] == name)


def test_the_file_goes_round_to_predict(cli, trained, written, pictures, source, tmp_path):
    """The boxes of the file are crops already: a pose has its place in the file's own box, at the file's depth."""
    entries = json.loads(written.read_text())[:1]
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps(entries))
    cli("predict", trained, pictures, "--out", tmp_path / "out", "--boxes", boxes)
    name = entries[0]["file_name"].rpartition("/")[2]
    (person,) = people_of(tmp_path / "out", name)
    assert person["root_depth_from"] == "boxes file"
    assert person["root_depth_mm"] == entries[0]["root_cam"][2]
    assert read_boxes(boxes)[name][0]["bbox"] == entries[0]["bbox"]
    plain = tmp_path / "plain.json"
    plain.write_text(json.dumps({name: [source.bboxes[0].tolist()]}))
    cli("predict", trained, pictures, "--out", tmp_path / "plain", "--boxes", plain)
    (again,) = people_of(tmp_path / "plain", name)
    np.testing.assert_allclose(list(person["joints_image"].values()), list(again["joints_image"].values()), atol=0.05)


def test_the_file_goes_round_to_evaluate(trained, written, source, tmp_path):
    """Depths from the file move the poses of a pose network as a whole, and their sizes with it."""
    data = {"test_stride": 20, "train_stride": 20}
    found = evaluate(trained, data_config({**data, "roots": str(written)}), tmp_path / "file", progress=False)
    plain = evaluate(trained, data_config(data), tmp_path / "plain", progress=False)
    assert (found["roots"], found["frames"]) == (written.name, len(source))
    assert found["mpjpe_mm"] != plain["mpjpe_mm"]


def test_the_file_of_several_people_an_image_goes_round_to_mupots(cli, root_run, tmp_path):
    folder, path = write_mupots(tmp_path / "MuPoTS"), tmp_path / "roots.json"
    cli("roots", root_run, "--data", f"mupots={folder}", "--out", path, "--quiet")
    annotated, found = read_mupots(folder), read_mupots(folder, path)
    assert found.image_ids.tolist() == annotated.image_ids.tolist()
    assert len(set(found.image_ids)) < len(found)
    entries = json.loads(path.read_text())
    np.testing.assert_array_equal(found.root_depth, [entry["root_cam"][2] for entry in entries])
    assert found.boxes_are_extended.all()


def test_annotated_boxes_in_a_file_are_told_in_the_table(cli, root_run, tmp_path):
    folder, path = write_mupots(tmp_path / "MuPoTS"), tmp_path / "roots.json"
    cli("roots", root_run, "--data", f"mupots={folder}", "--out", path, "--quiet")
    run = untrained(tmp_path / "run", "muco")
    result = evaluate_mupots(run, folder, tmp_path / "own", path, progress=False)
    assert (result["roots"], result["boxes"]) == ("roots.json", "annotation")
    assert "2 of 20 sequences, annotated boxes" in (tmp_path / "own" / "table7.csv").read_text()
    detected = write_roots_of_elsewhere(tmp_path / "detected.json", [0, 1, 2])
    result = evaluate_mupots(run, folder, tmp_path / "elsewhere", detected, progress=False)
    assert result["boxes"] == "detected.json"
    assert "annotated boxes" not in (tmp_path / "elsewhere" / "table7.csv").read_text()


def test_a_root_behind_the_camera_is_refused_and_nothing_is_written(monkeypatch, root_run, source, tmp_path):
    depths = np.full((len(source), 3), 2000.0)
    depths[3, 2] = -1.5
    monkeypatch.setattr(roots, "predict_set", lambda *_, **__: depths)
    with pytest.raises(
        PartnasError, match=rf"image_id {source.image_ids[3]}: the root network's depth is -1.5 mm"
    ) as error:
        write_roots(root_run, source, tmp_path / "roots.json", progress=False)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_roots_of_subjects_that_were_trained_on_are_refused(cli, root_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(root_run, run)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("protocol: 2", "protocol: 1"))
    process = cli("roots", run, "--protocol", "2", "--stride", "20", "--out", tmp_path / "out.json", code=1)
    assert "was trained on subject 9" in process.stderr
    assert not (tmp_path / "out.json").exists()


def test_a_file_that_cannot_be_written_is_one_line_first(source, tmp_path):
    (tmp_path / "file").touch()
    for out, named in ((tmp_path, "is a folder"), (tmp_path / "file" / "roots.json", "file is no folder")):
        with pytest.raises(PartnasError, match=named):
            write_roots(tmp_path / "no run", source, out, progress=False)


@pytest.mark.parametrize(("option", "value"), [("--protocol", 1), ("--stride", 2), ("--split", "train")])
def test_options_of_human36m_are_refused_for_mupots(cli, tmp_path, option, value):
    process = cli("roots", "no run", "--data", f"mupots={tmp_path}", option, value, "--out", tmp_path / "out", code=1)
    assert process.stderr.startswith(f"partnas: {option}: is of Human3.6M")
    assert process.stderr.count("\n") == 1


def test_networks_in_each_others_place_are_refused(trained, root_run, pictures, source, tmp_path):
    out = tmp_path / "out"
    for call, named in (
        (lambda: predict(root_run, pictures, out), "holds a rootnet, which tells roots and not poses"),
        (lambda: predict(trained, pictures, out, root_net=trained), "holds a partnet, not a rootnet"),
        (lambda: write_roots(trained, source, out), "holds a partnet, not a rootnet"),
    ):
        with pytest.raises(PartnasError, match=named) as error:
            call()
        assert "\n" not in str(error.value)
        assert not out.exists()


def test_a_split_that_is_not_there(cli, root_run, tmp_path):
    process = cli("roots", root_run, "--split", "all", "--out", tmp_path / "out", code=1)
    assert process.stderr == "partnas: --split all: not known; use test or train\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"network": {"input_size": 48}}, "input_size"),
        ({"root_net": {"blocks": [1, 1]}}, "blocks"),
        ({"root_net": {"width": 0}}, "root_net.width"),
        ({"root_net": {"depth": 3}}, "root_net.depth"),
    ],
)
def test_bad_settings_are_one_line(settings, named):
    with pytest.raises(PartnasError, match=named) as error:
        build(network_spec(load_config("train", "mini", None, {"kind": "rootnet", **settings}), None))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("preset", ["mini", "search", "small", "large"])
def test_every_preset_has_its_root_network(preset):
    config = load_config("train", preset, None, {"kind": "rootnet"})
    assert load_config("train", preset).root_net == load_config("train").root_net
    network = build(network_spec(config, None))
    assert network.input_size == (64 if preset == "mini" else 256)


def test_flops_of_the_published_network(cli):
    counted = json.loads(cli("flops", "rootnet", "--json").stdout)
    assert counted["parameters"] == 33_997_634
    assert counted["flops"]["paper"] > counted["flops"]["exact"] > 7e9
