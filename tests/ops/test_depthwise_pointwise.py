import pytest
import torch
from map_cases import Allocations, backends, random_map, running_on

from partnas.ops.depthwise_bank import depthwise_bank
from partnas.ops.depthwise_pointwise import depthwise_pointwise
from partnas.ops.norm_sum import norm_stats
from partnas.ops.pointwise import pointwise


@pytest.fixture(params=backends("depthwise_bank"))
def backend(request):
    with running_on(request.param) as name:
        yield name


CASES = {
    "one source, many filters": (1, (3, 5, 3, 5), (1, 1, 2, 2), 1, False),
    "stride 2": (1, (3, 5, 3, 5), (1, 1, 2, 2), 2, False),
    "a filter for each source, normalised": (3, (3, 5, 3), (1, 1, 1), 1, True),
    "two filters for each source": (2, (3, 5, 5, 3), (1, 2, 2, 1), 2, True),
}


class Case:
    def __init__(self, name, dtype=torch.float32, channels=(5, 7), batch=2):
        self.count, sizes, self.dilations, self.stride, self.is_normed = CASES[name]
        torch.manual_seed(0)
        shape = (batch, channels[0], 7, 9)
        self.sources = [random_map(shape, dtype, seed=s).requires_grad_() for s in range(self.count)]
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        self.filters = [torch.randn(channels[0], k, k, dtype=wide).requires_grad_() for k in sizes]
        self.weight = torch.randn(len(sizes), channels[1], channels[0], dtype=wide).requires_grad_()
        self.leaves = [*self.sources, *self.filters, self.weight]
        self.statistics = norm_stats([x.detach() for x in self.sources]) if self.is_normed else None
        sides = [-(-side // self.stride) for side in shape[2:]]
        self.upstream = [random_map((batch, channels[1], *sides), dtype, seed=50 + f) for f in range(len(sizes))]

    def fused(self, recompute=True):
        return depthwise_pointwise(
            self.sources, self.filters, self.weight, dilations=self.dilations, stride=self.stride,
            statistics=self.statistics, recompute=recompute,
        )  # fmt: skip

    def in_turn(self):
        share = len(self.filters) // self.count
        maps = []
        for s, x in enumerate(self.sources):
            own = slice(s * share, (s + 1) * share)
            measured = self.statistics[s] if self.is_normed else None
            maps += depthwise_bank(
                x, self.filters[own], dilations=self.dilations[own], stride=self.stride, statistics=measured
            )
        return pointwise(maps, self.weight)


@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_does_what_the_two_operators_do(backend, name, dtype, recompute):
    case = Case(name, dtype)
    found, expected = case.fused(recompute), case.in_turn()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert all(z.is_contiguous(memory_format=torch.channels_last) for z in found)
    gradients = [torch.autograd.grad(maps, case.leaves, case.upstream) for maps in (found, expected)]
    for mine, right in zip(*gradients, strict=True):
        assert mine.dtype == right.dtype
        assert torch.equal(mine, right)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(case.fused(recompute), expected, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_an_empty_batch(backend, name):
    case = Case(name, batch=0)
    found = case.fused()
    assert all(z.shape == g.shape for z, g in zip(found, case.upstream, strict=True))
    gradients = torch.autograd.grad(found, case.leaves, case.upstream)
    assert not any(g.any() for g in gradients[case.count :])


@pytest.mark.parametrize("name", CASES)
def test_gradcheck(backend, name):
    case = Case(name, torch.float64, (2, 3))

    def function(*leaves):
        sources, filters = leaves[: case.count], leaves[case.count : -1]
        statistics = norm_stats(list(sources)) if case.is_normed else None
        return tuple(
            depthwise_pointwise(
                sources, filters, leaves[-1], dilations=case.dilations, stride=case.stride, statistics=statistics
            )
        )

    assert torch.autograd.gradcheck(function, case.leaves)


@pytest.mark.parametrize("recompute", [True, False])
def test_what_is_kept(backend, recompute):
    case = Case("one source, many filters")
    kept = case.fused(recompute)[0].grad_fn.saved_tensors
    inputs = {t.data_ptr() for t in case.leaves}
    beyond = [t for t in kept if t is not None and t.data_ptr() not in inputs]
    assert len(beyond) == (0 if recompute else len(case.filters))


def test_nothing_is_formed_anew_where_no_weight_wants_it(backend):
    """The alpha step."""
    case = Case("one source, many filters")
    for leaf in (*case.filters, case.weight):
        leaf.requires_grad_(False)
    maps = case.fused()
    with Allocations(0) as recorder:
        torch.autograd.backward(maps, case.upstream)
    assert "partnas::depthwise_bank" not in recorder.names
    assert case.sources[0].grad is not None
    if backend == "reference":
        assert recorder.names.count("aten::mm") == len(case.filters)


@pytest.mark.parametrize("leaf", ["source", "filter", "weight"])
def test_one_gradient_alone(backend, leaf):
    case = Case("two filters for each source")
    place = {"source": 1, "filter": case.count + 2, "weight": -1}[leaf]
    (expected,) = torch.autograd.grad(case.in_turn(), case.leaves[place], case.upstream)
    for other in case.leaves:
        other.requires_grad_(other is case.leaves[place])
    torch.autograd.backward(case.fused(), case.upstream)
    assert torch.equal(case.leaves[place].grad, expected)


def test_counts_that_do_not_match():
    x, filters = random_map((1, 2, 3, 3)), [torch.ones(2, 3, 3)] * 3
    for sources, weight, dilations in [
        ([], torch.ones(3, 2, 2), [1] * 3),
        ([x, x], torch.ones(3, 2, 2), [1] * 3),
        ([x], torch.ones(2, 2, 2), [1] * 3),
        ([x], torch.ones(3, 2, 2), [1] * 2),
    ]:
        with pytest.raises(ValueError, match="do not match"):
            depthwise_pointwise(sources, filters, weight, dilations=dilations)
