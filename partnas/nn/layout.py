"""Where each cell of a network stands: its kind, its channels and how its inputs are brought to its resolution."""

from dataclasses import dataclass
from fractions import Fraction

from partnas.space import SearchSpace


@dataclass(frozen=True)
class CellLayout:
    """One cell of a network.

    Attributes:
        kind: ``'normal'``, ``'reduction'`` or ``'fusion'``.
        channels: Channels C of each node.
        nodes: Intermediate nodes; the output has ``nodes * channels`` channels.
        input_channels: Of the cell before last, and of the last cell.
        input_factors: What the resolution of each input is multiplied by before the first edge: 1/2 (a factorised
            reduction), 1, or, in fusion cells, 2 or 4.
        scale: Resolution of the output relative to the image's.
    """

    kind: str
    channels: int
    nodes: int
    input_channels: tuple[int, int]
    input_factors: tuple[Fraction, Fraction]
    scale: Fraction

    @property
    def output_channels(self) -> int:
        return self.nodes * self.channels


def stem_channels(space: SearchSpace) -> int:
    """Channels that the stem makes of the image."""
    return 3 * space.channels


def cell_layouts(space: SearchSpace) -> list[CellLayout]:
    """The cells of a network in order (section 3.2 of the paper)."""
    kinds = space.cell_kinds()
    channels = space.channels
    outputs = [(stem_channels(space), Fraction(1))] * 2
    layouts = []
    for index, kind in enumerate(kinds):
        before = outputs[-1][1]
        if kind == "fusion":
            is_last = index == len(kinds) - 1
            nodes, entry, scale = space.fusion_nodes, 2 * before, 2 * before
            cell_channels = space.slots * space.depth if is_last else space.fusion_node_channels
        else:
            is_reduction = kind == "reduction"
            channels *= 2 if is_reduction else 1
            nodes, entry, scale = space.nodes, before, before / 2 if is_reduction else before
            cell_channels = channels
        (older_channels, older_scale), (newer_channels, newer_scale) = outputs[-2:]
        layout = CellLayout(
            kind,
            cell_channels,
            nodes,
            (older_channels, newer_channels),
            (entry / older_scale, entry / newer_scale),
            scale,
        )
        layouts.append(layout)
        outputs.append((layout.output_channels, scale))
    return layouts
