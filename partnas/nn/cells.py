"""Cells of a derived network: the operations that a genotype names."""

import functools
from collections.abc import Sequence

import torch
from torch import nn

from partnas.genotype import INPUTS, Edge, Genotype, Node
from partnas.nn.layout import CellLayout
from partnas.nn.primitives import (
    DILATED,
    POOLS,
    SEPARABLE,
    Branch,
    DilatedConv,
    FactorisedReduction,
    Pool,
    SeparableConv,
    normalised_sum,
    preprocessing,
)
from partnas.ops.maps import Maps


def operation(name: str, channels: int, stride: int) -> nn.Module:
    """The layer of an edge in a derived network; pools have no batch norm there (DARTS)."""
    if name in SEPARABLE:
        return SeparableConv(channels, SEPARABLE[name], stride)
    if name in DILATED:
        return DilatedConv(channels, DILATED[name], stride)
    if name in POOLS:
        return Pool(name, stride)
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else FactorisedReduction(channels, channels, searching=False)
    raise ValueError(f"operation: {name!r} makes no layer")


class Cell(nn.Module):
    """A normal, reduction or fusion cell of a derived network."""

    def __init__(self, layout: CellLayout, nodes: Sequence[Node]):
        super().__init__()
        self.preprocess = nn.ModuleList(
            preprocessing(channels, layout.channels, factor, searching=False)
            for channels, factor in zip(layout.input_channels, layout.input_factors, strict=True)
        )
        self.sources = [[edge.source for edge in node] for node in nodes]
        self.nodes = nn.ModuleList(
            nn.ModuleList(operation(edge.operation, layout.channels, _stride(layout, edge)) for edge in node)
            for node in nodes
        )

    def forward(self, older: Maps, newer: Maps) -> list[torch.Tensor]:
        """Evaluate the cell on the outputs of the cell before last and of the last cell.

        Returns:
            The nodes, ``(B, C, H, W)`` each; the cell's output is their concatenation.
        """
        values = [layer(x) for layer, x in zip(self.preprocess, (older, newer), strict=True)]
        for sources, edges in zip(self.sources, self.nodes, strict=True):
            values.append(_node([(edge, values[source]) for source, edge in zip(sources, edges, strict=True)]))
        return values[INPUTS:]


def derived_cells(layouts: Sequence[CellLayout], genotype: Genotype) -> nn.ModuleList:
    """The cells of ``layouts`` with the operations of ``genotype``."""
    return nn.ModuleList(Cell(layout, getattr(genotype, layout.kind)) for layout in layouts)


def _node(edges: Sequence[tuple[nn.Module, torch.Tensor]]) -> torch.Tensor:
    branches = [(edge, x) for edge, x in edges if isinstance(edge, Branch)]
    identities = [edge(x) for edge, x in edges if not isinstance(edge, Branch)]
    if branches and all(edge.norm is not None for edge, _ in branches):
        return normalised_sum(
            [edge.before_norm(x) for edge, x in branches], [edge.norm for edge, _ in branches], identities
        )
    total = _summed(identities, [isinstance(edge, Pool) for edge, _ in edges if not isinstance(edge, Branch)])
    for edge, x in branches:
        total = edge.before_norm(x, total)
    return total


def _summed(maps: Sequence[torch.Tensor], are_new: Sequence[bool]) -> torch.Tensor | None:
    """The sum of maps, None without any; in the memory of one that nobody else reads where gradients are not recorded."""
    if not maps:
        return None
    first = max(range(len(maps)), key=are_new.__getitem__)
    total, others = maps[first], [x for i, x in enumerate(maps) if i != first]
    add = torch.Tensor.add_ if are_new[first] and not torch.is_grad_enabled() else torch.add
    return functools.reduce(add, others, total)


def _stride(layout: CellLayout, edge: Edge) -> int:
    return 2 if layout.kind == "reduction" and edge.source < INPUTS else 1
