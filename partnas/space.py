"""What may be searched: the macro structure of the network and the candidate operations."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

from partnas.errors import PartnasError
from partnas.skeleton import Skeleton, skeleton_named

OPERATIONS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""The eight candidate operations, in DARTS' order and by DARTS' names."""

PLACEMENTS = ("floor_after", "printed")


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """The network's macro structure and its candidate operations (sections 3.2 and 4.2 of the paper).

    Attributes:
        cells: Number of cells, N_c.
        reductions: Number of reduction cells, N_r; each halves the resolution and doubles the channels.
        fusions: Number of fusion cells, N_f, the last ones; each doubles the resolution.
        fusion_nodes: Intermediate nodes of a fusion cell, N_i; in the last one, each is the head of a part group.
        nodes: Intermediate nodes of a normal or reduction cell.
        channels: Channels of a node of the first cell; the stem has three times as many.
        skeleton: Which of ``partnas.skeleton.SKELETONS`` names the parts, and which of them a mirror swaps.
        parts: Number of body parts, the skeleton's first; None takes all, and the field then holds their number.
        operations: Candidates on every edge, out of ``OPERATIONS``.
        input_size: Side of the square input image in pixels.
        depth: Depth voxels D of a heatmap.
        groups: Parts of each head, as indices or names, of which ``"torso"`` and ``"limbs"`` stand for all of theirs;
            None cuts the parts, in order, into ``fusion_nodes`` runs.
        placement: ``'floor_after'`` reads Eq. 6 as floor(i(N_c-N_f)/(N_r+1)) + 1, which fits the paper's Table 4;
            ``'printed'`` as floor((N_c-N_f)/(N_r+1))i + 1.
        fusion_channels: Output channels of a fusion cell but the last, taken to the nearest multiple of
            ``fusion_nodes``.

    Raises:
        PartnasError: A field is out of range; the message names the field and the fix.
    """

    cells: int = 10
    reductions: int = 5
    fusions: int = 3
    fusion_nodes: int = 2
    nodes: int = 4
    channels: int = 16
    skeleton: str = "human36m"
    parts: int | None = None
    operations: tuple[str, ...] = OPERATIONS
    input_size: int = 128
    depth: int = 32
    groups: tuple[tuple[int | str, ...], ...] | None = None
    placement: str = "floor_after"
    fusion_channels: int = 256

    def __post_init__(self) -> None:
        if self.parts is None:
            object.__setattr__(self, "parts", len(self.body.parts))
        object.__setattr__(self, "operations", _as_tuple("operations", self.operations))
        if self.groups is not None:
            groups = tuple(_as_tuple("groups", group) for group in _as_tuple("groups", self.groups))
            object.__setattr__(self, "groups", groups)
        self._check_numbers()
        self._check_operations()
        self.part_groups()
        self.reduction_positions()

    @property
    def body(self) -> Skeleton:
        """The skeleton that ``skeleton`` names."""
        return skeleton_named(self.skeleton, "skeleton")

    @property
    def heatmap_size(self) -> int:
        """Side of the heatmaps in voxels."""
        return self.input_size * 2**self.fusions // 2**self.reductions

    @property
    def fusion_node_channels(self) -> int:
        """Channels of an intermediate node of a fusion cell but the last."""
        return max(1, round(self.fusion_channels / self.fusion_nodes))

    @property
    def slots(self) -> int:
        """Part slots of each head: the size of the largest part group."""
        return max(len(group) for group in self.part_groups())

    def part_groups(self) -> tuple[tuple[int, ...], ...]:
        """Part indices of each head, one group for each intermediate node of the last fusion cell."""
        if self.groups is None:
            bounds = [self.parts * n // self.fusion_nodes for n in range(self.fusion_nodes + 1)]
            return tuple(tuple(range(first, last)) for first, last in itertools.pairwise(bounds))
        groups = tuple(tuple(index for part in group for index in self._part_indices(part)) for group in self.groups)
        if len(groups) != self.fusion_nodes:
            raise PartnasError(
                f"groups: {len(groups)} groups for {self.fusion_nodes} heads; give one for each of fusion_nodes"
            )
        if not all(groups):
            raise PartnasError("groups: one is empty; give each head a part, or take fewer fusion_nodes")
        named = [part for group in groups for part in group]
        for part in range(self.parts):
            if named.count(part) != 1:
                raise PartnasError(
                    f"groups: part {part} is named {named.count(part)} times; name each of the {self.parts} parts once"
                )
        return groups

    def part_slots(self) -> tuple[int, ...]:
        """Slot of each part in the volume of ``fusion_nodes * slots`` parts that the heads make together."""
        slot_of = {}
        for head, group in enumerate(self.part_groups()):
            for place, part in enumerate(group):
                slot_of[part] = head * self.slots + place
        return tuple(slot_of[part] for part in range(self.parts))

    def reduction_positions(self) -> tuple[int, ...]:
        """Positions of the reduction cells, counted from 1 (Eq. 6)."""
        backbone, runs = self.cells - self.fusions, self.reductions + 1
        numbers = range(1, self.reductions + 1)
        if self.placement == "floor_after":
            positions = tuple(i * backbone // runs + 1 for i in numbers)
        else:
            positions = tuple(backbone // runs * i + 1 for i in numbers)
        if len(set(positions)) < self.reductions:
            raise PartnasError(
                f"cells: Eq. 6 as printed finds no {self.reductions} places for reduction cells among {backbone} cells "
                "before the fusion cells; take more cells or placement floor_after"
            )
        return positions

    def cell_kinds(self) -> tuple[str, ...]:
        """``'normal'``, ``'reduction'`` or ``'fusion'`` for each cell, in order."""
        reductions = set(self.reduction_positions())
        backbone = ("reduction" if n + 1 in reductions else "normal" for n in range(self.cells - self.fusions))
        return (*backbone, *["fusion"] * self.fusions)

    def replace(self, **changes: Any) -> "SearchSpace":
        """A copy with some fields changed; with another skeleton the number of parts is that one's, unless it is given."""
        values = self.to_dict()
        if "skeleton" in changes:
            values["parts"] = None
        return self.from_dict({**values, **changes})

    def to_dict(self) -> dict[str, Any]:
        """A dictionary that JSON can hold."""
        values = dataclasses.asdict(self)
        values["operations"] = list(self.operations)
        values["groups"] = None if self.groups is None else [list(group) for group in self.groups]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SearchSpace":
        """The inverse of :meth:`to_dict`; fields left out have their defaults.

        Raises:
            PartnasError: An unknown field, or a value out of range.
        """
        if not isinstance(values, Mapping):
            raise PartnasError(f"network: {values!r} is not a mapping; give the fields of a search space by name")
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise PartnasError(f"network: field {name!r} is not known; use some of {', '.join(known)}")
        return cls(**values)

    def _check_numbers(self) -> None:
        least = {
            "cells": 1, "reductions": 0, "fusions": 1, "fusion_nodes": 1, "nodes": 1, "channels": 2, "parts": 1,
            "input_size": 1, "depth": 1, "fusion_channels": 1,
        }  # fmt: skip
        for name, bound in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < bound:
                raise PartnasError(f"{name}: {value!r} is not a whole number of at least {bound}; correct it")
        if self.cells < self.reductions + self.fusions:
            raise PartnasError(
                f"cells: {self.cells} are fewer than {self.reductions} reductions and {self.fusions} fusions together; "
                f"take at least {self.reductions + self.fusions}"
            )
        if self.channels % 2:
            raise PartnasError(f"channels: {self.channels} is odd; take an even number, skips at stride 2 halve it")
        if self.parts > len(self.body.parts):
            raise PartnasError(
                f"parts: {self.parts} are more than the {len(self.body.parts)} of {self.skeleton}; leave parts out"
            )
        if self.fusion_nodes > self.parts:
            raise PartnasError(f"fusion_nodes: {self.fusion_nodes} heads for {self.parts} parts; take fewer heads")
        if self.input_size % 2**self.reductions:
            raise PartnasError(
                f"input_size: {self.input_size} is not divisible by 2^reductions = {2**self.reductions}; "
                f"take a multiple of {2**self.reductions}"
            )
        if self.placement not in PLACEMENTS:
            raise PartnasError(f"placement: {self.placement!r} is not known; use one of {', '.join(PLACEMENTS)}")

    def _check_operations(self) -> None:
        for name in self.operations:
            if name not in OPERATIONS:
                raise PartnasError(f"operations: {name!r} is not known; use some of {', '.join(OPERATIONS)}")
        if len(set(self.operations)) < len(self.operations):
            raise PartnasError("operations: one is named twice; name each once")
        if not set(self.operations) - {"none"}:
            raise PartnasError("operations: nothing to choose from; name at least one that is not 'none'")

    def _part_indices(self, part: int | str) -> tuple[int, ...]:
        if part in ("torso", "limbs"):
            return tuple(index for index in getattr(self.body, part) if index < self.parts)
        if isinstance(part, str):
            known = self.body.parts[: self.parts]
            if part not in known:
                raise PartnasError(f"groups: part {part!r} is not known; use some of {', '.join(known)}, torso, limbs")
            return (known.index(part),)
        if not isinstance(part, int) or isinstance(part, bool) or not 0 <= part < self.parts:
            raise PartnasError(f"groups: {part!r} is not a part; give a name or an index from 0 to {self.parts - 1}")
        return (part,)


def _as_tuple(field: str, value: Any) -> tuple:
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise PartnasError(f"{field}: {value!r} is not a list; write one in brackets")
    return tuple(value)
