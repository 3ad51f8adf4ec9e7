import pytest
import torch
from map_cases import EMPTY, LAYOUTS, assert_as_exact_as, random_map

from partnas.errors import PartnasError
from partnas.kernels import norm_sum as kernels
from partnas.ops import use_backend
from partnas.ops.norm_sum import norm_stats, norm_sum, reference, reference_stats

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 1, 1, 1), (2, 3, 7, 9), (1, 16, 3, 130), (1, 18, 2, 5), (1, 33, 4, 1), (1, 128, 7, 3)]
EPS = 1e-5


def case(shape, maps, identities, dtype=torch.float32, layout="channels_last"):
    seed = 10 * maps + identities
    generator = torch.Generator().manual_seed(seed)
    return (
        [random_map(shape, dtype, layout, seed + i) for i in range(maps)],
        torch.randn(maps, shape[1], generator=generator),
        [random_map(shape, dtype, layout, seed + maps + i) for i in range(identities)],
        torch.randn(identities, generator=generator),
        torch.randn(shape[1], generator=generator),
        random_map(shape, dtype, layout, seed + 99),
    )


def run(function, inputs, needs=(True,) * 5):
    """Output and gradients of maps, weights, identities, identity weights and shift, in one list."""
    *groups, gradient = inputs
    leaves = [
        [t.detach().requires_grad_(need) for t in (group if isinstance(group, list) else [group])]
        for group, need in zip(groups, needs, strict=True)
    ]
    output = function(leaves[0], leaves[1][0], leaves[2], leaves[3][0], leaves[4][0])
    output.backward(gradient)
    return [output.detach().cpu(), *(None if t.grad is None else t.grad.cpu() for group in leaves for t in group)]


def moved(inputs, to):
    return [[t.to(to) for t in group] if isinstance(group, list) else group.to(to) for group in inputs]


def theirs(maps, weights, identities, identity_weights, shift):
    statistics = reference_stats(maps) if maps else weights.new_zeros(0, 2, shift.shape[0])
    return reference(maps, statistics, weights, identities, identity_weights, EPS, shift)


def ours(maps, weights, identities, identity_weights, shift):
    statistics = norm_stats(maps) if maps else weights.new_zeros(0, 2, shift.shape[0])
    return norm_sum(maps, statistics, weights, identities, identity_weights, shift=shift, eps=EPS)


def size_of(t):
    return t.abs().max().item() if t.numel() else 0.0


def check(inputs, device):
    maps, weights, *_, gradient = inputs
    with use_backend("triton"):
        found = run(ours, moved(inputs, device))
    exact = run(theirs, moved(inputs, torch.float64))
    plain = run(theirs, moved(inputs, torch.float32))
    # Terms that cancel where a map hardly varies: weight * map / deviation, weight * gradient / deviation.
    steepest = 1.0
    if maps and gradient.numel():
        variances = reference_stats([z.double() for z in maps])[:, 1]
        steepest = max(1.0, size_of(weights) * (variances + EPS).rsqrt().max().item())
    sizes = {"output": steepest * max(map(size_of, (*maps, *inputs[2])))}
    for index, (mine, right, plain_one) in enumerate(zip(found, exact, plain, strict=True)):
        if right is None:  # the weights of no maps, of no identities
            continue
        is_number = mine.dim() < 4
        size = size_of(gradient) * (gradient.numel() ** 0.5 if is_number else 1) * steepest
        plain_one = plain_one if is_number else plain_one.to(gradient.dtype)
        assert_as_exact_as(mine, right, plain_one, scale=size if index else sizes["output"])
    assert found[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sum_and_gradients(device, shape):
    check(case(shape, 2, 1), device)


@pytest.mark.parametrize(("maps", "identities"), [(1, 0), (0, 2), (24, 2), (31, 3)])
def test_counts(device, maps, identities):
    """The last are more than one launch takes, each group of a reduction fewer than that of a sum."""
    check(case((2, 16, 3, 5), maps, identities), device)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(device, dtype):
    check(case((2, 17, 3, 5), 2, 1, dtype), device)


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("shape", [(2, 1, 3, 5), (1, 33, 5, 3)])
def test_odd_shapes_in_half_precision(device, shape, dtype):
    check(case(shape, 1, 1, dtype), device)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides(device, layout):
    check(case((2, 5, 3, 4), 2, 1, torch.float32, layout), device)


@pytest.mark.parametrize("shape", EMPTY)
def test_empty(device, shape):
    inputs = case(shape, 2, 1)
    with use_backend("triton"):
        assert torch.equal(norm_stats([z.to(device) for z in inputs[0]]).cpu(), torch.zeros(2, 2, 16))
        output, *gradients = run(ours, moved(inputs, device))
    assert output.shape == shape
    assert all(not g.numel() or not g.any() for g in gradients)


def stats(maps, device):
    with use_backend("triton"):
        return norm_stats([z.to(device) for z in maps]).cpu()


@pytest.mark.parametrize("dtype", DTYPES)
def test_statistics_of_maps_of_several_sizes(device, dtype):
    """The largest has rows of several programs, and a last one that is not full."""
    shapes = [(2, 16, 7, 9), (1, 16, 2, 5), (0, 16, 3, 3), (3, 16, 41, 51)]
    maps = [random_map(shape, dtype, seed=seed) for seed, shape in enumerate(shapes)]
    found = stats(maps, device)
    assert found.dtype == torch.float32
    assert not found[2].any()
    for k in (0, 1, 3):
        exact = reference_stats([maps[k].double()])
        assert_as_exact_as(found[k : k + 1], exact, reference_stats([maps[k].float()]))


@pytest.mark.parametrize("channels", [1, 3, 128, 192])
def test_statistics_of_any_channels(device, channels):
    maps = [random_map((1, channels, 9, 131), seed=3)]
    exact = reference_stats([z.double() for z in maps])
    assert_as_exact_as(stats(maps, device), exact, reference_stats(maps))


@pytest.mark.parametrize("outlier", [False, True])
def test_large_mean_and_small_variance(device, outlier):
    z = 1e3 + random_map((3, 16, 40, 50), seed=3)
    if outlier:
        z[0, :, 0, 0] = -1e3  # the pivot
    exact = reference_stats([z.double()])
    assert ((stats([z], device).double() - exact).abs() <= 2e-6 * exact.abs()).all()


@pytest.mark.parametrize("value", [0.0, 0.1, 1e3 + 0.1, -1e6])
def test_constant_maps_have_no_variance(device, value):
    mean, variance = stats([torch.full((1, 17, 11, 13), value)], device)[0]
    assert (mean == torch.tensor(value)).all()
    assert (variance == 0).all()


@pytest.mark.filterwarnings("ignore:invalid value")
def test_nan_and_infinity_stay_in_their_channel(device):
    z = random_map((1, 17, 3, 5))
    z[0, 3, 2, 2] = float("nan")
    z[0, 5, 0, 0] = float("inf")  # the pivot
    z[0, 7, 1, 0] = -float("inf")
    with use_backend("triton"):
        output = norm_sum([z.to(device)], norm_stats([z.to(device)]), torch.ones(1, device=device)).cpu()
    spoilt = output.isnan().flatten(2).all(2).all(0)
    assert spoilt.nonzero().flatten().tolist() == [3, 5, 7]
    assert output[:, [c for c in range(17) if c not in (3, 5, 7)]].isfinite().all()


def test_gradients_that_are_wanted(device):
    """Some maps and identities in any order, as the schema has it; each the same as all of them give."""
    maps, weights, identities, identity_weights, _, gradient = moved(case((1, 16, 3, 5), 3, 2), device)
    with use_backend("triton"):
        statistics = norm_stats(maps)
    operators = torch.ops.partnas_triton
    sums, dots = operators.norm_sum_reduce(gradient, maps, statistics, identities)
    assert sums.shape == (4, 16)
    assert dots.shape == (2,)
    arguments = (gradient, maps, statistics, weights, sums / 15, identity_weights)
    everything = operators.norm_sum_backward(*arguments, [0, 1, 2], [0, 1], EPS)
    some = operators.norm_sum_backward(*arguments, [2, 0], [1], EPS)
    assert all(torch.equal(everything[place], value) for place, value in zip((2, 0, 4), some, strict=True))
    assert operators.norm_sum_backward(*arguments, [], [], EPS) == []


@pytest.mark.parametrize("needs", [(True, False, True, False, False), (False, True, False, True, True)])
def test_only_what_is_asked(device, needs):
    inputs = moved(case((1, 16, 3, 5), 2, 2), device)
    with use_backend("triton"):
        everything = run(ours, inputs)
        some = run(ours, inputs, needs)
    for mine, right, needed in zip(some[1:], everything[1:], [needs[i] for i in (0, 0, 1, 2, 2, 3, 4)], strict=True):
        assert (mine is not None) == needed
        if needed:
            torch.testing.assert_close(mine, right, rtol=1e-6, atol=1e-6)


def test_run_to_run_identical(device):
    inputs = moved(case((2, 16, 30, 40), 2, 1), device)
    with use_backend("triton"):
        assert all(torch.equal(a, b) for a, b in zip(run(ours, inputs), run(ours, inputs), strict=True))


def test_what_it_cannot_do_is_refused(device):
    z = random_map((2, 3, 4, 5)).to(device)
    with use_backend("triton"):
        statistics = norm_stats([z])
    none, one, operators = torch.ones(0, device=device), torch.ones(1, 3, device=device), torch.ops.partnas_triton
    for maps, weights, message in [([z, z], one, "statistics"), ([z], one[0, :1], "weight"), ([], one, "at least one")]:
        with pytest.raises(PartnasError, match=message):
            operators.norm_sum(maps, statistics, weights, [], none, None, EPS)
    with pytest.raises(PartnasError, match="one shape"):
        operators.norm_sum([z], statistics, one, [z[:, :, 1:]], one[0, :1], None, EPS)
    with pytest.raises(PartnasError, match="dtype"):
        operators.norm_sum([z], statistics, one, [z.half()], one[0, :1], None, EPS)
    with pytest.raises(PartnasError, match="shift"):
        operators.norm_sum([z], statistics, one, [], none, torch.ones(2), EPS)
    with pytest.raises(PartnasError, match="no map 1"):
        operators.norm_sum_backward(z, [z], statistics, one, one.expand(2, 3), none, [1], [], EPS)
    with pytest.raises(PartnasError, match="no identity 0"):
        operators.norm_sum_backward(z, [z], statistics, one, one.expand(2, 3), none, [], [0], EPS)
    flat = z.flatten()
    for call in (
        lambda: operators.norm_stats([flat]),
        lambda: operators.norm_stats([z[0]]),
        lambda: operators.norm_sum([flat], statistics, one, [], none, None, EPS),
        lambda: operators.norm_sum_reduce(flat, [flat], statistics, []),
        lambda: operators.norm_sum_backward(flat, [flat], statistics, one, one.expand(2, 3), none, [0], [], EPS),
    ):
        with pytest.raises(PartnasError, match=r"maps must be \(B, C, H, W\)"):
            call()


def test_channels_that_int32_cannot_place_are_refused():
    channels = (1 << 18) + 1
    z = torch.empty((1, channels, 1, 1), device="meta")
    statistics, one, none = (torch.empty(size, device="meta") for size in ((1, 2, channels), (1, channels), 0))
    for call in (
        lambda: kernels.norm_stats([z]),
        lambda: kernels.norm_sum([z], statistics, one, [], none, None, EPS),
        lambda: kernels.norm_sum_reduce(z, [z], statistics, []),
        lambda: kernels.norm_sum_backward(z, [z], statistics, one, one.expand(2, -1), none, [0], [], EPS),
    ):
        with pytest.raises(PartnasError, match=f"maps of {channels} channels are too wide"):
            call()


def test_opcheck(device):
    maps, weights, identities, identity_weights, shift, gradient = moved(case((1, 3, 2, 2), 2, 1), device)
    with use_backend("triton"):
        statistics = norm_stats(maps)
    operators = torch.ops.partnas_triton
    torch.library.opcheck(operators.norm_stats, (maps,))
    torch.library.opcheck(operators.norm_sum, (maps, statistics, weights, identities, identity_weights, shift, EPS))
    reduced = (gradient, maps, statistics, identities)
    torch.library.opcheck(operators.norm_sum_reduce, reduced)
    means = operators.norm_sum_reduce(*reduced)[0] / 4
    torch.library.opcheck(
        operators.norm_sum_backward, (gradient, maps, statistics, weights, means, identity_weights, [1], [0], EPS)
    )
