"""One picture of a finished run, for a README or a talk."""

import json
from pathlib import Path
from typing import Any

import cv2
import matplotlib.figure
import numpy as np

from partnas.errors import PartnasError
from partnas.skeleton import BONES
from partnas.viz.colours import RIGHT, TARGET
from partnas.viz.overlay import draw_pose
from partnas.viz.pose3d import upright

COLUMNS = 6


def write_png(path: Path, run_dir: Path) -> Path:
    """Test pictures with predictions drawn in, the poses in 3D beside the annotation, and the error of every part.

    Args:
        path: The PNG to write.
        run_dir: A folder that ``partnas evaluate`` has written to.

    Raises:
        PartnasError: The evaluation is missing.
    """
    for name in ("evaluation.json", "predictions.json"):
        if not (run_dir / name).exists():
            raise PartnasError(f"{run_dir / name}: missing; run `partnas evaluate` first")
    evaluation = json.loads((run_dir / "evaluation.json").read_text())
    examples = json.loads((run_dir / "predictions.json").read_text())
    chosen = [examples[i] for i in np.unique(np.linspace(0, len(examples) - 1, COLUMNS).round().astype(int))]

    figure = matplotlib.figure.Figure(figsize=(13, 7.4), dpi=110, layout="constrained")
    grid = figure.add_gridspec(3, len(chosen), height_ratios=[1, 1.05, 0.85])
    for column, example in enumerate(chosen):
        _picture(figure.add_subplot(grid[0, column]), run_dir, example)
        _pose(figure.add_subplot(grid[1, column], projection="3d"), example)
    _errors(figure.add_subplot(grid[2, :]), evaluation)
    figure.suptitle(
        f"MPJPE {evaluation['mpjpe_mm']:.0f} mm on motions never seen in search or training; "
        f"the mean training pose gives {evaluation['mean_pose_mpjpe_mm']:.0f} mm\n"
        "orange: prediction, grey: annotation",
        fontsize=13,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _picture(axes: Any, run_dir: Path, example: dict[str, Any]) -> None:
    image = cv2.imread(str(run_dir / example["image"]))
    if image is None:
        raise PartnasError(f"{run_dir / example['image']}: missing or broken; run `partnas evaluate` again")
    axes.imshow(draw_pose(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.array(example["joints_image"]), side=360))
    axes.set_title(f"{example['action']}, {example['mpjpe_mm']:.0f} mm", fontsize=10)
    axes.axis("off")


def _pose(axes: Any, example: dict[str, Any]) -> None:
    for pose, colour, width in ((example["target_mm"], TARGET, 2.0), (example["predicted_mm"], RIGHT, 2.4)):
        joints = upright(np.array(pose))
        for bone in BONES:
            axes.plot(*joints[list(bone)].T, color=colour, linewidth=width, solid_capstyle="round")
    points = upright(np.array([*example["target_mm"], *example["predicted_mm"]]))
    middle, half = (points.max(0) + points.min(0)) / 2, np.ptp(points, axis=0).max() / 2
    axes.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half))
    axes.set(zlim=(middle[2] - half, middle[2] + half), xticklabels=[], yticklabels=[], zticklabels=[])
    axes.set_box_aspect((1, 1, 1), zoom=1.25)
    axes.view_init(elev=12, azim=-70)


def _errors(axes: Any, evaluation: dict[str, Any]) -> None:
    errors = evaluation["per_part_mm"]
    groups = evaluation.get("part_groups") or [list(errors)]
    palette = ["#0072B2", "#E69F00", "#009E73", "#CC79A7"]
    shown = [(part, node) for node, group in enumerate(groups) for part in group if part in errors]
    axes.bar(
        [part.replace("_", " ") for part, _ in shown],
        [errors[part] for part, _ in shown],
        color=[palette[node % len(palette)] for _, node in shown],
    )
    for node in range(len(groups)):
        axes.bar(0, 0, color=palette[node % len(palette)], label=f"predicted by head {node}")
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    axes.set_ylabel("error (mm)")
    axes.tick_params(axis="x", rotation=28, labelsize=8.5)
    axes.spines[["top", "right"]].set_visible(False)
