import functools
import itertools
import random
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from fake_run import GENOTYPE
from matplotlib.textpath import TextPath

from partnas.skeleton import HUMAN36M, MUCO
from partnas.viz.cells import draw_cell, lay_out
from partnas.viz.colours import OPERATION_COLOURS

PARTS, TORSO, LIMBS = HUMAN36M.parts, HUMAN36M.torso, HUMAN36M.limbs

OPERATIONS = list(OPERATION_COLOURS)[1:]


def cell(seed, nodes, most=2):
    """A cell at random; with ``most`` over 2 also such as a person may write: one edge a node, or very many."""
    rng = random.Random(seed)
    found = []
    for node in range(nodes):
        count = min(node + 2, 2 if most == 2 else rng.randint(1, most))
        found.append([[rng.choice(OPERATIONS), source] for source in rng.sample(range(node + 2), count)])
    return found


def cut(count):
    return [list(part) for part in np.array_split(range(18), count)]


CASES = [(GENOTYPE[kind], kind, None) for kind in ("normal", "reduction")]
CASES += [(GENOTYPE["fusion"], "fusion", [TORSO, LIMBS]), (GENOTYPE["fusion"], "fusion", [LIMBS, [*TORSO]])]
CASES += [(cell(seed, 4), kind, None) for seed in range(40) for kind in ("normal", "reduction")]
CASES += [(cell(seed, n), "fusion", cut(n)) for seed in range(8) for n in (1, 2, 3, 4)]
CASES += [(cell(seed, 1 + seed % 6, most=7), "normal", None) for seed in range(30)]
CASES += [([[["sep_conv_3x3", 0]]], "fusion", [[17]]), ([[["skip_connect", 1]]], "reduction", None)]


@functools.cache
def text_width(text):
    """At size 1, in a font that is wider than most."""
    return TextPath((0, 0), text, size=100).get_extents().width / 100


def text_boxes(layout):
    """``(x0, y0, x1, y1)`` of the texts that stand in no box."""
    found = []
    for text in layout.texts:
        width = text_width(text.text) * text.size * (1.08 if text.bold else 1)
        x = text.x - width * {"start": 0, "middle": 0.5, "end": 1}[text.anchor]
        found.append((x, text.y - 0.78 * text.size, x + width, text.y + 0.2 * text.size))
    return found


def rectangles(layout):
    return [(box.x, box.y, box.x + box.width, box.y + box.height) for box in layout.boxes]


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def along(line):
    """Points on a line: a cubic curve, then straight pieces."""
    p = np.array(line.points)
    t = np.linspace(0, 1, 60)[:, None]
    curve = (1 - t) ** 3 * p[0] + 3 * (1 - t) ** 2 * t * p[1] + 3 * (1 - t) * t**2 * p[2] + t**3 * p[3]
    straight = [first + t * (second - first) for first, second in itertools.pairwise(p[3:])]
    return np.concatenate([curve, *straight])


@pytest.mark.parametrize(("nodes", "kind", "groups"), CASES)
def test_nothing_touches_but_lines(nodes, kind, groups):
    layout = lay_out(nodes, kind, groups)
    for box in filter(lambda box: box.text, layout.boxes):
        assert text_width(box.text + box.subscript) * (12 if box.kind == "label" else 13) < box.width - 4
    drawn = rectangles(layout) + text_boxes(layout)
    for i, first in enumerate(drawn):
        assert first[0] >= 0
        assert first[1] >= 0
        assert first[2] <= layout.width
        assert first[3] <= layout.height
        for second in drawn[i + 1 :]:
            assert not overlap(first, second), (first, second)
    labels = iter(box for box in layout.boxes if box.kind == "label")
    for line in layout.lines:
        own = next(labels) if line.kind == "edge" else None
        points = along(line)
        for box, (x0, y0, x1, y1) in zip(layout.boxes, rectangles(layout), strict=True):
            inside = (points > np.array([x0, y0]) + 0.5).all(1) & (points < np.array([x1, y1]) - 0.5).all(1)
            assert not inside.any() or box is own, (line, box)


def test_the_check_would_see_a_collision():
    layout = lay_out(GENOTYPE["normal"], "normal")
    assert overlap((0, 0, 10, 10), (9, 9, 20, 20))
    assert not overlap((0, 0, 10, 10), (10, 0, 20, 10))
    (x, y), box = layout.lines[-1].points[-1], layout.boxes[-1]
    assert np.allclose(along(layout.lines[-1])[-1], (x, y))
    assert box.kind == "node"


@pytest.mark.parametrize("seed", range(10))
def test_every_edge_goes_from_its_source_to_its_target(seed):
    nodes = cell(seed, 4, most=5)
    layout = lay_out(nodes, "normal")
    boxes = [box for kind in ("input", "node") for box in layout.boxes if box.kind == kind]
    wanted = [(operation, source, target + 2) for target, node in enumerate(nodes) for operation, source in node]
    lines = [line for line in layout.lines if line.kind == "edge"]
    labels = [box for box in layout.boxes if box.kind == "label"]
    for (operation, source, target), line, label in zip(wanted, lines, labels, strict=True):
        assert line.points[0] == (boxes[source].x + boxes[source].width, boxes[source].middle[1])
        x, y = line.points[-1]
        assert x == boxes[target].x
        assert boxes[target].y < y < boxes[target].y + boxes[target].height
        assert label.text == operation
        assert label.middle[1] == pytest.approx(y)
        assert line.colour == label.stroke == OPERATION_COLOURS[operation]


@pytest.mark.parametrize(("nodes", "kind", "groups"), CASES[:12] + CASES[-40:])
def test_the_svg_holds_all_of_the_layout(nodes, kind, groups):
    svg = draw_cell(nodes, kind, groups)
    ElementTree.fromstring(svg)
    operations = [operation for node in nodes for operation, _ in node]
    for operation in set(operations):
        assert svg.count(f">{operation}<") == operations.count(operation)
    assert svg.count('class="edge"') == svg.count('class="label"') == len(operations)
    assert svg.count('class="concatenation"') == svg.count('class="node"') == len(nodes)
    assert len(re.findall(r">k−[12]<", svg)) == 2


def test_heads_name_their_parts():
    svg = draw_cell(GENOTYPE["fusion"], "fusion", [TORSO, LIMBS])
    assert "head of the torso (10 parts)" in svg
    assert "head of the limbs (8 parts)" in svg
    for part in PARTS:
        assert part.replace("_", " ") in svg
    assert "head of 1 part<" in draw_cell(GENOTYPE["fusion"], "fusion", [[3], [0, 9]])
    assert "Pelvis, Nose" in draw_cell(GENOTYPE["fusion"], "fusion", [[3], [0, 9]])
    assert "head of" not in draw_cell(GENOTYPE["fusion"], "fusion")


def test_heads_of_another_skeleton():
    svg = draw_cell(GENOTYPE["fusion"], "fusion", [MUCO.torso, MUCO.limbs], MUCO)
    assert "head of the torso (9 parts)" in svg
    assert "head of the limbs (12 parts)" in svg
    assert "L Toe" in svg


def test_what_a_genotype_says_is_escaped():
    svg = draw_cell([[["<script>", 0], ["skip_connect", 1]]], '"><b>')
    ElementTree.fromstring(svg)
    assert "<script>" not in svg
    assert "<b>" not in svg
