import pytest
import torch
import torch.nn.functional as F
from map_cases import LAYOUTS, assert_as_exact_as, random_map

from partnas.errors import PartnasError
from partnas.kernels import pool_pair as kernels
from partnas.ops import use_backend
from partnas.ops.norm_sum import reference_stats
from partnas.ops.pool_pair import avg_pool, max_pool, pool_pair

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# The last is wider than a program, and taller than a strip.
SHAPES = [(1, 1, 1, 1), (2, 3, 7, 9), (1, 18, 4, 1), (1, 33, 1, 6), (1, 128, 2, 3), (1, 130, 2, 2), (1, 16, 9, 70)]


def usual(x, stride):
    return F.max_pool2d(x, 3, stride, padding=1), F.avg_pool2d(x, 3, stride, padding=1, count_include_pad=False)


def gradients_of(x, stride):
    shape = (*x.shape[:2], -(-x.shape[2] // stride), -(-x.shape[3] // stride))
    return [random_map(shape, x.dtype, seed=seed) for seed in (11, 12)]


def run(function, x, gradients):
    leaf = x.detach().requires_grad_()
    results = function(leaf)
    torch.autograd.backward(results[:2], [g.to(results[0]) for g in gradients])
    return [r.detach().cpu() for r in results], leaf.grad.cpu()


def ours(x, stride, gradients, device):
    with use_backend("triton"):
        return run(lambda t: pool_pair(t, stride), x.to(device), gradients)


def check(x, stride, device, gradients=None):
    gradients = gradients or gradients_of(x, stride)
    results, gradient = ours(x, stride, gradients, device)
    exact, exact_gradient = run(lambda t: usual(t, stride), x.double(), gradients)
    plain, plain_gradient = run(lambda t: usual(t, stride), x.float(), gradients)
    max_map, avg_map, statistics = results
    assert torch.equal(max_map.double(), exact[0])
    assert_as_exact_as(avg_map, exact[1], plain[1].to(x.dtype), scale=x.abs().max().item())
    size = sum(g.abs().max().item() for g in gradients)
    assert_as_exact_as(gradient, exact_gradient, plain_gradient.to(x.dtype), scale=size)
    # Of the maps as they were written.
    measured = reference_stats([max_map.double(), avg_map.double()])
    torch.testing.assert_close(statistics.double(), measured, rtol=1e-5, atol=2e-6)
    for result in (max_map, avg_map):
        assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_maps_statistics_and_gradient(device, shape, stride):
    check(random_map(shape), stride, device)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(device, dtype, stride):
    check(random_map((2, 17, 4, 5), dtype), stride, device)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("shape", [(2, 1, 1, 5), (1, 33, 3, 1)])
def test_odd_shapes_in_half_precision(device, shape, dtype, stride):
    check(random_map(shape, dtype), stride, device)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides(device, layout):
    gradients = [random_map((2, 5, 3, 4), torch.float32, layout, seed) for seed in (3, 4)]
    check(random_map((2, 5, 3, 4), torch.float32, layout), 1, device, gradients)


@pytest.mark.parametrize("stride", [1, 2])
def test_strips_of_several_rows_meet(device, stride):
    check(random_map((1, 2, 18, 3)), stride, device)


@pytest.mark.parametrize("stride", [1, 2])
def test_statistics_of_maps_far_from_zero(device, stride):
    x = 1e3 + random_map((2, 5, 9, 8))
    (max_map, avg_map, statistics), _ = ours(x, stride, gradients_of(x, stride), device)
    measured = reference_stats([max_map.double(), avg_map.double()])
    torch.testing.assert_close(statistics.double(), measured, rtol=1e-5, atol=0)


@pytest.mark.parametrize("stride", [1, 2])
def test_empty(device, stride):
    x = random_map((0, 16, 7, 9)).to(device).requires_grad_()
    with use_backend("triton"):
        max_map, avg_map, statistics = pool_pair(x, stride)
        (max_map.sum() + avg_map.sum()).backward()
    assert max_map.shape == avg_map.shape == (0, 16, -(-7 // stride), -(-9 // stride))
    assert torch.equal(statistics.cpu(), torch.zeros(2, 2, 16))
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("levels", [1, 3])
def test_the_first_of_equal_values_gets_the_gradient(device, dtype, stride, levels):
    generator = torch.Generator().manual_seed(levels)
    x = torch.randint(levels, (2, 17, 7, 8), generator=generator).to(dtype).to(memory_format=torch.channels_last)
    x[0, :, 0, 0] = -0.0  # equal to 0
    # Small integers add up without rounding.
    largest, average = gradients_of(x, stride)
    gradients = [largest.round(), torch.zeros_like(average)]
    _, found = ours(x, stride, gradients, device)
    _, exact = run(lambda t: usual(t, stride), x.double(), gradients)
    assert torch.equal(found.double(), exact)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(2, 17, 7, 9), (1, 64, 4, 6)])
def test_nan_and_infinity_as_pytorch(device, stride, shape):
    x = random_map(shape)
    kind = torch.randint(12, shape, generator=torch.Generator().manual_seed(1))
    for number, value in enumerate((float("nan"), float("inf"), -float("inf"))):
        x[kind == number] = value
    x[0, 1] = -float("inf")
    x[0, 2] = float("nan")
    gradients = gradients_of(x, stride)
    results, gradient = ours(x, stride, gradients, device)
    expected, expected_gradient = run(lambda t: usual(t, stride), x, gradients)
    torch.testing.assert_close(results[0], expected[0], equal_nan=True, rtol=0, atol=0)
    torch.testing.assert_close(results[1], expected[1], equal_nan=True)
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("stride", [1, 2])
def test_one_pool_alone_is_that_of_the_pair(device, stride):
    x = random_map((1, 17, 4, 5), torch.bfloat16).to(device)
    for which, pool in enumerate((max_pool, avg_pool)):
        alone, paired = (x.clone().requires_grad_() for _ in range(2))
        gradient = gradients_of(x, stride)[which].to(device)
        with use_backend("triton"):
            map_alone = pool(alone, stride)
            map_alone.backward(gradient)
            map_paired = pool_pair(paired, stride)[which]
            map_paired.backward(gradient)
        assert torch.equal(map_alone, map_paired)
        assert torch.equal(alone.grad, paired.grad)


def test_run_to_run_identical(device):
    x = random_map((1, 16, 9, 40))
    gradients = gradients_of(x, 1)
    first, first_gradient = ours(x, 1, gradients, device)
    again, again_gradient = ours(x, 1, gradients, device)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(first_gradient, again_gradient)


def test_what_it_cannot_do_is_refused(device):
    x = random_map((1, 3, 4, 4)).to(device)
    with use_backend("triton"):
        max_pool(x)
        with pytest.raises(PartnasError, match="stride 3"):
            pool_pair(x, 3)
        with pytest.raises(PartnasError, match="no pixels"):
            avg_pool(x[:, :, :0])
    with pytest.raises(PartnasError, match="shape and dtype"):
        torch.ops.partnas_triton.pool_backward(x, x, True, 2)


@pytest.mark.parametrize("shape", [(1, 2, 1, 1 << 30), (1, 1, (1 << 30) + 1, 1)], ids=str)
def test_a_row_or_column_that_int32_cannot_count_is_refused(shape):
    x = torch.empty(shape, device="meta")
    for call in (
        lambda: kernels.pool_pair(x, 1),
        lambda: kernels.pool_pair_backward(x, x, x, 1),
        lambda: kernels.pool(x, False, 1),
        lambda: kernels.pool_backward(x, x, True, 1),
    ):
        with pytest.raises(PartnasError, match="too large for the Triton kernels"):
            call()
    kernels._check("pool", torch.empty((1, 2, 1 << 30, 1 << 29), device="meta"), 1)


def test_opcheck(device):
    x, stride = random_map((1, 3, 2, 3)).to(device), 2
    gradients = [g.to(device) for g in gradients_of(x, stride)]
    with use_backend("triton"):
        pool_pair(x, stride)
    operators = torch.ops.partnas_triton
    torch.library.opcheck(operators.pool_pair, (x.clone().requires_grad_(), stride))
    torch.library.opcheck(operators.pool_pair_backward, (*gradients, x, stride))
    for takes_max in (True, False):
        torch.library.opcheck(operators.pool, (x.clone().requires_grad_(), takes_max, stride))
        torch.library.opcheck(operators.pool_backward, (gradients[0], x, takes_max, stride))
