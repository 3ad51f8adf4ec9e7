"""Every operator on the device, forward and every gradient, against its reference in float64."""

import pytest
import torch
from gpu_cases import DTYPES, EMPTY, LAYOUTS, SHAPES, check, needs, numbers, on_device

from partnas.ops import depthwise_bank as bank_module
from partnas.ops import norm_sum as norm_module
from partnas.ops import upsample as upsample_module
from partnas.ops.channel_shuffle import channel_shuffle
from partnas.ops.channel_shuffle import reference as shuffled
from partnas.ops.depthwise_bank import depthwise_bank
from partnas.ops.norm_sum import norm_stats, norm_sum, reference_stats
from partnas.ops.pointwise import pointwise
from partnas.ops.pointwise import reference as multiplied
from partnas.ops.pool_pair import avg_pool, max_pool, pool_pair
from partnas.ops.pool_pair import reference as pooled
from partnas.ops.soft_argmax_3d import reference as expected
from partnas.ops.soft_argmax_3d import soft_argmax_3d
from partnas.ops.upsample import upsample

pytestmark = pytest.mark.filterwarnings("ignore:.*deterministic.*")
KINDS = ((3, 1), (5, 1), (3, 2), (5, 2))
VARIETY = [(dtype, layout) for dtype in DTYPES for layout in LAYOUTS]
"""Every dtype in every layout, for one shape or two."""


def each_shape(test):
    """All shapes in float32, channels-last; and every dtype and layout on two of them."""
    cases = [(shape, torch.float32, "channels_last") for shape in SHAPES]
    cases += [(shape, dtype, layout) for dtype, layout in VARIETY for shape in (SHAPES[1], SHAPES[3])]
    return pytest.mark.parametrize(("shape", "dtype", "layout"), cases)(test)


VOLUMES = [
    ((1, 1, 1, 1, 1), None),
    ((2, 3, 4, 7, 9), None),
    ((2, 3, 5, 3, 130), [2, 0]),
    ((1, 18, 32, 8, 8), list(range(17, -1, -1))),
    ((1, 2, 64, 33, 31), [1]),
    ((1, 1, 64, 64, 64), None),
    ((0, 3, 4, 7, 9), None),
]


@pytest.mark.parametrize("layout", ["channels_last", "contiguous", "sliced"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "order"), VOLUMES)
def test_soft_argmax_3d(backend, shape, order, dtype, layout):
    needs(backend, "soft_argmax_3d")
    batch, parts, depth, height, width = shape
    x = (3 * numbers((batch, parts * depth, height, width), torch.float32, layout)).to(dtype)
    if layout == "sliced":
        x = numbers((batch, parts * depth, height, width), dtype, layout)
    count = len(order) if order else parts
    upstream = [numbers((batch, count, 3), seed=1)]
    side = float(max(depth, height, width))
    check(
        lambda x: soft_argmax_3d(as_volume(x, shape), parts, order),
        lambda x: expected(as_volume(x, shape), parts, order),
        [x],
        upstream,
        [side, side * 2 / x[0].numel() if x.numel() else 0.0],
    )


def as_volume(x, shape):
    return x.unflatten(1, shape[1:3])


@pytest.mark.parametrize("spread", [1e4, 1e-4])
def test_soft_argmax_3d_of_steep_and_flat_volumes(backend, spread):
    needs(backend, "soft_argmax_3d")
    x = spread * numbers((2, 6, 7, 9))
    found = soft_argmax_3d(on_device(x), 3).cpu()
    assert (found.double() - expected(x.double(), 3)).abs().max() < 1e-4


def test_soft_argmax_3d_of_infinite_logits(backend):
    needs(backend, "soft_argmax_3d")
    x = numbers((1, 6, 5, 7))
    x[:, 2:4] = -torch.inf
    x[:, 0, 0, 0] = -torch.inf
    found = soft_argmax_3d(on_device(x), 3).cpu()
    assert found[0, 1].isnan().all()
    assert (found[0, ::2].double() - expected(x.double(), 3)[0, ::2]).abs().max() < 1e-4


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [*DTYPES, torch.int64, torch.uint8])
@pytest.mark.parametrize(
    ("shape", "how"),
    [
        ((2, 6, 7, 9), {"groups": 3}),
        ((2, 64, 5, 9), {"groups": 4}),
        ((1, 33, 3, 130), {"groups": 11}),
        ((2, 36, 7, 9), {"order": [5, 0, 3, 1, 4, 2], "depth": 6}),
        ((1, 18, 1, 1), {"order": list(range(17, -1, -1))}),
        ((2, 128, 4, 4), {"groups": 8, "depth": 4}),
        (EMPTY, {"groups": 4}),
    ],
)
def test_channel_shuffle(backend, shape, how, dtype, layout):
    needs(backend, "channel_shuffle")
    x = (50 * numbers(shape, torch.float32, layout)).to(dtype)
    found = channel_shuffle(on_device(x), **how)
    assert torch.equal(found.cpu(), shuffled(x, **how))
    if dtype.is_floating_point:
        leaf = on_device(x).requires_grad_()
        upstream = numbers(shape, dtype, layout, seed=1)
        (gradient,) = torch.autograd.grad(channel_shuffle(leaf, **how), leaf, on_device(upstream))
        plain = x.clone().requires_grad_()
        (right,) = torch.autograd.grad(shuffled(plain, **how), plain, upstream)
        assert torch.equal(gradient.cpu(), right)


def bank_check(x, kinds, stride=1, normed=False, affine=False, relu=True, seed=7):
    batch, channels, height, width = x.shape
    weights = [numbers((channels, size, size), seed=seed + i) for i, (size, _) in enumerate(kinds)]
    affine_map = [numbers((channels,), seed=seed + 20), numbers((channels,), seed=seed + 21)] if affine else []
    dilations = [dilation for _, dilation in kinds]
    size = (batch, channels, -(-height // stride), -(-width // stride))
    upstream = [numbers(size, x.dtype, seed=seed + 30 + i) for i in range(len(kinds))]

    def run(function, statistics_of):
        def call(x, *rest):
            statistics = statistics_of([x])[0] if normed else None
            scale, shift = rest[:2] if affine else (None, None)
            options = {"dilations": dilations, "stride": stride, "relu": relu}
            return function(x, rest[2:] if affine else rest, statistics=statistics, scale=scale, shift=shift, **options)

        return call

    # What is added up for a result: taps of normal numbers; where a channel hardly varies, they are first divided.
    steep = 1.0
    if normed and x.numel():
        steep = (reference_stats([x.double()])[0, 1] + 1e-5).rsqrt().max().item()
        steep = max(1.0, steep)
    # Normal numbers reach 4, and so does what they are multiplied by.
    steep *= 4.0
    taps = sum(size * size for size, _ in kinds)
    positions = (batch * size[2] * size[3]) ** 0.5
    scales = [steep * 5.0] * len(kinds) + [steep * taps**0.5]
    scales += [steep * taps**0.5 * positions] * (2 if affine else 0) + [steep * positions] * len(kinds)
    check(
        run(depthwise_bank, norm_stats),
        run(bank_module.reference, reference_stats),
        [x, *affine_map, *weights],
        upstream,
        scales,
    )


@each_shape
def test_depthwise_bank(backend, shape, dtype, layout):
    needs(backend, "depthwise_bank")
    bank_check(numbers(shape, dtype, layout), KINDS)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(("normed", "affine"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_depthwise_bank_options(backend, dtype, normed, affine, relu, stride):
    needs(backend, "depthwise_bank", "norm_sum")
    for shape in ((3, 3, 7, 9), (2, 33, 8, 6), (1, 16, 17, 40)):
        bank_check(numbers(shape, dtype), KINDS, stride, normed, affine, relu)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_depthwise_bank_of_one_filter(backend, kind, stride):
    needs(backend, "depthwise_bank")
    for shape in ((1, 16, 3, 130), (2, 18, 7, 9), (2, 128, 2, 2)):
        bank_check(numbers(shape), [kind], stride)


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_bank_of_many_filters(backend, stride):
    needs(backend, "depthwise_bank")
    bank_check(numbers((2, 16, 20, 37)), [kind for kind in KINDS for _ in range(4)], stride)


@pytest.mark.parametrize("wanted", range(6))
def test_depthwise_bank_forms_the_gradients_that_are_asked_for(backend, wanted):
    needs(backend, "depthwise_bank")
    x, weights = on_device(numbers((2, 18, 7, 9))), [on_device(numbers((18, k, k), seed=k)) for k, _ in KINDS]
    scale, shift = (on_device(numbers((18,), seed=seed)) for seed in (3, 4))
    tensors = [x, scale, shift, *weights[:3]]
    everything = [t.clone().requires_grad_() for t in tensors]
    upstream = [on_device(numbers((2, 18, 7, 9), seed=30 + i)) for i in range(3)]

    def maps(x, scale, shift, *weights):
        return depthwise_bank(x, weights, dilations=[1, 1, 2], scale=scale, shift=shift)

    right = torch.autograd.grad(maps(*everything), everything, upstream)[wanted]
    one = [t.clone().requires_grad_(i == wanted) for i, t in enumerate(tensors)]
    (found,) = torch.autograd.grad(maps(*one), one[wanted], upstream)
    assert (found - right).abs().max() <= 1e-5 * right.abs().max()


def test_depthwise_bank_of_nothing(backend):
    needs(backend, "depthwise_bank")
    bank_check(numbers(EMPTY), KINDS)
    bank_check(numbers(EMPTY), KINDS, 2, affine=True)


@pytest.mark.parametrize("stride", [1, 2])
@each_shape
def test_pool_pair(backend, shape, dtype, layout, stride):
    needs(backend, "pool_pair")
    pool_check(shape, dtype, layout, stride)


def pool_check(shape, dtype, layout, stride):
    batch, channels, height, width = shape
    x = numbers(shape, dtype, layout)
    size = (batch, channels, -(-height // stride), -(-width // stride))
    upstream = [numbers(size, dtype, layout, seed=seed) for seed in (1, 2)]

    def reference(x):
        maps = pooled(x, stride)
        return *maps, reference_stats([z.detach().to(dtype).to(x.dtype) for z in maps])

    check(lambda x: pool_pair(x, stride), reference, [x], upstream, [4.0, 4.0, 16.0, 9.0])
    check(lambda x: max_pool(x, stride), lambda x: pooled(x, stride)[0], [x], upstream[:1], [4.0, 9.0])
    check(lambda x: avg_pool(x, stride), lambda x: pooled(x, stride)[1], [x], upstream[1:], [4.0, 4.0])


def test_pool_pair_of_nothing(backend):
    needs(backend, "pool_pair")
    found = pool_pair(on_device(numbers(EMPTY)).requires_grad_(), 2)
    assert [tuple(z.shape) for z in found] == [(0, 16, 4, 5), (0, 16, 4, 5), (2, 2, 16)]
    assert torch.equal(found[2].cpu(), torch.zeros(2, 2, 16))


def test_pool_pair_of_ties_and_nan(backend):
    needs(backend, "pool_pair")
    x = numbers((2, 18, 7, 9)).round()
    upstream = numbers((2, 18, 7, 9), seed=1)
    leaf, plain = on_device(x).requires_grad_(), x.clone().requires_grad_()
    (found,) = torch.autograd.grad(max_pool(leaf), leaf, on_device(upstream))
    (right,) = torch.autograd.grad(pooled(plain)[0], plain, upstream)
    assert (found.cpu() - right).abs().max() <= 1e-5
    x[0, 0, 3, 3] = torch.nan
    assert torch.equal(max_pool(on_device(x)).cpu().isnan(), pooled(x)[0].isnan())


def sum_check(shape, maps, identities, dtype=torch.float32, layout="channels_last", by_channel=False, shift=False):
    channels = shape[1]
    values = [numbers(shape, dtype, layout, seed) for seed in range(maps)]
    skipped = [numbers(shape, dtype, layout, 50 + seed) for seed in range(identities)]
    weights = numbers((maps, channels) if by_channel else (maps,), seed=90)
    skip_weights = numbers((identities,), seed=91)
    shifts = [numbers((channels,), seed=92)] if shift else []
    upstream = [numbers(shape, dtype, seed=93)]

    def run(function, statistics_of):
        def call(weights, skip_weights, *rest):
            shift = rest[0] if shifts else None
            z, skips = rest[len(shifts) : len(shifts) + maps], rest[len(shifts) + maps :]
            statistics = statistics_of(z) if maps else weights.new_zeros(0, 2, channels)
            if function is norm_sum:
                return norm_sum(z, statistics, weights, skips, skip_weights, shift=shift)
            return function(z, statistics, weights, skips, skip_weights, shift=shift)

        return call

    steepest = 1.0
    if maps and values[0].numel():
        steepest = (reference_stats([z.double() for z in values])[:, 1] + 1e-5).rsqrt().max().item()
    largest = max((t.abs().max().item() for t in (*values, *skipped) if t.numel()), default=0.0)
    weight = max(1.0, max((w.abs().max().item() for w in (weights, skip_weights) if w.numel()), default=0.0))
    g = upstream[0].abs().max().item() if upstream[0].numel() else 0.0
    total = upstream[0].numel() ** 0.5
    scales = [weight * steepest * largest, g * steepest * total, g * largest * total]
    scales += [g * total] * len(shifts) + [weight * steepest * g] * maps + [weight * g] * identities
    check(
        run(norm_sum, norm_stats), run(norm_module.reference, reference_stats),
        [weights, skip_weights, *shifts, *values, *skipped], upstream, scales,
    )  # fmt: skip


@each_shape
def test_norm_sum(backend, shape, dtype, layout):
    needs(backend, "norm_sum")
    sum_check(shape, 3, 2, dtype, layout)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("maps", "identities"), [(1, 0), (2, 1), (7, 0), (9, 1), (16, 3), (24, 4), (0, 2)])
def test_norm_sum_of_many(backend, maps, identities, dtype):
    needs(backend, "norm_sum")
    sum_check((3, 18, 7, 9), maps, identities, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_sum_by_channel_and_with_a_shift(backend, dtype):
    needs(backend, "norm_sum")
    sum_check((3, 33, 7, 9), 4, 1, dtype, by_channel=True, shift=True)
    sum_check((2, 128, 5, 6), 2, 0, dtype, by_channel=True)


def test_norm_sum_with_fixed_statistics(backend):
    needs(backend, "norm_sum")
    maps = [on_device(numbers((2, 18, 7, 9), seed=s)).requires_grad_() for s in range(2)]
    statistics = torch.stack([torch.stack([torch.zeros(18), torch.full((18,), 4.0)])] * 2)
    total = norm_sum(maps, on_device(statistics), on_device(torch.tensor([1.0, 2.0])), fixed=True, eps=0.0)
    right = 0.5 * maps[0] + maps[1]
    assert (total - right).abs().max() < 1e-5
    upstream = on_device(numbers((2, 18, 7, 9), seed=9))
    found = torch.autograd.grad(total, maps, upstream)
    for one, factor in zip(found, (0.5, 1.0), strict=True):
        assert (one - factor * upstream).abs().max() < 1e-5


def test_norm_sum_of_nothing(backend):
    needs(backend, "norm_sum")
    maps = [on_device(numbers(EMPTY, seed=s)).requires_grad_() for s in range(2)]
    statistics = norm_stats(maps)
    assert torch.equal(statistics.cpu(), torch.zeros(2, 2, 16))
    weights = on_device(torch.ones(2)).requires_grad_()
    total = norm_sum(maps, statistics, weights)
    assert total.shape == EMPTY
    total.sum().backward()
    assert torch.equal(weights.grad.cpu(), torch.zeros(2))
    assert maps[0].grad.shape == EMPTY


def test_norm_stats_of_maps_of_several_sizes(backend):
    needs(backend, "norm_sum")
    maps = [numbers((batch, 18, side, 9), seed=side) + 100 for batch, side in ((2, 7), (1, 130), (3, 1))]
    found = norm_stats([on_device(z) for z in maps]).cpu().double()
    right = reference_stats([z.double() for z in maps])
    assert (found[:, 0] - right[:, 0]).abs().max() < 1e-4
    # A mean of 100 and a deviation of 1: sums of squares would lose four digits.
    assert ((found[:, 1] - right[:, 1]) / right[:, 1]).abs().max() < 1e-4


@pytest.mark.parametrize("factor", [2, 4])
@each_shape
def test_upsample(backend, shape, dtype, layout, factor):
    needs(backend, "upsample")
    batch, channels, height, width = shape
    upstream = [numbers((batch, channels, factor * height, factor * width), dtype, layout, seed=1)]
    scales = [4.0, 4.0 * factor**2]
    check(
        lambda x: upsample(x, factor),
        lambda x: upsample_module.reference(x, factor),
        [numbers(shape, dtype, layout)],
        upstream,
        scales,
    )


def test_upsample_of_nothing(backend):
    needs(backend, "upsample")
    x = on_device(numbers(EMPTY)).requires_grad_()
    found = upsample(x, 2)
    assert found.shape == (0, 16, 14, 18)
    found.sum().backward()
    assert x.grad.shape == EMPTY


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("channels", "each"), [((16, 16), 1), ((33, 18), 1), ((8, 128), 1), ((16, 24), 2)])
def test_pointwise(backend, channels, each, dtype, layout, relu):
    needs(backend, "pointwise")
    channels_in, channels_out = channels
    maps = [numbers((2, channels_in, 7, 9), dtype, layout, seed=s) for s in range(3 * each)]
    weight = numbers((3, channels_out, channels_in * each), seed=90)
    upstream = [numbers((2, channels_out, 7, 9), dtype, seed=70 + f) for f in range(3)]

    def reference(weight, *maps):
        # The reference multiplies by the weight as the maps store it.
        return multiplied(maps, weight, relu)

    # The library's products round to the dtype of the maps, those for the weight as well.
    rounding = torch.finfo(dtype).eps / torch.finfo(torch.float32).eps
    check(
        lambda weight, *maps: pointwise(maps, weight, relu), reference, [weight, *maps], upstream,
        [4.0 * channels_in**0.5] * 3 + [16.0 * 12.0 * rounding] + [4.0 * channels_out**0.5] * len(maps),
    )  # fmt: skip
