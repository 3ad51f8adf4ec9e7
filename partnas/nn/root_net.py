"""RootNet: where a person's root stands, from a crop of him (Moon et al. 2019)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from partnas.errors import PartnasError
from partnas.nn.deconv_net import DeconvolutionHead
from partnas.nn.resnet import STRIDE, ResNet
from partnas.ops.soft_argmax_3d import soft_argmax_3d

DECONVOLUTIONS = 3
HEATMAP_STRIDE = STRIDE // 2**DECONVOLUTIONS


class RootNet(nn.Module):
    """A ResNet with two heads: three deconvolutions to a heatmap of the root, read by soft-argmax, and one number gamma.

    The root's depth is gamma * k (see ``partnas.data.root_dataset.k_values``): k takes a person for one who fills a square of
    2 m, and gamma corrects it by what the picture shows, such as a child or a crouch. A crop alone cannot tell the
    depth, since box and focal length do not enter it; k carries both, so one network serves all cameras. As it starts,
    gamma is about 1.

    Args:
        input_size: Side S of the square crop in pixels, a multiple of 32.
        width: Channels of the ResNet's first 3x3 convolutions; 64 in a ResNet-50.
        blocks: Bottlenecks of its four stages; 3, 4, 6, 3 in a ResNet-50.
        channels: Of the deconvolutions.

    Raises:
        PartnasError: A field is out of range; the message names it.
    """

    def __init__(
        self, input_size: int = 256, width: int = 64, blocks: Sequence[int] = (3, 4, 6, 3), channels: int = 256
    ):
        super().__init__()
        for name, value in {"input_size": input_size, "width": width, "channels": channels}.items():
            _require_positive(name, value)
        if not isinstance(blocks, (list, tuple)) or len(blocks) != 4:
            raise PartnasError(f"blocks: {blocks!r} are not the numbers of four stages; write them in brackets")
        for value in blocks:
            _require_positive("blocks", value)
        if input_size % STRIDE:
            raise PartnasError(f"input_size: {input_size} is no multiple of {STRIDE}, a ResNet's stride; correct it")
        self.input_size, self.width, self.blocks, self.channels = input_size, width, tuple(blocks), channels
        self.backbone = ResNet(width, blocks)
        self.heatmap_head = DeconvolutionHead(self.backbone.output_channels, DECONVOLUTIONS, 1, channels)
        self.gamma_head = nn.Conv2d(self.backbone.output_channels, 1, 1)
        nn.init.normal_(self.gamma_head.weight, std=0.001)
        nn.init.ones_(self.gamma_head.bias)

    @property
    def heatmap_size(self) -> int:
        """Side of the heatmap in voxels."""
        return self.input_size // HEATMAP_STRIDE

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, 3, S, S)`` normalised images to ``(B, 3)``: the root's x and y in voxels of the heatmap, and gamma."""
        features = self.backbone(x.contiguous(memory_format=torch.channels_last))
        xy = soft_argmax_3d(self.heatmap_head(features), parts=1)[:, 0, :2]  # [B, 2]
        gamma = self.gamma_head(features.mean((2, 3), keepdim=True)).flatten(1)  # [B, 1]
        return torch.cat([xy, gamma.to(xy)], 1)

    def heatmaps(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, 1, S/4, S/4)`` logits of the root's place."""
        return self.heatmap_head(self.backbone(x.contiguous(memory_format=torch.channels_last)))

    def spec(self) -> dict[str, Any]:
        """What ``partnas.networks.build`` makes a network of this shape from."""
        return {
            "kind": "rootnet",
            "input_size": self.input_size,
            "width": self.width,
            "blocks": list(self.blocks),
            "channels": self.channels,
        }


def _require_positive(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise PartnasError(f"{name}: {value!r} is not a whole number of at least 1; correct it")
