from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from plain_derived import plain_operation
from torch import nn

from partnas.nn.cells import operation
from partnas.nn.primitives import (
    DepthwiseConv2d,
    FactorisedReduction,
    ReluConvNorm,
    Stem,
    Upsample,
    even_and_odd,
    preprocessing,
)

SIDES = [(7, 9), (8, 6), (1, 1), (1, 4), (3, 2)]


def randomised(module):
    """In float64, with batch-norm weights and statistics that are not ones and zeros."""
    module.double()
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.affine:
            with torch.no_grad():
                norm.weight.uniform_(0.5, 2)
                norm.bias.normal_()
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
    return module


NAMES = ["max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"]


@pytest.mark.parametrize("sides", SIDES, ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_every_operation_of_a_derived_network(name, stride, sides):
    torch.manual_seed(0)
    layer = randomised(operation(name, 5, stride))
    for training in (True, False):
        layer.train(training)
        x = torch.randn(3, 5, *sides, dtype=torch.float64, requires_grad=True)
        parameters = [x, *layer.parameters()]
        expected = plain_operation(name, layer, x, stride)
        found = layer(x)
        assert found.shape == (3, 5, -(-sides[0] // stride), -(-sides[1] // stride))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        gradient = torch.randn_like(expected)
        for ours, theirs in zip(
            torch.autograd.grad(found, parameters, gradient),
            torch.autograd.grad(expected, parameters, gradient),
            strict=True,
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES[3:])
def test_kernel_sizes_and_where_the_stride_is(name):
    layer = operation(name, 4, 2)
    filters = [module for module in layer.children() if isinstance(module, DepthwiseConv2d)]
    assert [f.weight.shape[-1] for f in filters] == [int(name[-1])] * len(filters)
    assert [f.stride for f in filters] == ([2, 1] if name.startswith("sep") else [2])
    assert [f.dilation for f in filters] == ([1, 1] if name.startswith("sep") else [2])


def test_an_operation_that_makes_no_layer():
    with pytest.raises(ValueError, match="'none' makes no layer"):
        operation("none", 4, 1)


@pytest.mark.parametrize("searching", [True, False])
@pytest.mark.parametrize("make", [FactorisedReduction, ReluConvNorm, lambda a, b, s: Stem(b, s)])
def test_batch_norm_has_an_affine_map_and_running_statistics_in_derived_networks_only(make, searching):
    (norm,) = (module for module in make(3, 6, searching).modules() if isinstance(module, nn.BatchNorm2d))
    assert norm.affine is norm.track_running_stats is not searching
    assert (norm.eps, norm.momentum) == (1e-5, 0.1)


def test_every_second_pixel():
    x = torch.arange(15.0).view(1, 1, 3, 5)
    even, odd = even_and_odd(x)
    assert even.tolist() == [[[[0, 2, 4], [10, 12, 14]]]]
    assert odd.tolist() == [[[[6, 8, 0], [0, 0, 0]]]]
    even, odd = even_and_odd(x[..., :2, :4])
    assert (even.tolist(), odd.tolist()) == ([[[[0, 2]]]], [[[[6, 8]]]])
    assert [half.shape for half in even_and_odd(x[..., :1, :1])] == [(1, 1, 1, 1)] * 2


@pytest.mark.parametrize("channels_out", [4, 5, 85])
def test_factorised_reduction_splits_any_number_of_channels(channels_out):
    layer = FactorisedReduction(6, channels_out, searching=True)
    assert layer(torch.randn(2, 6, 8, 8)).shape == (2, channels_out, 4, 4)
    assert (layer.even.out_channels, layer.odd.out_channels) == (channels_out // 2, -(-channels_out // 2))


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 1)], ids=str)
@pytest.mark.parametrize("channels_out", [6, 7])
def test_factorised_reduction_with_and_without_gradients(channels_out, size):
    torch.manual_seed(0)
    layer, x = FactorisedReduction(6, channels_out, searching=False).eval(), torch.randn(2, 6, *size)
    add = torch.randn(2, channels_out, *(-(-side // 2) for side in size))
    halves = [conv(F.relu(half)) for conv, half in zip((layer.even, layer.odd), even_and_odd(x), strict=True)]
    expected = torch.cat(halves, 1) + add
    torch.testing.assert_close(layer.before_norm(x, add), expected, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(layer.before_norm(x, add), expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(layer.before_norm(x.chunk(3, 1), add), expected, rtol=1e-5, atol=1e-6)
        folded = layer(x)
        layer.fold()
        torch.testing.assert_close(layer(x), folded, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("searching", [True, False])
def test_preprocessing(searching):
    torch.manual_seed(0)
    x = torch.randn(2, 6, 4, 6)
    halved = preprocessing(6, 4, Fraction(1, 2), searching)
    assert isinstance(halved, FactorisedReduction)
    assert halved(x).shape == (2, 4, 2, 3)
    same = preprocessing(6, 4, Fraction(1), searching)
    assert isinstance(same, ReluConvNorm)
    convolved = F.conv2d(F.relu(x), same.pointwise.weight)
    torch.testing.assert_close(same(x), F.batch_norm(convolved, None, None, training=True), rtol=1e-5, atol=1e-5)
    for factor in (2, 4):
        larger = preprocessing(6, 4, Fraction(factor), searching)
        assert isinstance(larger[1], Upsample)
        expected = F.interpolate(larger[0](x), scale_factor=factor, mode="bilinear", align_corners=False)
        torch.testing.assert_close(larger(x), expected)


def test_upsampling_and_a_1x1_convolution_commute():
    x = torch.randn(2, 6, 4, 6, dtype=torch.float64)
    weight = torch.randn(3, 6, 1, 1, dtype=torch.float64)
    up = Upsample(4)
    torch.testing.assert_close(up(F.conv2d(x, weight)), F.conv2d(up(x), weight), rtol=1e-12, atol=1e-12)
