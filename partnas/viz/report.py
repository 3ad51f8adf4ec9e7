"""``report.html``: one self-contained page on what a run found and how well it does."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
import plotly.offline
from markupsafe import Markup

from partnas.errors import PartnasError
from partnas.skeleton import PARTS
from partnas.viz.cells import draw_cell
from partnas.viz.colours import OPERATION_COLOURS, RIGHT, TARGET
from partnas.viz.overlay import draw_pose
from partnas.viz.pose3d import data_url, scene, traces

PICTURE_SIDE = 320
OPERATIONS = tuple(OPERATION_COLOURS)


def write_report(run_dir: Path | str, search_dir: Path | None = None, train_dir: Path | None = None) -> Path:
    """Write ``report.html`` from whatever of a run's files are there; sections without a file say what makes it.

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
    examples = read_examples(run_dir)
    alphas = alpha_history(metrics)
    curves = curve_data(metrics)
    kinds = sorted({str(row.get("job")) for row in metrics})
    page = _template().render(
        title="Part-aware 3D human pose: " + (" and ".join(kinds) or "evaluation"),
        lead=_lead(evaluation, metrics),
        figures=key_figures(evaluation),
        examples=[{**example, "picture": Markup(example["picture"])} for example in examples],
        parts=part_rows(evaluation),
        actions=_bars(evaluation.get("per_action_mm", {}).items()),
        cells=cell_drawings(genotype, evaluation.get("part_groups")),
        operations=list(OPERATION_COLOURS.items())[1:],
        alphas=alphas,
        curves=curves,
        curve_note="Loss: mean L1 over training batches, in voxels. MPJPE: on frames that no weight step sees "
        "(search: of the validation subjects; training: held-out frames of the training subjects).",
        configs=[(f"{folder.name}/config.yaml", (folder / "config.yaml").read_text()) for folder in folders if (folder / "config.yaml").exists()],
        footer="Drawn by partnas from the files of this run.",
        plotly=Markup(plotly.offline.get_plotlyjs()),
        data=as_script(
            {
                "curves": curves,
                "alphas": alphas,
                "examples": [{name: e[name] for name in ("picture", "traces", "scene")} for e in examples],
            }
        ),
    )  # fmt: skip
    path = run_dir / "report.html"
    temporary = path.with_name(".report.html.part")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(path)
    return path


def as_script(value: Any) -> Markup:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


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


def read_examples(run_dir: Path) -> list[dict[str, Any]]:
    """The entries of ``predictions.json`` with their drawn picture, 3D traces and scene."""
    found = []
    for place, example in enumerate(read_json(run_dir / "predictions.json") or []):
        try:
            image = cv2.imread(str(run_dir / example["image"]))
            if image is None:
                raise PartnasError(f"{run_dir / example['image']}: missing or broken; run `partnas evaluate` again")
            overlay = draw_pose(
                cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.array(example["joints_image"]), side=PICTURE_SIDE
            )
            poses = [
                {"name": "annotation", "joints_camera": example["target_mm"], "colour": TARGET},
                {"name": "prediction", "joints_camera": example["predicted_mm"], "colour": RIGHT},
            ]
            found.append(
                {
                    "picture": data_url(overlay),
                    "action": example.get("action", ""),
                    "mpjpe_mm": float(example["mpjpe_mm"]),
                    "traces": [trace for pose in poses for trace in traces(pose)],
                    "scene": scene(poses),
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
    if "mean_pose_mpjpe_mm" in evaluation:
        ratio = evaluation["mpjpe_mm"] / evaluation["mean_pose_mpjpe_mm"]
        found.append((f"{ratio:.2f}×", f"of the mean training pose's {evaluation['mean_pose_mpjpe_mm']:.1f} mm"))
    if "pa_mpjpe_mm" in evaluation:
        found.append((f"{evaluation['pa_mpjpe_mm']:.1f} mm", "PA-MPJPE, without scale"))
    if "pa_mpjpe_scaled_mm" in evaluation:
        found.append((f"{evaluation['pa_mpjpe_scaled_mm']:.1f} mm", "PA-MPJPE, with scale"))
    if "parameters" in evaluation:
        found.append((f"{evaluation['parameters'] / 1e6:.2f} M", "parameters"))
    if "exact" in evaluation.get("flops", {}):
        found.append((f"{evaluation['flops']['exact'] / 1e9:.2f} G", "multiply-adds an image"))
    return found


def part_rows(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """The error table: per group of parts its mean and the bars of its parts."""
    errors = evaluation.get("per_part_mm")
    if not errors:
        return []
    groups = evaluation.get("part_groups") or [list(errors)]
    means = evaluation.get("per_group_mm") or [None] * len(groups)
    bars = {bar["name"]: bar for bar in _bars(errors.items())}
    return [
        {
            "name": f"Node {place}" if len(groups) > 1 else "All parts",
            "error": f"{mean:.1f} mm" if mean is not None else "",
            "rows": [bars[part] for part in group if part in bars],
        }
        for place, (group, mean) in enumerate(zip(groups, means, strict=False))
    ]


def cell_drawings(genotype: dict[str, Any] | None, part_groups: list[list[str]] | None) -> list[dict[str, Any]]:
    """Titles and drawings of the three kinds of cell."""
    if genotype is None:
        return []
    titles = {
        "normal": "Normal cell",
        "reduction": "Reduction cell: edges from the inputs have stride 2",
        "fusion": "Fusion cell: both inputs are upsampled first; in the last one each node is a group's head",
    }
    drawings = []
    for kind, title in titles.items():
        if kind not in genotype:
            raise PartnasError(f"genotype.json: field {kind!r} is missing; derive the genotype again")
        groups = None
        if kind == "fusion" and part_groups and len(part_groups) == len(genotype[kind]):
            groups = [[PARTS.index(name) for name in group] for group in part_groups]
        drawings.append({"title": title, "svg": Markup(draw_cell(genotype[kind], kind, groups))})
    return drawings


def alpha_history(metrics: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The softmax weights of every edge after every epoch of the search."""
    rows = [row for row in metrics if "alphas" in row]
    if not rows:
        return None
    edges = []
    for kind, matrix in rows[-1]["alphas"].items():
        names = edge_names(len(matrix))
        for edge, name in enumerate(names):
            history = [[round(weight, 5) for weight in row["alphas"][kind][edge]] for row in rows]
            edges.append({"kind": kind, "short": name, "label": f"{kind} cell, {name}", "history": history})
    count = len(edges[0]["history"][0])
    names = OPERATIONS if count == len(OPERATIONS) else [f"operation {k}" for k in range(count)]
    colours = list(OPERATION_COLOURS.values())[:count]
    return {"epochs": [row["epoch"] for row in rows], "edges": edges, "operations": names, "colours": colours}


def edge_names(count: int) -> list[str]:
    """``c_{k-2} → 0`` and so on, in the order of the rows of alpha: node by node, source by source."""
    names: list[str] = []
    target = 0
    while len(names) < count:
        sources = ["c_{k-2}", "c_{k-1}", *map(str, range(target))]
        names += [f"{source} → {target}" for source in sources]
        target += 1
    return names


def curve_data(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Loss and MPJPE over the epochs, for the search and for the training."""
    names = {
        "loss": "training batches",
        "validation_loss": "validation batches (alphas)",
        "mpjpe_mm": "held-out frames",
    }
    found = []
    for job in ("search", "train"):
        rows = [row for row in metrics if row.get("job") == job]
        for title, unit, fields in (("loss", "voxels", ("loss", "validation_loss")), ("MPJPE", "mm", ("mpjpe_mm",))):
            drawn = [
                {
                    "x": [row["epoch"] for row in rows if field in row],
                    "y": [row[field] for row in rows if field in row],
                    "name": names[field],
                    "mode": "lines+markers",
                }
                for field in fields
                if any(field in row for row in rows)
            ]
            if drawn:
                found.append({"title": f"{job}: {title}", "unit": unit, "traces": drawn})
    return found


def _bars(items: Iterable[tuple[str, float]]) -> list[dict[str, Any]]:
    rows = [{"name": name, "error": float(error)} for name, error in items]
    longest = max((row["error"] for row in rows), default=1) or 1
    return [{**row, "share": round(100 * row["error"] / longest, 1)} for row in rows]


def _lead(evaluation: dict[str, Any], metrics: list[dict[str, Any]]) -> str:
    if evaluation:
        return f"{evaluation.get('frames', '?')} test frames of {evaluation.get('data', 'the data set')}, protocol {evaluation.get('protocol', '?')}."
    if metrics:
        return f"After {metrics[-1].get('epoch', '?')} epochs. Not evaluated yet."
    return "Nothing was recorded yet."


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html.j2")
