"""Channel shuffle: the ShuffleNet groups shuffle, or any permutation of channels or of runs of channels."""

from collections.abc import Sequence

import torch

from partnas.errors import PartnasError
from partnas.ops import backend, native
from partnas.ops.namespaces import register


def channel_shuffle(
    x: torch.Tensor, groups: int | None = None, *, order: Sequence[int] | None = None, depth: int = 1
) -> torch.Tensor:
    """Permute the channels of ``x``.

    Give either ``groups`` or ``order``. With runs counted as C / depth, ``groups`` cuts them into that many groups and
    interleaves these (ShuffleNet: output run j * groups + i is input run i * (runs / groups) + j).

    Args:
        x: (B, C, ...), any dtype and strides.
        groups: number of groups; it divides the runs.
        order: output run i is input run ``order[i]``; every run exactly once (the paper's shuffle of parts, with
            ``depth`` channels a part).
        depth: channels in a run.

    Returns:
        Tensor of the shape, dtype and memory format of ``x``.

    Raises:
        PartnasError: neither or both of ``groups`` and ``order``, ``order`` is no permutation, a count does not divide,
            or the chosen backend is not there.
    """
    groups, order = _checked(x, groups, order, depth)
    operators = backend.library("channel_shuffle", x)
    if operators:
        return native.apply(operators.channel_shuffle.default, x, groups, order, depth)
    return _index(x, groups, order, depth)


def reference(
    x: torch.Tensor, groups: int | None = None, *, order: Sequence[int] | None = None, depth: int = 1
) -> torch.Tensor:
    """:func:`channel_shuffle` in plain PyTorch: an index over the channels."""
    return _index(x, *_checked(x, groups, order, depth), depth)


def flops() -> int:
    """Arithmetic of the operator: none, it moves memory."""
    return 0


def _checked(x: torch.Tensor, groups: int | None, order: Sequence[int] | None, depth: int) -> tuple[int, list[int]]:
    """The number of groups and no order, or 0 and the order."""
    if x.dim() < 2:
        raise PartnasError(f"channel_shuffle: x of shape {tuple(x.shape)} has no channels; it must be (B, C, ...)")
    if depth < 1 or x.shape[1] % depth:
        raise PartnasError(f"channel_shuffle: {x.shape[1]} channels do not divide into runs of depth {depth}")
    if (groups is None) == (order is None):
        raise PartnasError("channel_shuffle: give either groups or order")
    runs = x.shape[1] // depth
    if order is not None:
        order = [int(run) for run in order]
        if sorted(order) != list(range(runs)):
            raise PartnasError(f"channel_shuffle: order {order} is no permutation of the runs 0 to {runs - 1}")
        return 0, order
    if groups < 1 or runs % groups:
        raise PartnasError(f"channel_shuffle: {runs} runs do not divide into {groups} groups")
    return groups, []


def _index(x: torch.Tensor, groups: int, order: Sequence[int], depth: int) -> torch.Tensor:
    if groups:
        size = x.shape[1] // depth // groups
        order = [group * size + j for j in range(size) for group in range(groups)]
    channels = [run * depth + channel for run in order for channel in range(depth)]
    return x[:, channels].contiguous(memory_format=_memory_format(x))


def _memory_format(x: torch.Tensor) -> torch.memory_format:
    # Mirrors the choice of csrc/bindings/channel_shuffle.cpp.
    if x.dim() in (4, 5) and not x.is_contiguous():
        wanted = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
        if x.is_contiguous(memory_format=wanted):
            return wanted
    return torch.contiguous_format


def _inverse(order: Sequence[int]) -> list[int]:
    inverse = [0] * len(order)
    for position, run in enumerate(order):
        inverse[run] = position
    return inverse


def _fake(x: torch.Tensor, groups: int, order: Sequence[int], depth: int) -> torch.Tensor:
    return torch.empty_like(x, memory_format=_memory_format(x))


def _setup_context(ctx, inputs, output) -> None:
    _, ctx.groups, ctx.order, ctx.depth = inputs


def _autograd(operators):
    def backward(ctx, gradient: torch.Tensor):
        # What g groups have interleaved, runs / g groups put back.
        groups = gradient.shape[1] // ctx.depth // ctx.groups if ctx.groups else 0
        return operators.channel_shuffle(gradient, groups, _inverse(ctx.order), ctx.depth), None, None, None

    return {"channel_shuffle": (backward, _setup_context)}


register("channel_shuffle", {"channel_shuffle": _fake}, _autograd)
