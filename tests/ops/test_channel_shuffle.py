import re

import pytest
import torch
from native_cpu import INSTRUCTION_SETS, implementation
from shuffle_cases import DTYPES, LAYOUTS, SHAPES, check, numbers, permutation
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck

from partnas.errors import PartnasError
from partnas.ops import channel_shuffle

pytestmark = pytest.mark.usefixtures("filled_memory", "one_thread")


@pytest.mark.parametrize(
    ("layout", "dtype"),
    [
        *((layout, dtype) for layout in ("contiguous", "channels-last") for dtype in DTYPES),
        *((layout, dtype) for layout in list(LAYOUTS)[2:] for dtype in (torch.uint8, torch.float32)),
    ],
    ids=str,
)
def test_every_dtype_and_layout(served_by, dtype, layout):
    for channels, others in SHAPES:
        x = LAYOUTS[layout](numbers(channels, others, dtype))
        for depth in (1, 3):
            if channels % depth == 0:
                runs = channels // depth
                check(x, order=permutation(runs), depth=depth)
                for groups in (1, 2, 4):
                    if runs % groups == 0:
                        check(x, groups, depth=depth)


def test_every_pixel_size(served_by):
    # Sizes below, at and above a vector, whole and not; numbers of pixels that leave some over.
    for channels in (*range(1, 140), 191, 192, 193):
        for pixels in (1, 17, 131):
            x = numbers(channels, (1, 1, pixels), torch.uint8).contiguous(memory_format=torch.channels_last)
            check(x, order=permutation(channels, seed=pixels))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64], ids=str)
def test_long_pixels(served_by, dtype):
    for order in (permutation(2048), list(range(2048))[::-1]):
        x = numbers(2048, (2, 3, 4), dtype)
        check(x, order=order)
        check(x.contiguous(memory_format=torch.channels_last), order=order)


def test_large_planes_and_many_pixels(served_by):
    x = numbers(24, (3, 61, 67), torch.float32)
    for y in (x, x.contiguous(memory_format=torch.channels_last)):
        check(y, 4)
        check(y, order=permutation(24))
        check(y, order=[2, 0, 1], depth=8)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float32], ids=str)
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_outputs_too_large_for_the_caches(name, dtype):
    # From 16 MB on, what is whole vectors is written past the caches, and the rest is not.
    pixels = 17 << 20
    for channels, depth in ((64, 1), (36, 1), (24, 8), (20, 5), (7, 1)):
        width = pixels // channels // torch.empty((), dtype=dtype).element_size() // 13 + 1
        x = numbers(channels, (1, 13, width), dtype)
        order = permutation(channels // depth)
        with implementation(name):
            check(x, order=order, depth=depth)
            check(x.contiguous(memory_format=torch.channels_last), order=order, depth=depth)


def test_unaligned_memory(served_by):
    x = numbers(24, (2, 9, 11), torch.uint8).contiguous(memory_format=torch.channels_last)
    storage = torch.empty(x.numel() + 7, dtype=torch.uint8)
    for offset in (1, 3, 7):
        y = torch.as_strided(storage, x.shape, x.stride(), offset).copy_(x)
        check(y, order=permutation(24))


def test_a_shuffle_as_shufflenet_defines_it(served_by):
    x = torch.randn(2, 12, 5, 6)
    for groups in (1, 2, 3, 4, 6, 12):
        expected = x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)
        assert torch.equal(channel_shuffle(x, groups), expected)
        assert torch.equal(channel_shuffle(channel_shuffle(x, groups), 12 // groups), x)


def test_by_hand(served_by):
    x = torch.arange(6.0)[None]
    assert channel_shuffle(x, 2).tolist() == [[0, 3, 1, 4, 2, 5]]
    assert channel_shuffle(x, order=[2, 0, 1], depth=2).tolist() == [[4, 5, 0, 1, 2, 3]]


def test_order_may_be_a_tensor_or_a_tuple(served_by):
    x = torch.randn(2, 3, 4, 4)
    expected = x[:, [2, 0, 1]]
    assert torch.equal(channel_shuffle(x, order=(2, 0, 1)), expected)
    assert torch.equal(channel_shuffle(x, order=torch.tensor([2, 0, 1])), expected)


def test_complex_conjugates_are_resolved(served_by):
    x = numbers(12, (2, 5, 7), torch.complex64).nan_to_num()
    assert torch.equal(channel_shuffle(x.conj(), 3), channel_shuffle(x, 3).conj().resolve_conj())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients(served_by, layout):
    for arguments in ({"groups": 3}, {"order": permutation(6), "depth": 2}, {"order": permutation(12)}):
        x = LAYOUTS[layout](torch.randn(2, 12, 5, 7)).detach().requires_grad_()
        given = torch.randn(x.shape)
        (found,) = torch.autograd.grad(channel_shuffle(x, **arguments), x, given)
        copy = x.detach().contiguous().requires_grad_()
        with implementation("reference"):
            (expected,) = torch.autograd.grad(channel_shuffle(copy, **arguments), copy, given)
        assert torch.equal(found, expected)
        (found,) = torch.autograd.grad(channel_shuffle(x, **arguments).sum(), x)
        assert torch.equal(found, torch.ones(x.shape))


def test_gradcheck(served_by):
    for layout in ("contiguous", "channels-last"):
        x = LAYOUTS[layout](torch.randn(1, 12, 2, 2, dtype=torch.float64)).requires_grad_()
        assert gradcheck(lambda x: channel_shuffle(x, 3), x)
        assert gradgradcheck(lambda x: channel_shuffle(x, order=[5, 2, 0, 1, 3, 4], depth=2), x)


needs_native = pytest.mark.skipif(not INSTRUCTION_SETS, reason="the native operators were not built")


@needs_native
def test_the_gradient_lies_in_memory_as_the_input_does():
    x = torch.randn(2, 12, 5, 7).contiguous(memory_format=torch.channels_last).requires_grad_()
    output = channel_shuffle(x, 3)
    (gradient,) = torch.autograd.grad(output, x, torch.randn_like(output))
    assert gradient.stride() == x.stride()


@needs_native
@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(layout):
    x = LAYOUTS[layout](torch.randn(2, 6, 3, 5)).detach().requires_grad_()
    torch.library.opcheck(torch.ops.partnas.channel_shuffle, (x, 3, [], 1))
    torch.library.opcheck(torch.ops.partnas.channel_shuffle, (x, 0, [2, 0, 1], 2))


@needs_native
def test_fake_tensors_have_the_shapes_and_strides_of_real_ones():
    # Strides of dimensions of size 1 say nothing about the memory, and are canonical in the result.
    odd = torch.randn(4, 12, 5, 7)[::4, :, :, ::7]
    inputs = [
        LAYOUTS[layout](torch.randn(batch, 12, 5, width)) for layout in LAYOUTS for batch, width in ((2, 7), (1, 1))
    ]
    for x in (*inputs, odd, odd[..., 0]):
        real = torch.ops.partnas.channel_shuffle(x, 3, [], 1)
        with FakeTensorMode() as mode:
            fake = torch.ops.partnas.channel_shuffle(mode.from_tensor(x), 3, [], 1)
        assert (real.shape, real.stride(), real.dtype) == (fake.shape, fake.stride(), fake.dtype)


@needs_native
def test_outputs_come_from_the_allocation_that_is_filled():
    assert torch.empty_strided((3,), (1,)).isnan().all()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        channel_shuffle(torch.randn(2, 6, 3, 5), 3)
    assert [event.name for event in profile.events()].count("aten::empty_strided") == 1


def test_compiles_in_one_graph(served_by):
    def function(x):
        return channel_shuffle(channel_shuffle(x * 2, 3), order=[1, 0], depth=6) ** 2

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for layout in ("contiguous", "channels-last"):
        x = LAYOUTS[layout](torch.randn(2, 12, 5, 6)).requires_grad_()
        assert torch.equal(compiled(x), function(x))
        (expected,) = torch.autograd.grad(function(x).sum(), x)
        (found,) = torch.autograd.grad(compiled(x).sum(), x)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_more_threads_give_the_same(name):
    x = torch.randn(3, 48, 61, 67)
    torch.set_num_threads(3)
    with implementation(name):
        for y in (x, x.contiguous(memory_format=torch.channels_last)):
            check(y, 4)
            check(y, order=permutation(3), depth=16)


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((12,), {"groups": 3}, "x of shape (12,) has no channels"),
        ((2, 12, 4, 4), {"groups": 5}, "12 runs do not divide into 5 groups"),
        ((2, 12, 4, 4), {"groups": 0}, "12 runs do not divide into 0 groups"),
        ((2, 12, 4, 4), {"groups": -3}, "12 runs do not divide into -3 groups"),
        ((2, 12, 4, 4), {"groups": 3, "depth": 5}, "12 channels do not divide into runs of depth 5"),
        ((2, 12, 4, 4), {"groups": 3, "depth": 0}, "12 channels do not divide into runs of depth 0"),
        ((2, 12, 4, 4), {}, "give either groups or order"),
        ((2, 3, 4, 4), {"groups": 3, "order": [0, 1, 2]}, "give either groups or order"),
        ((2, 3, 4, 4), {"order": [0, 1]}, "order [0, 1] is no permutation of the runs 0 to 2"),
        ((2, 3, 4, 4), {"order": [0, 1, 1]}, "order [0, 1, 1] is no permutation"),
        ((2, 3, 4, 4), {"order": [1, 2, 3]}, "order [1, 2, 3] is no permutation"),
        ((2, 3, 4, 4), {"order": [0, 1, -1]}, "order [0, 1, -1] is no permutation"),
        ((2, 6, 4, 4), {"order": [0, 1, 2, 3, 4, 5], "depth": 2}, "is no permutation of the runs 0 to 2"),
    ],
)
def test_bad_input_is_one_line(served_by, shape, arguments, message):
    with pytest.raises(PartnasError, match="^channel_shuffle: .*" + re.escape(message)) as caught:
        channel_shuffle(torch.zeros(shape), **arguments)
    assert "\n" not in str(caught.value)


@needs_native
@pytest.mark.parametrize(
    ("shape", "groups", "order", "depth"),
    [
        ((6,), 2, [], 1),
        ((1, 6), 4, [], 1),
        ((1, 6), 2, [0, 1, 2, 3, 4, 5], 1),
        ((1, 6), 0, [0, 1, 2, 3, 4], 1),
        ((1, 6), 0, [0, 1, 2, 3, 4, 6], 1),
        ((1, 6), 0, [0, 1, 2, 3, 4, -1], 1),
        ((1, 6), 2, [], 4),
        ((1, 6), 2, [], 0),
        ((1, 6), 2, [], -1),
    ],
)
def test_the_native_operator_checks_what_it_is_given(shape, groups, order, depth):
    with pytest.raises(RuntimeError, match="channel_shuffle"):
        torch.ops.partnas.channel_shuffle(torch.zeros(shape), groups, order, depth)
