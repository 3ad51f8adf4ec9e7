"""The one place that decides which implementation of an operator runs.

``reference`` is plain PyTorch and always there. ``native`` is compiled from ``csrc/cpu`` or ``csrc/cuda``, by the
tensor's device. ``triton`` is ``kernels/``. The automatic choice on a CPU is native, else reference; on a GPU native,
else triton, else reference. ``PARTNAS_BACKEND`` and :func:`use_backend` override it.
"""

import contextlib
import os
from collections.abc import Iterator

import torch

from partnas.errors import PartnasError
from partnas.ops import native

BACKENDS = ("native", "triton", "reference")

AVAILABLE: dict[str, tuple[str, ...]] = {
    "soft_argmax_3d": ("cpu",),
    "channel_shuffle": ("cpu",),
    "depthwise_bank": ("cpu",),
    "pointwise": ("cpu",),
    "pool_pair": ("cpu",),
    "norm_sum": ("cpu",),
    "upsample": ("cpu",),
}
"""Fast implementations that an operator has beside its reference: ``cpu`` (csrc/cpu), ``cuda`` (csrc/cuda) and
``triton`` (kernels)."""

_chosen: str | None = None


@contextlib.contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Run every operator inside the ``with`` block on one backend.

    Args:
        name: ``'native'``, ``'triton'``, ``'reference'``, or None for the automatic choice.

    Raises:
        PartnasError: no backend has that name. An operator that lacks the backend raises when it is called.
    """
    global _chosen
    _check_name(name, "use_backend")
    before, _chosen = _chosen, name or "auto"
    try:
        yield
    finally:
        _chosen = before


def resolve(operator: str, tensor: torch.Tensor) -> str:
    """Backend that runs ``operator`` on ``tensor``: ``'native'``, ``'triton'`` or ``'reference'``.

    Raises:
        PartnasError: the backend that was asked for is not there; the message says how to get it.
    """
    device = tensor.device.type
    asked = _asked()
    if asked == "auto":
        return next(name for name in BACKENDS if not _missing(operator, name, device))
    reason = _missing(operator, asked, device)
    if reason:
        raise PartnasError(f"{operator}: backend {asked!r} is not there for {device} tensors: {reason}")
    return asked


def describe() -> dict:
    """What ``partnas info`` prints.

    Returns:
        ``native`` (whether the library is there), ``note`` (why not, one line), ``cpu_capability`` (instruction set in
        use or None), ``torch`` (version), ``device``, and ``operators``: backend of each operator on that device.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    asked = _asked()
    serving = {}
    for operator in AVAILABLE:
        choices = BACKENDS if asked == "auto" else (asked,)
        serving[operator] = next((name for name in choices if not _missing(operator, name, device)), "missing")
    return {
        "native": native.loaded(),
        "note": native.note(),
        "cpu_capability": native.cpu_capability(),
        "torch": torch.__version__,
        "device": device,
        "operators": serving,
    }


def _asked() -> str:
    if _chosen is not None:
        return _chosen
    name = os.environ.get("PARTNAS_BACKEND") or None
    _check_name(name, "PARTNAS_BACKEND")
    return name or "auto"


def _check_name(name: str | None, origin: str) -> None:
    if name is not None and name not in (*BACKENDS, "auto"):
        raise PartnasError(f"{origin}: no backend is called {name!r}; use one of {', '.join(BACKENDS)}")


def _missing(operator: str, backend: str, device: str) -> str:
    """Why ``backend`` cannot run ``operator`` on ``device``, and what to do; empty when it can."""
    if backend == "reference":
        return ""
    floor = "triton" if backend == "triton" else device
    if backend == "triton" and device != "cuda":
        return "triton kernels run on CUDA tensors; use 'native' or 'reference'"
    if floor not in AVAILABLE[operator]:
        return "it is not written; use 'reference'"
    return native.note() if backend == "native" else ""
