import pickle

import numpy as np
import pytest
from small_set import write_set
from small_sets import write_coco, write_mpii, write_muco

from partnas.data import PoseDataset, concatenated, read_coco, read_human36m, read_mpii, read_muco
from partnas.errors import PartnasError
from partnas.skeleton import HUMAN36M


@pytest.fixture
def sets(tmp_path):
    return [
        read_human36m(write_set(tmp_path / "Human36M"), [1]),
        read_mpii(write_mpii(tmp_path / "MPII")),
        read_coco(write_coco(tmp_path / "MSCOCO")),
        read_muco(write_muco(tmp_path / "MuCo")),
    ]


def test_parts_move_by_name_and_missing_ones_are_invisible(sets):
    for source in sets:
        mapped = source.mapped_to(HUMAN36M)
        assert mapped.joints_camera.shape == (len(source), 18, 3)
        for place, part in enumerate(HUMAN36M.parts):
            if part in source.skeleton.parts:
                old = source.skeleton.parts.index(part)
                np.testing.assert_array_equal(mapped.joints_image[:, place], source.joints_image[:, old])
                np.testing.assert_array_equal(mapped.joints_camera[:, place], source.joints_camera[:, old])
                np.testing.assert_array_equal(mapped.visible[:, place], source.visible[:, old])
            else:
                assert not mapped.visible[:, place].any()
                assert np.isnan(mapped.joints_image[:, place]).all()


def test_joined_sets_hold_every_person_and_find_every_image(sets):
    joined = concatenated([source.mapped_to(HUMAN36M) for source in sets])
    assert len(joined) == sum(map(len, sets))
    assert joined.name == "human36m+mpii+coco+muco"
    assert list(joined.image_paths) == [path for source in sets for path in source.image_paths]
    assert joined.has_depth.tolist() == [kind for source in sets for kind in source.has_depth.tolist()]
    assert joined.action.tolist()[:4] == ["Walking"] * 3 + [""]
    assert joined.left_out == {
        "mpii: no keypoints": 1, "coco: crowd": 1, "coco: no keypoints": 1, "muco: too near another person": 3,
    }  # fmt: skip
    assert len(joined.skipped) == 2
    dataset = PoseDataset(joined, 32, 8, 16)
    assert all(dataset[index]["coordinates"].isfinite().all() for index in range(len(dataset)))


def test_sets_of_unlike_parts_do_not_join(sets):
    with pytest.raises(PartnasError, match=r"skeletons \['human36m', 'mpii'\] differ"):
        concatenated(sets[:2])
    with pytest.raises(PartnasError, match="none is given"):
        concatenated([])
    assert concatenated(sets[:1]) is sets[0]


def test_subset_takes_rows_of_everything(sets):
    for source in sets:
        chosen = source.subset([1, 0])
        assert chosen.ids.tolist() == [source.ids[1], source.ids[0]]
        assert chosen.image_path(0) == source.image_path(1)
        for value in vars(chosen).values():
            assert not isinstance(value, np.ndarray) or len(value) == 2
        assert chosen.skipped == source.skipped


def test_nothing_is_kept_but_arrays(sets):
    for source in sets:
        assert not any(value.dtype == object for value in vars(source).values() if isinstance(value, np.ndarray))
        again = pickle.loads(pickle.dumps(source))
        assert again.ids.tolist() == source.ids.tolist()
