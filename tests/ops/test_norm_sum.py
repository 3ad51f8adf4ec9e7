import threading

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

from partnas.ops import native
from partnas.ops import norm_sum as module
from partnas.ops.norm_sum import norm_stats, norm_sum

EPS = 1e-5


@pytest.fixture(params=backends("norm_sum"))
def backend(request):
    with running_on(request.param) as name:
        yield name


def naive_stats(maps):
    means = [z.sum((0, 2, 3)) / (z.numel() // z.shape[1]) for z in maps]
    variances = [((z - m[:, None, None]) ** 2).sum((0, 2, 3)) for z, m in zip(maps, means, strict=True)]
    return torch.stack(
        [torch.stack([m, v * z.shape[1] / z.numel()]) for z, m, v in zip(maps, means, variances, strict=True)]
    )


def usual_stats(maps, backend):
    """The statistics whose error is the measure: the reference is held to PyTorch's batch norm, which adds up float32
    in a row, native code to two passes over each map."""
    if backend == "native":
        return naive_stats(maps)
    return torch.stack([torch.stack(torch.batch_norm_update_stats(z, None, None, 0.0)) for z in maps])


def naive(maps, weights, identities, identity_weights, eps=EPS):
    total = 0
    for z, (mean, variance), weight in zip(maps, naive_stats(maps) if maps else (), weights, strict=True):
        total = total + weight * (z - mean[:, None, None]) / (variance + eps).sqrt()[:, None, None]
    for x, weight in zip(identities, identity_weights, strict=True):
        total = total + weight * x
    return total


def usual(maps, weights, identities, identity_weights, eps, backend):
    """The same in PyTorch whose error is the measure, see :func:`usual_stats`."""
    if backend == "native":
        return naive(maps, weights, identities, identity_weights, eps)
    total = 0
    for z, weight in zip(maps, weights, strict=True):
        affine = weight.expand(z.shape[1]).contiguous(), z.new_zeros(z.shape[1])
        total = total + torch.native_batch_norm(z, *affine, None, None, True, 0.0, eps)[0]
    for x, weight in zip(identities, identity_weights, strict=True):
        total = total + weight * x
    return total


def case(shape, maps, identities, dtype=torch.float32, layout="channels_last"):
    seed = 10 * maps + identities
    generator = torch.Generator().manual_seed(seed)
    accumulator = torch.float64 if dtype == torch.float64 else torch.float32
    return (
        [random_map(shape, dtype, layout, seed + i) for i in range(maps)],
        torch.randn(maps, generator=generator).to(accumulator),
        [random_map(shape, dtype, layout, seed + maps + i) for i in range(identities)],
        torch.randn(identities, generator=generator).to(accumulator),
        random_map(shape, dtype, "channels_last", seed + 99),
    )


def run(function, inputs, dtype, needs=(True, True, True, True)):
    """Output and gradients (maps, weights, identities, identity weights) with everything in one dtype, or as it is."""
    maps, weights, identities, identity_weights, gradient = inputs
    groups = [maps, [weights], identities, [identity_weights]]
    leaves = [
        [t.detach().to(dtype or t.dtype).requires_grad_(need) for t in group]
        for group, need in zip(groups, needs, strict=True)
    ]
    output = function(leaves[0], leaves[1][0], leaves[2], leaves[3][0])
    if output.requires_grad:
        output.backward(gradient.to(output.dtype))
    return output.detach(), [[t.grad for t in group] for group in leaves]


def ours(maps, weights, identities, identity_weights, eps=EPS):
    statistics = norm_stats(maps) if maps else weights.new_zeros(0, 2, identities[0].shape[1])
    return norm_sum(maps, statistics, weights, identities, identity_weights, eps=eps)


def check(backend, inputs, eps=EPS):
    maps, weights, identities, _, gradient = inputs
    dtype = gradient.dtype
    found, gradients = run(lambda *a: ours(*a, eps=eps), inputs, None)
    exact, exact_gradients = run(lambda *a: naive(*a, eps=eps), inputs, torch.float64)
    plain, plain_gradients = run(
        lambda *a: usual(*a, eps=eps, backend=backend),
        inputs,
        torch.float64 if dtype == torch.float64 else torch.float32,
    )
    if backend == "reference" and identities and plain.dtype == torch.float32:
        flat = [t.float().permute(0, 2, 3, 1).reshape(-1) for t in (gradient, *identities)]
        plain_gradients[3] = [torch.stack([torch.dot(flat[0], x) for x in flat[1:]])]
    # Terms that cancel where a map hardly varies: weight * map / deviation, weight * gradient / deviation.
    steepest = 0.0
    if maps:
        steepest = _size(weights) * (naive_stats([z.double() for z in maps])[:, 1] + eps).rsqrt().max().item()
    assert_as_exact_as(found, exact, plain.to(dtype), scale=steepest * max(map(_size, maps), default=0))
    for group, name in enumerate(("maps", "weights", "identities", "identity weights")):
        for mine, right, plain_one in zip(
            gradients[group], exact_gradients[group], plain_gradients[group], strict=True
        ):
            if right is None:  # the weights of no identities
                continue
            assert mine is not None, name
            wanted = inputs[group].dtype if isinstance(inputs[group], torch.Tensor) else dtype
            size = _size(gradient) * gradient.numel() ** 0.5 if "weights" in name else steepest * _size(gradient)
            assert_as_exact_as(mine, right, plain_one.to(wanted), scale=size)


def _size(t):
    return t.abs().max().item() if t.numel() else 0.0


@pytest.mark.parametrize("shape", SHAPES)
def test_sum_and_gradients(backend, shape):
    check(backend, case(shape, 3, 2))


@pytest.mark.parametrize(("maps", "identities"), [(1, 0), (2, 1), (16, 3), (5, 0), (0, 2)])
def test_counts(backend, maps, identities):
    check(backend, case((3, 17, 7, 9), maps, identities))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_and_dtypes(backend, layout, dtype):
    check(backend, case((3, 16, 7, 9), 3, 1, dtype, layout))
    check(backend, case((2, 3, 5, 9), 2, 1, dtype, layout))


def test_gradient_of_any_strides(backend):
    for layout in LAYOUTS:
        inputs = case((3, 17, 7, 9), 3, 1)
        check(backend, (*inputs[:4], random_map((3, 17, 7, 9), torch.float32, layout, 7)))


@pytest.mark.parametrize("shape", EMPTY)
def test_empty(backend, shape):
    maps, weights, identities, identity_weights, gradient = case(shape, 2, 1)
    assert torch.equal(norm_stats(maps), torch.zeros(2, 2, 16))
    output, gradients = run(ours, (maps, weights, identities, identity_weights, gradient), None)
    assert output.shape == shape
    assert all(g.shape == shape for g in gradients[0] + gradients[2])
    assert torch.equal(gradients[1][0], torch.zeros(2))
    assert torch.equal(gradients[3][0], torch.zeros(1))


def test_result_is_channels_last(backend):
    maps, weights, *_ = case((2, 16, 7, 9), 2, 0)
    leaves = [z.requires_grad_() for z in maps]
    output = norm_sum(leaves, norm_stats(maps), weights)
    output.sum().backward()
    assert output.is_contiguous(memory_format=torch.channels_last)
    assert leaves[0].grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("eps", [1e-8, 1e-5, 0.3])
def test_eps(backend, eps):
    check(backend, case((2, 17, 7, 9), 2, 1), eps)


def test_zero_and_negative_weights(backend):
    maps, weights, identities, identity_weights, gradient = case((2, 17, 7, 9), 4, 2)
    weights[:] = torch.tensor([0.0, -1.5, 0.25, 0.0])
    identity_weights[:] = torch.tensor([0.0, -2.0])
    check(backend, (maps, weights, identities, identity_weights, gradient))


def test_the_same_map_several_times(backend):
    z, other = random_map((2, 17, 7, 9), seed=1), random_map((2, 17, 7, 9), seed=2)
    weights = torch.tensor([0.5, -0.25, 1.0])
    exact = z.double().requires_grad_()
    expected = naive([exact, exact, other.double()], weights.double(), [exact], torch.ones(1).double())
    expected.backward(other.double())
    leaf = z.clone().requires_grad_()
    found = norm_sum([leaf, leaf, other], norm_stats([z, z, other]), weights, [leaf], torch.ones(1))
    found.backward(other)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(leaf.grad.double(), exact.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_batch_norm(backend, dtype):
    maps, weights, _, _, gradient = case((3, 17, 7, 9), 3, 0, dtype)
    tight = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 2e-5, "atol": 2e-5}
    batch_norm = [z.clone().requires_grad_() for z in maps]
    expected = sum(
        w * F.batch_norm(z, None, None, training=True, eps=EPS) for w, z in zip(weights, batch_norm, strict=True)
    )
    expected.backward(gradient)
    leaves = [z.clone().requires_grad_() for z in maps]
    found = norm_sum(leaves, norm_stats(leaves), weights)
    found.backward(gradient)
    torch.testing.assert_close(found, expected, **tight)
    for left, right in zip(leaves, batch_norm, strict=True):
        torch.testing.assert_close(left.grad, right.grad, **tight)
    mean, variance = torch.zeros(17, dtype=dtype), torch.zeros(17, dtype=dtype)
    F.batch_norm(maps[0], mean, variance, training=True, momentum=1.0)
    count = maps[0].numel() // 17
    statistics = norm_stats(maps)
    torch.testing.assert_close(statistics[0, 0], mean, **tight)
    torch.testing.assert_close(statistics[0, 1], variance * (count - 1) / count, **tight)
    assert not statistics.requires_grad


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_statistics(backend, shape, layout):
    maps = [random_map(shape, torch.float32, layout, seed) for seed in range(2)]
    exact = naive_stats([z.double() for z in maps])
    assert_as_exact_as(norm_stats(maps), exact, usual_stats(maps, backend))


def test_statistics_of_maps_of_several_sizes(backend):
    maps = [random_map((2, 17, 7, 9)), random_map((1, 17, 2, 5)), random_map((3, 17, 40, 90))]
    found = norm_stats(maps)
    for z, statistics in zip(maps, found, strict=True):
        torch.testing.assert_close(statistics.double(), naive_stats([z.double()])[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_of_halves_are_float32(backend, dtype):
    maps = [random_map((3, 17, 20, 30), dtype)]
    found = norm_stats(maps)
    assert found.dtype == torch.float32
    assert_as_exact_as(found, naive_stats([maps[0].double()]), usual_stats([maps[0].float()], backend))


@pytest.mark.parametrize("shape", [(3, 17, 40, 50), (1, 64, 7, 9), (4, 3, 2, 5)])
@pytest.mark.parametrize("outlier", [False, True])
def test_large_mean_and_small_variance(backend, shape, outlier):
    z = 1e3 + random_map(shape, seed=3)
    if outlier:
        z[0, :, 0, 0] = -1e3
    exact = naive_stats([z.double()])[0]
    measure = usual_stats([z], backend)[0]
    for mine, right, plain in zip(norm_stats([z])[0], exact, measure, strict=True):
        assert_as_exact_as(mine, right, plain)
        if backend == "native":
            assert ((mine.double() - right).abs() <= 2e-6 * right.abs()).all()


@pytest.mark.parametrize("value", [0.0, 0.1, 1e3 + 0.1, -1e6])
def test_constant_maps_have_no_variance(backend, value):
    z = torch.full((3, 17, 41, 50), value).to(memory_format=torch.channels_last)
    mean, variance = norm_stats([z])[0]
    rounding = abs(value) * torch.finfo(torch.float32).eps
    if backend == "reference":
        rounding = max(rounding, (usual_stats([z], backend)[0, 0] - value).abs().max().item())
    assert ((mean - z[0, :, 0, 0]).abs() <= rounding).all()
    assert (variance <= 1.01 * rounding**2).all()
    leaf = z.requires_grad_()
    output = norm_sum([leaf], norm_stats([leaf]), torch.ones(1))
    output.backward(random_map(z.shape))
    assert torch.isfinite(output).all()
    assert torch.isfinite(leaf.grad).all()


def test_nan_and_infinity_stay_in_their_channel(backend):
    z = random_map((2, 17, 7, 9))
    z[0, 3, 2, 2] = float("nan")
    z[1, 5, 0, 0] = float("inf")
    output = norm_sum([z], norm_stats([z]), torch.ones(1))
    spoilt = output.isnan().flatten(2).all(2).all(0)
    assert spoilt.nonzero().flatten().tolist() == [3, 5]
    assert output[:, [c for c in range(17) if c not in (3, 5)]].isfinite().all()


def affine_case(shape=(3, 17, 7, 9), dtype=torch.float32, maps=2, identities=1):
    """Maps with a weight for each channel, identities, a shift, and a gradient."""
    maps, _, identities, identity_weights, gradient = case(shape, maps, identities, dtype)
    generator = torch.Generator().manual_seed(5)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    weights = torch.randn(len(maps), shape[1], generator=generator).to(wide)
    return maps, weights, identities, identity_weights, torch.randn(shape[1], generator=generator).to(wide), gradient


def batch_norms(maps, weights, identities, identity_weights, shift, running=None):
    """The same by PyTorch's batch norm, in training mode or with running statistics ``(K, 2, C)``."""
    total = shift[:, None, None]
    for k, z in enumerate(maps):
        mean, variance = (None, None) if running is None else running[k]
        total = total + F.batch_norm(z, mean, variance, weights[k], None, training=running is None, eps=EPS)
    for x, weight in zip(identities, identity_weights, strict=True):
        total = total + weight * x
    return total


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*SHAPES, EMPTY[0]], ids=str)
def test_weights_for_each_channel_and_a_shift(backend, shape, dtype, fixed):
    inputs = affine_case(shape, dtype)
    running = torch.stack([torch.linspace(-1, 1, shape[1]), torch.linspace(0.5, 2, shape[1])]).expand(2, 2, -1)

    def gradients(function, dtype):
        maps, weights, identities, identity_weights, shift, gradient = (
            [t.detach().to(dtype or t.dtype).requires_grad_() for t in value] if isinstance(value, list)
            else value.detach().to(dtype or value.dtype).requires_grad_()
            for value in inputs
        )  # fmt: skip
        output = function(maps, weights, identities, identity_weights, shift)
        leaves = [*maps, weights, *identities, identity_weights, shift]
        return [output.detach(), *torch.autograd.grad(output, leaves, gradient.detach())]

    def ours(maps, weights, identities, identity_weights, shift):
        statistics = running.to(weights) if fixed else norm_stats(maps)
        return norm_sum(maps, statistics, weights, identities, identity_weights, shift=shift, fixed=fixed)

    def theirs(*leaves):
        return batch_norms(*leaves, running=running.double() if fixed else None)

    if inputs[-1].numel() // shape[1] < 2 and not fixed:
        pytest.skip("batch norm in training mode needs two values; the other tests have this shape")
    found = gradients(ours, None)
    exact = gradients(theirs, torch.float64)
    size = max(inputs[-1].numel() / shape[1], 1) ** 0.5
    steepest = (
        (naive_stats([z.double() for z in inputs[0]])[:, 1] + EPS).rsqrt().max().item() if found[0].numel() else 1
    )
    for mine, right in zip(found, exact, strict=True):
        assert mine.shape == right.shape
        tolerance = 20 * torch.finfo(mine.dtype).eps * max(steepest, 1) * size
        if mine.dtype == torch.float32 and dtype != torch.float32:
            tolerance = 20 * torch.finfo(torch.float32).eps * max(steepest, 1) * size
        scale = max(_size(right), 1)
        assert _size(mine.double() - right) <= tolerance * scale


def test_a_shift_alone_may_be_wanted(backend):
    maps, weights, identities, identity_weights, shift, gradient = affine_case()
    shift.requires_grad_()
    output = norm_sum(maps, norm_stats(maps), weights, identities, identity_weights, shift=shift)
    output.backward(gradient)
    torch.testing.assert_close(shift.grad, gradient.sum((0, 2, 3)), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("fixed", [False, True])
def test_gradcheck_of_weights_for_each_channel(backend, fixed):
    maps, weights, identities, identity_weights, shift, _ = affine_case((2, 3, 3, 2), torch.float64)
    running = torch.rand(2, 2, 3, dtype=torch.float64) + 0.5

    def function(first, second, weights, identity, identity_weights, shift):
        statistics = running if fixed else norm_stats([first, second])
        return norm_sum([first, second], statistics, weights, [identity], identity_weights, shift=shift, fixed=fixed)

    leaves = [t.requires_grad_() for t in (*maps, weights, *identities, identity_weights, shift)]
    assert torch.autograd.gradcheck(function, leaves)


def test_gradcheck(backend):
    for shape, identities in [((2, 3, 3, 2), 2), ((1, 2, 1, 3), 0), ((1, 1, 1, 1), 1)]:
        maps, weights, skips, identity_weights, _ = case(shape, 2, identities, torch.float64)
        leaves = [t.requires_grad_() for t in (*maps, weights, *skips, identity_weights)]
        count = len(maps)

        def function(*tensors, count=count):
            return ours(list(tensors[:count]), tensors[count], list(tensors[count + 1 : -1]), tensors[-1])

        assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize("needs", [(True, False, True, False), (False, True, False, True), (False, False, True, True)])
def test_only_what_is_asked(backend, needs):
    inputs = case((3, 17, 7, 9), 3, 2)
    _, everything = run(ours, inputs, None)
    _, some = run(ours, inputs, None, needs)
    for group, needed in enumerate(needs):
        for mine, right in zip(some[group], everything[group], strict=True):
            assert (mine is not None) == needed
            if needed:
                torch.testing.assert_close(mine, right, rtol=1e-6, atol=1e-6)


def _backward_of(needs, which_map=None):
    maps, weights, identities, identity_weights, gradient = case((3, 17, 7, 9), 3, 2)
    for group, need in zip((maps, [weights], identities, [identity_weights]), needs, strict=True):
        for index, t in enumerate(group):
            t.requires_grad_(need and (which_map is None or index == which_map))
    output = ours(maps, weights, identities, identity_weights)
    allocations = Allocations(output.numel())
    with allocations:
        output.backward(gradient)
    return allocations


def test_weights_alone_form_no_map_gradient(backend):
    assert _backward_of((False, True, False, True)).count == 0


def test_one_map_gradient_alone(backend):
    assert _backward_of((True, False, False, False), which_map=1).count == 1


def test_weight_step_forms_no_weight_gradient(backend):
    both = _backward_of((True, True, True, True))
    without = _backward_of((True, False, True, False))
    assert len(without.names) < len(both.names)
    # Dot products with the identities are wanted by nobody there.
    assert "aten::dot" not in without.names
    assert without.count == both.count == 5


def test_run_to_run_identical(backend):
    inputs = case((2, 16, 65, 97), 3, 2)
    first = run(ours, inputs, None)
    for _ in range(3):
        again = run(ours, inputs, None)
        assert torch.equal(first[0], again[0])
        for left, right in zip(first[1], again[1], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_every_output_is_written(backend):
    for shape in [(3, 17, 7, 9), (1, 130, 3, 5), (2, 16, 3, 3), (2, 16, 65, 97)]:
        inputs = case(shape, 3, 2)
        with poisoned_memory():
            output, gradients = run(ours, inputs, None)
        assert output.abs().max() < POISON
        assert all(g.abs().max() < POISON for group in gradients for g in group)


def test_wrong_counts_are_refused(backend):
    z = random_map((2, 3, 4, 4))
    statistics = norm_stats([z])
    for shape in [(1, 2), (1, 3, 5), (1, 2, 4)]:
        with pytest.raises(ValueError, match="statistics must be"):
            norm_sum([torch.ones(2, 5, 3, 3)], torch.ones(shape), torch.ones(1))
    with pytest.raises(ValueError, match="at least one"):
        norm_sum([], statistics[:0], torch.ones(0))
    with pytest.raises(ValueError, match="weight"):
        norm_sum([z], statistics, torch.ones(2))
    with pytest.raises(ValueError, match="weight"):
        norm_sum([z], statistics, torch.ones(1), [z])


class Ranks:
    """Threads that sum over one another as the processes of a group do."""

    def __init__(self, monkeypatch, count):
        self.count, self.local = count, threading.local()
        self.shares, self.barrier = [None] * count, threading.Barrier(count)
        monkeypatch.setattr(module.dist, "all_reduce", self.all_reduce)
        monkeypatch.setattr(module.dist, "get_world_size", lambda: count)

    def all_reduce(self, tensor):
        self.shares[self.local.rank] = tensor.clone()
        self.barrier.wait(20)
        tensor.copy_(sum(self.shares))
        self.barrier.wait(20)

    def run(self, function):
        results = [None] * self.count

        def work(rank):
            self.local.rank = rank
            results[rank] = function(rank)

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


def test_synchronised_ranks_do_what_one_process_does(backend, monkeypatch):
    maps, weights, identities, identity_weights, gradient = case((4, 17, 7, 9), 3, 1)
    maps[1] = maps[1] + 3 * torch.arange(4.0)[:, None, None, None]
    whole = (maps, weights, identities, identity_weights, gradient)
    expected, expected_gradients = run(ours, whole, None)
    expected_statistics = norm_stats(maps)

    def share(rank):
        part = slice(2 * rank, 2 * rank + 2)
        inputs = ([z[part] for z in maps], weights, [x[part] for x in identities], identity_weights, gradient[part])
        statistics = norm_stats(inputs[0], synchronised=True)

        def synchronised(z, w, x, v):
            return norm_sum(z, statistics, w, x, v, synchronised=True)

        return statistics, *run(synchronised, inputs, None)

    ranks = Ranks(monkeypatch, 2).run(share)
    for statistics, _, _ in ranks:
        torch.testing.assert_close(statistics, expected_statistics, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.cat([output for _, output, _ in ranks]), expected, rtol=1e-4, atol=1e-5)
    for group in (0, 2):
        for index, right in enumerate(expected_gradients[group]):
            mine = torch.cat([gradients[group][index] for _, _, gradients in ranks])
            torch.testing.assert_close(mine, right, rtol=1e-4, atol=1e-5)
    for group in (1, 3):
        total = sum(gradients[group][0] for _, _, gradients in ranks)
        torch.testing.assert_close(total, expected_gradients[group][0], rtol=1e-4, atol=1e-3)


@pytest.mark.skipif(not native.loaded(), reason="not built")
def test_torch_threads_do_not_change_the_result(backend):
    inputs = case((2, 16, 65, 97), 3, 2)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = run(ours, inputs, None)
        torch.set_num_threads(4)
        check(backend, inputs)
        several = run(ours, inputs, None)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(alone[0], several[0], rtol=1e-5, atol=1e-5)


def test_more_gradients_than_the_caches_hold(backend):
    check(backend, case((2, 16, 65, 97), 24, 2))


@only_native
@pytest.mark.parametrize("name", INSTRUCTION_SETS[:-1])
def test_lesser_instruction_sets(name):
    with implementation(name):
        for shape in SHAPES:
            check("native", case(shape, 3, 1))
        for dtype in (torch.bfloat16, torch.float16):
            check("native", case((3, 17, 7, 9), 3, 1, dtype))
        check("native", case((2, 16, 65, 97), 24, 2))


@only_native
@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype, layout):
    maps, weights, identities, identity_weights, gradient = case((2, 3, 4, 5), 2, 1, dtype, layout)
    operators = torch.ops.partnas
    statistics = norm_stats(maps)
    torch.library.opcheck(operators.norm_stats, (maps,))
    weights = weights[:, None].expand(-1, 3)
    for shift in (None, torch.ones(3)):
        torch.library.opcheck(operators.norm_sum, (maps, statistics, weights, identities, identity_weights, shift, EPS))
    reduced = (gradient, maps, statistics, identities)
    torch.library.opcheck(operators.norm_sum_reduce, reduced)
    means = operators.norm_sum_reduce(*reduced)[0] / 40
    torch.library.opcheck(
        operators.norm_sum_backward, (gradient, maps, statistics, weights, means, identity_weights, [1], [0], EPS)
    )


@only_native
def test_native_code_refuses_what_it_cannot_do():
    z = random_map((2, 3, 4, 5))
    statistics = norm_stats([z])
    none, one = torch.ones(0), torch.ones(1, 3)
    for maps, weights, message in [
        ([z, z], one, "statistics"),
        ([z], torch.ones(2, 3), "weight"),
        ([z], torch.ones(1), "weight"),
        ([z.double()], one, "float64"),
        ([z.int()], one, "dtype"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            torch.ops.partnas.norm_sum(maps, statistics, weights, [], none, None, EPS)
    with pytest.raises(RuntimeError, match="one shape"):
        torch.ops.partnas.norm_sum([z], statistics, one, [z[:, :, 1:]], torch.ones(1), None, EPS)
    with pytest.raises(RuntimeError, match="shift"):
        torch.ops.partnas.norm_sum([z], statistics, one, [], none, torch.ones(2), EPS)
    with pytest.raises(RuntimeError, match="no map 1"):
        torch.ops.partnas.norm_sum_backward(z, [z], statistics, one, torch.ones(2, 3), none, [1], [], EPS)


def test_flops_are_those_of_the_reference(backend):
    maps, weights, identities, identity_weights, _ = case((2, 16, 4, 4), 2, 1)
    assert (
        counted(lambda a, b, x: ours([a, b], weights, [x], identity_weights), *maps, *identities)
        == 2 * 2 * maps[0].numel()
    )
