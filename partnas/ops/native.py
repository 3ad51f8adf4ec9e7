"""The compiled operators: found, loaded once, and described."""

import functools
from pathlib import Path

import torch

PACKAGE = Path(__file__).resolve().parent.parent
NOTE_FILE = "_native_note.txt"
"""What the build leaves beside where the library would be, when there is none: one line that says why."""


@functools.cache
def _state() -> tuple[bool, str]:
    libraries = sorted(PACKAGE.glob("_native*.so"))
    if not libraries:
        note = PACKAGE / NOTE_FILE
        if note.is_file():
            return False, note.read_text().strip()
        return (
            False,
            "native operators were not built: run `pip install --no-build-isolation -e .` in the source folder",
        )
    try:
        torch.ops.load_library(str(libraries[0]))
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        return (
            False,
            f"native operators do not load: {reason} (build again with `pip install --no-build-isolation -e .`)",
        )
    return True, ""


def loaded() -> bool:
    """Whether the compiled operators are there (loads them at the first call)."""
    return _state()[0]


def note() -> str:
    """One line that says why the compiled operators are missing; empty when they are there."""
    return _state()[1]


def cpu_capability() -> str | None:
    """Instruction set that the CPU kernels use: ``'avx512'``, ``'avx2'`` or ``'baseline'``; None without them.

    The environment variable ``PARTNAS_CPU_CAPABILITY``, read at the first use, asks for a lesser one than the CPU has.
    """
    return torch.ops.partnas.cpu_capability() if loaded() else None


def set_cpu_capability(name: str) -> None:
    """Use the kernels of another instruction set from now on (``'avx512'``, ``'avx2'`` or ``'baseline'``).

    Raises:
        RuntimeError: the CPU lacks it, or there is no such name.
    """
    torch.ops.partnas.set_cpu_capability(name)
