"""People of the embedded sample written as MPII, COCO, MuCo-3DHP and MuPoTS-3D have theirs, one to an image.

``python tests/data/embedded_sets.py OUT`` writes the training people as MuCo-3DHP and the test people as MuPoTS-3D.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np

from partnas.data import SPLITS, embedded_root, read_human36m
from partnas.skeleton import COCO, MPII, MUCO, MUPOTS

STAND_INS = {
    "Head_top": "Head", "Head": "Nose", "Spine": "Torso", "R_Hand": "R_Wrist", "L_Hand": "L_Wrist",
    "R_Toe": "R_Ankle", "L_Toe": "L_Ankle",
}  # fmt: skip
"""Where a part of MuCo-3DHP's is put that the sample lacks."""
UNSEEN = {"R_Hand", "L_Hand", "R_Toe", "L_Toe"}
LAYOUTS = {
    "mpii": ("MPII", "images/{:09}.jpg", "", "annotations/train.json"),
    "coco": ("MSCOCO", "{:012}.jpg", "images/train2017", "annotations/person_keypoints_train2017.json"),
    "muco": ("MuCo", "unaugmented_set/1/{:05}.jpg", "data", "data/MuCo-3DHP.json"),
    "mupots": ("MuPoTS", "TS1/img_{:06}.jpg", "data/MultiPersonTestSet", "data/MuPoTS-3D.json"),
}
SKELETONS = {"mpii": MPII, "coco": COCO, "muco": MUCO, "mupots": MUPOTS}


def write_as(name, people, root):
    """Write ``people`` (Frames of the embedded sample) below ``root`` in the layout of the set ``name``."""
    folder, file_name, below, annotations = LAYOUTS[name]
    images, entries = [], []
    for index in range(len(people)):
        width, height = people.image_sizes[index].tolist()
        image = {"id": index, "file_name": file_name.format(index), "width": width, "height": height}
        camera = {"f": people.focal[index].tolist(), "c": people.principal[index].tolist()}
        if name == "muco":
            image |= camera
        if name == "mupots":
            image["intrinsic"] = [*camera["f"], *camera["c"]]
        path = root / folder / below / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(people.image_path(index), path)
        images.append(image)
        person = {"id": index, "image_id": index, "bbox": people.bboxes[index].tolist()}
        entries.append(
            person | (flat(name, people, index) if name in ("mpii", "coco") else in_space(name, people, index))
        )
    path = root / folder / annotations
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": entries, "categories": []}))
    return root / folder


def flat(name, people, index):
    parts = SKELETONS[name].parts[: 17 if name == "coco" else 16]
    places = people.skeleton.places_of(parts)
    keypoints = []
    for place in places:
        seen = place is not None and bool(people.visible[index, place])
        keypoints += [*people.joints_image[index, place].tolist(), 2] if seen else [0, 0, 0]
    number = sum(flag > 0 for flag in keypoints[2::3])
    return {"keypoints": keypoints, "num_keypoints": number, "iscrowd": 0, "category_id": 1}


def in_space(name, people, index):
    parts = SKELETONS[name].parts
    places = people.skeleton.places_of(tuple(STAND_INS.get(part, part) for part in parts))
    visible = people.visible[index, places] & ~np.isin(parts, list(UNSEEN))
    return {
        "keypoints_cam": people.joints_camera[index, places].tolist(),
        "keypoints_img": people.joints_image[index, places].tolist(),
        "keypoints_vis": visible.tolist(),
        "is_valid": 1,
    }


if __name__ == "__main__":
    for name, split in (("muco", "train"), ("mupots", "test")):
        print(write_as(name, read_human36m(embedded_root(), SPLITS[2][split], 1), Path(sys.argv[1])))
