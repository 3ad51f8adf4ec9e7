"""The fair timer of every benchmark: contestants take turns in one process, and what is wrong is not timed.

A benchmark is a list of :class:`Case`; :func:`main` gives it a command line, prints one line for each case and appends
rows to a CSV where asked. On a GPU (``--device cuda``) ours takes part once for each backend that is there, a sample is
taken between two CUDA events with a cold L2, and the memory that each contestant needs is told, too.
"""

import argparse
import csv
import functools
import gc
import math
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import torch
from backends import only

from partnas.allocator import keep_freed_memory
from partnas.ops import use_backend

OURS = "ours"
FLOOR = "floor"
LAYOUTS = {"NCHW": torch.contiguous_format, "channels-last": torch.channels_last}
TOLERANCES = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""How far results that were rounded to a dtype may be off, see :func:`difference`."""


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class Case(NamedTuple):
    """One line of a benchmark.

    Attributes:
        name: What is computed, on what.
        contestants: ``ours`` and its peers, each a function without arguments that returns a tensor or tensors. Where
            one has an attribute ``arranged``, that function of its result gives the tensors, and is not timed.
        reads: Bytes that must be read at the least; 0 where that is no floor.
        writes: Bytes that must be written.
        tolerance: Largest :func:`difference` from ``truth`` that still counts as equal.
        truth: What should come out, in float64; the first peer's result where left out.
        floor: What cannot be spared, timed beside the contestants: the matrix products alone, say.
        graphed: Contestants that with ``--graph`` are raced as CUDA graphs, too.
        is_network: Ours is made of several operators; those that a backend lacks are left to the reference.
    """

    name: str
    contestants: dict[str, Callable[[], Any]]
    reads: int = 0
    writes: int = 0
    tolerance: float = 2e-5
    truth: Callable[[], Any] | None = None
    floor: Callable[[], Any] | None = None
    graphed: tuple[str, ...] = ()
    is_network: bool = False


def in_layouts(
    step: Callable[..., Any],
    given: dict[str, Sequence[Any]],
    ours: Callable[..., Any],
    plain: Callable[..., Any],
    compiled: Callable[..., Any] | None,
) -> dict[str, Callable[[], Any]]:
    """The contestants of a case: ``plain`` in each of ``LAYOUTS``, and ours and ``compiled``, where there is one, in
    channels-last. ``step(function, *arguments)`` runs one of them, ``given`` being the arguments by layout."""
    last = given["channels-last"]
    found = {
        "channels-last": functools.partial(step, plain, *last),
        "NCHW": functools.partial(step, plain, *given["NCHW"]),
        OURS: functools.partial(step, ours, *last),
    }
    return found if compiled is None else {**found, "compiled": functools.partial(step, compiled, *last)}


class Timing(NamedTuple):
    """Seconds: the median and the quartiles."""

    median: float
    low: float
    high: float


LEAST_SAMPLE = 1e-3
"""Seconds: what is quicker than this is called so often in a row that a sample lasts as long."""


MOST_HELD = 16 << 20
"""Bytes that are held, at most, while a sample is taken."""


class HostClock:
    """Wall-clock time of a function that computes on the CPU.

    A block of memory of random size is held during each sample, so that results lie elsewhere in each: with the allocator
    told to keep what is freed, a contestant would write to the same place in every round, and some places are slower than
    others by half, whoever writes there.
    """

    def __init__(self) -> None:
        self._calls: dict[str, int] = {}
        self._random = random.Random(0)

    def prepare(self, name: str, function: Callable[[], Any]) -> None:
        function()
        self._calls[name] = math.ceil(LEAST_SAMPLE / _seconds(function, 1))

    def sample(self, name: str, function: Callable[[], Any]) -> float:
        held = torch.empty(self._random.randrange(MOST_HELD), dtype=torch.uint8)
        calls = self._calls[name]
        if calls > 1:
            function()
        seconds = _seconds(function, calls)
        del held
        return seconds


MOST_HEAD_START = 2e-3
"""Seconds: what launches its kernels within this time is measured as the device alone sees it."""


class DeviceClock:
    """Time between two CUDA events round one call.

    Between samples a buffer of twice the L2 is written, so that nothing is found there. The device is then kept busy
    while the host launches, for as long as that took before, at most ``MOST_HEAD_START``: short work is timed as the
    device does it, work of many launches as the host drives it.
    """

    _CYCLES_A_SECOND = 1.5e9

    def __init__(self, device: torch.device):
        self._device = device
        size = max(2 * torch.cuda.get_device_properties(device).L2_cache_size, 64 << 20)
        self._flush = torch.empty(size, dtype=torch.uint8, device=device)
        self._launching: dict[str, float] = {}

    def prepare(self, name: str, function: Callable[[], Any]) -> None:
        for _ in range(3):
            function()
        torch.cuda.synchronize(self._device)
        self._launching[name] = _seconds(function, 1)
        torch.cuda.synchronize(self._device)

    def sample(self, name: str, function: Callable[[], Any]) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._flush.zero_()
        ahead = 2 * self._launching[name]
        if ahead <= MOST_HEAD_START:
            torch.cuda._sleep(int(ahead * self._CYCLES_A_SECOND))
        begin.record()
        function()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3


def clock_of(device: torch.device) -> HostClock | DeviceClock:
    return DeviceClock(device) if device.type == "cuda" else HostClock()


def interleaved(
    contestants: dict[str, Callable[[], Any]], rounds: int, clock: HostClock | DeviceClock | None = None
) -> dict[str, Timing]:
    """Time functions that take turns, A B C A B C, so that all meet the same machine."""
    clock = clock or HostClock()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for name, function in contestants.items():
        clock.prepare(name, function)
    for _ in range(rounds):
        for name, function in contestants.items():
            times[name].append(clock.sample(name, function))
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


def bandwidth(device: torch.device, clock: HostClock | DeviceClock) -> float:
    """Bytes a second: what a sum over 256 MB reads on a CPU, what a copy of 1 GB reads and writes on a GPU."""
    if device.type == "cuda":
        memory = torch.ones(256 << 20, device=device)
        other = torch.empty_like(memory)
        return 2 * memory.numel() * 4 / interleaved({"copy": lambda: other.copy_(memory)}, 9, clock)["copy"].median
    memory = torch.ones(64 << 20)
    return memory.numel() * 4 / interleaved({"sum": memory.sum}, 9, clock)["sum"].median


def machine(device: torch.device | None = None) -> dict[str, Any]:
    """Where and on what a row was measured."""
    gpu = torch.cuda.get_device_name(device) if device is not None and device.type == "cuda" else ""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in _read("/proc/cpuinfo").splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu,
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": _commit(),
        "threads": torch.get_num_threads(),
    }


def difference(value: Any, other: Any) -> float:
    """The norm of what two results differ by, relative to that of ``other``; the worst of several tensors. A maximum
    would tell of the one pixel where rounding made another of two equals win the pool, or ReLU open."""
    if isinstance(value, torch.Tensor):
        value, other = (value,), (other,)
    worst = 0.0
    for left, right in zip(value, other, strict=True):
        error = (left.double() - right.double()).norm() / right.double().norm().clamp_min(1e-30)
        worst = max(worst, float(error)) if error == error else float("nan")
    return worst


def options_from(description: str, add_options: Any = None) -> argparse.Namespace:
    """The command line of a benchmark. ``device`` is a ``torch.device``; where ``batch`` or ``dtypes`` are not told,
    they suit it: a batch of 4 in float32 on a CPU, of 40 in float32 and bfloat16 on a GPU."""
    parser = argparse.ArgumentParser(description=description.strip().splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--batch", type=int, help="images; 4 on a CPU and 40 on a GPU where left out")
    parser.add_argument(
        "--dtypes", nargs="+", choices=("float32", "bfloat16", "float16"), help="where there is a choice"
    )
    parser.add_argument("--only", default="", help="run the cases whose name has this in it")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="race torch.compile as well")
    parser.add_argument("--graph", action="store_true", help="on a GPU, race CUDA graphs of steps as well")
    parser.add_argument("--tf32", action="store_true", help="let the products of float32 on a GPU use TF32")
    parser.add_argument(
        "--keep-freed",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="let all sides reuse freed memory, as `partnas train` does; or leave malloc as it comes",
    )
    parser.add_argument("--csv", type=Path, help="append the rows to this file")
    if add_options is not None:
        add_options(parser)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU")
    options.device = torch.device(options.device)
    is_cuda = options.device.type == "cuda"
    options.batch = options.batch or (40 if is_cuda else 4)
    options.dtypes = [
        getattr(torch, n) for n in options.dtypes or (("float32", "bfloat16") if is_cuda else ("float32",))
    ]
    return options


def main(description: str, cases: Callable[[argparse.Namespace], Iterable[Case]], add_options: Any = None) -> None:
    """Run the cases of a benchmark from its command line.

    A case where ours is wrong is told and not timed; the exit status is then 1. A peer that is wrong, or that fails, is
    told and left out.
    """
    options = options_from(description, add_options)
    device = options.device
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.tf32
    torch.backends.cudnn.benchmark = True
    if options.keep_freed:
        keep_freed_memory()
    clock = clock_of(device)
    speed = bandwidth(device, clock)
    facts = machine(device)
    print(header(facts, options, speed))
    wrong = 0
    for case in cases(options):
        if options.only not in case.name:
            continue
        truth = case.truth or next(function for name, function in case.contestants.items() if name != OURS)
        right = arranged(truth)
        fit, memory, missing = {}, {}, []
        for name, function in entrants(case, options).items():
            error, memory[name] = tried(function, right, device)
            if isinstance(error, float) and error <= case.tolerance:
                fit[name] = function
                continue
            told = f"it is off by {error:.1e}" if isinstance(error, float) else error
            print(f"{case.name}: {name} is not timed, {told}", flush=True)
            if is_ours(name):
                wrong += isinstance(error, float)
                missing.append(told)
        if not any(map(is_ours, fit)) and all("is not there" in told for told in missing):
            # What no kernel serves, the libraries do.
            function = case.contestants[OURS]
            error, memory[OURS] = tried(function, right, device)
            if isinstance(error, float) and error <= case.tolerance:
                fit[OURS] = function
        del right, function
        if not any(map(is_ours, fit)):
            wrong += 1
            continue
        floor = {FLOOR: case.floor} if case.floor else {}
        found = interleaved({**fit, **floor}, options.rounds, clock)
        least = (case.reads + case.writes * (1 if device.type == "cuda" else 2)) / speed
        report(case, found, least, memory, facts, options.csv)
        del case, truth, fit, floor
        release(device)
    sys.exit(1 if wrong else 0)


def release(device: torch.device) -> None:
    """Give back what contestants and their graphs held on the device, so that the next ones find all of it."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def header(facts: dict[str, Any], options: argparse.Namespace, speed: float) -> str:
    """What the figures below it were measured on, and what they mean."""
    meaning = "milliseconds: median (quartiles); gain: best peer over ours; floor: bytes over the bandwidth, or as told"
    if options.device.type == "cpu":
        memory = "freed memory is kept" if options.keep_freed else "malloc as it comes"
        return (
            f"{facts['cpu']}, {options.threads} threads, torch {facts['torch']}, {speed / 1e9:.0f} GB/s read, {memory}\n"
            f"{meaning}"
        )
    tf32 = "TF32 in products of float32" if options.tf32 else "no TF32"
    return (
        f"{facts['gpu']}, torch {facts['torch']}, CUDA {torch.version.cuda}, {speed / 1e9:.0f} GB/s copied, {tf32}\n"
        f"{meaning}; CUDA events, cold L2; MB: the most that was allocated during a call"
    )


def is_ours(name: str) -> bool:
    return name.partition(",")[0] == OURS


def entrants(case: Case, options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """The contestants; on a GPU ours takes part once for each backend, and some again as a CUDA graph."""
    found: dict[str, Callable[[], Any]] = {}
    for label, function in case.contestants.items():
        each = {label: function}
        if options.device.type == "cuda" and label == OURS:
            each = {
                f"{OURS}, {name}": _served_by(name, function, case, options.device) for name in ("native", "triton")
            }
        found |= each
        if options.device.type == "cuda" and options.graph and label in case.graphed:
            found |= {f"{one}, graph": Graphed(step) for one, step in each.items()}
    return found


def arranged(function: Callable[[], Any]) -> Any:
    """The result of a contestant in the order that all have in common."""
    value = function()
    arrange = getattr(function, "arranged", None)
    return value if arrange is None else arrange(value)


class Graphed:
    """A function on the device, recorded as a CUDA graph at the first call and replayed from then on."""

    def __init__(self, function: Callable[[], Any]):
        self._function, self._graph, self._result = function, None, None
        self.arranged = getattr(function, "arranged", None)

    def __call__(self) -> Any:
        if self._graph is None:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(2):
                    self._function()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._result = self._function()
            self._graph = graph
        self._graph.replay()
        return self._result


def _served_by(name: str, function: Callable[[], Any], case: Case, device: torch.device) -> Callable[[], Any]:
    def run() -> Any:
        with only(name, device) if case.is_network else use_backend(name):
            return function()

    run.arranged = getattr(function, "arranged", None)
    return run


def tried(function: Callable[[], Any], right: Any, device: torch.device) -> tuple[float | str, float]:
    """How far a result is off, or why there is none; and the MB that were allocated at most on the way, on a GPU."""
    if device.type == "cpu":
        return difference(arranged(function), right), 0.0
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    try:
        value = arranged(function)
        torch.cuda.synchronize(device)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    else:
        peak = torch.cuda.max_memory_allocated(device) - before
        return difference(value, right), peak / 1e6
    release(device)
    return reason, 0.0


def report(
    case: Case,
    found: dict[str, Timing],
    least: float,
    memory: dict[str, float],
    facts: dict[str, Any],
    path: Path | None,
) -> None:
    """Print a case's line and append its rows. ``least``: seconds that the bytes take, the floor where none is
    timed."""
    ours = min((name for name in found if is_ours(name)), key=lambda name: found[name].median)
    floor = found.pop(FLOOR).median if FLOOR in found else least
    figures = [
        f"{name} {t.median * 1e3:.2f} ({t.low * 1e3:.2f}–{t.high * 1e3:.2f})"
        + (f" {memory[name]:.0f} MB" if memory.get(name) else "")
        for name, t in found.items()
    ]
    peers = [name for name in found if not is_ours(name)]
    verdicts = []
    if peers:
        best = min(peers, key=lambda name: found[name].median)
        verdicts.append(f"gain {found[best].median / found[ours].median:.2f}x over {best}")
    if floor:
        verdicts.append(f"{found[ours].median / floor:.1f}x its floor of {floor * 1e3:.2f}")
    print(f"{case.name}\n    {', '.join(figures)}\n    {', '.join(verdicts)}", flush=True)
    if path is None:
        return
    rows = [
        {
            **facts, "case": case.name, "contestant": name, "median_ms": f"{t.median * 1e3:.4f}",
            "low_ms": f"{t.low * 1e3:.4f}", "high_ms": f"{t.high * 1e3:.4f}", "floor_ms": f"{floor * 1e3:.4f}",
            "peak_mb": f"{memory.get(name, 0.0):.1f}",
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


def _commit() -> str:
    try:
        command = ["git", "rev-parse", "--short", "HEAD"]
        return subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
