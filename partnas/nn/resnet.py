"""ResNets of bottlenecks without their classifier (He et al. 2016; stride in the 3x3 convolutions, as is usual)."""

from collections.abc import Sequence

import torch
from torch import nn

EXPANSION = 4
STRIDE = 32


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolution and a shortcut."""

    def __init__(self, channels_in: int, width: int, stride: int):
        super().__init__()
        channels_out = EXPANSION * width
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, channels_out, 1, bias=False),
            nn.BatchNorm2d(channels_out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class ResNet(nn.Sequential):
    """Image ``(B, 3, S, S)`` to features ``(B, 32 * width, S/32, S/32)``.

    Args:
        width: Channels of the first 3x3 convolutions; each of the four stages doubles them.
        blocks: Bottlenecks of each stage.
    """

    def __init__(self, width: int, blocks: Sequence[int]):
        layers: list[nn.Module] = [
            nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        ]
        channels = width
        for stage, count in enumerate(blocks):
            for block in range(count):
                layers.append(Bottleneck(channels, width * 2**stage, 2 if stage and not block else 1))
                channels = EXPANSION * width * 2**stage
        super().__init__(*layers)
        self.output_channels = channels


class ResNet50(ResNet):
    """Image ``(B, 3, S, S)`` to features ``(B, 2048, S/32, S/32)``."""

    def __init__(self) -> None:
        super().__init__(width=64, blocks=(3, 4, 6, 3))
