"""What an evaluation measured, as a row of the paper's Table 5, 6 or 7 (section 4.4) below the published ones.

A row is ranked against the published ones only where it was measured as they were: on all actions of Human3.6M at every
64th frame, or on all sequences of MuPoTS-3D with root depths that were not taken from the annotations.
"""

from collections.abc import Mapping
from typing import Any

from partnas.tables import Row, Table, published

PAPER_STRIDE = 64


def human36m_table(result: Mapping[str, Any], name: str) -> Table:
    """Table 5 (protocol 1, PA-MPJPE) or Table 6 (protocol 2, MPJPE) with what ``evaluation.json`` holds.

    Args:
        result: What :func:`partnas.evaluate.evaluate` returns.
        name: What to call the network.
    """
    table = published(5 if result["protocol"] == 1 else 6)
    data = _human36m(result, table)
    frames = "Averages of measured rows are means over frames, as the paper's are."
    if result["protocol"] == 2:
        return table.with_rows(_row(table, name, result["per_action_mm"], result["mpjpe_mm"], data)).with_notes(frames)
    return table.with_rows(
        _row(table, name, result["per_action_pa_mm"], result["pa_mpjpe_mm"], data),
        _row(
            table, f"{name}, scale fitted", result["per_action_pa_scaled_mm"], result["pa_mpjpe_scaled_mm"],
            f"{data}, scale fitted",
        ),
    ).with_notes(
        frames,
        "Poses are aligned by rotation and translation, as in the public code of Moon et al.; in the last row by scale "
        "too. The paper does not say which it does.",
    )  # fmt: skip


def mupots_table(result: Mapping[str, Any], name: str) -> Table:
    """Table 7 (relative 3DPCK of all people) with what ``evaluation.json`` holds, and each row's mean.

    Args:
        result: What :func:`partnas.mupots.evaluate_mupots` returns.
        name: What to call the network.
    """
    table = published(7)
    names = {column.name for column in table.columns}
    measured = result["relative"]["all"]["pck_per_sequence"]
    data = _share_of("MuPoTS-3D", result["data"], measured, names, "sequences")
    if result["roots"] == "annotation":
        data += ", annotated root depths"
    row = Row(name, {key: value for key, value in measured.items() if key in names}, data, measured=True)
    notes = [
        "Avg is the mean over the 20 sequences; the paper prints none, so those of its rows are computed from them."
    ]
    if result["roots"] == "result files":
        notes.append("The measured row is of result files, which do not tell where boxes and root depths were from.")
    return table.with_rows(row).with_average().with_notes(*notes)


def _human36m(result: Mapping[str, Any], table: Table) -> str:
    """What to call the data of a measured row."""
    actions = {column.name for column in table.columns} - {"Average"}
    data = _share_of("Human3.6M", result["data"], result["per_action_mm"], actions, "actions")
    if data == "Human3.6M" and result["test_stride"] != PAPER_STRIDE:
        return f"Human3.6M, 1 of {result['test_stride']} frames"
    return data


def _share_of(benchmark: str, folder: str, measured: Mapping[str, Any], names: set[str], unit: str) -> str:
    """The benchmark's name where all its ``names`` were measured; else also how many, or the folder's name."""
    if measured.keys() - names:
        return folder
    return benchmark if len(measured) == len(names) else f"{benchmark}, {len(measured)} of {len(names)} {unit}"


def _row(table: Table, name: str, per_action: Mapping[str, float], average: float, data: str) -> Row:
    known = {column.name for column in table.columns}
    values = {action: error for action, error in per_action.items() if action in known}
    return Row(name, values | {"Average": average}, data, measured=True)
