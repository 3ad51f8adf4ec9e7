"""The renderer of the objects that ship: solids, pictures, and that the set can be made again."""

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from partnas.cli import app
from partnas.data.occluders import SHIPPED
from partnas.data.synth import objects, solids, still
from partnas.data.synth.object_set import bled


@pytest.mark.parametrize(
    ("solid", "inside", "surface"),
    [
        (lambda p: solids.box(p, (1, 0, 0), (0.5, 0.2, 0.3), 0.1), (1, 0, 0), (1.5, 0, 0)),
        (lambda p: solids.capsule(p, (0, 0, 0), (0, 0, 1), 0.2), (0, 0, 0.5), (0.2, 0, 0.5)),
        (lambda p: solids.cylinder(p, (0, 0, 0), 0.5, 0.3, "x"), (0.1, 0.1, 0), (0.3, 0, 0)),
        (lambda p: solids.torus(p, (0, 0, 0), 0.5, 0.1, "y"), (0.5, 0, 0), (0, 0, 0.6)),
        (lambda p: solids.ellipsoid(p, (0, 0, 0), (0.5, 0.2, 0.3)), (0.1, 0, 0), (0, 0.2, 0)),
        (lambda p: solids.lathe(p, [(0, -1), (0.4, -1), (0.2, 1), (0, 1)]), (0, 0.1, 0), (0, 0.3, 0)),
        (lambda p: solids.extruded(p, [(0, 0), (1, 0), (1, 1), (0, 1)], 0.2, "y"), (0.5, 0, 0.5), (0.5, 0.2, 0.5)),
    ],
)
def test_distances_are_negative_inside_none_on_the_surface_and_never_too_large(solid, inside, surface):
    at = solid(np.array([inside, surface], np.float32))
    assert at[0] < -0.05
    assert at[1] == pytest.approx(0, abs=1e-5)
    # Sphere tracing needs that: a step of the distance meets no surface.
    random = np.random.default_rng(0)
    points = random.uniform(-1.5, 1.5, (400, 3)).astype(np.float32)
    directions = random.normal(size=(400, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    outside = solid(points) > 0
    stepped = points + 0.85 * np.maximum(solid(points), 0)[:, None] * directions
    assert (solid(stepped.astype(np.float32))[outside] > -1e-4).all()


def test_a_ball_is_drawn_round_lit_from_above_and_cut_out():
    ball = still.Part(lambda p: solids.ellipsoid(p, (0, 0, 0), (1, 1, 1)), objects.plain([0.4, 0.4, 0.4]))
    light = still.Light(np.array([0.0, -0.4, 0.9], np.float32), np.ones(3), np.full(3, 0.4), np.full(3, 0.2))
    picture = still.picture([ball], 60, 0.3, 0.2, light, np.random.default_rng(0))
    assert max(picture.shape[:2]) == 60
    assert abs(picture.shape[0] - picture.shape[1]) <= 2
    assert (picture[..., 3] > 127).mean() == pytest.approx(np.pi / 4, abs=0.09)
    assert picture[10:20, 25:35, :3].mean() > 1.4 * picture[45:55, 25:35, :3].mean()


@pytest.mark.parametrize("index", [0, 25])
def test_a_shipped_object_can_be_made_again(index):
    name, picture = objects.make_object(index, seed=0)
    shipped = cv2.imread(str(SHIPPED / f"{index:03d}_{name}.webp"), cv2.IMREAD_UNCHANGED)
    assert shipped.shape == picture.shape
    assert (np.abs(shipped[..., 3].astype(int) - picture[..., 3]) > 30).mean() < 0.01
    opaque = picture[..., 3] == 255
    assert np.abs(shipped[..., 2::-1].astype(int) - picture[..., :3])[opaque].mean() < 12


def test_the_command_renders_the_same_objects_with_any_number_of_workers(tmp_path):
    for name, workers in (("one", 1), ("two", 2)):
        result = CliRunner().invoke(
            app, ["data", "render-objects", str(tmp_path / name), "--count", "2", "--workers", str(workers), "--quiet"]
        )
        assert result.exit_code == 0, result.output
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["000_bottle.webp", "001_mug.webp"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_colours_go_on_beyond_the_outline():
    picture = np.zeros((20, 20, 4), np.uint8)
    picture[5:15, 5:15] = (200, 100, 50, 255)
    spread = bled(picture)
    assert (spread[..., 3] == picture[..., 3]).all()
    assert np.abs(spread[4, 10, :3].astype(int) - [200, 100, 50]).max() <= 1
