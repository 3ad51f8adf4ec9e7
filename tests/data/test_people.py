import json

import numpy as np
import pytest

from partnas.data import read_boxes, read_camera
from partnas.errors import PartnasError


def written(tmp_path, content):
    path = tmp_path / "file.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_both_forms_of_boxes(tmp_path):
    assert read_boxes(written(tmp_path, {"a.jpg": [[1, 2, 3, 4]], "b.jpg": []})) == {
        "a.jpg": [{"bbox": [1, 2, 3, 4]}],
        "b.jpg": [],
    }
    rootnet = [{"image_id": "a.jpg", "bbox": [1, 2, 3, 4], "root_cam": [0, 0, 2500], "score": 0.9}]
    assert read_boxes(written(tmp_path, rootnet)) == {"a.jpg": [{"bbox": [1, 2, 3, 4], "root_depth": 2500}]}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", "broken JSON"),
        (3, "neither"),
        ({"a.jpg": 3}, r"a\.jpg"),
        ({"a.jpg": [[1, 2, 3]]}, r"a\.jpg: bbox"),
        ({"a.jpg": [[1, 2, 0, 3]]}, "no area"),
        ({"a.jpg": [[1, 2, float("nan"), 3]]}, "finite"),
        ([{"bbox": [1, 2, 3, 4]}], "image_id"),
        ([{"image_id": "a", "bbox": [1, 2, 3, 4], "root_cam": [0, 0, -1]}], "root_cam"),
    ],
)
def test_bad_boxes(tmp_path, content, named):
    with pytest.raises(PartnasError, match=named):
        read_boxes(written(tmp_path, content))


def test_camera(tmp_path):
    focal, principal = read_camera(None, (640, 480))
    assert (focal.tolist(), principal.tolist()) == ([1500, 1500], [320, 240])
    focal, principal = read_camera(written(tmp_path, {"f": [500, 510], "c": [3, 4]}), (640, 480))
    np.testing.assert_array_equal([*focal, *principal], [500, 510, 3, 4])


@pytest.mark.parametrize(
    ("content", "named"), [({"f": [1, 1]}, "'c'"), ({"f": [0, 1], "c": [1, 1]}, "positive"), ([], "object")]
)
def test_bad_cameras(tmp_path, content, named):
    with pytest.raises(PartnasError, match=named):
        read_camera(written(tmp_path, content), (640, 480))
