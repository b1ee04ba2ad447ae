"""The delete-d jackknife: which clips are left out together, and how far a metric moves without them.

Clips are never drawn with replacement: a clip that counts twice biases every set metric.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from eval.analysis.irreducible_variance import ScatterSums, velocity_irreducible_variance
from eval.metrics.arrays import as_array
from eval.metrics.frechet import frechet_distance, frechet_left_out
from eval.metrics.inception import inception_score, score_left_out
from eval.metrics.kernel import KernelSums, kernel_distance
from runtime.errors import InputError

BLOCKS = 10
ROUNDS = 4

# Metrics that can be had without some rows for less than their whole price.
_LEFT_OUT = {frechet_distance: frechet_left_out, kernel_distance: KernelSums, inception_score: score_left_out}
_LEFT_OUT |= {velocity_irreducible_variance: ScatterSums}

# How much unequal blocks may add to a variance, as a share of it where classes differ as much as clips of a class do.
UNEVEN = 0.02


class Spread(NamedTuple):
    """Variance of a metric, and the blocks, rounds and degrees of freedom that it was found from."""

    variance: float
    blocks: int
    rounds: int
    freedom: int


def left_out(metric: Callable, a: np.ndarray, b: np.ndarray | None) -> Callable[[np.ndarray, np.ndarray], float]:
    """A function (rows_a, rows_b) -> `metric` of the sets without these rows; of the whole sets without any."""
    if metric in _LEFT_OUT:
        return _LEFT_OUT[metric](a, b)
    if b is None:
        return lambda rows, _: float(metric(np.delete(a, rows, axis=0)))
    return lambda rows_a, rows_b: float(metric(np.delete(a, rows_a, axis=0), np.delete(b, rows_b, axis=0)))


def blocks_of(count: int, labels: object | None = None) -> int:
    """Into how many blocks, ten at most, clips are dealt.

    With labels the most that at least three quarters of the clips can be dealt into in equal shares of every class, so
    five for five clips of each; 1 where no quarter of the clips can be, since most are alone in their class.
    """
    if labels is None:
        return min(BLOCKS, count)
    if np.shape(labels) != (count,):
        raise InputError(f"labels must be one for each of {count} clips, got shape {list(np.shape(labels))}")
    sizes = np.unique(as_array(labels), return_counts=True)[1]
    best, most = 1, 0.25
    for blocks in range(min(BLOCKS, count), 1, -1):
        dealt = 1.0 - (sizes % blocks).sum() / count
        if dealt >= 0.75:
            return blocks
        if dealt > most:
            best, most = blocks, dealt
    return best


def deal(
    count: int, labels: object | None = None, rounds: int = ROUNDS, seed: int = 0, blocks: int | None = None
) -> list[list[np.ndarray]]:
    """Cut the rows 0 … count - 1 into equal blocks, anew in every round, by a seeded shuffle.

    With labels every block gets its share of every class, to within one clip. Where that clip more or less makes the
    classes of blocks differ by more than `UNEVEN`, which would pass for scatter, all blocks hold equally many clips of
    a class, and what is over stays in the set for the round. Classes of fewer than ten clips make fewer blocks
    (`blocks_of`), dealt as much oftener; labels that hardly two clips share count for nothing.

    Args:
        blocks: How many; default: `blocks_of`.

    Returns:
        `rounds` lists of ten blocks, or as many more lists as there are fewer blocks, each block an array of rows; an
        empty list when two clips would not be left.
    """
    found = blocks_of(count, labels)
    if found == 1:
        labels, found = None, min(BLOCKS, count)
    blocks = blocks or found
    if count - -(-count // blocks) < 2:
        return []
    random, dealt = np.random.default_rng(seed), []
    place, full = np.arange(count), np.full(count, True)
    if labels is not None:
        classes, sizes = np.unique(as_array(labels), return_inverse=True, return_counts=True)[1:]
        over = sizes % blocks
        if (over * (1.0 - over / blocks)).sum() > UNEVEN * count:
            place = np.concatenate([np.arange(size) for size in sizes])
            full = place < np.repeat(sizes - over, sizes)
    for _ in range(rounds * BLOCKS // blocks):
        order = random.permutation(count)
        if labels is not None:
            order = order[np.argsort(classes[order], kind="stable")]
        dealt.append([order[full & (place % blocks == block)] for block in range(blocks)])
    return dealt


def left_share(dealt: list[list[np.ndarray]], count: int) -> float:
    """The clips of a block over those that are left without it, a ninth for ten blocks."""
    block = np.mean([[len(rows) for rows in blocks] for blocks in dealt])
    return float(block / (count - block))


def jackknife(
    without: Callable[[np.ndarray], float], count: int, labels: object | None, rounds: int, seed: int
) -> Spread:
    """Variance of a metric of `count` clips from its values without each block, the mean over rounds; inf without any.

    Shuffles differ enough for rounds to count as independent, but never for more degrees of freedom than clips allow.
    """
    dealt = deal(count, labels, rounds, seed)
    if not dealt:
        return Spread(float("inf"), 0, 0, 1)
    values = np.array([[without(rows) for rows in blocks] for blocks in dealt])
    rounds, blocks = values.shape
    # Clips that stayed in scatter as those of the blocks do: of n clips, blocks of m give the variance between them
    # times (n - m)² / (n m), which is (blocks - 1)² / blocks where all clips were dealt.
    share = left_share(dealt, count)
    variance = values.var(1, ddof=1).mean() / (share * (1.0 + share))
    return Spread(float(variance), blocks, rounds, max(1, min(rounds * (blocks - 1), count - 1)))
