"""A searched cell drawn as a graph, like Fig. 4 of the paper, written directly as SVG."""

import html
from collections.abc import Sequence

from partnas.skeleton import PARTS
from partnas.viz.colours import OPERATION_COLOURS

Nodes = Sequence[Sequence[tuple[str, int] | list]]

ROW, COLUMN, NODE_WIDTH, NODE_HEIGHT, LABEL_WIDTH, LABEL_HEIGHT = 62, 210, 96, 36, 96, 20
INPUTS = ("c_{k-2}", "c_{k-1}")


def draw_cell(nodes: Nodes, kind: str, groups: Sequence[Sequence[int]] | None = None) -> str:
    """A cell as SVG: inputs at the left, one column for each intermediate node, the concatenation at the right.

    Every edge runs through a lane of its own, so that no two labels touch.

    Args:
        nodes: For each intermediate node its edges ``(operation, source)``; sources 0 and 1 are the inputs.
        kind: ``normal``, ``reduction`` or ``fusion``.
        groups: Part indices of each intermediate node's group, for the last fusion cell.

    Returns:
        An ``<svg>`` element.
    """
    edges = [(source, target + 2, operation) for target, node in enumerate(nodes) for operation, source in node]
    lanes = len(edges)
    group_rows = max(-(-len(group) // 2) for group in groups) if groups else 0
    height = max(lanes, 3) * ROW + 40 + max(0, 13 * group_rows - 2 * NODE_HEIGHT // 2)
    x_of = {0: 70.0, 1: 70.0}
    y_of = {0: height * 0.3, 1: height * 0.72}
    first = 0
    for target, node in enumerate(nodes):
        x_of[target + 2] = 70.0 + COLUMN * (target + 1) + (30 if target else 0)
        y_of[target + 2] = 20 + ROW * (first + len(node) / 2)
        first += len(node)
    output_x = 70.0 + COLUMN * (len(nodes) + 1) + 10
    width = output_x + NODE_WIDTH / 2 + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'style="max-width: {width:.0f}px" role="img" '
        f'aria-label="{html.escape(kind)} cell" font-family="system-ui, sans-serif" font-size="13">',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#52606D"/></marker></defs>',
    ]
    for node in range(2, len(nodes) + 2):
        x, y = x_of[node] + NODE_WIDTH / 2, y_of[node]
        parts.append(
            f'<path class="concatenation" d="M{x:.1f} {y:.1f} C{x + 60:.1f} {y:.1f} {output_x - 150:.1f} {height / 2:.1f} '
            f'{output_x - NODE_WIDTH / 2:.1f} {height / 2:.1f}" fill="none" stroke="#CBD2D9" stroke-width="2"/>'
        )
    labels = []
    for lane, (source, target, operation) in enumerate(edges):
        colour = OPERATION_COLOURS.get(operation, "#52606D")
        x0, y0 = x_of[source] + NODE_WIDTH / 2, y_of[source]
        x1, y1 = x_of[target] - NODE_WIDTH / 2, y_of[target]
        lane_y = 20 + ROW * (lane + 0.5)
        label_x = x1 - 62
        parts.append(
            f'<path class="edge" d="M{x0:.1f} {y0:.1f} C{x0 + 34:.1f} {y0:.1f} {min(x0 + 24, label_x - 70):.1f} {lane_y:.1f} '
            f"{label_x - LABEL_WIDTH / 2:.1f} {lane_y:.1f} L{label_x + LABEL_WIDTH / 2 - 10:.1f} {lane_y:.1f} "
            f'Q{x1 - 14:.1f} {lane_y:.1f} {x1:.1f} {y1:.1f}" fill="none" stroke="{colour}" stroke-width="2.5" '
            'marker-end="url(#head)"/>'
        )
        labels.append(_box(label_x, lane_y, LABEL_WIDTH, LABEL_HEIGHT, "white", colour, operation, "label", 11.5))
    parts += labels
    scale = " (upsampled)" if kind == "fusion" else ""
    for place, name in enumerate(INPUTS):
        parts.append(_box(x_of[place], y_of[place], NODE_WIDTH, NODE_HEIGHT, "#E3F9E5", "#3F9142", name, "node", 13))
        if scale:
            parts.append(_text(x_of[place], y_of[place] + 32, scale.strip(), 11, "#52606D"))
    for place in range(len(nodes)):
        x, y = x_of[place + 2], y_of[place + 2]
        parts.append(_box(x, y, NODE_WIDTH, NODE_HEIGHT, "#E0E8F9", "#3E66A8", f"node {place}", "node", 13))
        if groups is not None:
            names = [PARTS[part] for part in groups[place]]
            lines = [", ".join(names[i : i + 2]) for i in range(0, len(names), 2)]
            for row, line in enumerate(lines):
                parts.append(_text(x, y + 34 + 13 * row, line, 10.5, "#323F4B"))
    parts.append(_box(output_x, height / 2, NODE_WIDTH, NODE_HEIGHT, "#FFF3C4", "#B08A1E", "c_k", "node", 13))
    parts.append("</svg>")
    return "\n".join(parts)


def _box(
    x: float, y: float, width: float, height: float, fill: str, stroke: str, label: str, name: str, size: float
) -> str:
    return (
        f'<rect class="{name}" x="{x - width / 2:.1f}" y="{y - height / 2:.1f}" width="{width}" height="{height}" rx="6" '
        f'fill="{fill}" stroke="{stroke}" stroke-width="1.5"/>' + _text(x, y + size / 3, label, size, "#1F2933")
    )


def _text(x: float, y: float, label: str, size: float, colour: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" font-size="{size}" fill="{colour}">{html.escape(label)}</text>'
