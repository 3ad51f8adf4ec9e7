import pytest
import torch

from partnas.nn.heads import Heads
from partnas.ops.soft_argmax_3d import soft_argmax_3d
from partnas.space import SearchSpace

SMALL = {"cells": 4, "reductions": 1, "fusions": 1, "channels": 2, "parts": 5, "depth": 3, "input_size": 8}


@pytest.mark.parametrize("groups", [None, ((3, 1, 4), (0, 2)), ((0,), (1, 2, 3, 4))])
@pytest.mark.parametrize("order", [None, [2, 0, 1, 4, 3]])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_heads_read_one_by_one_give_what_their_concatenation_gives(groups, order, memory_format):
    space = SearchSpace(**SMALL, groups=groups)
    shape = (2, space.fusion_nodes * space.slots * 3, 8, 7)
    heatmaps = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    slots = space.part_slots()
    slots = slots if order is None else [slots[part] for part in order]
    expected = soft_argmax_3d(heatmaps, space.fusion_nodes * space.slots, slots)
    heads = [head.contiguous(memory_format=memory_format) for head in heatmaps.chunk(space.fusion_nodes, 1)]
    found = Heads(space, order)(heads)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(expected)
    (by_heads,), (by_whole,) = (torch.autograd.grad(value, heatmaps, upstream) for value in (found, expected))
    torch.testing.assert_close(by_heads, by_whole, rtol=1e-10, atol=1e-12)
