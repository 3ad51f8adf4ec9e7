"""A run folder with everything that a report shows, made up."""

import json

import cv2
import numpy as np

from partnas.skeleton import HUMAN36M

GENOTYPE = {
    "normal": [
        [["sep_conv_3x3", 0], ["skip_connect", 1]],
        [["dil_conv_3x3", 0], ["max_pool_3x3", 2]],
        [["sep_conv_5x5", 1], ["avg_pool_3x3", 3]],
        [["skip_connect", 0], ["dil_conv_5x5", 4]],
    ],
    "reduction": [
        [["max_pool_3x3", 0], ["sep_conv_3x3", 1]],
        [["skip_connect", 0], ["dil_conv_3x3", 2]],
        [["avg_pool_3x3", 1], ["sep_conv_5x5", 2]],
        [["skip_connect", 1], ["dil_conv_5x5", 3]],
    ],
    "fusion": [[["sep_conv_3x3", 0], ["skip_connect", 1]], [["dil_conv_3x3", 1], ["max_pool_3x3", 2]]],
}
STANDING = np.array(
    [
        (0, 0, 0), (-110, 0, 0), (-120, 430, 20), (-120, 860, 40), (110, 0, 0), (120, 430, 10), (120, 860, 60),
        (0, -240, 0), (0, -480, 0), (0, -560, -90), (0, -680, 0), (160, -450, 0), (220, -190, 30), (240, 40, -60),
        (-160, -450, 0), (-220, -190, 30), (-240, 40, -60), (0, -450, 0),
    ],
    dtype=float,
)  # fmt: skip
"""A standing person in camera axes, y down, in millimetres."""


def write_run(folder, epochs=4):
    random = np.random.default_rng(0)
    (folder / "examples").mkdir(parents=True)
    examples = []
    for place in range(4):
        picture = cv2.GaussianBlur(random.integers(90, 160, (96, 96, 3), dtype=np.uint8), (9, 9), 0)
        cv2.imwrite(str(folder / f"examples/{place:02d}.jpg"), picture)
        predicted = STANDING + random.normal(0, 40, STANDING.shape)
        examples.append(
            {
                "image": f"examples/{place:02d}.jpg",
                "action": "walk",
                "joints_image": (predicted[:, :2] / 20 + [48, 40]).tolist(),
                "predicted_mm": predicted.tolist(),
                "target_mm": STANDING.tolist(),
                "mpjpe_mm": 70.0 + place,
            }
        )
    (folder / "predictions.json").write_text(json.dumps(examples))
    errors = {name: float(random.uniform(20, 140)) for name in HUMAN36M.parts[:17]}
    evaluation = {
        "frames": 99, "mpjpe_mm": 80.0, "mean_pose_mpjpe_mm": 200.0, "pa_mpjpe_mm": 60.0, "pa_mpjpe_scaled_mm": 55.0,
        "per_part_mm": errors, "per_action_mm": {"walk": 70.0, "<b>run</b>": 90.0}, "per_group_mm": [81.0, 79.0],
        "part_groups": [list(HUMAN36M.parts[:9]), list(HUMAN36M.parts[9:])], "protocol": 2, "data": "made up", "parameters": 1234567,
        "flops": {"exact": 2.5e9},
    }  # fmt: skip
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    (folder / "genotype.json").write_text(json.dumps(GENOTYPE))
    (folder / "config.yaml").write_text("epochs: 4\nnote: <script>alert(1)</script>\n")
    rows = []
    for epoch in range(1, epochs + 1):
        alphas = {
            k: random.dirichlet(np.ones(8), n).tolist() for k, n in (("normal", 14), ("reduction", 14), ("fusion", 5))
        }
        common = {"step": epoch, "epoch": epoch, "loss": 3 / epoch, "mpjpe_mm": 200 / epoch, "images_per_second": 9.0}
        rows.append({"job": "search", **common, "validation_loss": 3.5 / epoch, "alphas": alphas})
        rows.append({"job": "train", **common})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
