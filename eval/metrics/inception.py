"""Inception Score; Salimans et al. 2016."""

from __future__ import annotations

import numpy as np
from scipy.special import xlogy

from eval.metrics.arrays import as_features
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
    return float(np.mean([_score(len(part), part.sum(0), xlogy(part, part).sum(1).sum()) for part in parts]))


def _score(count: int, class_sums: np.ndarray, negative_entropy: float) -> float:
    """exp of the mean KL(p(y|x) || p(y)), of the sums over clips of p `[K]` and of p log p."""
    marginal = class_sums / count
    return float(np.exp(negative_entropy / count - xlogy(marginal, marginal).sum()))


def score_left_out(probabilities: object, _: None = None):
    """A function (rows, nothing) -> the Inception Score in one part without these rows, from what is left of sums."""
    p = _as_probabilities(probabilities)
    entropies, class_sums = xlogy(p, p).sum(1), p.sum(0)

    def without(rows: np.ndarray, _: object = ()) -> float:
        # What is left of a class may end a rounding error below zero.
        left = np.maximum(class_sums - p[rows].sum(0), 0.0)
        return _score(len(p) - len(rows), left, entropies.sum() - entropies[rows].sum())

    return without


def _as_probabilities(values: object) -> np.ndarray:
    """float64 `[N, K]`; InputError unless every row is a distribution."""
    p = as_features(values, "probabilities")
    if (p < 0).any() or not np.allclose(p.sum(1), 1.0, atol=1e-4):
        raise InputError("probabilities must be non-negative and sum to 1 in every row")
    return p
