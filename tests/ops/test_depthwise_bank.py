import pytest
import torch
import torch.distributed as dist
from bank_cases import EIGHT, EPS, FOUR, NAN, PROLOGUES, Case, check, distance, expected
from fvcore.nn import FlopCountAnalysis
from native_cpu import INSTRUCTION_SETS, implementation
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from partnas.ops import fvcore_handles
from partnas.ops.depthwise_bank import depthwise_bank, flops
from partnas.ops.norm_sum import norm_stats

# (B, C, H, W): one vector of channels and several, counts that fill no vector, maps smaller than the filters.
SHAPES = [
    (2, 16, 7, 9),
    (1, 3, 1, 1),
    (1, 17, 3, 130),
    (3, 64, 2, 5),
    (2, 1, 1, 7),
    (1, 576, 5, 4),
    (1, 40, 8, 1),
    (4, 8, 33, 16),
    (0, 16, 5, 5),
]


pytestmark = pytest.mark.usefixtures("filled_memory", "one_thread")


def compare(*arguments, **keywords):
    case, exact, bounds = expected(*arguments, **keywords)
    maps, gradients = case.run(case.call, case.leaves(case.dtype))
    check(case, [*maps, *gradients], exact, bounds)


def test_fresh_memory_is_nan():
    assert torch.empty_strided((64,), (1,)).isnan().all()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("prologue", PROLOGUES)
def test_oracle_is_the_definition(prologue, stride):
    case = Case((2, 3, 5, 6), FOUR, stride, prologue)
    slow = case.run(case.slow, case.leaves(torch.float64))
    oracle = case.run(case.plain, case.leaves(torch.float64))
    torch.testing.assert_close(slow, oracle, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("prologue", PROLOGUES)
def test_maps_and_gradients(served_by, prologue, shape, stride):
    compare(shape, FOUR if shape[1] > 100 else EIGHT, stride, prologue)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("channels", [16, 24])
def test_maps_larger_than_the_caches_are_those_of_their_images(name, channels):
    case = Case((8, channels, 60, 130), FOUR, 1, "relu")
    x, *others = case.leaves(torch.float32)
    with torch.no_grad(), implementation(name):
        maps = case.call(x, *others)
        assert sum(z.nbytes for z in maps) > 4 << 20
        for index in range(8):
            alone = case.call(x[index : index + 1], *others)
            assert sum(one.nbytes for one in alone) < 4 << 20
            assert all(torch.equal(z[index : index + 1], one) for z, one in zip(maps, alone, strict=True))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("width", [2, 3, 6, 11, 12, 14, 15, 17, 24, 31])
def test_widths(served_by, width, stride):
    compare((1, 16, 4, width), FOUR, stride, "relu")


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("height", [2, 3, 9, 10, 40])
def test_heights(served_by, height, stride):
    compare((2, 16, height, 3), FOUR, stride, "norm relu")


@pytest.mark.parametrize("channels", [2, 4, 5, 8, 9, 15, 16, 20, 31, 32, 33])
def test_channels(served_by, channels):
    compare((2, channels, 5, 6), FOUR, 1, "norm affine relu")


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", FOUR, ids=str)
@pytest.mark.parametrize("count", [1, 3])
def test_banks_of_one_kind(served_by, count, kernel, stride):
    compare((2, 16, 11, 10), (kernel,) * count, stride, "relu")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("prologue", ["relu", "norm", "affine relu", "norm affine relu"])
@pytest.mark.parametrize(
    ("shape", "stride"), [((2, 17, 7, 9), 1), ((2, 17, 7, 9), 2), ((1, 3, 4, 20), 1), ((1, 8, 33, 35), 1)]
)
def test_dtypes(served_by, dtype, prologue, shape, stride):
    compare(shape, FOUR, stride, prologue, dtype)


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (7, 1), (3, 3)])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_filters_outside_the_search_space(served_by, kernel, dilation, stride):
    compare((2, 8, 9, 10), ((kernel, dilation), (3, 1)), stride, "relu")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_maps_with_float32_parameters(served_by, dtype):
    case, exact, bounds = expected((2, 16, 9, 8), FOUR, 1, "norm affine relu", dtype)
    x, *parameters = case.leaves(torch.float64)
    leaves = [t.detach().to(torch.float32 if i else dtype).requires_grad_() for i, t in enumerate([x, *parameters])]
    maps, gradients = case.run(case.call, leaves)
    assert all(gradient.dtype == torch.float32 for gradient in gradients[1:])
    check(case, [value.to(dtype) for value in (*maps, *gradients)], exact, bounds)


def in_box(x):
    """The same values inside a larger tensor of NaN: whoever reads outside the view finds one."""
    box = x.new_full([2 * size + 2 for size in x.shape], NAN)
    view = box[tuple(slice(1, 2 * size + 1, 2) for size in x.shape)]
    return view.copy_(x)


LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels-last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "every second": in_box,
    "columns inside": lambda x: x.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2),
    "batch inside": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "one sample for all": lambda x: x[:1].expand_as(x),
    "one pixel for all": lambda x: x[:, :, :1, :1].expand_as(x),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_everything(served_by, layout):
    case = Case((3, 19, 6, 9), FOUR, 1, "affine relu")
    arrange = LAYOUTS[layout]
    leaves, upstream = case.leaves(torch.float32), [arrange(g.float()) for g in case.upstream]
    leaves[0] = arrange(leaves[0].detach()).requires_grad_()
    for i in range(1, 5):
        leaves[i] = leaves[i].detach().permute(2, 1, 0).contiguous().permute(2, 1, 0).requires_grad_()
    same = [leaf.detach().clone(memory_format=torch.contiguous_format).requires_grad_() for leaf in leaves]
    maps, gradients = case.run(case.call, leaves, upstream)
    other_maps, other_gradients = case.run(case.call, same, [g.contiguous() for g in upstream])
    for value, other in zip((*maps, *gradients), (*other_maps, *other_gradients), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-5)


def test_maps_and_gradient_are_channels_last(served_by):
    x = torch.randn(2, 6, 5, 7, requires_grad=True)
    maps = depthwise_bank(x, [torch.randn(6, 3, 3)] * 2, dilations=[1, 2])
    (gradient,) = torch.autograd.grad(maps, x, [torch.randn_like(z) for z in maps])
    assert all(z.is_contiguous(memory_format=torch.channels_last) for z in (*maps, gradient))
    with torch.no_grad():
        maps = depthwise_bank(x, [torch.randn(6, 3, 3)], dilations=[1], stride=2)
    assert maps[0].is_contiguous(memory_format=torch.channels_last)


def test_inputs_stay_as_they_are(served_by):
    case = Case((2, 16, 6, 6), FOUR, 1, "norm affine relu")
    leaves = case.leaves(torch.float32)
    leaves[0] = leaves[0].detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    upstream = [g.float().contiguous(memory_format=torch.channels_last) for g in case.upstream]
    before = [t.detach().clone() for t in (*leaves, *upstream)]
    case.run(case.call, leaves, upstream)
    assert all(torch.equal(a, b) for a, b in zip((*leaves, *upstream), before, strict=True))


def test_without_gradients_the_maps_are_the_same(served_by):
    case = Case((2, 16, 9, 11), FOUR, 1, "norm relu")
    leaves = case.leaves(torch.float32)
    with torch.no_grad():
        found = case.call(*leaves)
    assert all(torch.equal(a, b) for a, b in zip(found, case.call(*leaves), strict=True))
    assert not any(z.requires_grad for z in found)


@pytest.mark.parametrize("prologue", ["relu", "affine relu", "norm relu", "norm affine"])
@pytest.mark.parametrize("wanted", ["x", "weights", "one weight", "scale", "shift", "x and shift"])
def test_only_the_gradients_asked_for(served_by, prologue, wanted):
    case, exact, bounds = expected((2, 16, 7, 9), FOUR, 1, prologue)
    names = case.names()
    picked = {
        "x": ["x"],
        "weights": [name for name in names if name.startswith("weight")],
        "one weight": ["weight 2"],
        "scale": ["scale"],
        "shift": ["shift"],
        "x and shift": ["x", "shift"],
    }[wanted]
    if not set(picked) <= set(names):
        pytest.skip("no affine map")
    leaves = [leaf.requires_grad_(name in picked) for name, leaf in zip(names, case.leaves(torch.float32), strict=True)]
    maps = case.call(*leaves)
    torch.autograd.backward(maps, [g.float() for g in case.upstream])
    for index, (name, leaf) in enumerate(zip(names, leaves, strict=True)):
        if name not in picked:
            assert leaf.grad is None, name
            continue
        assert distance(leaf.grad, exact[4 + index]) <= bounds[4 + index], name


class Recorder(TorchDispatchMode):
    """Notes every operator that runs, with its arguments and what it returned."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        self.calls.append((function.name(), args, found))
        return found

    def named(self, name):
        return [(args, found) for called, args, found in self.calls if called == name]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("wanted", ["x", "weights", "weight 1"])
def test_no_work_for_what_was_not_asked(served_by, wanted, stride):
    case = Case((2, 16, 12, 12), FOUR, stride, "relu")
    leaves = [
        leaf.requires_grad_(name.startswith(wanted.rstrip("s")) if wanted != "weight 1" else name == wanted)
        for name, leaf in zip(case.names(), case.leaves(torch.float32), strict=True)
    ]
    maps = case.call(*leaves)
    with Recorder() as recorder:
        torch.autograd.backward(maps, [g.float() for g in case.upstream])
    if served_by == "reference":
        masks = [args[-1] for args, _ in recorder.named("aten::convolution_backward")]
        convolutions = recorder.named("aten::convolution")
        if wanted == "x":
            assert len(masks) + len(convolutions) == 4
            assert all(mask == [True, False, False] for mask in masks)
        else:
            assert masks == [[False, True, False]] * (4 if wanted == "weights" else 1)
            assert not convolutions
    else:
        ((_, found),) = recorder.named("partnas::depthwise_bank_backward")
        assert [t.shape for t in found] == [leaf.shape for leaf in leaves if leaf.requires_grad]


@pytest.mark.parametrize("stride", [1, 2])
def test_maps_that_nobody_reads_give_no_gradient(served_by, stride):
    case = Case((2, 16, 6, 8), FOUR, stride, "norm relu")
    leaves, again = case.leaves(torch.float32), case.leaves(torch.float32)
    upstream = [g.float() for g in case.upstream]
    torch.autograd.backward(case.call(*leaves)[1:3], upstream[1:3])
    zeros = [torch.zeros_like(g) if f in (0, 3) else g for f, g in enumerate(upstream)]
    torch.autograd.backward(case.call(*again), zeros)
    for name, leaf, other in zip(case.names(), leaves, again, strict=True):
        if name in ("weight 0", "weight 3"):
            assert leaf.grad is None or not leaf.grad.any()
        else:
            torch.testing.assert_close(leaf.grad, other.grad, rtol=1e-6, atol=1e-6, msg=name)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("prologue", PROLOGUES)
def test_gradcheck(served_by, prologue, stride):
    case = Case((2, 3, 4, 5), ((3, 2), (5, 1)), stride, prologue, torch.float64)
    assert gradcheck(case.call, case.leaves(torch.float64), eps=1e-6, atol=1e-6, fast_mode=True)


@pytest.fixture
def alone(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("wanted", ["everything", "scale", "weight"])
def test_synchronised_over_one_rank_is_the_same(served_by, alone, wanted):
    case, exact, bounds = expected((2, 16, 7, 9), FOUR, 1, "norm affine relu")
    leaves = [
        leaf.requires_grad_(wanted == "everything" or name.startswith(wanted))
        for name, leaf in zip(case.names(), case.leaves(torch.float32), strict=True)
    ]
    maps = case.call(*leaves, synchronised=True)
    torch.autograd.backward(maps, [g.float() for g in case.upstream])
    for leaf, right, bound in zip(leaves, exact[4:], bounds[4:], strict=True):
        assert (leaf.grad is not None) == leaf.requires_grad
        if leaf.requires_grad:
            assert distance(leaf.grad, right) <= bound


def test_no_second_derivative(served_by):
    x = torch.randn(1, 4, 5, 5, requires_grad=True)
    (z,) = depthwise_bank(x, [torch.randn(4, 3, 3)], dilations=[1])
    (gradient,) = torch.autograd.grad(z.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_runs_are_identical(served_by, count):
    case = Case((3, 40, 33, 35), FOUR, 1, "norm affine relu")
    torch.set_num_threads(count)
    first, *others = (case.run(case.call, case.leaves(torch.float32)) for _ in range(3))
    for other in others:
        for a, b in zip((*first[0], *first[1]), (*other[0], *other[1]), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(3, 20, 33, 18), (1, 16, 70, 40), (1, 40, 4, 4)], ids=str)
def test_several_threads(served_by, shape, stride):
    torch.set_num_threads(3)
    compare(shape, FOUR, stride, "norm affine relu")


def test_nan_and_infinity_stay_where_they_are(served_by):
    x = torch.zeros(1, 16, 20, 20)
    x[0, 3, 10, 10] = NAN
    x[0, 5, 2, 2] = float("inf")
    maps = depthwise_bank(x, [torch.ones(16, 3, 3), torch.ones(16, 5, 5)], dilations=[1, 2])
    for z, reach in zip(maps, (1, 4), strict=True):
        assert z.isnan().sum() == (3 if reach == 1 else 5) ** 2
        assert z[0, 3, 10 - reach, 10 + reach].isnan()
        assert z[0, 5].isinf().sum() == (9 if reach == 1 else 16)


def test_an_empty_bank(served_by):
    assert depthwise_bank(torch.randn(1, 4, 5, 5), [], dilations=[]) == []


def test_wrong_arguments_are_told():
    x, weight = torch.randn(1, 4, 5, 5), torch.randn(4, 3, 3)
    with pytest.raises(ValueError, match="1 filters but 2 dilations"):
        depthwise_bank(x, [weight], dilations=[1, 2])
    with pytest.raises(ValueError, match="both of scale and shift"):
        depthwise_bank(x, [weight], dilations=[1], scale=torch.ones(4))


class Bank(torch.nn.Module):
    def __init__(self, case, plain):
        super().__init__()
        self.weights = torch.nn.ParameterList(w.float() for w in case.weights)
        self.apply_to = case.plain if plain else case.call

    def forward(self, x):
        return self.apply_to(x, *self.weights)


@pytest.mark.parametrize("stride", [1, 2])
def test_counted_as_the_convolutions_are(served_by, stride):
    case = Case((2, 5, 19, 20), EIGHT, stride, "relu")

    def count(plain):
        analysis = FlopCountAnalysis(Bank(case, plain), case.x.float()).set_op_handle(**fvcore_handles())
        with torch.no_grad():
            return analysis.unsupported_ops_warnings(False).tracer_warnings("none").total()

    assert count(plain=False) == count(plain=True) == flops(case.x.shape, [size for size, _ in EIGHT], stride)


@pytest.mark.skipif(not INSTRUCTION_SETS, reason="the native operators were not built")
class TestNative:
    def arguments(self, prologue, stride, dtype):
        case = Case((2, 19, 7, 6), FOUR, stride, prologue, dtype)
        weights = [w.float() for w in case.weights]
        affine = [None if t is None else t.float() for t in (case.scale, case.shift)]
        x = case.x.to(dtype)
        statistics = norm_stats([x])[0] if case.norm else None
        gradients = [g.to(dtype) for g in case.upstream]
        return gradients, (x, weights, case.dilations, stride, statistics, *affine, EPS, case.relu)

    @pytest.mark.parametrize(
        ("prologue", "stride", "dtype"),
        [
            ("bare", 1, torch.float32),
            ("norm affine relu", 2, torch.float32),
            ("norm relu", 1, torch.bfloat16),
            ("affine relu", 1, torch.float16),
        ],
    )
    def test_opcheck(self, prologue, stride, dtype):
        gradients, arguments = self.arguments(prologue, stride, dtype)
        affine = int("affine" in prologue)
        torch.library.opcheck(torch.ops.partnas.depthwise_bank, arguments)
        backward = torch.ops.partnas.depthwise_bank_backward
        torch.library.opcheck(backward, (gradients, *arguments, [1, affine, affine, 1, 0, 1, 1], False))
        torch.library.opcheck(backward, (gradients, *arguments, [0, 0, affine, 0, 0, 0, 1], True))

    def test_wrong_arguments_are_told(self):
        gradients, (x, weights, *rest) = self.arguments("relu", 1, torch.float32)
        forward, backward = torch.ops.partnas.depthwise_bank, torch.ops.partnas.depthwise_bank_backward
        for message, call in {
            "x must be": lambda: forward(x[0], weights, *rest),
            "weight 1 must be": lambda: forward(x, [weights[0], weights[1][:3], *weights[2:]], *rest),
            "must be float32": lambda: forward(x, [w.double() for w in weights], *rest),
            "reference backend": lambda: forward(x.double(), weights, *rest),
            "4 filters but 1 dilations": lambda: forward(x, weights, [1], *rest[1:]),
            "stride must be": lambda: forward(x, weights, rest[0], 3, *rest[2:]),
            "not like its map": lambda: backward([g[:1] for g in gradients], x, weights, *rest, [1] * 7, False),
            "needs for": lambda: backward(gradients, x, weights, *rest, [1], False),
        }.items():
            with pytest.raises(RuntimeError, match=message):
                call()
