"""Small sets in exactly the formats of MPII, COCO, MuCo-3DHP and MuPoTS-3D, with real image files and the odd cases.

Each writer takes ``change``, which is given the annotation file's content and may spoil it first.
"""

import json

import cv2
import numpy as np
from small_set import write_set

WIDTH, HEIGHT = 160, 120
FOCAL, CENTRE = [300.0, 310.0], [80.0, 60.0]
BOX = [40.0, 20.0, 60.0, 80.0]
COCO_NAMES = [
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
]  # fmt: skip


def write_image(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    cv2.imwrite(str(path), pixels)


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def keypoints(count, seed, unseen=()):
    """``count`` labelled joints inside the box, as COCO writes them; those of ``unseen`` are not labelled."""
    joints = np.random.default_rng(seed).integers([BOX[0], BOX[1]], [BOX[0] + BOX[2], BOX[1] + BOX[3]], (count, 2))
    return [n for place, (x, y) in enumerate(joints.tolist()) for n in ([0, 0, 0] if place in unseen else [x, y, 2])]


def person_in_space(parts, root, place, seed):
    """Joints within 400 mm of ``root`` (camera millimetres), whose pelvis, at ``place``, is ``root`` itself."""
    joints = np.array(root) + np.random.default_rng(seed).uniform(-400, 400, (parts, 3))
    joints[place] = root
    return joints, joints[:, :2] / joints[:, 2:] * FOCAL + CENTRE


def box_of(pixels):
    corner = pixels.min(0)
    return [*corner.tolist(), *(pixels.max(0) - corner).tolist()]


def write_mpii(root, change=None):
    """Three people in two images: one whole, one without keypoints, one with a single joint; a third image is empty."""
    images = [{"id": n, "file_name": f"images/{n:09}.jpg", "width": WIDTH, "height": HEIGHT} for n in (1, 2, 3)]
    for image in images:
        write_image(root / image["file_name"], image["id"])
    people = [
        {"id": 1, "image_id": 1, "bbox": BOX, "keypoints": keypoints(16, 1, unseen=(0, 5)), "num_keypoints": 14},
        {"id": 2, "image_id": 2, "bbox": BOX, "keypoints": [0] * 48, "num_keypoints": 0},
        {"id": 3, "image_id": 2, "bbox": BOX, "keypoints": keypoints(16, 3, unseen=range(1, 16)), "num_keypoints": 1},
    ]
    for person in people:
        person |= {"category_id": 1, "iscrowd": 0, "area": 4800.0}
    content = {"images": images, "annotations": people, "categories": [{"id": 1, "name": "person"}]}
    return _written(root, root / "annotations" / "train.json", content, change)


def write_coco(root, split="train2017", change=None):
    """Seven people: whole, left hip unseen, a crowd, without keypoints, an empty box, a box outside, and one cut off."""
    images = [{"id": n, "file_name": f"{n:012}.jpg", "width": WIDTH, "height": HEIGHT} for n in (9, 25, 30)]
    for image in images:
        write_image(root / "images" / split / image["file_name"], image["id"])
    outline = [[40.0, 20.0, 100.0, 20.0, 100.0, 100.0]]
    whole = {"iscrowd": 0, "category_id": 1, "area": 4800.0, "segmentation": outline, "bbox": BOX}
    people = [
        {**whole, "id": 101, "image_id": 9, "keypoints": keypoints(17, 1), "num_keypoints": 17},
        {**whole, "id": 102, "image_id": 9, "keypoints": keypoints(17, 2, unseen=(11,)), "num_keypoints": 16},
        {
            **whole, "id": 103, "image_id": 25, "keypoints": [0] * 51, "num_keypoints": 0, "iscrowd": 1,
            "segmentation": {"counts": [20, 10, 19170], "size": [HEIGHT, WIDTH]},
        },
        {**whole, "id": 104, "image_id": 25, "keypoints": [0] * 51, "num_keypoints": 0},
        {**whole, "id": 105, "image_id": 25, "keypoints": keypoints(17, 5), "num_keypoints": 17, "bbox": [50, 50, 0, 9]},
        {**whole, "id": 106, "image_id": 25, "keypoints": keypoints(17, 6), "num_keypoints": 17, "bbox": [300, 9, 9, 9]},
        {**whole, "id": 107, "image_id": 25, "keypoints": keypoints(17, 7), "num_keypoints": 17, "bbox": [-9, 9, 60, 200]},
    ]  # fmt: skip
    category = {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(COCO_NAMES),
        "skeleton": [[16, 14]],
    }
    content = {
        "info": {"year": 2017},
        "licenses": [],
        "images": images,
        "annotations": people,
        "categories": [category],
    }
    return _written(root, root / "annotations" / f"person_keypoints_{split}.json", content, change)


def write_muco(root, change=None):
    """Two images of three people.

    In the first, 2 stands 300 mm behind 1, who is the nearest, and 3 far from both; in the second, 5 and 6 stand beside
    each other, 700 mm from 4, the nearest.
    """
    names = ("augmented_set/1/00000.jpg", "unaugmented_set/2/00001.jpg")
    images = [
        {"id": n, "file_name": name, "width": WIDTH, "height": HEIGHT, "f": FOCAL, "c": CENTRE}
        for n, name in enumerate(names)
    ]
    for image in images:
        write_image(root / "data" / image["file_name"], image["id"])
    roots = [(0, 0, 3000), (0, 0, 3300), (900, 0, 3600), (0, 0, 2500), (700, 0, 2500), (800, 100, 2600)]
    people = []
    for number, place in enumerate(roots, start=1):
        joints, pixels = person_in_space(21, place, 14, number)
        people.append(
            {
                "id": number, "image_id": (number - 1) // 3, "bbox": box_of(pixels), "keypoints_img": pixels.tolist(),
                "keypoints_cam": joints.tolist(), "keypoints_vis": [True] * 20 + [False],
            }
        )  # fmt: skip
    return _written(root, root / "data" / "MuCo-3DHP.json", {"images": images, "annotations": people}, change)


def write_mupots(root, change=None):
    """Two sequences of two images, each with two people, of whom the last of all is not valid."""
    names = [f"TS{sequence}/img_{frame:06}.jpg" for sequence in (1, 2) for frame in (0, 1)]
    images = [
        {"id": n, "file_name": name, "width": WIDTH, "height": HEIGHT, "intrinsic": [*FOCAL, *CENTRE]}
        for n, name in enumerate(names)
    ]
    people = []
    for image in images:
        write_image(root / "data" / "MultiPersonTestSet" / image["file_name"], image["id"])
        for side in (-500, 500):
            number = len(people) + 1
            joints, pixels = person_in_space(17, (side, 0, 3000), 14, number)
            people.append(
                {
                    "id": number, "image_id": image["id"], "bbox": box_of(pixels), "is_valid": int(number < 8),
                    "keypoints_img": pixels.tolist(), "keypoints_cam": joints.tolist(), "keypoints_vis": [1] * 17,
                }
            )  # fmt: skip
    return _written(root, root / "data" / "MuPoTS-3D.json", {"images": images, "annotations": people}, change)


def write_roots(path, image_ids, change=None):
    """A RootNet-style file with a person in each image; the pelvis of the n-th is 3000 + n mm away."""
    entries = [
        {"image_id": image, "bbox": [30.0, 10.0, 80.0, 80.0], "root_cam": [0.0, 0.0, 3000.0 + n], "score": 0.9}
        for n, image in enumerate(image_ids)
    ]
    if change is not None:
        change(entries)
    write_json(path, entries)
    return path


def write_release(root):
    """All training sets below one folder, as the public release has them; Human3.6M with three frames of each subject."""
    write_set(root / "Human36M", subjects=(1, 5, 6, 7, 8, 9, 11))
    write_mpii(root / "MPII")
    write_coco(root / "MSCOCO")
    write_muco(root / "MuCo")
    return root


def _written(root, path, content, change):
    if change is not None:
        change(content)
    write_json(path, content)
    return root
