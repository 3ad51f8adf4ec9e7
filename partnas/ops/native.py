"""The compiled operators: found, loaded once, and described."""

from pathlib import Path

import torch

from partnas.errors import PartnasError

PACKAGE = Path(__file__).resolve().parent.parent
NOTE_FILE = "_native_note.txt"
"""What the build leaves beside where the library would be, when there is none: one line that says why."""


RETRY = "run `pip install --no-build-isolation -e .` in the source folder"


def _load() -> tuple[bool, str]:
    libraries = sorted(PACKAGE.glob("_native*.so"))
    if not libraries:
        note = PACKAGE / NOTE_FILE
        return False, note.read_text().strip() if note.is_file() else f"native operators were not built: {RETRY}"
    try:
        torch.ops.load_library(str(libraries[0]))
    except (OSError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return False, f"native operators do not load: {reason} ({RETRY})"
    # Here and not in the middle of a job: PARTNAS_CPU_CAPABILITY may ask for what is not there.
    _call("cpu_capability")
    return True, ""


def _call(operator: str, *arguments):
    try:
        return getattr(torch.ops.partnas, operator)(*arguments)
    except RuntimeError as error:
        raise PartnasError(str(error).split(", ", 2)[-1]) from None  # after function and file


_LOADED, _NOTE = _load()


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


def cpu_capability() -> str | None:
    """Instruction set that the CPU kernels use: ``'avx512'``, ``'avx2'`` or ``'baseline'``; None without them.

    The environment variable ``PARTNAS_CPU_CAPABILITY``, read at import, asks for a lesser one than the CPU has; importing
    this module raises ``PartnasError`` where it names none.
    """
    return _call("cpu_capability") if loaded() else None


def set_cpu_capability(name: str) -> None:
    """Use the kernels of another instruction set from now on (``'avx512'``, ``'avx2'`` or ``'baseline'``).

    Raises:
        PartnasError: the CPU lacks it, there is no such name, or the native operators are not there.
    """
    if not loaded():
        raise PartnasError(note())
    _call("set_cpu_capability", name)
