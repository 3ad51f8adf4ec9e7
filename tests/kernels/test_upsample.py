import pytest
import torch
import torch.nn.functional as F
from map_cases import EMPTY, LAYOUTS, assert_as_exact_as, random_map

from partnas.errors import PartnasError
from partnas.ops import use_backend
from partnas.ops.upsample import reference, upsample

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 1, 1, 1), (2, 3, 7, 9), (1, 16, 3, 130), (1, 18, 2, 5), (1, 33, 4, 1), (1, 128, 1, 3), (1, 300, 2, 2)]


def run(function, x, gradient):
    leaf = x.detach().requires_grad_()
    output = function(leaf)
    output.backward(gradient.to(output.dtype))
    return output.detach().cpu(), leaf.grad.cpu()


def check(x, factor, device, gradient=None):
    if gradient is None:
        gradient = random_map((*x.shape[:2], factor * x.shape[2], factor * x.shape[3]), x.dtype, seed=5)
    with use_backend("triton"):
        output, found = run(lambda t: upsample(t, factor), x.to(device), gradient.to(device))
    exact, exact_gradient = run(lambda t: reference(t, factor), x.double(), gradient)
    plain, plain_gradient = run(lambda t: reference(t, factor), x.float(), gradient)
    assert_as_exact_as(output, exact, plain.to(x.dtype), scale=x.abs().max().item())
    assert_as_exact_as(found, exact_gradient, plain_gradient.to(x.dtype), scale=factor**2 * gradient.abs().max().item())
    assert output.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_output_and_gradient(device, shape, factor):
    check(random_map(shape), factor, device)


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("shape", [(2, 1, 1, 3), (1, 33, 3, 1)])
def test_odd_shapes_in_half_precision(device, shape, dtype, factor):
    check(random_map(shape, dtype), factor, device)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_and_dtypes(device, dtype, layout):
    check(random_map((2, 17, 3, 5), dtype, layout), 2, device)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradient_of_any_strides(device, layout):
    gradient = random_map((2, 5, 6, 8), torch.float32, layout, 8)
    check(random_map((2, 5, 3, 4)), 2, device, gradient)


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("shape", EMPTY)
def test_empty(device, shape, factor):
    x = random_map(shape).to(device).requires_grad_()
    with use_backend("triton"):
        output = upsample(x, factor)
        output.sum().backward()
    assert output.shape == (*shape[:2], factor * shape[2], factor * shape[3])
    assert x.grad.shape == shape


def test_nan_stays_among_its_neighbours(device):
    x = random_map((1, 17, 6, 7))
    x[0, 3, 2, 4] = float("nan")
    with use_backend("triton"):
        found = upsample(x.to(device), 2).cpu()
    assert torch.equal(found.isnan(), F.interpolate(x, scale_factor=2, mode="bilinear").isnan())


def test_float64_is_left_to_the_reference(device):
    x = random_map((1, 3, 4, 5), torch.float64).to(device)
    with use_backend("triton"):
        assert torch.equal(upsample(x, 2), reference(x, 2))


def test_what_it_cannot_do_is_refused(device):
    x = random_map((1, 3, 4, 6)).to(device)
    with use_backend("triton"):
        upsample(x, 2)
        for wrong in (x[0], x[None]):
            with pytest.raises(PartnasError, match=f"upsample: maps must be .* got {wrong.dim()} dimensions"):
                upsample(wrong, 2)
    operators = torch.ops.partnas_triton
    with pytest.raises(PartnasError, match=r"upsample_backward: maps must be .* got 3 dimensions"):
        operators.upsample_backward(x[0], 2)
    with pytest.raises(PartnasError, match="multiples of 4"):
        operators.upsample_backward(x, 4)
    for call in (operators.upsample, operators.upsample_backward):
        with pytest.raises(PartnasError, match="factor 3 is neither 2 nor 4"):
            call(x, 3)


@pytest.mark.parametrize("factor", [2, 4])
def test_opcheck(device, factor):
    x = random_map((1, 3, 1, 2)).to(device)
    gradient = random_map((1, 3, factor, 2 * factor)).to(device)
    with use_backend("triton"):
        upsample(x, factor)
    torch.library.opcheck(torch.ops.partnas_triton.upsample, (x.clone().requires_grad_(), factor))
    torch.library.opcheck(torch.ops.partnas_triton.upsample_backward, (gradient, factor))
