import numpy as np
import pytest
from fake_run import STANDING

from partnas.skeleton import PARTS
from partnas.viz.colours import LEFT, RIGHT, TRUNK, rgb
from partnas.viz.overlay import draw_pose, picture_grid
from partnas.viz.pose3d import figure, upright, write_html


@pytest.mark.parametrize("side", [100, 400, 2000])
def test_each_side_has_its_colour(side):
    image = np.full((side, side, 3), 128, np.uint8)
    joints = STANDING[:, :2] / 2000 * side + [side / 2, side * 0.45]
    drawn = draw_pose(image, joints)
    assert (image == 128).all()
    for bone, colour in ((("R_Knee", "R_Ankle"), RIGHT), (("L_Elbow", "L_Wrist"), LEFT), (("Pelvis", "Torso"), TRUNK)):
        x, y = joints[[PARTS.index(name) for name in bone]].mean(0).round().astype(int)
        sides = (RIGHT, LEFT, TRUNK, "#808080")
        assert colour == min(sides, key=lambda other: np.abs(drawn[y, x].astype(int) - rgb(other)).sum())


def test_invisible_and_absurd_parts_are_left_out():
    image = np.full((100, 100, 3), 128, np.uint8)
    joints = STANDING[:, :2] / 20 + [50, 45]
    assert (draw_pose(image, joints, visible=np.zeros(18)) == image).all()
    joints[3] = np.nan
    joints[6] = 1e12
    assert (draw_pose(image, joints) != image).any()


def test_enlarging():
    image = np.zeros((50, 80, 3), np.uint8)
    assert draw_pose(image, STANDING[:, :2] / 40 + 25, side=100).shape == (100, 160, 3)


def test_grid():
    grid = picture_grid([np.zeros((10, 20, 3), np.uint8)] * 5, columns=3, gap=2)
    assert grid.shape == (22, 64, 3)
    assert (grid[12:, 44:] == 255).all()


def test_people_stand_upright_and_keep_their_handedness():
    points = upright(STANDING)
    assert points[PARTS.index("Head"), 2] > points[PARTS.index("R_Ankle"), 2]
    assert points[PARTS.index("R_Hip"), 0] < points[PARTS.index("L_Hip"), 0]
    assert points[PARTS.index("Nose"), 1] < points[PARTS.index("Head"), 1]
    turn = np.linalg.lstsq(STANDING, points, rcond=None)[0]
    assert np.linalg.det(turn) == pytest.approx(1)


def test_figure_names_parts_and_keeps_proportions(tmp_path):
    view = figure(
        [{"name": "<one>", "joints_camera": STANDING, "colour": "#112233"}, {"name": "two", "joints_camera": STANDING}]
    )
    assert len(view.data) == 4
    assert "L_Wrist" in view.data[1].text[PARTS.index("L_Wrist")]
    assert view.layout.scene.aspectmode == "cube"
    spans = [np.ptp(view.layout.scene[axis].range) for axis in ("xaxis", "yaxis", "zaxis")]
    assert max(spans) - min(spans) <= 2
    write_html(tmp_path / "deep" / "pose.html", [{"name": "a", "joints_camera": STANDING}], title="<x>")
    page = (tmp_path / "deep" / "pose.html").read_text()
    assert "<title>&lt;x&gt;" in page
    assert "cdn" not in page.split("plotly.js v")[0]
