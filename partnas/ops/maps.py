"""Maps ``(B, C, H, W)``: new ones in channels-last memory, and several that are read as one."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

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


def every_second(x: torch.Tensor, first: int) -> torch.Tensor:
    """Every second pixel of every second row, channels-last: the even ones (``first`` 0), or the odd ones (1), their
    diagonal neighbours. Where a side is odd the latter end in a row or column of zeros, so that both have one size."""
    height, width = x.shape[2:]
    if first and (height % 2 or width % 2):
        x = F.pad(x, (0, width % 2, 0, height % 2))
    return channels_last(x[:, :, first::2, first::2])


def empty_map(like: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """An uninitialised map of ``shape``, channels-last, in the dtype and on the device of ``like``."""
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
