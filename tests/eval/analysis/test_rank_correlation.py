"""Rank correlations: by hand, by SciPy, and how often their intervals are right."""

import numpy as np
import pytest
from scipy import stats

import eval.analysis.rank_correlation as module
from eval.analysis.rank_correlation import chance_of, rank_correlation
from runtime.errors import InputError


def test_values_are_those_by_hand_and_of_scipy():
    x, y = [1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 1.0, 4.0, 3.0, 5.0]
    assert rank_correlation(x, y).value == pytest.approx(1 - 6 * 4 / (5 * 24))
    tied = [0.97, 0.97, 0.96, 0.95, 0.96]
    assert rank_correlation(x, tied).value == pytest.approx(stats.spearmanr(x, tied).statistic)
    assert rank_correlation(np.exp(x), -np.array(y)).value == pytest.approx(-0.8)


def test_the_chance_of_an_order_is_counted():
    assert chance_of([1, 2, 3], [1, 2, 3]) == pytest.approx(2 / 6)
    assert chance_of([1, 2, 3, 4], [1, 2, 3, 4]) == pytest.approx(2 / 24)
    assert chance_of(range(10), range(10)) < 0.001


def test_of_three_there_is_no_interval_and_of_four_in_one_order_a_wide_one():
    three = rank_correlation([1, 2, 3], [1, 2, 3])
    assert three.value == 1.0 and np.isnan(three.low) and np.isnan(three.high)
    four = rank_correlation([1, 2, 3, 4], [1, 2, 3, 4])
    assert four.low < 0.1 and four.high == 1.0  # no certainty, whatever a bootstrap would say
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]).low == -1.0
    many = rank_correlation(range(20), range(20))
    assert many.low > 0.7


def test_many_in_one_order_are_certain_at_either_end(monkeypatch):
    monkeypatch.setattr(module, "_DRAWS", 100)
    assert rank_correlation(range(60), range(60)).low > 0.99
    assert rank_correlation(range(60), range(60, 0, -1)).high < -0.99


def test_intervals_hold_the_truth_as_often_as_they_say(monkeypatch):
    monkeypatch.setattr(module, "_DRAWS", 300)
    random, truth = np.random.default_rng(1), 0.6
    held = []
    for _ in range(40):
        x = random.standard_normal(7)
        y = truth * x + np.sqrt(1 - truth**2) * random.standard_normal(7)
        found = rank_correlation(x, y)
        held.append(found.low <= 6 / np.pi * np.arcsin(truth / 2) <= found.high)
    assert np.mean(held) >= 0.85


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        ([1, 2], [1, 2], "at least 3 pairs"),
        ([1, 2, 3], [1, 2], "at least 3 pairs"),
        ([1, 2, np.nan], [1, 2, 3], "finite"),
        ([1, 1, 1], [1, 2, 3], "values that differ"),
    ],
)
def test_what_has_no_rank_correlation_is_refused(x, y, words):
    with pytest.raises(InputError, match=words):
        rank_correlation(x, y)
