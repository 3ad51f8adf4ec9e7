import re

import numpy as np
import pytest
from fake_run import STANDING

from partnas.errors import PartnasError
from partnas.skeleton import HUMAN36M, MUCO, SKELETONS
from partnas.viz.colours import LEFT, RIGHT, TRUNK, bone_colour, rgb
from partnas.viz.overlay import draw_pose, picture_grid
from partnas.viz.page import PLOTLY_FILE, plotly_source
from partnas.viz.pose3d import figure, scene, seen_from, traces, upright, write_html

PARTS, BONES = HUMAN36M.parts, HUMAN36M.bones


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


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)
def test_every_part_with_a_bone_is_drawn_in_any_skeleton(skeleton):
    count = len(skeleton.parts)
    angle = np.arange(count) / count * 2 * np.pi
    joints = 100 + 80 * np.column_stack([np.cos(angle), np.sin(angle)])
    image = np.full((200, 200, 3), 128, np.uint8)
    for place in np.unique(skeleton.bones).tolist():
        alone = draw_pose(image, joints, visible=np.arange(count) == place, skeleton=skeleton)
        changed = (alone != image).any(-1)
        assert changed[tuple(joints[place, ::-1].round().astype(int))]
        assert changed.sum() < 200
    with pytest.raises(PartnasError, match=rf"give \({count}, 2\) pixels"):
        draw_pose(image, joints[1:], skeleton=skeleton)


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


def test_views_from_elsewhere():
    points = upright(STANDING)
    np.testing.assert_allclose(seen_from(points, 0, 0), points[:, [0, 2, 1]])
    np.testing.assert_allclose(seen_from(points, 0, 90)[:, 1], points[:, 1], atol=1e-9)
    np.testing.assert_allclose(seen_from(points, 90, 0)[:, 0], points[:, 1], atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(seen_from(points, 25, 40), axis=1), np.linalg.norm(points, axis=1))


@pytest.mark.parametrize("colour", [None, "#112233"])
def test_every_bone_and_joint_is_drawn_in_its_colour(colour):
    lines, markers = traces({"name": "found", "joints_camera": STANDING, "colour": colour})
    points = np.array([lines.x, lines.y, lines.z], dtype=float).T.reshape(len(BONES), 3, 3)
    assert np.isnan(points[:, 2]).all()
    np.testing.assert_allclose(points[:, :2], upright(STANDING)[np.array(BONES)], atol=0.051)
    np.testing.assert_allclose(np.array([markers.x, markers.y, markers.z]).T, upright(STANDING), atol=0.051)
    if colour:
        assert lines.line.color == markers.marker.color == colour
    else:
        assert (
            list(lines.line.color[::3])
            == list(lines.line.color[1::3])
            == [bone_colour(bone, HUMAN36M) for bone in BONES]
        )
        of_part = dict(zip(PARTS, markers.marker.color, strict=True))
        assert (of_part["R_Wrist"], of_part["L_Ankle"], of_part["Head"]) == (RIGHT, LEFT, TRUNK)


def test_a_joint_tells_its_name_its_camera_coordinates_and_its_error():
    elsewhere = STANDING + [30, 0, 40]
    _, markers = traces({"name": "found", "joints_camera": STANDING, "compared": elsewhere})
    assert markers.text[PARTS.index("L_Wrist")] == "<b>L Wrist</b><br>(240, 40, -60) mm<br>error 50 mm"
    _, markers = traces({"name": "found", "joints_camera": STANDING})
    assert "error" not in markers.text[0]


def test_another_skeleton_in_3d():
    joints = np.random.default_rng(0).normal(0, 300, (21, 3))
    lines, markers = figure([{"name": "found", "joints_camera": joints}], MUCO).data
    assert len(lines.x) == 3 * len(MUCO.bones)
    assert [text.split("<")[1].removeprefix("b>") for text in markers.text] == [p.replace("_", " ") for p in MUCO.parts]
    with pytest.raises(PartnasError, match=r"give \(18, 3\)"):
        figure([{"name": "found", "joints_camera": joints}])


def test_axes_hold_every_pose_at_one_scale_and_the_view_is_the_cameras():
    wide = {"name": "wide", "joints_camera": STANDING * [4, 1, 1] + [100, 0, 5000]}
    shown = scene([{"name": "a", "joints_camera": STANDING}, wide])
    points = np.concatenate([upright(STANDING), upright(wide["joints_camera"])])
    scales = []
    for axis, (name, side) in enumerate((("xaxis", "x"), ("yaxis", "y"), ("zaxis", "z"))):
        low, high = shown[name]["range"]
        assert low < points[:, axis].min()
        assert high > points[:, axis].max()
        assert "(mm)" in shown[name]["title"]["text"]
        scales.append(shown["aspectratio"][side] / (high - low))
    assert scales == pytest.approx([scales[0]] * 3)
    assert shown["aspectmode"] == "manual"
    eye = shown["camera"]["eye"]
    assert -eye["y"] > 2 * max(abs(eye["x"]), abs(eye["z"]))


def test_figures_that_replace_each_other_keep_the_view():
    small, large = (figure([{"name": "a", "joints_camera": size * STANDING}]).layout for size in (1, 2))
    assert small.uirevision
    assert small.uirevision == large.uirevision
    assert small.scene.camera == large.scene.camera


def test_poses_that_cannot_be_shown():
    with pytest.raises(PartnasError, match="none given"):
        figure([])
    with pytest.raises(PartnasError, match=r"'short': joints_camera has shape \(17, 3\)"):
        figure([{"name": "short", "joints_camera": STANDING[:17]}])
    with pytest.raises(PartnasError, match="'other': compared has shape"):
        figure([{"name": "other", "joints_camera": STANDING, "compared": STANDING[:1]}])
    with pytest.raises(PartnasError, match="finite"):
        figure([{"name": "nan", "joints_camera": STANDING * np.nan}])


def test_a_page_of_a_pose(tmp_path):
    path = tmp_path / "deep" / "pose.html"
    poses = [{"name": "</script><b>", "joints_camera": STANDING}]
    write_html(path, poses, image=np.zeros((20, 30, 3), np.uint8), title="<x>")
    page = path.read_text()
    assert "<title>&lt;x&gt;</title>" in page
    assert "<x>" not in page
    assert page.count("</script>") == page.count("<script")
    assert "<b>" not in page
    assert re.findall(r"(?:src|href)=\"(?!data:)([^\"]*)\"", page) == [PLOTLY_FILE]
    assert re.findall(r"https?://", page) == []


def test_pages_of_a_folder_share_one_plotly(tmp_path):
    source = tmp_path / PLOTLY_FILE
    source.write_text("an older one")
    for name in "ab":
        write_html(tmp_path / f"{name}.html", [{"name": name, "joints_camera": STANDING}])
        assert source.read_text() == plotly_source()
        assert (tmp_path / f"{name}.html").stat().st_size < 40_000
    before = source.stat().st_ino
    write_html(tmp_path / "c.html", [{"name": "c", "joints_camera": STANDING}])
    assert source.stat().st_ino == before


def test_nothing_half_written_stays(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    write_html(tmp_path / "pose.html", [{"name": "a", "joints_camera": STANDING}])
    before = (tmp_path / "pose.html").read_text()
    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_html(tmp_path / "pose.html", [{"name": "b", "joints_camera": STANDING}])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["plotly.min.js", "pose.html"]
    assert (tmp_path / "pose.html").read_text() == before
