import json

import numpy as np
import pytest
import scipy.io
from muco_run import untrained
from small_sets import write_mupots, write_roots

from partnas import mupots
from partnas.data import camera_to_voxels
from partnas.errors import PartnasError
from partnas.metrics.mupots import People
from partnas.metrics.mupots_files import FILE_2D, FILE_3D, read_results, write_results
from partnas.skeleton import MUCO, SKELETONS

PEOPLE = {"TS1": 4, "TS2": 3}
"""Valid people of the small set, two frames each."""


def write_annotations(root, scale):
    """``annot.mat`` of each sequence; its universal poses are those of the JSON file, ``scale`` times as large."""
    content = json.loads((root / "data" / "MuPoTS-3D.json").read_text())
    for sequence in PEOPLE:
        images = [image for image in content["images"] if image["file_name"].startswith(f"{sequence}/")]
        cells = np.empty((len(images), 2), dtype=object)
        for frame, image in enumerate(images):
            for person, entry in enumerate(e for e in content["annotations"] if e["image_id"] == image["id"]):
                camera = np.array(entry["keypoints_cam"]).T
                cells[frame, person] = {
                    "annot2": np.array(entry["keypoints_img"]).T, "annot3": camera, "univ_annot3": scale * camera,
                    "isValidFrame": entry["is_valid"],
                }  # fmt: skip
        scipy.io.savemat(root / "data" / "MultiPersonTestSet" / sequence / "annot.mat", {"annotations": cells})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_mupots(tmp_path_factory.mktemp("data") / "MuPoTS")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("runs") / "muco", "muco")


@pytest.fixture
def perfect(monkeypatch):
    """The network answers with the annotated poses, in voxels of the crops that it was given."""

    def predict_set(network, dataset, *_):
        source = dataset.source
        camera, sizes = source.joints_camera.astype(float), (dataset.heatmap_size, dataset.depth)
        voxels = camera_to_voxels(camera, dataset.boxes, source.focal, source.principal, source.root_depth, *sizes)
        return dataset.to_camera(voxels)

    monkeypatch.setattr(mupots, "predict_set", predict_set)


@pytest.mark.parametrize("skeleton", ["muco", "mupots"])
def test_right_poses_are_all_right(perfect, data, tmp_path, skeleton):
    run = untrained(tmp_path / "run", skeleton, ["muco", "coco"])
    result = mupots.evaluate_mupots(run, data, tmp_path / "out", progress=False)
    assert result["trained_on"] == {"sets": ["muco", "coco"], "protocol": 2}
    assert result["people"] == result["matched_people"] == sum(PEOPLE.values())
    assert result["frames"] == 4
    for kind in ("relative", "absolute"):
        for mode in ("all", "matched"):
            assert result[kind][mode]["pck_per_sequence"] == {"TS1": 100, "TS2": 100}
    row = next(line for line in (tmp_path / "out" / "table7.md").read_text().splitlines() if line.startswith("| → "))
    assert "| MuPoTS-3D, 2 of 20 sequences, annotated root depths | 100.0 | 100.0 | – |" in row


def test_the_evaluators_own_annotations_win(perfect, data, run, tmp_path):
    root = write_mupots(tmp_path / "MuPoTS")
    write_annotations(root, scale=1.1)
    result = mupots.evaluate_mupots(run, root, tmp_path / "out", progress=False)
    assert result["truth"] == "annot.mat"
    assert result["people"] == result["matched_people"] == sum(PEOPLE.values())
    assert result["relative"]["all"]["pck"] == 100  # bones are brought to the annotated lengths
    assert result["absolute"]["all"]["pck"] == 0  # the pelvis is 300 mm off


def test_people_of_an_image_that_the_json_file_lacks_are_missed(perfect, run, tmp_path):
    root = write_mupots(tmp_path / "MuPoTS")
    write_annotations(root, scale=1)
    path = root / "data" / "MuPoTS-3D.json"
    content = json.loads(path.read_text())
    gone = content["images"].pop()
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] != gone["id"]]
    path.write_text(json.dumps(content))
    result = mupots.evaluate_mupots(run, root, tmp_path / "out", progress=False)
    assert result["people"] == sum(PEOPLE.values()) > result["matched_people"]
    assert result["relative"]["all"]["pck_per_sequence"]["TS2"] < 100
    assert scipy.io.loadmat(tmp_path / "out" / FILE_3D)["TS2_img_000001"].size == 0


def test_a_broken_annotation_file_is_found_by_the_check(cli, tmp_path):
    root = write_mupots(tmp_path / "MuPoTS")
    write_annotations(root, scale=1)
    for named in (root, tmp_path):
        assert "no problems found" in cli("data", "check", named).stdout
    broken = root / "data" / "MultiPersonTestSet" / "TS2" / "annot.mat"
    broken.write_bytes(b"junk")
    for named in (root, tmp_path):
        lines = cli("data", "check", named, code=1).stdout.splitlines()
        assert [line for line in lines if str(broken) in line] == lines[-1:]


def test_a_sequence_without_its_annotations_is_told(perfect, run, tmp_path):
    root = write_mupots(tmp_path / "MuPoTS")
    write_annotations(root, scale=1)
    missing = root / "data" / "MultiPersonTestSet" / "TS2" / "annot.mat"
    missing.unlink()
    for call in (
        lambda: mupots.evaluate_mupots(run, root, tmp_path / "out", progress=False),
        lambda: mupots.score(tmp_path, root),
    ):
        with pytest.raises(PartnasError, match=r"TS2/annot\.mat: no such file, where other sequences") as error:
            call()
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_frame_of_nobody_but_a_person_left_out_has_its_entry(perfect, run, tmp_path):
    """The evaluator in MATLAB asks for every image of ``annot.mat``, and counts its people as missed."""

    def spoil(content):
        content["annotations"][6]["bbox"] = [10.0, 10.0, 0.0, 20.0]

    root, out = write_mupots(tmp_path / "MuPoTS", spoil), tmp_path / "out"
    write_annotations(root, scale=1)
    result = mupots.evaluate_mupots(run, root, out, progress=False)
    for name in (FILE_2D, FILE_3D):
        assert scipy.io.loadmat(out / name)["TS2_img_000001"].size == 0
    assert (result["people"], result["matched_people"], result["frames"]) == (7, 6, 4)
    assert len(result["skipped"]) == 1
    assert (
        "2 of 20 sequences, annotated root depths, training not known, 1 left out" in (out / "table7.csv").read_text()
    )
    again = mupots.score(out, root)
    assert [again[field] for field in ("people", "relative")] == [result[field] for field in ("people", "relative")]


@pytest.mark.parametrize("option", ["--protocol", "--stride"])
def test_options_of_human36m_are_refused(cli, data, run, tmp_path, option):
    process = cli("evaluate", run, "--data", f"mupots={data}", option, "1", "--out", tmp_path / "out", code=1)
    assert process.stderr.startswith(f"partnas: {option}: is of Human3.6M")
    assert process.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_one_line_first(data, tmp_path):
    (tmp_path / "file").touch()
    for call in (
        lambda: mupots.evaluate_mupots(tmp_path / "no run", data, tmp_path / "file", progress=False),
        lambda: mupots.score(tmp_path / "no results", data, tmp_path / "file"),
    ):
        with pytest.raises(PartnasError, match="file is no folder; choose another --out"):
            call()


def test_the_command_line_measures_and_recomputes_from_the_files(cli, data, run, tmp_path):
    out, again = tmp_path / "out", tmp_path / "again"
    printed = json.loads(cli("evaluate", run, "--data", f"mupots={data}", "--out", out, "--json").stdout)
    stored = json.loads((out / "evaluation.json").read_text())
    assert stored == printed
    assert stored["truth"] == "MuPoTS-3D.json"
    assert stored["roots"] == "annotation"
    assert stored["parameters"] > 0
    people = read_results(out)
    assert len(people) == stored["predictions"] == sum(PEOPLE.values())
    assert set(people.frames) == {f"{sequence}_img_{frame:06d}" for sequence in PEOPLE for frame in (0, 1)}
    assert "3DPCK, absolute, of all people" in (out / "report.html").read_text()
    text = cli("mupots", out, "--data", data.parent, "--out", again).stdout
    assert "relative, matched" in text
    recomputed = json.loads((again / "evaluation.json").read_text())
    for field in ("people", "matched_people", "relative", "absolute"):
        assert recomputed[field] == stored[field], field
    assert stored["trained_on"] is recomputed["trained_on"] is None
    assert "training not known" in (again / "table7.csv").read_text()


def test_boxes_and_depths_from_a_file(cli, data, run, tmp_path):
    roots = write_roots(tmp_path / "roots.json", [0, 1, 2])
    out = tmp_path / "out"
    cli("evaluate", run, "--data", f"mupots={data}", "--roots", roots, "--out", out)
    result = json.loads((out / "evaluation.json").read_text())
    assert result["roots"] == "roots.json"
    assert result["predictions"] == 3
    assert result["people"] == sum(PEOPLE.values())
    assert result["frames_without_predictions"] == 1
    assert read_results(out).camera[:, 14, 2].tolist() == pytest.approx([3000, 3001, 3002], abs=1100)
    assert "annotated root depths" not in (out / "table7.csv").read_text()


def test_a_network_that_lacks_parts_is_refused(cli, data, tmp_path):
    human36m = untrained(tmp_path / "run", "human36m")
    process = cli("evaluate", human36m, "--data", f"mupots={data}", "--out", tmp_path / "out", code=1)
    assert "predicts the 18 parts of human36m, without Head_top, Spine, which" in process.stderr
    assert process.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_results_of_another_set_are_refused(cli, data, tmp_path):
    write_results(tmp_path, People(np.array(["TS9_img_000000"]), np.zeros((1, 17, 2)), np.zeros((1, 17, 3))), [])
    process = cli("mupots", tmp_path, "--data", data, code=1)
    assert "TS9_img_000000 is of no sequence of" in process.stderr
    assert process.stderr.count("\n") == 1
    (tmp_path / FILE_3D).unlink()
    assert f"{FILE_3D}: no such file" in cli("mupots", tmp_path, "--data", data, code=1).stderr
    assert not (tmp_path / "evaluation.json").exists()


def test_parts_by_name():
    assert mupots.require_mupots_parts(MUCO, "run") == MUCO
    for name in ("human36m", "mpii", "coco"):
        with pytest.raises(PartnasError, match=f"of {name}, without"):
            mupots.require_mupots_parts(SKELETONS[name], "run")


def test_the_folder_by_name(data):
    assert mupots.root_named([f"mupots={data}"]) == mupots.root_named([f"mupots={data.parent}"]) == data
    assert mupots.root_named([]) is None
    assert mupots.root_named(["muco=x", "mpii=y"]) is None
    with pytest.raises(PartnasError, match="by itself"):
        mupots.root_named([f"mupots={data}", "muco=x"])
    with pytest.raises(PartnasError, match="no such folder"):
        mupots.root_named(["mupots=nowhere"])


def test_everyone_left_out_is_listed_where_no_file_is_written(cli, perfect, run, tmp_path):
    def spoil(content):
        content["annotations"][0]["bbox"] = [1, 2]
        content["annotations"][1]["keypoints_cam"] = "none"

    root, out = write_mupots(tmp_path / "MuPoTS", spoil), tmp_path / "out"
    mupots.evaluate_mupots(run, root, out, skip_broken=True, progress=False)
    lines = cli("mupots", out, "--data", root, "--skip-broken").stderr.splitlines()
    listed = [line for line in lines if line.startswith("left out: ")]
    assert ["annotation 1: bbox" in listed[0], "annotation 2: keypoints_cam" in listed[1]] == [True, True]
