"""The fair timer of every benchmark: contestants take turns in one process, and what is wrong is not timed.

A benchmark is a list of :class:`Case`; :func:`main` gives it a command line, prints one line for each case and appends
rows to a CSV where asked.
"""

import argparse
import csv
import math
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import torch

from partnas.allocator import keep_freed_memory

OURS = "ours"
FLOOR = "floor"


class Case(NamedTuple):
    """One line of a benchmark.

    Attributes:
        name: What is computed, on what.
        contestants: ``ours`` and its peers, each a function without arguments that returns a tensor or tensors.
        bytes: What must be read and written at the least, a cache line that is written into fresh memory counting
            twice; 0 where that is no floor.
        tolerance: Largest :func:`difference` from ``truth`` that still counts as equal.
        truth: What should come out; the first peer's result where left out.
        floor: What cannot be spared, timed beside the contestants: the matrix products alone, say.
    """

    name: str
    contestants: dict[str, Callable[[], Any]]
    bytes: int = 0
    tolerance: float = 2e-5
    truth: Callable[[], Any] | None = None
    floor: Callable[[], Any] | None = None


class Timing(NamedTuple):
    """Seconds: the median and the quartiles."""

    median: float
    low: float
    high: float


LEAST_SAMPLE = 1e-3
"""Seconds: what is quicker than this is called so often in a row that a sample lasts as long."""


def interleaved(contestants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Timing]:
    """Time functions that take turns, A B C A B C, so that all meet the same machine."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    calls = {}
    for name, function in contestants.items():
        function()
        calls[name] = math.ceil(LEAST_SAMPLE / _seconds(function, 1))
    for _ in range(rounds):
        for name, function in contestants.items():
            times[name].append(_seconds(function, calls[name]))
    found = {}
    for name, values in times.items():
        low, median, high = statistics.quantiles(values, n=4)
        found[name] = Timing(median, low, high)
    return found


def _seconds(function: Callable[[], Any], calls: int) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - begin) / calls


def bandwidth() -> float:
    """Bytes a second that a sum over 256 MB reads."""
    memory = torch.ones(64 << 20)
    return memory.numel() * 4 / interleaved({"sum": memory.sum}, 9)["sum"].median


def machine() -> dict[str, Any]:
    """Where and on what a row was measured."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in _read("/proc/cpuinfo").splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True
    ).stdout.strip()
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit,
        "threads": torch.get_num_threads(),
    }


def difference(value: Any, other: Any) -> float:
    """The norm of what two results differ by, relative to that of ``other``; the worst of several tensors. A maximum would
    tell of the one pixel where rounding made another of two equals win the pool, or ReLU open."""
    if isinstance(value, torch.Tensor):
        value, other = (value,), (other,)
    worst = 0.0
    for left, right in zip(value, other, strict=True):
        error = (left.double() - right.double()).norm() / right.double().norm().clamp_min(1e-30)
        worst = max(worst, float(error)) if error == error else float("nan")
    return worst


def main(description: str, cases: Callable[[argparse.Namespace], Iterable[Case]], add_options: Any = None) -> None:
    """Run the cases of a benchmark from its command line.

    A case where ours is wrong is told and not timed; the exit status is then 1. A peer that is wrong is told and left
    out.
    """
    parser = argparse.ArgumentParser(description=description.strip().splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--only", default="", help="run the cases whose name has this in it")
    parser.add_argument("--csv", type=Path, help="append the rows to this file")
    if add_options is not None:
        add_options(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    keep_freed_memory()
    speed = bandwidth()
    facts = machine()
    print(f"{facts['cpu']}, {options.threads} threads, torch {facts['torch']}, {speed / 1e9:.0f} GB/s read")
    print("milliseconds: median (quartiles); gain: best peer over ours; floor: bytes over the bandwidth, or as told")
    wrong = 0
    for case in cases(options):
        if options.only not in case.name:
            continue
        truth = case.truth or next(function for name, function in case.contestants.items() if name != OURS)
        right = truth()
        fit = {}
        for name, function in case.contestants.items():
            error = difference(function(), right)
            if error <= case.tolerance:
                fit[name] = function
            else:
                print(f"{case.name}: {name} is not timed, it is off by {error:.1e}")
        del right
        if OURS not in fit or len(fit) == 1:
            wrong += OURS not in fit
            continue
        floor = {FLOOR: case.floor} if case.floor else {}
        report(case, interleaved({**fit, **floor}, options.rounds), speed, facts, options.csv)
    sys.exit(1 if wrong else 0)


def report(case: Case, found: dict[str, Timing], speed: float, facts: dict[str, Any], path: Path | None) -> None:
    """Print a case's line and append its rows."""
    ours = found[OURS].median
    floor = found.pop(FLOOR).median if FLOOR in found else case.bytes / speed
    best = min((name for name in found if name != OURS), key=lambda name: found[name].median)
    figures = [f"{name} {t.median * 1e3:.2f} ({t.low * 1e3:.2f}–{t.high * 1e3:.2f})" for name, t in found.items()]
    gain = f"gain {found[best].median / ours:.2f}x over {best}"
    bound = f", {ours / floor:.1f}x its floor of {floor * 1e3:.2f}" if floor else ""
    print(f"{case.name}\n    {', '.join(figures)}\n    {gain}{bound}", flush=True)
    if path is None:
        return
    rows = [
        {
            **facts, "case": case.name, "contestant": name, "median_ms": f"{t.median * 1e3:.4f}",
            "low_ms": f"{t.low * 1e3:.4f}", "high_ms": f"{t.high * 1e3:.4f}", "floor_ms": f"{floor * 1e3:.4f}",
        }
        for name, t in found.items()
    ]  # fmt: skip
    is_new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
