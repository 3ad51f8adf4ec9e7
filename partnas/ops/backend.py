"""The one place that decides which implementation of an operator runs.

``reference`` is plain PyTorch and always there. ``native`` is compiled from ``csrc/cpu`` or ``csrc/cuda``, by the
tensor's device. ``triton`` is ``kernels/``. The automatic choice on a CPU is native, else reference; on a GPU native,
else triton, else reference. ``PARTNAS_BACKEND`` and :func:`use_backend` override it.
"""

import contextlib
import functools
import os
import warnings
from collections.abc import Iterator
from types import ModuleType

import torch

from partnas.errors import PartnasError
from partnas.ops import namespaces, native

BACKENDS = ("native", "triton", "reference")

AVAILABLE: dict[str, tuple[str, ...]] = {
    "soft_argmax_3d": ("cpu", "cuda", "triton"),
    "channel_shuffle": ("cpu", "cuda", "triton"),
    "depthwise_bank": ("cpu", "cuda", "triton"),
    "pointwise": ("cpu",),
    "pool_pair": ("cpu", "cuda", "triton"),
    "norm_sum": ("cpu", "cuda", "triton"),
    "upsample": ("cpu", "cuda", "triton"),
}
"""Fast implementations that an operator has beside its reference: ``cpu`` (csrc/cpu), ``cuda`` (csrc/cuda) and
``triton`` (kernels)."""

AUTO = ("auto",)

_chosen: tuple[str, ...] | None = None
_told: set[str] = set()
# Read on every call, and os.environ.get takes a microsecond where the variable is missing.
_ENVIRONMENT, _VARIABLE = os.environ._data, os.environ.encodekey("PARTNAS_BACKEND")


@contextlib.contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Run every operator inside the ``with`` block on one backend.

    Args:
        name: ``'native'``, ``'triton'``, ``'reference'``, several of them with commas between (``'triton,reference'``:
            an operator runs on the first that it has), or None for the automatic choice.

    Raises:
        PartnasError: no backend has that name. An operator that lacks the backend raises when it is called.
    """
    global _chosen
    before, _chosen = _chosen, AUTO if name is None else _names(name, "use_backend")
    try:
        yield
    finally:
        _chosen = before


def library(operator: str, tensor: torch.Tensor, *others: torch.Tensor | None) -> ModuleType | None:
    """The namespace of ``torch.ops`` whose functions run ``operator`` on these tensors; None for the reference.

    Raises:
        PartnasError: the tensors are on different devices, or the backend that was asked for is not there.
    """
    if others:
        one_device(operator, tensor, *others)
    name = resolve(operator, tensor)
    if name == "native":
        return namespaces.compiled()
    return namespaces.triton(operator) if name == "triton" else None


def one_device(operator: str, tensor: torch.Tensor, *others: torch.Tensor | None) -> None:
    """Raises ``PartnasError`` where the tensors are not all on one device."""
    device = tensor.device
    for other in others:
        if other is not None and other.device != device:
            raise PartnasError(f"{operator}: tensors are on {device} and on {other.device}; move them to one device")


def resolve(operator: str, tensor: torch.Tensor) -> str:
    """Backend that runs ``operator`` on ``tensor``: ``'native'``, ``'triton'`` or ``'reference'``.

    Where something is missing that ``operator`` has on that device, and the next choice serves, one warning says so;
    not where no CUDA operators were built and Triton's serve.

    Raises:
        PartnasError: the backend that was asked for is not there; the message says how to get it.
    """
    device = tensor.device
    asked = _asked()
    if asked == AUTO:
        if device.type == "cpu":
            return "native" if native.loaded() and "cpu" in AVAILABLE[operator] else "reference"
        return _choose(operator, device)
    reasons = []
    for name in asked:
        reason = _missing(operator, name, device)
        if not reason:
            return name
        reasons.append(reason)
    names, verb = " or ".join(map(repr, asked)), "is" if len(asked) == 1 else "are"
    raise PartnasError(f"{operator}: backend {names} {verb} not there for {device.type} tensors: {'; '.join(reasons)}")


def describe() -> dict:
    """What ``partnas info`` prints.

    Returns:
        ``native`` (whether the library is there), ``note`` (why not, one line), ``cpu_capability`` (instruction set in
        use or None), ``torch`` (version), ``cuda`` (the architectures that CUDA operators were built for, or why there
        are none), ``triton`` (version, or why it is missing), ``device``, and ``operators``: backend of each operator
        on that device.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu", 0)
    asked = _asked()
    serving = {}
    for operator in AVAILABLE:
        choices = BACKENDS if asked == AUTO else asked
        serving[operator] = next((name for name in choices if _serves(operator, name, device, asked)), "missing")
    return {
        "native": native.loaded(),
        "note": native.note(),
        "cpu_capability": native.cpu_capability(),
        "torch": torch.__version__,
        "cuda": native.cuda_architectures() or native.cuda_note(),
        "triton": namespaces.triton_note() or namespaces.triton_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "operators": serving,
    }


def _serves(operator: str, name: str, device: torch.device, asked: tuple[str, ...]) -> bool:
    # The interpreter runs on a CPU where it is asked for, and is never chosen.
    return not _missing(operator, name, device) and not (asked == AUTO and name == "triton" and device.type == "cpu")


def _choose(operator: str, device: torch.device) -> str:
    reasons = []
    for name in BACKENDS:
        reason = _missing(operator, name, device)
        if not reason:
            break
        reasons += [reason] if device.type == "cuda" and _floor(name, device) in AVAILABLE[operator] else []
    # Where nothing was built for GPUs, Triton is what one expects.
    if reasons and (name == "reference" or native.cuda_architectures()):
        message = f"partnas on {device}: {'; '.join(reasons)}; {name} operators serve instead"
        if message not in _told:
            _told.add(message)
            warnings.warn(message, RuntimeWarning, stacklevel=4)
    return name


def _asked() -> tuple[str, ...]:
    if _chosen is not None:
        return _chosen
    value = _ENVIRONMENT.get(_VARIABLE)
    return _names(os.environ.decodevalue(value), "PARTNAS_BACKEND") if value else AUTO


@functools.cache
def _names(text: str, origin: str) -> tuple[str, ...]:
    """The backends in a list with commas; ``AUTO`` stands alone."""
    names = tuple(name.strip() for name in text.split(","))
    for name in names if names != AUTO else ():
        if name not in BACKENDS:
            raise PartnasError(f"{origin}: no backend is called {name!r}; use one of {', '.join(BACKENDS)}")
    return names


def _floor(backend: str, device: torch.device) -> str:
    return "triton" if backend == "triton" else device.type


def _missing(operator: str, backend: str, device: torch.device) -> str:
    """Why ``backend`` cannot run ``operator`` on ``device``, and what to do; empty when it can."""
    if backend == "reference":
        return ""
    if backend == "triton" and device.type != "cuda" and not (device.type == "cpu" and namespaces.interpreted()):
        return "triton kernels run on CUDA tensors, or on a CPU under TRITON_INTERPRET=1; use 'native' or 'reference'"
    if _floor(backend, device) not in AVAILABLE[operator]:
        return f"it is not written; use 'reference', or '{backend},reference' to keep {backend} for the others"
    if backend == "triton":
        return namespaces.triton_note()
    return native.note() or (native.cuda_note(device.index) if device.type == "cuda" else "")
