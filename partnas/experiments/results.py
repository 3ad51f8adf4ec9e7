"""What an experiment has found so far: ``results.json``, and a table in the paper's layout beside the paper's rows."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from partnas.datasets import name_of
from partnas.experiments.locks import locked
from partnas.experiments.plan import Plan
from partnas.experiments.report import people_left_out, science_report
from partnas.experiments.rows import Row, Settings
from partnas.experiments.spread import summary
from partnas.run import METRICS, write_json, write_text
from partnas.tables import Column, Spread, Table, Value, published
from partnas.tables import Row as Line
from partnas.viz.report import read_json, read_metrics

FIGURES = ("mpjpe_mm", "pa_mpjpe_mm", "parameters", "flops_exact", "flops_paper")
MEASURED_DIGITS = 2
"""Of millions of parameters and of GFLOPs, which are few in networks for a CPU."""


def write_results(plan: Plan, seeds: int) -> list[Path]:
    """Write ``results.json`` and the tables from the evaluations that are there; returns the tables' paths.

    It holds the folder's lock, so that of several processes the last one to write has seen everything.

    Args:
        seeds: How many each row is to have.
    """
    with locked(plan.out):
        results = collect(plan, seeds)
        write_json(plan.out / "results.json", results)
        if plan.name == "science":
            path = plan.out / "science.md"
            write_text(path, science_report(results))
            return [path]
        return paper_table(plan, results).write(plan.out, plan.name)


def collect(plan: Plan, seeds: int) -> dict[str, Any]:
    """What ``results.json`` holds: the settings, and for each row its runs, their means and spreads, and its failures."""
    rows = [{"name": row.name, "title": row.title, "runs": _runs(plan, row)} for row in plan.rows]
    for row in rows:
        row["summary"] = {
            name: summary([run[name] for run in row["runs"]]).to_dict() for name in FIGURES if row["runs"]
        }
    all_seeds = sorted({*range(seeds), *(run["seed"] for row in rows for run in row["runs"])})
    for row, planned in zip(rows, plan.rows, strict=True):
        row["failed"] = _failures(plan, planned, all_seeds)
    search, train = plan.search_config(_searched(plan), 0), plan.train_config(plan.rows[0], 0, None)
    return {
        "experiment": plan.name,
        "preset": plan.preset,
        "settings": plan.settings,
        "seeds": all_seeds,
        "data": next((run["data"] for row in rows for run in row["runs"]), name_of(train.data)),
        "budget": {"search": _budget(search.model_dump()), "train": _budget(train.model_dump())},
        "searches": _searches(plan),
        "rows": rows,
    }


def _searched(plan: Plan) -> Row:
    return next(row for row in plan.rows if row.searched)


def _budget(config: Settings) -> Settings:
    return {name: config[name] for name in ("epochs", "steps_per_epoch", "batch_size", "learning_rate", "milestones")}


def _searches(plan: Plan) -> list[dict[str, Any]]:
    """The complete searches: in which row's folder, of which seed, and their wall time."""
    found = []
    for row in plan.rows:
        for seed, folder in plan.folders(row):
            if (folder / "search" / "genotype.json").exists():
                minutes = _minutes(folder / "search", plan.search_config(row, seed).batch_size)
                skipped = _skipped(folder / "search" / "data.json")
                found.append({"row": row.name, "seed": seed, "minutes": minutes, "skipped": skipped})
    return found


def _runs(plan: Plan, row: Row) -> list[dict[str, Any]]:
    """The complete runs of a row, by seed."""
    found = []
    for seed, folder in plan.folders(row):
        evaluation = read_json(plan.result(row, seed))
        if evaluation is None:
            continue
        run = {
            "seed": seed,
            "data": evaluation["data"],
            **{
                name: evaluation[name]
                for name in ("frames", "mpjpe_mm", "pa_mpjpe_mm", "mean_pose_mpjpe_mm", "parameters")
            },
            "flops_exact": evaluation["flops"]["exact"],
            "flops_paper": evaluation["flops"]["paper"],
            "per_action_mm": evaluation["per_action_mm"],
            "per_part_mm": evaluation["per_part_mm"],
            "train_skipped": _skipped(folder / "train" / "data.json"),
            "test_skipped": _skipped(plan.result(row, seed)),
            "train_minutes": _minutes(folder / "train", plan.train_config(row, seed, None).batch_size),
        }
        found.append(run)
    return found


def _failures(plan: Plan, row: Row, seeds: list[int]) -> list[dict[str, Any]]:
    """The runs of a row that cannot be finished, and why."""
    paths = ((seed, plan.failure(row, seed)) for seed in seeds)
    return [{"seed": seed, "reason": path.read_text(encoding="utf-8").strip()} for seed, path in paths if path]


def _skipped(path: Path) -> int:
    """How many people a run's ``data.json`` or ``evaluation.json`` lists as left out."""
    return len((read_json(path) or {}).get("skipped", []))


def _minutes(run: Path, batch_size: int) -> float:
    """Wall time of a run's epochs, from its metrics."""
    seconds, before = 0.0, 0
    for epoch in read_metrics(run / METRICS):
        seconds += (epoch["step"] - before) * batch_size / epoch["images_per_second"]
        before = epoch["step"]
    return round(seconds / 60, 2)


def paper_table(plan: Plan, results: dict[str, Any]) -> Table:
    """The paper's table with each of its rows followed by the row that was measured here."""
    table = published(int(plan.name.removeprefix("table")))
    per = "per_part_mm" if plan.name == "table2" else "per_action_mm"
    runs = [run for row in results["rows"] for run in row["runs"]]
    known = {column.name for column in table.columns}
    measured = dict.fromkeys(name for run in runs for name in run[per] if name not in known)
    columns = [*table.columns, *(Column(name, name) for name in measured)]
    if "flops" not in known:
        columns += [Column("parameters", "Params", unit="M"), Column("flops", "FLOPs", unit="G")]
    place = [column.name for column in columns].index("flops")
    columns[place] = replace(columns[place], heading="FLOPs, paper's count")
    columns.insert(place + 1, Column("flops_exact", "FLOPs, exact", unit="G"))
    lines = []
    for line, row, found in zip(table.rows, plan.rows, results["rows"], strict=True):
        lines += [line, _measured_line(row, found["runs"], per, {column.name for column in columns}, plan, results)]
    return replace(table, columns=tuple(columns), rows=tuple(lines)).with_notes(*_notes(results))


def _measured_line(
    row: Row, runs: list[dict[str, Any]], per: str, columns: set[str], plan: Plan, results: dict[str, Any]
) -> Line:
    values: dict[str, Value] = {name: word for name, word in row.words.items() if name in columns}
    if "pretrained" in values and plan.train_config(row, 0, None).pretrained is not None:
        values["pretrained"] = "✓"
    if runs:
        values["Average"] = spread([run["mpjpe_mm"] for run in runs])
        for name in runs[0][per]:
            values[name] = spread([run[per][name] for run in runs])
        for column, figure, unit in (
            ("parameters", "parameters", 1e6), ("flops", "flops_paper", 1e9), ("flops_exact", "flops_exact", 1e9),
        ):  # fmt: skip
            values[column] = spread([run[figure] / unit for run in runs], MEASURED_DIGITS)
    data = f"{results['data']}, {plan.preset}, {len(runs)} of {len(results['seeds'])} seeds"
    return Line(row.title, values, data, measured=True)


def spread(values: list[float], digits: int | None = None) -> Spread:
    mean, deviation, _ = summary(values)
    return Spread(mean, deviation, digits)


def _notes(results: dict[str, Any]) -> list[str]:
    search, train = results["budget"]["search"], results["budget"]["train"]
    notes = [
        "± is the standard deviation over seeds (n - 1); each seed has a search, weights and order of its own.",
        f"Every measured row: preset {results['preset']}, search of {_steps(search)}, training of {_steps(train)}. "
        "The paper's figures are of its own data and budget; only rows of the same data can be compared.",
    ]
    if results["experiment"] == "table3":
        weights = results["settings"].get("train", {}).get("pretrained")
        start = "random weights" if weights is None else f"the weights in {Path(weights).name}"
        notes.append(f"The paper's ResNet was pretrained on ImageNet; the measured one starts from {start}.")
    notes += [line for line in (_wall_time(results), people_left_out(results)) if line]
    notes += [
        f"Failed: {row['title']}, seed {failure['seed']}: {failure['reason']}"
        for row in results["rows"]
        for failure in row["failed"]
    ]
    return notes


def _wall_time(results: dict[str, Any]) -> str:
    """A sentence on the minutes of searching and of training, in all and a run; nothing before there are any."""
    searching = [search["minutes"] for search in results["searches"]]
    training = [run["train_minutes"] for row in results["rows"] for run in row["runs"]]
    parts = [
        f"{sum(minutes):.1f} minutes of {job} (runs: {len(minutes)}, mean {summary(minutes).mean:.1f})"
        for job, minutes in (("searching", searching), ("training", training))
        if minutes
    ]
    return f"Wall time: {', '.join(parts)}." if parts else ""


def _steps(budget: Settings) -> str:
    steps = budget["steps_per_epoch"]
    each = f"{steps} steps" if steps else "the whole training set"
    return f"{budget['epochs']} epochs of {each}, batch size {budget['batch_size']}"
