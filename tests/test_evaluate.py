import json
import shutil

import numpy as np
import pytest
import yaml
from small_set import write_set

from partnas.config import data_config
from partnas.data import SPLITS, embedded_root, read_human36m
from partnas.data.crop import expand_boxes
from partnas.errors import PartnasError
from partnas.evaluate import evaluate, table
from partnas.skeleton import HUMAN36M


@pytest.fixture(scope="module")
def evaluated(cli, trained, once):
    """The folder of a training that was evaluated, and what was printed."""

    def make(folder):
        shutil.copytree(trained, folder / "run")
        process = cli("evaluate", folder / "run", "--stride", "5", "--json")
        (folder / "printed.json").write_text(process.stdout)

    folder = once("evaluation", make)
    return folder / "run", json.loads((folder / "printed.json").read_text())


def test_evaluation_json_holds_the_promised_fields(evaluated):
    run, printed = evaluated
    stored = json.loads((run / "evaluation.json").read_text())
    assert stored == printed
    for field in ("mpjpe_mm", "pa_mpjpe_mm", "pa_mpjpe_scaled_mm", "mean_pose_mpjpe_mm"):
        assert np.isfinite(stored[field]), field
    assert stored["pa_mpjpe_scaled_mm"] <= stored["pa_mpjpe_mm"] <= stored["mpjpe_mm"]
    assert set(stored["per_part_mm"]) == set(HUMAN36M.parts) - {"Thorax"}
    assert stored["per_part_mm"]["Pelvis"] == 0
    assert np.mean(list(stored["per_part_mm"].values())) == pytest.approx(stored["mpjpe_mm"], rel=1e-6)
    assert set(stored["per_action_mm"]) == {"dance_b", "run", "spinkick"}
    assert stored["frames"] > 10
    assert stored["parameters"] > 0


def test_examples_and_report_are_written(evaluated):
    run, _ = evaluated
    examples = json.loads((run / "predictions.json").read_text())
    assert len(examples) == 12
    for example in examples:
        assert (run / example["image"]).stat().st_size > 0
        assert np.array(example["predicted_mm"]).shape == (18, 3)
    assert (run / "report.html").stat().st_size > 1000


def test_the_papers_table_has_a_row_of_this_run(cli, evaluated):
    run, stored = evaluated
    row = next(line for line in (run / "table6.md").read_text().splitlines() if line.startswith("| → "))
    assert row.startswith(f"| → {run} | embedded sample | – |")
    assert row.endswith(f"| – | {stored['mpjpe_mm']:.1f} |")
    assert f"{run},embedded sample,measured," in (run / "table6.csv").read_text()
    assert not (run / "table5.md").exists()
    cli("evaluate", run, "--stride", "5", "--protocol", "1", "--out", run / "protocol1")
    again = json.loads((run / "protocol1" / "evaluation.json").read_text())
    rows = [line for line in (run / "protocol1" / "table5.md").read_text().splitlines() if line.startswith("| → ")]
    assert [row.split("| ")[-1] for row in rows] == [
        f"{again['pa_mpjpe_mm']:.1f} |",
        f"{again['pa_mpjpe_scaled_mm']:.1f} |",
    ]


def test_flip_test_changes_the_predictions(cli, evaluated, tmp_path):
    run, plain = evaluated
    flipped = json.loads(cli("evaluate", run, "--stride", "5", "--json", "--flip-test", "--out", tmp_path).stdout)
    assert flipped["flip_test"] is True
    assert flipped["mpjpe_mm"] != plain["mpjpe_mm"]


def roots_of(source, depth=1.0):
    boxes = expand_boxes(source.bboxes, source.image_sizes)
    roots = np.column_stack([source.joints_camera[:, source.skeleton.root, :2], source.root_depth * depth])
    people = zip(source.image_ids.tolist(), boxes.tolist(), roots.tolist(), strict=True)
    return [{"image_id": image, "bbox": box, "root_cam": root} for image, box, root in people]


def test_boxes_and_root_depths_from_a_file(cli, evaluated, tmp_path):
    run, plain = evaluated
    source = read_human36m(embedded_root(), SPLITS[2]["test"], 5)
    arguments = ["evaluate", run, "--stride", "5", "--json", "--out", tmp_path, "--roots", tmp_path / "roots.json"]
    for depth in (1.0, 1.1):
        (tmp_path / "roots.json").write_text(json.dumps(roots_of(source, depth)))
        found = json.loads(cli(*arguments).stdout)
        assert found["roots"] == "roots.json"
        assert (found["per_part_mm"] == plain["per_part_mm"]) == (depth == 1)
    entries = roots_of(source)
    del entries[3]["root_cam"]
    (tmp_path / "roots.json").write_text(json.dumps(entries))
    process = cli(*arguments, code=1)
    assert f"roots.json: image_id {source.image_ids[3]}: field 'root_cam' is missing" in process.stderr
    (tmp_path / "roots.json").write_text(json.dumps(entries[:3]))
    assert "has no entry" in cli(*arguments, code=1).stderr
    process = cli(*arguments, "--skip-broken")
    found = json.loads(process.stdout)
    assert found["frames"] == 3
    assert len(found["skipped"]) == len(source) - 3


def test_truncated_checkpoint_is_one_line(cli, trained, tmp_path):
    broken = tmp_path / "checkpoint.pt"
    broken.write_bytes((trained / "checkpoint.pt").read_bytes()[:1000])
    process = cli("evaluate", broken, code=1)
    assert "broken or truncated" in process.stderr
    assert process.stderr.count("\n") == 1
    assert not (tmp_path / "evaluation.json").exists()


def test_a_searchs_checkpoint_is_not_a_trained_network(cli, searched):
    process = cli("evaluate", searched, code=1)
    assert "supernet" in process.stderr
    assert process.stderr.count("\n") == 1


def run_trained_on(folder, trained, **data):
    """A copy of a run whose ``config.yaml`` says that it was trained on ``data``."""
    shutil.copytree(trained, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["data"] |= data
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.mark.parametrize("kind", ["embedded", "folder"])
def test_subjects_that_were_trained_on_are_not_tested_on(cli, trained, tmp_path, kind):
    human36m = str(write_set(tmp_path / "Human36M", subjects=(9, 11))) if kind == "folder" else None
    run = run_trained_on(tmp_path / "run", trained, root=human36m, protocol=1)
    data = ["--data", human36m] if kind == "folder" else []
    process = cli("evaluate", run, *data, "--protocol", "2", "--out", tmp_path / "out", code=1)
    assert "was trained on subject 9 (config.yaml: data.protocol 1), whom protocol 2 tests on; use --protocol 1" in (
        process.stderr
    )
    assert process.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
    result = json.loads(cli("evaluate", run, *data, "--out", tmp_path / "out", "--json").stdout)
    assert result["protocol"] == 1  # the run's own
    assert result["trained_on"] == {"sets": ["human36m" if kind == "folder" else "embedded sample"], "protocol": 1}
    assert (tmp_path / "out" / "table5.md").exists()


def test_people_of_another_set_were_not_trained_on(trained, tmp_path):
    run = run_trained_on(tmp_path / "run", trained, protocol=1)
    data = data_config({"root": str(write_set(tmp_path / "set", subjects=(9, 11)))})
    evaluate(run, data, tmp_path / "out", progress=False)
    assert "1 of 15 actions, not trained on it" in (tmp_path / "out" / "table6.csv").read_text()


def test_a_checkpoint_alone_does_not_tell_its_training(cli, trained, tmp_path):
    shutil.copy(trained / "checkpoint.pt", tmp_path)
    result = json.loads(cli("evaluate", tmp_path / "checkpoint.pt", "--stride", "20", "--json").stdout)
    assert (result["protocol"], result["trained_on"]) == (2, None)


def test_without_training_subjects_the_mean_pose_is_null(trained, tmp_path, caplog):
    root = write_set(tmp_path / "set", subjects=(5, 9, 11))
    result = evaluate(trained, data_config({"root": str(root)}), tmp_path / "out", progress=False)
    assert result["mean_pose_mpjpe_mm"] is None
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["mean_pose_mpjpe_mm"] is None
    assert [record.getMessage() for record in caplog.records] == [
        f"{root}: no training subjects 1, 6, 7, 8; what their mean would give is not measured"
    ]
    assert "mean training pose" not in table(result)


def test_a_place_that_cannot_be_written_is_one_line_first(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PartnasError, match="file is no folder; choose another --out"):
        evaluate(tmp_path / "no run", data_config({}), tmp_path / "file", progress=False)
