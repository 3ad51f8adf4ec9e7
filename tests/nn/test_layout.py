from fractions import Fraction

import pytest

from partnas.nn.layout import cell_layouts, stem_channels
from partnas.space import SearchSpace

HALF = Fraction(1, 2)


def test_the_papers_network_cell_by_cell():
    space = SearchSpace(input_size=256, depth=64)
    assert stem_channels(space) == 48
    rows = [
        (layout.kind, layout.channels, layout.nodes, layout.input_channels, layout.input_factors, layout.scale)
        for layout in cell_layouts(space)
    ]
    assert rows == [
        ("normal", 16, 4, (48, 48), (1, 1), 1),
        ("reduction", 32, 4, (48, 64), (1, 1), Fraction(1, 2)),
        ("reduction", 64, 4, (64, 128), (HALF, 1), Fraction(1, 4)),
        ("reduction", 128, 4, (128, 256), (HALF, 1), Fraction(1, 8)),
        ("reduction", 256, 4, (256, 512), (HALF, 1), Fraction(1, 16)),
        ("reduction", 512, 4, (512, 1024), (HALF, 1), Fraction(1, 32)),
        ("normal", 512, 4, (1024, 2048), (HALF, 1), Fraction(1, 32)),
        ("fusion", 128, 2, (2048, 2048), (2, 2), Fraction(1, 16)),
        ("fusion", 128, 2, (2048, 256), (4, 2), Fraction(1, 8)),
        ("fusion", 9 * 64, 2, (256, 256), (4, 2), Fraction(1, 4)),
    ]


def test_the_backbone_ends_in_2048_channels_of_8_by_8():
    before_fusion = cell_layouts(SearchSpace(input_size=256))[6]
    assert before_fusion.output_channels == 2048
    assert before_fusion.scale * 256 == 8


@pytest.mark.parametrize("cells", [8, 9, 10, 15, 20])
@pytest.mark.parametrize("fusion_nodes", [1, 2, 3, 4, 5])
def test_cells_fit_onto_each_other(cells, fusion_nodes):
    space = SearchSpace(cells=cells, fusion_nodes=fusion_nodes)
    layouts = cell_layouts(space)
    assert [layout.kind for layout in layouts] == list(space.cell_kinds())
    outputs = [(stem_channels(space), Fraction(1))] * 2
    for layout in layouts:
        stride = HALF if layout.kind == "reduction" else 1
        for channels, factor, (found, scale) in zip(
            layout.input_channels, layout.input_factors, outputs[-2:], strict=True
        ):
            assert channels == found
            assert scale * factor * stride == layout.scale
            assert factor in ((1, 2, 4) if layout.kind == "fusion" else (HALF, 1))
        outputs.append((layout.output_channels, layout.scale))
    assert layouts[-1].scale * space.input_size == space.heatmap_size
    assert layouts[-1].output_channels == fusion_nodes * space.slots * space.depth
    for layout in layouts[-3:-1]:
        assert layout.output_channels == fusion_nodes * space.fusion_node_channels


def test_a_fusion_cell_right_after_a_reduction_takes_the_older_input_as_it_is():
    assert cell_layouts(SearchSpace(cells=8))[5].input_factors == (1, 2)


def test_uneven_groups_make_heads_as_wide_as_the_largest():
    space = SearchSpace(groups=(tuple(range(10)), tuple(range(10, 18))))
    assert cell_layouts(space)[-1].channels == 10 * 32
