"""The compiled operators: found, loaded once, and described."""

import functools
import re
from pathlib import Path

import torch

from partnas.errors import PartnasError

PACKAGE = Path(__file__).resolve().parent.parent
NOTE_FILE = "_native_note.txt"
"""What the build leaves beside where the library would be, when there is none: one line that says why."""

CUDA_NOTE_FILE = "_native_cuda_note.txt"
"""The same of the library with the CUDA operators."""

RETRY = "run `pip install --no-build-isolation -e .` in the source folder"


def _load() -> tuple[bool, str]:
    loaded, note = _load_library("_native", NOTE_FILE, "native operators")
    if loaded:
        # Here and not in the middle of a job: PARTNAS_CPU_CAPABILITY may ask for what is not there.
        _call("cpu_capability")
    return loaded, note


def _load_cuda() -> tuple[bool, str]:
    if not _LOADED:
        return False, _NOTE
    if torch.version.cuda is None:
        return False, f"CUDA operators do not serve: torch {torch.__version__} has no CUDA"
    return _load_library("_native_cuda", CUDA_NOTE_FILE, "CUDA operators")


def _load_library(name: str, note_file: str, what: str) -> tuple[bool, str]:
    libraries = sorted(PACKAGE.glob(f"{name}.*so"))
    if not libraries:
        note = PACKAGE / note_file
        return False, note.read_text().strip() if note.is_file() else f"{what} were not built: {RETRY}"
    try:
        torch.ops.load_library(str(libraries[0]))
    except (OSError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return False, f"{what} do not load: {reason} ({RETRY})"
    return True, ""


def _call(operator: str, *arguments):
    try:
        return getattr(torch.ops.partnas, operator)(*arguments)
    except RuntimeError as error:
        raise PartnasError(str(error).split(", ", 2)[-1]) from None  # after function and file


_LOADED, _NOTE = _load()
_CUDA_LOADED, _CUDA_NOTE = _load_cuda()


def apply(operator, x: torch.Tensor, *arguments):
    """``operator(x, *arguments)``, without the detour over autograd, some 5 us in Python, where nothing is recorded."""
    if torch.compiler.is_compiling() or (x.requires_grad and torch.is_grad_enabled()):
        return operator(x, *arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return operator(x, *arguments)


def loaded() -> bool:
    """Whether the compiled operators are there."""
    return _LOADED


def note() -> str:
    """One line that says why the compiled operators are missing; empty when they are there."""
    return _NOTE


def cuda_architectures() -> str:
    """What the CUDA operators were built for, such as ``'7.5;8.0;9.0;10.0+PTX'``; empty without them."""
    return _call("cuda_architectures") if _CUDA_LOADED else ""


def cuda_note(index: int | None = None) -> str:
    """One line that says why the CUDA operators are missing, on the GPU of that index; empty when they are there."""
    if not _CUDA_LOADED:
        return _CUDA_NOTE
    return "" if index is None else _architecture_note(index)


@functools.cache
def _architecture_note(index: int) -> str:
    have = torch.cuda.get_device_capability(index)
    built = cuda_architectures()
    if serves(built, *have):
        return ""
    return (
        f"CUDA operators were built for {built}, and {torch.cuda.get_device_name(index)} is of architecture "
        f"{have[0]}.{have[1]}: set TORCH_CUDA_ARCH_LIST={have[0]}.{have[1]} and {RETRY}"
    )


def serves(architectures: str, major: int, minor: int) -> bool:
    """Whether a GPU of compute capability ``major.minor`` runs what was built for ``architectures``: machine code of
    its generation that is no newer than itself, or PTX that is no newer."""
    for built in architectures.split(";"):
        least, revision, specific, ptx = re.fullmatch(r"(\d+)\.?(\d)([af]?)(\+PTX)?", built).groups()
        than = (int(least), int(revision))
        if than == (major, minor) or (not specific and than <= (major, minor) and (ptx or than[0] == major)):
            return True
    return False


def cpu_capability() -> str | None:
    """Instruction set that the CPU kernels use: ``'avx512'``, ``'avx2'`` or ``'baseline'``; None without them.

    The environment variable ``PARTNAS_CPU_CAPABILITY``, read at import, asks for a lesser one than the CPU has;
    importing this module raises ``PartnasError`` where it names none.
    """
    return _capability() if loaded() else None


def set_cpu_capability(name: str) -> None:
    """Use the kernels of another instruction set from now on (``'avx512'``, ``'avx2'`` or ``'baseline'``).

    Raises:
        PartnasError: the CPU lacks it, there is no such name, or the native operators are not there.
    """
    if not loaded():
        raise PartnasError(note())
    _call("set_cpu_capability", name)
    _capability.cache_clear()


@functools.cache
def _capability() -> str:
    return _call("cpu_capability")
