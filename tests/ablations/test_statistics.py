"""Intervals are Student's, and one run says nothing about spread."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mm1_hf.ablations.statistics import t_interval, t_quantile


@pytest.mark.parametrize("degrees", [*range(1, 12), 29, 30, 200])
@pytest.mark.parametrize("probability", [0.1, 0.6, 0.95, 0.975, 0.9995])
def test_the_quantile_is_that_of_students_t(degrees, probability):
    expected = stats.t.ppf(probability, degrees)
    assert t_quantile(probability, degrees=degrees) == pytest.approx(expected, rel=1e-8)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=8))
def test_the_interval_is_that_of_a_reference(values):
    interval = t_interval(values)
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    assert interval.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert (interval.high - interval.low) / 2 == pytest.approx(half, abs=1e-7)


def test_one_value_bounds_nothing():
    interval = t_interval([0.5])
    assert (interval.mean, interval.n) == (0.5, 1)
    assert math.isinf(interval.low) and math.isinf(interval.high)
    assert interval.show() == "0.500" and t_interval([]).show() == "–"


def test_nineteen_of_twenty_intervals_hold_the_truth():
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(4000, 3))
    held = [one.low < 0 < one.high for one in map(t_interval, draws.tolist())]
    assert np.mean(held) == pytest.approx(0.95, abs=0.01)
