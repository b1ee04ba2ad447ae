"""The delete-d jackknife: which clips are left out together, and how far a metric moves without them.

Clips are never drawn with replacement: a clip that counts twice biases every set metric.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from eval.metrics.frechet import frechet_distance, frechet_left_out
from eval.metrics.inception import inception_score, score_left_out
from eval.metrics.kernel import KernelSums, kernel_distance
from runtime.errors import InputError

BLOCKS = 10
ROUNDS = 4

# Metrics that can be had without some rows for less than their whole price.
_LEFT_OUT = {frechet_distance: frechet_left_out, kernel_distance: KernelSums, inception_score: score_left_out}

NO_ROWS = np.empty(0, dtype=int)


def left_out(metric: Callable, a: np.ndarray, b: np.ndarray | None) -> Callable[[np.ndarray, np.ndarray], float]:
    """A function (rows_a, rows_b) -> `metric` of the sets without these rows."""
    if metric in _LEFT_OUT:
        return _LEFT_OUT[metric](a, b)
    if b is None:
        return lambda rows, _: float(metric(np.delete(a, rows, axis=0)))
    return lambda rows_a, rows_b: float(metric(np.delete(a, rows_a, axis=0), np.delete(b, rows_b, axis=0)))


def deal(count: int, labels: object | None = None, rounds: int = ROUNDS, seed: int = 0) -> list[list[np.ndarray]]:
    """Cut the rows 0 … count - 1 into ten equal blocks, anew in every round, by a seeded shuffle.

    With labels every block gets its share of every class, to within one clip.

    Returns:
        `rounds` lists of blocks, each an array of rows; an empty list when two clips would not be left.
    """
    if labels is not None and np.shape(labels) != (count,):
        raise InputError(f"labels must be one for each of {count} clips, got shape {list(np.shape(labels))}")
    blocks = min(BLOCKS, count)
    if count - -(-count // blocks) < 2:
        return []
    random, dealt = np.random.default_rng(seed), []
    for _ in range(rounds):
        order = random.permutation(count)
        if labels is not None:
            order = order[np.argsort(np.asarray(labels)[order], kind="stable")]
        dealt.append([order[block::blocks] for block in range(blocks)])
    return dealt


def jackknife_variance(values: Sequence[Sequence[float]]) -> float:
    """Variance of a metric from its values with each block left out, averaged over rounds; inf without any."""
    if not len(values):
        return float("inf")
    values = np.asarray(values, dtype=np.float64)
    blocks = values.shape[1]
    apart = values - values.mean(1, keepdims=True)
    return float((blocks - 1) / blocks * np.square(apart).sum(1).mean())


def degrees_of_freedom(count: int, rounds: int = ROUNDS) -> int:
    """Of that variance: shuffles differ enough to count as independent, but never more than clips allow."""
    return max(1, min(rounds * (min(BLOCKS, count) - 1), count - 1))
