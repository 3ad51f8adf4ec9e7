"""Compiles kernel files of csrc/cuda for the emulator, and runs their launchers on NumPy arrays.

    library = load("channel_shuffle")                      # csrc/cuda/channel_shuffle.cu and .h
    (y,) = library.run("channel_shuffle", x, Output(x.shape, "bfloat16"), 4, "bfloat16")

Objects are kept by the hash of what they are made of, in ``$PARTNAS_CACHE`` or ``~/.cache/partnas``.
"""

import contextlib
import functools
import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
STORAGES = ("float64", "float32", "bfloat16", "float16")

CXX = shlex.split(os.environ.get("CXX") or "g++")
FLAGS = ["-std=c++20", "-O1", "-g1", "-fPIC", "-ffp-contract=off", f"-I{HERE}", f"-I{ROOT / 'csrc'}"]
# Of warnings nvcc is the judge.
KERNEL_FLAGS = ["-x", "c++", "-DPARTNAS_EMULATOR", "-fno-gnu-unique", "-w"]
SANITIZERS = {
    # Memory accesses and indices are reported to emulator.cpp, which takes the place of the sanitizers' own libraries.
    "own": ["-fsanitize=thread,bounds,alignment", "--param=tsan-instrument-func-entry-exit=0"],
    # Needs a process that has loaded it from its start: see address_sanitizer().
    "address": ["-fsanitize=address"],
    "none": [],
}


def missing() -> str:
    """What the emulator lacks to be compiled here; empty when it can be. For ``pytest.mark.skipif``."""
    if shutil.which(CXX[0]) is None:
        return f"the emulator needs a C++ compiler: {CXX[0]} was not found"
    return "" if importlib.util.find_spec("pybind11") else "the emulator needs pybind11: pip install pybind11"


def cache() -> Path:
    """Folder of the compiled files, outside of the repository."""
    home = os.environ.get("PARTNAS_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "partnas"
    folder = Path(home) / "emulator"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def address_sanitizer() -> dict[str, str]:
    """What the environment of a process needs to run kernels compiled with ``sanitizer="address"``."""
    runtime = subprocess.run([*CXX, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout
    standard = subprocess.run(
        [*CXX, "-print-file-name=libstdc++.so"], capture_output=True, text=True, check=True
    ).stdout
    return {
        "LD_PRELOAD": f"{runtime.strip()} {standard.strip()}",
        "ASAN_OPTIONS": "detect_leaks=0:allow_user_segv_handler=1",
        "PARTNAS_EMULATOR_SANITIZER": "address",
    }


def _included(path: Path, seen: set[Path]) -> set[Path]:
    """The file and the project's headers that it includes."""
    if path in seen:
        return seen
    seen.add(path)
    for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(), re.MULTILINE):
        for folder in (path.parent, HERE, ROOT / "csrc"):
            if (folder / name).is_file():
                _included((folder / name).resolve(), seen)
                break
    return seen


def _compile(name: str, sources: list[Path], flags: list[str], header: Path | None = None) -> Path:
    """A shared library of ``sources``, compiled if what it is made of has changed; it describes ``header``."""
    text = _description(header) if header else ""
    included: set[Path] = set()
    for source in [*sources, header] if header else sources:
        _included(source.resolve(), included)
    digest = hashlib.sha256(repr((CXX, flags, text)).encode())
    for path in sorted(included):
        digest.update(path.read_bytes())
    library = cache() / f"{name}-{digest.hexdigest()[:20]}.so"
    with FileLock(library.with_suffix(".lock")):
        if not library.is_file():
            _build(library, sources, flags, text)
    return library


def _build(library: Path, sources: list[Path], flags: list[str], text: str) -> None:
    with tempfile.TemporaryDirectory(dir=cache()) as folder:
        if text:
            extra = Path(folder) / "text.cpp"
            extra.write_text(text)
            sources = [*sources, extra]
        # Compiled and linked apart: a link that knew of the sanitizers would bring their own libraries in.
        libraries = [flag for flag in flags if flag.endswith(".so")]
        flags = [flag for flag in flags if flag not in libraries]
        objects = [f"{folder}/{i}.o" for i in range(len(sources))]
        for source, target in zip(sources, objects, strict=True):
            _run([*CXX, *FLAGS, *flags, "-c", str(source), "-o", target])
        output = Path(folder) / library.name
        _run([*CXX, "-shared", "-o", str(output), *objects, *libraries])
        output.replace(library)


def _run(command: list[str]) -> None:
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{finished.stderr}")


@functools.cache
def machine():
    """The emulator itself, a Python module; its ``Fault`` is what a kernel's fault raises."""
    import pybind11  # not where this file is only asked what is missing

    sources = [HERE / "emulator.cpp", HERE / "module.cpp"]
    include = [f"-isystem{pybind11.get_include()}", f"-isystem{sysconfig.get_paths()['include']}"]
    path = _compile("partnas_emulator", sources, ["-O2", *include, "-Wall", "-Wextra", "-Werror"])
    spec = importlib.util.spec_from_file_location("partnas_emulator", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Output:
    """An array that the launcher is to write whole; it comes filled with NaN, between red zones."""

    shape: tuple[int, ...]
    dtype: str
    whole: bool = True

    @property
    def storage(self):
        return np.dtype("uint16" if self.dtype == "bfloat16" else self.dtype)


@dataclass(frozen=True)
class Scratch:
    """Device memory that need not be written whole; it is not returned."""

    bytes: int


@dataclass(frozen=True)
class Host:
    """An array that the launcher reads on the host; others are for kernels only."""

    array: np.ndarray


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """float32 -> bfloat16 as uint16, rounded to the nearest, ties to even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FFF), rounded)


def from_bfloat16(x: np.ndarray) -> np.ndarray:
    """bfloat16 as uint16 -> float32."""
    return (x.astype(np.uint32) << 16).view(np.float32)


def to_storage(x: np.ndarray, storage: str) -> np.ndarray:
    """``x`` as a launcher takes it: bfloat16 as uint16, everything else as it is called."""
    return to_bfloat16(x) if storage == "bfloat16" else np.ascontiguousarray(x, storage)


def from_storage(x: np.ndarray, storage: str) -> np.ndarray:
    """The other way, to float32."""
    return from_bfloat16(x) if storage == "bfloat16" else x.astype(np.float32)


class Library:
    """The launchers of one kernel file."""

    def __init__(self, path: Path):
        self._machine = machine()
        self._library = self._machine.load(str(path), _variables(path))
        self.kinds: dict[str, str] = self._library.kinds
        self.facts: list[tuple[str, int, int, int, int]] = self._library.facts

    def run(self, name: str, *arguments, orders: int | None = None) -> tuple[np.ndarray, ...]:
        """Call a launcher once for every order of threads and blocks; its outputs must be the same bit for bit.
        ``$PARTNAS_EMULATOR_ORDERS`` runs no more than so many.

        Args:
            arguments: those of the launcher but the stream. Arrays are copied to device memory and must come back
                unchanged; :class:`Output`, :class:`Scratch`, :class:`Host` and None are for other pointers, a list of
                them for a pointer to pointers, which lies on the host. A storage is given by its
                name, a structure of int64_t by a list of them (or by any array of its bytes).

        Returns:
            The outputs, in the order of the arguments.

        Raises:
            Fault: a kernel did what it must not; see emulator.cpp.
            AssertionError: outputs differ or were not written whole, or an input has changed.
            RuntimeError: the launcher returned an error.
        """
        first = None
        most = int(os.environ.get("PARTNAS_EMULATOR_ORDERS") or self._machine.orders)
        for order in range(most if orders is None else min(orders, most)):
            outputs = self._run(name, arguments, order)
            if first is None:
                first = outputs
            for i, (expected, found) in enumerate(zip(first, outputs, strict=True)):
                same = expected.tobytes() == found.tobytes()
                assert same, f"{name}: output {i} depends on the order in which threads run: a barrier is missing"
        return first

    def ask(self, name: str, *arguments) -> int:
        """What a function that launches nothing returns; arguments as for :meth:`run`."""
        try:
            return self._call(name, arguments, [])
        finally:
            self._machine.release()

    def _run(self, name, arguments, order):
        placed = []
        try:
            self._machine.set_order(order)
            status = self._call(name, arguments, placed)
            if status:
                raise RuntimeError(f"{name} returned the error {status}")
            outputs = []
            for argument, address, label in placed:
                if isinstance(argument, Output):
                    outputs.append(self._output(argument, address, f"{name}, {label}"))
                else:
                    now = self._machine.read(address, argument.nbytes)
                    assert now == argument.tobytes(), f"{name}: {label}, an input, has changed"
            return tuple(outputs)
        finally:
            self._machine.release()

    def _call(self, name, arguments, placed):
        kinds = self.kinds[name].removesuffix("-")
        if len(kinds) != len(arguments):
            raise TypeError(f"{name} takes {len(kinds)} arguments, got {len(arguments)}")
        values = [
            self._value(kind, argument, f"argument {i}", placed)
            for i, (kind, argument) in enumerate(zip(kinds, arguments, strict=True))
        ]
        try:
            return self._machine.call(self._library, name, values)
        except self._machine.Fault as fault:
            raise self._machine.Fault(_with_lines(str(fault))) from None

    def _value(self, kind, argument, label, placed):
        if kind == "s":
            return STORAGES.index(argument)
        if kind == "x":
            return self._place(np.asarray(argument), label, host=True)
        if kind != "p":
            return argument
        if argument is None:
            return 0
        if isinstance(argument, (list, tuple)):
            pointers = [self._value("p", each, f"{label}[{i}]", placed) for i, each in enumerate(argument)]
            return self._place(np.array(pointers, np.uint64), label, host=True)
        if isinstance(argument, Scratch):
            return self._machine.allocate(argument.bytes, False, label)
        if isinstance(argument, Output):
            address = self._machine.allocate(argument.storage.itemsize * int(np.prod(argument.shape)), False, label)
            placed.append((argument, address, label))
            return address
        host = isinstance(argument, Host)
        array = np.ascontiguousarray(argument.array if host else argument)
        address = self._place(array, label, host)
        placed.append((array, address, label))
        return address

    def _place(self, array, label, host):
        address = self._machine.allocate(array.nbytes, host, label)
        self._machine.write(address, array)
        return address

    def _output(self, output, address, label):
        count = int(np.prod(output.shape))
        data = self._machine.read(address, output.storage.itemsize * count)
        if output.whole:
            elements = np.frombuffer(data, f"V{output.storage.itemsize}")
            unwritten = np.flatnonzero(elements == np.void(b"\xff" * output.storage.itemsize))
            if len(unwritten):
                where = np.unravel_index(unwritten[0], output.shape)
                raise AssertionError(
                    f"{label}: {len(unwritten)} of {count} numbers were not written, or come from memory that was not, the "
                    f"first at ({', '.join(map(str, where))})"
                )
        return np.frombuffer(data, output.storage).reshape(output.shape).copy()


def _variables(path: Path):
    """Name, offset, bytes of each variable of a library, and whether it is shared: local to a function, zeroed."""
    listing = subprocess.run(["nm", "-S", "-C", str(path)], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^([0-9a-f]+) ([0-9a-f]+) ([bBdDVvu]) (.+)$", listing, re.MULTILINE)
    guarded = {name.removeprefix("guard variable for ") for *_, name in found if name.startswith("guard variable")}
    variables = {}
    for offset, size, kind, name in found:
        local = "::" in name and "(" in name and name not in guarded
        shared = kind != "d" and kind != "D" and local and not name.startswith("guard variable")
        variables[int(offset, 16)] = (name.rsplit("::", 1)[-1], int(offset, 16), int(size, 16), shared)
    return list(variables.values())


def _with_lines(text: str) -> str:
    """Turns `` {library offset}`` into a file and a line."""

    def line(match):
        command = ["addr2line", "-e", match[1], match[2]]
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            place = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
            return f" ({Path(place).name})"
        return ""

    return re.sub(r" \{(\S+) (0x[0-9a-f]+)\}", line, text)


def _description(header: Path) -> str:
    """C++ that tells the emulator which launchers, and facts, a header declares."""
    text = header.read_text()
    functions = re.findall(r"^(?:Status|int64_t|int|bool) (\w+)\(", text, re.MULTILINE)
    facts = re.findall(r"^Facts (\w+)\(\)", text, re.MULTILINE)
    bound = [f'entries.push_back(Bound<partnas::cuda::{name}>::entry("{name}"));' for name in functions]
    stated = [f"for (const auto& fact : partnas::cuda::{name}()) facts.push_back(fact);" for name in facts]
    return "\n".join(
        [
            f'#include "{header}"',
            '#include "bind.h"',
            "using emulator::Bound;",
            'extern "C" void emulator_describe(std::vector<emulator::Entry>& entries, partnas::cuda::Facts& facts) {',
            *bound,
            "(void)facts;",
            *stated,
            "}",
        ]
    )


def load(operator: str) -> Library:
    """The launchers of ``csrc/cuda/<operator>.h``."""
    return load_file(ROOT / f"csrc/cuda/{operator}.cu", ROOT / f"csrc/cuda/{operator}.h")


def compiled(operator: str, sanitizer: str) -> Path:
    """The shared library of ``csrc/cuda/<operator>.cu``; its name tells its content."""
    return _library(ROOT / f"csrc/cuda/{operator}.cu", ROOT / f"csrc/cuda/{operator}.h", sanitizer)


def load_file(source: Path, header: Path, sanitizer: str | None = None) -> Library:
    """The launchers that ``header`` declares and ``source`` defines, compiled with one of ``SANITIZERS``:
    ``$PARTNAS_EMULATOR_SANITIZER``, or ``"own"``."""
    return _load(source, header, sanitizer or os.environ.get("PARTNAS_EMULATOR_SANITIZER") or "own")


@functools.cache
def _load(source: Path, header: Path, sanitizer: str) -> Library:
    return Library(_library(source, header, sanitizer))


def _library(source: Path, header: Path, sanitizer: str) -> Path:
    flags = [*KERNEL_FLAGS, *SANITIZERS[sanitizer], f"-I{header.parent}", machine().__file__]
    return _compile(f"{source.stem}-{sanitizer}", [source], flags, header)
