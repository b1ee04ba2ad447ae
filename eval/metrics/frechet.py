"""Fréchet distance between Gaussians fitted to two feature sets (FID, FVD); Heusel et al. 2017, Unterthiner et al.
2018."""

from __future__ import annotations

import numpy as np

from eval.metrics.arrays import as_pair


def frechet_distance(a: object, b: object) -> float:
    """|mean_a - mean_b|² + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), float64.

    The trace of the root is the nuclear norm of A Bᵀ, where AᵀA = S_a and BᵀB = S_b are the centred features over
    sqrt(N - 1), so no matrix root, no complex number and no regularisation is needed, and sets smaller than the feature
    width are exact.

    Args:
        a: Features `[N, d]`, NumPy or torch, N >= 2.
        b: Features `[M, d]`.

    Raises:
        InputError: On fewer than two clips, different widths, or values that are not finite.
    """
    a, b = as_pair(a, b)
    shift = a.mean(0) - b.mean(0)
    root_a, trace_a = _root(a)
    root_b, trace_b = _root(b)
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    return float(shift @ shift + trace_a + trace_b - 2.0 * cross)


def _root(features: np.ndarray) -> tuple[np.ndarray, float]:
    """A factor R with RᵀR the covariance (N - 1), at most d rows, and the trace of the covariance."""
    centred = (features - features.mean(0)) / np.sqrt(len(features) - 1)
    if len(centred) > centred.shape[1]:
        centred = np.linalg.qr(centred, mode="r")
    return centred, float(np.square(centred).sum())
