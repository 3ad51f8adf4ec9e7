"""A data set of a few frames, written in the Human3.6M layout."""

import json

import cv2
import numpy as np

CAMERA = {"R": np.eye(3).tolist(), "t": [0, 0, 3000], "f": [400.0, 410.0], "c": [80.0, 60.0]}
WIDTH, HEIGHT = 160, 120


def write_set(root, subjects=(1,), frames=(0, 5, 7), change=None):
    """A small set in the Human3.6M layout. ``change(subject, data, camera, joints)`` may spoil it first."""
    random = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    number = 0
    for subject in subjects:
        images, annotations, joints = [], [], {"2": {"1": {}}}
        for frame in frames:
            number += 1
            name = f"s_{subject:02}_act_02_subact_01_ca_01"
            file_name = f"{name}/{name}_{frame + 1:06}.jpg"
            path = root / "images" / file_name
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), random.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8))
            images.append(
                {
                    "id": number, "file_name": file_name, "width": WIDTH, "height": HEIGHT, "subject": subject,
                    "action_name": "Walking", "action_idx": 2, "subaction_idx": 1, "cam_idx": 1, "frame_idx": frame,
                }
            )  # fmt: skip
            joints["2"]["1"][str(frame)] = (random.uniform(-200, 200, (17, 3))).tolist()
            annotations.append(
                {"id": number, "image_id": number, "keypoints_vis": [True] * 17, "bbox": [40.0, 20.0, 60.0, 80.0]}
            )
        data, camera = {"images": images, "annotations": annotations}, {"1": dict(CAMERA)}
        if change is not None:
            change(subject, data, camera, joints)
        for kind, content in (("data", data), ("camera", camera), ("joint_3d", joints)):
            (root / "annotations" / f"Human36M_subject{subject}_{kind}.json").write_text(json.dumps(content))
    return root
