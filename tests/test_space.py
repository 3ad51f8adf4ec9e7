import dataclasses
import json

import pytest

import partnas
from partnas.errors import PartnasError
from partnas.skeleton import HUMAN36M, MUCO
from partnas.space import OPERATIONS, SearchSpace

PARTS, TORSO, LIMBS = HUMAN36M.parts, HUMAN36M.torso, HUMAN36M.limbs


@pytest.mark.parametrize(
    ("cells", "placement", "expected"),
    [
        (8, "floor_after", (1, 2, 3, 4, 5)),
        (10, "floor_after", (2, 3, 4, 5, 6)),
        (15, "floor_after", (3, 5, 7, 9, 11)),
        (20, "floor_after", (3, 6, 9, 12, 15)),
        (10, "printed", (2, 3, 4, 5, 6)),
        (15, "printed", (3, 5, 7, 9, 11)),
        (20, "printed", (3, 5, 7, 9, 11)),
    ],
)
def test_reduction_positions_of_equation_6(cells, placement, expected):
    assert SearchSpace(cells=cells, placement=placement).reduction_positions() == expected


@pytest.mark.parametrize("placement", ["floor_after", "printed"])
def test_reduction_positions_fit_wherever_they_are_accepted(placement):
    accepted = 0
    for reductions in range(6):
        for cells in range(2, 24):
            fields = {"cells": cells, "reductions": reductions, "fusions": 2, "placement": placement}
            if cells < 2 + reductions + (placement == "printed" and reductions > 1):
                with pytest.raises(PartnasError, match=r"^cells: "):
                    SearchSpace(**fields)
                continue
            space = SearchSpace(**fields)
            accepted += 1
            kinds = space.cell_kinds()
            assert len(kinds) == cells
            assert kinds[-2:] == ("fusion", "fusion")
            assert "fusion" not in kinds[:-2]
            places = space.reduction_positions()
            assert list(places) == sorted(set(places))
            assert [n for n, kind in enumerate(kinds, 1) if kind == "reduction"] == list(places)
            assert len(places) == reductions
    assert accepted > 100


def test_the_papers_network():
    space = SearchSpace()
    assert space.cell_kinds() == ("normal", *["reduction"] * 5, "normal", *["fusion"] * 3)
    assert space.operations == OPERATIONS
    assert (space.input_size, space.depth, space.heatmap_size) == (128, 32, 32)
    assert (space.channels, space.nodes, space.fusion_nodes, space.parts) == (16, 4, 2, 18)
    assert SearchSpace(input_size=256, depth=64).heatmap_size == 64


def test_operations_have_darts_names_and_order():
    assert OPERATIONS == (
        "none", "max_pool_3x3", "avg_pool_3x3", "skip_connect",
        "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5",
    )  # fmt: skip


@pytest.mark.parametrize(("heads", "sizes"), [(1, [18]), (2, [9, 9]), (3, [6] * 3), (4, [4, 5, 4, 5]), (5, None)])
def test_parts_are_cut_into_runs_by_default(heads, sizes):
    space = SearchSpace(fusion_nodes=heads)
    groups = space.part_groups()
    assert len(groups) == heads
    assert [part for group in groups for part in group] == list(range(18))
    assert max(map(len, groups)) - min(map(len, groups)) <= 1
    if sizes is not None:
        assert [len(group) for group in groups] == sizes
    assert space.slots == -(-18 // heads)
    assert_slots_are_places_in_the_heads(space)


def assert_slots_are_places_in_the_heads(space):
    slots = space.part_slots()
    assert len(slots) == space.parts
    assert len(set(slots)) == space.parts
    groups = space.part_groups()
    for part, slot in enumerate(slots):
        head, place = divmod(slot, space.slots)
        assert groups[head][place] == part


def test_named_and_uneven_groups():
    space = SearchSpace(groups=(tuple(PARTS[part] for part in TORSO), LIMBS))
    assert (len(TORSO), len(LIMBS)) == (10, 8)
    assert space.part_groups() == (TORSO, LIMBS)
    assert space.slots == 10
    assert_slots_are_places_in_the_heads(space)
    pelvis, right_knee = space.part_slots()[0], space.part_slots()[PARTS.index("R_Knee")]
    assert (pelvis, right_knee) == (0, 10)


def test_torso_and_limbs_stand_for_their_parts_in_any_skeleton():
    assert SearchSpace(groups=(("torso",), ("limbs",))).part_groups() == (TORSO, LIMBS)
    assert SearchSpace(groups=(("Head", "limbs"), (*TORSO[:6], *TORSO[7:]))).part_groups()[0] == (10, *LIMBS)
    space = SearchSpace(skeleton="muco", groups=(("torso",), ("limbs",)))
    torso, limbs = ([MUCO.parts[part] for part in group] for group in space.part_groups())
    assert limbs == [
        part for part in MUCO.parts if part.split("_")[-1] in ("Elbow", "Wrist", "Hand", "Knee", "Ankle", "Toe")
    ]
    assert torso == ["Head_top", "Thorax", "R_Shoulder", "L_Shoulder", "R_Hip", "L_Hip", "Pelvis", "Spine", "Head"]
    assert_slots_are_places_in_the_heads(space)


def test_the_number_of_parts_follows_the_skeleton():
    assert [SearchSpace(skeleton=name).parts for name in ("human36m", "muco", "mupots")] == [18, 21, 17]
    space = SearchSpace(parts=4)
    assert space.replace(skeleton="muco").parts == 21
    assert space.replace(skeleton="muco", parts=5).parts == 5
    assert space.replace(cells=12).parts == 4


def test_a_space_written_before_there_were_skeletons_is_human36ms():
    values = SearchSpace(cells=12).to_dict()
    del values["skeleton"]
    assert SearchSpace.from_dict(values) == SearchSpace(cells=12)


def test_the_order_within_a_group_is_the_order_of_its_slots():
    space = SearchSpace(parts=4, fusion_nodes=2, groups=((3, 0), (2, 1)))
    assert space.part_slots() == (1, 3, 2, 0)


@pytest.mark.parametrize(("heads", "node_channels"), [(1, 256), (2, 128), (3, 85), (4, 64), (5, 51), (6, 43)])
def test_fusion_channels_are_the_nearest_multiple(heads, node_channels):
    assert SearchSpace(fusion_nodes=heads).fusion_node_channels == node_channels
    others = [abs(256 - heads * channels) for channels in range(1, 257)]
    assert abs(256 - heads * node_channels) == min(others)


def test_a_fusion_node_has_a_channel_at_least():
    assert SearchSpace(fusion_nodes=5, fusion_channels=1).fusion_node_channels == 1


SPACES = [
    SearchSpace(),
    SearchSpace(cells=20, placement="printed", fusion_nodes=3, operations=("sep_conv_3x3", "none"), input_size=64),
    SearchSpace(groups=(tuple(PARTS[part] for part in TORSO), LIMBS)),
    SearchSpace(parts=3, fusion_nodes=3, groups=((2,), (0,), (1,))),
]


@pytest.mark.parametrize("space", SPACES)
def test_round_trip_through_a_dictionary_and_json(space):
    values = space.to_dict()
    assert set(values) == {field.name for field in dataclasses.fields(SearchSpace)}
    assert SearchSpace.from_dict(values) == space
    assert SearchSpace.from_dict(json.loads(json.dumps(values))) == space
    assert hash(SearchSpace.from_dict(values)) == hash(space)


def test_fields_left_out_have_their_defaults():
    assert SearchSpace.from_dict({"cells": 15}) == SearchSpace(cells=15)


def test_replace_changes_a_copy():
    space = SearchSpace(groups=(TORSO, LIMBS))
    changed = space.replace(cells=20, input_size=256, depth=64)
    assert (changed.cells, changed.input_size, changed.depth, changed.groups) == (20, 256, 64, (TORSO, LIMBS))
    assert (space.cells, space.input_size, space.depth) == (10, 128, 32)
    with pytest.raises(PartnasError, match=r"^network: field 'cels' is not known"):
        space.replace(cels=20)
    with pytest.raises(PartnasError, match=r"^channels: 3 is odd"):
        space.replace(channels=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        space.cells = 20


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cells": 0}, "cells: 0 is not a whole number of at least 1"),
        ({"cells": "10"}, "cells: '10' is not a whole number"),
        ({"cells": 10.0}, "cells: 10.0 is not a whole number"),
        ({"cells": True}, "cells: True is not a whole number"),
        ({"cells": 7}, "cells: 7 are fewer than 5 reductions and 3 fusions together; take at least 8"),
        ({"cells": 2, "reductions": 0}, "cells: 2 are fewer than 0 reductions and 3 fusions together; take at least 3"),
        ({"reductions": 10**9}, "cells: 10 are fewer than 1000000000 reductions"),
        ({"cells": 8, "placement": "printed"}, "cells: Eq. 6 as printed finds no 5 places .* take more cells or"),
        ({"reductions": -1}, "reductions: -1 is not a whole number of at least 0"),
        ({"fusions": 0}, "fusions: 0 is not a whole number of at least 1"),
        ({"fusion_nodes": 0}, "fusion_nodes: 0 is not a whole number of at least 1"),
        ({"fusion_nodes": 4, "parts": 3}, "fusion_nodes: 4 heads for 3 parts; take fewer heads"),
        ({"nodes": 0}, "nodes: 0 is not a whole number of at least 1"),
        ({"channels": 0}, "channels: 0 is not a whole number of at least 2"),
        ({"channels": 9}, "channels: 9 is odd; take an even number"),
        ({"parts": 1.5}, "parts: 1.5 is not a whole number of at least 1"),
        ({"parts": 19}, "parts: 19 are more than the 18 of human36m; leave parts out"),
        ({"skeleton": "smpl"}, "skeleton: 'smpl' is not known; use one of human36m, mpii, coco, muco, mupots"),
        ({"skeleton": ["muco"]}, r"skeleton: \['muco'\] is not known"),
        ({"input_size": 100}, "input_size: 100 is not divisible by .* = 32; take a multiple of 32"),
        ({"input_size": 0}, "input_size: 0 is not a whole number"),
        ({"depth": -4}, "depth: -4 is not a whole number of at least 1"),
        ({"fusion_channels": 0}, "fusion_channels: 0 is not a whole number of at least 1"),
        ({"placement": "random"}, "placement: 'random' is not known; use one of floor_after, printed"),
        ({"operations": "none"}, "operations: 'none' is not a list; write one in brackets"),
        ({"operations": ["conv_7x7"]}, "operations: 'conv_7x7' is not known; use some of none, max_pool_3x3"),
        ({"operations": [["none"]]}, "operations: .* is not known; use some of"),
        ({"operations": ["none", "none"]}, "operations: one is named twice; name each once"),
        ({"operations": ["none"]}, "operations: nothing to choose from; name at least one"),
        ({"operations": []}, "operations: nothing to choose from; name at least one"),
        ({"groups": 2}, "groups: 2 is not a list; write one in brackets"),
        ({"groups": ["Pelvis", "Head"]}, "groups: 'Pelvis' is not a list; write one in brackets"),
        ({"groups": [range(18)]}, "groups: range.* is not a list"),
        ({"groups": [list(range(18))]}, "groups: 1 groups for 2 heads; give one for each of fusion_nodes"),
        ({"groups": [TORSO, LIMBS[1:]]}, "groups: part 2 is named 0 times; name each of the 18 parts once"),
        ({"groups": [TORSO, LIMBS + TORSO[:1]]}, "groups: part 0 is named 2 times; name each of the 18 parts once"),
        ({"groups": [[0, 1, "R_Hip"], range(2, 18)]}, "groups: .* is not a list"),
        ({"groups": [["R_Hip", 0, 1], list(range(2, 18))]}, "groups: part 1 is named 2 times"),
        ({"groups": [TORSO + LIMBS, []]}, "groups: one is empty; give each head a part"),
        ({"groups": [["Elbow"], LIMBS]}, "groups: part 'Elbow' is not known; use some of Pelvis, R_Hip"),
        ({"groups": [TORSO, [*LIMBS[1:], 18]]}, "groups: 18 is not a part; give a name or an index from 0 to 17"),
        ({"groups": [TORSO, [*LIMBS[1:], -1]]}, "groups: -1 is not a part"),
        ({"groups": [TORSO, [*LIMBS[1:], None]]}, "groups: None is not a part; give a name or an index"),
        ({"groups": [[0.0], [1]], "parts": 2}, "groups: 0.0 is not a part"),
        ({"groups": [[True], [0]], "parts": 2}, "groups: True is not a part"),
        ({"heads": 2}, "network: field 'heads' is not known; use some of cells, reductions"),
    ],
)
def test_a_bad_field_is_one_line_that_names_it_and_the_fix(fields, message):
    with pytest.raises(PartnasError, match=f"^{message}") as error:
        SearchSpace.from_dict(fields)
    assert "\n" not in str(error.value)
    assert ";" in str(error.value)


@pytest.mark.parametrize("values", [None, [], "cells", 3])
def test_a_space_that_is_no_mapping(values):
    with pytest.raises(PartnasError, match=r"^network: .* is not a mapping"):
        SearchSpace.from_dict(values)


def test_the_package_shows_the_space():
    assert partnas.SearchSpace is SearchSpace
    assert partnas.OPERATIONS is OPERATIONS
