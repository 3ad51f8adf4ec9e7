"""A searched cell drawn as a graph from left to right, like Fig. 4 of the paper."""

import html
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

from partnas.skeleton import HUMAN36M, Skeleton
from partnas.viz.colours import CONCATENATION, FAINT_INK, INK, group_colour, operation_colour, tint

Nodes = Sequence[Sequence[tuple[str, int] | list]]
Point = tuple[float, float]

LANE, NODE_GAP, LINE = 30.0, 16.0, 15.0
LABEL_WIDTH, LABEL_HEIGHT, NODE_WIDTH, INPUT_WIDTH, INPUT_HEIGHT = 106.0, 21.0, 58.0, 58.0, 34.0
FAN, ARROW, BAR_WIDTH, NAMES_WIDTH = 46.0, 20.0, 26.0, 230.0
MARGIN, TOP = 14.0, 34.0
INPUT_COLOUR = "#52796F"
NAMES_COLUMNS = 34


@dataclass(frozen=True)
class Box:
    """A rectangle with a name in it: ``kind`` is ``input``, ``node``, ``label`` or ``output``."""

    kind: str
    x: float
    y: float
    width: float
    height: float
    fill: str
    stroke: str
    text: str = ""
    subscript: str = ""

    @property
    def middle(self) -> Point:
        return self.x + self.width / 2, self.y + self.height / 2


@dataclass(frozen=True)
class Line:
    """From ``points[0]`` by a cubic curve over the next three points, then straight to those that are left."""

    kind: str
    points: tuple[Point, ...]
    colour: str
    width: float


@dataclass(frozen=True)
class Text:
    """``anchor`` is ``start``, ``middle`` or ``end``, as in SVG; ``y`` is the base line."""

    x: float
    y: float
    text: str
    size: float
    colour: str
    bold: bool = False
    anchor: str = "start"


@dataclass
class Layout:
    """Everything that a drawing of a cell consists of, in pixels from the upper left corner."""

    width: float
    height: float
    boxes: list[Box] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)


def lay_out(
    nodes: Nodes, kind: str, groups: Sequence[Sequence[int]] | None = None, skeleton: Skeleton = HUMAN36M
) -> Layout:
    """Place a cell so that nothing can meet but lines; see :func:`draw_cell` for the arguments.

    Each edge has a lane, and each node the lanes of its own edges: a staircase from the upper left to the lower
    right. Lines fall only in the gap behind a source's column and run only along lanes, which are free there: above
    a node's lanes lie earlier nodes' boxes, which are farther left than any line that comes from a node, and the
    concatenation's lines go to the right, where only later nodes are, whose boxes are farther down.
    """
    names = [group_lines(group, skeleton) for group in groups] if groups is not None else [[] for _ in nodes]
    heights = [max(LANE * len(node), LINE * len(lines) + 4) for node, lines in zip(nodes, names, strict=True)]
    tops = [TOP + sum(heights[:node]) + NODE_GAP * node for node in range(len(nodes))]
    pitch = FAN + LABEL_WIDTH + ARROW + NODE_WIDTH
    first_x = MARGIN + INPUT_WIDTH + FAN / 2
    bar_x = first_x + pitch * len(nodes) + FAN
    width = bar_x + BAR_WIDTH + MARGIN + (NAMES_WIDTH if groups is not None else 0)
    layout = Layout(width, tops[-1] + heights[-1] + MARGIN)

    node_boxes = [
        Box(
            "node", first_x + pitch * (node + 1) - NODE_WIDTH, tops[node], NODE_WIDTH, heights[node],
            *_node_colours(node, groups), f"node {node}",
        )
        for node in range(len(nodes))
    ]  # fmt: skip
    lanes = [_lanes(node, tops[place], heights[place]) for place, node in enumerate(nodes)]
    inputs = _inputs(nodes, lanes, layout, kind)
    sources = [*inputs, *node_boxes]
    for node, box in enumerate(node_boxes):
        _concatenate(layout, box, bar_x, groups, node, names[node])
    for node, box in enumerate(node_boxes):
        for (operation, source), y in zip(nodes[node], lanes[node], strict=True):
            _edge(layout, sources[source], box, y, operation)
    layout.boxes += [*inputs, *node_boxes]
    layout.texts.append(Text(bar_x + BAR_WIDTH, TOP - 12, "concatenation", 11, FAINT_INK, anchor="end"))
    return layout


def draw_cell(
    nodes: Nodes, kind: str, groups: Sequence[Sequence[int]] | None = None, skeleton: Skeleton = HUMAN36M
) -> str:
    """A cell as SVG: inputs at the left, one column for each intermediate node, the concatenation at the right.

    Args:
        nodes: For each intermediate node its edges ``(operation, source)``; sources 0 and 1 are the inputs.
        kind: ``normal``, ``reduction`` or ``fusion``.
        groups: Part indices of each intermediate node's group, for the last fusion cell.
        skeleton: Whose parts they are.

    Returns:
        An ``<svg>`` element.
    """
    layout = lay_out(nodes, kind, groups, skeleton)
    drawn = [_svg_line(line) for line in layout.lines]
    drawn += [_svg_box(box) for box in layout.boxes]
    drawn += [_svg_text(text) for text in layout.texts]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {layout.width:.0f} {layout.height:.0f}" '
        f'style="max-width: {layout.width:.0f}px; min-width: {0.8 * layout.width:.0f}px" role="img" '
        f'aria-label="{html.escape(kind)} cell" font-family="system-ui, sans-serif">\n' + "\n".join(drawn) + "\n</svg>"
    )


def head_title(group: Sequence[int], skeleton: Skeleton = HUMAN36M) -> str:
    """Whose head a node is: the torso's or the limbs' with the groups of the paper, else that of so many parts."""
    known = {skeleton.torso: "the torso", skeleton.limbs: "the limbs"}
    count = "1 part" if len(group) == 1 else f"{len(group)} parts"
    name = known.get(tuple(sorted(group)))
    return f"head of {name} ({count})" if name else f"head of {count}"


def group_lines(group: Sequence[int], skeleton: Skeleton) -> list[str]:
    """What stands beside a head: its title, and its parts."""
    parts = ", ".join(skeleton.parts[part].replace("_", "\N{NO-BREAK SPACE}") for part in group)
    lines = textwrap.wrap(parts, NAMES_COLUMNS, break_long_words=False, break_on_hyphens=False)
    return [head_title(group, skeleton), *(line.replace("\N{NO-BREAK SPACE}", " ") for line in lines)]


def _node_colours(node: int, groups: Sequence | None) -> tuple[str, str]:
    colour = "#5A6F96" if groups is None else group_colour(node)
    return tint(colour, 0.18), colour


def _lanes(node: Sequence, top: float, height: float) -> list[float]:
    """The y of each edge's lane. Lines from later sources fall farther right, so theirs lie higher, the inputs' lowest."""
    sources = [source for _, source in node]
    order = sorted(sources, key=lambda source: source if source < 2 else -source)
    first = top + (height - LANE * (len(node) - 1)) / 2
    return [first + LANE * order.index(source) for source in sources]


def _inputs(nodes: Nodes, lanes: list[list[float]], layout: Layout, kind: str) -> list[Box]:
    """The two inputs, each near the lanes that leave it, but apart and inside the picture."""
    least, room = TOP + INPUT_HEIGHT / 2, INPUT_HEIGHT + 30
    most = layout.height - MARGIN - INPUT_HEIGHT / 2 - (14 if kind != "normal" else 0)
    wanted = []
    for place in (0, 1):
        ys = [
            y
            for node, ys in zip(nodes, lanes, strict=True)
            for (_, source), y in zip(node, ys, strict=True)
            if source == place
        ]
        wanted.append(sum(ys) / len(ys) if ys else least if place == 0 else most)
    if most - least < room:
        most = least + room
        layout.height = most + INPUT_HEIGHT / 2 + MARGIN + 14
    middle = min(max(sum(wanted) / 2, least + room / 2), most - room / 2)
    half = max(room, wanted[1] - wanted[0]) / 2
    ys = (max(least, middle - half), min(most, middle + half))
    note = {"reduction": "stride 2", "fusion": "upsampled"}.get(kind)
    if note:
        layout.texts += [
            Text(MARGIN + INPUT_WIDTH / 2, y + INPUT_HEIGHT / 2 + 14, note, 11, FAINT_INK, anchor="middle") for y in ys
        ]
    return [
        Box(
            "input", MARGIN, y - INPUT_HEIGHT / 2, INPUT_WIDTH, INPUT_HEIGHT, tint(INPUT_COLOUR, 0.18), INPUT_COLOUR,
            "c", f"k−{2 - place}",
        )
        for place, y in enumerate(ys)
    ]  # fmt: skip


def _edge(layout: Layout, source: Box, target: Box, y: float, operation: str) -> None:
    colour = operation_colour(operation)
    x0, y0 = source.x + source.width, source.middle[1]
    label_x = target.x - ARROW - LABEL_WIDTH
    bend = x0 + FAN if source.kind == "node" else MARGIN + INPUT_WIDTH + 1.4 * FAN
    reach = (bend - x0) * 0.55
    points = ((x0, y0), (x0 + reach, y0), (bend - reach, y), (bend, y), (target.x, y))
    layout.lines.append(Line("edge", points, colour, 2.2))
    layout.boxes.append(
        Box("label", label_x, y - LABEL_HEIGHT / 2, LABEL_WIDTH, LABEL_HEIGHT, tint(colour, 0.15), colour, operation)
    )


def _concatenate(layout: Layout, box: Box, bar_x: float, groups: Sequence | None, node: int, lines: list[str]) -> None:
    """A node's line to its piece of the output, and the names of the parts that it is the head of."""
    x, y = box.x + box.width, box.middle[1]
    third = (bar_x - x) / 3
    points = ((x, y), (x + third, y), (bar_x - third, y), (bar_x, y))
    layout.lines.append(Line("concatenation", points, CONCATENATION, 2.0))
    fill, stroke = _node_colours(node, groups)
    layout.boxes.append(
        Box("output", bar_x, box.y - NODE_GAP / 2 + 1, BAR_WIDTH, box.height + NODE_GAP - 2, fill, stroke)
    )
    top = y - LINE * len(lines) / 2
    for row, line in enumerate(lines):
        size, colour = (13, INK) if row == 0 else (12, FAINT_INK)
        layout.texts.append(Text(bar_x + BAR_WIDTH + 12, top + LINE * row + 11, line, size, colour, bold=row == 0))


def _svg_line(line: Line) -> str:
    (x, y), first, second, third, *rest = line.points
    curve = " ".join(f"{px:.1f} {py:.1f}" for px, py in (first, second, third))
    straight = "".join(f" L{px:.1f} {py:.1f}" for px, py in rest)
    end_x, end_y = line.points[-1]
    return (
        f'<path class="{line.kind}" d="M{x:.1f} {y:.1f} C{curve}{straight}" fill="none" stroke="{line.colour}" '
        f'stroke-width="{line.width}"/>'
        f'<path d="M{end_x:.1f} {end_y:.1f} l-9 -4.5 v9 z" fill="{line.colour}"/>'
    )


def _svg_box(box: Box) -> str:
    x, y = box.middle
    size = 12 if box.kind == "label" else 13
    name = html.escape(box.text)
    if box.subscript:
        name += f'<tspan font-size="10" dy="4">{html.escape(box.subscript)}</tspan>'
    text = f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle" font-size="{size}" fill="{INK}">{name}</text>'
    return (
        f'<rect class="{box.kind}" x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" '
        f'rx="6" fill="{box.fill}" stroke="{box.stroke}" stroke-width="1.4"/>' + (text if box.text else "")
    )


def _svg_text(text: Text) -> str:
    weight = ' font-weight="600"' if text.bold else ""
    return (
        f'<text x="{text.x:.1f}" y="{text.y:.1f}" text-anchor="{text.anchor}" font-size="{text.size}"{weight} '
        f'fill="{text.colour}">{html.escape(text.text)}</text>'
    )
