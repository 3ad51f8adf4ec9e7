"""What an evaluation measured, as a row of the paper's Table 5, 6 or 7 (section 4.4) below the published ones.

A row is ranked against the published ones only where it was measured as they were, with nobody left out: on all actions of
Human3.6M at every 64th frame after training by the same protocol, or on all sequences of MuPoTS-3D after training on
MuCo-3DHP with neither boxes nor root depths that were taken from the annotations. Otherwise its data says what differs.
"""

from collections.abc import Mapping
from typing import Any

from partnas.tables import Row, Table, published

PAPER_STRIDE = 64
TITLES = {"human36m": "Human3.6M", "muco": "MuCo-3DHP", "mpii": "MPII", "coco": "COCO"}


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
    values = {key: value for key, value in measured.items() if key in names}
    row = Row(name, values, _mupots(result, measured, names), measured=True)
    notes = [
        "Avg is the mean over the 20 sequences; the paper prints none, so those of its rows are computed from them."
    ]
    if result["roots"] == "result files":
        notes.append(
            "The measured row is of result files, which tell neither what the network was trained on nor where boxes and "
            "root depths were from, so it is not ranked."
        )
    if result["trained_on"] is not None:
        trained = ", ".join(TITLES.get(chosen, chosen) for chosen in result["trained_on"]["sets"])
        notes.append(f"The measured network was trained on {trained}; the paper's on MuCo-3DHP and 2D poses of COCO.")
    return table.with_rows(row).with_average().with_notes(*notes)


def _human36m(result: Mapping[str, Any], table: Table) -> str:
    """What to call the data of a measured row."""
    actions = {column.name for column in table.columns} - {"Average"}
    measured, stride = result["per_action_mm"], result["test_stride"]
    if measured.keys() - actions:
        return _label(result["data"], _left_out(result))
    return _label(
        "Human3.6M",
        _share(measured, actions, "actions"),
        f"1 of {stride} frames" if stride != PAPER_STRIDE else "",
        _training(result),
        _left_out(result),
    )


def _mupots(result: Mapping[str, Any], measured: Mapping[str, float], sequences: set[str]) -> str:
    """What to call the data of a measured row."""
    known = not measured.keys() - sequences
    return _label(
        "MuPoTS-3D" if known else result["data"],
        _share(measured, sequences, "sequences") if known else "",
        _from_annotations(result),
        _mupots_training(result) if known else "",
        _left_out(result),
    )


def _training(result: Mapping[str, Any]) -> str:
    """How the training differs from the protocol's."""
    trained = result["trained_on"]
    if trained is None:
        return "training not known"
    if "human36m" not in trained["sets"]:
        return "not trained on it"
    return f"trained by protocol {trained['protocol']}" if trained["protocol"] != result["protocol"] else ""


def _mupots_training(result: Mapping[str, Any]) -> str:
    """How the training differs from the paper's, in the set that MuPoTS-3D is the test set of."""
    trained = result["trained_on"]
    if trained is None:
        return "training not known"
    return "" if "muco" in trained["sets"] else "not trained on MuCo-3DHP"


def _from_annotations(result: Mapping[str, Any]) -> str:
    """What a network was told of the people that it has to find."""
    if result["roots"] == "annotation":
        return "annotated root depths"
    return "annotated boxes" if result["boxes"] == "annotation" else ""


def _left_out(result: Mapping[str, Any]) -> str:
    return f"{len(result['skipped'])} left out" if result["skipped"] else ""


def _share(measured: Mapping[str, float], names: set[str], unit: str) -> str:
    """How many of the benchmark's ``names`` were measured, where not all."""
    return f"{len(measured)} of {len(names)} {unit}" if len(measured) < len(names) else ""


def _label(data: str, *remarks: str) -> str:
    return ", ".join([data, *filter(None, remarks)])


def _row(table: Table, name: str, per_action: Mapping[str, float], average: float, data: str) -> Row:
    known = {column.name for column in table.columns}
    values = {action: error for action, error in per_action.items() if action in known}
    return Row(name, values | {"Average": average}, data, measured=True)
