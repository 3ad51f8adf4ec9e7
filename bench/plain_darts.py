"""DARTS' search network, module by module, as its public code has it: what the tests hold the cells to, and what the
benchmarks race.

An edge is a module for each operation, each run by itself; batch norm is PyTorch's. Two things differ from that code:
the factorized reduction is padded where a side is odd (the public one fails there), and there are fusion cells.
"""

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from partnas.nn.primitives import ReluConvNorm


def norm(channels):
    return nn.BatchNorm2d(channels, affine=False)


class Zero(nn.Module):
    def __init__(self, stride):
        super().__init__()
        self.stride = stride

    def forward(self, x):
        return x[:, :, :: self.stride, :: self.stride].mul(0.0)


class FactorizedReduce(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv_1 = nn.Conv2d(channels_in, channels_out // 2, 1, stride=2, padding=0, bias=False)
        self.conv_2 = nn.Conv2d(channels_in, channels_out - channels_out // 2, 1, stride=2, padding=0, bias=False)
        self.bn = norm(channels_out)

    def forward(self, x):
        x = F.relu(x)
        padded = F.pad(x, (0, 1, 0, 1))
        return self.bn(torch.cat([self.conv_1(x), self.conv_2(padded[:, :, 1:, 1:])], dim=1))


def dil_conv(channels, kernel_size, stride):
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel_size, stride, kernel_size - 1, dilation=2, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        norm(channels),
    )


def sep_conv(channels, kernel_size, stride):
    padding = kernel_size // 2
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel_size, stride, padding, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        norm(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel_size, 1, padding, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        norm(channels),
    )


OPS = {
    "none": lambda channels, stride: Zero(stride),
    "max_pool_3x3": lambda channels, stride: nn.Sequential(nn.MaxPool2d(3, stride, padding=1), norm(channels)),
    "avg_pool_3x3": lambda channels, stride: nn.Sequential(
        nn.AvgPool2d(3, stride, padding=1, count_include_pad=False), norm(channels)
    ),
    "skip_connect": lambda channels, stride: nn.Identity() if stride == 1 else FactorizedReduce(channels, channels),
    "sep_conv_3x3": lambda channels, stride: sep_conv(channels, 3, stride),
    "sep_conv_5x5": lambda channels, stride: sep_conv(channels, 5, stride),
    "dil_conv_3x3": lambda channels, stride: dil_conv(channels, 3, stride),
    "dil_conv_5x5": lambda channels, stride: dil_conv(channels, 5, stride),
}


class MixedOp(nn.Module):
    def __init__(self, channels, stride, operations):
        super().__init__()
        self.ops = nn.ModuleDict({name: OPS[name](channels, stride) for name in operations})

    def forward(self, x, weights):
        return sum(weight * op(x) for weight, op in zip(weights, self.ops.values(), strict=True))


class Preprocess(nn.Module):
    """To the cell's channels and resolution; ``factor`` is 0.5, 1, 2 or 4."""

    def __init__(self, channels_in, channels_out, factor):
        super().__init__()
        self.factor = factor
        if factor == 0.5:
            self.layer = FactorizedReduce(channels_in, channels_out)
        else:
            self.layer = nn.Sequential(
                nn.ReLU(), nn.Conv2d(channels_in, channels_out, 1, bias=False), norm(channels_out)
            )

    def forward(self, x):
        x = self.layer(x)
        if self.factor > 1:
            x = F.interpolate(x, scale_factor=self.factor, mode="bilinear", align_corners=False)
        return x


class PlainCell(nn.Module):
    """``edges[i][j]`` leads from source j (0 and 1 are the cell's inputs) to intermediate node i."""

    def __init__(self, kind, channels, nodes, input_channels, input_factors, operations):
        super().__init__()
        self.preprocess = nn.ModuleList(
            Preprocess(width, channels, float(factor))
            for width, factor in zip(input_channels, input_factors, strict=True)
        )
        self.edges = nn.ModuleList(
            nn.ModuleList(
                MixedOp(channels, 2 if kind == "reduction" and j < 2 else 1, operations) for j in range(2 + i)
            )
            for i in range(nodes)
        )

    def forward(self, older, newer, alphas):
        weights = torch.softmax(alphas, dim=-1)  # [E, O]
        states = [layer(x) for layer, x in zip(self.preprocess, (older, newer), strict=True)]
        offset = 0
        for node in self.edges:
            total = sum(edge(states[j], weights[offset + j]) for j, edge in enumerate(node))
            offset += len(node)
            states.append(total)
        return torch.cat(states[2:], dim=1)


def plain_cell(layout, operations) -> PlainCell:
    """The plain form of the cell that stands at ``layout``."""
    return PlainCell(
        layout.kind, layout.channels, layout.nodes, layout.input_channels, layout.input_factors, operations
    )


class PlainSupernet(nn.Module):
    """Stem, cells, and a soft-argmax written out; alphas come from outside.

    With ``checkpointed`` backward forms anew what a cell computes, so that float64 fits into memory.
    """

    def __init__(self, space, layouts, checkpointed=False):
        super().__init__()
        self.space, self.checkpointed = space, checkpointed
        self.stem = nn.Sequential(nn.Conv2d(3, 3 * space.channels, 3, padding=1, bias=False), norm(3 * space.channels))
        self.kinds = [layout.kind for layout in layouts]
        self.cells = nn.ModuleList(plain_cell(layout, space.operations) for layout in layouts)

    def heatmaps(self, x, alphas):
        older = newer = self.stem(x)
        for kind, cell in zip(self.kinds, self.cells, strict=True):
            if self.checkpointed:
                found = checkpoint(cell, older, newer, alphas[kind], use_reentrant=False, preserve_rng_state=False)
            else:
                found = cell(older, newer, alphas[kind])
            older, newer = newer, found
        return newer

    def forward(self, x, alphas):
        heatmaps = self.heatmaps(x, alphas)
        batch, _, height, width = heatmaps.shape
        heads, depth = self.space.fusion_nodes, self.space.depth
        volume = heatmaps.view(batch, heads, -1, depth, height, width)  # [B, heads, slots, D, H, W]
        axes = [torch.arange(side, device=x.device) for side in (width, height, depth)]
        found = {}
        for head, group in enumerate(self.space.part_groups()):
            for slot, part in enumerate(group):
                likelihood = torch.softmax(volume[:, head, slot].flatten(1), 1).view(batch, depth, height, width)
                found[part] = torch.stack([
                    (likelihood.sum((1, 2)) * axes[0]).sum(1),
                    (likelihood.sum((1, 3)) * axes[1]).sum(1),
                    (likelihood.sum((2, 3)) * axes[2]).sum(1),
                ], 1)  # fmt: skip
        return torch.stack([found[part] for part in range(self.space.parts)], 1)


def products(
    placed: Iterable[tuple[nn.Module, int]], batch: int, dtype: torch.dtype = torch.float32
) -> Callable[[], None]:
    """The matrix products of the mixed operations alone, of cells whose outputs have these sides: forward, and both
    gradients, batched, into memory in use."""
    jobs = []
    for cell, side in placed:
        for bank in cell.sources:
            count, channels = len(bank.pointwise) + len(bank.pointwise_second), bank.pointwise.shape[1]
            options = {"dtype": dtype, "device": bank.pointwise.device}
            rows = torch.randn(count, batch * side * side, channels, **options)
            jobs.append((rows, torch.randn(count, channels, channels, **options), torch.empty_like(rows)))

    def run() -> None:
        for rows, weight, out in jobs:
            torch.bmm(rows, weight, out=out)
            torch.bmm(rows, weight.transpose(1, 2), out=out)
            torch.bmm(rows.transpose(1, 2), rows)

    return run


def weight_pairs(mixed, plain) -> Iterator[tuple[str, nn.Parameter, int | slice, nn.Parameter]]:
    """Which weight of a ``MixedCell`` is which of a ``PlainCell``: name, parameter and index there, parameter here."""
    for index, (ours, theirs) in enumerate(zip(mixed.preprocess, plain.preprocess, strict=True)):
        theirs = theirs.layer
        if isinstance(theirs, FactorizedReduce):
            yield f"preprocess{index}.even", ours.even.weight, slice(None), theirs.conv_1.weight
            yield f"preprocess{index}.odd", ours.odd.weight, slice(None), theirs.conv_2.weight
        else:
            layer = ours if isinstance(ours, ReluConvNorm) else ours[0]
            yield f"preprocess{index}", layer.pointwise.weight, slice(None), theirs[1].weight
    for i, node in enumerate(plain.edges):
        for j, edge in enumerate(node):
            bank = mixed.sources[j]
            place = i - max(0, j - 1)
            order, separable = list(bank.depthwise), list(bank.depthwise_second)
            for name, op in edge.ops.items():
                label = f"{name} {j}->{i}"
                if name in order:
                    yield f"{label} depthwise", bank.depthwise[name], place, op[1].weight
                    yield f"{label} pointwise", bank.pointwise, order.index(name) * bank.edges + place, op[2].weight
                if name in separable:
                    row = separable.index(name) * bank.edges + place
                    yield f"{label} second depthwise", bank.depthwise_second[name], place, op[5].weight
                    yield f"{label} second pointwise", bank.pointwise_second, row, op[6].weight
                if isinstance(op, FactorizedReduce):
                    yield f"{label} even", bank.skip_even, place, op.conv_1.weight
                    yield f"{label} odd", bank.skip_odd, place, op.conv_2.weight


def copy_weights(mixed, plain) -> None:
    """Give the plain cell the mixed cell's weights; fails where that leaves one of either out."""
    with torch.no_grad():
        for _, ours, index, theirs in weight_pairs(mixed, plain):
            theirs.copy_(ours[index].reshape(theirs.shape))
    covered = sum(theirs.numel() for *_, theirs in weight_pairs(mixed, plain))
    assert covered == sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in mixed.parameters())
