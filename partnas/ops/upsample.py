"""Bilinear upsampling by two or four."""

import torch
import torch.nn.functional as F

from partnas.ops.backend import resolve


def upsample(x: torch.Tensor, factor: int) -> torch.Tensor:
    """Bilinear upsampling, ``align_corners=False``.

    Args:
        x: ``(B, C, H, W)``, float32, bfloat16, float16 or float64, any strides.
        factor: 2 or 4.

    Returns:
        ``(B, C, factor * H, factor * W)`` in x's dtype, channels-last if x is.

    Raises:
        ValueError: Another factor.
    """
    if factor not in (2, 4):
        raise ValueError(f"upsample: factor {factor} is neither 2 nor 4")
    resolve("upsample", x)
    return reference(x, factor)


def reference(x: torch.Tensor, factor: int) -> torch.Tensor:
    """:func:`upsample` in plain PyTorch."""
    if x.numel() == 0:
        return x.new_empty(*x.shape[:2], factor * x.shape[2], factor * x.shape[3]) + 0 * x.sum()
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def flops(shape: tuple[int, int, int, int], factor: int) -> int:
    """Multiply-adds of :func:`upsample`: four for every output."""
    batch, channels, height, width = shape
    return 4 * batch * channels * height * width * factor**2
