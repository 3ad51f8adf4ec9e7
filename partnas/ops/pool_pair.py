"""Max and average pool of one source in one read, with their batch statistics; and each of them alone."""

import torch
import torch.nn.functional as F

from partnas.ops import native
from partnas.ops.backend import library
from partnas.ops.maps import empty_map
from partnas.ops.namespaces import register
from partnas.ops.norm_sum import norm_stats, over_ranks


def pool_pair(
    x: torch.Tensor, stride: int = 1, synchronised: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """3x3 max pool and 3x3 average pool, padding 1; the average leaves padding out of the count.

    Args:
        x: ``(B, C, H, W)``, float32, bfloat16, float16 or float64, any strides.
        stride: 1 or 2.
        synchronised: Take the statistics over all ranks (see ``norm_stats``).

    Returns:
        ``max_map``, ``avg_map``: ``(B, C, ceil(H / stride), ceil(W / stride))`` in x's dtype, channels-last; the
        reference keeps the strides of x. NaN and ties are treated as in PyTorch.
        ``statistics``: ``(2, 2, C)`` float32 (float64 for float64): mean and biased variance of the max map, then of
        the average map. They carry no gradient: the backward of ``norm_sum``, which takes them, does.
    """
    operators = _operators(x)
    if operators:
        max_map, avg_map, statistics = native.apply(operators.pool_pair.default, x, stride)
        return max_map, avg_map, over_ranks(statistics) if synchronised else statistics
    max_map, avg_map = reference(x, stride)
    return max_map, avg_map, norm_stats([max_map, avg_map], synchronised)


def max_pool(x: torch.Tensor, stride: int = 1) -> torch.Tensor:
    """The first map of :func:`pool_pair` alone. PyTorch's own writes an index of eight bytes beside every number."""
    return _pool(x, True, stride)


def avg_pool(x: torch.Tensor, stride: int = 1) -> torch.Tensor:
    """The second map of :func:`pool_pair` alone; nothing is kept for its backward."""
    return _pool(x, False, stride)


def reference(x: torch.Tensor, stride: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """The two maps of :func:`pool_pair` in plain PyTorch."""
    return _reference(x, True, stride), _reference(x, False, stride)


def flops(shape: tuple[int, int, int, int], stride: int = 1) -> int:
    """Comparisons and additions of :func:`pool_pair`: nine of each for every output."""
    batch, channels, height, width = shape
    return 18 * batch * channels * -(-height // stride) * -(-width // stride)


def _operators(x: torch.Tensor):
    """The operators that take the map: none for float64, which is for gradient checks."""
    return None if x.dtype == torch.float64 else library("pool_pair", x)


def _pool(x: torch.Tensor, takes_max: bool, stride: int) -> torch.Tensor:
    operators = _operators(x)
    if operators:
        return native.apply(operators.pool.default, x, takes_max, stride)
    return _reference(x, takes_max, stride)


def _reference(x: torch.Tensor, takes_max: bool, stride: int) -> torch.Tensor:
    if takes_max:
        return F.max_pool2d(x, 3, stride, padding=1)
    return F.avg_pool2d(x, 3, stride, padding=1, count_include_pad=False)


def _fake(x: torch.Tensor, stride: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    max_map, avg_map = (_fake_pool(x, takes_max, stride) for takes_max in (True, False))
    return max_map, avg_map, x.new_empty(2, 2, x.shape[1], dtype=torch.float32)


def _fake_pool(x: torch.Tensor, takes_max: bool, stride: int) -> torch.Tensor:
    shape = (*x.shape[:2], -(-x.shape[2] // stride), -(-x.shape[3] // stride))
    return empty_map(x, shape)


def _fake_backward(
    max_gradient: torch.Tensor, avg_gradient: torch.Tensor, x: torch.Tensor, stride: int
) -> torch.Tensor:
    return empty_map(x, x.shape)


def _fake_pool_backward(gradient: torch.Tensor, x: torch.Tensor, takes_max: bool, stride: int) -> torch.Tensor:
    return empty_map(x, x.shape)


def _setup_context(ctx, inputs, output) -> None:
    x, ctx.stride = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(x)


def _setup_pool_context(ctx, inputs, output) -> None:
    x, ctx.takes_max, ctx.stride = inputs
    ctx.shape = x.shape
    ctx.save_for_backward(*([x] if ctx.takes_max else []))


def _autograd(operators):
    def backward(ctx, max_gradient: torch.Tensor, avg_gradient: torch.Tensor, _):
        return operators.pool_pair_backward(max_gradient, avg_gradient, *ctx.saved_tensors, ctx.stride), None

    def pool_backward(ctx, gradient: torch.Tensor):
        x = ctx.saved_tensors[0] if ctx.takes_max else gradient.new_empty(()).expand(ctx.shape)
        return operators.pool_backward(gradient, x, ctx.takes_max, ctx.stride), None, None

    return {"pool_pair": (backward, _setup_context), "pool": (pool_backward, _setup_pool_context)}


FAKES = {
    "pool_pair": _fake,
    "pool_pair_backward": _fake_backward,
    "pool": _fake_pool,
    "pool_backward": _fake_pool_backward,
}
register("pool_pair", FAKES, _autograd)
