"""`partnas data show`: crops of every set with their joints, and each augmentation by itself."""

import cv2
import embedded_sets
import numpy as np
import pytest
import small_sets
from small_set import write_set
from typer.testing import CliRunner

from partnas import show as module
from partnas.cli import app
from partnas.data import (
    Augmentation,
    PoseDataset,
    embedded_root,
    read_coco,
    read_human36m,
    read_mpii,
    read_muco,
    read_mupots,
)
from partnas.errors import PartnasError
from partnas.show import CAPTION, GAP, HEADING, LABEL, ONE_BY_ONE, SIDE, drawn, show
from partnas.skeleton import MPII, MUCO
from partnas.viz.colours import LEFT, RIGHT, rgb

DIFFERENT = {"Head", "Thorax", "Pelvis"}
"""Parts that the sets place by rules of their own."""
WRITERS = {
    "human36m": lambda root: write_set(root / "Human36M", subjects=(1, 5)),
    "mpii": lambda root: small_sets.write_mpii(root / "MPII"),
    "coco": lambda root: small_sets.write_coco(root / "MSCOCO"),
    "muco": lambda root: small_sets.write_muco(root / "MuCo"),
    "mupots": lambda root: small_sets.write_mupots(root / "MuPoTS"),
}


def read(path):
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


@pytest.mark.parametrize("name", WRITERS)
def test_every_set_is_shown_by_the_command(tmp_path, name):
    WRITERS[name](tmp_path)
    out = tmp_path / "grid.png"
    result = CliRunner().invoke(app, ["data", "show", str(tmp_path), "--out", str(out), "--count", "2", "--quiet"])
    assert result.exit_code == 0, result.output
    assert f"{name} (" in result.output
    picture = read(out)
    assert picture.shape == (HEADING + SIDE + CAPTION + 3 * GAP, 2 * SIDE + 3 * GAP, 3)
    limbs = [(picture == rgb(colour)).all(2).sum() for colour in (LEFT, RIGHT)]
    assert max(limbs) > 100


def test_all_sets_of_a_folder_stand_below_each_other(tmp_path):
    for write in WRITERS.values():
        write(tmp_path)
    found = show(tmp_path, tmp_path / "grid.jpg", count=1, progress=False)
    assert list(found) == ["human36m", "mpii", "coco", "muco", "mupots"]
    assert found["human36m"] == 6
    assert read(tmp_path / "grid.jpg").shape[0] == 5 * (HEADING + SIDE + CAPTION + GAP) + 2 * GAP


READERS = {"mpii": read_mpii, "coco": read_coco, "muco": read_muco, "mupots": read_mupots}


@pytest.mark.parametrize("name", READERS)
def test_one_person_looks_the_same_in_every_layout(tmp_path, name):
    """The crop, and every joint that both skeletons have by one meaning, whichever set the person is read from."""
    people = read_human36m(embedded_root(), [11]).subset(np.array([5, 40]))
    written = READERS[name](embedded_sets.write_as(name, people, tmp_path))
    assert len(written) == 2
    left, right = (PoseDataset(each, SIDE, SIDE, SIDE, Augmentation(), seed=2) for each in (people, written))
    same = [part for part in people.skeleton.parts if part in written.skeleton.parts and part not in DIFFERENT]
    assert len(same) >= 12
    ours, theirs = (each.skeleton.places_of(tuple(same)) for each in (people, written))
    for index in range(2):
        assert (left[index]["image"] == right[index]["image"]).all()
        seen = right[index]["visible"][theirs].numpy() > 0
        assert seen.sum() >= 10
        difference = left[index]["coordinates"][ours][:, :2] - right[index]["coordinates"][theirs][:, :2]
        assert difference[seen].abs().max() < 0.01


@pytest.mark.parametrize("skeleton", [MPII, MUCO])
def test_visible_joints_are_drawn_where_they_are_and_others_are_not(skeleton):
    coordinates = np.full((len(skeleton.parts), 3), 32.0)
    hand, knee = skeleton.parts.index("L_Wrist"), skeleton.parts.index("R_Knee")
    coordinates[hand, :2], coordinates[knee, :2] = (100, 20), (20, 100)
    visible = np.zeros(len(skeleton.parts))
    visible[hand] = 1
    picture = drawn(np.zeros((3, 128, 128), np.float32), coordinates, visible, skeleton)
    assert tuple(picture[20, 100]) == rgb(LEFT)
    assert not (picture == rgb(RIGHT)).all(2).any()


def test_crops_are_those_of_training():
    people = read_human36m(embedded_root(), [11]).subset(np.array([3]))
    augmentation = Augmentation(occlusion_probability=1)
    (shown,) = module._crops(people, augmentation, seed=4)
    sample = PoseDataset(people, SIDE, SIDE, SIDE, augmentation=augmentation, seed=4)[0]
    unmarked = drawn(sample["image"].numpy(), sample["coordinates"].numpy(), np.zeros(18), people.skeleton)
    assert 0.01 < (shown != unmarked).any(2).mean() < 0.25
    (plain,) = module._crops(people, None, seed=4)
    assert (plain != shown).any(2).mean() > 0.5


def test_rows_show_each_augmentation_by_itself_on_the_same_people(tmp_path):
    show(embedded_root(), tmp_path / "rows.png", count=2, one_by_one=True, progress=False)
    picture = read(tmp_path / "rows.png").astype(int)
    assert picture.shape[0] == HEADING + len(ONE_BY_ONE) * (SIDE + GAP) - GAP + 3 * GAP
    left = GAP + LABEL
    cells = {
        label: picture[GAP + HEADING + row * (SIDE + GAP) :][:SIDE, left : left + SIDE]
        for row, label in enumerate(ONE_BY_ONE)
    }
    plain = cells.pop("as it is")
    assert 2 * np.abs(cells["flip"][:, ::-1] - plain).mean() < np.abs(cells["flip"] - plain).mean()
    for label, cell in cells.items():
        assert np.abs(cell - plain).mean() > 1, label


def test_the_same_seed_shows_the_same_picture(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        show(embedded_root(), tmp_path / f"{name}.png", 3, seed, Augmentation(), progress=False)
    first, again, other = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert first == again != other


def test_what_cannot_be_shown_is_told(tmp_path):
    with pytest.raises(PartnasError, match="holds no people"):
        show(tmp_path, tmp_path / "grid.png", progress=False)
    with pytest.raises(PartnasError, match="unknown kind of picture"):
        show(embedded_root(), tmp_path / "grid.txt", progress=False)
    with pytest.raises(PartnasError, match="no such folder"):
        show(embedded_root(), tmp_path / "grid.png", augmentation=Augmentation(occluders="nowhere"), progress=False)
    assert not list(tmp_path.iterdir())
