import pytest
import torch
import torch.nn.functional as F
from map_cases import (
    DTYPES,
    EMPTY,
    LAYOUTS,
    POISON,
    SHAPES,
    Allocations,
    assert_as_exact_as,
    backends,
    counted,
    only_native,
    poisoned_memory,
    random_map,
    running_on,
)
from native_cpu import INSTRUCTION_SETS, implementation

from partnas.ops.upsample import upsample


@pytest.fixture(params=backends("upsample"))
def backend(request):
    with running_on(request.param) as name:
        yield name


def interpolation(size, factor):
    """The matrix that maps a line of ``size`` pixels to ``factor * size``: linear between pixel centres, constant
    beyond the first and the last."""
    matrix = torch.zeros(factor * size, size, dtype=torch.float64)
    for position in range(factor * size):
        place = min(max((position + 0.5) / factor - 0.5, 0), size - 1)
        below = int(place)
        matrix[position, below] += 1 - (place - below)
        matrix[position, min(below + 1, size - 1)] += place - below
    return matrix


def naive(x, factor):
    rows, columns = (interpolation(size, factor).to(x.dtype) for size in x.shape[2:])
    return rows @ x @ columns.t()


def usual(x, factor):
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def run(function, x, gradient, dtype=None):
    leaf = x.detach().to(dtype or x.dtype).requires_grad_()
    output = function(leaf)
    output.backward(gradient.to(output.dtype))
    return output.detach(), leaf.grad


def gradient_of(x, factor):
    return random_map((*x.shape[:2], factor * x.shape[2], factor * x.shape[3]), x.dtype, seed=5)


def check(x, factor, gradient=None):
    gradient = gradient_of(x, factor) if gradient is None else gradient
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    output, found = run(lambda t: upsample(t, factor), x, gradient)
    exact, exact_gradient = run(lambda t: naive(t, factor), x, gradient, torch.float64)
    plain, plain_gradient = run(lambda t: usual(t, factor), x, gradient, wide)
    assert_as_exact_as(output, exact, plain.to(x.dtype), scale=x.abs().max().item())
    # Below float32, PyTorch's own gradient adds up in the storage type.
    assert_as_exact_as(found, exact_gradient, plain_gradient.to(x.dtype), scale=factor**2 * gradient.abs().max().item())


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize(
    "shape", [s for s in SHAPES if s != (2, 16, 65, 97)] + [(2, 16, 33, 47), (2, 5, 1, 4), (1, 33, 4, 1)]
)
def test_output_and_gradient(backend, shape, factor):
    check(random_map(shape), factor)


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_and_dtypes(backend, dtype, layout, factor):
    check(random_map((3, 17, 7, 9), dtype, layout), factor)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradient_of_any_strides(backend, layout):
    check(random_map((3, 17, 7, 9)), 2, random_map((3, 17, 14, 18), torch.float32, layout, 8))


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("shape", EMPTY)
def test_empty(backend, shape, factor):
    x = random_map(shape).requires_grad_()
    output = upsample(x, factor)
    assert output.shape == (*shape[:2], factor * shape[2], factor * shape[3])
    output.sum().backward()
    assert x.grad.shape == shape


def test_results_are_channels_last(backend):
    x = random_map((2, 16, 7, 9)).requires_grad_()
    output = upsample(x, 2)
    output.sum().backward()
    assert output.is_contiguous(memory_format=torch.channels_last)
    assert x.grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("factor", [2, 4])
def test_a_constant_stays(backend, factor):
    x = torch.full((1, 17, 3, 5), 0.1).to(memory_format=torch.channels_last)
    torch.testing.assert_close(upsample(x, factor), torch.full((1, 17, 3 * factor, 5 * factor), 0.1))


def test_nan_stays_among_its_neighbours(backend):
    x = random_map((1, 17, 6, 7))
    x[0, 3, 2, 4] = float("nan")
    output = upsample(x, 2)
    assert torch.equal(output.isnan(), usual(x, 2).isnan())


@pytest.mark.parametrize("factor", [2, 4])
def test_gradcheck(backend, factor):
    x = random_map((1, 2, 3, 2), torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: upsample(t, factor), [x])


def test_no_gradient_is_formed_that_nobody_asked_for(backend):
    allocations = Allocations(0)
    with allocations:
        assert not upsample(random_map((2, 16, 7, 9)), 2).requires_grad
    assert not any("backward" in name for name in allocations.names)


@pytest.mark.parametrize("factor", [2, 4])
def test_run_to_run_identical(backend, factor):
    x = random_map((2, 16, 33, 47))
    first = run(lambda t: upsample(t, factor), x, gradient_of(x, factor))
    for _ in range(3):
        again = run(lambda t: upsample(t, factor), x, gradient_of(x, factor))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_more_threads_give_the_same(name, factor, one_thread):
    x = random_map((2, 16, 33, 47))
    with implementation(name):
        alone = run(lambda t: upsample(t, factor), x, gradient_of(x, factor))
        torch.set_num_threads(3)
        several = run(lambda t: upsample(t, factor), x, gradient_of(x, factor))
    assert all(torch.equal(a, b) for a, b in zip(alone, several, strict=True))


@pytest.mark.parametrize("factor", [2, 4])
def test_every_output_is_written(backend, factor):
    for shape in [(3, 17, 7, 9), (1, 130, 3, 5), (2, 16, 5, 5), (2, 16, 33, 47)]:
        x = random_map(shape)
        gradient = gradient_of(x, factor)
        with poisoned_memory():
            results = run(lambda t: upsample(t, factor), x, gradient)
        assert all(r.abs().max() < POISON for r in results)


def test_another_factor_is_refused(backend):
    with pytest.raises(ValueError, match="factor 3"):
        upsample(random_map((1, 2, 3, 4)), 3)


def test_an_output_larger_than_the_caches(backend):
    check(random_map((2, 48, 60, 64)), 4)


@only_native
@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("name", INSTRUCTION_SETS[:-1])
def test_lesser_instruction_sets(name, factor):
    with implementation(name):
        for shape in SHAPES[:8]:
            check(random_map(shape), factor)
        for dtype in (torch.bfloat16, torch.float16):
            check(random_map((3, 17, 7, 9), dtype), factor)


@only_native
@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
def test_opcheck(layout, dtype, factor):
    x = random_map((2, 3, 4, 5), dtype, layout)
    torch.library.opcheck(torch.ops.partnas.upsample, (x.clone().requires_grad_(), factor))
    torch.library.opcheck(torch.ops.partnas.upsample_backward, (gradient_of(x, factor), factor))


@pytest.mark.parametrize("factor", [2, 4])
def test_flops_are_those_of_the_reference(backend, factor):
    assert counted(lambda x: upsample(x, factor), random_map((2, 16, 4, 4))) == 4 * 2 * 16 * 4 * 4 * factor**2
