import pytest
import torch
from fvcore.nn import FlopCountAnalysis

from partnas.ops import channel_shuffle, fvcore_handles, native, soft_argmax_3d, use_backend
from partnas.ops.depthwise_bank import depthwise_bank
from partnas.ops.upsample import upsample

needs_native = pytest.mark.skipif(not native.loaded(), reason=native.note())


class Shuffled(torch.nn.Module):
    def forward(self, x):
        return soft_argmax_3d(channel_shuffle(x, 2), parts=2)


class Filtered(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.filters = torch.nn.ParameterList([torch.randn(3, 3, 3), torch.randn(3, 5, 5)])

    def forward(self, x):
        return sum(upsample(z, 2) for z in depthwise_bank(x, list(self.filters), dilations=[1, 2], stride=2))


def total(network, *shape):
    analysis = FlopCountAnalysis(network.eval(), torch.randn(shape))
    analysis.set_op_handle(**fvcore_handles()).unsupported_ops_warnings(False)
    with torch.no_grad():
        return analysis.total()


@needs_native
def test_native_soft_argmax_counts_by_its_formula():
    assert total(Shuffled(), 1, 8, 5, 6) == 2 * 8 * 5 * 6


@needs_native
def test_native_and_reference_filters_count_alike():
    counts = []
    for name in ("native", "reference"):
        with use_backend(name):
            counts.append(total(Filtered(), 1, 3, 7, 9))
    assert counts[0] == counts[1]
    assert counts[0] >= 3 * 4 * 5 * (9 + 25)
