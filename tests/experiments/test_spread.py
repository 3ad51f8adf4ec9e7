import pytest
from scipy import stats

from partnas.experiments.spread import T_975, interval, summary


def test_by_hand():
    # Mean 3, squares of 2, 1 and 3 add up to 14, over two.
    assert summary([1.0, 2.0, 6.0]) == (3.0, pytest.approx(7**0.5), 3)
    # 4.303 * sqrt(7 / 3)
    assert interval([1.0, 2.0, 6.0]) == (pytest.approx(3 - 6.573, abs=1e-3), pytest.approx(3 + 6.573, abs=1e-3))


def test_one_value_has_no_spread():
    assert summary([4.5]) == (4.5, None, 1)
    assert interval([4.5]) is None


def test_quantiles_of_student():
    for freedom, quantile in enumerate(T_975, start=1):
        assert quantile == pytest.approx(stats.t.ppf(0.975, freedom), abs=5e-4)


def test_many_values_get_the_widest_quantile_that_is_known():
    values = [float(value) for value in range(30)]
    low, high = interval(values)
    known = stats.t.interval(0.95, 29, loc=14.5, scale=stats.sem(values))
    assert low < known[0]
    assert high > known[1]
