"""One backend at a time, for whole networks: what it lacks is left to the reference, not to its rival."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from partnas.errors import PartnasError
from partnas.ops import backend


@contextmanager
def only(name: str, device: torch.device) -> Iterator[None]:
    """Inside, the automatic choice on ``device`` is ``name`` (``'native'`` or ``'triton'``) where an operator has it, and
    else the reference.

    Raises:
        PartnasError: No operator can run on it.
    """
    floor = "triton" if name == "triton" else device.type
    kept = dict(backend.AVAILABLE)
    backend.AVAILABLE.update({operator: tuple({floor} & set(floors)) for operator, floors in kept.items()})
    try:
        if not served(name, device):
            raise PartnasError(f"backend {name!r} serves no operator on {device}: {why_not(name, device)}")
        yield
    finally:
        backend.AVAILABLE.update(kept)


def served(name: str, device: torch.device) -> list[str]:
    """The operators that ``name`` runs on ``device`` when it is asked to."""
    return [operator for operator in backend.AVAILABLE if not why_not(name, device, operator)]


def why_not(name: str, device: torch.device, operator: str = "norm_sum") -> str:
    """Why ``name`` cannot run an operator on ``device``; empty when it can."""
    with backend.use_backend(name):
        try:
            backend.resolve(operator, torch.empty(0, device=device))
        except PartnasError as error:
            return str(error)
    return ""
