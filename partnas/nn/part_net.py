"""The derived network: the found cells stacked, with a head for each part group (section 3.2 of the paper)."""

import copy
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from partnas.errors import PartnasError
from partnas.genotype import Genotype
from partnas.nn.cells import derived_cells
from partnas.nn.heads import Heads
from partnas.nn.layout import cell_layouts, stem_channels
from partnas.nn.primitives import Branch, Stem
from partnas.ops.maps import whole
from partnas.ops.soft_argmax_3d import soft_argmax_3d
from partnas.space import SearchSpace


class PartNet(nn.Module):
    """A part-aware pose network made of a genotype's cells.

    Args:
        genotype: The cells.
        space: The macro structure; any number of cells, heads and part groups.
        order: The part order of the paper's ablation (Fig. 5): part p is read from where part ``order[p]`` stands
            without it, that is, it may change its head. A permutation of all parts; None leaves them.
        intermediate_supervision: Give the other fusion cells a 1x1 convolution to heatmaps of their own (see
            :meth:`forward_all`).

    Raises:
        PartnasError: The genotype has other numbers of nodes than the space, or ``order`` is no permutation.
    """

    def __init__(
        self,
        genotype: Genotype,
        space: SearchSpace,
        order: Sequence[int] | None = None,
        intermediate_supervision: bool = False,
    ):
        super().__init__()
        genotype.check(space)
        self.genotype, self.space = genotype, space
        self.order = _checked_order(order, space.parts)
        layouts = cell_layouts(space)
        self.stem = Stem(stem_channels(space), searching=False)
        self.cells = derived_cells(layouts, genotype)
        self.scales = [layout.scale for layout in layouts]
        first = len(layouts) - space.fusions
        self.decode = Heads(space, self.order)
        self.heads = nn.ModuleDict()
        if intermediate_supervision:
            for index in range(first, len(layouts) - 1):
                self.heads[str(index)] = nn.Conv2d(layouts[index].output_channels, space.parts * space.depth, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Expected voxel of each part.

        Args:
            x: ``(B, 3, S, S)`` normalised images; S is any multiple of ``2 ** reductions``.

        Returns:
            ``(B, parts, 3)`` float32: x, y, z in voxels.
        """
        return self.decode(self._outputs(x)[-1])

    def heatmaps(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, fusion_nodes * slots * D, H, W)`` logits; ``space.part_slots()`` tells where each part is."""
        return whole(self._outputs(x)[-1])

    def forward_all(self, x: torch.Tensor) -> list[torch.Tensor]:
        """What :meth:`forward` gives, for each fusion cell that has heatmaps: a loss on each supervises them all.

        Returns:
            ``(B, parts, 3)`` for each, the last cell's last, all in voxels of the final heatmap.
        """
        outputs = self._outputs(x)
        found = []
        for index, head in self.heads.items():
            coordinates = soft_argmax_3d(head(whole(outputs[int(index)])), self.space.parts)
            factor = float(self.scales[-1] / self.scales[int(index)])
            found.append(coordinates * coordinates.new_tensor([factor, factor, 1.0]))
        return [*found, self.decode(outputs[-1])]

    def fuse(self) -> "PartNet":
        """A copy for inference, in which every batch norm is folded into the convolution before it and each node is
        added up by its last convolutions. It gives what this network gives in evaluation mode, to rounding. The first
        call without gradients packs the weights, see :class:`partnas.nn.primitives.PackedWeights`."""
        fused = copy.deepcopy(self).eval()
        for module in fused.modules():
            if isinstance(module, (Branch, Stem)):
                module.fold()
        return fused.requires_grad_(False)

    def spec(self) -> dict[str, Any]:
        """What ``partnas.networks.build`` makes a network of this shape from."""
        return {
            "kind": "partnet",
            "space": self.space.to_dict(),
            "genotype": self.genotype.to_dict(),
            "order": self.order,
            "intermediate_supervision": bool(self.heads),
        }

    def _outputs(self, x: torch.Tensor) -> list[list[torch.Tensor]]:
        older = newer = self.stem(x.contiguous(memory_format=torch.channels_last))
        outputs = []
        for cell in self.cells:
            older, newer = newer, cell(older, newer)
            outputs.append(newer)
        return outputs


def _checked_order(order: Sequence[int] | None, parts: int) -> list[int] | None:
    if order is None:
        return None
    try:
        found = [operator.index(part) for part in order]
    except TypeError:
        found = []
    if sorted(found) != list(range(parts)):
        raise PartnasError(f"order: not a permutation of the parts 0 to {parts - 1}; name each exactly once")
    return found
