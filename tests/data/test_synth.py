"""The rendered data set: rotation maths, clip parsing, retargeting, the plan and the layout writer (NumPy alone)."""

import json
import sys

import numpy as np
import pytest

from partnas.data.synth import layout, looks, picture, plan, retarget, rotations, scene
from partnas.data.synth.body import ground_offset, vertex_normals
from partnas.data.synth.clips import LINKS, NUMBERS, Pose, parse_clip
from partnas.data.synth.synthesize import synthesize
from partnas.errors import PartnasError
from partnas.skeleton import HUMAN36M

IDENTITY = np.tile([1.0, 0, 0, 0], (len(LINKS), 1))
Z = np.array([0.0, 0, 1])


def rest_heads():
    """Bone heads of a body with arms held out and elbows a little bent forward, facing −y, left = +x."""
    heads = {}
    for side, sign in (("L", 1.0), ("R", -1.0)):
        heads |= {
            f"upperleg01.{side}": np.array([0.1 * sign, 0, 0.9]),
            f"lowerleg01.{side}": np.array([0.13 * sign, -0.03, 0.5]),
            f"foot.{side}": np.array([0.17 * sign, 0.01, 0.08]),
            f"upperarm01.{side}": np.array([0.17 * sign, 0, 1.4]),
            f"lowerarm01.{side}": np.array([0.36 * sign, 0, 1.2]),
            f"wrist.{side}": np.array([0.5 * sign, -0.12, 1.06]),
        }
    return heads


def turned_link(link, quaternion):
    quaternions = IDENTITY.copy()
    quaternions[LINKS.index(link)] = quaternion
    return Pose(np.array([0, 0.9, 0]), quaternions)


def limb(turns, labels, bone, far):
    heads = rest_heads()
    return turns[labels.index(bone)] @ rotations.normalise(heads[far] - heads[bone])


def pose_limbs(pose):
    labels = ["root", "upperarm01.R", "lowerarm01.R", "upperleg01.L", "lowerleg01.L", "upperleg02.L"]
    return retarget.bone_turns(pose, rest_heads(), labels, [-1, 0, 1, 0, 3, 3]), labels


def test_matrix_of_quaternion_turns_as_axis_and_angle_say():
    matrix = rotations.to_matrix(rotations.from_axis_angle(Z, np.pi / 2))
    np.testing.assert_allclose(matrix @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(matrix, rotations.about_z(np.pi / 2), atol=1e-12)


def test_quaternion_of_matrix_is_the_inverse_of_matrix_of_quaternion():
    generator = np.random.default_rng(0)
    quaternions = rotations.normalise(generator.normal(size=(50, 4)))
    # Half turns are where textbook formulas divide by zero.
    for quaternion in [*quaternions, np.array([0.0, 1, 0, 0]), np.array([0, 0.6, 0, 0.8])]:
        back = rotations.from_matrix(rotations.to_matrix(quaternion))
        assert abs(back @ quaternion) == pytest.approx(1, abs=1e-9)


def test_product_of_quaternions_is_the_product_of_matrices():
    a, b = rotations.normalise(np.random.default_rng(1).normal(size=(2, 4)))
    expected = rotations.to_matrix(a) @ rotations.to_matrix(b)
    np.testing.assert_allclose(rotations.to_matrix(rotations.multiply(a, b)), expected, atol=1e-12)


def test_slerp_goes_the_short_way_at_constant_speed():
    start, end = rotations.from_axis_angle(Z, 0.2), -rotations.from_axis_angle(Z, 1.2)
    middle = rotations.to_matrix(rotations.slerp(start, end, 0.3))
    np.testing.assert_allclose(middle, rotations.about_z(0.5), atol=1e-9)


def test_shortest_rotation_reaches_its_target():
    source, target = rotations.normalise(np.array([[1.0, 2, 3], [-1, 0.2, 0.5]]))
    matrix = rotations.shortest(source, target)
    np.testing.assert_allclose(matrix @ source, target, atol=1e-12)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)


def clip_text(frames=3):
    rows = np.zeros((frames, NUMBERS))
    rows[:, 0] = 0.1
    rows[:, 1] = np.arange(frames)
    rows[:, [4, 8, 12, 16, 21, 25, 30, 35, 39]] = 1
    rows[:, 20], rows[:, 29], rows[:, 34], rows[:, 43] = -0.4, 0.5, -0.6, 0.7
    return json.dumps({"Loop": "none", "Frames": rows.tolist()})


def test_clip_columns_go_to_their_links():
    clip = parse_clip(clip_text(), "fake.txt", "fake")
    assert clip.rotations.shape == (3, 13, 4)
    assert clip.duration == pytest.approx(0.2)
    for link, angle in (("right_knee", -0.4), ("right_elbow", 0.5), ("left_knee", -0.6), ("left_elbow", 0.7)):
        np.testing.assert_allclose(
            clip.rotations[0, LINKS.index(link)], rotations.from_axis_angle(Z, angle), atol=1e-12
        )
    for link in ("root", "chest", "neck", "right_hip", "left_ankle", "left_shoulder"):
        np.testing.assert_allclose(clip.rotations[1, LINKS.index(link)], [1, 0, 0, 0], atol=1e-12)


def test_clip_is_interpolated_between_frames_and_clamped_outside():
    clip = parse_clip(clip_text(), "fake.txt", "fake")
    assert clip.sample(0.15).root[0] == pytest.approx(1.5)
    assert clip.sample(9.0).root[0] == pytest.approx(2.0)
    assert clip.sample(-1.0).root[0] == pytest.approx(0.0)


@pytest.mark.parametrize(
    "text", ["nonsense", "{}", '{"Frames": [[1, 2]]}', '{"Frames": [[1], [1, 2]]}', '{"Frames": 3}']
)
def test_broken_clip_is_named(text):
    with pytest.raises(PartnasError, match=r"fake\.txt"):
        parse_clip(text, "fake.txt", "fake")


def test_rest_pose_hangs_straight_and_arms_lose_their_bend():
    turns, labels = pose_limbs(Pose(np.zeros(3), IDENTITY))
    for bone, far in (
        ("upperarm01.R", "lowerarm01.R"), ("lowerarm01.R", "wrist.R"),
        ("upperleg01.L", "lowerleg01.L"), ("lowerleg01.L", "foot.L"),
    ):  # fmt: skip
        np.testing.assert_allclose(limb(turns, labels, bone, far), [0, 0, -1], atol=1e-9)
    np.testing.assert_allclose(turns[labels.index("upperleg02.L")], turns[labels.index("upperleg01.L")])


def test_elbow_bends_forward_and_knee_backward():
    turns, labels = pose_limbs(turned_link("right_elbow", rotations.from_axis_angle(Z, np.pi / 2)))
    np.testing.assert_allclose(limb(turns, labels, "lowerarm01.R", "wrist.R"), [0, -1, 0], atol=1e-9)
    turns, labels = pose_limbs(turned_link("left_knee", rotations.from_axis_angle(Z, -np.pi / 2)))
    np.testing.assert_allclose(limb(turns, labels, "lowerleg01.L", "foot.L"), [0, 1, 0], atol=1e-9)


def test_clip_right_is_the_bodys_right():
    # A turn about the clip's x (forward) that takes −y (down) to +z (right) lifts an arm to the clip's right.
    lifted = turned_link("right_shoulder", rotations.from_axis_angle(np.array([1.0, 0, 0]), -np.pi / 2))
    turns, labels = pose_limbs(lifted)
    np.testing.assert_allclose(limb(turns, labels, "upperarm01.R", "lowerarm01.R"), [-1, 0, 0], atol=1e-9)


def test_every_turn_is_a_rotation():
    generator = np.random.default_rng(2)
    pose = Pose(np.zeros(3), rotations.normalise(generator.normal(size=(13, 4))))
    turns, _ = pose_limbs(pose)
    np.testing.assert_allclose(turns @ turns.swapaxes(1, 2), np.tile(np.eye(3), (len(turns), 1, 1)), atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(turns), 1, atol=1e-9)


def test_variation_keeps_hinges_in_range_and_zero_changes_nothing():
    pose = turned_link("left_knee", rotations.from_axis_angle(Z, -0.1))
    same = retarget.vary(pose, np.random.default_rng(0), 0.0)
    np.testing.assert_allclose(np.abs((same.rotations * pose.rotations).sum(1)), 1, atol=1e-9)
    for seed in range(40):
        varied = retarget.vary(pose, np.random.default_rng(seed), 3.0)
        knee, elbow = (varied.rotations[LINKS.index(link)] for link in ("left_knee", "left_elbow"))
        assert np.deg2rad(-146) < 2 * np.arctan2(knee[3], knee[0]) <= 1e-9
        assert -1e-9 <= 2 * np.arctan2(elbow[3], elbow[0]) < np.deg2rad(146)


def test_ground_offset_lifts_the_sunken_and_leaves_flight():
    vertices = np.array([[0.0, 0, -0.9], [0.2, 0.1, 0.6]])
    pelvis = np.array([0.1, 0.2, 0.0])
    for height, lowest in ((0.8, 0.0), (0.95, 0.0), (1.5, 0.52)):
        moved = vertices + ground_offset(vertices, pelvis, height)
        assert moved[:, 2].min() == pytest.approx(lowest)
    np.testing.assert_allclose((pelvis + ground_offset(vertices, pelvis, 1.0))[:2], 0, atol=1e-12)


def test_solids_have_outward_normals():
    vertices, faces = looks.ellipsoid((1, 2, 3), (0.2, 0.3, 0.4))
    outward = rotations.normalise(vertices - [1, 2, 3])
    assert ((vertex_normals(vertices, faces) * outward).sum(1) > 0.5).all()
    crate = scene.box((0, 0, 0), (1, 2, 3), 0.3, np.ones(3))
    assert ((crate.normals * crate.vertices).sum(1) > 0).all()


def test_cameras_are_rigid_upright_and_look_at_the_world():
    for subject in (1, 5, 6, 7, 8, 9, 11):
        for camera in scene.subject_cameras(subject, 160):
            np.testing.assert_allclose(camera.R @ camera.R.T, np.eye(3), atol=1e-8)
            assert np.linalg.det(camera.R) == pytest.approx(1, abs=1e-8)
            assert (camera.R @ [0, 0, 1])[1] < -0.8, "world up is picture up"
            pixel = picture.project(np.zeros((1, 3)), camera)
            np.testing.assert_allclose(pixel[0], camera.c, atol=1e-6)


def test_placed_body_fills_the_picture_and_stays_in_it():
    generator = np.random.default_rng(3)
    for index in range(20):
        vertices = generator.uniform([-0.3, -0.2, 0], [0.3, 0.2, 1.7], (300, 3)) @ rotations.about_z(index)
        camera = scene.subject_cameras(5, 160)[index % 4]
        offset = picture.place(vertices, camera, 160, generator)
        pixels = picture.project(1000 * (vertices + offset), camera)
        assert pixels.min() > 0
        assert pixels.max() < 160
        assert np.ptp(pixels, axis=0).max() > 0.6 * 160


def test_plan_keeps_clips_and_subjects_apart_and_counts():
    items = plan.make_plan(1000)
    assert [item.index for item in items] == list(range(1000))
    assert len({item.file_name for item in items}) == 1000
    sizes = plan.split_sizes(1000)
    assert sum(sizes.values()) == 1000
    for split, size in sizes.items():
        mine = [item for item in items if item.split == split]
        assert len(mine) == size
        assert {item.subject for item in mine} == set(plan.SPLIT_SUBJECTS[split])
        assert {item.action for item in mine} == set(plan.SPLIT_CLIPS[split])
    assert {item.cam_idx for item in items} == {1, 2, 3, 4}
    assert plan.make_plan(1000) == items


def test_action_indices_start_at_two_and_are_unique():
    assert sorted(plan.ACTIONS.values()) == list(range(2, 17))


def test_file_names_follow_the_layout():
    item = plan.make_plan(600)[1]
    assert item.file_name == f"{item.folder}/{item.folder}_{item.frame_idx + 1:06d}.jpg"
    assert item.folder.startswith(f"s_01_act_{item.action_idx:02d}_subact_01_ca_")


def test_written_annotations_have_every_field(tmp_path):
    items = [item for item in plan.make_plan(300) if item.subject == 9]
    record = {"visible": np.ones(17, bool), "bbox": np.array([1.23, 2, 30, 40]), "joints": np.full((17, 3), 1.26)}
    layout.write_annotations(tmp_path, [(item, record) for item in items], {9: scene.subject_cameras(9, 160)}, 160)
    data = json.loads((tmp_path / "Human36M_subject9_data.json").read_text())
    joints = json.loads((tmp_path / "Human36M_subject9_joint_3d.json").read_text())
    cameras = json.loads((tmp_path / "Human36M_subject9_camera.json").read_text())
    assert len(data["images"]) == len(data["annotations"]) == len(items)
    assert set(data["images"][0]) == {
        "id", "file_name", "width", "height", "subject", "action_name", "action_idx", "subaction_idx", "cam_idx",
        "frame_idx",
    }  # fmt: skip
    assert data["annotations"][0]["bbox"] == [1.2, 2.0, 30.0, 40.0]
    assert data["annotations"][0]["keypoints_vis"] == [True] * 17
    assert set(cameras) == {"1", "2", "3", "4"}
    for image in data["images"]:
        pose = joints[str(image["action_idx"])][str(image["subaction_idx"])][str(image["frame_idx"])]
        assert np.shape(pose) == (17, 3)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"images": 0}, "images"),
        ({"workers": 0}, "workers"),
        ({"size": 8}, "size"),
        ({"seed": -1}, "seed"),
        ({"quality": 0}, "quality"),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path, arguments, word):
    with pytest.raises(PartnasError, match=f"^{word}"):
        synthesize(tmp_path / "out", **({"images": 1} | arguments))
    assert list(tmp_path.iterdir()) == []


def test_folder_in_use_is_refused(tmp_path):
    (tmp_path / "kept.txt").write_text("kept")
    with pytest.raises(PartnasError, match="not an empty folder"):
        synthesize(tmp_path, images=1)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PartnasError, match=r"pip install 'partnas\[synth\]'"):
        synthesize(tmp_path / "out", images=1)


def test_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    # The package's attribute of this name is the function, so the module is taken from the table.
    module = sys.modules["partnas.data.synth.synthesize"]

    def interrupted(items, folder, *arguments):
        (folder / items[0].file_name).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "PACKAGES", {})
    monkeypatch.setattr(module, "_render_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        synthesize(tmp_path / "out", images=2)
    assert list(tmp_path.iterdir()) == []


def test_joint_order_is_the_skeletons():
    from partnas.data.synth.body import JOINT_BONES

    sides = {joint: bone[-1] for joint, bone in JOINT_BONES.items() if bone[-2:] in (".L", ".R")}
    assert sides == {index: name[0] for index, name in enumerate(HUMAN36M.parts[:17]) if name[:2] in ("L_", "R_")}
