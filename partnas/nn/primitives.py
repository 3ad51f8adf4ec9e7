"""The layers that cells are made of. Networks are channels-last; every layer takes and gives ``(B, C, H, W)``."""

from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import nn

from partnas.ops.depthwise_bank import depthwise_bank
from partnas.ops.upsample import upsample

SEPARABLE = {"sep_conv_3x3": 3, "sep_conv_5x5": 5}
"""Kernel sizes of (ReLU, depthwise, pointwise, batch norm) twice."""

DILATED = {"dil_conv_3x3": 3, "dil_conv_5x5": 5}
"""Kernel sizes of (ReLU, depthwise with dilation 2, pointwise, batch norm)."""


def batch_norm(channels: int, searching: bool) -> nn.BatchNorm2d:
    """Batch norm: in the supernet without affine map and running statistics, in a derived network with both."""
    return nn.BatchNorm2d(channels, affine=not searching, track_running_stats=not searching)


def uniform_parameter(*shape: int, fan_in: int) -> nn.Parameter:
    """A weight drawn as PyTorch draws a convolution's: uniform within ``1 / sqrt(fan_in)``."""
    return nn.Parameter(torch.empty(shape).uniform_(-(fan_in**-0.5), fan_in**-0.5))


def every_second(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the two convolutions of a factorised reduction read: the even pixels, and the odd ones (the diagonal
    neighbours). Where a side is odd the latter end in a row or column of zeros, so that both have one size."""
    height, width = x.shape[2:]
    odd = F.pad(x, (0, width % 2, 0, height % 2))[:, :, 1::2, 1::2]
    return x[:, :, ::2, ::2], odd


class DepthwiseConv2d(nn.Module):
    """ReLU and one depthwise convolution.

    Attributes:
        weight: ``(C, k, k)``.
    """

    def __init__(self, channels: int, kernel_size: int, stride: int, dilation: int):
        super().__init__()
        self.stride, self.dilation = stride, dilation
        self.weight = uniform_parameter(channels, kernel_size, kernel_size, fan_in=kernel_size**2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return depthwise_bank(x, [self.weight], dilations=[self.dilation], stride=self.stride)[0]


class SeparableConv(nn.Sequential):
    """(ReLU, depthwise, pointwise, batch norm) twice, the first at ``stride``."""

    def __init__(self, channels: int, kernel_size: int, stride: int):
        super().__init__(
            DepthwiseConv2d(channels, kernel_size, stride, dilation=1),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            DepthwiseConv2d(channels, kernel_size, 1, dilation=1),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )


class DilatedConv(nn.Sequential):
    """ReLU, depthwise convolution with dilation 2, pointwise convolution, batch norm."""

    def __init__(self, channels: int, kernel_size: int, stride: int):
        super().__init__(
            DepthwiseConv2d(channels, kernel_size, stride, dilation=2),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )


class FactorisedReduction(nn.Module):
    """ReLU, then half of the channels from the even pixels and half from the odd ones, batch norm: DARTS' skip at
    stride 2. Sides are halved, rounding up."""

    def __init__(self, channels_in: int, channels_out: int, searching: bool):
        super().__init__()
        self.even = nn.Conv2d(channels_in, channels_out // 2, 1, bias=False)
        self.odd = nn.Conv2d(channels_in, channels_out - channels_out // 2, 1, bias=False)
        self.norm = batch_norm(channels_out, searching)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        even, odd = every_second(torch.relu(x))
        return self.norm(torch.cat([self.even(even), self.odd(odd)], 1))


class ReluConvNorm(nn.Sequential):
    """ReLU, 1x1 convolution, batch norm."""

    def __init__(self, channels_in: int, channels_out: int, searching: bool):
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(channels_in, channels_out, 1, bias=False),
            batch_norm(channels_out, searching),
        )


class Upsample(nn.Module):
    """Bilinear upsampling by 2 or 4."""

    def __init__(self, factor: int):
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return upsample(x, self.factor)


class Stem(nn.Sequential):
    """3x3 convolution of the image, batch norm."""

    def __init__(self, channels: int, searching: bool):
        super().__init__(
            nn.Conv2d(3, channels, 3, padding=1, bias=False),
            batch_norm(channels, searching),
        )


def preprocessing(channels_in: int, channels_out: int, factor: Fraction, searching: bool) -> nn.Module:
    """What brings an input to a cell's channels and resolution.

    A fusion cell upsamples last: the convolution and bilinear upsampling commute but for the batch statistics, and
    this order does the convolution at the low resolution.
    """
    if factor < 1:
        return FactorisedReduction(channels_in, channels_out, searching)
    layer = ReluConvNorm(channels_in, channels_out, searching)
    return layer if factor == 1 else nn.Sequential(layer, Upsample(int(factor)))
