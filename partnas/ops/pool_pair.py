"""Max and average pool of one source in one read, with their batch statistics."""

import torch
import torch.nn.functional as F

from partnas.ops.backend import resolve
from partnas.ops.norm_sum import norm_stats


def pool_pair(
    x: torch.Tensor, stride: int = 1, synchronised: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """3x3 max pool and 3x3 average pool, padding 1; the average leaves padding out of the count.

    Args:
        x: ``(B, C, H, W)``, float32, bfloat16, float16 or float64, any strides.
        stride: 1 or 2.
        synchronised: Take the statistics over all ranks (see ``norm_stats``).

    Returns:
        ``max_map``, ``avg_map``: ``(B, C, ceil(H / stride), ceil(W / stride))`` in x's dtype, channels-last if x is.
        ``statistics``: ``(2, 2, C)`` float32 (float64 for float64): mean and biased variance of the max map, then of
        the average map. They carry no gradient: the backward of ``norm_sum``, which takes them, does.
    """
    resolve("pool_pair", x)
    max_map, avg_map = reference(x, stride)
    return max_map, avg_map, norm_stats([max_map, avg_map], synchronised)


def reference(x: torch.Tensor, stride: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """The two maps of :func:`pool_pair` in plain PyTorch."""
    return (
        F.max_pool2d(x, 3, stride, padding=1),
        F.avg_pool2d(x, 3, stride, padding=1, count_include_pad=False),
    )


def flops(shape: tuple[int, int, int, int], stride: int = 1) -> int:
    """Comparisons and additions of :func:`pool_pair`: nine of each for every output."""
    batch, channels, height, width = shape
    return 18 * batch * channels * -(-height // stride) * -(-width // stride)
