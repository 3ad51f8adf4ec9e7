import numpy as np
import pytest
import torch

from partnas.data import Augmentation, mirror_coordinates
from partnas.errors import PartnasError
from partnas.skeleton import HUMAN36M, MUCO


def test_drawn_values_have_the_stated_range_and_frequency():
    augmentation, random = Augmentation(), np.random.default_rng(0)
    drawn = [augmentation.draw(random) for _ in range(2000)]
    rotation, scale = (np.array([getattr(d, name) for d in drawn]) for name in ("rotation", "scale"))
    colour = np.array([d.colour for d in drawn])
    assert 25 < np.abs(rotation).max() <= 30
    assert 0.75 <= scale.min() < 0.8
    assert 1.2 < scale.max() <= 1.25
    assert 0.8 <= colour.min() < 0.81
    assert 1.19 < colour.max() <= 1.2
    assert np.mean(rotation != 0) == pytest.approx(0.6, abs=0.05)
    assert np.mean([d.flip for d in drawn]) == pytest.approx(0.5, abs=0.05)


def test_occlusion_covers_some_of_half_of_the_crops():
    augmentation, random = Augmentation(), np.random.default_rng(0)
    crop = np.full((64, 64, 3), 127, np.uint8)
    covered = np.array([(augmentation.occlude(crop, random) != crop).any(-1).mean() for _ in range(400)])
    assert (crop == 127).all()
    assert np.mean(covered > 0) == pytest.approx(0.5, abs=0.08)
    assert 0.1 < covered[covered > 0].mean() < 0.7


@pytest.mark.parametrize("skeleton", [HUMAN36M, MUCO])
def test_mirroring_twice_is_nothing_and_swaps_sides(skeleton):
    xyz = torch.rand(2, len(skeleton.parts), 3) * 16
    once = mirror_coordinates(xyz, 16, skeleton)
    left, right = skeleton.flip_pairs[0]
    torch.testing.assert_close(once[:, left, 1:], xyz[:, right, 1:])
    torch.testing.assert_close(once[:, left, 0], 16 - xyz[:, right, 0])
    torch.testing.assert_close(mirror_coordinates(once, 16, skeleton), xyz)


@pytest.mark.parametrize(
    ("field", "value"), [("flip_probability", 1.5), ("scale", 1.0), ("rotation", -1.0), ("colour", float("nan"))]
)
def test_values_out_of_range_are_named(field, value):
    with pytest.raises(PartnasError, match=rf"augmentation\.{field}"):
        Augmentation(**{field: value})
