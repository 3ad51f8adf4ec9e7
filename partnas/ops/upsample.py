"""Bilinear upsampling by two or four."""

import torch
import torch.nn.functional as F

from partnas.ops import native
from partnas.ops.backend import resolve
from partnas.ops.maps import empty_map


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
    if resolve("upsample", x) == "native" and x.dtype != torch.float64:
        return native.apply(torch.ops.partnas.upsample.default, x, factor)
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


def _backward(ctx, gradient: torch.Tensor):
    return torch.ops.partnas.upsample_backward(gradient, ctx.factor), None


if native.loaded():
    torch.library.register_fake("partnas::upsample", _fake)
    torch.library.register_fake("partnas::upsample_backward", _fake_backward)
    torch.library.register_autograd("partnas::upsample", _backward, setup_context=_setup_context)
