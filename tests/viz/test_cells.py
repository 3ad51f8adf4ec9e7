import re
import xml.etree.ElementTree as ElementTree

import pytest
from fake_run import GENOTYPE

from partnas.viz.cells import draw_cell

RECTANGLE = re.compile(r'<rect class="(\w+)" x="([-\d.]+)" y="([-\d.]+)" width="([\d.]+)" height="([\d.]+)"')


def boxes(svg):
    return [(name, *map(float, numbers)) for name, *numbers in RECTANGLE.findall(svg)]


def overlap(a, b):
    return a[1] < b[1] + b[3] and b[1] < a[1] + a[3] and a[2] < b[2] + b[4] and b[2] < a[2] + a[4]


FUSION = [[["sep_conv_3x3", 0], ["skip_connect", 1]], [["dil_conv_3x3", 1], ["max_pool_3x3", 2]],
          [["avg_pool_3x3", 2], ["max_pool_3x3", 3]], [["dil_conv_5x5", 0], ["sep_conv_5x5", 4]]]  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "kind"),
    [
        (GENOTYPE["normal"], "normal"),
        (GENOTYPE["reduction"], "reduction"),
        *((FUSION[:n], "fusion") for n in (1, 2, 3, 4)),
    ],
)
def test_every_edge_is_drawn_and_no_two_boxes_touch(nodes, kind):
    svg = draw_cell(nodes, kind)
    ElementTree.fromstring(svg)
    operations = [operation for node in nodes for operation, _ in node]
    for operation in set(operations):
        assert svg.count(f">{operation}<") == operations.count(operation)
    assert svg.count('class="edge"') == len(operations)
    assert svg.count('class="concatenation"') == len(nodes)
    drawn = boxes(svg)
    assert len(drawn) == len(operations) + len(nodes) + 3
    for i, first in enumerate(drawn):
        for second in drawn[i + 1 :]:
            assert not overlap(first, second), (first, second)


def test_everything_lies_inside_the_picture():
    svg = draw_cell(GENOTYPE["normal"], "normal")
    width, height = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())
    for _, x, y, w, h in boxes(svg):
        assert x >= 0
        assert y >= 0
        assert x + w <= width
        assert y + h <= height


def test_groups_name_their_parts():
    svg = draw_cell(GENOTYPE["fusion"], "fusion", [[0, 9], [3]])
    assert "Pelvis, Nose" in svg
    assert "R_Ankle" in svg
