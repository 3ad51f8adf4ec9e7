"""Whole experiments, tiny: run, killed, gone on with, shared."""

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from jobs import as_flags, environment
from small_set import write_set

from partnas.config import merge
from partnas.errors import PartnasError
from partnas.experiments import runner
from partnas.experiments.plan import Plan
from partnas.experiments.runner import parameters, run_experiment, small_genotype
from partnas.space import SearchSpace

pytestmark = pytest.mark.usefixtures("one_thread")

JOB = {
    "batch_size": 2,
    "epochs": 2,
    "steps_per_epoch": 2,
    "checkpoint_every": 2,
    "network": {
        "cells": 4, "reductions": 1, "fusions": 1, "nodes": 2, "channels": 2, "input_size": 32, "depth": 2,
        "fusion_channels": 4,
    },
    "data": {"monitor_frames": 2},
}  # fmt: skip
SETTINGS = {"search": {**JOB, "alpha_epoch": 1}, "train": {**JOB, "milestones": [2]}}
ROWS = ("original", "shuffled1")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("data") / "set", subjects=(1, 5, 6, 7, 8, 9, 11))


def flags(data, out):
    rows = [flag for row in ROWS for flag in ("--row", row)]
    return [
        "--out",
        str(out),
        "--preset",
        "mini",
        "--seeds",
        "2",
        "--threads",
        "1",
        "--data",
        str(data),
        *rows,
        *as_flags(SETTINGS),
    ]


@pytest.fixture(scope="module")
def finished(cli, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "table2"
    return out, cli("experiment", "table2", *flags(data, out))


def without_times(out):
    results = json.loads((out / "results.json").read_text())
    for search in results["searches"]:
        assert search.pop("minutes") >= 0
    for row in results["rows"]:
        for run in row["runs"]:
            assert run.pop("train_minutes") >= 0
    return results


def test_a_whole_experiment(finished):
    out, process = finished
    assert process.stdout.count(": search") == 2
    assert process.stdout.count(": train") == 4
    assert process.stdout.splitlines()[-2:] == [str(out / "table2.md"), str(out / "table2.csv")]
    results = without_times(out)
    assert results["searches"] == [{"row": "original", "seed": seed, "skipped": 0} for seed in (0, 1)]
    rows = {row["name"]: row for row in results["rows"]}
    assert [len(rows[name]["runs"]) for name in (*ROWS, "shuffled2", "shuffled3")] == [2, 2, 0, 0]
    for name in ROWS:
        for run in rows[name]["runs"]:
            folder = out / "rows" / name / f"seed{run['seed']}"
            evaluation = json.loads((folder / "evaluation.json").read_text())
            assert run["mpjpe_mm"] == evaluation["mpjpe_mm"]
            assert run["per_part_mm"] == evaluation["per_part_mm"]
        first, second = (run["mpjpe_mm"] for run in rows[name]["runs"])
        assert first != second
        assert rows[name]["summary"]["mpjpe_mm"] == {
            "mean": pytest.approx((first + second) / 2),
            "deviation": pytest.approx(abs(first - second) / 2**0.5),
            "count": 2,
        }
    assert not (out / "rows" / "shuffled1" / "seed0" / "search").exists()
    table = (out / "table2.md").read_text()
    assert "Ours, shuffled 3" in table
    average = rows["original"]["summary"]["mpjpe_mm"]
    assert f"{average['mean']:.1f} ± {average['deviation']:.1f}" in table


def test_killed_and_gone_on_with_it_gives_the_same(finished, data, cli, tmp_path):
    out = tmp_path / "table2"
    command = [sys.executable, "-m", "partnas", "experiment", "table2", *flags(data, out)]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    half_done = out / "rows" / "shuffled1" / "seed0" / "train" / "checkpoint.pt"
    deadline = time.monotonic() + 250
    while not half_done.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    complete = sorted(path.parent / "train" for path in out.glob("rows/*/seed*/evaluation.json"))
    kept = {path: (path / "checkpoint.pt").stat().st_mtime_ns for path in complete}
    assert (out / "rows" / "original" / "seed0" / "train") in kept
    cli("experiment", "table2", *flags(data, out))
    assert {path: (path / "checkpoint.pt").stat().st_mtime_ns for path in complete} == kept
    assert without_times(out) == without_times(finished[0])
    assert (out / "table2.csv").read_text() == (finished[0] / "table2.csv").read_text()
    text, expected = ((folder / "table2.md").read_text().splitlines() for folder in (out, finished[0]))
    assert sum(line.startswith("Wall time: ") for line in expected) == 1
    for line, other in zip(text, expected, strict=True):
        assert line == other or (line.startswith("Wall time: ") and other.startswith("Wall time: "))


def plan_of(data, out, name="table2"):
    root = {"data": {"root": str(data)}}
    return Plan(name, out, "mini", {job: merge(SETTINGS[job], root) for job in SETTINGS}, {"threads": 1})


def test_what_a_kill_before_the_first_checkpoint_left_is_cleared(data, tmp_path):
    plan = plan_of(data, tmp_path / "out", "table3")
    plan.open()
    trained = plan.folder(plan.rows[0], 0) / "train"
    trained.mkdir(parents=True)
    (trained / "metrics.jsonl").write_text('{"step": 99}\n')
    (trained / "evaluation.json").write_text('{"mpjpe_mm": 1.0}')
    run_experiment(plan, 1, ["resnet50", "backbone"], progress=False)
    assert [json.loads(line)["step"] for line in (trained / "metrics.jsonl").read_text().splitlines()] == [2, 4]
    backbone = plan.folder(plan.rows[1], 0)
    assert (backbone / "search" / "genotype.json").exists()
    for folder in (trained.parent, backbone):
        of_run, kept = (
            json.loads((folder / name).read_text()) for name in ("train/evaluation.json", "evaluation.json")
        )
        assert kept == of_run
        assert kept["frames"] > 0


def test_random_genotypes_are_small_enough_and_the_same_for_a_seed(monkeypatch):
    space = SearchSpace(cells=4, reductions=1, fusions=1, nodes=2, channels=4, parts=4, depth=2, input_size=8)

    def drawn(limit):
        genotype = small_genotype(space, limit, torch.Generator().manual_seed(3))
        return genotype, parameters({"kind": "partnet", "space": space.to_dict(), "genotype": genotype.to_dict()})

    free, size = drawn(10**9)
    assert drawn(size)[0] == free
    smaller, reduced = drawn(size - 1)
    assert reduced < size
    assert smaller != free
    monkeypatch.setattr(runner, "DRAWS", 4)
    with pytest.raises(PartnasError, match="none of 4 random genotypes has at most 3 parameters"):
        drawn(3)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--row", "nc10"), "nc10"),
        (("--set", "train=3"), "--set train: 3"),
        (("--data", "muco=MuCo"), "--data: an experiment searches on Human3.6M"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(cli, tmp_path, flags, named):
    process = cli("experiment", "table1", "--out", tmp_path / "new", *flags, code=1)
    assert named in process.stderr
    assert process.stderr.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_torchrun_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(PartnasError, match="torchrun"):
        run_experiment(Plan("table1", tmp_path / "new"))
    assert not (tmp_path / "new").exists()
