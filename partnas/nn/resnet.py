"""ResNets of bottlenecks without their classifier (He et al. 2016; stride in the 3x3 convolutions, as is usual)."""

from collections.abc import Sequence

import torch
from torch import nn

EXPANSION = 4
STRIDE = 32
PUBLIC_STEM = {"0": "conv1", "1": "bn1"}
PUBLIC_BLOCK = {
    "body.0": "conv1", "body.1": "bn1", "body.3": "conv2", "body.4": "bn2", "body.6": "conv3", "body.7": "bn3",
    "shortcut.0": "downsample.0", "shortcut.1": "downsample.1",
}  # fmt: skip
"""What torchvision and timm call the layers of a network and of a bottleneck."""


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
        self.blocks = tuple(blocks)
        self.output_channels = channels

    def public_names(self) -> dict[str, str]:
        """What torchvision and timm call each tensor of the state dict; the counters of batches are left out."""
        layers, place = dict(PUBLIC_STEM), 4
        for stage, count in enumerate(self.blocks, start=1):
            for block in range(count):
                layers |= {f"{place}.{own}": f"layer{stage}.{block}.{name}" for own, name in PUBLIC_BLOCK.items()}
                place += 1
        split = ((name, *name.rsplit(".", 1)) for name in self.state_dict())
        return {name: f"{layers[layer]}.{tensor}" for name, layer, tensor in split if tensor != "num_batches_tracked"}


class ResNet50(ResNet):
    """Image ``(B, 3, S, S)`` to features ``(B, 2048, S/32, S/32)``."""

    def __init__(self) -> None:
        super().__init__(width=64, blocks=(3, 4, 6, 3))
