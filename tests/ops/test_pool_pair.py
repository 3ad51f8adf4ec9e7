import pytest
import torch
import torch.nn.functional as F
from map_cases import (
    DTYPES,
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

from partnas.ops.norm_sum import norm_stats
from partnas.ops.pool_pair import avg_pool, max_pool, pool_pair


@pytest.fixture(params=backends("pool_pair"))
def backend(request):
    with running_on(request.param) as name:
        yield name


def naive(x, stride):
    """Window by window; of equal values the first is the maximum, and the last NaN is (PyTorch's choice)."""
    batch, channels, height, width = x.shape
    largest, average = [], []
    for top in range(-1, height - 1, stride):
        for left in range(-1, width - 1, stride):
            window = x[:, :, max(top, 0) : top + 3, max(left, 0) : left + 3].flatten(2)
            values = window.detach()
            chosen = torch.zeros(batch, channels, dtype=torch.long)
            best = values[:, :, 0]
            for tap in range(1, values.shape[2]):
                better = (values[:, :, tap] > best) | values[:, :, tap].isnan()
                chosen[better] = tap
                best = torch.where(better, values[:, :, tap], best)
            largest.append(window.gather(2, chosen[:, :, None])[:, :, 0])
            average.append(window.sum(2) / window.shape[2])
    size = (batch, channels, -(-height // stride), -(-width // stride))
    return torch.stack(largest, 2).view(size), torch.stack(average, 2).view(size)


def usual(x, stride):
    return F.max_pool2d(x, 3, stride, padding=1), F.avg_pool2d(x, 3, stride, padding=1, count_include_pad=False)


def run(function, x, gradients, dtype=None):
    leaf = x.detach().to(dtype or x.dtype).requires_grad_()
    results = function(leaf)
    torch.autograd.backward(results[:2], [g.to(results[0].dtype) for g in gradients])
    return [r.detach() for r in results], leaf.grad


def gradients_of(x, stride):
    shape = (*x.shape[:2], -(-x.shape[2] // stride), -(-x.shape[3] // stride))
    return [random_map(shape, x.dtype, seed=seed) for seed in (11, 12)]


def check(x, stride):
    gradients = gradients_of(x, stride)
    oracle = naive if x.shape[2] * x.shape[3] < 500 else usual
    exact, exact_gradient = run(lambda t: oracle(t, stride), x, gradients, torch.float64)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    plain, plain_gradient = run(lambda t: usual(t, stride), x, gradients, wide)
    (max_map, avg_map, statistics), gradient = run(lambda t: pool_pair(t, stride), x, gradients)
    assert max_map.dtype == x.dtype
    assert torch.equal(max_map.double(), exact[0])
    assert_as_exact_as(avg_map, exact[1], plain[1].to(x.dtype), scale=x.abs().max().item())
    assert_as_exact_as(
        gradient, exact_gradient, plain_gradient.to(x.dtype), scale=sum(g.abs().max().item() for g in gradients)
    )
    measured = norm_stats([max_map, avg_map])
    assert statistics.dtype == measured.dtype
    torch.testing.assert_close(statistics, measured, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [*SHAPES, (1, 33, 1, 6), (2, 5, 6, 1), (2, 32, 8, 8)])
def test_maps_statistics_and_gradient(backend, shape, stride):
    check(random_map(shape), stride)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_and_dtypes(backend, dtype, layout, stride):
    check(random_map((3, 17, 7, 9), dtype, layout), stride)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_of_any_strides(backend, layout):
    x = random_map((3, 17, 7, 9))
    gradients = [random_map(x.shape, torch.float32, layout, seed) for seed in (3, 4)]
    _, found = run(lambda t: pool_pair(t, 1), x, gradients)
    _, exact = run(lambda t: naive(t, 1), x, gradients, torch.float64)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_empty(backend, stride):
    shape = (0, 16, 7, 9)
    x = random_map(shape).requires_grad_()
    max_map, avg_map, statistics = pool_pair(x, stride)
    assert max_map.shape == avg_map.shape == (*shape[:2], -(-shape[2] // stride), -(-shape[3] // stride))
    assert torch.equal(statistics, torch.zeros(2, 2, 16))
    (max_map.sum() + avg_map.sum()).backward()
    assert x.grad.shape == shape


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("levels", [1, 2, 4])
def test_the_first_of_equal_values_gets_the_gradient(backend, stride, dtype, levels):
    generator = torch.Generator().manual_seed(levels)
    x = torch.randint(levels, (2, 17, 7, 9), generator=generator).to(dtype).to(memory_format=torch.channels_last)
    # Small integers add up without rounding.
    largest, average = gradients_of(x, stride)
    gradients = [largest.round(), torch.zeros_like(average)]
    _, found = run(lambda t: pool_pair(t, stride), x, gradients)
    for function in (naive, usual):
        _, exact = run(lambda t, function=function: function(t, stride), x, gradients, torch.float64)
        assert torch.equal(found.double(), exact)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(2, 17, 7, 9), (1, 64, 5, 6)])
def test_nan_and_infinity_as_pytorch(backend, stride, shape):
    x = random_map(shape)
    kind = torch.randint(12, shape, generator=torch.Generator().manual_seed(1))
    for number, value in enumerate((float("nan"), float("inf"), -float("inf"))):
        x[kind == number] = value
    x[0, 1] = -float("inf")
    gradients = gradients_of(x, stride)
    results, gradient = run(lambda t: pool_pair(t, stride), x, gradients)
    expected, expected_gradient = run(lambda t: usual(t, stride), x, gradients)
    torch.testing.assert_close(results[0], expected[0], equal_nan=True, rtol=0, atol=0)
    torch.testing.assert_close(results[1], expected[1], equal_nan=True)
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradient_of_one_map_alone(backend, which, stride):
    x = random_map((2, 17, 7, 9)).requires_grad_()
    gradient = gradients_of(x, stride)[which]
    pool_pair(x, stride)[which].backward(gradient)
    exact = x.detach().double().requires_grad_()
    naive(exact, stride)[which].backward(gradient.double())
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [*SHAPES, (0, 16, 7, 9)])
def test_one_pool_alone_is_that_of_the_pair(backend, shape, stride, layout):
    for dtype in DTYPES:
        x = random_map(shape, dtype, layout)
        for which, pool in enumerate((max_pool, avg_pool)):
            alone, paired = (x.clone().requires_grad_() for _ in range(2))
            gradient = gradients_of(x, stride)[which]
            with poisoned_memory():
                map_alone = pool(alone, stride)
                map_alone.backward(gradient)
            map_paired = pool_pair(paired, stride)[which]
            map_paired.backward(gradient)
            assert torch.equal(map_alone, map_paired)
            assert torch.equal(alone.grad, paired.grad)


@pytest.mark.parametrize("pool", [max_pool, avg_pool])
@pytest.mark.parametrize("stride", [1, 2])
def test_one_pool_with_nan_and_infinity_as_pytorch(backend, stride, pool):
    x = random_map((2, 17, 7, 9))
    x[0, :5, 2:4, 3] = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0, -1.0])[:, None]
    expected = usual(x, stride)[0 if pool is max_pool else 1]
    torch.testing.assert_close(pool(x, stride), expected, equal_nan=True)


@pytest.mark.parametrize("pool", [max_pool, avg_pool])
def test_gradcheck_of_one_pool(backend, pool):
    x = random_map((1, 2, 5, 4), torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: pool(t, 2), [x])


@only_native
def test_the_average_keeps_nothing():
    x = random_map((2, 16, 7, 9)).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()), lambda _: None):
        avg_pool(x)
    assert not kept


def test_statistics_carry_no_gradient(backend):
    assert not pool_pair(random_map((2, 3, 4, 5)).requires_grad_())[2].requires_grad


def test_results_are_channels_last(backend):
    x = random_map((2, 16, 7, 9)).requires_grad_()
    max_map, avg_map, _ = pool_pair(x)
    (max_map + avg_map).sum().backward()
    for result in (max_map, avg_map, x.grad):
        assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("stride", [1, 2])
def test_gradcheck(backend, stride):
    x = random_map((1, 2, 5, 4), torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: pool_pair(t, stride)[:2], [x])


def test_no_gradient_is_formed_that_nobody_asked_for(backend):
    x = random_map((2, 16, 7, 9))
    allocations = Allocations(x.numel())
    with allocations:
        results = pool_pair(x)
    assert not any(r.requires_grad for r in results)
    assert not any("backward" in name for name in allocations.names)


@pytest.mark.parametrize("stride", [1, 2])
def test_run_to_run_identical(backend, stride):
    x = random_map((2, 16, 65, 97))
    gradients = gradients_of(x, stride)
    first, first_gradient = run(lambda t: pool_pair(t, stride), x, gradients)
    for _ in range(3):
        again, again_gradient = run(lambda t: pool_pair(t, stride), x, gradients)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert torch.equal(first_gradient, again_gradient)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_more_threads_give_the_same(name, stride, one_thread):
    x = random_map((2, 16, 65, 97))
    gradients = gradients_of(x, stride)
    with implementation(name):
        alone, gradient_alone = run(lambda t: pool_pair(t, stride), x, gradients)
        torch.set_num_threads(3)
        several, gradient_of_several = run(lambda t: pool_pair(t, stride), x, gradients)
    assert all(torch.equal(a, b) for a, b in zip(alone, several, strict=True))
    assert torch.equal(gradient_alone, gradient_of_several)


@pytest.mark.parametrize("stride", [1, 2])
def test_every_output_is_written(backend, stride):
    for shape in [(3, 17, 7, 9), (1, 130, 3, 5), (2, 16, 3, 3), (2, 16, 65, 97)]:
        x = random_map(shape)
        gradients = gradients_of(x, stride)
        with poisoned_memory():
            results, gradient = run(lambda t: pool_pair(t, stride), x, gradients)
        assert all(r.abs().max() < POISON for r in (*results, gradient))


@only_native
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", INSTRUCTION_SETS[:-1])
def test_lesser_instruction_sets(name, stride):
    with implementation(name):
        for shape in SHAPES:
            check(random_map(shape), stride)
        for dtype in (torch.bfloat16, torch.float16):
            check(random_map((3, 17, 7, 9), dtype), stride)
        test_the_first_of_equal_values_gets_the_gradient("native", stride, torch.float32, 2)
        test_one_pool_alone_is_that_of_the_pair("native", (3, 17, 7, 9), stride, "channels_last")
        test_nan_and_infinity_as_pytorch("native", stride, (2, 17, 7, 9))


@only_native
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
def test_opcheck(layout, dtype, stride):
    x = random_map((2, 3, 4, 5), dtype, layout)
    gradients = gradients_of(x, stride)
    torch.library.opcheck(torch.ops.partnas.pool_pair, (x.clone().requires_grad_(), stride))
    torch.library.opcheck(torch.ops.partnas.pool_pair_backward, (*gradients, x, stride))
    for takes_max in (True, False):
        torch.library.opcheck(torch.ops.partnas.pool, (x.clone().requires_grad_(), takes_max, stride))
        torch.library.opcheck(torch.ops.partnas.pool_backward, (gradients[0], x, takes_max, stride))


def test_flops_are_those_of_the_reference(backend):
    for function in (lambda x: pool_pair(x, 2)[:2], max_pool, avg_pool):
        assert counted(function, random_map((2, 16, 4, 4))) == 0
