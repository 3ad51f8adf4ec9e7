import json
import shutil

import numpy as np
import pytest

from partnas.skeleton import PARTS


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
    assert set(stored["per_part_mm"]) == set(PARTS) - {"Thorax"}
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


def test_flip_test_changes_the_predictions(cli, evaluated, tmp_path):
    run, plain = evaluated
    flipped = json.loads(cli("evaluate", run, "--stride", "5", "--json", "--flip-test", "--out", tmp_path).stdout)
    assert flipped["flip_test"] is True
    assert flipped["mpjpe_mm"] != plain["mpjpe_mm"]


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
