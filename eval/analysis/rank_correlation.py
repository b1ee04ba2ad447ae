"""How well one number orders tokenizers as another one does, and how little a handful of them can say of it."""

from __future__ import annotations

import itertools
import math
from functools import cache

import numpy as np
from scipy import stats

from eval.metrics.arrays import as_array
from eval.metrics.intervals import Estimate
from runtime.errors import InputError

# Tokenizers below which there is no interval: with three, two of the six orders agree in full, one way or the other.
FEWEST = 4
_DRAWS = 4000
_GRID = np.tanh(np.linspace(-4.0, 4.0, 161))
_ALL_ORDERS = 8  # tokenizers up to which every order is looked at


def rank_correlation(x: object, y: object) -> Estimate:
    """Spearman's rank correlation with a 95 % interval.

    The interval holds the rank correlations of those normal distributions of two numbers under which what was found is
    not among the 2.5 % most extreme on either side, by simulation. Bootstrap and Fisher's transformation would call
    four tokenizers in the same order certain; here they are, rightly, compatible with nearly everything.

    Args:
        x, y: `[n]`, one a tokenizer; equal values share their rank.

    Returns:
        `low` and `high` are nan for fewer than `FEWEST` tokenizers.

    Raises:
        InputError: On fewer than three, values that are not finite, or all equal.
    """
    x, y = (as_array(values).astype(np.float64) for values in (x, y))
    if x.ndim != 1 or x.shape != y.shape or len(x) < 3:
        raise InputError(f"a rank correlation needs at least 3 pairs, got {list(x.shape)} and {list(y.shape)}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("a rank correlation needs finite values")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        raise InputError("a rank correlation needs values that differ")
    value = _spearman(stats.rankdata(x)[None], stats.rankdata(y)[None])[0]
    if len(x) < FEWEST:
        return Estimate(value, math.nan, math.nan, len(x), "Spearman; too few for an interval")
    found = _simulated(len(x))
    above, below = (found >= value - 1e-6).mean(1), (found <= value + 1e-6).mean(1)
    # Of many tokenizers in one order it is extreme on the whole grid: then its end is the edge.
    inside, outside = np.flatnonzero(above > 0.025), np.flatnonzero(below > 0.025)
    low = _GRID[min(inside, default=-1)] if above[0] <= 0.025 else -1.0
    high = _GRID[max(outside, default=0)] if below[-1] <= 0.025 else 1.0
    low, high = (6 / np.pi * np.arcsin(edge / 2) for edge in (low, high))  # Spearman's of a normal distribution
    method = f"Spearman; normal distributions under which it is not extreme, {_DRAWS} draws"
    return Estimate(float(value), float(low), float(high), len(x), method)


@cache
def _simulated(count: int) -> np.ndarray:
    """Rank correlations of so many pairs from normal distributions of each correlation: `[grid, draws]`."""
    first, second = np.random.default_rng(0).standard_normal((2, _DRAWS, count))
    ranks, found = stats.rankdata(first, axis=1), []
    for correlation in _GRID:
        other = correlation * first + np.sqrt(1 - correlation**2) * second
        found.append(_spearman(ranks, stats.rankdata(other, axis=1)))
    return np.array(found, np.float32)


def chance_of(x: object, y: object) -> float:
    """How often a rank correlation at least as strong, of either sign, comes out when the order is shuffled; of all
    orders up to eight tokenizers, of 20,000 draws beyond."""
    ranks, others = (stats.rankdata(as_array(values)) for values in (x, y))
    if len(ranks) <= _ALL_ORDERS:
        orders = np.array(list(itertools.permutations(range(len(ranks)))))
    else:
        random = np.random.default_rng(0)
        orders = np.stack([random.permutation(len(ranks)) for _ in range(20_000)])
    found = _spearman(np.broadcast_to(ranks, orders.shape), others[orders])
    return float((np.abs(found) >= abs(_spearman(ranks[None], others[None])[0]) - 1e-9).mean())


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation of the rows of two arrays of ranks."""
    a, b = (ranks - ranks.mean(1, keepdims=True) for ranks in (a, b))
    return (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))
