"""``bench/gpu_check.py`` keeps to its time and loses nothing; what it runs needs few packages."""

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from jobs import REPOSITORY

sys.path.append(str(REPOSITORY / "bench"))

import gpu_check
from gpu_check import Check, Item, Process

SLEEPER = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
ROW = {"case": "a", "median_ms": "2.0", "low_ms": "1", "high_ms": "3", "floor_ms": "0.5", "peak_mb": "7"}


def check_of(tmp_path, items, limit=60.0):
    class Planned(Check):
        def planned(self):
            return iter(items)

    return Planned(argparse.Namespace(out=tmp_path, limit=limit, only=[], skip=[], device="cpu"))


def python(log, code):
    return Process(log, [sys.executable, "-c", code])


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:
        return file.read().split()[2] != "Z"


def test_an_item_is_cut_at_its_time_and_the_rest_goes_on(tmp_path):
    items = [
        Item("slow", 6, [python("slow", SLEEPER), python("quick", "print('done')")], together=2),
        Item("next", 20, [python("next", "raise SystemExit(3)")]),
    ]
    began = time.monotonic()
    assert not check_of(tmp_path, items).run()
    assert time.monotonic() - began < 40
    assert not is_alive(int((tmp_path / "logs/slow.txt").read_text()))
    record = json.loads((tmp_path / "gpu_check.json").read_text())
    assert record["items"][0]["status"].startswith("cut after")
    assert [process["status"] for process in record["items"][0]["processes"]][1] == "ok"
    assert record["items"][1]["status"] == "failed (exit 3)"
    assert "failed (exit 3)" in (tmp_path / "gpu_check.md").read_text()


def test_nothing_begins_when_no_time_is_left_and_that_is_told(tmp_path):
    item = Item("late", 20, [python("late", "print(1)")])
    check = check_of(tmp_path, [item], limit=4)
    assert check.run()
    assert check.left_out() == ["late: no time left"]
    assert "left out: late: no time left" in (tmp_path / "gpu_check.md").read_text()
    assert not (tmp_path / "logs/late.txt").exists()


def test_what_the_time_for_all_cuts_is_left_out_and_what_its_own_time_cuts_has_failed(tmp_path):
    whole = check_of(tmp_path, [Item("last", 60, [python("slow", SLEEPER), python("after", "print(1)")])], limit=9)
    assert whole.run()
    assert [told.split(",")[0] for told in whole.left_out()] == ["last: no time left"] * 2
    own = check_of(tmp_path, [Item("slow", 6, [python("slow", SLEEPER)])])
    assert not own.run()
    assert own.left_out() == []


def test_a_tool_that_is_not_there_is_told_and_no_failure(tmp_path):
    absent = python("absent", "raise SystemExit(77)")
    check = check_of(tmp_path, [Item("sanitizer", 20, [absent])])
    assert check.run()
    assert check.left_out() == ["sanitizer: not there"]
    check = check_of(tmp_path, [Item("sanitizer", 20, [absent, python("other", "raise SystemExit(99)")])])
    assert not check.run()
    assert check.left_out() == ["sanitizer: not there"]


def test_a_benchmark_that_ran_no_case_has_failed(tmp_path):
    rows = tmp_path / "rows.csv"
    idle, busy = python("idle", "print(1)"), python("busy", f"open({str(rows)!r}, 'w')")
    idle.writes, busy.writes = tmp_path / "none.csv", rows
    assert check_of(tmp_path, [Item("busy", 20, [busy])]).run()
    assert not check_of(tmp_path, [Item("idle", 20, [idle])]).run()
    assert idle.status == "ran no case"


def planned(tmp_path, **options):
    chosen = {"out": tmp_path, "limit": 480, "only": [], "skip": [], "device": "cuda", **options}
    return Check(argparse.Namespace(**chosen)).items


def test_every_benchmark_of_an_operator_has_the_case_that_it_is_asked_for(tmp_path):
    options = argparse.Namespace(device=torch.device("cpu"), batch=1, dtypes=[torch.float32], compile=False, only="")
    cases = {name: list(importlib.import_module(f"bench_{name}").cases(options)) for name in gpu_check.OPERATORS}
    for item in planned(tmp_path):
        operator = item.name.removesuffix(" compiled")
        if operator not in cases:
            continue
        for process in item.processes:
            command = process.command
            only = command[command.index("--only") + 1] if "--only" in command else ""
            assert any(only in case.name for case in cases[operator]), f"{item.name}: no case has {only!r} in its name"


def test_an_operator_is_compiled_once_each_and_one_of_them_before_whole_networks(tmp_path):
    names = [item.name for item in planned(tmp_path)]
    compiled = [name for name in names if name.endswith(" compiled")]
    assert sorted(compiled) == sorted(f"{operator} compiled" for operator in gpu_check.OPERATORS)
    assert names.index(compiled[0]) < names.index("inference") < names.index("train_step") < names.index(compiled[1])


@pytest.mark.parametrize(
    ("libraries", "device", "code"),
    [
        (("_native", "_native_cuda"), "cuda", 0),
        (("_native",), "cuda", 1),
        (("_native_cuda",), "cuda", 1),
        (("_native",), "cpu", 0),
    ],
)
def test_a_build_without_its_library_has_failed_and_says_why(tmp_path, monkeypatch, capfd, libraries, device, code):
    (tmp_path / "partnas").mkdir()

    def installs(command, **_):
        for name in ("_native", "_native_cuda"):
            built = name in libraries
            (tmp_path / "partnas" / (f"{name}.abi3.so" if built else f"{name}_note.txt")).write_text(f"{name}: why\n")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    monkeypatch.setattr(gpu_check.subprocess, "run", installs)
    assert gpu_check.build(device) == code
    told = capfd.readouterr().out
    for name in ("_native", "_native_cuda"):
        assert (f"{name}: why" in told) == (name not in libraries)


def test_a_killed_check_has_written_what_it_had(tmp_path):
    code = f"""
import sys; sys.path[:0] = [{str(REPOSITORY / "bench")!r}, {str(REPOSITORY / "tests")!r}]
import gpu_check
from gpu_check import Check, Item, Process
Check.planned = lambda self: iter([
    Item("first", 20, [Process("first", [sys.executable, "-c", "print(1)"])]),
    Item("second", 60, [Process("second", [sys.executable, "-c", {SLEEPER!r}])]),
])
sys.argv = ["gpu_check", "--out", {str(tmp_path)!r}]
gpu_check.main()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    log = tmp_path / "logs/second.txt"
    deadline = time.monotonic() + 60
    while not log.exists() or not log.read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert json.loads((tmp_path / "gpu_check.json").read_text())["items"][0]["status"] == "ok"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 1
    assert not is_alive(int(log.read_text()))
    record = json.loads((tmp_path / "gpu_check.json").read_text())
    assert [item["status"].split(" after")[0] for item in record["items"]] == ["ok", "cut"]
    assert "cut" in record


def test_the_table_tells_our_best_against_the_best_peer_and_the_floor():
    rows = [
        {**ROW, "contestant": "NCHW", "median_ms": "9.0"},
        {**ROW, "contestant": "channels-last", "median_ms": "4.0"},
        {**ROW, "contestant": "ours, native", "median_ms": "1.0"},
        {**ROW, "contestant": "ours, triton", "median_ms": "2.0", "peak_mb": "0"},
    ]
    header, _, line = gpu_check.table(rows)
    assert "NCHW | channels-last | ours, native | ours, triton | floor" in header
    assert line.split("|")[1:-1] == [
        " a ", " 9.000 (7) ", " 4.000 (7) ", " 1.000 (7) ", " 2.000 ", " 0.500 ", " 4.00 ", " 2.0 ",
    ]  # fmt: skip


def test_what_it_runs_needs_torch_and_little_else():
    files = [*(REPOSITORY / "tests/gpu").glob("*.py"), *(REPOSITORY / "bench").glob("bench_*.py")]
    # The data sets' benches never run on a GPU.
    left_out = ("conftest", "bench_loader", "bench_annotations")
    modules = [path.stem for path in files if path.stem not in left_out]
    blocked = ["yaml", "pydantic", "fvcore", "plotly", "typer", "tqdm", "cv2", "tensorboard", "matplotlib", "jinja2"]
    code = f"""
import importlib, sys
sys.modules.update(dict.fromkeys({blocked!r}))
sys.path[:0] = [{str(REPOSITORY / "bench")!r}, {str(REPOSITORY / "tests/gpu")!r}]
for module in {modules!r}:
    importlib.import_module(module)
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert process.returncode == 0, process.stderr
