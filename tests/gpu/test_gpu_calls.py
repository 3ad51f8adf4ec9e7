"""How operators are called on a device: through the dispatcher, on any stream and device, on the largest tensors."""

import contextlib

import pytest
import torch
from gpu_cases import DEVICE, leaves_of, namespace, needs, numbers, on_device, only_on_a_gpu, same_bits

from partnas.ops.channel_shuffle import channel_shuffle
from partnas.ops.depthwise_bank import depthwise_bank
from partnas.ops.norm_sum import norm_stats, norm_sum
from partnas.ops.pool_pair import avg_pool, max_pool, pool_pair
from partnas.ops.soft_argmax_3d import soft_argmax_3d
from partnas.ops.upsample import upsample

pytestmark = pytest.mark.filterwarnings("ignore:.*deterministic.*")


def summed(x, other):
    maps = [x, other]
    return norm_sum(maps, norm_stats(maps), torch.full((2,), 0.5, device=x.device))


CALLS = {
    "soft_argmax_3d": lambda x, *_: soft_argmax_3d(x, 3),
    "channel_shuffle": lambda x, *_: channel_shuffle(x, 3),
    "depthwise_bank": lambda x, _, *weights: depthwise_bank(x, weights, dilations=[1, 2]),
    "pool_pair": lambda x, *_: pool_pair(x, 2)[:2],
    "norm_sum": lambda x, other, *_: summed(x, other),
    "upsample": lambda x, *_: upsample(x, 2),
}
"""One call of each operator on a map, another like it, and two filters."""


def tensors(dtype=torch.float32):
    shape = (2, 18, 7, 9)
    return [
        numbers(shape, dtype),
        numbers(shape, dtype, seed=1),
        numbers((18, 3, 3), seed=2),
        numbers((18, 5, 5), seed=3),
    ]


def listed(outputs):
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)


def forward_and_backward(call, leaves):
    outputs = listed(call(*leaves))
    gradients = torch.autograd.grad(outputs, leaves, [torch.ones_like(z) for z in outputs], allow_unused=True)
    return [*(z.detach() for z in outputs), *(g for g in gradients if g is not None)]


def schemas(operator, dtype, layout):
    """The functions of an operator and arguments for them."""
    x, other = (on_device(numbers((2, 6, 4, 5), dtype, layout, seed)) for seed in (0, 1))
    gradient = on_device(numbers((2, 6, 4, 5), dtype, layout, 2))
    weights = [on_device(numbers((6, size, size), seed=size)) for size in (3, 5)]
    statistics = on_device(torch.stack([torch.zeros(6), torch.ones(6)]))
    by_map = statistics[None].expand(2, -1, -1).contiguous()
    ones, pair = on_device(torch.ones(6)), on_device(torch.ones(2, 6))
    half = on_device(numbers((2, 6, 2, 3), dtype, layout, 3))
    double = on_device(numbers((2, 6, 8, 10), dtype, layout, 4))
    leaf = x.clone().requires_grad_()
    if operator == "soft_argmax_3d":
        volume = x.unflatten(1, (3, 2))
        xyz = on_device(numbers((2, 2, 3)))
        yield "soft_argmax_3d", (volume.detach().requires_grad_(), [2, 0])
        yield "soft_argmax_3d_backward", (xyz, volume, on_device(torch.ones(2, 2, 5)), [2, 0])
    if operator == "channel_shuffle":
        yield "channel_shuffle", (leaf, 3, [], 1)
        yield "channel_shuffle", (leaf, 0, [2, 0, 1], 2)
    if operator == "depthwise_bank":
        for normed in (None, statistics):
            settings = (x, weights, [1, 2], 1, normed, ones, ones, 1e-5, True)
            yield "depthwise_bank", settings
            yield "depthwise_bank_backward", ([gradient, gradient], *settings, [1, 1, 1, 1, 1], False)
            yield "depthwise_bank_backward", ([gradient, gradient], *settings, [0, 0, 0, 0, 1], False)
    if operator == "pool_pair":
        yield "pool_pair", (leaf, 2)
        yield "pool_pair_backward", (half, half, x, 2)
        for takes_max in (True, False):
            yield "pool", (leaf, takes_max, 2)
            yield "pool_backward", (half, x, takes_max, 2)
    if operator == "norm_sum":
        yield "norm_stats", ([x, other],)
        yield "norm_sum", ([x, other], by_map, pair, [x], ones[:1], ones, 1e-5)
        yield "norm_sum_reduce", (gradient, [x, other], by_map, [x])
        means = on_device(torch.zeros(3, 6))
        yield "norm_sum_backward", (gradient, [x, other], by_map, pair, means, ones[:1], [1], [0], 1e-5)
    if operator == "upsample":
        yield "upsample", (leaf, 2)
        yield "upsample_backward", (double, 2)


@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("operator", CALLS)
def test_opcheck(backend, operator, dtype, layout):
    needs(backend, operator)
    functions = namespace(backend, operator)
    for name, arguments in schemas(operator, dtype, layout):
        torch.library.opcheck(getattr(functions, name), arguments)


@pytest.mark.parametrize("operator", CALLS)
def test_another_stream(backend, operator):
    """What an operator reads is written late on a stream of its own: on any other one it would read NaN."""
    needs(backend, operator)
    call, values = CALLS[operator], [on_device(t) for t in tensors()]
    right = forward_and_backward(call, leaves_of(values))
    is_cuda = DEVICE.type == "cuda"
    stream = torch.cuda.Stream() if is_cuda else None
    with torch.cuda.stream(stream) if is_cuda else contextlib.nullcontext():
        leaves = [torch.full_like(t, torch.nan).requires_grad_() for t in values]
        if is_cuda:
            torch.cuda._sleep(100_000_000)
        with torch.no_grad():
            for leaf, value in zip(leaves, values, strict=True):
                leaf.copy_(value)
        found = forward_and_backward(call, leaves)
        if is_cuda:
            stream.synchronize()
    for one, other in zip(found, right, strict=True):
        assert same_bits(one, other)


@only_on_a_gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
@pytest.mark.parametrize("operator", CALLS)
def test_another_device_than_the_current_one(backend, operator):
    needs(backend, operator)
    call, values = CALLS[operator], [on_device(t) for t in tensors()]
    right = forward_and_backward(call, leaves_of(values))
    found = forward_and_backward(call, [t.to("cuda:1").requires_grad_() for t in values])
    for one, other in zip(found, right, strict=True):
        assert one.device == torch.device("cuda:1")
        assert same_bits(one.cpu(), other.cpu())


@only_on_a_gpu
@pytest.mark.parametrize("place", range(2))
def test_tensors_on_several_devices_are_refused(backend, place):
    needs(backend, "depthwise_bank", "norm_sum")
    x, other, *weights = (on_device(t) for t in tensors())
    with pytest.raises(Exception, match="device"):
        depthwise_bank(x, [w.cpu() if i == place else w for i, w in enumerate(weights)], dilations=[1, 2])
    with pytest.raises(Exception, match="device"):
        summed(*(t.cpu() if i == place else t for i, t in enumerate((x, other))))


@only_on_a_gpu
def test_fresh_memory_is_filled():
    """Or else the other tests would not see what nobody writes."""
    assert torch.empty(1000, device=DEVICE).isnan().all()
    assert torch.empty((2, 3, 4, 5), device=DEVICE, memory_format=torch.channels_last).isnan().all()


def test_float64_is_for_the_reference(backend):
    needs(backend, "norm_sum")
    x, other, *_ = (on_device(t).double() for t in tensors())
    assert summed(x, other).dtype == torch.float64


IS_LARGE = DEVICE.type == "cuda"
SEPARATE = {
    "soft_argmax_3d": (lambda x: soft_argmax_3d(x, 18), (18 * 32, 32, 32), 1),
    "channel_shuffle": (lambda x: channel_shuffle(x, 8), (64, 64, 64), 1),
    "depthwise_bank": (
        lambda x: depthwise_bank(x, [torch.ones(64, 3, 3, device=x.device)], dilations=[1])[0],
        (64, 64, 64),
        1,
    ),
    "max_pool": (lambda x: max_pool(x), (64, 64, 64), 1),
    "avg_pool": (lambda x: avg_pool(x), (64, 64, 64), 1),
    "upsample": (lambda x: upsample(x, 2), (64, 64, 64), 4),
}
"""Operators that treat each image by itself: function, an image's shape, and how much larger its result is."""


@pytest.fixture
def much_memory():
    if IS_LARGE and torch.cuda.mem_get_info()[0] < 40e9:
        pytest.skip("less than 40 GB of memory is free")
    yield
    if IS_LARGE:
        torch.cuda.empty_cache()


def many(image, growth=1):
    """As many images as make a tensor, or its result, of more than 2**31 elements; a few without a GPU."""
    elements = image[0] * image[1] * image[2] * growth
    return (2**31 + 2**24) // elements + 1 if IS_LARGE else 3


@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
@pytest.mark.parametrize("name", SEPARATE)
@pytest.mark.usefixtures("much_memory")
def test_more_than_2_to_the_31_elements(backend, name, layout):
    """The first and the last image of a tensor too large for 32 bits give what they give alone."""
    needs(backend, {"max_pool": "pool_pair", "avg_pool": "pool_pair"}.get(name, name))
    call, image, growth = SEPARATE[name]
    memory = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    shape = (many(image, growth), *image)
    x = torch.empty(shape, dtype=torch.bfloat16, device=DEVICE, memory_format=memory)
    x.normal_().requires_grad_()
    found = call(x)
    assert not IS_LARGE or max(x.numel(), found.numel()) > 2**31
    upstream = torch.ones_like(found)
    (gradient,) = torch.autograd.grad(found, x, upstream)
    for index in (0, len(x) - 1):
        alone = x.detach()[index : index + 1].clone(memory_format=memory).requires_grad_()
        right = call(alone)
        (right_gradient,) = torch.autograd.grad(right, alone, upstream[index : index + 1])
        # One image may be shared out over blocks in another way than many.
        for one, other in ((found[index : index + 1], right), (gradient[index : index + 1], right_gradient)):
            assert (one.float() - other.float()).abs().max() <= 2**-7 * other.float().abs().max()


@pytest.mark.usefixtures("much_memory")
def test_norm_sum_of_more_than_2_to_the_31_elements(backend):
    needs(backend, "norm_sum")
    image = (64, 64, 64)
    shape = (many(image), *image)
    maps = []
    for seed in range(2):
        torch.manual_seed(seed)
        x = torch.empty(shape, dtype=torch.bfloat16, device=DEVICE, memory_format=torch.channels_last)
        x.normal_()
        x[-1] += 3 * seed
        maps.append(x.requires_grad_())
    statistics = norm_stats(maps)
    for x, (mean, variance) in zip(maps, statistics, strict=True):
        wide = [part.detach().double() for part in x.split(64)]
        count = x.numel() // 64
        right = sum(part.sum((0, 2, 3)) for part in wide) / count
        assert (mean - right).abs().max() < 1e-4
        right_variance = sum(((part - right[:, None, None]) ** 2).sum((0, 2, 3)) for part in wide) / count
        assert (variance - right_variance).abs().max() < 1e-3
        del wide
    weights = torch.tensor([0.25, 2.0], device=DEVICE).requires_grad_()
    total = norm_sum(maps, statistics, weights)
    normalised = [
        (x.detach()[-1].double() - mean[:, None, None]) * torch.rsqrt(variance + 1e-5)[:, None, None]
        for x, (mean, variance) in zip(maps, statistics, strict=True)
    ]
    right = 0.25 * normalised[0] + 2.0 * normalised[1]
    assert (total[-1] - right).abs().max() < 0.01 * right.abs().max()
    # The sum over a batch of a normalised map's own gradient is nothing, so only the last image's upstream is not zero.
    upstream = torch.zeros_like(total)
    upstream[-1] = 1.0
    first, second, by_weight = torch.autograd.grad(total, [*maps, weights], upstream)
    dots = torch.stack([z.sum() for z in normalised])
    assert ((by_weight - dots).abs() <= 1e-3 * dots.abs().clamp_min(64.0**2)).all()
    share = 1.0 - 1.0 / len(maps[0])
    rstd = torch.rsqrt(statistics[1, 1] + 1e-5)[:, None, None]
    means = torch.stack([z.mean((1, 2)) for z in normalised])[:, :, None, None] / len(maps[0])
    right = 2.0 * rstd * (share - normalised[1] * means[1])
    assert (second[-1] - right).abs().max() < 0.02 * right.abs().max()
    assert torch.isfinite(first).all()
