"""Kernel distance: squared MMD with the cubic polynomial kernel (KID, KVD); Bińkowski et al. 2018, as in TATS on all
clips."""

from __future__ import annotations

import numpy as np

from eval.metrics.arrays import as_pair


def kernel_distance(a: object, b: object) -> float:
    """Unbiased MMD² with k(x, y) = (x·y / d + 1)³ over all clips, no subsets, no factor; may be slightly negative.

    Args:
        a: Features `[N, d]`, N >= 2.
        b: Features `[M, d]`; M may differ from N.

    Raises:
        InputError: As `frechet_distance`.
    """
    a, b = as_pair(a, b)
    return _within(a) + _within(b) - 2.0 * float(_kernel(a, b).mean())


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def _within(x: np.ndarray) -> float:
    """Mean of the kernel over pairs of different clips."""
    kernel = _kernel(x, x)
    return float((kernel.sum() - np.trace(kernel)) / (len(x) * (len(x) - 1)))
