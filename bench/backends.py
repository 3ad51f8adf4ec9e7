"""One backend at a time, for whole networks: what it lacks is left to the reference, not to its rival."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from partnas.errors import PartnasError
from partnas.ops import backend


@contextmanager
def only(name: str, device: torch.device) -> Iterator[None]:
    """Inside, an operator runs on ``name`` (``'native'`` or ``'triton'``) where it has that, and else on the reference.

    Raises:
        PartnasError: No operator can run on it.
    """
    if not served(name, device):
        raise PartnasError(f"backend {name!r} serves no operator on {device}: {why_not(name, device)}")
    with backend.use_backend(f"{name},reference"):
        yield


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
