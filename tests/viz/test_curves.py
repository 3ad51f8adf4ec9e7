import numpy as np
import pytest

from partnas.viz.colours import CURVES, OPERATION_COLOURS
from partnas.viz.curves import MOST_POINTS, alpha_figure, curve_figure, edge_list, source_name
from partnas.viz.page import as_script

OPERATIONS = list(OPERATION_COLOURS)


def test_curves_have_named_axes_with_units_and_begin_at_0():
    figure = curve_figure(
        [{"name": "a", "x": [1, 2], "y": [3.0, 2.0]}, {"name": "b", "x": [2], "y": [2.5]}], "MPJPE (mm)"
    )
    assert figure.layout.xaxis.title.text == "epoch"
    assert figure.layout.yaxis.title.text == "MPJPE (mm)"
    assert figure.layout.yaxis.rangemode == "tozero"
    assert [trace.name for trace in figure.data] == ["a: last 2", "b: last 2.5"]
    assert [trace.line.dash for trace in figure.data] == ["solid", "dash"]
    assert list(figure.data[1].x) == [2]
    assert figure.layout.template.layout.colorway == CURVES


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None, "?"])
def test_values_that_are_no_numbers_are_gaps(bad):
    figure = curve_figure([{"name": "a", "x": [1, 2, 3], "y": [bad, 2, 1]}], "mm")
    assert not np.isfinite(figure.data[0].y[0])
    assert list(figure.data[0].y[1:]) == [2, 1]
    assert "NaN" not in as_script(figure)
    assert curve_figure([{"name": "a", "x": [1], "y": [bad]}, {"name": "b", "x": [], "y": []}], "mm") is None


def test_rows_of_alpha_are_sorted_by_node_then_source():
    assert edge_list(5) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    assert edge_list(14)[-1] == (3, 4)


@pytest.mark.parametrize(("edges", "epochs"), [(2, 1), (5, 3), (9, 30), (14, 1000)])
def test_every_edge_has_its_chart(edges, epochs):
    history = np.random.default_rng(0).dirichlet(np.ones(8), (edges, epochs)).tolist()
    kept = {(0, 0): "sep_conv_3x3", (0, 1): "skip_connect"}
    numbers = list(range(1, epochs + 1))
    figure = alpha_figure(numbers, history, OPERATIONS, kept)
    assert len(figure.data) == 8 * edges
    notes = {(note.xref, note.yref, note.text) for note in figure.layout.annotations}
    assert len(notes) == edges + 2
    for edge, (target, source) in enumerate(edge_list(edges)):
        xaxis, yaxis = figure.get_subplot(target + 1, source + 1)
        own = (xaxis.plotly_name.replace("axis", ""), yaxis.plotly_name.replace("axis", ""))
        lines = {trace.name: trace for trace in figure.data if (trace.xaxis, trace.yaxis) == own}
        choice = kept.get((target, source))
        for place, operation in enumerate(OPERATIONS):
            line = lines[operation]
            assert line.line.color == line.marker.color == OPERATION_COLOURS[operation]
            assert (line.line.width > 2) == (operation == choice)
            assert len(line.x) == min(epochs, MOST_POINTS)
            assert (line.x[0], line.x[-1]) == (1, epochs)
            np.testing.assert_allclose(line.y, [history[edge][epoch - 1][place] for epoch in line.x], rtol=1e-6)
        colour = OPERATION_COLOURS.get(choice)
        assert (xaxis.linecolor == yaxis.linecolor == colour) == bool(choice)
        domains = (f"{own[0]} domain", f"{own[1]} domain")
        assert (*domains, f"{source_name(source)} → node {target}") in notes
        assert ((*domains, f"<b>{choice}</b>") in notes) == bool(choice)
    shown = [trace.name for trace in figure.data if trace.showlegend]
    assert sorted(shown) == sorted(OPERATIONS)
    assert max(np.max(trace.y) for trace in figure.data) < figure.layout.yaxis.range[1]
