"""Networks with deconvolutions in the fusion cells' place (Table 3 of the paper)."""

from typing import Any

import torch
from torch import nn

from partnas.errors import PartnasError
from partnas.genotype import Genotype
from partnas.nn.cells import derived_cells
from partnas.nn.layout import CellLayout, cell_layouts, stem_channels
from partnas.nn.primitives import Stem
from partnas.nn.resnet import ResNet50
from partnas.nn.supernet import Supernet
from partnas.ops.maps import whole
from partnas.ops.soft_argmax_3d import soft_argmax_3d
from partnas.space import SearchSpace


class DeconvolutionHead(nn.Sequential):
    """4x4 deconvolutions, each doubling the resolution, with batch norm and ReLU, then a 1x1 convolution to heatmaps
    (Sun et al., integral regression)."""

    def __init__(self, channels_in: int, count: int, channels_out: int, channels: int = 256):
        layers: list[nn.Module] = []
        for _ in range(count):
            layers += [
                nn.ConvTranspose2d(channels_in, channels, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            ]
            channels_in = channels
        super().__init__(*layers, nn.Conv2d(channels_in, channels_out, 1))


class PoseResNet50(nn.Module):
    """ResNet-50 and deconvolutions: the public integral-regression baseline.

    Raises:
        PartnasError: ``space.reductions`` is not 5, the stride of a ResNet being 32.
    """

    def __init__(self, space: SearchSpace):
        super().__init__()
        if space.reductions != 5:
            raise PartnasError(f"reductions: {space.reductions}; a ResNet-50 has stride 32, set reductions to 5")
        self.space = space
        self.backbone = ResNet50()
        self.head = DeconvolutionHead(self.backbone.output_channels, space.fusions, space.parts * space.depth)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, 3, S, S)`` normalised images to ``(B, parts, 3)`` voxels (x, y, z)."""
        return soft_argmax_3d(self.heatmaps(x), self.space.parts)

    def heatmaps(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, parts * D, H, W)`` logits."""
        return self.head(self.backbone(x.contiguous(memory_format=torch.channels_last)))

    def spec(self) -> dict[str, Any]:
        """What ``partnas.networks.build`` makes a network of this shape from."""
        return {"kind": "resnet50", "space": self.space.to_dict()}


class DeconvNet(nn.Module):
    """The searched normal and reduction cells and deconvolutions ("Ours, BS" in Table 3)."""

    def __init__(self, genotype: Genotype, space: SearchSpace):
        super().__init__()
        genotype.check(space)
        self.genotype, self.space = genotype, space
        layouts = backbone_layouts(space)
        self.stem = Stem(stem_channels(space), searching=False)
        self.cells = derived_cells(layouts, genotype)
        self.head = DeconvolutionHead(layouts[-1].output_channels, space.fusions, space.parts * space.depth)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, 3, S, S)`` normalised images to ``(B, parts, 3)`` voxels (x, y, z)."""
        return soft_argmax_3d(self.heatmaps(x), self.space.parts)

    def heatmaps(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, parts * D, H, W)`` logits."""
        older = newer = self.stem(x.contiguous(memory_format=torch.channels_last))
        for cell in self.cells:
            older, newer = newer, cell(older, newer)
        return self.head(whole(newer))

    def spec(self) -> dict[str, Any]:
        """What ``partnas.networks.build`` makes a network of this shape from."""
        return {"kind": "deconv", "space": self.space.to_dict(), "genotype": self.genotype.to_dict()}


class BackboneSupernet(Supernet):
    """A supernet of normal and reduction cells under deconvolutions: what the backbone search of Table 3 trains.

    Nothing is learned of fusion cells: those of :meth:`genotype` are what the untrained alphas stand for, and a
    :class:`DeconvNet` does not read them. For the arguments see :class:`Supernet`.

    Raises:
        PartnasError: The space has no cells before its fusion cells.
    """

    def __init__(self, space: SearchSpace, recompute: str = "light", activation_dtype: torch.dtype | None = None):
        super().__init__(space, recompute, activation_dtype)
        backbone = backbone_layouts(space)
        self.kinds, self.cells = self.kinds[: len(backbone)], self.cells[: len(backbone)]
        self.head = DeconvolutionHead(backbone[-1].output_channels, space.fusions, space.parts * space.depth)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, 3, S, S)`` normalised images to ``(B, parts, 3)`` voxels (x, y, z)."""
        return soft_argmax_3d(self.heatmaps(x), self.space.parts)

    def heatmaps(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, parts * D, H, W)`` logits."""
        return self.head(super().heatmaps(x).to(x.dtype))

    def spec(self) -> dict[str, Any]:
        """What ``partnas.networks.build`` makes a network of this shape from."""
        return {"kind": "backbone_supernet", "space": self.space.to_dict()}


def backbone_layouts(space: SearchSpace) -> list[CellLayout]:
    """The cells before the fusion cells.

    Raises:
        PartnasError: There are none.
    """
    layouts = cell_layouts(space)[: -space.fusions]
    if not layouts:
        raise PartnasError("cells: a network of deconvolutions needs cells before them; take more than fusions")
    return layouts
