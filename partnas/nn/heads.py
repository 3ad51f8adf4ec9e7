"""From the heads of a network, the nodes of its last fusion cell, to the joints."""

from collections.abc import Sequence

import torch
from torch import nn

from partnas.ops.soft_argmax_3d import soft_argmax_3d
from partnas.space import SearchSpace


class Heads(nn.Module):
    """The soft-argmax of every head's part group, with the parts put in the order of the skeleton.

    Each head is read as it lies: the volume of all parts, which is far larger than any other map, is never put together.

    Args:
        space: Tells the part groups.
        order: A permutation of all parts: part p is read from where part ``order[p]`` stands without it; None leaves
            the parts where they stand.
    """

    def __init__(self, space: SearchSpace, order: Sequence[int] | None = None):
        super().__init__()
        self.slots, groups = space.slots, space.part_groups()
        self.sizes = [len(group) for group in groups]
        standing = [part for group in groups for part in group]
        places = [standing.index(part) for part in (range(space.parts) if order is None else order)]
        in_order = places == list(range(space.parts))
        self.register_buffer("places", None if in_order else torch.tensor(places), persistent=False)

    def forward(self, heads: Sequence[torch.Tensor]) -> torch.Tensor:
        """Expected voxel of each part.

        Args:
            heads: ``(B, slots * D, H, W)`` logits each, one for each part group, in the groups' order.

        Returns:
            ``(B, parts, 3)``: x, y, z in voxels; float32, or float64 for float64 heads.

        Raises:
            PartnasError: The channels do not divide into the slots.
        """
        found = [soft_argmax_3d(head, self.slots, range(size)) for head, size in zip(heads, self.sizes, strict=True)]
        coordinates = torch.cat(found, 1)
        return coordinates if self.places is None else coordinates.index_select(1, self.places)
