"""The report on ``science``: figures with their spreads, and sentences that claim no more than the spreads allow."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from partnas.config import DataConfig
from partnas.datasets import name_of
from partnas.experiments.rows import QUESTIONS, Question
from partnas.experiments.spread import interval, summary
from partnas.tables import Column, Spread, Table
from partnas.tables import Row as Line

Errors = dict[int, float]
"""MPJPE in millimetres by seed."""


def science_report(results: dict[str, Any]) -> str:
    """Markdown of everything in ``results.json`` of a ``science`` experiment."""
    rows = {row["name"]: row for row in results["rows"]}
    errors = {name: {run["seed"]: run["mpjpe_mm"] for run in row["runs"]} for name, row in rows.items()}
    parts = [_heading(results), _setting(results), _state(results, errors), *_failures(results)]
    for number, question in enumerate(QUESTIONS, start=1):
        parts += [f"## {number}. {question.title}", *_answer(question, rows, errors, results["data"])]
    parts += ["## All rows", _table("MPJPE in mm on the test motions", rows.values(), results["data"]).to_markdown()]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _heading(results: dict[str, Any]) -> str:
    if results["preset"] != "paper":
        return "# Experiments at reduced scale"
    return "# Experiments with changed settings" if _changes(results) else "# Experiments with the paper's settings"


def _changes(results: dict[str, Any]) -> list[str]:
    """The settings of all rows that are not the preset's, but for where the data are, as ``--set`` takes them."""
    where = tuple(f"{job}.data.{name}=" for job in ("search", "train") for name in ("root", "sets"))
    return [change for change in _flat(results["settings"]) if not change.startswith(where)]


def _flat(settings: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for name, value in settings.items():
        is_leaf = not isinstance(value, dict)
        found += [f"{prefix}{name}={json.dumps(value)}"] if is_leaf else _flat(value, f"{prefix}{name}.")
    return found


def _scale(results: dict[str, Any]) -> str:
    """How the budget and the data compare with the paper's, and how far the figures reach."""
    changes = _changes(results)
    text = {"paper": "These are the paper's settings", "mini": "This is a small part of what the paper spent"}[
        results["preset"]
    ]
    if changes:
        text += f", changed by {', '.join(f'`{change}`' for change in changes)}"
    is_other_data = results["data"] == name_of(DataConfig())
    if is_other_data:
        text += ", on other data"
    if changes or results["preset"] != "paper":
        return text + ": the figures say something about this scale only."
    return text + (": the figures say something about these data only." if is_other_data else ".")


def _setting(results: dict[str, Any]) -> str:
    search, train = results["budget"]["search"], results["budget"]["train"]
    runs = [run for row in results["rows"] for run in row["runs"]]
    training = sum(run["train_minutes"] for run in runs)
    searching = sum(search["minutes"] for search in results["searches"])
    facts = (
        f"Made by `partnas experiment science --preset {results['preset']}`; data: {results['data']}. Every row has the "
        f"same budget: a search of {_steps(search)} and a training of {_steps(train)}. {_scale(results)}"
    )
    if runs:
        facts += (
            f" Test: {runs[0]['frames']} pictures of motions that neither search nor training has seen; predicting the "
            f"mean training pose gives {runs[0]['mean_pose_mpjpe_mm']:.1f} mm. Wall time: "
            f"{searching:.0f} minutes of searching ({len(results['searches'])} searches), {training:.0f} of "
            f"training ({len(runs)} trainings)."
        )
    if left_out := people_left_out(results):
        facts += f" {left_out}"
    return facts + (
        "\n\nA seed sets the search, the random cells, the weights and the order of the pictures. ± is the standard "
        "deviation over seeds (n - 1). Rows are compared seed by seed; the interval is the 95 % confidence interval "
        "of the mean difference (Student's t), not corrected for the number of comparisons on this page."
    )


def people_left_out(results: dict[str, Any]) -> str:
    """A sentence on how many people the jobs left out; nothing where none did."""
    runs = [run for row in results["rows"] for run in row["runs"]]
    counts = {
        "in search": [search["skipped"] for search in results["searches"]],
        "in training": [run["train_skipped"] for run in runs],
        "of the test": [run["test_skipped"] for run in runs],
    }
    parts = [f"{_range(found)} {where}" for where, found in counts.items() if any(found)]
    listed = "`skipped` in the runs' `data.json` and `evaluation.json` lists them"
    return f"People left out: {', '.join(parts)}; {listed}." if parts else ""


def _range(counts: Sequence[int]) -> str:
    least, most = min(counts), max(counts)
    return f"{most}" if least == most else f"{least} to {most}"


def _steps(budget: dict[str, Any]) -> str:
    steps = budget["steps_per_epoch"]
    each = f"{steps} steps" if steps else "the whole training set"
    return f"{budget['epochs']} epochs of {each} (batch size {budget['batch_size']})"


def _state(results: dict[str, Any], errors: dict[str, Errors]) -> str:
    """Which runs are there and which are still to be done."""
    seeds = results["seeds"]
    failed = {row["name"]: {failure["seed"] for failure in row["failed"]} for row in results["rows"]}
    lacking = {
        name: [seed for seed in seeds if seed not in found.keys() | failed[name]] for name, found in errors.items()
    }
    done = sum(len(found) for found in errors.values())
    of_all = f"{done} of {len(seeds) * len(errors)} runs ({len(errors)} rows, seeds {_listed(seeds)})"
    if not any(lacking.values()):
        return f"**Complete**{' but for what failed' if any(failed.values()) else ''}: {of_all}."
    gone = "; ".join(f"{name} (seed {_listed(seeds)})" for name, seeds in lacking.items() if seeds)
    again = f"partnas experiment science --preset {results['preset']} --seeds {len(seeds)} --out DIR"
    return (
        f"**Partial**: {of_all} are done. Not done: {gone}. `{again}` on the same folder, with the same other flags if "
        "there were any, goes on from there."
    )


def _failures(results: dict[str, Any]) -> list[str]:
    return [
        f"**Failed**: {row['name']}, seed {failure['seed']}: {failure['reason']}"
        for row in results["rows"]
        for failure in row["failed"]
    ]


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _answer(question: Question, rows: dict[str, Any], errors: dict[str, Errors], data: str) -> list[str]:
    names = (question.base, *question.others)
    lines = [f"The paper: {question.paper}."]
    if question.as_group:
        lines.append(
            _compared(question.as_group, _mean_of([errors[name] for name in question.others]), question, rows, errors)
        )
        lines += _sizes(question, rows)
    lines += [_compared(rows[name]["title"], errors[name], question, rows, errors) for name in question.others]
    listed = "\n".join(f"- {line}" for line in lines)
    return [listed, _table("MPJPE in mm, seed by seed", [rows[name] for name in names], data).to_markdown()]


def _sizes(question: Question, rows: dict[str, Any]) -> list[str]:
    """A line on how the sizes of a group's networks differ from those of the base's of the same seeds, if they do."""
    base = {run["seed"]: run for run in rows[question.base]["runs"]}
    others = [run for name in question.others for run in rows[name]["runs"] if run["seed"] in base]
    if all(run[name] == base[run["seed"]][name] for run in others for name in ("parameters", "flops_exact")):
        return []
    parameters, flops = (
        [summary([run[name] / unit for run in runs]).mean for runs in (others, [base[run["seed"]] for run in others])]
        for name, unit in (("parameters", 1e6), ("flops_exact", 1e9))
    )
    return [
        f"Size: {question.as_group} have {parameters[0]:.2f}M parameters and {flops[0]:.3f}G FLOPs (exact) on average, "
        f"against {parameters[1]:.2f}M and {flops[1]:.3f}G of {rows[question.base]['title']} "
        f"({100 * (parameters[0] / parameters[1] - 1):+.0f} % and {100 * (flops[0] / flops[1] - 1):+.0f} %): a part of any "
        "difference may be one of size."
    ]


def _mean_of(errors: Sequence[Errors]) -> Errors:
    """Mean error of several rows, for the seeds that all of them have."""
    shared = set.intersection(*(set(found) for found in errors))
    return {seed: summary([found[seed] for found in errors]).mean for seed in sorted(shared)}


def _compared(title: str, other: Errors, question: Question, rows: dict[str, Any], errors: dict[str, Errors]) -> str:
    """One sentence on the difference of a row from the question's base, paired by seed."""
    base = errors[question.base]
    seeds = sorted(base.keys() & other.keys())
    against = f"{title} against {rows[question.base]['title']}"
    if not seeds:
        return f"{against}: no seed of both is done."
    differences = [other[seed] - base[seed] for seed in seeds]
    mean, bounds = summary(differences).mean, interval(differences)
    if bounds is None:
        return f"{against}: {mean:+.1f} mm in seed {seeds[0]} alone; one seed has no spread, so nothing is claimed."
    figures = f"{mean:+.1f} mm (95 % interval {bounds[0]:+.1f} to {bounds[1]:+.1f}, {len(seeds)} seeds)"
    if bounds[0] > 0:
        return f"{against}: {figures}. Worse, as {question.expecting}."
    if bounds[1] < 0:
        return f"{against}: {figures}. Better, which contradicts what {question.expecting}."
    return f"{against}: {figures}. The interval holds 0: no difference can be claimed."


def _table(title: str, rows: Iterable[dict[str, Any]], data: str) -> Table:
    rows = list(rows)
    seeds = sorted({run["seed"] for row in rows for run in row["runs"]})
    columns = (
        Column("parameters", "Params", None, "M", 2),
        Column("flops_exact", "FLOPs, exact", None, "G", 3),
        Column("flops_paper", "FLOPs, paper's count", None, "G", 3),
        *(Column(f"seed{seed}", f"seed {seed}") for seed in seeds),
        Column("mean", "mean ± deviation"),
    )
    return Table(title, columns, tuple(_line(row, data) for row in rows))


def _line(row: dict[str, Any], data: str) -> Line:
    """A row of the table; only rows of the same seeds are ranked against each other."""
    seeds = _listed([run["seed"] for run in row["runs"]])
    values: dict[str, Any] = {f"seed{run['seed']}": run["mpjpe_mm"] for run in row["runs"]}
    if row["runs"]:
        values["mean"] = _spread(row, "mpjpe_mm", 1)
        values["parameters"] = _spread(row, "parameters", 1e6)
        values["flops_exact"] = _spread(row, "flops_exact", 1e9)
        values["flops_paper"] = _spread(row, "flops_paper", 1e9)
    return Line(row["title"], values, f"{data}, {f'seed {seeds}' if seeds else 'no seed yet'}")


def _spread(row: dict[str, Any], name: str, unit: float) -> Spread:
    mean, deviation, _ = summary([run[name] / unit for run in row["runs"]])
    return Spread(mean, deviation)
