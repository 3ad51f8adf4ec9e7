import pytest

from partnas.errors import PartnasError
from partnas.skeleton import COCO, HUMAN36M, MPII, MUCO, MUPOTS, SKELETONS, skeleton_named

ALL = pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)


@ALL
def test_a_mirror_swaps_exactly_the_sides(skeleton):
    for place, source in enumerate(skeleton.mirrored()):
        name, other = skeleton.parts[place], skeleton.parts[source]
        swapped = {"L_": "R_", "R_": "L_"}.get(name[:2], name[:2]) + name[2:]
        assert other == swapped


@ALL
def test_bones_are_a_tree_from_the_pelvis(skeleton):
    reached = {skeleton.root}
    for start, end in skeleton.bones:
        assert start in reached
        assert end not in reached
        reached.add(end)
    unconnected = {skeleton.parts[place] for place in range(len(skeleton.parts)) if place not in reached}
    assert unconnected == ({"Thorax"} if skeleton == HUMAN36M else set())


@ALL
def test_torso_and_limbs_are_all_parts(skeleton):
    assert sorted(skeleton.torso + skeleton.limbs) == list(range(len(skeleton.parts)))
    sided = {skeleton.parts[place][2:] for place in skeleton.limbs}
    assert {"Knee", "Ankle", "Elbow", "Wrist"} <= sided
    assert not sided & {"Hip", "Shoulder", "Eye", "Ear"}
    assert all(skeleton.parts[place][:2] in ("L_", "R_") for place in skeleton.limbs)


@ALL
def test_names_are_unique_and_evaluated_parts_exist(skeleton):
    assert len(set(skeleton.parts)) == len(skeleton.parts)
    assert set(skeleton.evaluated) <= set(range(len(skeleton.parts)))


def test_the_papers_torso_and_limbs():
    assert (len(HUMAN36M.torso), len(HUMAN36M.limbs)) == (10, 8)


def test_sizes_and_places_by_name():
    assert [len(skeleton.parts) for skeleton in (HUMAN36M, MPII, COCO, MUCO, MUPOTS)] == [18, 16, 19, 21, 17]
    assert MUPOTS.parts == MUCO.parts[:17]
    places = HUMAN36M.places_of(MUCO.parts)
    assert places[MUCO.root] == HUMAN36M.root
    assert places[MUCO.parts.index("Spine")] is None
    assert places[MUCO.parts.index("L_Wrist")] == HUMAN36M.parts.index("L_Wrist")


@pytest.mark.parametrize("name", ["smpl", None, ["muco"]])
def test_unknown_names(name):
    with pytest.raises(PartnasError, match=r"^file: skeleton: .* is not known; use one of human36m"):
        skeleton_named(name, "file: skeleton")
