"""csrc/cuda/depthwise_bank.cu in the emulator, against the operator's reference in float64."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from emulator.build import Host, Output, Scratch, from_storage, load, missing, to_storage

from partnas.ops.depthwise_bank import reference

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

EPS = 1e-5
FOUR = ((3, 1), (5, 1), (3, 2), (5, 2))
NINE = ((5, 2), (3, 1), (3, 1), (5, 1), (3, 2), (5, 2), (5, 1), (3, 2), (3, 1))
SEVENTEEN = NINE + NINE[:8]
ROUNDING = {"float32": 2.0**-24, "bfloat16": 2.0**-9, "float16": 2.0**-11}

# Multiprocessors, and bytes of shared memory: of one without asynchronous copies, of large ones, of one so small that
# the filters need several launches.
TURING, HOPPER = (3, 64 << 10), (2, 227 << 10)
WIDE = (132, 227 << 10)
SMALL = (2, 52 << 10)

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
    worst = np.abs(found - exact) - bound
    assert np.isfinite(found).all() and not (worst > 0).any(), f"{name}: off by {np.abs(found - exact).max()}"


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
