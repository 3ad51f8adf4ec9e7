"""One picture of a finished run, for a README or a talk."""

import json
from pathlib import Path
from typing import Any

import cv2
import matplotlib.figure
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path as Outline

from partnas.errors import PartnasError
from partnas.files import write_atomically
from partnas.skeleton import Skeleton
from partnas.viz.cells import Layout, Line, head_title, lay_out
from partnas.viz.colours import FAINT_INK, INK, LEFT, RIGHT, RULE, TARGET, TRUNK, bone_colour, group_colour
from partnas.viz.overlay import draw_pose
from partnas.viz.pose3d import seen_from, upright
from partnas.viz.report import part_numbers, skeleton_of

COLUMNS = 6
WIDTH, HEIGHT, DPI = 13.0, 8.6, 110
TURN, TILT = 30.0, 12.0
"""Degrees by which the poses in 3D are seen from farther right and from farther up than the camera."""


def write_png(path: Path, run_dir: Path) -> Path:
    """Test pictures with predictions drawn in, the poses in 3D over the ground truth, the fusion cell, and part errors.

    The cell is that of ``genotype.json`` in the folder or in its ``search``; without one its place goes to the errors.

    Args:
        path: The PNG, written whole or not at all.
        run_dir: A folder that ``partnas evaluate`` has written to.

    Raises:
        PartnasError: The evaluation is missing or broken.
    """
    path, run_dir = Path(path), Path(run_dir)
    evaluation = _read(run_dir / "evaluation.json")
    examples = _read(run_dir / "predictions.json")
    skeleton = skeleton_of(evaluation)
    places = (run_dir / "genotype.json", run_dir / "search" / "genotype.json")
    genotype = next((_read(place) for place in places if place.exists()), None)
    chosen = [examples[i] for i in np.unique(np.linspace(0, len(examples) - 1, COLUMNS).round().astype(int))]

    figure = matplotlib.figure.Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, facecolor="white")
    _title(figure, evaluation)
    tops = figure.add_gridspec(2, len(chosen), left=0.02, right=0.98, top=0.88, bottom=0.395, hspace=0.04, wspace=0.05)
    half = _half_extent(chosen)
    for column, example in enumerate(chosen):
        _picture(figure.add_subplot(tops[0, column]), run_dir, example, skeleton)
        _pose(figure.add_subplot(tops[1, column]), example, half, skeleton)
    _key(figure)
    groups = evaluation.get("part_groups") or [list(evaluation["per_part_mm"])]
    left = 0.055
    if genotype is not None:
        _cell(figure.add_axes((0.02, 0.02, 0.52, 0.28)), genotype["fusion"], groups, skeleton)
        left = 0.59
    _errors(figure.add_axes((left, 0.105, 0.98 - left, 0.195)), evaluation["per_part_mm"], groups, skeleton)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))
    return path


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise PartnasError(f"{path}: missing; run `partnas evaluate` first") from None
    except ValueError:
        raise PartnasError(f"{path}: broken JSON; run the job that wrote it again") from None


def _title(figure: Any, evaluation: dict[str, Any]) -> None:
    figure.text(
        0.02, 0.962, f"{evaluation['mpjpe_mm']:.0f} mm MPJPE on motions never seen in search or training",
        fontsize=16, fontweight="bold", color=INK,
    )  # fmt: skip
    mean = evaluation.get("mean_pose_mpjpe_mm")
    beside = "" if mean is None else f"; predicting the mean training pose gives {mean:.0f} mm"
    figure.text(
        0.02, 0.932,
        f"{evaluation['frames']} test frames{beside}. Above a picture: its action and its own MPJPE.",
        fontsize=11, color=FAINT_INK,
    )  # fmt: skip


def _key(figure: Any) -> None:
    names = {"prediction: right side": RIGHT, "left side": LEFT, "trunk": TRUNK, "ground truth": TARGET}
    handles = [Line2D([], [], color=colour, linewidth=3.5, label=name) for name, colour in names.items()]
    figure.legend(
        handles=handles, loc="center", bbox_to_anchor=(0.5, 0.375), ncols=len(handles), frameon=False, fontsize=10,
        labelcolor=INK,
    )  # fmt: skip


def _picture(axes: Any, run_dir: Path, example: dict[str, Any], skeleton: Skeleton) -> None:
    image = cv2.imread(str(run_dir / example["image"]))
    if image is None:
        raise PartnasError(f"{run_dir / example['image']}: missing or broken; run `partnas evaluate` again")
    joints = np.array(example["joints_image"])
    axes.imshow(draw_pose(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), joints, side=480, skeleton=skeleton))
    axes.set_title(f"{example['action']}, {example['mpjpe_mm']:.0f} mm", fontsize=10, color=INK, pad=4)
    axes.axis("off")


def _half_extent(examples: list[dict[str, Any]]) -> float:
    """Millimetres from the middle to the edge of every 3D view, so that all have one scale."""
    return 0.51 * max(np.ptp(_flat(_corners(example)), axis=0).max() for example in examples)


def _corners(example: dict[str, Any]) -> np.ndarray:
    """Camera points that a 3D view must hold: both poses, and the corners of the floor under them."""
    points = np.concatenate([example["target_mm"], example["predicted_mm"]])
    low, high = points.min(0) - 80, points.max(0) + 80
    floor = [(x, high[1] - 60, z) for x in (low[0], high[0]) for z in (low[2], high[2])]
    return np.concatenate([points, floor])


def _flat(joints_camera: np.ndarray) -> np.ndarray:
    return seen_from(upright(joints_camera), TURN, TILT)[..., :2]


def _pose(axes: Any, example: dict[str, Any], half: float, skeleton: Skeleton) -> None:
    target, predicted = np.array(example["target_mm"]), np.array(example["predicted_mm"])
    points = _corners(example)
    floor = points[-1, 1]
    _floor(axes, points[-4], points[-1])
    for joints in (target, predicted):
        shadow = np.column_stack([joints[:, 0], np.full(len(joints), floor), joints[:, 2]])
        _bones(axes, shadow, skeleton, "#E3E7EC", 3.5)
    _bones(axes, target, skeleton, TARGET, 2.4)
    _bones(axes, predicted, skeleton, None, 2.8)
    flat = _flat(points)
    middle = (flat.max(0) + flat.min(0)) / 2
    axes.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half), aspect="equal")
    axes.axis("off")


def _floor(axes: Any, low: np.ndarray, high: np.ndarray, step: float = 250.0) -> None:
    """Lines between two opposite corners of the floor."""
    for axis in (0, 2):
        inner = np.arange(np.ceil(low[axis] / step) * step, high[axis], step)
        for value in (low[axis], *inner, high[axis]):
            ends = np.array([low, high])
            ends[:, axis] = value
            axes.plot(*_flat(ends).T, color=RULE, linewidth=0.8)


def _bones(axes: Any, joints: np.ndarray, skeleton: Skeleton, colour: str | None, width: float) -> None:
    flat = _flat(joints)
    for bone in skeleton.bones:
        own = colour or bone_colour(bone, skeleton)
        axes.plot(*flat[list(bone)].T, color=own, linewidth=width, solid_capstyle="round")


def _cell(axes: Any, nodes: list, groups: list[list[str]], skeleton: Skeleton) -> None:
    heads = [part_numbers(group, skeleton) for group in groups] if len(groups) == len(nodes) else None
    layout = lay_out(nodes, "fusion", heads, skeleton)
    axes.set(xlim=(0, layout.width), ylim=(layout.height, 0), aspect="equal", anchor="NW")
    axes.set_title("The fusion cell that was found", loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.axis("off")
    box = axes.get_position()
    points = 72 * min(WIDTH * box.width / layout.width, HEIGHT * box.height / layout.height)  # of one layout pixel
    for line in layout.lines:
        _line(axes, line, points)
    _boxes(axes, layout, points)


def _line(axes: Any, line: Line, points: float) -> None:
    codes = [Outline.MOVETO, *[Outline.CURVE4] * 3, *[Outline.LINETO] * (len(line.points) - 4)]
    axes.add_patch(PathPatch(Outline(line.points, codes), fill=False, edgecolor=line.colour, lw=line.width * points))
    x, y = line.points[-1]
    axes.fill([x, x - 9, x - 9], [y, y - 4.5, y + 4.5], color=line.colour, linewidth=0)


def _boxes(axes: Any, layout: Layout, points: float) -> None:
    for box in layout.boxes:
        style = f"round,pad=0,rounding_size={min(6, box.height / 3)}"
        axes.add_patch(
            FancyBboxPatch(
                (box.x, box.y), box.width, box.height, boxstyle=style, fc=box.fill, ec=box.stroke, lw=1.4 * points
            )
        )
        name = f"${box.text}_{{{box.subscript.replace('−', '-')}}}$" if box.subscript else box.text
        size = (12 if box.kind == "label" else 13) * points
        axes.text(*box.middle, name, fontsize=size, color=INK, ha="center", va="center")
    for text in layout.texts:
        axes.text(
            text.x, text.y, text.text, fontsize=text.size * points, color=text.colour, va="baseline",
            ha={"start": "left", "middle": "center", "end": "right"}[text.anchor],
            fontweight="bold" if text.bold else "normal",
        )  # fmt: skip


def _errors(axes: Any, errors: dict[str, float], groups: list[list[str]], skeleton: Skeleton) -> None:
    shown = [(part, node) for node, group in enumerate(groups) for part in group if part in errors]
    bars = axes.bar(
        [part.replace("_", " ") for part, _ in shown],
        [errors[part] for part, _ in shown],
        color=[group_colour(node) for _, node in shown],
        width=0.74,
    )
    axes.bar_label(bars, fmt="%.0f", fontsize=8.5, color=FAINT_INK, padding=1)
    axes.set_title("Mean error of each part (mm)", loc="left", fontsize=11, fontweight="bold", color=INK)
    for node, group in enumerate(groups):
        if len(groups) > 1:
            name = f"node {node}, {head_title(part_numbers(group, skeleton), skeleton)}"
            axes.bar(0, 0, color=group_colour(node), label=name)
    if len(groups) > 1:
        axes.legend(frameon=False, fontsize=9, loc="upper left", labelcolor=INK)
    axes.set_ylim(0, 1.45 * max(errors.values()))
    axes.tick_params(axis="x", labelsize=8.5, labelcolor=INK, length=0)
    axes.tick_params(axis="y", labelsize=8.5, labelcolor=FAINT_INK, color=RULE)
    for label in axes.get_xticklabels():
        label.set(rotation=40, ha="right", rotation_mode="anchor")
    axes.margins(x=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
