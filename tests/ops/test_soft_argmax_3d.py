import re

import pytest
import torch
from native_cpu import INSTRUCTION_SETS, implementation
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck
from volume_cases import (
    EXTREMES,
    INF,
    LAYOUTS,
    NAN,
    SHAPES,
    as_volume,
    both,
    check,
    check_without_softmax,
    logits,
    oracle,
    without_softmax,
)

from partnas.errors import PartnasError
from partnas.ops import soft_argmax_3d

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]

pytestmark = pytest.mark.usefixtures("filled_memory", "one_thread")


def precision(served_by, dtype):
    # Plain PyTorch sums the volume in its own precision, which costs up to 60 roundings here, against 5 in the kernels;
    # in float64 the oracle is no better than that.
    return 100.0 if served_by == "reference" or dtype == torch.float64 else 8.0


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_and_gradients(served_by, dtype, layout):
    for shape in SHAPES:
        heatmaps = LAYOUTS[layout](logits(shape, dtype))
        check(heatmaps, shape[1], precision(served_by, dtype))


@pytest.mark.parametrize("layout", ["4-D", "channels-last", "cut out"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_volumes_of_several_segments(served_by, dtype, layout):
    check(LAYOUTS[layout](logits((1, 2, 41, 48, 40), dtype)), 2, precision(served_by, dtype))


@pytest.mark.parametrize("layout", ["4-D", "channels-last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_gradients_too_large_for_the_caches_are_those_of_each_sample(name, dtype, layout):
    # From 16 MB on, rows of whole vectors are written past the caches.
    for depth, width in ((48, 64), (47, 63)):
        volume = logits((9, 2, depth, 160, width), dtype)
        heatmaps = LAYOUTS[layout](volume)
        assert heatmaps.numel() * heatmaps.element_size() > 16 << 20

        def gradient(x):
            leaf = x.detach().requires_grad_()
            return torch.autograd.grad(soft_argmax_3d(leaf, 2)[..., 0].sum(), leaf)[0]

        with implementation(name):
            assert torch.equal(gradient(heatmaps), torch.cat([gradient(heatmaps[i : i + 1]) for i in range(9)]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_the_kernels_are_no_less_exact_than_plain_pytorch(name, dtype):
    volume = logits((2, 4, 41, 48, 40), dtype)
    expected = oracle(volume, range(4))
    with implementation("reference"):
        plain = (soft_argmax_3d(volume, 4) - expected).abs().max()
    with implementation(name):
        assert (soft_argmax_3d(volume, 4) - expected).abs().max() <= plain


def test_by_hand(served_by):
    volume = torch.full((1, 1, 3, 4, 5), -INF)
    volume[0, 0, 2, 1, 4] = 7.0
    assert soft_argmax_3d(volume, 1).tolist() == [[[4.0, 1.0, 2.0]]]
    volume[0, 0, 0, 3, 2] = 7.0
    assert soft_argmax_3d(volume, 1).tolist() == [[[3.0, 2.0, 1.0]]]
    assert soft_argmax_3d(torch.zeros(1, 2, 3, 4, 5), 2).flatten().tolist() == pytest.approx(2 * [2.0, 1.5, 1.0])


@pytest.mark.parametrize("layout", ["4-D", "channels-last", "every second"])
@pytest.mark.parametrize("order", [[3, 0, 2, 1], [2], [4, 1], [1, 2, 3, 4, 0], []], ids=str)
def test_order_picks_parts(served_by, order, layout):
    volume = logits((2, 5, 6, 7, 9), torch.float32)
    check(LAYOUTS[layout](volume), 5, precision(served_by, torch.float32), order)
    absent = [part for part in range(5) if part not in order]
    volume[:, absent] = torch.tensor([NAN, INF, -INF])[torch.randint(3, volume[:, absent].shape)]
    heatmaps = LAYOUTS[layout](volume)
    output, gradient, _ = both(lambda x: soft_argmax_3d(x, 5, order), heatmaps)
    assert output.isfinite().all()
    assert (as_volume(gradient, 5)[:, absent] == 0).all()
    assert as_volume(gradient, 5)[:, order].isfinite().all()


def test_order_may_be_a_tensor_or_a_tuple(served_by):
    volume = logits((1, 3, 2, 4, 4), torch.float32)
    expected = soft_argmax_3d(volume, 3, [2, 0])
    assert torch.equal(soft_argmax_3d(volume, 3, (2, 0)), expected)
    assert torch.equal(soft_argmax_3d(volume, 3, torch.tensor([2, 0])), expected)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_an_empty_batch(served_by, memory_format):
    heatmaps = torch.zeros(0, 12, 5, 6).to(memory_format=memory_format)
    output, gradient, _ = both(lambda x: soft_argmax_3d(x, 3), heatmaps)
    assert output.shape == (0, 3, 3)
    assert gradient.shape == heatmaps.shape


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("extreme", EXTREMES)
def test_extreme_logits(served_by, extreme, dtype, memory_format):
    volume = logits((1, 2, 20, 24, 18))
    EXTREMES[extreme](volume)
    heatmaps = volume.flatten(1, 2).to(dtype).contiguous(memory_format=memory_format)
    assert soft_argmax_3d(heatmaps, 2).isfinite().all()
    check(heatmaps, 2, precision(served_by, dtype))


def test_logits_at_the_ends_of_float32(served_by):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        top = torch.finfo(dtype).max
        volume = torch.full((1, 3, 4, 5, 6), -top, dtype=dtype)
        volume[0, 1, 3, 2, 1] = top
        volume[0, 2, :, :, 3:] = -INF
        expected = torch.tensor([[[2.5, 2.0, 1.5], [1.0, 2.0, 3.0], [1.0, 2.0, 1.5]]])
        assert torch.allclose(soft_argmax_3d(volume, 3).float(), expected, rtol=1e-6)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_part_that_has_no_softmax_is_nan_and_the_others_are_not(served_by, dtype, memory_format):
    volume = without_softmax(logits((1, 8, 20, 24, 18), dtype))
    check_without_softmax(volume, memory_format)
    check(volume[:, [0, 7]], 2, precision(served_by, dtype))


def test_minus_infinity_gets_exactly_no_gradient(served_by):
    volume = logits((1, 2, 5, 6, 17), torch.float32)
    masked = volume < 0
    _, gradient, _ = both(lambda x: soft_argmax_3d(x, 2), volume.masked_fill(masked, -INF))
    assert (gradient[masked] == 0).all()
    assert (gradient[~masked] != 0).all()


def test_more_voxels_than_32_bits_count():
    heatmaps = torch.zeros(1, 1, 1, 65536).expand(1, 1, 33000, 65536)
    if INSTRUCTION_SETS:
        x, y, z = soft_argmax_3d(heatmaps, 1)[0, 0].tolist()
        assert (x, y, z) == pytest.approx((65535 / 2, 32999 / 2, 0), rel=1e-6)


@pytest.mark.parametrize("layout", ["5-D", "channels-last", "batch inside"])
def test_gradcheck(served_by, layout):
    heatmaps = LAYOUTS[layout](logits((1, 3, 2, 3, 5), scale=1.0)).requires_grad_()
    assert gradcheck(lambda x: soft_argmax_3d(x, 3), heatmaps)
    assert gradcheck(lambda x: soft_argmax_3d(x, 3, [2, 0]), heatmaps)


def test_gradgradcheck():
    heatmaps = logits((1, 3, 2, 2, 3), scale=1.0).requires_grad_()
    assert gradgradcheck(lambda x: soft_argmax_3d(x, 3, [2, 0]), heatmaps)


@pytest.mark.parametrize("layout", ["4-D", "channels-last"])
def test_gradients_of_the_output_may_have_any_strides(served_by, layout):
    heatmaps = LAYOUTS[layout](logits((2, 3, 4, 5, 6), torch.float32)).requires_grad_()
    gradient = torch.randn(3, 3, 2).permute(2, 0, 1)
    output = soft_argmax_3d(heatmaps, 3)
    (expected,) = torch.autograd.grad(output, heatmaps, gradient.contiguous(), retain_graph=True)
    (found,) = torch.autograd.grad(output, heatmaps, gradient, retain_graph=True)
    assert torch.equal(found, expected)
    (expected,) = torch.autograd.grad(output, heatmaps, torch.ones(2, 3, 3), retain_graph=True)
    (found,) = torch.autograd.grad(output.sum(), heatmaps)
    assert torch.equal(found, expected)


def test_the_gradient_lies_in_memory_as_the_heatmaps_do(served_by):
    for layout in ("4-D", "channels-last", "5-D", "5-D channels-last"):
        heatmaps = LAYOUTS[layout](logits((2, 3, 8, 5, 6), torch.float32))
        if served_by != "reference":
            assert both(lambda x: soft_argmax_3d(x, 3), heatmaps)[1].stride() == heatmaps.stride()


needs_native = pytest.mark.skipif(not INSTRUCTION_SETS, reason="the native operators were not built")


@needs_native
@pytest.mark.parametrize(
    ("layout", "dtype", "shape"),
    [
        *((layout, torch.float32, (2, 3, 4, 5, 6)) for layout in ("4-D", "channels-last", "batch inside", "cut out")),
        *(("5-D", dtype, (1, 3, 9, 2, 3)) for dtype in DTYPES[1:]),
        ("channels-last", torch.float32, (0, 3, 4, 5, 6)),
    ],
    ids=str,
)
def test_opcheck(layout, dtype, shape):
    volume = as_volume(LAYOUTS[layout](logits(shape, dtype)), 3).detach()
    order = [2, 0]
    statistics = torch.ops.partnas.soft_argmax_3d(volume, order)[1]
    gradient = torch.randn(shape[0], 2, 3).to(statistics.dtype)
    arguments = (gradient, volume, statistics, order)
    torch.library.opcheck(torch.ops.partnas.soft_argmax_3d_backward, arguments)
    torch.library.opcheck(torch.ops.partnas.soft_argmax_3d, (volume.requires_grad_(), order))


@needs_native
def test_opcheck_of_the_backward_of_the_backward():
    volume = logits((1, 2, 3, 2, 4), torch.float32).requires_grad_()
    statistics = torch.ops.partnas.soft_argmax_3d(volume.detach(), [1, 0])[1]
    arguments = (torch.randn(1, 2, 3).requires_grad_(), volume, statistics, [1, 0])
    torch.library.opcheck(torch.ops.partnas.soft_argmax_3d_backward, arguments)


@needs_native
@pytest.mark.parametrize("layout", LAYOUTS)
def test_fake_tensors_have_the_shapes_and_strides_of_real_ones(layout):
    for shape in SHAPES[:6]:
        volume = as_volume(LAYOUTS[layout](logits(shape, torch.float32)), shape[1])
        order = [shape[1] - 1]
        real = torch.ops.partnas.soft_argmax_3d(volume, order)
        gradient = torch.randn(shape[0], 1, 3)
        real = (*real, torch.ops.partnas.soft_argmax_3d_backward(gradient, volume, real[1], order))
        with FakeTensorMode() as mode:
            volume, gradient, statistics = (mode.from_tensor(t) for t in (volume, gradient, real[1]))
            fake = torch.ops.partnas.soft_argmax_3d(volume, order)
            fake = (*fake, torch.ops.partnas.soft_argmax_3d_backward(gradient, volume, statistics, order))
        for one, other in zip(real, fake, strict=True):
            assert (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)


@needs_native
def test_outputs_come_from_the_allocation_that_is_filled_with_nan():
    assert torch.empty_strided((3,), (1,)).isnan().all()
    volume = logits((1, 2, 3, 4, 5), torch.float32).requires_grad_()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        soft_argmax_3d(volume, 2).sum().backward()
    parents = [event.cpu_parent.name for event in profile.events() if event.name == "aten::empty_strided"]
    assert sum("partnas" in name for name in parents) == 3  # coordinates, statistics, gradient


def test_compiles_in_one_graph(served_by):
    def function(x):
        return soft_argmax_3d(x * 2, 3, [2, 0]) ** 2

    heatmaps = logits((2, 12, 5, 6), torch.float32)
    expected = both(function, heatmaps)
    found = both(torch.compile(function, fullgraph=True, backend="aot_eager"), heatmaps)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_results_depend_on_neither_the_run_nor_the_threads(name, memory_format):
    heatmaps = logits((2, 5, 40, 48, 50), torch.float32).flatten(1, 2).contiguous(memory_format=memory_format)
    results = []
    with implementation(name):
        for count in (1, 2, 3, 2, 1):
            torch.set_num_threads(count)
            results.append(both(lambda x: soft_argmax_3d(x, 5, [3, 1, 0]), heatmaps))
    for output, gradient, _ in results[1:]:
        assert torch.equal(output, results[0][0])
        assert torch.equal(gradient, results[0][1])


@pytest.mark.parametrize(
    ("heatmaps", "parts", "order", "message"),
    [
        (torch.zeros(2, 7, 4, 4), 3, None, "7 channels do not divide into 3 parts"),
        (torch.zeros(2, 6, 4, 4), 0, None, "parts is 0"),
        (torch.zeros(2, 6, 4, 4), -2, None, "parts is -2"),
        (torch.zeros(2, 0, 2, 4, 4), 0, None, "parts is 0"),
        (torch.zeros(2, 4, 2, 4, 4), 3, None, "(2, 4, 2, 4, 4) are neither (B, 3 * D, H, W) nor (B, 3, D, H, W)"),
        (torch.zeros(6, 4, 4), 3, None, "(6, 4, 4) are neither"),
        (torch.zeros(2, 0, 4, 4), 3, None, "empty volume"),
        (torch.zeros(2, 6, 0, 4), 3, None, "empty volume"),
        (torch.zeros(2, 6, 4, 0), 3, None, "empty volume"),
        (torch.zeros(2, 6, 4, 4, dtype=torch.int32), 3, None, "heatmaps are torch.int32; use float32"),
        (torch.zeros(2, 6, 4, 4, dtype=torch.complex64), 3, None, "heatmaps are torch.complex64"),
        (torch.zeros(2, 6, 4, 4), 3, [0, 3], "order names part 3; the volume has parts 0 to 2"),
        (torch.zeros(2, 6, 4, 4), 3, [-1], "order names part -1"),
        (torch.zeros(2, 6, 4, 4), 3, [0, 1, 0], "order [0, 1, 0] repeats a part"),
    ],
)
def test_bad_input_is_one_line(served_by, heatmaps, parts, order, message):
    with pytest.raises(PartnasError, match=r"^soft_argmax_3d: .*" + re.escape(message)) as caught:
        soft_argmax_3d(heatmaps, parts, order)
    assert "\n" not in str(caught.value)


@needs_native
def test_the_native_operator_checks_what_it_is_given():
    volume = torch.zeros(1, 2, 3, 4, 5)
    statistics = torch.ones(1, 2, 5)
    forward, backward = torch.ops.partnas.soft_argmax_3d, torch.ops.partnas.soft_argmax_3d_backward
    for call in (
        lambda: forward(volume[0], [0]),
        lambda: forward(volume[:, :, :0], [0]),
        lambda: forward(volume, [2]),
        lambda: forward(volume, [-1]),
        lambda: forward(volume.int(), [0]),
        lambda: backward(torch.ones(1, 2, 3), volume, statistics, [0, 2]),
        lambda: backward(torch.ones(1, 2, 3), volume, statistics, [0]),
        lambda: backward(torch.ones(1, 2, 2), volume, statistics, [0, 1]),
        lambda: backward(torch.ones(1, 2, 3), volume, statistics[..., :4], [0, 1]),
        lambda: backward(torch.ones(1, 2, 3).half(), volume, statistics, [0, 1]),
        lambda: backward(torch.ones(1, 2, 3), volume, statistics.int(), [0, 1]),
    ):
        with pytest.raises(RuntimeError, match="soft_argmax_3d"):
            call()
