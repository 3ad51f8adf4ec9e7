import json

import pytest
from jobs import TINY_SETTINGS

from partnas import config
from partnas.config import merge
from partnas.data import SPLITS, embedded_root, read_human36m
from partnas.demo import demo, free_folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        mini = {job: merge(settings, TINY_SETTINGS) for job, settings in config.PRESETS["mini"].items()}
        patch.setitem(config.PRESETS, "mini", mini)
        yield demo(tmp_path_factory.mktemp("runs") / "demo", threads=1), demo


def test_the_demo_does_the_whole_job(finished):
    folder, _ = finished
    for name in (
        "search/genotype.json", "train/checkpoint.pt", "evaluation.json", "report.html", "summary.png",
        "predictions/predictions.json",
    ):  # fmt: skip
        assert (folder / name).stat().st_size > 0, name
    result = json.loads((folder / "evaluation.json").read_text())
    promised = {
        "mpjpe_mm", "pa_mpjpe_mm", "pa_mpjpe_scaled_mm", "mean_pose_mpjpe_mm", "per_part_mm", "per_action_mm", "frames",
    }  # fmt: skip
    assert promised <= result.keys()
    assert result["frames"] == len(read_human36m(embedded_root(), SPLITS[2]["test"]))


def test_what_is_done_is_kept(finished):
    folder, run_again = finished
    checkpoints = [folder / job / "checkpoint.pt" for job in ("search", "train")]
    before = [path.stat().st_mtime_ns for path in checkpoints]
    assert run_again(folder, threads=1, resume=True) == folder
    assert [path.stat().st_mtime_ns for path in checkpoints] == before


def test_an_earlier_demo_is_not_touched(tmp_path):
    assert free_folder(tmp_path / "demo") == tmp_path / "demo"
    for name in ("demo", "demo-2"):
        (tmp_path / name).mkdir()
    assert free_folder(tmp_path / "demo") == tmp_path / "demo-3"
