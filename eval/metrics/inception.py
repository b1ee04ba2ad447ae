"""Inception Score; Salimans et al. 2016."""

from __future__ import annotations

import numpy as np
from scipy.special import xlogy

from eval.metrics.arrays import as_features, check_width
from runtime.errors import InputError


def inception_score(probabilities: object, splits: int = 1, shuffle_seed: int | None = None) -> float:
    """exp of the mean KL(p(y|x) || p(y)), averaged over `splits` consecutive parts; between 1 and the number of classes
    K.

    Args:
        probabilities: `[N, K]`, rows sum to 1; exact zeros are fine (0 log 0 = 0).
        splits: Parts; 1 is the headline. With 10 parts of 205 clips even a perfect 101-class generator stays below 77.
        shuffle_seed: Shuffle the clips before they are split (StyleGAN-V: 42). Clips ordered by class need it: a part
            of one class scores 1.

    Raises:
        InputError: When rows are no probabilities, or `splits` leaves a part without two clips.
    """
    p = _as_probabilities(probabilities)
    if not 1 <= splits <= len(p) // 2:
        raise InputError(f"splits must lie in 1…{len(p) // 2} for {len(p)} clips, got {splits}")
    if shuffle_seed is not None:
        p = p[np.random.RandomState(shuffle_seed).permutation(len(p))]
    edges = [part * len(p) // splits for part in range(splits + 1)]
    parts = (p[start:stop] for start, stop in zip(edges[:-1], edges[1:], strict=True))
    return float(np.mean([ScoreSums(p.shape[1]).add(part).score() for part in parts]))


class ScoreSums:
    """The sums over clips that the Inception Score in one part is made of, gathered in any batches and order.

    Attributes:
        count: Clips so far.
        class_sums: float64 `[K]`, the sum of p.
        negative_entropy: The sum of p log p over clips and classes.
    """

    def __init__(self, classes: int):
        self.count, self.class_sums, self.negative_entropy = 0, np.zeros(classes), 0.0

    def add(self, batch: object) -> ScoreSums:
        """Take in probabilities `[n, K]`; returns self."""
        p = _as_probabilities(batch, least=1)
        found = ScoreSums(p.shape[1])
        found.count, found.class_sums, found.negative_entropy = len(p), p.sum(0), float(xlogy(p, p).sum())
        return self.merge(found)

    def merge(self, other: ScoreSums) -> ScoreSums:
        """Take in another set's sums; returns self."""
        check_width(len(self.class_sums), len(other.class_sums))
        self.count += other.count
        self.class_sums = self.class_sums + other.class_sums
        self.negative_entropy += other.negative_entropy
        return self

    def score(self) -> float:
        """exp of the mean KL(p(y|x) || p(y)); InputError for fewer than two clips."""
        if self.count < 2:
            raise InputError(f"a set metric needs at least 2 clips, got {self.count}")
        marginal = self.class_sums / self.count
        return float(np.exp(self.negative_entropy / self.count - xlogy(marginal, marginal).sum()))


def score_left_out(probabilities: object, _: None = None):
    """A function (rows, nothing) -> the Inception Score in one part without these rows, from what is left of sums."""
    p = _as_probabilities(probabilities)
    entropies, class_sums = xlogy(p, p).sum(1), p.sum(0)

    def without(rows: np.ndarray, _: object = ()) -> float:
        left = ScoreSums(p.shape[1])
        left.count = len(p) - len(rows)
        # What is left of a class may end a rounding error below zero.
        left.class_sums = np.maximum(class_sums - p[rows].sum(0), 0.0)
        left.negative_entropy = entropies.sum() - entropies[rows].sum()
        return left.score()

    return without


def _as_probabilities(values: object, least: int = 2) -> np.ndarray:
    """float64 `[N, K]`, N >= `least`; InputError unless every row is a distribution."""
    p = as_features(values, "probabilities", least)
    if (p < 0).any() or not np.allclose(p.sum(1), 1.0, atol=1e-4):
        raise InputError("probabilities must be non-negative and sum to 1 in every row")
    return p
