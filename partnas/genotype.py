"""What was found: for every intermediate node of each kind of cell, its operations and where they read from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from partnas.errors import PartnasError
from partnas.space import OPERATIONS, SearchSpace

FORMAT = "partnas.genotype"
VERSION = 1
KINDS = ("normal", "reduction", "fusion")
INPUTS = 2
"""Inputs of a cell: the outputs of the two cells before it are the sources 0 and 1."""


class Edge(NamedTuple):
    """One operation that enters a node.

    ``source`` 0 is the output of the cell before last, 1 that of the last cell, 2 and on the intermediate nodes.
    """

    operation: str
    source: int


Node = tuple[Edge, ...]


@dataclass(frozen=True)
class Genotype:
    """The cells that a search found, or that a person wrote (section 3.1 of the paper, DARTS).

    Attributes:
        normal, reduction, fusion: For each intermediate node in order, the edges that enter it; the node is the sum
            of their results, and the cell's output the concatenation of its nodes.

    Raises:
        PartnasError: An unknown operation, an edge that reads from the node itself, from a later one or twice from
            the same source, or a node without edges.
    """

    normal: tuple[Node, ...]
    reduction: tuple[Node, ...]
    fusion: tuple[Node, ...]

    def __post_init__(self) -> None:
        for kind in KINDS:
            object.__setattr__(self, kind, _checked_cell(getattr(self, kind), kind, "genotype"))

    def to_dict(self) -> dict[str, Any]:
        """A dictionary that JSON can hold."""
        cells = {kind: [[list(edge) for edge in node] for node in getattr(self, kind)] for kind in KINDS}
        return {"format": FORMAT, "version": VERSION, **cells}

    def to_json(self) -> str:
        """JSON with one node a line."""
        lines = [f'  "format": {json.dumps(FORMAT)}', f'  "version": {VERSION}']
        for kind in KINDS:
            nodes = ",\n".join(f"    {json.dumps([list(edge) for edge in node])}" for node in getattr(self, kind))
            lines.append(f'  "{kind}": [\n{nodes}\n  ]')
        return "{\n" + ",\n".join(lines) + "\n}\n"

    def save(self, path: str | Path) -> None:
        """Write :meth:`to_json` to a file."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def from_dict(cls, values: Any, where: str = "genotype") -> "Genotype":
        """The inverse of :meth:`to_dict`.

        Raises:
            PartnasError: A field is missing or wrong; the message begins with ``where``.
        """
        if not isinstance(values, Mapping) or values.get("format") != FORMAT:
            raise PartnasError(f"{where}: format: not {FORMAT!r}; give a genotype.json that a search wrote")
        if values.get("version") != VERSION:
            raise PartnasError(
                f"{where}: version: {values.get('version')!r} is not known; this program reads {VERSION}"
            )
        for kind in KINDS:
            if kind not in values:
                raise PartnasError(f"{where}: field {kind!r} is missing; add the list of its nodes")
        return cls(**{kind: _checked_cell(values[kind], kind, where) for kind in KINDS})

    @classmethod
    def from_json(cls, text_or_path: str | Path) -> "Genotype":
        """Parse a JSON text, or read the file of that name.

        Raises:
            PartnasError: The text is not a valid genotype, or the file cannot be read.
        """
        if isinstance(text_or_path, str) and text_or_path.lstrip().startswith("{"):
            return cls._parse(text_or_path, "genotype")
        return cls.load(text_or_path)

    @classmethod
    def load(cls, path: str | Path) -> "Genotype":
        """Read a file.

        Raises:
            PartnasError: The file cannot be read, or does not hold a valid genotype.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise PartnasError(f"{path}: no such file; give a genotype.json") from None
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not text"
            raise PartnasError(f"{path}: cannot be read ({reason}); give a genotype.json") from None
        return cls._parse(text, str(path))

    @classmethod
    def _parse(cls, text: str, where: str) -> "Genotype":
        try:
            values = json.loads(text)
        except ValueError as error:
            place = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "text"
            raise PartnasError(f"{where}: {place}: not JSON; mend the syntax") from None
        return cls.from_dict(values, where)

    @classmethod
    def from_alphas(cls, alphas: Mapping[str, torch.Tensor], space: SearchSpace) -> "Genotype":
        """Derive the cells from the architecture parameters (section 3.1 of the paper).

        A node keeps its two strongest incoming edges (all, where it has fewer) and on each the strongest operation
        but ``none``; an edge is as strong as that operation's weight in the softmax over all of its candidates. Of
        equals the first stays.

        Args:
            alphas: ``(edges, operations)`` for each kind of cell. Edges are sorted by node, then by source.
        """
        return cls(**{kind: _derive_cell(alphas[kind], _node_count(kind, space), space) for kind in KINDS})

    @classmethod
    def random(cls, space: SearchSpace, generator: torch.Generator | None = None) -> "Genotype":
        """A genotype drawn uniformly from ``space``: two different sources a node, any operation but ``none``."""
        operations = [name for name in space.operations if name != "none"]

        def node(index: int) -> Node:
            sources = torch.randperm(INPUTS + index, generator=generator)[:INPUTS].sort().values.tolist()
            chosen = torch.randint(len(operations), (len(sources),), generator=generator).tolist()
            return tuple(Edge(operations[o], source) for o, source in zip(chosen, sources, strict=True))

        return cls(**{kind: tuple(node(i) for i in range(_node_count(kind, space))) for kind in KINDS})

    def check(self, space: SearchSpace, where: str = "genotype") -> None:
        """See that the cells have as many nodes as ``space`` wants.

        Raises:
            PartnasError: A cell has another number of nodes.
        """
        for kind in KINDS:
            found, wanted = len(getattr(self, kind)), _node_count(kind, space)
            if found != wanted:
                field = "fusion_nodes" if kind == "fusion" else "nodes"
                raise PartnasError(
                    f"{where}: {kind}: {found} nodes where the network has {wanted}; set {field} to {found} or "
                    "give another genotype"
                )


def edge_count(nodes: int) -> int:
    """Edges of a cell of ``nodes`` intermediate nodes, each of which may read both inputs and all nodes before it."""
    return sum(INPUTS + node for node in range(nodes))


def _node_count(kind: str, space: SearchSpace) -> int:
    return space.fusion_nodes if kind == "fusion" else space.nodes


def _derive_cell(alphas: torch.Tensor, nodes: int, space: SearchSpace) -> tuple[Node, ...]:
    strengths = torch.softmax(alphas.detach().double(), dim=1).tolist()  # [E][O]
    candidates = [o for o, name in enumerate(space.operations) if name != "none"]
    cell, first = [], 0
    for node in range(nodes):
        rows = strengths[first : first + INPUTS + node]
        best = [max(candidates, key=row.__getitem__) for row in rows]
        ranked = sorted(range(len(rows)), key=lambda source: -rows[source][best[source]])
        cell.append(tuple(Edge(space.operations[best[source]], source) for source in sorted(ranked[:INPUTS])))
        first += len(rows)
    return tuple(cell)


def _checked_cell(nodes: Any, kind: str, where: str) -> tuple[Node, ...]:
    if not _is_list(nodes) or not nodes:
        raise PartnasError(f"{where}: {kind}: not a list of nodes; write one list of edges for each node")
    return tuple(_checked_node(node, index, f"{where}: {kind}: node {index}") for index, node in enumerate(nodes))


def _checked_node(edges: Any, index: int, where: str) -> Node:
    if not _is_list(edges) or not edges:
        raise PartnasError(f'{where}: no list of edges; write at least one, such as ["skip_connect", 0]')
    checked = []
    for edge in edges:
        if not _is_list(edge) or len(edge) != 2:
            raise PartnasError(f'{where}: {edge!r} is not an edge; write it as ["operation", source]')
        operation, source = edge
        if operation not in OPERATIONS or operation == "none":
            raise PartnasError(
                f"{where}: operation {operation!r} is none that an edge can have; use one of {', '.join(OPERATIONS[1:])}"
            )
        if not isinstance(source, int) or isinstance(source, bool) or not 0 <= source < INPUTS + index:
            raise PartnasError(
                f"{where}: impossible edge from source {source!r}; sources of this node are 0 to {INPUTS + index - 1}"
            )
        if any(source == other.source for other in checked):
            raise PartnasError(f"{where}: two edges from source {source}; keep one of them")
        checked.append(Edge(operation, source))
    return tuple(checked)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
