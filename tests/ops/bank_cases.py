"""Banks of depthwise filters, what they should give, and how far off a right result may be."""

import functools
import itertools

import torch
import torch.nn.functional as F

from partnas.ops.depthwise_bank import depthwise_bank

NAN = float("nan")
EPS = 1e-5
FOUR = ((3, 1), (5, 1), (3, 2), (5, 2))
EIGHT = ((5, 2), (3, 1), (3, 1), (5, 1), (3, 2), (5, 2), (5, 1), (3, 2))
PROLOGUES = ("bare", "relu", "affine relu", "norm", "norm affine relu")


class Case:
    """Inputs in float64, rounded to the dtype that the operator will see, and how to call it."""

    def __init__(self, shape, bank=FOUR, stride=1, prologue="relu", dtype=torch.float32, seed=0):
        batch, channels, height, width = shape
        draw = torch.Generator().manual_seed(seed)
        self.dtype, self.bank, self.stride = dtype, bank, stride
        self.norm, self.affine, self.relu = (word in prologue.split() for word in ("norm", "affine", "relu"))
        self.dilations = [dilation for _, dilation in bank]

        def normal(*size):
            return torch.randn(size, generator=draw, dtype=torch.float64).to(dtype).double()

        self.scale = normal(channels) if self.affine else None
        self.shift = normal(channels) if self.affine else None
        self.weights = [normal(channels, size, size) for size, _ in bank]
        out = (batch, channels, -(-height // stride), -(-width // stride))
        self.upstream = [normal(*out) for _ in bank]
        # Where the clip decides, rounding would: keep what enters it away from zero.
        self.x = 1.5 * normal(*shape) + 0.5
        for _ in range(20):
            self.x = self.x.to(dtype).double()
            near = self._before_relu(self.x, self.scale, self.shift).abs() < 0.02
            if not self.relu or not near.any():
                break
            self.x = torch.where(near, self.x + 0.2 * normal(*shape), self.x)

    def _before_relu(self, x, scale, shift):
        if self.norm and x.numel():
            mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
            x = (x - mean) / (variance + EPS).sqrt()
        return x if scale is None else x * scale[:, None, None] + shift[:, None, None]

    def _statistics(self, x):
        if not x.numel():
            return x.new_zeros(2, x.shape[1])
        wide = x.detach() if x.dtype == torch.float64 else x.detach().float()
        return torch.stack([wide.mean((0, 2, 3)), wide.var((0, 2, 3), correction=0)])

    def leaves(self, dtype):
        tensors = [self.x, *self.weights, *([self.scale, self.shift] if self.affine else [])]
        return [t.to(dtype).clone().requires_grad_() for t in tensors]

    def names(self):
        return ["x", *(f"weight {f}" for f in range(len(self.bank))), *(["scale", "shift"] if self.affine else [])]

    def call(self, x, *others, **keywords):
        count = len(self.bank)
        scale, shift = others[count:] or (None, None)
        return depthwise_bank(
            x,
            others[:count],
            dilations=self.dilations,
            stride=self.stride,
            statistics=self._statistics(x) if self.norm else None,
            scale=scale,
            shift=shift,
            eps=EPS,
            relu=self.relu,
            **keywords,
        )

    def slow(self, x, *others):
        """The definition: every tap of every filter times the shifted map."""
        value = self._before_relu(x, *(others[len(self.bank) :] or (None, None)))
        if self.relu:
            value = value.clamp(min=0)
        height, width = x.shape[2:]
        maps = []
        for weight, (size, dilation) in zip(others, self.bank, strict=False):
            reach = dilation * (size // 2)
            padded = F.pad(value, [reach] * 4)
            total = 0
            for i, j in itertools.product(range(size), repeat=2):
                rows = slice(i * dilation, i * dilation + height, self.stride)
                columns = slice(j * dilation, j * dilation + width, self.stride)
                total = total + weight[:, i, j, None, None] * padded[:, :, rows, columns]
            maps.append(total)
        return maps

    def plain(self, x, *others):
        """What one would write in PyTorch: in float64 the oracle, in the dtype itself the yardstick."""
        return self.filtered(self.entering(x, *others), *others)

    def entering(self, x, *others):
        scale, shift = others[len(self.bank) :] or (None, None)
        if self.norm and x.numel():
            x = torch.native_batch_norm(x, scale, shift, None, None, True, 0.0, EPS)[0]
        elif scale is not None:
            x = x * scale[:, None, None] + shift[:, None, None]
        return torch.relu(x) if self.relu else x

    def filtered(self, value, *weights):
        return [
            F.conv2d(value, w[:, None], None, self.stride, d * (k // 2), d, groups=len(w))
            for w, (k, d) in zip(weights, self.bank, strict=False)
        ]

    def weight_terms(self):
        """For each weight gradient the largest sum of the magnitudes of what it adds up: rounding is relative to it."""
        x, *others = self.leaves(torch.float64)
        weights = others[: len(self.bank)]
        maps = self.filtered(self.entering(x, *others).abs().detach(), *weights)
        sums = torch.autograd.grad(maps, weights, [g.abs() for g in self.upstream])
        return [total.max().item() for total in sums]

    def run(self, function, leaves, upstream=None):
        maps = function(*leaves)
        upstream = upstream or [g.to(z.dtype) for g, z in zip(self.upstream, maps, strict=True)]
        return [z.detach() for z in maps], torch.autograd.grad(maps, leaves, upstream)


@functools.cache
def expected(*arguments, **keywords):
    """The case, its float64 maps and gradients, and for each the largest error that a right result may have: a few
    times what plain PyTorch has in the dtype, or a few roundings."""
    case = Case(*arguments, **keywords)
    exact = [value for part in case.run(case.plain, case.leaves(torch.float64)) for value in part]
    plain = [value for part in case.run(case.plain, case.leaves(case.dtype)) for value in part]
    magnitudes = [value.abs().max().item() if value.numel() else 0.0 for value in exact]
    first = len(case.bank) + 1
    magnitudes[first : first + len(case.bank)] = case.weight_terms()
    eps = max(torch.finfo(case.dtype).eps, 1e-12)  # the oracle itself rounds
    bounds = [4 * distance(a, b) + 4 * eps * m for a, b, m in zip(plain, exact, magnitudes, strict=True)]
    return case, exact, bounds


def distance(found, exact):
    if exact.numel() == 0:
        return 0.0
    return (found.double() - exact).abs().max().item() if found.isfinite().all() else NAN


def check(case, found, exact, bounds):
    names = [f"map {f}" for f in range(len(case.bank))] + case.names()
    for name, value, right, bound in zip(names, found, exact, bounds, strict=True):
        assert value.dtype == case.dtype, name
        assert value.shape == right.shape, name
        assert distance(value, right) <= bound, f"{name}: {distance(value, right)} is above {bound}"
