"""Inception Score; Salimans et al. 2016."""

from __future__ import annotations

import numpy as np

from eval.metrics.arrays import as_features
from runtime.errors import InputError


def inception_score(probabilities: object, splits: int = 1) -> float:
    """exp of the mean KL(p(y|x) || p(y)), averaged over `splits` consecutive parts; between 1 and the number of classes
    K.

    Args:
        probabilities: `[N, K]`, rows sum to 1; exact zeros are fine (0 log 0 = 0).
        splits: Parts; 1 is the headline. With 10 parts of 205 clips even a perfect 101-class generator stays below 77.

    Raises:
        InputError: When rows are no probabilities, or `splits` leaves a part without two clips.
    """
    p = as_features(probabilities, "probabilities")
    if (p < 0).any() or not np.allclose(p.sum(1), 1.0, atol=1e-4):
        raise InputError("probabilities must be non-negative and sum to 1 in every row")
    if not 1 <= splits <= len(p) // 2:
        raise InputError(f"splits must lie in 1…{len(p) // 2} for {len(p)} clips, got {splits}")
    return float(np.mean([_score(part) for part in np.array_split(p, splits)]))


def _score(p: np.ndarray) -> float:
    marginal = p.mean(0)
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    marginal_logs = np.log(marginal, out=np.zeros_like(marginal), where=marginal > 0)
    return float(np.exp((p * (logs - marginal_logs)).sum(1).mean()))
