"""Mean root position error."""

import numpy as np
import pytest

from partnas.metrics import mrpe, root_report

TARGET = np.array([[0.0, 0.0, 3000.0], [100.0, -50.0, 4000.0]])


def test_by_hand():
    predicted = TARGET + [[3.0, 0.0, -4.0], [0.0, 12.0, 5.0]]
    assert mrpe(predicted, TARGET) == pytest.approx({"total": (5 + 13) / 2, "x": 1.5, "y": 6.0, "z": 4.5})


def test_the_report():
    predicted = TARGET + [0.0, 0.0, 10.0]
    report = root_report(predicted, TARGET, ["Walking", "Eating"], {"still": TARGET + [[0, 0, 1.0], [0, 0, 3.0]]})
    assert report["frames"] == 2
    assert report["mrpe_mm"] == {"total": 10, "x": 0, "y": 0, "z": 10}
    assert report["baselines_mrpe_mm"] == {"still": {"total": 2, "x": 0, "y": 0, "z": 2}}
    assert report["mrpe_per_action_mm"] == {"Walking": 10, "Eating": 10}
    assert all(type(value) is float for value in report["mrpe_mm"].values())
