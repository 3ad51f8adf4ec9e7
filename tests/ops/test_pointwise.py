import ctypes
import math
import mmap
import os
import sys

import pytest
import torch
import torch.nn.functional as F
from fvcore.nn import FlopCountAnalysis
from map_cases import DTYPES, LAYOUTS, Allocations, counted, random_map
from native_cpu import INSTRUCTION_SETS, implementation
from torch.autograd import gradcheck

from partnas.ops import fvcore_handles
from partnas.ops.pointwise import factorised_reduction, flops, pack, pointwise, reference

MODULE = sys.modules["partnas.ops.pointwise"]
CHANNELS = [
    (1, 1), (3, 1), (1, 3), (8, 8), (3, 8), (8, 17), (16, 16), (17, 24), (24, 3), (48, 16), (16, 48), (32, 64), (64, 32),
    (65, 128), (128, 65), (130, 130),
]  # fmt: skip
SIZES = [(1, 1, 1), (1, 1, 5), (3, 7, 9), (1, 13, 11), (0, 4, 3), (2, 0, 3)]  # B, H, W


pytestmark = pytest.mark.usefixtures("filled_memory", "one_thread")


@pytest.fixture(autouse=True)
def _kernels_take_any_channels(monkeypatch):
    monkeypatch.setattr(MODULE, "MOST_CHANNELS", dict.fromkeys(MODULE.MOST_CHANNELS, math.inf))
    monkeypatch.setattr(MODULE, "FEW_PIXELS", 0)


class Case:
    """F maps, a weight and what flows back, already rounded to the dtype."""

    def __init__(self, channels=(8, 8), size=(3, 7, 9), count=2, dtype=torch.float32, layout="channels_last", seed=0):
        batch, height, width = size
        self.channels, self.dtype = channels, dtype
        shape_in, shape_out = ((batch, c, height, width) for c in channels)
        self.maps = [random_map(shape_in, dtype, layout, seed + f) for f in range(count)]
        self.upstream = [random_map(shape_out, dtype, layout, seed + 100 + f) for f in range(count)]
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(count, *reversed(channels), generator=generator).to(dtype)

    def run(self, function, dtype=None, wanted=None, absolute=False):
        """Output maps, then the gradients of the weight and of each map."""

        def copy(x):
            x = x if dtype is None else x.to(dtype)
            return x.abs() if absolute else x

        leaves = [copy(t).detach().requires_grad_() for t in (self.weight, *self.maps)]
        maps = function(leaves[1:], leaves[0])
        found = torch.autograd.grad(maps, wanted or leaves, [copy(g) for g in self.upstream])
        return [*(z.detach() for z in maps), *found]


def definition(maps, weight):
    return [torch.einsum("oi,bihw->bohw", matrix, x) for x, matrix in zip(maps, weight, strict=True)]


def convolutions(maps, weight):
    return [F.conv2d(x, matrix[:, :, None, None]) for x, matrix in zip(maps, weight, strict=True)]


def rectified(function):
    """The function of what ReLU leaves of its maps."""
    return lambda maps, weight: function([torch.relu(x) for x in maps], weight)


def pointwise_of_relu(maps, weight):
    return pointwise(maps, weight, relu=True)


def expected(case, definition=definition):
    """For each result the exact value, and elementwise how far from it one that is right may be: every product and
    every sum rounds once in the accumulator, whatever their order, and the result once more in its dtype."""
    accumulator = torch.float64 if case.dtype == torch.float64 else torch.float32
    exact = case.run(definition, torch.float64)
    magnitudes = case.run(definition, torch.float64, absolute=True)
    count, (channels_in, channels_out) = len(case.maps), case.channels
    pixels = case.maps[0][:, :1].numel() if channels_in else 0
    terms = [channels_in] * count + [pixels] + [channels_out] * count
    finest = torch.finfo(case.dtype)
    return [
        (value, value.abs() * finest.eps / 2 + magnitude * n * torch.finfo(accumulator).eps + finest.tiny * finest.eps)
        for value, magnitude, n in zip(exact, magnitudes, terms, strict=True)
    ]


def check(case, found, right):
    names = [f"map {f}" for f in range(len(case.maps))] + ["weight"] + [f"input {f}" for f in range(len(case.maps))]
    for name, value, (exact, bound) in zip(names, found, right, strict=True):
        assert value.dtype == case.dtype, name
        assert value.shape == exact.shape, name
        excess = ((value.double() - exact).abs() - bound).flatten()
        assert excess.numel() == 0 or excess.max() <= 0, f"{name}: {excess.max()} beyond the bound"


def compare(*arguments, **keywords):
    case = Case(*arguments, **keywords)
    check(case, case.run(pointwise), expected(case))


def test_fresh_memory_is_nan():
    assert torch.empty_strided((64,), (1,)).isnan().all()


def test_the_definition_is_a_1x1_convolution():
    case = Case((5, 7), dtype=torch.float64)
    torch.testing.assert_close(case.run(definition), case.run(convolutions), rtol=1e-12, atol=1e-12)


def test_the_bound_sees_a_missing_term():
    case = Case((64, 64), (3, 7, 9))
    found = case.run(pointwise)
    short = Case((64, 64), (3, 7, 9))
    short.maps[1][2, 5, 6, 8] = 0
    for index in (1, 2):
        with pytest.raises(AssertionError, match="beyond the bound"):
            check(case, [*found[:index], short.run(pointwise)[index], *found[index + 1 :]], expected(case))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("channels", CHANNELS, ids=str)
def test_maps_and_gradients(served_by, channels, size):
    compare(channels, size)


@pytest.mark.parametrize("pixels", [2, 6, 7, 8, 11, 12, 13, 23, 24, 25, 95, 97, 400])
@pytest.mark.parametrize("channels", [(1, 1), (8, 8), (16, 17), (40, 33), (64, 64)], ids=str)
def test_pixel_counts(served_by, channels, pixels):
    compare(channels, (1, 1, pixels), count=1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("channels", [(8, 8), (17, 24), (64, 16), (3, 33)], ids=str)
def test_relu_first(served_by, channels, size, dtype):
    case = Case(channels, size, dtype=dtype)
    for x in case.maps:
        x[..., ::2] *= torch.rand(x[..., ::2].shape) > 0.3  # zeros, where the gradient is zero
    check(case, case.run(pointwise_of_relu), expected(case, rectified(definition)))


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("channels", "each"), [((8, 8), 4), ((51, 24), 3), ((64, 17), 4), ((2, 33), 2)], ids=str)
def test_maps_read_as_one(served_by, channels, each, size, dtype, relu):
    case = Case(channels, size, dtype=dtype)
    bias = torch.randn(2, channels[1], dtype=torch.float64)

    def of_parts(maps, weight, **more):
        return pointwise([part for x in maps for part in x.chunk(each, 1)], weight, relu, **more)

    right = expected(case, rectified(definition) if relu else definition)
    check(case, case.run(of_parts), right)
    with torch.no_grad():
        found = of_parts(case.maps, case.weight, bias=bias.to(dtype), add=case.upstream)
    for z, (exact, bound), b, more in zip(found, right, bias.to(dtype).double(), case.upstream, strict=False):
        exact = exact + b[:, None, None] + more.double()
        assert ((z.double() - exact).abs() <= 3 * bound + 4 * torch.finfo(dtype).eps * (exact.abs() + 4)).all()


def test_parts_that_need_no_gradient_get_none(served_by):
    case = Case((8, 12), (2, 3, 5), count=1)
    parts = [part.clone().requires_grad_(k != 1) for k, part in enumerate(case.maps[0].chunk(4, 1))]
    pointwise(parts, case.weight, relu=True)[0].backward(case.upstream[0])
    exact, bound = expected(case, rectified(definition))[2]
    assert parts[1].grad is None
    for k in (0, 2, 3):
        part = slice(2 * k, 2 * k + 2)
        assert ((parts[k].grad.double() - exact[:, part]).abs() <= bound[:, part]).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_relu_of_any_strides(served_by, layout):
    case = Case((17, 24), (3, 5, 7), layout=layout)
    check(case, case.run(pointwise_of_relu), expected(case, rectified(definition)))


def test_relu_keeps_the_maps_alone(served_by):
    case = Case((16, 24))
    leaves = [x.clone().requires_grad_() for x in case.maps]
    maps = pointwise(leaves, case.weight, relu=True)
    _, *kept = maps[0].grad_fn.saved_tensors
    assert [t.data_ptr() for t in kept] == [x.data_ptr() for x in leaves]
    torch.autograd.backward(maps, case.upstream)
    for leaf, (exact, bound) in zip(leaves, expected(case, rectified(definition))[3:], strict=True):
        assert ((leaf.grad.double() - exact).abs() <= bound).all()


def test_relu_lets_nan_pass(served_by):
    case = Case((8, 8), (2, 5, 9))
    case.maps[0][1, 2, 3, 4] = float("nan")
    first, *_ = case.run(pointwise_of_relu)
    assert first[1, :, 3, 4].isnan().all()
    assert first.isnan().sum() == 8


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [(8, 8), (17, 24), (3, 33)], ids=str)
def test_strides_and_dtypes(served_by, channels, dtype, layout):
    compare(channels, (3, 5, 7), dtype=dtype, layout=layout)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_long_sums_in_half_precision(served_by, dtype):
    compare((16, 17), (2, 40, 41), dtype=dtype)


def test_the_weight_may_have_any_strides(served_by):
    case = Case((8, 12), (2, 3, 5))
    wide = torch.zeros(12, 2, 16)
    wide[:, :, ::2] = case.weight.permute(1, 0, 2)
    case.weight = wide.permute(1, 0, 2)[:, :, ::2]
    check(case, case.run(pointwise), expected(case))


def test_a_wider_weight_than_the_maps(served_by):
    case = Case((8, 12), (2, 3, 5), dtype=torch.bfloat16)
    maps = pointwise(case.maps, case.weight.float().requires_grad_())
    assert all(z.dtype == torch.bfloat16 for z in maps)
    (gradient,) = torch.autograd.grad(maps, maps[0].grad_fn.saved_tensors[0], case.upstream)
    assert gradient.dtype == torch.float32
    right = expected(case)[2]
    assert ((gradient.double() - right[0]).abs() <= right[1]).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_map_several_times(served_by, layout):
    case = Case((16, 8), (2, 6, 5), count=3, layout=layout)
    x = case.maps[0].clone(memory_format=torch.preserve_format).requires_grad_()
    again = x.detach().double().requires_grad_()
    maps = pointwise([x] * 3, case.weight)
    right = definition([again] * 3, case.weight.double())
    torch.testing.assert_close(maps, [z.float() for z in right], rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(maps, x, case.upstream)
    (exact,) = torch.autograd.grad(right, again, [g.double() for g in case.upstream])
    torch.testing.assert_close(gradient, exact.float(), rtol=1e-5, atol=1e-5)


def test_results_are_channels_last_and_inputs_stay(served_by):
    case = Case((16, 8), layout="contiguous")
    before = [t.clone() for t in (case.weight, *case.maps, *case.upstream)]
    found = case.run(pointwise)
    assert all(z.is_contiguous(memory_format=torch.channels_last) for z in [*found[:2], *found[3:]])
    assert all(torch.equal(a, b) for a, b in zip((case.weight, *case.maps, *case.upstream), before, strict=True))
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(pointwise(case.maps, case.weight), found[:2], strict=True))


@pytest.mark.parametrize("wanted", [("weight",), ("map 0", "map 1"), ("map 1",), ("weight", "map 0")], ids=str)
def test_only_what_is_asked_for(served_by, wanted):
    case = Case((16, 24))
    names = ["weight", "map 0", "map 1"]
    leaves = [t.clone().requires_grad_(n in wanted) for n, t in zip(names, (case.weight, *case.maps), strict=True)]
    maps = pointwise(leaves[1:], leaves[0])
    kept = maps[0].grad_fn.saved_tensors
    assert len(kept) == (3 if "weight" in wanted else 1)
    recorder = Allocations(0)
    with recorder:
        torch.autograd.backward(maps, case.upstream)
    for name, leaf, (exact, bound) in zip(names, leaves, expected(case)[2:], strict=True):
        assert (leaf.grad is not None) == (name in wanted)
        assert leaf.grad is None or ((leaf.grad.double() - exact).abs() <= bound).all()
    if served_by == "reference":
        assert recorder.names.count("aten::mm") == sum(2 if name == "weight" else 1 for name in wanted)
    else:
        assert recorder.names.count("partnas::pointwise_backward") == 1


def test_maps_that_nobody_reads_give_no_gradient(served_by):
    case = Case((16, 24), count=3)
    leaves = [t.clone().requires_grad_() for t in (case.weight, *case.maps)]
    pointwise(leaves[1:], leaves[0])[1].backward(case.upstream[1])
    right = expected(case)[3:]
    assert not leaves[0].grad[::2].any()
    assert leaves[1].grad is None
    assert leaves[3].grad is None
    for value, (exact, bound) in ((leaves[0].grad[1], [t[1] for t in right[0]]), (leaves[2].grad, right[2])):
        assert ((value.double() - exact).abs() <= bound).all()


def test_gradcheck(served_by):
    case = Case((3, 4), (2, 2, 3), dtype=torch.float64)
    leaves = [t.clone().requires_grad_() for t in (case.weight, *case.maps)]
    assert gradcheck(lambda weight, *maps: pointwise(maps, weight), leaves)
    assert gradcheck(lambda weight, *maps: pointwise(maps, weight, relu=True), leaves)


def test_no_second_derivative(served_by):
    case = Case()
    weight = case.weight.requires_grad_()
    (gradient,) = torch.autograd.grad(pointwise(case.maps, weight)[0].square().sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_runs_are_identical(served_by, count):
    case = Case((17, 24), (3, 65, 67), count=3)
    torch.set_num_threads(count)
    first, *others = (case.run(pointwise) for _ in range(3))
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(
    ("channels", "size"),
    [
        ((17, 24), (3, 65, 67)),
        ((8, 8), (1, 201, 200)),
        ((64, 65), (1, 9, 90)),
        ((140, 70), (1, 16, 17)),
        ((300, 40), (1, 1, 9)),
    ],
)
@pytest.mark.parametrize("count", [1, 3])
def test_several_threads(served_by, channels, size, count):
    torch.set_num_threads(3)
    compare(channels, size, count)


@pytest.mark.parametrize("size", [(2, 16, 17), (3, 33, 40)], ids=str)
def test_results_do_not_depend_on_the_threads(served_by, size):
    case, found = Case((140, 70), size, count=1), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(case.run(pointwise))
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("channels", [(8, 8), (17, 3), (40, 33)], ids=str)
def test_nan_stays_in_its_pixel_and_channel(served_by, channels):
    case = Case(channels, (2, 5, 9))
    case.maps[0][1, 2, 3, 4] = float("nan")
    first, second, weight, *gradients = case.run(pointwise)
    assert first[1, :, 3, 4].isnan().all()
    assert first.isnan().sum() == channels[1]
    assert weight[0, :, 2].isnan().all()
    assert weight.isnan().sum() == channels[1]
    assert not any(t.isnan().any() for t in (second, *gradients))


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("channels", [(8, 8), (17, 24), (64, 16), (3, 33), (5, 130)], ids=str)
def test_bias_and_a_map_to_add(served_by, channels, size, dtype, relu):
    case = Case(channels, size, dtype=dtype)
    bias = torch.randn(2, channels[1], generator=torch.Generator().manual_seed(1)).to(dtype)

    def ours(maps, weight):
        return pointwise(
            maps, weight, relu, bias=bias.to(weight.dtype), add=[g.to(weight.dtype) for g in case.upstream]
        )

    def plain(maps, weight):
        maps = [torch.relu(x) for x in maps] if relu else maps
        return [
            z + b[:, None, None] + g.to(z.dtype)
            for z, b, g in zip(definition(maps, weight), bias.to(weight.dtype), case.upstream, strict=True)
        ]

    exact = [z.detach() for z in plain([x.double() for x in case.maps], case.weight.double())]
    with torch.no_grad():
        found = ours(case.maps, case.weight)
    # In PyTorch each of the three terms is rounded to the dtype.
    for z, right, product in zip(
        found, exact, expected(case, rectified(definition) if relu else definition), strict=False
    ):
        bound = 3 * product[1] + 4 * torch.finfo(dtype).eps * (right.abs() + 4)
        assert z.dtype == dtype
        assert z.shape == right.shape
        assert ((z.double() - right).abs() <= bound).all()
        assert z.numel() == 0 or z.is_contiguous(memory_format=torch.channels_last)
    if dtype == torch.float64:
        for mine, right in zip(case.run(ours), case.run(plain), strict=True):
            torch.testing.assert_close(mine, right, rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="2 matrices but 1 maps to add"):
        pointwise(case.maps, case.weight, add=case.upstream[:1])


@pytest.mark.parametrize("pixels", [1, 5, 49, 100])
@pytest.mark.parametrize("channels", [(300, 512), (512, 96), (200, 176), (130, 130)], ids=str)
def test_few_pixels_and_large_matrices(served_by, channels, pixels):
    torch.set_num_threads(3)
    case = Case(channels, (1, 1, pixels), count=1)
    right = expected(case)
    check(case, case.run(pointwise), right)
    x = case.maps[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(pointwise([x], case.weight), x, case.upstream)
    exact, bound = right[2]
    assert ((gradient.double() - exact).abs() <= bound).all()


def halves(x, first):
    """The even pixels of a map, or the odd ones, as though it ended in zeros."""
    height, width = (-(-side // 2) for side in x.shape[2:])
    found = x.new_zeros(*x.shape[:2], height, width)
    picked = x[:, :, first::2, first::2]
    found[:, :, : picked.shape[2], : picked.shape[3]] = picked
    return found


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(2, 7, 9), (1, 1, 1), (3, 6, 4), (2, 1, 130), (1, 13, 60), (0, 4, 3)], ids=str)
@pytest.mark.parametrize(("channels", "each"), [((8, 4), 1), ((6, 17), 2), ((64, 64), 4), ((3, 33), 1)], ids=str)
def test_factorised_reduction(served_by, channels, each, size, dtype, packs):
    x = random_map((size[0], channels[0], *size[1:]), dtype, "channels_last", 0)
    case = Case(channels, (size[0], *(-(-side // 2) for side in size[1:])), dtype=dtype)
    case.maps = [halves(x, first) for first in (0, 1)]
    bias = torch.randn(2, channels[1], generator=torch.Generator().manual_seed(1)).to(dtype)
    add = torch.cat(case.upstream, 1)
    packed = pack(case.weight) if packs else None
    found = factorised_reduction(x.chunk(each, 1), case.weight, bias=bias, add=add, packed=packed)
    right = expected(case, rectified(definition))[:2]
    products, bounds = (torch.cat(parts, 1) for parts in zip(*right, strict=True))
    exact = products + bias.double().flatten()[:, None, None] + add.double()
    assert found.dtype == dtype
    assert found.shape == exact.shape
    assert found.numel() == 0 or found.is_contiguous(memory_format=torch.channels_last)
    assert ((found.double() - exact).abs() <= 3 * bounds + 4 * torch.finfo(dtype).eps * (exact.abs() + 4)).all()
    plain = factorised_reduction(x.chunk(each, 1), case.weight)
    assert ((plain.double() - products).abs() <= bounds).all()


def test_a_factorised_reduction_has_gradients_and_is_counted(served_by):
    x = random_map((2, 6, 7, 9), torch.float64, "channels_last", 0).requires_grad_()
    weight = torch.randn(2, 4, 6, dtype=torch.float64).requires_grad_()
    add = torch.randn(2, 8, 4, 5, dtype=torch.float64)
    bias = torch.randn(2, 4, dtype=torch.float64).requires_grad_()
    assert gradcheck(lambda x, w, b: factorised_reduction(x.chunk(2, 1), w, bias=b, add=add), (x, weight, bias))
    with torch.no_grad():
        expected = factorised_reduction([x], weight, bias=bias, add=add)
        wide = weight.detach().float()
        assert counted(lambda x: factorised_reduction([x], wide), x.detach().float()) == 2 * 2 * 4 * 5 * 4 * 6
    torch.testing.assert_close(factorised_reduction([x], weight, bias=bias, add=add), expected)
    with pytest.raises(ValueError, match="3 matrices"):
        factorised_reduction([x], weight[[0, 0, 1]])


def test_what_is_packed_serves_maps_of_its_dtype(served_by):
    case = Case((16, 24))
    packed = pack(case.weight)
    with torch.no_grad():
        for dtype in (torch.float64, torch.bfloat16):
            maps = [x.to(dtype) for x in case.maps]
            found = pointwise(maps, case.weight, packed=packed)
            assert all(map(torch.equal, found, pointwise(maps, case.weight)))


def test_no_maps(served_by):
    assert pointwise([], torch.randn(0, 3, 4)) == []


def test_no_channels(served_by):
    compare((0, 3), (1, 2, 2))
    compare((3, 0), (1, 2, 2))


def test_many_channels_go_to_the_library(served_by, monkeypatch):
    monkeypatch.setattr(MODULE, "MOST_CHANNELS", {torch.float32: 8})
    for channels, dtype in [((8, 9), torch.float32), ((9, 8), torch.float32), ((8, 8), torch.bfloat16)]:
        case, recorder = Case(channels, dtype=dtype), Allocations(0)
        with recorder:
            found = pointwise(case.maps, case.weight)
        assert not any(name.startswith("partnas::") for name in recorder.names)
        assert all(torch.equal(a, b) for a, b in zip(found, reference(case.maps, case.weight), strict=True))


@pytest.mark.parametrize(("channels", "pixels"), [((256, 8), 9), ((257, 8), 9), ((8, 257), 9), ((257, 8), 1024)])
def test_large_matrices_over_few_pixels_where_no_backward_follows(served_by, monkeypatch, channels, pixels):
    monkeypatch.setattr(MODULE, "FEW_PIXELS", 1024)
    case, found = Case(channels, (1, 1, pixels), count=1), {}
    for backward_follows in (True, False):
        recorder = Allocations(0)
        with recorder, torch.set_grad_enabled(backward_follows):
            pointwise(case.maps, case.weight)
        found[backward_follows] = any(name.startswith("partnas::") for name in recorder.names)
    is_native = served_by != "reference"
    assert found == {True: is_native, False: is_native and (max(channels) <= 256 or pixels >= 1024)}


def test_wrong_arguments_are_told():
    for count in (0, 3):
        with pytest.raises(ValueError, match=f"2 maps do not divide among {count} matrices"):
            pointwise([torch.randn(1, 3, 2, 2)] * 2, torch.randn(count, 4, 3))


def test_counted_as_the_convolutions_are(served_by):
    case = Case((5, 7), (2, 3, 4))

    class Products(torch.nn.Module):
        def __init__(self, function):
            super().__init__()
            self.weight, self.function = torch.nn.Parameter(case.weight), function

        def forward(self, *maps):
            return self.function(maps, self.weight)

    def count(function):
        analysis = FlopCountAnalysis(Products(function), tuple(case.maps)).set_op_handle(**fvcore_handles())
        with torch.no_grad():
            return analysis.unsupported_ops_warnings(False).tracer_warnings("none").total()

    assert count(pointwise) == count(convolutions) == flops(case.maps[0].shape, case.weight.shape)


def before_a_wall(tensor):
    """The tensor in memory whose end is the end of what may be read."""
    size, page = tensor.numel() * tensor.element_size(), mmap.PAGESIZE
    pages = -(-size // page)
    memory = mmap.mmap(-1, (pages + 1) * page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    flat = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=pages * page - size)
    flat.copy_(tensor.permute(0, 2, 3, 1).flatten())
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + pages * page), page, 0) == 0
    batch, channels, height, width = tensor.shape
    return flat.view(batch, height, width, channels).permute(0, 3, 1, 2)


@pytest.mark.skipif(not INSTRUCTION_SETS, reason="the native operators were not built")
class TestNative:
    @pytest.mark.parametrize("name", INSTRUCTION_SETS)
    @pytest.mark.parametrize("channels", [(16, 32), (32, 24), (20, 17)])
    def test_maps_larger_than_the_caches_are_those_of_their_images(self, name, channels):
        case = Case(channels, (8, 60, 130))
        both = case.maps, case.upstream
        assert all(4 << 20 < sum(x.nbytes for x in maps) < 32 << 20 for maps in both)
        with implementation(name):
            maps, gradients = self.maps_and_gradients(case.maps, case.upstream, case.weight)
            for index in range(8):
                one = slice(index, index + 1)
                alone = self.maps_and_gradients(
                    [x[one] for x in case.maps], [g[one] for g in case.upstream], case.weight
                )
                for whole, part in zip((*maps, *gradients), (*alone[0], *alone[1]), strict=True):
                    assert torch.equal(whole[one], part)

    @pytest.mark.parametrize("name", INSTRUCTION_SETS)
    def test_all_that_is_done_to_results_is_done_to_large_ones(self, name):
        weight, bias = torch.randn(2, 16, 48), torch.randn(2, 16)
        maps = [random_map((8, 16, 160, 130), torch.float32, "channels_last", seed) for seed in range(3)]
        others = [random_map((8, 16, 160, 130), torch.float32, "channels_last", 9)] * 2
        whole = random_map((8, 32, 80, 65), torch.float32, "channels_last", 8)
        ones = [slice(index, index + 1) for index in range(8)]
        with torch.no_grad(), implementation(name):
            large = pointwise(maps * 2, weight, True, bias=bias, add=others)
            reduced = factorised_reduction(maps, weight, bias=bias, add=whole)
            for one in ones:
                few = [x[one] for x in maps]
                alone = pointwise(few * 2, weight, True, bias=bias, add=[x[one] for x in others])
                assert all(torch.equal(z[one], part) for z, part in zip(large, alone, strict=True))
                assert torch.equal(reduced[one], factorised_reduction(few, weight, bias=bias, add=whole[one]))

    @staticmethod
    def maps_and_gradients(maps, upstream, weight):
        leaves = [x.detach().requires_grad_() for x in maps]
        found = pointwise(leaves, weight)
        return found, torch.autograd.grad(found, leaves, upstream)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_nothing_beyond_a_map_is_read(self, served_by):
        child = os.fork()
        if child == 0:
            for channels in [(1, 1), (3, 8), (8, 3), (17, 24), (40, 65)]:
                for dtype in (torch.float32, torch.bfloat16):
                    case = Case(channels, (1, 3, 7), dtype=dtype)
                    case.maps = [before_a_wall(x) for x in case.maps]
                    case.upstream = [before_a_wall(g) for g in case.upstream]
                    case.run(pointwise)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0

    @pytest.mark.parametrize("channels", [(8, 8), (17, 24), (3, 33), (300, 512)], ids=str)
    def test_packed_once(self, channels):
        case, whole = Case(channels), Case(channels, dtype=torch.bfloat16)
        found = {}
        with torch.no_grad():
            for name in INSTRUCTION_SETS:
                with implementation(name):
                    found[name] = pack(case.weight)
                    for each in (case, whole):
                        again = pointwise(each.maps, each.weight, packed=pack(each.weight))
                        assert all(map(torch.equal, pointwise(each.maps, each.weight), again))
            for name in INSTRUCTION_SETS:
                with implementation(name):
                    right = pointwise(case.maps, case.weight)
                    for packed in found.values():
                        assert all(map(torch.equal, pointwise(case.maps, case.weight, packed=packed), right))
        with implementation("reference"):
            assert pack(case.weight) is None

    def test_wide_matrices_are_packed_in_float32_alone(self, monkeypatch):
        monkeypatch.setattr(MODULE, "MOST_CHANNELS", {torch.float32: 8, torch.bfloat16: 8})
        case = Case((16, 24))
        assert pack(case.weight.bfloat16()) is None
        assert pack(case.weight.double()) is None
        recorder = Allocations(0)
        with recorder, torch.no_grad():
            pointwise(case.maps, case.weight, packed=pack(case.weight))
        assert recorder.names.count("partnas::pointwise") == 1

    @pytest.mark.parametrize("dtype", DTYPES[:3])
    def test_opcheck(self, dtype):
        case = Case((17, 24), dtype=dtype)
        weight = case.weight.float()
        backward = torch.ops.partnas.pointwise_backward
        for relu in (False, True):
            torch.library.opcheck(torch.ops.partnas.pointwise, (case.maps, weight, relu, None, []))
            torch.library.opcheck(
                torch.ops.partnas.pointwise, (case.maps, weight, relu, torch.ones(2, 24), case.upstream)
            )
            torch.library.opcheck(backward, (case.upstream, case.maps, weight, relu, [1, 1, 1]))
            torch.library.opcheck(backward, (case.upstream, case.maps, weight, relu, [0, 0, 1]))
        torch.library.opcheck(backward, (case.upstream, [], weight, False, [0, 1, 0]))
        torch.library.opcheck(torch.ops.partnas.pack_pointwise, (weight,))
        more = (torch.ones(2, 24), [], True, torch.ops.partnas.pack_pointwise(weight))
        torch.library.opcheck(torch.ops.partnas.pointwise, (case.maps[:1], weight, True, *more))

    def test_wrong_arguments_are_told(self):
        case = Case((17, 24))
        maps, upstream, weight = case.maps, case.upstream, case.weight
        forward, backward = torch.ops.partnas.pointwise, torch.ops.partnas.pointwise_backward
        for message, call in {
            "2 maps do not divide among 3": lambda: forward(maps, torch.cat([weight, weight[:1]]), False, None, []),
            "weight must be float32": lambda: forward(maps, weight.double(), False, None, []),
            "C_out, 17": lambda: forward(maps, weight[:, :, :5], False, None, []),
            "got 3 dimensions": lambda: forward([x[0] for x in maps], weight, False, None, []),
            "one shape": lambda: forward([maps[0], maps[1][:1]], weight, False, None, []),
            "of one dtype": lambda: forward([maps[0], maps[1].bfloat16()], weight, False, None, []),
            "left to the reference": lambda: forward([x.double() for x in maps], weight, False, None, []),
            "bias must be": lambda: forward(maps, weight, False, torch.ones(2, 5), []),
            "takes two matrices": lambda: forward(maps[:1], weight[:1], True, None, [], True),
            "do not divide among 1 result": lambda: forward([], weight, True, None, [], True),
            "packed must be": lambda: forward(maps, weight, False, None, [], False, weight),
            "a map to add for each": lambda: forward(maps, weight, False, None, upstream[:1]),
            "not like the result": lambda: forward(maps, weight, False, None, maps),
            "give needs": lambda: backward(upstream, maps, weight, False, [1, 1]),
            "need a map for each": lambda: backward(upstream, [], weight, False, [1, 1, 1]),
            "F, 24, C_in": lambda: backward(upstream, maps, weight[:, :5], False, [1, 1, 1]),
            "not like its map": lambda: backward([g[:1] for g in upstream], maps, weight, False, [1, 1, 1]),
        }.items():
            with pytest.raises(RuntimeError, match=message):
                call()
