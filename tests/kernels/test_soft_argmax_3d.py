import pytest
import torch
from volume_cases import (
    EXTREMES,
    INF,
    LAYOUTS,
    NAN,
    as_volume,
    both,
    check,
    check_without_softmax,
    logits,
    without_softmax,
)

from partnas.ops import soft_argmax_3d, use_backend
from partnas.ops.soft_argmax_3d import reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
PRECISION = 8.0


# NumPy's, of the interpreter.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value|divide by zero|overflow encountered:RuntimeWarning")


@pytest.fixture(autouse=True)
def on_triton():
    with use_backend("triton"):
        yield


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_and_gradients(device, dtype, layout):
    for shape in [(2, 3, 4, 1, 33), (1, 2, 5, 4, 1), (1, 1, 7, 3, 9), (3, 1, 1, 1, 1)]:
        check(LAYOUTS[layout](logits(shape, dtype)), shape[1], PRECISION, device=device)


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        ("4-D", (1, 2, 41, 24, 40)),
        ("channels-last", (1, 2, 41, 24, 40)),
        ("cut out", (1, 1, 2, 3, 1500)),
        ("4-D", (1, 66, 2, 1, 2)),
    ],
    ids=str,
)
def test_several_segments_tiles_and_launches(device, shape, layout):
    check(LAYOUTS[layout](logits(shape, torch.float32)), shape[1], PRECISION, device=device)


@pytest.mark.parametrize("layout", ["4-D", "channels-last", "every second"])
@pytest.mark.parametrize("order", [[3, 0, 2, 1], [4, 1], []], ids=str)
def test_order_picks_parts(device, order, layout):
    volume = logits((2, 5, 6, 3, 9), torch.float32)
    check(LAYOUTS[layout](volume), 5, PRECISION, order, device)
    absent = [part for part in range(5) if part not in order]
    volume[:, absent] = torch.tensor([NAN, INF, -INF])[torch.randint(3, volume[:, absent].shape)]
    heatmaps = LAYOUTS[layout](volume).to(device)
    output, gradient, _ = both(lambda x: soft_argmax_3d(x, 5, order), heatmaps)
    assert output.isfinite().all()
    assert (as_volume(gradient, 5)[:, absent] == 0).all()
    assert as_volume(gradient, 5)[:, order].isfinite().all()


def test_an_empty_batch(device):
    output, gradient, _ = both(lambda x: soft_argmax_3d(x, 3), torch.zeros(0, 12, 5, 6, device=device))
    assert output.shape == (0, 3, 3)
    assert gradient.shape == (0, 12, 5, 6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("extreme", EXTREMES)
def test_extreme_logits(device, extreme, dtype):
    volume = logits((1, 1, 20, 12, 18))
    EXTREMES[extreme](volume)
    heatmaps = volume.flatten(1, 2).to(dtype)
    check(heatmaps, 1, PRECISION, device=device)


def test_logits_at_the_ends_of_float32(device):
    for dtype in (torch.float32, torch.bfloat16):
        top = torch.finfo(dtype).max
        volume = torch.full((1, 3, 4, 5, 6), -top, dtype=dtype)
        volume[0, 1, 3, 2, 1] = top
        volume[0, 2, :, :, 3:] = -INF
        expected = torch.tensor([[[2.5, 2.0, 1.5], [1.0, 2.0, 3.0], [1.0, 2.0, 1.5]]])
        assert torch.allclose(soft_argmax_3d(volume.to(device), 3).cpu(), expected, rtol=1e-6)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_part_that_has_no_softmax_is_nan_and_the_others_are_not(device, dtype, memory_format):
    check_without_softmax(without_softmax(logits((1, 8, 20, 4, 18), dtype)), memory_format, device)


def test_gradients_of_the_output_may_have_any_strides(device):
    heatmaps = logits((2, 3, 4, 5, 6), torch.float32).to(device).requires_grad_()
    gradient = torch.randn(3, 3, 2).permute(2, 0, 1).to(device)
    output = soft_argmax_3d(heatmaps, 3)
    (expected,) = torch.autograd.grad(output, heatmaps, gradient.contiguous(), retain_graph=True)
    (found,) = torch.autograd.grad(output, heatmaps, gradient, retain_graph=True)
    assert torch.equal(found, expected)
    (expected,) = torch.autograd.grad(output, heatmaps, torch.ones(2, 3, 3, device=device), retain_graph=True)
    (found,) = torch.autograd.grad(output.sum(), heatmaps)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("layout", ["4-D", "channels-last", "5-D channels-last"])
def test_the_gradient_lies_in_memory_as_the_heatmaps_do(device, layout):
    heatmaps = LAYOUTS[layout](logits((2, 3, 8, 5, 6), torch.float32)).to(device)
    assert both(lambda x: soft_argmax_3d(x, 3), heatmaps)[1].stride() == heatmaps.stride()


def test_float64_is_left_to_the_reference(device):
    volume = logits((1, 2, 3, 4, 5)).to(device)
    assert torch.equal(soft_argmax_3d(volume, 2), reference(volume, 2))


def test_opcheck(device):
    volume = logits((1, 2, 1, 2, 2), torch.float32).to(device)
    soft_argmax_3d(volume, 2)
    operators = torch.ops.partnas_triton
    statistics = operators.soft_argmax_3d(volume, [1])[1]
    gradient = torch.randn(1, 1, 3, device=device)
    torch.library.opcheck(operators.soft_argmax_3d_backward, (gradient, volume, statistics, [1]))
    torch.library.opcheck(operators.soft_argmax_3d, (volume.requires_grad_(), [1]))
