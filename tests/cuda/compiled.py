"""Kernel files compiled by nvcc for every architecture, kept by their content outside of the repository."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock

REPOSITORY = Path(__file__).resolve().parents[2]
KERNELS = sorted([*REPOSITORY.glob("csrc/cuda/*.cu"), *REPOSITORY.glob("csrc/common/*.cu")])
HEADERS = sorted(
    [*REPOSITORY.glob("csrc/cuda/*.h"), *REPOSITORY.glob("csrc/cuda/*.cuh"), *REPOSITORY.glob("csrc/common/*")]
)
ARCHITECTURES = (75, 80, 90, 100)
FLAGS = [
    "--std=c++20",
    "-O3",
    "-Werror",
    "all-warnings",
    "-Xcompiler",
    "-fPIC,-Wall,-Wextra,-Werror",
    "-Xptxas",
    "-v",
    "-Icsrc",
    *(flag for number in ARCHITECTURES for flag in ("-gencode", f"arch=compute_{number},code=sm_{number}")),
]


def find_nvcc() -> str | None:
    homes = (os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH"))
    return next((found for home in homes if home and (found := shutil.which(f"{home}/bin/nvcc"))), shutil.which("nvcc"))


def cache() -> Path:
    """``PARTNAS_CACHE``, or a folder of the user's own."""
    home = os.environ.get("PARTNAS_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "partnas"
    return Path(home) / "cuda"


def fingerprint(kernel: Path, nvcc: str) -> str:
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    digest = hashlib.sha256("\0".join([version, kernel.name, *FLAGS]).encode())
    for path in (kernel, *HEADERS):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:24]


def compiled(kernel: Path, nvcc: str, threads: int = 1) -> tuple[Path, str]:
    """The object file of a kernel file, for all of ``ARCHITECTURES`` in one, and what ptxas said of its resources.

    Raises:
        AssertionError: the compiler's messages.
    """
    target = cache() / f"{kernel.stem}-{fingerprint(kernel, nvcc)}.o"
    told = target.with_suffix(".txt")
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        if not (target.is_file() and told.is_file()):
            fresh = target.with_suffix(".fresh.o")
            source = kernel.relative_to(REPOSITORY).as_posix()
            command = [nvcc, "--threads", str(threads), *FLAGS, "-c", source, "-o", str(fresh)]
            finished = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
            assert finished.returncode == 0, finished.stderr
            told.write_text(finished.stderr)
            fresh.replace(target)
            _tidy(target.parent)
    return target, told.read_text()


def _tidy(folder: Path) -> None:
    """Removes what is older than two weeks: several checkouts may share the folder."""
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - 14 * 86400:
                path.unlink()


def compile_all(nvcc: str) -> dict[str, tuple[Path, str] | AssertionError]:
    """``compiled`` of every kernel file by its stem, as many at once as there are processors; or why it is not."""

    def one(kernel):
        try:
            return compiled(kernel, nvcc)
        except AssertionError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return dict(zip((kernel.stem for kernel in KERNELS), pool.map(one, KERNELS), strict=True))
