"""Every training set of the public release, a few people each, below one folder."""

import json

import cv2
import numpy as np
from small_set import write_set

from partnas.skeleton import COCO, MPII, MUCO

WIDTH, HEIGHT = 160, 120


def write_release(root, people=6):
    """``Human36M`` (3 frames of each subject), ``MPII``, ``MSCOCO`` and ``MuCo`` (``people`` images of one each)."""
    write_set(root / "Human36M", subjects=(1, 5, 6, 7, 8, 9, 11))
    random = np.random.default_rng(1)
    write(root / "MPII", "images", "annotations/train.json", [flat(random, MPII, 16) for _ in range(people)], random)
    coco = [flat(random, COCO, 17) for _ in range(people)]
    write(root / "MSCOCO", "images/train2017", "annotations/person_keypoints_train2017.json", coco, random)
    muco = [solid(random) for _ in range(people)]
    write(root / "MuCo", "data", "data/MuCo-3DHP.json", muco, random, {"f": [400.0, 410.0], "c": [80.0, 60.0]})
    return root


def flat(random, skeleton, count):
    keypoints = np.column_stack([random.uniform([45, 25], [95, 95], (count, 2)), np.full(count, 2)])
    return {"keypoints": keypoints.ravel().tolist(), "num_keypoints": count, "iscrowd": 0}


def solid(random):
    joints = random.uniform(-200, 200, (len(MUCO.parts), 3)) + [0, 0, 3000]
    pixels = joints[:, :2] / joints[:, 2:] * [400.0, 410.0] + [80.0, 60.0]
    visible = [True] * len(MUCO.parts)
    return {"keypoints_cam": joints.tolist(), "keypoints_img": pixels.tolist(), "keypoints_vis": visible}


def write(root, folder, annotations, people, random, camera=None):
    images = []
    for number, person in enumerate(people):
        person |= {"id": number, "image_id": number, "bbox": [40.0, 20.0, 60.0, 80.0]}
        name = f"{number:06}.jpg"
        images.append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT, **(camera or {})})
        (root / folder).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / folder / name), random.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    (root / annotations).parent.mkdir(parents=True, exist_ok=True)
    (root / annotations).write_text(json.dumps({"images": images, "annotations": people}))
