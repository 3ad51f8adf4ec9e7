"""What can only be done on a GPU, in one call: build, test, sanitize, measure.

``scripts/gpu_check [--out runs/gpu_check] [--limit 480] [--only ITEM ...] [--skip ITEM ...]``

Items run in the order of their importance, each in processes of its own and within its own time. After each of them,
and every few seconds of a long one, ``gpu_check.json`` and ``gpu_check.md`` in the folder are written anew, so that
nothing is lost when the whole is cut short; what the items print is in ``logs`` beside them. The exit status is 1 where
something failed; what is not there, or finds no time left, is told and no failure. Works offline. Needs torch, NumPy,
pytest, ninja and setuptools, and for its kernels Triton; nothing else is imported.
"""

import argparse
import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OPERATORS = ("norm_sum", "depthwise_bank", "pool_pair", "soft_argmax_3d", "channel_shuffle", "upsample", "pointwise")
BACKENDS = ("native", "triton")
LARGE = "2_to_the_31"
"""What the tests are called that need most of the memory, and so run alone."""
LEFT_OUT = ("not there", "no time left")
"""How the status begins of what could not be done here, through no fault of what is checked."""


@dataclass
class Process:
    """One command of an item.

    Attributes:
        log: Name of the file that takes what it prints.
        writes: A file that it leaves if it has measured anything.
    """

    log: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    writes: Path | None = None
    status: str = "not started"
    seconds: float = 0.0


@dataclass
class Item:
    """A part of the check.

    Attributes:
        box: Seconds that it may take.
        processes: What it runs, ``together`` of them at a time.
    """

    name: str
    box: float
    processes: list[Process]
    together: int = 1
    status: str = "not reached"
    seconds: float = 0.0

    @property
    def statuses(self) -> list[str]:
        return [process.status for process in self.processes] if self.seconds else [self.status]

    @property
    def did_no_wrong(self) -> bool:
        return all(status in ("ok", "no such tests") or status.startswith(LEFT_OUT) for status in self.statuses)


class Cut(Exception):
    """The check was told to end."""


class Check:
    def __init__(self, options: argparse.Namespace):
        self.options, self.began = options, time.monotonic()
        self.out = options.out.resolve()
        self.logs = self.out / "logs"
        shutil.rmtree(self.logs, ignore_errors=True)
        self.logs.mkdir(parents=True)
        self.facts: dict[str, Any] = {"limit": options.limit, "python": sys.version.split()[0]}
        self.items = [item for item in self.planned() if wanted(item.name, options)]

    @property
    def left(self) -> float:
        return self.options.limit - (time.monotonic() - self.began)

    def run(self) -> bool:
        self.facts |= machine()
        try:
            for item in self.items:
                self.do(item)
                self.write()
        except (Cut, KeyboardInterrupt):
            self.facts["cut"] = f"after {time.monotonic() - self.began:.0f} s"
        finally:
            self.write()
        return "cut" not in self.facts and all(item.did_no_wrong for item in self.items)

    def left_out(self) -> list[str]:
        """What did no wrong because it was not done, and why."""
        told = []
        for item in self.items:
            reasons = {status for status in item.statuses if status.startswith(LEFT_OUT)}
            told += [f"{item.name}: {reason}" for reason in sorted(reasons)]
        return told

    def planned(self) -> Iterator[Item]:
        yield Item("info", 60, [self.python("info", "-c", INFO)])
        yield Item(
            "build",
            240,
            [
                self.python("build", __file__, "--build", "--device", self.options.device, **build_environment()),
                self.python("backends", "-c", BACKENDS_SERVING),
            ],
        )
        yield Item("tests", 170, list(self.test_processes()), together=max(2, (os.cpu_count() or 2) - 4))
        large = [self.tests(f"large_{backend}", f"{LARGE} and {backend}") for backend in BACKENDS]
        yield Item("search_step", 100, [
            self.bench("search_step", "--no-compile", "--graph", "--rounds", "7"),
        ])  # fmt: skip
        yield Item("large tensors", 60, large)
        for operator in OPERATORS:
            yield Item(operator, 40, [self.bench(operator, "--rounds", "11")])
        yield Item("mixed_op", 60, [self.bench("mixed_op", "--no-compile", "--graph", "--rounds", "7")])
        yield Item("sanitizer", 90, list(self.sanitizer_processes()), together=4)
        yield Item("search_step, batch 16", 60, [
            self.bench("search_step", "--no-compile", "--graph", "--rounds", "7", "--batch", "16", label="_16"),
        ])  # fmt: skip
        # The kernels of torch.compile for one operator before whole networks: the others' come last.
        yield self.compiled("depthwise_bank")
        yield Item("inference", 45, [self.bench("inference", "--no-compile", "--graph", "--rounds", "7")])
        yield Item(
            "train_step", 45, [self.bench("train_step", "--no-compile", "--graph", "--batch", "16", "--rounds", "7")]
        )
        for kind in ("normal", "fusion", "reduction"):
            only = ("--only", f"{kind} cell", "--dtypes", "float32")
            yield Item(f"mixed_op compiled, {kind}", 120, [
                self.bench("mixed_op", "--compile", "--rounds", "7", *only, label=f"_compiled_{kind}"),
            ])  # fmt: skip
        yield from (self.compiled(operator) for operator in OPERATORS if operator != "depthwise_bank")

    def compiled(self, operator: str) -> Item:
        # A shuffle's cases have no backward of their own.
        only = () if operator == "channel_shuffle" else ("--only", "forward + backward")
        process = self.bench(operator, "--compile", "--rounds", "7", *only, label="_compiled")
        return Item(f"{operator} compiled", 60, [process])

    def python(self, log: str, *arguments: str, **environment: str) -> Process:
        return Process(log, [sys.executable, *arguments], environment)

    def bench(self, name: str, *arguments: str, label: str = "") -> Process:
        rows = self.logs / f"bench_{name}{label}.csv"
        script = str(ROOT / "bench" / f"bench_{name}.py")
        command = [sys.executable, script, "--device", self.options.device, "--csv", str(rows), *arguments]
        return Process(f"bench_{name}{label}", command, writes=rows)

    def tests(
        self, log: str, expression: str, *files: str, prefix: tuple[str, ...] = (), **environment: str
    ) -> Process:
        paths = [str(ROOT / "tests" / "gpu" / file) for file in files] or [str(ROOT / "tests" / "gpu")]
        arguments = ["-m", "pytest", "-p", "no:cacheprovider", "--tb=short", "-k", expression, *paths]
        report = {"PARTNAS_GPU_REPORT": str(self.logs / f"{log}.jsonl"), "OMP_NUM_THREADS": "1"}
        if self.options.device == "cpu":
            report["PARTNAS_GPU_TESTS_ON"] = "cpu"
        return Process(log, [*prefix, sys.executable, *arguments], {**report, **environment})

    def test_processes(self) -> Iterator[Process]:
        # Triton compiles as it goes, so the longest come first.
        for backend in reversed(BACKENDS):
            for half in ("options", "not options"):
                log = f"depthwise_bank_{half.replace(' ', '_')}_{backend}"
                yield self.tests(log, f"test_depthwise and {half} and {backend}", "test_gpu_operators.py")
            yield self.tests(f"search_{backend}", backend, "test_gpu_search.py")
            for operator in OPERATORS:
                prefix = operator.removesuffix("_sum").removesuffix("_pair")
                if operator != "depthwise_bank":
                    yield self.tests(f"{operator}_{backend}", f"test_{prefix} and {backend}", "test_gpu_operators.py")
            yield self.tests(f"calls_{backend}", f"{backend} and not {LARGE}", "test_gpu_calls.py")
        yield self.tests("others", f"not native and not triton and not {LARGE}")

    def sanitizer_processes(self) -> Iterator[Process]:
        program = sanitizer()
        if program is None:
            yield self.python("sanitizer", "-c", "print('compute-sanitizer was not found'); raise SystemExit(77)")
            return
        for tool, caching in (("memcheck", {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}), ("racecheck", {})):
            for backend in BACKENDS:
                yield self.tests(
                    f"{tool}_{backend}",
                    f"another_stream and {backend}",
                    "test_gpu_calls.py",
                    prefix=(program, "--tool", tool, "--error-exitcode", "99", "--print-limit", "20"),
                    **caching,
                )

    def do(self, item: Item) -> None:
        """Run the processes of an item within its time, and what is left of the whole."""
        box = min(item.box, self.left - 3)
        if box < 5:
            item.status = "no time left"
            return
        began, end = time.monotonic(), time.monotonic() + box
        waiting, running = list(item.processes), {}
        item.status = "running"
        told = began
        print(f"gpu_check: {item.name} ({box:.0f} s at most, {self.left:.0f} s left)", flush=True)
        try:
            while (waiting or running) and time.monotonic() < end:
                while waiting and len(running) < item.together:
                    process = waiting.pop(0)
                    running[process.log] = process, self.start(process), time.monotonic()
                for log, (process, handle, since) in list(running.items()):
                    process.seconds = time.monotonic() - since
                    if handle.poll() is not None:
                        del running[log]
                        process.status = outcome(handle.returncode)
                        if process.status == "ok" and process.writes and not process.writes.exists():
                            process.status = "ran no case"
                item.seconds = time.monotonic() - began
                if time.monotonic() - told > 10:
                    told = time.monotonic()
                    self.write()
                time.sleep(0.05)
        finally:
            of_the_whole = box < item.box and time.monotonic() >= end
            for process, handle, _ in running.values():
                process.status = f"{'no time left, ' if of_the_whole else ''}cut after {process.seconds:.0f} s"
                stop(handle)
            if of_the_whole:
                for process in waiting:
                    process.status = "no time left"
            item.seconds = time.monotonic() - began
            item.status = overall([process.status for process in item.processes])
        print(f"gpu_check: {item.name}: {item.status}, {item.seconds:.0f} s", flush=True)

    def start(self, process: Process) -> subprocess.Popen:
        environment = {**os.environ, **ENVIRONMENT, **process.environment}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with open(self.logs / f"{process.log}.txt", "wb") as file:
            return subprocess.Popen(
                process.command,
                cwd=ROOT,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def write(self) -> None:
        """Both files, whole or not at all."""
        record = self.record()
        replace(self.out / "gpu_check.json", json.dumps(record, indent=1) + "\n")
        replace(self.out / "gpu_check.md", markdown(record))

    def record(self) -> dict[str, Any]:
        for log in ("info", "backends"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                self.facts |= json.loads(lines(self.logs / f"{log}.txt")[-1])
        items = []
        for item in self.items:
            entry: dict[str, Any] = {"name": item.name, "status": item.status, "seconds": round(item.seconds, 1)}
            entry["processes"] = [self.process_record(process) for process in item.processes]
            items.append(entry)
        seconds = round(time.monotonic() - self.began, 1)
        return {"seconds": seconds, **self.facts, "left_out": self.left_out(), "items": items}

    def process_record(self, process: Process) -> dict[str, Any]:
        found: dict[str, Any] = {"log": process.log, "status": process.status, "seconds": round(process.seconds, 1)}
        tests = []
        for line in lines(self.logs / f"{process.log}.jsonl"):
            with contextlib.suppress(ValueError):  # half a line of a process that is at work, or was killed
                tests.append(json.loads(line))
        if tests:
            found["tests"] = {
                name: sum(t["outcome"] == name for t in tests) for name in ("passed", "failed", "skipped")
            }
            found["failures"] = [t for t in tests if t["outcome"] == "failed"]
        rows = self.logs / f"{process.log}.csv"
        if rows.exists():
            with open(rows, newline="") as file:
                found["rows"] = [row for row in csv.DictReader(file) if None not in row.values()]
        text = lines(self.logs / f"{process.log}.txt")
        if process.status not in ("ok", "not started", "running"):
            found["tail"] = text[-15:]
        told = [line for line in text if "is not timed" in line]
        if told:
            found["not_timed"] = told
        if "memcheck" in process.log or "racecheck" in process.log:
            found["sanitizer"] = [line for line in text if "=========" in line and "SUMMARY" in line]
        return found


ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",
    "PIP_NO_INDEX": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_BREAK_SYSTEM_PACKAGES": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
}

BACKENDS_SERVING = """
import json, torch
from partnas.ops import backend
found = {}
for operator in backend.AVAILABLE:
    for name in ("native", "triton"):
        with backend.use_backend(name):
            try:
                backend.resolve(operator, torch.empty(0, device="cuda" if torch.cuda.is_available() else "cpu"))
                found[f"{operator}, {name}"] = "there"
            except Exception as error:
                found[f"{operator}, {name}"] = str(error)
print(json.dumps({"backends": found}))
"""

INFO = """
import json, torch
facts = {"torch": torch.__version__, "cuda": torch.version.cuda}
if torch.cuda.is_available():
    properties = torch.cuda.get_device_properties(0)
    facts |= {
        "gpu": properties.name, "gpus": torch.cuda.device_count(), "memory_gb": round(properties.total_memory / 1e9, 1),
        "capability": "%d.%d" % torch.cuda.get_device_capability(0), "l2_mb": round(properties.L2_cache_size / 1e6),
    }
try:
    import triton
    facts["triton"] = triton.__version__
except Exception as error:
    facts["triton"] = repr(error)
print(json.dumps(facts))
"""


def wanted(name: str, options: argparse.Namespace) -> bool:
    chosen = not options.only or any(part in name for part in options.only)
    return chosen and not any(part in name for part in options.skip)


def build(device: str) -> int:
    """Install, and say which library was not built and why. The exit status is not 0 where the device needs it."""
    code = install()
    is_whole = True
    for name in ("_native", "_native_cuda"):
        for line in lines(ROOT / "partnas" / f"{name}_note.txt"):
            print(f"gpu_check: {line}", flush=True)
        if not (ROOT / "partnas" / f"{name}.abi3.so").exists() and (name == "_native" or device == "cuda"):
            is_whole = False
            print(f"gpu_check: partnas/{name}.abi3.so was not built", flush=True)
    return code or int(not is_whole)


def install() -> int:
    """Install the source folder where it lies, with the CUDA operators; nothing is downloaded. Where pip cannot, build
    them in place, and put the kernels where an installed package has them."""
    pip = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "-v", "-e", str(ROOT)]
    if subprocess.run(pip).returncode == 0:
        return 0
    print("gpu_check: pip cannot install; building in place", flush=True)
    code = subprocess.run([sys.executable, "setup.py", "build_ext", "--inplace"], cwd=ROOT).returncode
    kernels = ROOT / "partnas" / "kernels"
    if code == 0 and not kernels.exists():
        kernels.symlink_to(ROOT / "kernels")
    return code


def build_environment() -> dict[str, str]:
    found = {"PARTNAS_CUDA": "1", "MAX_JOBS": str(os.cpu_count() or 2)}
    if not os.environ.get("TORCH_CUDA_ARCH_LIST"):
        capability = first_line("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
        if capability:
            found["TORCH_CUDA_ARCH_LIST"] = capability
    return found


def sanitizer() -> str | None:
    found = shutil.which("compute-sanitizer")
    places = [
        Path(home) / "bin" / "compute-sanitizer" for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if home
    ]
    return found or next((str(place) for place in places if place.exists()), None)


def machine() -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": first_line("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"),
        "nvidia_smi": first_line(
            "nvidia-smi", "--query-gpu=name,driver_version,clocks.max.sm,memory.total", "--format=csv,noheader"
        ),
        "nvcc": (first_line("nvcc", "--version", last=True)),
        "cpus": os.cpu_count(),
    }


def first_line(*command: str, last: bool = False) -> str:
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip().splitlines()
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return output[-1 if last else 0].strip() if output else ""


def outcome(code: int) -> str:
    if code == 0:
        return "ok"
    return {5: "no such tests", 77: "not there", 99: "found errors"}.get(code, f"failed (exit {code})")


def overall(statuses: list[str]) -> str:
    worst = [status for status in statuses if status not in ("ok", "no such tests")]
    return "ok" if not worst else worst[0] if len(set(worst)) == 1 else f"{len(worst)} of {len(statuses)}: {worst[0]}"


def stop(handle: subprocess.Popen) -> None:
    """End a process and what it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(handle.pid, number)
        try:
            handle.wait(timeout=2)
        except subprocess.TimeoutExpired:
            continue
        return


def lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def markdown(record: dict[str, Any]) -> str:
    """The record for people."""
    facts = [
        f"{name}: {record[name]}"
        for name in ("gpu", "nvidia_smi", "torch", "cuda", "triton", "nvcc", "python", "commit", "date")
        if record.get(name)
    ]
    found = ["# gpu_check", "", *[f"- {fact}" for fact in facts], f"- {record['seconds']:.0f} s of {record['limit']} s"]
    absent = {name: why for name, why in record.get("backends", {}).items() if why != "there"}
    found += [f"- not there: {name}: {why}" for name, why in absent.items()]
    found += [f"- left out: {reason}" for reason in record["left_out"]]
    if record.get("cut"):
        found.append(f"- cut short {record['cut']}")
    found += ["", "| item | status | seconds | tests |", "| --- | --- | --- | --- |"]
    for item in record["items"]:
        tests = [process["tests"] for process in item["processes"] if "tests" in process]
        counts = (
            ", ".join(f"{sum(t[name] for t in tests)} {name}" for name in ("passed", "failed", "skipped"))
            if tests
            else ""
        )
        found.append(f"| {item['name']} | {item['status']} | {item['seconds']} | {counts} |")
    for item in record["items"]:
        found += notes(item)
    for item in record["items"]:
        rows = [row for process in item["processes"] for row in process.get("rows", [])]
        if rows:
            found += ["", f"## {item['name']}", "", *table(rows)]
        found += [f"- {line}" for process in item["processes"] for line in process.get("not_timed", [])]
    return "\n".join(found) + "\n"


def notes(item: dict[str, Any]) -> list[str]:
    """What failed in an item, process by process."""
    found = []
    for process in item["processes"]:
        if process.get("sanitizer"):
            found.append(f"- {process['log']}: {'; '.join(process['sanitizer'])}")
        for failure in process.get("failures", []):
            found.append(f"- FAILED {failure['test']}: {failure['message']}")
        if process.get("tail") and not process.get("failures"):
            found += [f"- {process['log']}: {process['status']}", "", "```", *process["tail"], "```"]
    return ["", f"## {item['name']}: what went wrong", "", *found] if found else []


def table(rows: list[dict[str, str]]) -> list[str]:
    """Milliseconds of every contestant, case by case; our best against the best peer and the floor."""
    names = list(dict.fromkeys(row["contestant"] for row in rows))
    found = [f"| milliseconds (peak MB) | {' | '.join(names)} | floor | gain | x floor |"]
    found.append("| --- " * (len(names) + 4) + "|")
    for case in dict.fromkeys(row["case"] for row in rows):
        times = {row["contestant"]: row for row in rows if row["case"] == case}
        cells = [cell(times[name]) if name in times else "" for name in names]
        ours = best(times, lambda name: name.startswith("ours"))
        peer = best(times, lambda name: not name.startswith("ours"))
        floor = float(next(iter(times.values()))["floor_ms"])
        gain = f"{peer / ours:.2f}" if ours and peer else ""
        bound = f"{ours / floor:.1f}" if ours and floor else ""
        found.append(f"| {case} | {' | '.join(cells)} | {floor:.3f} | {gain} | {bound} |")
    return found


def cell(row: dict[str, str]) -> str:
    memory = float(row.get("peak_mb") or 0)
    return f"{float(row['median_ms']):.3f}" + (f" ({memory:.0f})" if memory else "")


def best(times: dict[str, dict[str, str]], counts: Callable[[str], bool]) -> float:
    return min((float(row["median_ms"]) for name, row in times.items() if counts(name)), default=0.0)


def told_to_end(number: int, frame: Any) -> None:
    raise Cut


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu_check", help="folder of the results")
    parser.add_argument("--limit", type=float, default=480, help="seconds for all of it")
    parser.add_argument("--only", nargs="*", default=[], help="items whose name has one of these in it")
    parser.add_argument("--skip", nargs="*", default=[], help="items to leave out, likewise")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries out the check itself")
    parser.add_argument("--build", action="store_true", help="build, and nothing else")
    options = parser.parse_args()
    if options.build:
        sys.exit(build(options.device))
    signal.signal(signal.SIGTERM, told_to_end)
    check = Check(options)
    went_well = check.run()
    for reason in check.left_out():
        print(f"gpu_check: left out: {reason}")
    print(f"gpu_check: {check.out / 'gpu_check.md'}, {time.monotonic() - check.began:.0f} s")
    sys.exit(0 if went_well else 1)


if __name__ == "__main__":
    main()
