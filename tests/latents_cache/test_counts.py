"""Counts of float16 numbers: exact, and the same whoever counts what."""

import numpy as np
import pytest

from latents_cache import counts as module
from latents_cache.counts import CountedStatistics, count_values

ROWS, SHAPE = 23, (3, 5, 2, 2)


@pytest.fixture
def values():
    generator = np.random.default_rng(0)
    mean = (generator.standard_normal((ROWS, *SHAPE)) * 3 + 100).astype(np.float16)
    mean[0, 0, 0, 0] = [-0.0, 6e-8]  # a negative zero, and the smallest number
    return mean, (generator.standard_normal((ROWS, *SHAPE)) - 4).astype(np.float16)


def test_counts_of_parts_add_up_to_those_of_the_whole_bit_for_bit(values, monkeypatch):
    whole = count_values(*values)
    assert whole.shape == (2, 3, 65536) and whole.sum() == 2 * values[0].size
    for parts in (2, 3, 7):
        bounds = [part * ROWS // parts for part in range(parts + 1)]
        found = sum(count_values(*values, rows=np.arange(*pair)) for pair in zip(bounds, bounds[1:], strict=False))
        assert np.array_equal(found, whole)
    seen = []
    monkeypatch.setattr(module, "BLOCK_BYTES", 500)  # 4 rows
    assert np.array_equal(count_values(*values, seen=seen.append), whole)
    assert seen == [4, 8, 12, 16, 20, 23]


def test_only_the_chosen_rows_count(values):
    rows = np.array([1, 2, 5, 11, 12, 22])
    assert np.array_equal(count_values(*values, rows=rows), count_values(*(value[rows] for value in values)))
    assert count_values(*values, rows=np.array([], int)).sum() == 0


def test_statistics_are_those_of_the_numbers(values):
    found, (mean, logvar) = CountedStatistics(count_values(*values)), (value.astype(np.float64) for value in values)
    axes = (0, 2, 3, 4)
    np.testing.assert_allclose(found.mean, mean.mean(axes), rtol=1e-13)
    np.testing.assert_allclose(found.std, np.sqrt(mean.var(axes) + np.exp(logvar).mean(axes)), rtol=1e-13)
    np.testing.assert_allclose(CountedStatistics(count_values(values[0])).std, mean.std(axes), rtol=1e-13)


def test_numbers_that_are_none_or_infinite_show(values):
    values[0][3, 1, 0, 0, 0] = np.inf
    values[1][3, 2, 0, 0, 0] = 65504  # whose exponential is infinite
    found = CountedStatistics(count_values(*values))
    assert np.isfinite(found.std).tolist() == [True, False, False]


def test_quantiles_are_numbers_of_the_file(values):
    mean = values[0]
    found = CountedStatistics(count_values(mean)).quantiles([0.0, 0.25, 0.5, 1.0])
    ordered = np.sort(np.moveaxis(mean, 1, 0).reshape(3, -1).astype(np.float64))
    size = ordered.shape[1]
    assert np.array_equal(found, ordered[:, [0, size // 4 - 1, size // 2 - 1, size - 1]])


def test_a_histogram_counts_between_its_edges(values):
    mean = values[0]
    edges = np.array([np.linspace(85, 115, 9)] * 3)
    found = CountedStatistics(count_values(mean)).histogram(edges)
    for channel in range(3):
        assert found[channel].tolist() == np.histogram(mean[:, channel].astype(float), edges[0])[0].tolist()
