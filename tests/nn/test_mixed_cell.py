"""The supernet's cells are DARTS' cells: equal outputs and equal gradients of inputs, weights and alphas."""

from fractions import Fraction

import pytest
import torch
from plain_darts import copy_weights, plain_cell, weight_pairs
from torch.utils._python_dispatch import TorchDispatchMode

from partnas.genotype import edge_count
from partnas.nn import mixed_cell
from partnas.nn.layout import CellLayout
from partnas.nn.mixed_cell import MixedCell, Mixing, alphas
from partnas.ops import use_backend
from partnas.ops.maps import whole
from partnas.space import OPERATIONS

HALF, ONE, TWO, FOUR = Fraction(1, 2), Fraction(1), Fraction(2), Fraction(4)

CELLS = {
    "normal": (CellLayout("normal", 6, 4, (5, 9), (ONE, ONE), ONE), (7, 9), (7, 9)),
    "normal after a reduction": (CellLayout("normal", 6, 4, (5, 9), (HALF, ONE), ONE), (13, 9), (7, 5)),
    "reduction": (CellLayout("reduction", 6, 4, (5, 9), (ONE, ONE), HALF), (8, 6), (8, 6)),
    "reduction of odd sides": (CellLayout("reduction", 6, 4, (5, 9), (ONE, ONE), HALF), (7, 9), (7, 9)),
    "reduction after a reduction": (CellLayout("reduction", 6, 4, (5, 9), (HALF, ONE), HALF), (13, 18), (7, 9)),
    "reduction of one pixel": (CellLayout("reduction", 4, 3, (5, 6), (ONE, ONE), HALF), (1, 1), (1, 1)),
    "normal of one pixel": (CellLayout("normal", 4, 3, (5, 6), (ONE, ONE), ONE), (1, 1), (1, 1)),
    "fusion of equal inputs": (CellLayout("fusion", 5, 2, (6, 8), (TWO, TWO), TWO), (3, 5), (3, 5)),
    "fusion after a fusion": (CellLayout("fusion", 5, 3, (6, 8), (FOUR, TWO), FOUR), (3, 2), (6, 4)),
    "fusion after a reduction": (CellLayout("fusion", 5, 1, (6, 8), (ONE, TWO), TWO), (6, 4), (3, 2)),
}

SUBSETS = [
    ("skip_connect",),
    ("none", "skip_connect"),
    ("max_pool_3x3",),
    ("avg_pool_3x3", "none"),
    ("sep_conv_5x5",),
    ("dil_conv_3x3", "skip_connect"),
    ("sep_conv_3x3", "max_pool_3x3"),
    tuple(reversed(OPERATIONS)),
    ("dil_conv_5x5", "sep_conv_5x5", "none", "dil_conv_3x3", "avg_pool_3x3", "sep_conv_3x3", "skip_connect"),
]


class Trial:
    """A mixed cell, its plain form with the same weights, and inputs, all drawn in float64 and cast to ``dtype``."""

    def __init__(self, name, operations=OPERATIONS, dtype=torch.float64, batch=3, seed=0):
        torch.manual_seed(seed)
        layout, *sides = CELLS[name]
        self.layout = layout
        self.mixed = MixedCell(layout, operations).double()
        self.plain = plain_cell(layout, operations).double()
        copy_weights(self.mixed, self.plain)
        self.mixed.to(dtype)
        self.plain.to(dtype)
        self.mixing = Mixing(layout.kind, layout.nodes, operations)
        self.alphas = torch.randn(edge_count(layout.nodes), len(operations), dtype=torch.float64).to(dtype)
        self.inputs = [
            torch.randn(batch, channels, *side, dtype=torch.float64).to(dtype)
            for channels, side in zip(layout.input_channels, sides, strict=True)
        ]
        self.gradient = None

    def run(self, which, needs=("input", "weight", "alpha")):
        """Output and gradients by name of the ``mixed`` or the ``plain`` cell."""
        cell = getattr(self, which)
        cell.zero_grad()
        cell.requires_grad_("weight" in needs)
        inputs = [
            x.clone(memory_format=torch.channels_last if which == "mixed" else torch.contiguous_format)
            .requires_grad_("input" in needs)
            for x in self.inputs
        ]  # fmt: skip
        alpha = self.alphas.clone().requires_grad_("alpha" in needs)
        output = whole(cell(*inputs, self.mixing(alpha) if which == "mixed" else alpha))
        if self.gradient is None:
            self.gradient = torch.randn_like(output, dtype=torch.float64, memory_format=torch.contiguous_format)
        output.backward(self.gradient.to(output))
        found = {"output": output.detach()}
        found |= {f"input {index}": x.grad for index, x in enumerate(inputs)}
        found["alpha"] = alpha.grad
        for name, ours, index, theirs in weight_pairs(self.mixed, self.plain):
            if which == "plain":
                found[f"weight {name}"] = theirs.grad
            else:
                found[f"weight {name}"] = None if ours.grad is None else ours.grad[index].reshape(theirs.shape)
        return found


def worst_error(found, truth):
    """Largest error of a group of tensors, relative to the largest entry of each; NaN counts as infinite."""
    worst = 0.0
    for value, true in zip(found, truth, strict=True):
        error = (value.double() - true).abs().max() / true.abs().max().clamp_min(1e-3)
        worst = max(worst, float(error.nan_to_num(float("inf"))))
    return worst


def assert_equal(found, truth, tolerance=1e-9):
    assert found.keys() == truth.keys()
    for name, true in truth.items():
        assert found[name].shape == true.shape, name
        error = worst_error([found[name]], [true])
        assert error < tolerance, f"{name}: {error}"


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_equals_the_plain_cell_in_float64(name):
    trial = Trial(name)
    assert_equal(trial.run("mixed"), trial.run("plain"))


@pytest.mark.parametrize("name", ["normal", "reduction of odd sides", "fusion after a fusion"])
@pytest.mark.parametrize("operations", SUBSETS, ids=lambda names: f"{len(names)}{names[0]}")
def test_any_list_of_operations_in_any_order(name, operations):
    trial = Trial(name, operations)
    assert_equal(trial.run("mixed"), trial.run("plain"))


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_in_float32_is_as_exact_as_the_plain_cell_in_float32(name):
    double, single = Trial(name), Trial(name, dtype=torch.float32)
    truth = double.run("plain")
    single.gradient = double.gradient
    found, usual = single.run("mixed"), single.run("plain")
    for family in ("output", "input", "alpha", "weight"):
        names = [key for key in truth if key.startswith(family)]
        ours, plain = (
            worst_error([values[key] for key in names], [truth[key] for key in names]) for values in (found, usual)
        )
        assert plain < 1e-3, family
        assert ours <= 4 * plain + 4 * torch.finfo(torch.float32).eps, family


@pytest.mark.parametrize("name", ["normal", "reduction of odd sides", "fusion after a fusion"])
@pytest.mark.parametrize("needs", ["weight", "alpha", "input"])
def test_gradients_that_were_not_asked_for_are_not_formed(name, needs):
    trial = Trial(name)
    whole = trial.run("mixed")
    found = trial.run("mixed", needs=(needs,))
    for key, value in found.items():
        if key == "output" or key.startswith(needs):
            torch.testing.assert_close(value, whole[key], rtol=1e-12, atol=1e-12)
        else:
            assert value is None, key


class Products(TorchDispatchMode):
    """Counts the operations that form a convolution's weight gradient, and those that form an input's."""

    def __init__(self, channels):
        super().__init__()
        self.matrices = {(rows, channels) for rows in (channels, channels // 2, channels - channels // 2)}
        self.weight, self.input = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.convolution_backward.default:
            self.weight += args[-1][1]
            self.input += args[-1][0]
        if function.overloadpacket is torch.ops.aten.mm:
            self.weight += tuple(result.shape) in self.matrices
            self.input += tuple(result.shape) not in self.matrices
        return result


@pytest.mark.parametrize("name", ["normal", "reduction of odd sides", "fusion after a fusion"])
def test_the_alpha_step_multiplies_for_no_weight_gradient(name):
    trial = Trial(name)
    counts = {}
    for step in ("weight", "alpha"):
        with use_backend("reference"), Products(trial.layout.channels) as products:
            trial.run("mixed", needs=(step,))
        counts[step] = products
    assert counts["weight"].weight > 0
    assert counts["alpha"].weight == 0
    assert counts["alpha"].input > 0


@pytest.mark.parametrize("name", ["normal", "reduction of odd sides"])
def test_a_source_is_read_once_for_all_its_edges(name, monkeypatch):
    calls = {"pool_pair": [], "depthwise_pointwise": []}
    for operator in calls:
        function = getattr(mixed_cell, operator)
        monkeypatch.setattr(
            mixed_cell,
            operator,
            lambda x, *rest, _f=function, _seen=calls[operator], **named: (
                _seen.append((x, rest)),
                _f(x, *rest, **named),
            )[1],
        )
    trial = Trial(name)
    trial.run("mixed")
    sources = [x for x, _ in calls["pool_pair"]][:5]
    assert len(trial.mixed.sources) == 5
    # And once more in backward.
    again = [x.data_ptr() for x, _ in calls["pool_pair"][5:]]
    assert sorted(again) == sorted(x.data_ptr() for x in sources)
    for index, x in enumerate(sources):
        filters = [len(rest[0]) for read, rest in calls["depthwise_pointwise"] if len(read) == 1 and read[0] is x]
        assert filters == [4 * trial.mixed.sources[index].edges]


def test_maps_stay_channels_last():
    trial = Trial("normal")
    seen = []

    def note(module, inputs, output):
        seen.extend(inputs)
        for maps in output[0]:
            seen.extend(maps)

    for bank in trial.mixed.sources:
        bank.register_forward_hook(note)
    inputs = [x.contiguous(memory_format=torch.channels_last) for x in trial.inputs]
    seen.extend(trial.mixed(*inputs, trial.mixing(trial.alphas)))
    assert len(seen) == 5 + edge_count(4) * 6 + 4
    for value in seen:
        assert value.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["normal", "reduction of odd sides", "fusion after a fusion"])
@pytest.mark.parametrize("form", ["contiguous", "sliced", "expanded"])
def test_inputs_of_any_strides(name, form):
    trial = Trial(name)
    weights = trial.mixing(trial.alphas)
    make = {
        "contiguous": torch.Tensor.contiguous,
        "sliced": lambda x: torch.stack([x, x + 1], -1)[..., 0],
        "expanded": lambda x: x[:, :1].expand_as(x),
    }[form]
    strided = [make(x) for x in trial.inputs]
    plain = [x.clone(memory_format=torch.channels_last) for x in strided]
    torch.testing.assert_close(trial.mixed(*strided, weights), trial.mixed(*plain, weights), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["normal", "reduction of odd sides", "fusion after a fusion"])
def test_a_batch_of_one(name):
    trial = Trial(name, batch=1)
    assert_equal(trial.run("mixed"), trial.run("plain"))


@pytest.mark.parametrize("name", ["normal", "reduction of odd sides", "fusion after a fusion"])
def test_an_empty_batch_gives_an_empty_output_and_zero_gradients(name):
    trial = Trial(name, batch=0)
    found = trial.run("mixed")
    scale = 2 if trial.layout.kind == "reduction" else 1
    height, width = (-(-side // scale) for side in trial.inputs[1].shape[2:])
    up = int(trial.layout.input_factors[1]) if trial.layout.kind == "fusion" else 1
    assert found["output"].shape == (0, trial.layout.output_channels, up * height, up * width)
    for key, value in found.items():
        assert not value.any(), key


@pytest.mark.parametrize("name", ["normal", "reduction of odd sides", "fusion after a fusion"])
def test_inputs_in_parts_are_read_as_their_concatenation(name):
    trial = Trial(name)
    weights = trial.mixing(trial.alphas)
    inputs = [x.clone().requires_grad_() for x in trial.inputs]
    counts = [next(n for n in (4, 3, 2, 1) if x.shape[1] % n == 0) for x in inputs]
    in_parts = [
        [part.detach().clone().requires_grad_() for part in x.chunk(n, 1)]
        for x, n in zip(trial.inputs, counts, strict=True)
    ]
    found, right = (whole(trial.mixed(*each, weights)) for each in (in_parts, inputs))
    torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-12)
    for output in (found, right):
        output.backward(torch.ones_like(output).cumsum(1))
    for x, parts in zip(inputs, in_parts, strict=True):
        torch.testing.assert_close(torch.cat([part.grad for part in parts], 1), x.grad, rtol=1e-9, atol=1e-9)


def test_evaluation_mode_uses_the_batch_too():
    trial = Trial("normal")
    weights = trial.mixing(trial.alphas)
    trained = trial.mixed(*trial.inputs, weights)
    torch.testing.assert_close(trial.mixed.eval()(*trial.inputs, weights), trained, rtol=0, atol=0)


def test_alphas_are_drawn_small_one_row_an_edge():
    drawn = alphas(4, OPERATIONS)
    assert drawn.shape == (2 + 3 + 4 + 5, 8)
    assert drawn.requires_grad
    assert 5e-4 < drawn.std() < 2e-3


def test_filters_start_as_those_of_a_convolution_do():
    torch.manual_seed(0)
    mixed = MixedCell(CellLayout("reduction", 32, 2, (32, 32), (ONE, ONE), HALF), OPERATIONS)
    plain = plain_cell(CellLayout("reduction", 32, 2, (32, 32), (ONE, ONE), HALF), OPERATIONS)
    for name, ours, index, theirs in weight_pairs(mixed, plain):
        bound = theirs[0].numel() ** -0.5
        values = ours[index].detach()
        assert values.abs().max() <= bound, name
        assert 0.5 < values.std() * 3**0.5 / bound < 1.5, name
