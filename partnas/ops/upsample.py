"""Bilinear upsampling by two or four."""

import torch
import torch.nn.functional as F

from partnas.ops import native
from partnas.ops.backend import library
from partnas.ops.maps import empty_map
from partnas.ops.namespaces import register


def upsample(x: torch.Tensor, factor: int) -> torch.Tensor:
    """Bilinear upsampling, ``align_corners=False``.

    Args:
        x: ``(B, C, H, W)``, float32, bfloat16, float16 or float64, any strides.
        factor: 2 or 4.

    Returns:
        ``(B, C, factor * H, factor * W)`` in x's dtype, channels-last; the reference keeps the strides of x.

    Raises:
        ValueError: Another factor.
    """
    if factor not in (2, 4):
        raise ValueError(f"upsample: factor {factor} is neither 2 nor 4")
    operators = library("upsample", x)
    if operators and x.dtype != torch.float64:
        return native.apply(operators.upsample.default, x, factor)
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


def _fake(x: torch.Tensor, factor: int) -> torch.Tensor:
    shape = (*x.shape[:2], factor * x.shape[2], factor * x.shape[3])
    return empty_map(x, shape)


def _fake_backward(gradient: torch.Tensor, factor: int) -> torch.Tensor:
    shape = (*gradient.shape[:2], gradient.shape[2] // factor, gradient.shape[3] // factor)
    return empty_map(gradient, shape)


def _setup_context(ctx, inputs, output) -> None:
    _, ctx.factor = inputs


def _autograd(operators):
    def backward(ctx, gradient: torch.Tensor):
        return operators.upsample_backward(gradient, ctx.factor), None

    return {"upsample": (backward, _setup_context)}


register("upsample", {"upsample": _fake, "upsample_backward": _fake_backward}, _autograd)
