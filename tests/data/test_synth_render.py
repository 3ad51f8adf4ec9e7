"""The rendered data set, end to end; needs the packages of the extra ``synth``."""

import numpy as np
import pytest

REASON = "needs pip install 'partnas[synth]'"
pytest.importorskip("anny", reason=REASON)
pytest.importorskip("warp", reason=REASON)
pytest.importorskip("pybullet_data", reason=REASON)

from partnas.data.synth import plan, retarget, rotations, synthesize  # noqa: E402
from partnas.data.synth.body import AVERAGE, JOINT_BONES, Body  # noqa: E402
from partnas.data.synth.clips import load_clip  # noqa: E402
from partnas.data.synth.picture import make_picture  # noqa: E402


@pytest.fixture(scope="module")
def body():
    return Body()


def test_every_clip_is_readable():
    for clips in plan.SPLIT_CLIPS.values():
        for name in clips:
            clip = load_clip(name)
            assert 0.5 < clip.duration < 10
            np.testing.assert_allclose(np.linalg.norm(clip.rotations, axis=-1), 1, atol=1e-9)


def test_limbs_follow_the_clip(body):
    joint = {bone: index for index, bone in JOINT_BONES.items()}
    rest = body.rest(AVERAGE)
    for name in ("walk", "backflip", "cartwheel", "crawl"):
        pose = load_clip(name).sample(0.7)
        links = retarget.link_rotations(pose)
        joints = body.pose(rest, pose).joints
        for side, word in (("L", "left"), ("R", "right")):
            for link, bone, far in retarget.CHAINS:
                limb = rotations.normalise(joints[joint[f"{far}.{side}"]] - joints[joint[f"{bone}.{side}"]])
                expected = links[f"{word}_{link}"] @ retarget.DOWN
                assert np.rad2deg(np.arccos(np.clip(limb @ expected, -1, 1))) < 0.1


def test_body_stands_on_the_ground_and_joints_lie_in_it(body):
    rest = body.rest(AVERAGE)
    posed = body.pose(rest, load_clip("walk").sample(0.3))
    assert posed.vertices[:, 2].min() == pytest.approx(0, abs=1e-6)
    assert 1.6 < np.ptp(posed.vertices[:, 2]) < 1.9
    for joint in posed.joints:
        assert np.linalg.norm(posed.vertices - joint, axis=1).min() < 0.16


def test_same_seed_gives_same_files_whatever_the_workers(tmp_path):
    one, two = (
        synthesize(tmp_path / str(workers), images=8, seed=3, workers=workers, size=64, progress=False)
        for workers in (1, 2)
    )
    first, second = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (one, two)
    )
    assert len(first) > 8
    assert first == second
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_another_seed_gives_another_picture(body):
    clips = {name: load_clip(name) for names in plan.SPLIT_CLIPS.values() for name in names}
    item = plan.make_plan(60)[45]
    first, again, other = (make_picture(item, seed, 48, body, clips) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.joints, again.joints)
    assert (first.image != other.image).mean() > 0.5
    assert np.abs(first.joints - other.joints).max() > 10


def test_person_stands_out_where_the_box_says(body):
    clips = {name: load_clip(name) for names in plan.SPLIT_CLIPS.values() for name in names}
    item = next(item for item in plan.make_plan(60) if item.action == "dance_b")
    picture = make_picture(item, 2, 96, body, clips)
    x, y, width, height = picture.bbox
    assert picture.image.shape == (96, 96, 3)
    assert picture.visible.all()
    assert 0.5 * 96 < max(width, height) < 96
    inside = picture.image[int(y) : int(y + height), int(x) : int(x + width)].astype(float)
    assert inside.std() > 10
