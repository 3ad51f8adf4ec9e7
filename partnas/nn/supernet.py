"""The supernet: all architectures of a search space at once, weighted by the alphas (section 3.2 of the paper)."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from partnas.errors import PartnasError
from partnas.genotype import Genotype
from partnas.nn.heads import Heads
from partnas.nn.layout import cell_layouts, stem_channels
from partnas.nn.mixed_cell import MixedCell, Mixing, alphas
from partnas.nn.primitives import Stem
from partnas.ops.maps import whole
from partnas.space import SearchSpace

RECOMPUTE = ("none", "light", "cell")


class Supernet(nn.Module):
    """Normal, reduction and fusion cells whose edges hold all candidate operations.

    Batch norm always uses the statistics of the batch at hand, in evaluation mode too, and has no affine map (DARTS).

    Args:
        space: The search space.
        recompute: What backward forms anew rather than keeps: ``'none'``, ``'light'`` (what the depthwise filters, the
            pools and ReLU give) or ``'cell'`` (everything but the inputs of the cells).
        activation_dtype: What maps are stored in, float32 or bfloat16. Sums, statistics and parameters stay float32.

    Attributes:
        alphas: For each kind of cell, whether the network has one or not, ``(edges, operations)``: parameters, and in
            the state dict, like any other. Edges are sorted by node, then by source.
        space: The search space.
    """

    def __init__(self, space: SearchSpace, recompute: str = "light", activation_dtype: torch.dtype | None = None):
        super().__init__()
        if recompute not in RECOMPUTE:
            raise PartnasError(f"recompute: {recompute!r} is not known; use one of {', '.join(RECOMPUTE)}")
        self.space, self.recompute, self.activation_dtype = space, recompute, activation_dtype
        layouts = cell_layouts(space)
        nodes = {"normal": space.nodes, "reduction": space.nodes, "fusion": space.fusion_nodes}
        self.kinds = [layout.kind for layout in layouts]
        self.alphas = nn.ParameterDict({kind: alphas(count, space.operations) for kind, count in nodes.items()})
        self.mixing = nn.ModuleDict({kind: Mixing(kind, count, space.operations) for kind, count in nodes.items()})
        self.stem = Stem(stem_channels(space), searching=True)
        self.cells = nn.ModuleList(MixedCell(layout, space.operations, recompute == "light") for layout in layouts)
        self.decode = Heads(space)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Expected voxel of each part.

        Args:
            x: ``(B, 3, S, S)`` normalised images; S is any multiple of ``2 ** reductions``.

        Returns:
            ``(B, parts, 3)`` float32: x, y, z in voxels.
        """
        return self.decode(self._heads(x))

    def heatmaps(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, fusion_nodes * slots * D, H, W)`` logits; ``space.part_slots()`` tells where each part is."""
        return whole(self._heads(x))

    def architecture_parameters(self) -> Iterator[nn.Parameter]:
        """The alphas."""
        return iter(self.alphas.values())

    def weight_parameters(self) -> Iterator[nn.Parameter]:
        """All parameters but the alphas."""
        return (value for name, value in self.named_parameters() if not name.startswith("alphas."))

    def genotype(self) -> Genotype:
        """The architecture that the alphas stand for now."""
        return Genotype.from_alphas(self.alphas, self.space)

    def spec(self) -> dict[str, Any]:
        """What ``partnas.networks.build`` makes a network of this shape from."""
        return {"kind": "supernet", "space": self.space.to_dict()}

    def _heads(self, x: torch.Tensor) -> list[torch.Tensor]:
        weights = {kind: mixing(self.alphas[kind]) for kind, mixing in self.mixing.items() if kind in self.kinds}
        older = newer = self.stem(x.contiguous(memory_format=torch.channels_last)).to(self.activation_dtype or x.dtype)
        for kind, cell in zip(self.kinds, self.cells, strict=True):
            if self.recompute == "cell" and torch.is_grad_enabled():
                found = checkpoint(cell, older, newer, weights[kind], use_reentrant=False, preserve_rng_state=False)
            else:
                found = cell(older, newer, weights[kind])
            older, newer = newer, found
        return newer
