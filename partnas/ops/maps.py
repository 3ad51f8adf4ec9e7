"""Maps ``(B, C, H, W)``: new ones in channels-last memory, and several that are read as one."""

from collections.abc import Sequence

import torch

Maps = torch.Tensor | Sequence[torch.Tensor]
"""A map, or several that stand for their concatenation along the channels: the nodes of a cell, which are read as one
and never copied together."""


def parts_of(x: Maps) -> Sequence[torch.Tensor]:
    """The maps that :data:`Maps` are."""
    return [x] if isinstance(x, torch.Tensor) else x


def whole(x: Maps) -> torch.Tensor:
    """The concatenation that :data:`Maps` stand for."""
    parts = parts_of(x)
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), 1)


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """The map in channels-last memory; itself where it is."""
    return x.contiguous(memory_format=torch.channels_last)


def empty_map(like: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """An uninitialised map of ``shape``, channels-last, in the dtype and on the device of ``like``."""
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
