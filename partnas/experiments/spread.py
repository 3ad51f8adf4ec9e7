"""Means and spreads over seeds."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom; the last stands for more, which is cautious."""


class Summary(NamedTuple):
    """Mean and standard deviation (over n - 1) of ``count`` values; of one value there is no deviation."""

    mean: float
    deviation: float | None
    count: int

    def to_dict(self) -> dict[str, Any]:
        return self._asdict()


def summary(values: Sequence[float]) -> Summary:
    """Summary of at least one value."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Summary(statistics.fmean(values), deviation, len(values))


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % confidence interval of the mean by Student's t; None for fewer than two values."""
    mean, deviation, count = summary(values)
    if deviation is None:
        return None
    half = T_975[min(count - 1, len(T_975)) - 1] * deviation / count**0.5
    return mean - half, mean + half
