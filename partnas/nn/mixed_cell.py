"""Cells of the supernet: every edge is the weighted sum of all candidate operations (Eqs. 1 and 2 of the paper).

A cell is evaluated source by source. All edges that leave a source share one read of it for their depthwise filters
(``depthwise_pointwise``) and one pair of pools (``pool_pair``); all that enters a node is normalised, weighted and
summed at once (``norm_sum``).
"""

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from partnas.genotype import INPUTS, edge_count
from partnas.nn.layout import CellLayout
from partnas.nn.primitives import DILATED, POOLS, SEPARABLE, even_and_odd, preprocessing, uniform_parameter
from partnas.ops.depthwise_pointwise import depthwise_pointwise
from partnas.ops.maps import Maps
from partnas.ops.norm_sum import norm_stats, norm_sum
from partnas.ops.pointwise import pointwise
from partnas.ops.pool_pair import pool_pair


class NodeWeights(NamedTuple):
    """Weights of what enters one node, ordered by source, then by operation.

    Attributes:
        maps: Of the normalised maps, ``(K,)``.
        identities: Of the skip connections at stride 1, ``(L,)``.
    """

    maps: torch.Tensor
    identities: torch.Tensor


class Mixing(nn.Module):
    """Picks each node's weights out of the softmax over a kind's alphas, ``(edges, operations)``.

    Edges are sorted by node, then by source. What ``none`` gets of the softmax is lost.
    """

    def __init__(self, kind: str, nodes: int, operations: Sequence[str]):
        super().__init__()
        self.nodes = nodes
        row = 0
        for node in range(nodes):
            maps, identities = [], []
            for source in range(INPUTS + node):
                stride = _stride(kind, source)
                maps += [row * len(operations) + operations.index(name) for name in normalised(operations, stride)]
                if "skip_connect" in operations and stride == 1:
                    identities.append(row * len(operations) + operations.index("skip_connect"))
                row += 1
            self.register_buffer(f"maps_{node}", torch.tensor(maps, dtype=torch.long), persistent=False)
            self.register_buffer(f"identities_{node}", torch.tensor(identities, dtype=torch.long), persistent=False)

    def forward(self, alphas: torch.Tensor) -> list[NodeWeights]:
        weights = torch.softmax(alphas, 1).flatten()
        return [
            NodeWeights(weights[getattr(self, f"maps_{node}")], weights[getattr(self, f"identities_{node}")])
            for node in range(self.nodes)
        ]


class SourceBank(nn.Module):
    """All normalised operations on the edges that leave one source.

    Attributes:
        depthwise: For each convolution among the operations, ``(E, C, k, k)``: its (first) depthwise filters.
        pointwise: ``(F, C, C)``, F the number of those filters, in the order of ``depthwise``, then of the edges.
        depthwise_second, pointwise_second: The same for the second half of the separable convolutions.
        skip_even, skip_odd: ``(E, C/2, C)``, the factorised reductions of the skips at stride 2.
        synchronised: Take batch statistics over all ranks in training mode.
        recompute: Form the filtered maps anew in backward rather than keep them.
    """

    def __init__(self, channels: int, edges: int, stride: int, operations: Sequence[str], recompute: bool = True):
        super().__init__()
        self.edges, self.stride = edges, stride
        self.columns = normalised(operations, stride)
        self.synchronised, self.recompute = False, recompute
        # The separable ones first: they alone go on to a second half.
        convolutions = [name for family in (SEPARABLE, DILATED) for name in operations if name in family]
        separable = [name for name in convolutions if name in SEPARABLE]
        self.depthwise = _filters(convolutions, edges, channels)
        self.depthwise_second = _filters(separable, edges, channels)
        self.dilations = [2 if name in DILATED else 1 for name in convolutions for _ in range(edges)]
        self.pointwise = uniform_parameter(len(convolutions) * edges, channels, channels, fan_in=channels)
        self.pointwise_second = uniform_parameter(len(separable) * edges, channels, channels, fan_in=channels)
        self.skip_even = self.skip_odd = None
        if "skip_connect" in self.columns:
            self.skip_even = uniform_parameter(edges, channels // 2, channels, fan_in=channels)
            self.skip_odd = uniform_parameter(edges, channels - channels // 2, channels, fan_in=channels)

    def forward(self, x: torch.Tensor) -> tuple[list[list[torch.Tensor]], torch.Tensor]:
        """Evaluate all edges of a source.

        Args:
            x: ``(B, C, H, W)``.

        Returns:
            For each edge the maps of its normalised operations, in the order of the operations; and their statistics
            ``(E, operations, 2, C)``.
        """
        found: dict[str, list[torch.Tensor]] = {}
        statistics: dict[str, torch.Tensor] = {}
        synchronised = self.synchronised and self.training
        self._convolve(x, found, synchronised)
        if self.skip_even is not None:
            found["skip_connect"] = self._skip(x)
        if found:
            measured = norm_stats([z for maps in found.values() for z in maps], synchronised)
            statistics = dict(zip(found, measured.split(self.edges), strict=True))
        if not set(POOLS).isdisjoint(self.columns):
            max_map, avg_map, pool_statistics = pool_pair(x, self.stride, synchronised)
            for name, z, measured in zip(POOLS, (max_map, avg_map), pool_statistics, strict=True):
                found[name] = [z] * self.edges
                statistics[name] = measured.expand(self.edges, -1, -1)
        by_edge = [[found[name][edge] for name in self.columns] for edge in range(self.edges)]
        if not self.columns:
            return by_edge, x.new_empty(self.edges, 0, 2, x.shape[1])
        return by_edge, torch.stack([statistics[name] for name in self.columns], 1)

    def _convolve(self, x: torch.Tensor, found: dict[str, list[torch.Tensor]], synchronised: bool) -> None:
        if not self.depthwise:
            return
        maps = depthwise_pointwise(
            [x],
            _unbound(self.depthwise),
            self.pointwise,
            dilations=self.dilations,
            stride=self.stride,
            recompute=self.recompute,
        )
        if self.depthwise_second:
            halfway, maps = maps[: len(self.pointwise_second)], maps[len(self.pointwise_second) :]
            second = depthwise_pointwise(
                halfway,
                _unbound(self.depthwise_second),
                self.pointwise_second,
                dilations=[1] * len(halfway),
                statistics=norm_stats(halfway, synchronised),
                synchronised=synchronised,
                recompute=self.recompute,
            )
            maps = second + maps
        for index, name in enumerate(self.depthwise):
            found[name] = maps[index * self.edges : (index + 1) * self.edges]

    def _skip(self, x: torch.Tensor) -> list[torch.Tensor]:
        halves = [
            pointwise([part] * self.edges, weight, relu=True)
            for part, weight in zip(even_and_odd(x), (self.skip_even, self.skip_odd), strict=True)
        ]
        return [torch.cat(pair, 1) for pair in zip(*halves, strict=True)]


class PoolsAnew:
    """Lets the sums of a cell keep no pools: they are formed anew from their source when backward asks for them."""

    def __init__(self) -> None:
        self._places: dict[int, tuple[_Source, int]] = {}

    def add(self, x: torch.Tensor, stride: int, maps: Sequence[torch.Tensor | None]) -> None:
        """Forget the max and the average map of ``x`` after the forward pass."""
        source = _Source(x.detach(), stride)
        for index, z in enumerate(maps):
            if z is not None and z.numel():
                self._places[z.data_ptr()] = source, index

    def forgotten(self) -> contextlib.AbstractContextManager:
        """Inside, autograd keeps none of the pools that were added."""
        if not self._places:
            # No hooks that do nothing: they would hide those of a checkpoint around the cell.
            return contextlib.nullcontext()
        return torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)

    def _pack(self, tensor: torch.Tensor) -> Any:
        return self._places.get(tensor.data_ptr(), tensor)

    def _unpack(self, packed: Any) -> torch.Tensor:
        if isinstance(packed, torch.Tensor):
            return packed
        source, index = packed
        return source.pools()[index]


class _Source:
    def __init__(self, x: torch.Tensor, stride: int):
        self._x, self._stride, self._pools = x, stride, None

    def pools(self) -> tuple[torch.Tensor, ...]:
        if self._pools is None:
            with torch.no_grad():
                self._pools = pool_pair(self._x, self._stride)[:2]
        return self._pools


class MixedCell(nn.Module):
    """A cell of the supernet.

    Args:
        recompute: Form anew in backward what depthwise filters and pools give, rather than keep it.

    Attributes:
        synchronised: Take batch statistics over all ranks in training mode.
    """

    def __init__(self, layout: CellLayout, operations: Sequence[str], recompute: bool = True):
        super().__init__()
        self.nodes = layout.nodes
        self.synchronised, self.recompute = False, recompute
        self.has_identity = "skip_connect" in operations
        self.strides = [_stride(layout.kind, source) for source in range(INPUTS + layout.nodes - 1)]
        self.preprocess = nn.ModuleList(
            preprocessing(channels, layout.channels, factor, searching=True)
            for channels, factor in zip(layout.input_channels, layout.input_factors, strict=True)
        )
        self.sources = nn.ModuleList(
            SourceBank(layout.channels, layout.nodes - _first_target(source), stride, operations, recompute)
            for source, stride in enumerate(self.strides)
        )

    def forward(self, older: Maps, newer: Maps, weights: Sequence[NodeWeights]) -> list[torch.Tensor]:
        """Evaluate the cell.

        Args:
            older, newer: Outputs of the cell before last and of the last cell.
            weights: Of each node.

        Returns:
            The nodes, ``(B, C, H, W)`` each; the cell's output is their concatenation.
        """
        values = [layer(x) for layer, x in zip(self.preprocess, (older, newer), strict=True)]
        entering: list[list[torch.Tensor]] = [[] for _ in range(self.nodes)]
        measured: list[list[torch.Tensor]] = [[] for _ in range(self.nodes)]
        pools = PoolsAnew()
        for node in range(self.nodes):
            for source in range(len(values)) if node == 0 else [len(values) - 1]:
                bank = self.sources[source]
                by_edge, statistics = bank(values[source])
                if self.recompute:
                    maps = dict(zip(bank.columns, by_edge[0], strict=True))
                    pools.add(values[source], bank.stride, [maps.get(name) for name in POOLS])
                for edge, maps in enumerate(by_edge):
                    target = _first_target(source) + edge
                    entering[target] += maps
                    measured[target].append(statistics[edge])
            identities = self._identities(values)
            with pools.forgotten():
                total = norm_sum(
                    entering[node],
                    torch.cat(measured[node]),
                    weights[node].maps,
                    identities,
                    weights[node].identities,
                    synchronised=self.synchronised and self.training,
                )
            values.append(total)
        return values[INPUTS:]

    def _identities(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [x for x, stride in zip(values, self.strides, strict=False) if self.has_identity and stride == 1]


def normalised(operations: Sequence[str], stride: int) -> list[str]:
    """The operations whose results pass a batch norm in the supernet: all but ``none`` and the skip at stride 1."""
    return [name for name in operations if name != "none" and not (name == "skip_connect" and stride == 1)]


def alphas(nodes: int, operations: Sequence[str]) -> nn.Parameter:
    """Architecture parameters of one kind of cell, ``(edges, operations)``, drawn as DARTS draws them."""
    return nn.Parameter(1e-3 * torch.randn(edge_count(nodes), len(operations)))


def _stride(kind: str, source: int) -> int:
    return 2 if kind == "reduction" and source < INPUTS else 1


def _first_target(source: int) -> int:
    return max(0, source - INPUTS + 1)


def _filters(names: Sequence[str], edges: int, channels: int) -> nn.ParameterDict:
    sizes = {**SEPARABLE, **DILATED}
    # Pairs keep their order; the entries of a dictionary would be sorted by name.
    return nn.ParameterDict(
        [
            (name, uniform_parameter(edges, channels, sizes[name], sizes[name], fan_in=sizes[name] ** 2))
            for name in names
        ]
    )


def _unbound(filters: nn.ParameterDict) -> list[torch.Tensor]:
    return [weight for stack in filters.values() for weight in stack.unbind(0)]
