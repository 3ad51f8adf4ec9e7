"""Curves over the epochs: losses and errors, and the alphas of every edge of a cell."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from partnas.viz.colours import INK, RULE, operation_colour
from partnas.viz.page import TEMPLATE

CURVE_HEIGHT, EDGE_HEIGHT, EDGE_GAP, LEGEND_HEIGHT, FOOT = 300, 92, 34, 70, 46
MOST_POINTS = 100


def curve_figure(series: Sequence[dict[str, Any]], y_title: str) -> go.Figure | None:
    """Curves over the epochs on an axis that begins at 0; the legend tells their last values.

    Args:
        series: Each with ``name``, ``x`` (epochs) and ``y``; a value that is no finite number leaves a gap, and a curve
            of nothing else is left out.
        y_title: What is shown, with its unit.

    Returns:
        The figure, or None where no curve is left.
    """
    traces = []
    for line in series:
        values = numbers(line["y"])
        if np.isfinite(values).any():
            finite = values[np.isfinite(values)]
            dash = "dash" if traces else "solid"
            traces.append(
                go.Scatter(
                    x=line["x"], y=values, name=f"{line['name']}: last {finite[-1]:.4g}",
                    mode="lines" if len(finite) > 1 else "markers", line={"width": 2.2, "dash": dash},
                    hovertemplate="%{y:.4g}<extra>" + line["name"] + "</extra>",
                )
            )  # fmt: skip
    if not traces:
        return None
    figure = go.Figure(traces)
    figure.update_layout(
        template=TEMPLATE, height=CURVE_HEIGHT, margin={"l": 60, "r": 16, "t": 50, "b": 46}, showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"}, hovermode="x unified",
    )  # fmt: skip
    figure.update_xaxes(title_text="epoch", hoverformat="d", **epoch_ticks([x for line in series for x in line["x"]]))
    figure.update_yaxes(title_text=y_title, rangemode="tozero")
    return figure


def alpha_figure(
    epochs: Sequence[int], history: Sequence[Sequence[Sequence[float]]], operations: Sequence[str], kept: dict
) -> go.Figure:
    """The softmax weights of one kind of cell over the epochs: a chart for every edge, a row for every target node.

    Args:
        epochs: ``E`` epochs.
        history: ``[edge][epoch][operation]``, edges sorted by node, then by source.
        operations: Names, in the order of the weights.
        kept: ``(target, source)`` of the edges that the genotype keeps, to the operation on it; they are framed.
    """
    edges = edge_list(len(history))
    rows, columns = edges[-1][0] + 1, edges[-1][0] + 2
    inner = rows * EDGE_HEIGHT + (rows - 1) * EDGE_GAP
    figure = make_subplots(
        rows, columns, shared_xaxes="all", shared_yaxes="all", horizontal_spacing=0.018,
        vertical_spacing=EDGE_GAP / inner,
        specs=[[{} if source < row + 2 else None for source in range(columns)] for row in range(rows)],
    )  # fmt: skip
    chosen = np.unique(np.linspace(0, len(epochs) - 1, MOST_POINTS).round().astype(int))
    shown = np.asarray(epochs)[chosen]
    weights = np.array(history, dtype=np.float32)[:, chosen]  # [edge, epoch, operation]
    for edge, (target, source) in enumerate(edges):
        place = {"row": target + 1, "col": source + 1}
        choice = kept.get((target, source))
        for column in sorted(range(len(operations)), key=lambda column: operations[column] == choice):
            operation, colour = operations[column], operation_colour(operations[column])
            figure.add_trace(
                go.Scatter(
                    x=shown, y=weights[edge, :, column], name=operation, legendgroup=operation, legendrank=column,
                    showlegend=edge == 0, mode="lines" if len(shown) > 1 else "markers",
                    marker={"color": colour}, line={"color": colour, "width": 3 if operation == choice else 1.3},
                    hovertemplate="%{y:.3f} at epoch %{x}",
                ),
                **place,
            )  # fmt: skip
        frame = {"linecolor": operation_colour(choice) if choice else RULE, "linewidth": 2.5 if choice else 1}
        figure.update_xaxes(**frame, showline=True, mirror=True, **place)
        figure.update_yaxes(**frame, showline=True, mirror=True, **place)
        text = f"{source_name(source)} → node {target}"
        _write(figure, text, {"x": 0, "y": 1, "yshift": 2, "yanchor": "bottom"}, place)
        if choice:
            _write(figure, f"<b>{choice}</b>", {"x": 0, "xshift": 4, "y": 1, "yanchor": "top"}, place)
    figure.update_layout(
        template=TEMPLATE, height=inner + LEGEND_HEIGHT + FOOT, hovermode="closest",
        margin={"l": 54, "r": 8, "t": LEGEND_HEIGHT, "b": FOOT},
        legend={"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top", "itemsizing": "constant", "tracegroupgap": 0},
    )  # fmt: skip
    figure.update_xaxes(nticks=4, **epoch_ticks(epochs, most=4))
    figure.update_yaxes(range=[0, 1.04 * max(0.25, float(np.nanmax(weights)))], nticks=4)
    figure.update_xaxes(title_text="epoch", row=rows)
    figure.update_yaxes(title_text="weight", col=1)
    return figure


def edge_list(count: int) -> list[tuple[int, int]]:
    """``(target, source)`` of the rows of alpha, node by node and source by source; sources 0 and 1 are the inputs."""
    edges: list[tuple[int, int]] = []
    target = 0
    while len(edges) < count:
        edges += [(target, source) for source in range(target + 2)]
        target += 1
    return edges


def source_name(source: int) -> str:
    return f"input k−{2 - source}" if source < 2 else f"node {source - 2}"


def epoch_ticks(epochs: Sequence[int], most: int = 8) -> dict[str, Any]:
    """Few epochs have a tick each, so that none stands at a fraction of an epoch."""
    return {"dtick": 1} if max(epochs) - min(epochs) < most else {}


def numbers(values: Sequence[Any]) -> np.ndarray:
    """As float64; what is no number becomes NaN."""
    return np.array([value if isinstance(value, int | float) else np.nan for value in values], dtype=np.float64)


def _write(figure: go.Figure, text: str, where: dict[str, Any], place: dict[str, int]) -> None:
    figure.add_annotation(
        text=text, showarrow=False, xref="x domain", yref="y domain", xanchor="left", font={"size": 12, "color": INK},
        **where, **place,
    )  # fmt: skip
