import re

import pytest
import torch
from bank_cases import EIGHT, EPS, FOUR, NAN, Case, check, distance, expected
from map_cases import random_map

from partnas.errors import PartnasError
from partnas.kernels import depthwise_bank as kernels
from partnas.ops import namespaces, native, use_backend
from partnas.ops.depthwise_bank import depthwise_bank, reference

# (B, C, H, W): channels that fill no block, maps smaller than the filters and wider or higher than a tile.
SHAPES = {
    (1, 16, 7, 9): ("relu", FOUR),
    (1, 3, 1, 1): ("norm affine relu", ((3, 2),)),
    (1, 18, 2, 130): ("affine relu", ((3, 1),)),
    (1, 33, 35, 3): ("norm", ((3, 2),)),
    (1, 128, 4, 6): ("bare", ((5, 1),)),
    (3, 1, 12, 5): ("norm affine relu", ((3, 2), (5, 1))),
    (0, 16, 5, 5): ("norm affine relu", FOUR),
}


def on_triton(case, device):
    """A function of leaves, on the kernels of this device; what it returns and its gradients are on the CPU."""

    def call(*leaves):
        with use_backend("triton"):
            return [z.cpu() for z in case.call(*(leaf.to(device) for leaf in leaves))]

    return call


def run(case, device, leaves):
    call = on_triton(case, device)
    maps = call(*leaves)
    with use_backend("triton"):
        gradients = torch.autograd.grad(maps, leaves, [g.to(z.dtype) for g, z in zip(case.upstream, maps, strict=True)])
    return [*(z.detach() for z in maps), *gradients]


def compare(device, *arguments):
    case, exact, bounds = expected(*arguments)
    check(case, run(case, device, case.leaves(case.dtype)), exact, bounds)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_maps_and_gradients(device, shape, stride):
    prologue, bank = SHAPES[shape]
    compare(device, shape, bank, stride, prologue)


def test_filters_in_any_order(device):
    compare(device, (1, 20, 4, 6), EIGHT[:5], 1, "relu")


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtypes(device, dtype, stride):
    compare(device, (1, 17, 7, 9), ((3, 1), (3, 2)), stride, "norm affine relu", dtype)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(2, 1, 3, 5), (1, 33, 3, 1)], ids=str)
def test_odd_shapes_in_half_precision(device, shape, dtype, stride):
    compare(device, shape, ((3, 1),), stride, "affine relu", dtype)


def test_any_strides(device):
    case, exact, bounds = expected((2, 6, 3, 4), ((3, 1), (3, 2)), 1, "affine relu")
    x, *others = case.leaves(torch.float32)
    box = torch.full((5, 14, 7, 10), NAN)
    x = box[1::2, 1:13:2, 1::2, 2::2].copy_(x.detach()).requires_grad_()
    others = [t.detach().mT.contiguous().mT.requires_grad_() if t.dim() == 3 else t for t in others]
    call = on_triton(case, device)
    maps = call(x, *others)
    upstream = [g.float().permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1) for g in case.upstream]
    found = torch.autograd.grad(maps, [x, *others], upstream)
    check(case, [*(z.detach() for z in maps), *found], exact, bounds)


@pytest.mark.parametrize("prologue", ["relu", "norm affine"])
@pytest.mark.parametrize("wanted", [["x"], ["weight 1"], ["scale"], ["x", "shift", "weight 0"]], ids=" ".join)
def test_only_the_gradients_asked_for(device, prologue, wanted):
    case, exact, bounds = expected((1, 16, 5, 6), ((3, 1), (3, 2)), 1, prologue)
    names = case.names()
    wanted = [name for name in wanted if name in names]
    if not wanted:
        pytest.skip("no affine map")
    leaves = [leaf.requires_grad_(name in wanted) for name, leaf in zip(names, case.leaves(torch.float32), strict=True)]
    maps = on_triton(case, device)(*leaves)
    torch.autograd.backward(maps, [g.float() for g in case.upstream])
    for name, leaf, right, bound in zip(names, leaves, exact[2:], bounds[2:], strict=True):
        assert (leaf.grad is not None) == (name in wanted), name
        if name in wanted:
            assert distance(leaf.grad, right) <= bound, name


@pytest.mark.parametrize("affine", [False, True])
def test_before_the_norm(device, affine):
    """The gradient of the normalised map, as autograd finds it where the statistics are constants."""
    case = Case((2, 6, 5, 4), ((3, 1), (5, 1)), 1, "norm affine relu" if affine else "norm relu")
    x, *others = (leaf.detach() for leaf in case.leaves(torch.float32))
    weights, (scale, shift) = others[:2], others[2:] or (None, None)
    statistics = torch.stack([x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)])
    normalised = (
        (x.double() - statistics[0, :, None, None]) * (statistics[1, :, None, None] + EPS).rsqrt()
    ).requires_grad_()
    filters = [w.double() for w in weights]
    # Past the scale and shift: the gradient is that of what the clip sees.
    entering = normalised if scale is None else normalised * scale[:, None, None] + shift[:, None, None]
    entering = entering.detach().requires_grad_()
    maps = reference(entering, filters, dilations=case.dilations)
    (right,) = torch.autograd.grad(maps, entering, case.upstream)
    on_device = [[t if t is None else t.to(device) for t in ts] for ts in (weights, (statistics, scale, shift))]
    (found,) = kernels.depthwise_bank_backward(
        [g.float().to(device) for g in case.upstream], x.to(device), on_device[0], case.dilations, 1, *on_device[1], EPS,
        True, [1, 0, 0, 0, 0], True,
    )  # fmt: skip
    torch.testing.assert_close(found.cpu().double(), right, rtol=1e-5, atol=1e-5)


def test_no_filters(device):
    x = random_map((1, 3, 4, 5)).to(device)
    assert kernels.depthwise_bank(x, [], [], 1, None, None, None, EPS, True) == []
    (found,) = kernels.depthwise_bank_backward([], x, [], [], 1, None, None, None, EPS, True, [1, 0, 0], False)
    assert torch.equal(found, torch.zeros_like(x))


def test_nan_stays_among_its_neighbours(device):
    x = random_map((1, 17, 7, 8))
    x[0, 3, 2, 4] = NAN
    weight = random_map((17, 1, 3, 3))[:, 0]
    with use_backend("triton"):
        (found,) = depthwise_bank(x.to(device), [weight.to(device)], dilations=[1])
    (right,) = reference(x, [weight], dilations=[1])
    assert torch.equal(found.cpu().isnan(), right.isnan())


def test_twice_the_same(device):
    case = Case((2, 16, 5, 6), ((3, 1),), 1, "norm relu")
    first, second = (run(case, device, case.leaves(torch.float32)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_left_to_the_reference(device):
    x = random_map((1, 3, 4, 5), torch.float64).to(device)
    weight = random_map((3, 1, 3, 3), torch.float64)[:, 0].to(device)
    with use_backend("triton"):
        (found,) = depthwise_bank(x, [weight], dilations=[1])
        (seven,) = depthwise_bank(x.float(), [weight.new_ones(3, 7, 7).float()], dilations=[1])
    assert torch.equal(found, reference(x, [weight], dilations=[1])[0])
    assert seven.shape == x.shape


def wrong_arguments():
    """What is wrong with a call of a bank of two filters, and its arguments."""
    x, weights = random_map((1, 16, 5, 4)), [torch.ones(16, 3, 3), torch.ones(16, 5, 5)]
    statistics, affine, dilations = torch.ones(2, 16), torch.ones(16), [1, 2]
    fine = (x, weights, dilations, 1, statistics, affine, affine, EPS, True)
    for place, value, message in (
        (0, x[0], "x must be (B, C, H, W), got 3 dimensions"),
        (0, x[None], "x must be (B, C, H, W), got 5 dimensions"),
        (1, [weights[0], weights[1][:8]], "weight 1 must be (16, k, k), k 3 or 5"),
        (1, [weights[1][..., :3], weights[1]], "weight 0 must be (16, k, k), k 3 or 5"),
        (1, [weights[0], torch.ones(16, 7, 7)], "weight 1 must be (16, k, k), k 3 or 5"),
        (1, [weights[0][:, None], weights[1]], "weight 0 must be (16, k, k), k 3 or 5"),
        (1, [w.half() for w in weights], "weights, statistics, scale and shift must be float32"),
        (2, [1], "2 filters but 1 dilations"),
        (2, [3, 1], "dilation 0 must be 1 or 2, got 3"),
        (3, 3, "stride must be 1 or 2, got 3"),
        (4, statistics[:, :8], "statistics must be (2, 16)"),
        (4, statistics[0], "statistics must be (2, 16)"),
        (5, affine[:8], "scale and shift must be (16,)"),
        (6, affine[:8], "scale and shift must be (16,)"),
        (6, None, "give both of scale and shift, or neither"),
        (6, affine.double(), "weights, statistics, scale and shift must be float32"),
    ):
        yield message, (*fine[:place], value, *fine[place + 1 :])


@pytest.mark.parametrize(("message", "arguments"), list(wrong_arguments()))
def test_wrong_arguments_are_told_as_native_tells_them(device, message, arguments):
    def moved(value):
        if isinstance(value, list):
            return [moved(part) for part in value]
        return value.to(device) if isinstance(value, torch.Tensor) else value

    maps = [torch.ones(1, 16, 5, 4) for _ in range(2)]
    for operators, error, move in (
        (namespaces.triton("depthwise_bank"), PartnasError, moved),
        *([(namespaces.compiled(), RuntimeError, lambda value: value)] if native.loaded() else []),
    ):
        given = [move(value) for value in arguments]
        with pytest.raises(error, match=re.escape(f"depthwise_bank: {message}")):
            operators.depthwise_bank(*given)
        with pytest.raises(error, match=re.escape(f"depthwise_bank: {message}")):
            operators.depthwise_bank_backward(move(maps), *given, [1] * 5, False)


@pytest.mark.parametrize("floor", ["triton", "native"])
def test_wrong_gradients_are_told(device, floor):
    if floor == "native" and not native.loaded():
        pytest.skip(native.note())
    case = Case((1, 16, 5, 4), ((3, 1), (5, 2)), 2, "relu")
    device = device if floor == "triton" else "cpu"
    x, *weights = (leaf.detach().to(device) for leaf in case.leaves(torch.float32))
    gradients = [g.float().to(device) for g in case.upstream]
    operators = namespaces.triton("depthwise_bank") if floor == "triton" else namespaces.compiled()
    for wrong, needs, message in (
        (gradients[:1], [1] * 5, "give a gradient for each filter"),
        (gradients, [1] * 4, "and needs for x, scale, shift and each"),
        ([gradients[0], gradients[1][:, :8]], [1] * 5, "a gradient is not like its map"),
        ([gradients[0].half(), gradients[1]], [1] * 5, "a gradient is not like its map"),
        ([x, x], [1] * 5, "a gradient is not like its map"),
    ):
        with pytest.raises(PartnasError if floor == "triton" else RuntimeError, match=message):
            operators.depthwise_bank_backward(
                wrong, x, weights, case.dilations, 2, *[None] * 3, EPS, True, needs, False
            )


@pytest.mark.parametrize("stride", [1, 2])
def test_opcheck(device, stride):
    case = Case((1, 3, 2, 3), ((3, 1), (3, 2)), stride, "norm affine relu")
    x, *others = (leaf.detach().to(device) for leaf in case.leaves(torch.float32))
    statistics = torch.stack([x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)])
    arguments = (x, others[:2], case.dilations, stride, statistics, *others[2:], EPS, True)
    operators = namespaces.triton("depthwise_bank")
    torch.library.opcheck(operators.depthwise_bank, arguments)
    gradients = [g.float().to(device) for g in case.upstream]
    torch.library.opcheck(operators.depthwise_bank_backward, (gradients, *arguments, [1, 1, 0, 0, 1], False))


@pytest.mark.parametrize(
    ("channels", "width", "block"),
    [(16, 128, 16), (1, 1, 1), (18, 9, 32), (33, 4, 32), (96, 32, 32), (512, 8, 64), (2048, 8, 64), (512, 1, 128)],
)
def test_channels_of_a_tile(channels, width, block):
    assert kernels._channel_block(channels, width) == block
