"""``report.html``: one self-contained page on what a run found and how well it does."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from markupsafe import Markup

from partnas.errors import PartnasError
from partnas.skeleton import HUMAN36M, Skeleton, skeleton_named
from partnas.viz.cells import draw_cell, head_title
from partnas.viz.colours import LEFT, OPERATION_COLOURS, TARGET, group_colour
from partnas.viz.curves import alpha_figure, curve_figure
from partnas.viz.overlay import draw_pose
from partnas.viz.page import CONFIG, as_script, data_url, embed, plotly_source, write_page
from partnas.viz.pose3d import figure

PICTURE_SIDE = 320
CELL_TITLES = {
    "normal": "Normal cell",
    "reduction": "Reduction cell: edges from the inputs have stride 2",
    "fusion": "Fusion cell: both inputs are upsampled first; in the last one each node is the head of a part group",
}
MISSING = {
    "examples": ("predictions.json", "predictions", "partnas evaluate"),
    "parts": ("evaluation.json", "errors", "partnas evaluate"),
    "cells": ("genotype.json", "found cells", "partnas search"),
    "alphas": ("alphas in metrics.jsonl", "alphas", "partnas search"),
    "curves": ("metrics.jsonl", "curves", "partnas search or partnas train"),
}
"""Of each section: what it is drawn from, its name, and the command that makes that."""


def write_report(run_dir: Path | str, search_dir: Path | None = None, train_dir: Path | None = None) -> Path:
    """Write ``report.html`` from whatever of a run's files are there; its end says what is missing and what makes it.

    Args:
        run_dir: Where ``evaluation.json``, ``predictions.json`` and the page belong.
        search_dir: Where the search's ``metrics.jsonl``, ``genotype.json`` and ``config.yaml`` are, if elsewhere.
        train_dir: The same of the training.

    Returns:
        The page's path.

    Raises:
        PartnasError: The folder is missing, or one of its files is broken.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise PartnasError(f"{run_dir}: no such run; name the folder that a job wrote")
    folders = list(dict.fromkeys(Path(folder) for folder in (search_dir, train_dir, run_dir) if folder))
    metrics = [row for folder in folders for row in read_metrics(folder / "metrics.jsonl")]
    evaluation = read_json(run_dir / "evaluation.json") or {}
    genotype = next(filter(None, (read_json(folder / "genotype.json") for folder in folders)), None)
    configs = read_configs(folders)
    skeleton = skeleton_of(evaluation)
    examples = read_examples(run_dir, skeleton)
    sections = {
        "examples": examples,
        "parts": part_rows(evaluation, skeleton),
        "cells": cell_drawings(genotype, evaluation.get("part_groups"), skeleton),
        "alphas": alpha_drawings(metrics, genotype, [content for _, _, content in configs]),
        "curves": curve_drawings(metrics),
    }
    path = run_dir / "report.html"
    write_page(
        path,
        "report.html.j2",
        **sections,
        name=run_dir.resolve().name,
        lead=_lead(evaluation, metrics),
        figures=key_figures(evaluation),
        actions=_bars(evaluation.get("per_action_mm", {}).items()),
        target_colour=TARGET,
        action_colour=LEFT,
        missing=[MISSING[section] for section, content in sections.items() if not content],
        configs=[(name, text) for name, text, _ in configs],
        plotly=plotly_source(),
        views=as_script([figure(example["poses"], skeleton) for example in examples]),
        config=as_script(CONFIG),
    )
    return path


def read_configs(folders: Sequence[Path]) -> list[tuple[str, str, dict[str, Any]]]:
    """Of each ``config.yaml``: its name, its text, and its content as far as it can be parsed."""
    found = []
    for folder in folders:
        path = folder / "config.yaml"
        if not path.exists():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError:
            content = None
        name = f"{folder.resolve().name}/config.yaml"
        found.append((name, text, content if isinstance(content, dict) else {}))
    return found


def read_json(path: Path) -> Any:
    """A file's content, or None where there is no file."""
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        raise PartnasError(f"{path}: broken JSON; run the job that wrote it again") from None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl``; a last line that a crash cut short is passed over."""
    if not path.exists():
        return []
    rows = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            if number == len(lines):
                break
            raise PartnasError(f"{path}: line {number}: broken JSON; remove the line") from None
        if isinstance(row, dict):
            rows.append(row)
    return rows


def skeleton_of(evaluation: dict[str, Any]) -> Skeleton:
    """Whose parts an ``evaluation.json`` is about."""
    return skeleton_named(evaluation.get("skeleton", HUMAN36M.name), "evaluation.json: skeleton")


def read_examples(run_dir: Path, skeleton: Skeleton) -> list[dict[str, Any]]:
    """The entries of ``predictions.json`` with their drawn picture and the poses to compare."""
    found = []
    for place, example in enumerate(read_json(run_dir / "predictions.json") or []):
        try:
            image = cv2.imread(str(run_dir / example["image"]))
            if image is None:
                raise PartnasError(f"{run_dir / example['image']}: missing or broken; run `partnas evaluate` again")
            overlay = draw_pose(
                cv2.cvtColor(image, cv2.COLOR_BGR2RGB),
                np.array(example["joints_image"]),
                side=PICTURE_SIDE,
                skeleton=skeleton,
            )
            target, predicted = example["target_mm"], example["predicted_mm"]
            found.append(
                {
                    "picture": data_url(overlay),
                    "action": example.get("action", ""),
                    "mpjpe_mm": float(example["mpjpe_mm"]),
                    "poses": [
                        {"name": "ground truth", "joints_camera": target, "compared": predicted, "colour": TARGET},
                        {"name": "prediction", "joints_camera": predicted, "compared": target},
                    ],
                }
            )
        except KeyError as error:
            raise PartnasError(
                f"{run_dir / 'predictions.json'}: entry {place}: field {error} is missing; evaluate again"
            ) from None
    return found


def key_figures(evaluation: dict[str, Any]) -> list[tuple[str, str]]:
    """What stands at the top of the page: ``(value, name)``."""
    found = []
    if "mpjpe_mm" in evaluation:
        found.append((f"{evaluation['mpjpe_mm']:.1f} mm", "MPJPE"))
    if (mean := evaluation.get("mean_pose_mpjpe_mm")) is not None:
        found.append((f"{evaluation['mpjpe_mm'] / mean:.2f}×", f"of the mean training pose's {mean:.1f} mm"))
    if "pa_mpjpe_mm" in evaluation:
        found.append((f"{evaluation['pa_mpjpe_mm']:.1f} mm", "PA-MPJPE, without scale"))
    if "pa_mpjpe_scaled_mm" in evaluation:
        found.append((f"{evaluation['pa_mpjpe_scaled_mm']:.1f} mm", "PA-MPJPE, with scale"))
    if "mrpe_mm" in evaluation:
        error, beside = evaluation["mrpe_mm"], evaluation.get("baselines_mrpe_mm", {})
        found.append((f"{error['total']:.1f} mm", "MRPE, root position error"))
        found.append((f"{error['z']:.1f} mm", "along the depth"))
        names = {"mean_root": "MRPE of the mean training root", "box_area": "MRPE of the box's area alone"}
        found += [(f"{beside[name]['total']:.1f} mm", text) for name, text in names.items() if name in beside]
    for kind in ("relative", "absolute"):
        if kind in evaluation:
            found.append((f"{evaluation[kind]['all']['pck']:.1f} %", f"3DPCK, {kind}, of all people"))
    if "parameters" in evaluation:
        found.append((f"{evaluation['parameters'] / 1e6:.2f} M", "parameters"))
    if "exact" in evaluation.get("flops", {}):
        found.append((f"{evaluation['flops']['exact'] / 1e9:.2f} G", "multiply-adds an image"))
    return found


def part_rows(evaluation: dict[str, Any], skeleton: Skeleton) -> list[dict[str, Any]]:
    """The error table: per group of parts its mean and the bars of its parts."""
    errors = evaluation.get("per_part_mm")
    if not errors:
        return []
    groups = evaluation.get("part_groups") or [list(errors)]
    means = evaluation.get("per_group_mm") or [None] * len(groups)
    bars = {bar["name"]: bar for bar in _bars(errors.items())}
    return [
        {
            "name": f"Node {node}, {head_title(part_numbers(group, skeleton), skeleton)}"
            if len(groups) > 1
            else "All parts",
            "error": mean,
            "colour": group_colour(node),
            "rows": [bars[part] for part in group if part in bars],
        }
        for node, (group, mean) in enumerate(zip(groups, means, strict=False))
    ]


def part_numbers(names: Sequence[str], skeleton: Skeleton) -> list[int]:
    """Indices of the parts named in ``evaluation.json``."""
    unknown = [name for name in names if name not in skeleton.parts]
    if unknown:
        raise PartnasError(f"evaluation.json: part_groups: part {unknown[0]!r} is not known; evaluate again")
    return [skeleton.parts.index(name) for name in names]


def cell_drawings(
    genotype: dict[str, Any] | None, part_groups: list[list[str]] | None, skeleton: Skeleton
) -> list[dict[str, Any]]:
    """Titles and drawings of the three kinds of cell."""
    if genotype is None:
        return []
    drawings = []
    for kind, title in CELL_TITLES.items():
        if kind not in genotype:
            raise PartnasError(f"genotype.json: field {kind!r} is missing; derive the genotype again")
        groups = None
        if kind == "fusion" and part_groups and len(part_groups) == len(genotype[kind]):
            groups = [part_numbers(group, skeleton) for group in part_groups]
        drawings.append({"title": title, "svg": Markup(draw_cell(genotype[kind], kind, groups, skeleton))})
    return drawings


def alpha_drawings(
    metrics: list[dict[str, Any]], genotype: dict[str, Any] | None, configs: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """For each kind of cell the softmax weights of every edge after every epoch of the search."""
    rows = [row for row in metrics if "alphas" in row]
    drawings = []
    for kind, matrix in rows[-1]["alphas"].items() if rows else ():
        history = [[row["alphas"][kind][edge] for row in rows] for edge in range(len(matrix))]
        kept = {
            (target, source): operation
            for target, node in enumerate((genotype or {}).get(kind, []))
            for operation, source in node
        }
        chart = alpha_figure([row["epoch"] for row in rows], history, operation_names(len(matrix[0]), configs), kept)
        drawings.append(
            {"title": f"{kind.capitalize()} cell", "view": embed(chart, f"alphas-{kind}", f"{chart.layout.height}px")}
        )
    return drawings


def operation_names(count: int, configs: Sequence[dict[str, Any]]) -> list[str]:
    """Names of the ``count`` columns of alpha: all operations, or those that a run's configuration chose."""
    for config in configs:
        chosen = (config.get("network") or {}).get("operations")
        if isinstance(chosen, list) and len(chosen) == count:
            return [str(name) for name in chosen]
    return list(OPERATION_COLOURS) if count == len(OPERATION_COLOURS) else [f"operation {k}" for k in range(count)]


def curve_drawings(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Loss and error over the epochs, for the search and for the training."""
    titles = {"search": "Search", "train": "Training"}
    charts = {
        "loss": (
            "mean L1 (voxels; of roots mm)",
            {"loss": "training batches", "validation_loss": "validation batches (alphas)"},
        ),
        "MPJPE": ("MPJPE (mm)", {"mpjpe_mm": "held-out frames"}),
        "MRPE": ("MRPE (mm)", {"mrpe_mm": "held-out frames"}),
    }
    drawings = []
    for job, title in titles.items():
        rows = [row for row in metrics if row.get("job") == job]
        for chart, (unit, names) in charts.items():
            series = [_series(rows, field, name) for field, name in names.items() if any(field in row for row in rows)]
            drawn = curve_figure(series, unit)
            if drawn is not None:
                view = embed(drawn, f"{job}-{chart}", f"{drawn.layout.height}px")
                drawings.append({"title": f"{title}: {chart}", "view": view})
    return drawings


def _series(rows: list[dict[str, Any]], field: str, name: str) -> dict[str, Any]:
    rows = [row for row in rows if field in row]
    return {"name": name, "x": [row["epoch"] for row in rows], "y": [row[field] for row in rows]}


def _bars(items: Iterable[tuple[str, float]]) -> list[dict[str, Any]]:
    rows = [{"name": name, "error": float(error)} for name, error in items]
    longest = max((row["error"] for row in rows), default=1) or 1
    return [{**row, "share": round(100 * row["error"] / longest, 1)} for row in rows]


def _lead(evaluation: dict[str, Any], metrics: list[dict[str, Any]]) -> str:
    done = []
    for job, name in (("search", "searched"), ("train", "trained")):
        epochs = [row.get("epoch", "?") for row in metrics if row.get("job") == job]
        if epochs:
            done.append(f"{name} for {epochs[-1]} epochs")
    if evaluation:
        protocol = f", protocol {evaluation['protocol']}" if "protocol" in evaluation else ""
        done.append(
            f"evaluated on {evaluation.get('frames', '?')} test frames of {evaluation.get('data', 'the data set')}"
            f"{protocol}"
        )
    elif done:
        done.append("not evaluated yet")
    text = "; ".join(done) or "nothing was recorded yet"
    return text[0].upper() + text[1:] + "."
