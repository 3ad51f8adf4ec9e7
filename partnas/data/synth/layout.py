"""Writes annotations in the Human3.6M layout of Moon et al.'s public release."""

import json
from pathlib import Path

import numpy as np

from partnas.data.synth.plan import Item
from partnas.data.synth.scene import Camera


def write_annotations(
    folder: Path, records: list[tuple[Item, dict]], cameras: dict[int, list[Camera]], size: int
) -> None:
    """Write ``Human36M_subject{S}_{data,camera,joint_3d}.json`` for every subject into ``folder``.

    Args:
        records: an item with its ``bbox`` [4] and 17 ``visible`` flags in pixels of the picture, and ``joints`` [17, 3]
            in world millimetres, in the order of the plan.
        cameras: the four cameras of every subject.
        size: side of the square pictures in pixels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for subject in sorted({item.subject for item, _ in records}):
        images, annotations, joints = [], [], {}
        for item, record in records:
            if item.subject != subject:
                continue
            images.append(
                {
                    "id": item.index,
                    "file_name": item.file_name,
                    "width": size,
                    "height": size,
                    "subject": subject,
                    "action_name": item.action,
                    "action_idx": item.action_idx,
                    "subaction_idx": item.subaction_idx,
                    "cam_idx": item.cam_idx,
                    "frame_idx": item.frame_idx,
                }
            )
            annotations.append(
                {
                    "id": item.index,
                    "image_id": item.index,
                    "keypoints_vis": [bool(flag) for flag in record["visible"]],
                    "bbox": np.round(record["bbox"], 1).tolist(),
                }
            )
            sequence = joints.setdefault(str(item.action_idx), {}).setdefault(str(item.subaction_idx), {})
            sequence[str(item.frame_idx)] = np.round(record["joints"], 1).tolist()
        parameters = {
            str(index): {name: getattr(camera, name).tolist() for name in ("R", "t", "f", "c")}
            for index, camera in enumerate(cameras[subject], start=1)
        }
        for name, content in (
            ("data", {"images": images, "annotations": annotations}),
            ("camera", parameters),
            ("joint_3d", joints),
        ):
            text = json.dumps(content, separators=(",", ":"))
            (folder / f"Human36M_subject{subject}_{name}.json").write_text(text)
