"""csrc/cuda/depthwise_bank.cu in the emulator, against the operator's reference in float64."""

import numpy as np
import pytest
import torch
from emulator.build import Host, Output, Scratch, from_storage, load, missing, to_storage

from partnas.ops.depthwise_bank import reference

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "-")

EPS = 1e-5
FOUR = ((3, 1), (5, 1), (3, 2), (5, 2))
NINE = ((5, 2), (3, 1), (3, 1), (5, 1), (3, 2), (5, 2), (5, 1), (3, 2), (3, 1))
SEVENTEEN = NINE + NINE[:8]
ROUNDING = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}

# Multiprocessors, and bytes of shared memory for a block: a device with no asynchronous copies, one with a lot, and one
# so small that the backward of many filters needs several launches.
TURING, HOPPER, SMALL = (3, 64 << 10), (2, 227 << 10), (2, 44 << 10)

# (B, C, H, W): lanes shared by images or not, channels that fill no vector or no warp, maps smaller than the filters,
# several tiles and bands.
SHAPES = [
    (2, 16, 7, 9),
    (1, 3, 1, 1),
    (1, 17, 3, 37),
    (3, 64, 2, 5),
    (2, 1, 1, 7),
    (1, 72, 5, 4),
    (1, 40, 8, 1),
    (3, 8, 19, 16),
]


class Case:
    """A bank and its inputs, rounded to the storage, in float64; what is right, and how far off rounding may be."""

    def __init__(self, shape, bank=FOUR, stride=1, prologue="relu", storage="float32", device=HOPPER, seed=0):
        batch, channels, height, width = shape
        self.shape, self.bank, self.stride, self.storage, self.device = shape, bank, stride, storage, device
        self.norm, self.affine, self.relu = (word in prologue.split() for word in ("norm", "affine", "relu"))
        self.draw = np.random.default_rng(seed)
        self.scale, self.shift = (self.normal("float32", channels) if self.affine else None for _ in range(2))
        self.weights = [self.normal("float32", channels, size, size) for size, _ in bank]
        self.map_shape = (batch, channels, -(-height // stride), -(-width // stride))
        self.gradients = [self.normal(storage, *self.map_shape) for _ in bank]
        self.x = 1.5 * self.normal(storage, *shape) + 0.5
        # Where the clip decides, rounding would: keep what enters it away from zero.
        for _ in range(20):
            self.x = self.rounded(self.x, storage)
            near = np.abs(self.before_clip()) < 0.02
            if not self.relu or not near.any():
                break
            self.x = np.where(near, self.x + 0.2 * self.draw.standard_normal(shape), self.x)
        self.statistics = np.stack([self.x.mean((0, 2, 3)), self.x.var((0, 2, 3))]) if self.norm else None

    def rounded(self, x, storage):
        return from_storage(to_storage(np.asarray(x, np.float32), storage), storage).astype(np.float64)

    def normal(self, storage, *shape):
        return self.rounded(self.draw.standard_normal(shape), storage)

    def before_clip(self):
        x = self.x
        if self.norm:
            x = (x - x.mean((0, 2, 3), keepdims=True)) / np.sqrt(x.var((0, 2, 3), keepdims=True) + EPS)
        return x * self.scale[:, None, None] + self.shift[:, None, None] if self.affine else x

    def right(self, fixed=False):
        """Maps, and gradients of x, scale, shift and the weights. ``fixed``: of the normalised x, not of x."""
        leaf = {
            name: None if value is None else torch.tensor(value, requires_grad=True)
            for name, value in (("x", self.x), ("scale", self.scale), ("shift", self.shift))
        }
        weights = [torch.tensor(weight, requires_grad=True) for weight in self.weights]
        entering, affine = leaf["x"], {name: leaf[name] for name in ("scale", "shift")}
        if self.norm:
            mean, variance = entering.mean((0, 2, 3)), entering.var((0, 2, 3), correction=0)
            entering = (entering - mean[:, None, None]) * torch.rsqrt(variance + EPS)[:, None, None]
        if self.affine and fixed:
            entering = entering * affine["scale"][:, None, None] + affine["shift"][:, None, None]
            affine = {}
        if fixed:
            entering.retain_grad()
        maps = reference(
            entering, weights, dilations=[d for _, d in self.bank], stride=self.stride, relu=self.relu, **affine
        )
        torch.autograd.backward(maps, [torch.tensor(gradient) for gradient in self.gradients])
        found = [entering.grad if fixed else leaf["x"].grad]
        found += [None if leaf[name] is None else leaf[name].grad for name in ("scale", "shift")]
        return [z.detach().numpy() for z in maps], [
            None if gradient is None else gradient.numpy() for gradient in (*found, *(w.grad for w in weights))
        ]

    def stored(self, x):
        """Channels-last."""
        return to_storage(np.ascontiguousarray(x.transpose(0, 2, 3, 1), np.float32), self.storage)

    def read(self, x):
        return from_storage(x, self.storage).transpose(0, 3, 1, 2).astype(np.float64)

    def output(self, shape):
        batch, channels, height, width = shape
        return Output((batch, height, width, channels), self.storage)

    def description(self, weights=None):
        needs = weights or [1] * len(self.bank)
        filters = [(size, dilation, need) for (size, dilation), need in zip(self.bank, needs, strict=True)]
        return [*self.shape, self.stride, len(self.bank)], Host(np.array(filters, np.int64)), list(self.device)

    def prologue(self):
        numbers = (None if t is None else t.astype(np.float32) for t in (self.statistics, self.scale, self.shift))
        return [*numbers, EPS, self.relu]

    def inputs(self):
        return self.stored(self.x), [w.astype(np.float32) for w in self.weights]

    def maps(self, **keywords):
        outputs = [self.output(self.map_shape) for _ in self.bank]
        found = load("depthwise_bank").run(
            "depthwise_bank", self.storage, *self.description(), *self.inputs(), *self.prologue(), outputs, **keywords
        )
        return [self.read(z) for z in found]

    def backward(self, x=True, scale=None, shift=None, weights=None, before_norm=False, **keywords):
        """Gradients of x, scale, shift and the weights, None where they are not wanted."""
        channels = self.shape[1]
        weights = [1] * len(self.bank) if weights is None else weights
        scale, shift = (self.affine if need is None else need for need in (scale, shift))
        description = self.description(weights)
        room = load("depthwise_bank").ask("depthwise_bank_workspace", self.storage, *description)
        outputs = [self.output(self.shape) if x else None]
        outputs += [Output((channels,), "float32") if need else None for need in (scale, shift)]
        outputs.append([Output(w.shape, "float32") if n else None for w, n in zip(self.weights, weights, strict=True)])
        found = load("depthwise_bank").run(
            "depthwise_bank_backward",
            self.storage,
            *description,
            [self.stored(g) for g in self.gradients],
            *self.inputs(),
            *self.prologue(),
            before_norm,
            *outputs,
            Scratch(4 * room),
            room,
            **keywords,
        )
        found = iter(found)
        result = [next(found).astype(np.float64) if need else None for need in (x, scale, shift, *weights)]
        if x:
            result[0] = from_storage(result[0].astype(self.output(self.shape).storage), self.storage)
            result[0] = result[0].transpose(0, 3, 1, 2).astype(np.float64)
        return result

    def check_maps(self, **keywords):
        right, _ = self.right()
        for f, (z, exact) in enumerate(zip(self.maps(**keywords), right, strict=True)):
            close(z, exact, self.storage, 1e-6 * max(1, self.spread()), f"map {f}")

    def check_gradients(self, before_norm=False, orders=None, **wanted):
        _, right = self.right(fixed=before_norm)
        found = self.backward(before_norm=before_norm, orders=orders, **wanted)
        # What flows through the statistics is added to a gradient that is already rounded.
        roundings = 2 if self.norm and not before_norm else 1
        names = ["x", "scale", "shift", *(f"weight {f}" for f in range(len(self.bank)))]
        for name, value, exact in zip(names, found, right, strict=True):
            if value is None:
                continue
            storage = self.storage if name == "x" else "float32"
            terms = np.sqrt(np.prod(self.shape) / self.shape[1]) if name != "x" else 4.0 * len(self.bank)
            slack = 2e-6 * self.spread() * max(1, terms)
            if name == "x" and roundings == 2:
                slack += 2 * ROUNDING[storage] * np.abs(exact).max(initial=0)
            close(value, exact, storage, slack, f"gradient of {name}")

    def spread(self):
        return np.abs(self.before_clip()).max(initial=1)


def close(found, exact, storage, slack, name):
    assert found.shape == exact.shape, name
    bound = 1.01 * ROUNDING[storage] * np.abs(exact) + slack
    if storage == "float16":
        bound = bound + 2.0**-24  # subnormal
    assert (np.abs(found - exact) <= bound).all(), f"{name}: off by {np.abs(found - exact).max()}"


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("prologue", ["bare", "norm affine relu"])
def test_maps(prologue, shape, stride):
    Case(shape, FOUR, stride, prologue).check_maps()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("prologue", ["relu", "norm affine relu"])
def test_gradients(prologue, shape, stride):
    Case(shape, FOUR, stride, prologue).check_gradients(orders=2)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("storage", ["bfloat16", "float16"])
@pytest.mark.parametrize("shape", [(2, 16, 7, 9), (1, 33, 4, 10), (1, 24, 9, 3)], ids=str)
@pytest.mark.parametrize("prologue", ["relu", "norm relu"])
def test_narrow_storage(prologue, shape, storage, stride):
    case = Case(shape, FOUR, stride, prologue, storage)
    case.check_maps(orders=2)
    case.check_gradients(orders=1)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("device", [TURING, HOPPER, SMALL], ids=["Turing", "Hopper", "small"])
@pytest.mark.parametrize("shape", [(1, 32, 21, 40), (2, 3, 50, 6)], ids=str)
def test_devices(shape, device, stride):
    case = Case(shape, FOUR, stride, "relu", device=device)
    case.check_maps(orders=1)
    case.check_gradients(orders=1)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("bank", "device"), [(NINE, HOPPER), (SEVENTEEN, HOPPER), (NINE, SMALL)])
def test_more_filters_than_a_launch_takes(bank, device, stride):
    case = Case((1, 20, 5, 9), bank, stride, "affine relu", device=device)
    case.check_maps(orders=2)
    case.check_gradients(orders=2)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", FOUR, ids=str)
def test_one_filter(kernel, stride):
    case = Case((2, 16, 11, 10), (kernel,), stride, "norm relu")
    case.check_maps(orders=2)
    case.check_gradients(orders=2)


@pytest.mark.parametrize("prologue", ["bare", "relu", "affine", "norm relu", "norm affine relu"])
@pytest.mark.parametrize(
    "wanted",
    [
        {"weights": [0, 0, 0, 0]},
        {"x": False},
        {"x": False, "weights": [0, 0, 1, 0]},
        {"x": False, "weights": [0, 0, 0, 0], "scale": True, "shift": False},
        {"weights": [0, 1, 0, 0], "scale": False, "shift": True},
    ],
    ids=str,
)
def test_only_the_gradients_asked_for(wanted, prologue):
    case = Case((2, 16, 7, 9), FOUR, 1, prologue)
    if not case.affine:
        wanted = {**wanted, "scale": False, "shift": False}
    case.check_gradients(orders=1, **wanted)


@pytest.mark.parametrize("prologue", ["norm relu", "norm affine relu"])
def test_gradient_of_what_the_statistics_make(prologue):
    """With an affine map, of what enters the clip."""
    case = Case((2, 16, 7, 9), FOUR, 1, prologue)
    case.check_gradients(before_norm=True, orders=1, scale=False, shift=False)


def test_nan_and_infinity_stay_where_they_are():
    case = Case((1, 16, 20, 20), ((3, 1), (5, 2)))
    case.x = np.zeros(case.shape)
    case.x[0, 3, 10, 10] = np.nan
    case.x[0, 5, 2, 2] = np.inf
    case.weights = [np.ones_like(w) for w in case.weights]
    for z, size, reach in zip(case.maps(orders=1), (3, 5), (1, 4), strict=True):
        assert np.isnan(z).sum() == size**2
        assert np.isnan(z[0, 3, 10 - reach, 10 + reach])
        assert np.isinf(z[0, 5]).sum() == (9 if reach == 1 else 16)


def test_an_empty_batch_and_an_empty_bank_launch_nothing():
    case = Case((1, 16, 4, 4), FOUR)
    case.shape, case.map_shape = (0, 16, 4, 4), (0, 16, 4, 4)
    case.x, case.gradients = case.x[:0], [g[:0] for g in case.gradients]
    assert [z.size for z in case.maps()] == [0] * 4
    assert Case((1, 16, 4, 4), ()).maps() == []


@pytest.mark.parametrize(
    "change",
    [{"storage": "float64"}, {"stride": 3}, {"bank": ((7, 1),)}, {"bank": ((3, 3),)}],
    ids=str,
)
def test_what_is_not_served_is_refused(change):
    case = Case((1, 4, 8, 8), ((3, 1),))
    for name, value in change.items():
        setattr(case, name, value)
    outputs = [Output((1, 8, 8, 4), case.storage)]
    with pytest.raises(RuntimeError, match="returned the error 1"):
        load("depthwise_bank").run(
            "depthwise_bank", case.storage, *case.description(), *case.inputs(), *case.prologue(), outputs
        )


def test_a_workspace_that_is_too_small_is_refused(monkeypatch):
    case = Case((1, 4, 8, 8), ((3, 1),))
    library = load("depthwise_bank")
    ask = library.ask
    monkeypatch.setattr(library, "ask", lambda *arguments: ask(*arguments) - 1)
    with pytest.raises(RuntimeError, match="returned the error 1"):
        case.backward()
