"""Whatever stands anywhere in an annotation file, a loader gives numbers or one line."""

import copy
import json
import random
import warnings

import numpy as np
import pytest
from small_set import write_set
from small_sets import write_coco, write_mpii, write_muco, write_mupots

from partnas.data import read_coco, read_human36m, read_mpii, read_muco, read_mupots
from partnas.errors import PartnasError

JUNK = (
    None, "x", "", -1, 0, 3, 2**70, -(2**70), float("nan"), float("inf"), 1e300, 1.5, True,
    [], {}, [1], [[1, 2]], {"a": 1}, "9" * 500,
)  # fmt: skip


def read_subject(root, skip_broken):
    return read_human36m(root, [1], skip_broken=skip_broken)


FILES = [
    (write_mpii, read_mpii, "annotations/train.json"),
    (write_coco, read_coco, "annotations/person_keypoints_train2017.json"),
    (write_muco, read_muco, "data/MuCo-3DHP.json"),
    (write_mupots, read_mupots, "data/MuPoTS-3D.json"),
    *((write_set, read_subject, f"annotations/Human36M_subject1_{kind}.json") for kind in ("data", "camera", "joint_3d")),
]  # fmt: skip


def places(content, above=()):
    """Where anything stands in nested lists and objects, as tuples of keys."""
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield (*above, key)
        yield from places(content[key], (*above, key))


def fault_of(read, root, skip_broken):
    """The one line that a loader refuses a set with; nothing where it gives people, whose numbers are sound then."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            frames = read(root, skip_broken=skip_broken)
        except PartnasError as error:
            return str(error)
    assert len(frames) > 0
    assert np.isfinite(frames.joints_camera[frames.has_depth]).all()
    assert np.isfinite(frames.joints_image[frames.visible]).all()
    return ""


@pytest.mark.parametrize(("write", "read", "file"), FILES, ids=[file for *_, file in FILES])
def test_junk_is_read_or_named(tmp_path, write, read, file):
    path = write(tmp_path / "set") / file
    sound = json.loads(path.read_text())
    chosen = random.Random(0)
    everywhere = list(places(sound))
    refused = 0
    for _ in range(80):
        content = copy.deepcopy(sound)
        *above, last = chosen.choice(everywhere)
        inner = content
        for key in above:
            inner = inner[key]
        inner[last] = chosen.choice(JUNK)
        path.write_text(json.dumps(content))
        for skip_broken in (False, True):
            line = fault_of(read, tmp_path / "set", skip_broken)
            assert line.count("\n") == 0
            assert not line or str(tmp_path) in line
            refused += bool(line) and not skip_broken
    assert 10 < refused < 80
