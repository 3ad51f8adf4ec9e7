"""The operators' two namespaces, of one schema each: ``torch.ops.partnas``, compiled, and ``torch.ops.partnas_triton``.

The second is defined operator by operator, when one is first asked for: Triton takes a while to import.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import NamedTuple

import torch

from partnas.ops import native

TRITON = "partnas_triton"


class _Face(NamedTuple):
    fakes: Mapping[str, Callable]
    autograd: Callable[[ModuleType], Mapping[str, tuple[Callable, Callable]]]


_faces: dict[str, _Face] = {}
_library: torch.library.Library | None = None
_defined: dict[str, ModuleType] = {}
_defining = threading.Lock()


def register(operator: str, fakes: Mapping[str, Callable], autograd=lambda operators: {}) -> None:
    """Give what the functions of an operator have beside their kernels, in both namespaces.

    Args:
        fakes: The fake of each function, by its name in csrc/schemas.cpp.
        autograd: From a namespace, the backward and setup_context of those functions that have them.
    """
    _faces[operator] = face = _Face(fakes, autograd)
    if native.loaded():
        _complete(face, torch.ops.partnas, "partnas")


def functions(operator: str) -> list[str]:
    """Names of the functions that an operator consists of, as in csrc/schemas.cpp."""
    return list(_face(operator).fakes)


def compiled() -> ModuleType:
    """The namespace of the compiled operators."""
    return torch.ops.partnas


def triton(operator: str) -> ModuleType:
    """The namespace of the Triton operators, with those functions of ``operator`` in it."""
    found = _defined.get(operator)
    if found is None:
        with _defining:
            found = _defined.get(operator) or _defined.setdefault(operator, _define(operator))
    return found


@functools.cache
def triton_note() -> str:
    """One line that says why Triton's kernels cannot run; empty when they can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed: run `pip install triton`"
    # It compiles a few lines of C at its first launch.
    if not interpreted() and not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "triton needs a C compiler: install gcc, or set CC"
    return ""


def triton_version() -> str:
    """Triton's version, without importing it."""
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def interpreted() -> bool:
    """Whether Triton's interpreter was asked for, which runs kernels on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _define(operator: str) -> ModuleType:
    global _library
    if _library is None:
        _library = torch.library.Library(TRITON, "DEF")
    kernels = importlib.import_module(f"partnas.kernels.{operator}")
    face = _face(operator)
    for name in face.fakes:
        function = getattr(kernels, name)
        # Sizes that follow from shapes are the operators' own business: none is among the arguments.
        schema = torch.library.infer_schema(function, mutates_args=()).replace("SymInt", "int")
        _library.define(f"{name}{schema}")
        for key in ("CUDA", "CPU") if interpreted() else ("CUDA",):
            _library.impl(name, function, key)
    _complete(face, getattr(torch.ops, TRITON), TRITON, _library)
    return getattr(torch.ops, TRITON)


def _face(operator: str) -> _Face:
    importlib.import_module(f"partnas.ops.{operator}")
    return _faces[operator]


def _complete(face: _Face, operators: ModuleType, namespace: str, library: torch.library.Library | None = None) -> None:
    for name, fake in face.fakes.items():
        torch.library.register_fake(f"{namespace}::{name}", fake, lib=library)
    for name, (backward, setup_context) in face.autograd(operators).items():
        torch.library.register_autograd(f"{namespace}::{name}", backward, setup_context=setup_context, lib=library)
