"""Builds the native operators into ``partnas/_native.abi3.so``, through PyTorch's stable ABI.

The library is no Python module: ``torch.ops.load_library`` loads it, and one binary serves every torch from
``TORCH_TARGET_VERSION`` on. Kernel files are compiled once per instruction set, each in a namespace of its own; which
one runs is chosen when it is loaded. Without a working C++ compiler the installation still succeeds on the reference
operators: one line says why, and the same line is left in ``partnas/_native_note.txt`` for ``partnas info``.

The CUDA operators are a library of their own, ``partnas/_native_cuda.abi3.so``, built where torch has CUDA and nvcc is
found, or where ``PARTNAS_CUDA=1`` asks for it (``PARTNAS_CUDA=0`` leaves it out), for the architectures of
``TORCH_CUDA_ARCH_LIST``; ``_native_cuda_note.txt`` says why it is missing.
"""

import os
import platform
import re
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
CUDA_FLAGS = ["--std=c++20", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall,-Wextra"]
CUDA_ARCHITECTURES = ["7.5", "8.0", "9.0", "10.0"]
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
    """What a command prints."""
    try:
        finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise BuildFailure(f"{command[0]} does not run ({error.strerror})") from None
    if finished.returncode:
        sys.stderr.write(f"{' '.join(command)}\n{finished.stderr}")
        told = [line.strip() for line in finished.stderr.splitlines() if line.strip()] or ["no message"]
        wrong = [line for line in told if re.search("error|fatal", line, re.IGNORECASE)] or told[-1:]
        raise BuildFailure(f"{command[0]} failed: {wrong[0]}")
    return finished.stdout


def compiler():
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and shutil.which(name.split()[0]):
            return name.split()
        if name and name == os.environ.get("CXX"):
            raise BuildFailure(f"no C++ compiler: CXX={name} is not there")
    raise BuildFailure("no C++ compiler was found (install g++ 11 or newer, or set CXX)")


def torch_folder():
    try:
        import torch
    except ImportError as error:
        raise BuildFailure(f"torch does not import at build time ({error})") from None
    installed = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if installed < TORCH_TARGET_VERSION:
        raise BuildFailure(f"torch {torch.__version__} is too old to build with; 2.11 is the least")
    return Path(torch.__file__).parent


def host_flags():
    return [*COMMON_FLAGS, *os.environ.get("CXXFLAGS", "").split(), f"-I{ROOT / 'csrc'}"]


def facing_torch():
    target = f"-DTORCH_TARGET_VERSION=0x{TORCH_TARGET_VERSION[0]:02x}{TORCH_TARGET_VERSION[1]:02x}000000000000ULL"
    return [*host_flags(), target, "-isystem", str(torch_folder() / "include")]


def link_torch():
    # libtorch.so itself is named, though nothing in it is used: under a torch with CUDA it brings libtorch_cuda.so.
    return [f"-L{torch_folder() / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]


def workers():
    return int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)


def compile_all(jobs):
    """Runs ``[*command, source, -o, object]`` for each ``(command, source, object)``; the objects."""
    with ThreadPoolExecutor(workers()) as pool:
        list(pool.map(lambda job: run([*job[0], "-c", job[1], "-o", str(job[2])]), jobs))
    return [str(job[2]) for job in jobs]


def object_of(source, objects, suffix=""):
    return objects / f"{source.replace('/', '_')}{suffix}.o"


def build_native(library, objects):
    cxx = compiler()
    jobs = []
    for source in sources("csrc/*.cpp", "csrc/bindings/*.cpp"):
        jobs.append(([*cxx, *facing_torch()], source, object_of(source, objects)))
    for source in sources("csrc/cpu/*.cpp"):
        for name, instructions in CAPABILITIES.items():
            kernel = [*host_flags(), *KERNEL_FLAGS, f"-DPARTNAS_CAPABILITY={name}", *instructions]
            jobs.append(([*cxx, *kernel], source, object_of(source, objects, f".{name}")))
    linking = os.environ.get("LDFLAGS", "").split()
    run([*cxx, "-shared", *linking, *compile_all(jobs), "-o", str(library), *link_torch()])


class NotAsked(BuildFailure):
    """The CUDA library is left out without being missed."""


def find_nvcc():
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    candidates = [*(f"{home}/bin/nvcc" for home in homes if home), "nvcc", "/usr/local/cuda/bin/nvcc"]
    return next((found for found in map(shutil.which, candidates) if found), None)


def cuda_compiler():
    """nvcc, where the CUDA library is to be built."""
    wish = os.environ.get("PARTNAS_CUDA", "")
    if wish not in ("", "0", "1"):
        raise BuildFailure(f"PARTNAS_CUDA is {wish!r}; it may be 1 (build them) or 0 (leave them out)")
    torch_folder()
    import torch

    if wish == "0":
        raise NotAsked("PARTNAS_CUDA=0 left them out")
    if wish != "1" and torch.version.cuda is None:
        raise NotAsked(f"torch {torch.__version__} has no CUDA (PARTNAS_CUDA=1 builds them all the same)")
    nvcc = find_nvcc()
    if nvcc is None:
        missing = "nvcc was not found (put it on PATH or set CUDA_HOME)"
        raise BuildFailure(missing) if wish == "1" else NotAsked(missing)
    if torch.version.cuda is not None:
        release = re.search(r"release (\d+)\.(\d+)", run([nvcc, "--version"]))
        if release is None:
            raise BuildFailure(f"{nvcc} --version names no release")
        if release[1] != torch.version.cuda.split(".")[0]:
            raise BuildFailure(
                f"{nvcc} is of CUDA {release[1]}.{release[2]}, but torch {torch.__version__} of CUDA "
                f"{torch.version.cuda}: install the toolkit of the same major version"
            )
    return nvcc


def cuda_architectures(nvcc):
    """``['7.5', ..., '10.0+PTX']``: those of ``TORCH_CUDA_ARCH_LIST``, or the default ones that this nvcc knows."""
    asked = re.split(r"[;,\s]+", os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip("; ,"))
    if asked == [""]:
        known = run([nvcc, "--list-gpu-arch"]).split()
        asked = [name for name in CUDA_ARCHITECTURES if f"compute_{name.replace('.', '')}" in known]
        if not asked:
            raise BuildFailure(f"{nvcc} knows none of the architectures {', '.join(CUDA_ARCHITECTURES)}")
        asked[-1] += "+PTX"
    for name in asked:
        if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", name):
            raise BuildFailure(
                f"TORCH_CUDA_ARCH_LIST names {name!r}; architectures are written like '8.0' or '9.0+PTX'"
            )
    return asked


def generate_code(architectures):
    flags = []
    for name in architectures:
        number = name.removesuffix("+PTX").replace(".", "")
        for kind in ("sm", "compute") if name.endswith("+PTX") else ("sm",):
            flags += ["-gencode", f"arch=compute_{number},code={kind}_{number}"]
    return flags


def build_cuda(library, objects):
    nvcc, cxx = cuda_compiler(), compiler()
    host = [word for word in cxx if not word.startswith("-")][-1]  # behind a launcher such as ccache
    architectures = cuda_architectures(nvcc)
    threads = max(1, workers() // 3)
    kernel = [nvcc, "-ccbin", host, "--threads", str(threads), *CUDA_FLAGS, f"-I{ROOT / 'csrc'}"]
    kernel += generate_code(architectures)
    # An operator that has its launcher's name goes unused: the launcher would be registered in its place.
    face = [*cxx, *facing_torch(), "-Werror=unused-function", "-DUSE_CUDA"]
    face += [f'-DPARTNAS_CUDA_ARCHITECTURES="{";".join(architectures)}"']
    jobs = [(kernel, source, object_of(source, objects)) for source in sources(*CUDA_SOURCES)]
    jobs += [(face, source, object_of(source, objects)) for source in sources("csrc/bindings/cuda/*.cpp")]
    # The runtime is linked statically and hidden: whichever one torch has brought is left alone.
    link = [nvcc, "-ccbin", host, "-shared", "-cudart", "static", "-Xlinker", "--exclude-libs=ALL,--no-as-needed"]
    run([*link, *compile_all(jobs), "-o", str(library), *link_torch()])


class BuildNative(build_ext):
    """Builds the libraries, or leaves a note that says why one could not be built."""

    def build_extension(self, extension):
        library = Path(self.get_ext_fullpath(extension.name)).resolve()
        folder = library.parent
        folder.mkdir(parents=True, exist_ok=True)
        name = library.name.split(".")[0]
        homes = {folder, ROOT / "partnas"} if self.editable_mode else {folder}
        for home in homes:
            for stale in (*home.glob(f"{name}.*so"), home / f"{name}_note.txt"):
                stale.unlink(missing_ok=True)
        build, what, instead = BUILDS[extension.name]
        try:
            with tempfile.TemporaryDirectory() as objects:
                build(library, Path(objects))
        except BuildFailure as failure:
            asked = not isinstance(failure, NotAsked)
            line = f"{what} were not built: {failure}" + (f"; {instead} instead ({HOW_TO_RETRY})" if asked else "")
            for home in homes:
                (home / f"{name}_note.txt").write_text(line + "\n")
            if asked:
                tell(f"partnas: {line}")


CUDA_SOURCES = ("csrc/cuda/*.cu", "csrc/common/*.cu")
BUILDS = {
    "partnas._native": (build_native, "native operators", "reference operators serve"),
    "partnas._native_cuda": (build_cuda, "CUDA operators", "Triton or reference operators serve GPUs"),
}
SOURCES = {
    "partnas._native": ("csrc/*.cpp", "csrc/bindings/*.cpp", "csrc/cpu/*.cpp"),
    "partnas._native_cuda": (*CUDA_SOURCES, "csrc/bindings/cuda/*.cpp"),
}

setup(
    packages=[*find_packages(include=["partnas", "partnas.*"]), "partnas.kernels"],
    package_dir={"partnas.kernels": "kernels"},
    package_data={
        "partnas": ["published.yaml", "reference/*"],
        "partnas.data": ["sample/*", "sample/**/*", "objects/*"],
        "partnas.viz": ["*.j2"],
    },
    ext_modules=[
        Extension(
            name,
            sources=sources(*patterns),
            depends=sources("csrc/**/*.h", "csrc/**/*.cuh"),
            py_limited_api=True,
            optional=True,
        )
        for name, patterns in SOURCES.items()
    ],
    cmdclass={"build_ext": BuildNative},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
