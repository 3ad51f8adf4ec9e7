import pytest
import torch
from map_cases import DTYPES, Allocations, counted, only_native, random_map
from native_cpu import INSTRUCTION_SETS, implementation

from partnas.ops.depthwise_bank import depthwise_bank
from partnas.ops.depthwise_pointwise import depthwise_pointwise
from partnas.ops.norm_sum import norm_stats
from partnas.ops.pointwise import pointwise

pytestmark = pytest.mark.usefixtures("filled_memory", "one_thread")
CASES = {
    "one source, many filters": (1, (3, 5, 3, 5), (1, 1, 2, 2), 1, False),
    "stride 2": (1, (3, 5, 3, 5), (1, 1, 2, 2), 2, False),
    "a filter for each source, normalised": (3, (3, 5, 3), (1, 1, 1), 1, True),
    "two filters for each source": (2, (3, 5, 5, 3), (1, 2, 2, 1), 2, True),
}


class Case:
    def __init__(self, name, dtype=torch.float32, channels=(5, 7), size=(2, 7, 9), layout="channels_last"):
        self.count, sizes, self.dilations, self.stride, self.is_normed = CASES[name]
        torch.manual_seed(0)
        batch, *sides = size
        shape = (batch, channels[0], *sides)
        self.sources = [random_map(shape, dtype, layout, seed=s).requires_grad_() for s in range(self.count)]
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        self.filters = [torch.randn(channels[0], k, k, dtype=wide).requires_grad_() for k in sizes]
        self.weight = torch.randn(len(sizes), channels[1], channels[0], dtype=wide).requires_grad_()
        self.leaves = [*self.sources, *self.filters, self.weight]
        self.statistics = norm_stats([x.detach() for x in self.sources]) if self.is_normed else None
        sides = [-(-side // self.stride) for side in shape[2:]]
        shape = (batch, channels[1], *sides)
        self.upstream = [random_map(shape, dtype, layout, seed=50 + f) for f in range(len(sizes))]

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


def compare(case, recompute=True):
    found, expected = case.fused(recompute), case.in_turn()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert all(z.is_contiguous(memory_format=torch.channels_last) for z in found)
    gradients = [torch.autograd.grad(maps, case.leaves, case.upstream) for maps in (found, expected)]
    for mine, right in zip(*gradients, strict=True):
        assert mine.dtype == right.dtype
    *others, (mine, right) = zip(*gradients, strict=True)
    assert all(torch.equal(a, b) for a, b in others)
    # The sums over the pixels are cut elsewhere.
    torch.testing.assert_close(mine, right, rtol=1e-5, atol=1e-5 * float(right.abs().max()))
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(case.fused(recompute), expected, strict=True))


@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_does_what_the_two_operators_do(served_by, name, dtype, recompute):
    compare(Case(name, dtype), recompute)


@pytest.mark.parametrize("size", [(1, 1, 1), (3, 1, 130), (2, 61, 40), (5, 33, 67)], ids=str)
@pytest.mark.parametrize("channels", [(1, 1), (3, 17), (16, 16), (64, 24), (20, 33)], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_blocks_of_rows(served_by, name, channels, size):
    torch.set_num_threads(3)
    compare(Case(name, torch.float32, channels, size))


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_maps_larger_than_the_caches(name):
    case = Case("one source, many filters", channels=(16, 16), size=(2, 128, 130))
    assert sum(g.nbytes for g in case.upstream) > 4 << 20
    with implementation(name):
        compare(case)


@pytest.mark.parametrize("layout", ["contiguous", "sliced", "expanded"])
def test_any_strides(served_by, layout):
    compare(Case("two filters for each source", layout=layout))


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_results_do_not_depend_on_the_threads(name):
    case, found = Case("one source, many filters", torch.float32, (16, 24), (3, 40, 41)), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        with implementation(name):
            found.append([*case.fused(), *torch.autograd.grad(case.fused(), case.leaves, case.upstream)])
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_counted_as_the_two_operators_are(served_by, name):
    case = Case(name)
    for leaf in case.leaves:
        leaf.requires_grad_(False)

    def count(function):
        with torch.no_grad():
            return counted(function, *case.sources)

    def fused(*sources):
        case.sources = sources
        return case.fused()

    def in_turn(*sources):
        case.sources = sources
        return case.in_turn()

    assert count(fused) == count(in_turn) > 0


@only_native
@pytest.mark.parametrize(("channels", "in_caches"), [((64, 64), True), ((65, 8), False), ((8, 65), False)])
def test_only_maps_of_few_channels_stay_in_the_caches(channels, in_caches):
    case = Case("one source, many filters", torch.float32, channels)
    with Allocations(0) as recorder:
        torch.autograd.backward(case.fused(), case.upstream)
    expected = {"partnas::depthwise_pointwise", "partnas::depthwise_pointwise_backward"} if in_caches else set()
    assert {name for name in recorder.names if "depthwise_pointwise" in name} == expected


@pytest.mark.parametrize("name", CASES)
def test_an_empty_batch(served_by, name):
    case = Case(name, size=(0, 7, 9))
    found = case.fused()
    assert all(z.shape == g.shape for z, g in zip(found, case.upstream, strict=True))
    gradients = torch.autograd.grad(found, case.leaves, case.upstream)
    assert not any(g.any() for g in gradients[case.count :])


@pytest.mark.parametrize("name", CASES)
def test_gradcheck(served_by, name):
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
def test_what_is_kept(served_by, recompute):
    case = Case("one source, many filters")
    kept = case.fused(recompute)[0].grad_fn.saved_tensors
    inputs = {t.data_ptr() for t in case.leaves}
    beyond = [t for t in kept if t is not None and t.data_ptr() not in inputs]
    assert len(beyond) == (0 if recompute else len(case.filters))


def test_nothing_is_formed_anew_where_no_weight_wants_it(served_by):
    """The alpha step."""
    case = Case("one source, many filters")
    for leaf in (*case.filters, case.weight):
        leaf.requires_grad_(False)
    maps = case.fused()
    with Allocations(0) as recorder:
        torch.autograd.backward(maps, case.upstream)
    assert "partnas::depthwise_bank" not in recorder.names
    assert case.sources[0].grad is not None
    if served_by == "reference":
        assert recorder.names.count("aten::mm") == len(case.filters)


@pytest.mark.parametrize("leaf", ["source", "filter", "weight"])
def test_one_gradient_alone(served_by, leaf):
    case = Case("two filters for each source")
    place = {"source": 1, "filter": case.count + 2, "weight": -1}[leaf]
    (expected,) = torch.autograd.grad(case.in_turn(), case.leaves[place], case.upstream)
    for other in case.leaves:
        other.requires_grad_(other is case.leaves[place])
    torch.autograd.backward(case.fused(), case.upstream)
    found = case.leaves[place].grad
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


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


@only_native
class TestNative:
    @pytest.mark.parametrize("dtype", DTYPES[:3])
    @pytest.mark.parametrize("is_normed", [False, True])
    def test_opcheck(self, dtype, is_normed):
        case = Case("one source, many filters", dtype)
        x = case.sources[0].detach()
        statistics = norm_stats([x])[0] if is_normed else None
        filters = [each.detach() for each in case.filters]
        of = (x, filters, case.weight.detach(), list(case.dilations), 1, statistics, 1e-5)
        torch.library.opcheck(torch.ops.partnas.depthwise_pointwise, of)
        for needs in ([1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]):
            torch.library.opcheck(torch.ops.partnas.depthwise_pointwise_backward, (case.upstream, *of, needs))

    def test_wrong_arguments_are_told(self):
        case = Case("one source, many filters")
        x, filters, weight = case.sources[0].detach(), [each.detach() for each in case.filters], case.weight.detach()
        forward, backward = torch.ops.partnas.depthwise_pointwise, torch.ops.partnas.depthwise_pointwise_backward
        rest = ([1, 1, 2, 2], 1, None, 1e-5)
        for message, call in {
            "weight must be .4, C_out, 5": lambda: forward(x, filters, weight[:3], *rest),
            "weight must be float32": lambda: forward(x, filters, weight.double(), *rest),
            "left to the reference|reference backend": lambda: forward(x.double(), filters, weight, *rest),
            "a gradient and needs": lambda: backward(case.upstream, x, filters, weight, *rest, [1, 1]),
            "not like its map": lambda: backward([g[:1] for g in case.upstream], x, filters, weight, *rest, [1] * 4),
        }.items():
            with pytest.raises(RuntimeError, match=message):
                call()
