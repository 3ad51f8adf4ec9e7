"""Builds the native operators into ``partnas/_native.abi3.so``, through PyTorch's stable ABI.

The library is no Python module: ``torch.ops.load_library`` loads it, and one binary serves every torch from
``TORCH_TARGET_VERSION`` on. Kernel files are compiled once per instruction set, each in a namespace of its own; which
one runs is chosen when it is loaded. Without a working C++ compiler the installation still succeeds on the reference
operators: one line says why, and the same line is left in ``partnas/_native_note.txt`` for ``partnas info``.
"""

import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
TORCH_TARGET_VERSION = (2, 11)
CAPABILITIES = {"baseline": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    CAPABILITIES["avx2"] = ["-mavx2", "-mfma", "-mf16c"]
    CAPABILITIES["avx512"] = [*CAPABILITIES["avx2"], "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl"]

# GCC reports its own AVX-512 intrinsics as uninitialised (bug 105593).
KERNEL_FLAGS = ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]
COMMON_FLAGS = ["-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]
HOW_TO_RETRY = "fix it and run `pip install --no-build-isolation -e .` again"


def sources(*patterns):
    return sorted(path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern))


def user_error_stream():
    """Where the person who installs reads: pip hides what a successful build prints, but shows its own stderr."""
    stream = Path(f"/proc/{os.getppid()}/fd/2")
    try:
        mode = stream.stat().st_mode
        if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
            return stream.open("a")
    except OSError:
        pass
    return None


def tell(line):
    print(line, file=sys.stderr, flush=True)
    stream = user_error_stream()
    if stream is not None:
        with stream:
            stream.write(f"\n{line}\n")


class BuildFailure(Exception):
    """One line: what was missing or what the compiler said."""


def run(command):
    try:
        finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except OSError as error:
        raise BuildFailure(f"{command[0]} does not run ({error.strerror})") from None
    if finished.returncode:
        sys.stderr.write(f"{' '.join(command)}\n{finished.stderr}")
        lines = [line for line in finished.stderr.splitlines() if "error" in line.lower()] or ["no message"]
        raise BuildFailure(f"{command[0]} failed: {lines[0].strip()}")


def compiler():
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and shutil.which(name.split()[0]):
            return name.split()
        if name and name == os.environ.get("CXX"):
            raise BuildFailure(f"no C++ compiler: CXX={name} is not there")
    raise BuildFailure("no C++ compiler was found (install g++ 11 or newer, or set CXX)")


def build_native(library, objects):
    try:
        import torch
    except ImportError as error:
        raise BuildFailure(f"torch does not import at build time ({error})") from None
    installed = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if installed < TORCH_TARGET_VERSION:
        raise BuildFailure(f"torch {torch.__version__} is too old to build with; 2.11 is the least")

    cxx = compiler()
    torch_folder = Path(torch.__file__).parent
    target = f"-DTORCH_TARGET_VERSION=0x{TORCH_TARGET_VERSION[0]:02x}{TORCH_TARGET_VERSION[1]:02x}000000000000ULL"
    flags = [*COMMON_FLAGS, *os.environ.get("CXXFLAGS", "").split(), f"-I{ROOT / 'csrc'}"]
    facing_torch = [*flags, target, "-isystem", str(torch_folder / "include")]

    jobs = []
    for source in sources("csrc/*.cpp", "csrc/bindings/*.cpp"):
        jobs.append((source, source.replace("/", "_"), facing_torch))
    for source in sources("csrc/cpu/*.cpp"):
        for name, instructions in CAPABILITIES.items():
            kernel = [*flags, *KERNEL_FLAGS, f"-DPARTNAS_CAPABILITY={name}", *instructions]
            jobs.append((source, f"{source.replace('/', '_')}.{name}", kernel))

    def compile_one(job):
        source, name, arguments = job
        output = str(objects / f"{name}.o")
        run([*cxx, *arguments, "-c", source, "-o", output])
        return output

    workers = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        outputs = list(pool.map(compile_one, jobs))
    search = str(torch_folder / "lib")
    linking = os.environ.get("LDFLAGS", "").split()
    run([*cxx, "-shared", *linking, *outputs, "-o", str(library), f"-L{search}", "-ltorch", "-ltorch_cpu", "-lc10"])


class BuildNative(build_ext):
    """Builds the library, or leaves a note that says why it could not be built."""

    def build_extension(self, extension):
        library = Path(self.get_ext_fullpath(extension.name)).resolve()
        folder = library.parent
        folder.mkdir(parents=True, exist_ok=True)
        homes = {folder, ROOT / "partnas"} if self.editable_mode else {folder}
        for home in homes:
            for stale in (*home.glob("_native*.so"), home / "_native_note.txt"):
                stale.unlink(missing_ok=True)
        try:
            with tempfile.TemporaryDirectory() as objects:
                build_native(library, Path(objects))
        except BuildFailure as failure:
            line = f"native operators were not built: {failure}; reference operators serve instead ({HOW_TO_RETRY})"
            for home in homes:
                (home / "_native_note.txt").write_text(line + "\n")
            tell(f"partnas: {line}")


setup(
    packages=[*find_packages(include=["partnas", "partnas.*"]), "partnas.kernels"],
    package_dir={"partnas.kernels": "kernels"},
    package_data={
        "partnas.data": ["sample/*", "sample/**/*"],
        "partnas.viz": ["*.j2"],
    },
    ext_modules=[
        Extension(
            "partnas._native",
            sources=sources("csrc/*.cpp", "csrc/bindings/*.cpp", "csrc/cpu/*.cpp"),
            depends=sources("csrc/**/*.h"),
            py_limited_api=True,
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildNative},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
