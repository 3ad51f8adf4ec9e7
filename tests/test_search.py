import gc
import json
import signal
import subprocess
import sys
import time
import weakref

import pytest
import torch
from jobs import REPOSITORY, TINY, TINY_SETTINGS, environment

from partnas.config import load_config
from partnas.distributed import World
from partnas.run import load_checkpoint
from partnas.search import Search

LONG = [*TINY, "--set", "epochs=3", "--set", "alpha_epoch=2", "--set", "checkpoint_every=1"]


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights_of(run):
    return load_checkpoint(run)["weights"]


def assert_same_bits(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def test_a_search_leaves_a_whole_run_folder(searched):
    for name in ("config.yaml", "metrics.jsonl", "genotype.json", "checkpoint.pt", "report.html"):
        assert (searched / name).stat().st_size > 0, name
    assert list((searched / "events").glob("events.out.tfevents.*"))
    last = rows(searched)[-1]
    assert last["step"] == 4
    assert {"loss", "validation_loss", "mpjpe_mm", "images_per_second", "learning_rate"} <= last.keys()
    for matrix in last["alphas"].values():
        for row in matrix:
            assert sum(row) == pytest.approx(1, abs=1e-5)
    assert not [path for path in searched.iterdir() if path.name.startswith(".")]


def test_derive_prints_what_the_search_found(cli, searched):
    assert cli("derive", searched).stdout == (searched / "genotype.json").read_text()


def test_alphas_and_weights_move_only_in_their_steps(tmp_path, cli):
    early, late = tmp_path / "early", tmp_path / "late"
    cli("search", "--out", early, *TINY, "--set", "epochs=1", "--set", "alpha_epoch=2")
    cli("search", "--out", late, *TINY, "--set", "epochs=1", "--set", "alpha_epoch=1")
    before, after = weights_of(early), weights_of(late)
    initial = {name for name in before if name.startswith("alphas.")}
    assert initial
    assert all(before[name].abs().max() < 0.01 for name in initial), "alphas moved before alpha_epoch"
    assert any(not torch.equal(before[name], after[name]) for name in initial)


def test_second_order_runs_and_differs_from_first(tmp_path, cli, searched):
    out = tmp_path / "second"
    cli("search", "--out", out, *TINY, "--set", "alpha_epoch=1", "--order", "second")
    first, second = weights_of(searched), weights_of(out)
    assert any(not torch.equal(first[name], second[name]) for name in first if name.startswith("alphas."))


def test_resume_after_kill_reaches_the_same_bits(tmp_path, cli):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    cli("search", "--out", whole, *LONG)
    process = subprocess.Popen(
        [sys.executable, "-m", "partnas", "search", "--out", str(broken), *LONG], env=environment()
    )
    deadline = time.monotonic() + 120
    while not ((broken / "checkpoint.pt").exists() and load_checkpoint(broken)["step"] >= 3):
        assert process.poll() is None, "the search ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert load_checkpoint(broken)["step"] < 6, "killed too late to prove anything"
    cli("search", "--out", broken, *LONG, "--resume")
    assert_same_bits(weights_of(whole), weights_of(broken))
    assert [row["step"] for row in rows(broken)] == [row["step"] for row in rows(whole)] == [2, 4, 6]
    assert (whole / "genotype.json").read_text() == (broken / "genotype.json").read_text()


def test_ctrl_c_saves_and_exits_130(tmp_path):
    out = tmp_path / "run"
    arguments = [*TINY, "--set", "epochs=500", "--set", "checkpoint_every=100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "partnas", "search", "--out", str(out), *arguments],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (out / "metrics.jsonl").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "go on with --resume" in errors
    assert "Traceback" not in errors
    assert load_checkpoint(out)["step"] >= 2


def test_nan_loss_is_one_line_and_keeps_the_last_checkpoint(tmp_path, cli):
    out = tmp_path / "run"
    process = cli("search", "--out", out, *TINY, "--set", "learning_rate=3e37", code=1)
    assert "lower learning_rate" in process.stderr
    assert process.stderr.count("\n") == 1
    assert not (out / "genotype.json").exists()


def test_weights_that_no_step_follows_are_looked_at_too(tmp_path, cli):
    out = tmp_path / "run"
    one_step = ["--set", "steps_per_epoch=1", "--set", "epochs=1"]
    process = cli("search", "--out", out, *TINY, *one_step, "--set", "learning_rate=1.0e+38", code=1)
    assert "mpjpe mm is nan at step 1; lower learning_rate" in process.stderr
    assert process.stderr.count("\n") == 1
    assert not (out / "checkpoint.pt").exists()
    assert not (out / "genotype.json").exists()


def test_nothing_keeps_a_search_that_nobody_refers_to():
    job = Search(load_config("search", "mini", settings=TINY_SETTINGS), World(0, 1, torch.device("cpu")))
    job.begin_at(0)
    job.begin_epoch(1)
    job.step(1)
    gone = weakref.ref(job)
    gc.disable()
    try:
        del job
        assert gone() is None
    finally:
        gc.enable()


def test_a_thousand_steps_leak_no_memory():
    command = [sys.executable, str(REPOSITORY / "tests/long_search.py"), "100", "900"]
    grown = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=600, check=True).stdout
    assert int(grown) < 1 << 20
