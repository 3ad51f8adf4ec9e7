"""Errors of roots in millimetres."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def mrpe(predicted: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Mean root position error (Moon et al. 2019): ``total``, the mean distance, and the mean absolute error along each
    of ``x``, ``y`` and ``z``, in millimetres.

    Args:
        predicted: ``(N, 3)`` camera millimetres.
        target: ``(N, 3)`` camera millimetres.
    """
    difference = np.asarray(predicted, dtype=np.float64) - np.asarray(target, dtype=np.float64)
    along = np.abs(difference).mean(0)
    return {"total": float(np.linalg.norm(difference, axis=1).mean()), **dict(zip("xyz", along.tolist(), strict=True))}


def root_report(
    predicted: np.ndarray,
    target: np.ndarray,
    actions: Sequence[str] | np.ndarray,
    baselines: dict[str, np.ndarray],
) -> dict[str, Any]:
    """All figures of a root network's evaluation, means over people.

    Args:
        predicted: ``(N, 3)`` camera millimetres.
        target: ``(N, 3)`` camera millimetres.
        actions: ``(N,)`` names.
        baselines: By name what a predictor that does not look at the picture says, ``(N, 3)``.
    """
    actions = np.asarray(actions)
    return {
        "frames": len(target),
        "mrpe_mm": mrpe(predicted, target),
        "baselines_mrpe_mm": {name: mrpe(roots, target) for name, roots in baselines.items()},
        "mrpe_per_action_mm": {
            str(name): mrpe(predicted[actions == name], target[actions == name])["total"] for name in np.unique(actions)
        },
    }
