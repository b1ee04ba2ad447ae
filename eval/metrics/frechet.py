"""Fréchet distance between Gaussians fitted to two feature sets (FID, FVD); Heusel et al. 2017, Unterthiner et al.
2018."""

from __future__ import annotations

import numpy as np

from eval.metrics.arrays import as_pair
from eval.metrics.moments import FeatureMoments


def frechet_distance(a: object, b: object, ddof: int = 1) -> float:
    """|mean_a - mean_b|² + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), float64.

    The trace of the root is the nuclear norm of A Bᵀ, where AᵀA = S_a and BᵀB = S_b are the centred features over
    sqrt(N - 1), so no matrix root, no complex number and no regularisation is needed, and sets smaller than the feature
    width are exact.

    Args:
        a: Features `[N, d]`, NumPy or torch, N >= 2.
        b: Features `[M, d]`.
        ddof: Covariances are divided by N - ddof. 1 is the headline; StyleGAN-V, Latte and cd-fvd have 0.

    Raises:
        InputError: On fewer than two clips, different widths, or values that are not finite.
    """
    a, b = as_pair(a, b)
    shift = a.mean(0) - b.mean(0)
    root_a, trace_a = _root(a, ddof)
    root_b, trace_b = _root(b, ddof)
    return float(shift @ shift + trace_a + trace_b - 2.0 * _nuclear_norm(root_a @ root_b.T))


def _root(features: np.ndarray, ddof: int) -> tuple[np.ndarray, float]:
    """A factor R with RᵀR the covariance (N - ddof), at most d rows, and the trace of the covariance."""
    centred = (features - features.mean(0)) / np.sqrt(len(features) - ddof)
    if len(centred) > centred.shape[1]:
        centred = np.linalg.qr(centred, mode="r")
    return centred, float(np.square(centred).sum())


def _nuclear_norm(matrix: np.ndarray) -> float:
    return float(np.linalg.svd(matrix, compute_uv=False).sum())


def frechet_left_out(a: object, b: object):
    """A function (rows_a, rows_b) -> Fréchet distance without these rows, much cheaper than computing it anew.

    Sets well beyond the feature width are downdated as moments; smaller ones as the matrix of inner products.
    """
    a, b = as_pair(a, b)
    # A tenth left out must still leave more clips than features, or covariances lose rank.
    wide = min(len(a), len(b)) <= 1.25 * a.shape[1]
    return (_ProductsLeftOut if wide else _MomentsLeftOut)(a, b)


class _MomentsLeftOut:
    """Leave-out by downdating count, mean and scatter; N > d."""

    def __init__(self, a: np.ndarray, b: np.ndarray):
        self._features = a, b
        self._moments = FeatureMoments.of(a), FeatureMoments.of(b)
        self._roots = self._moments[0].root(), self._moments[1].root()

    def __call__(self, rows_a: np.ndarray, rows_b: np.ndarray) -> float:
        a, b = (
            whole.without(features[rows]) if len(rows) else whole
            for whole, features, rows in zip(self._moments, self._features, (rows_a, rows_b), strict=True)
        )
        if len(rows_b):
            root = a.root() if len(rows_a) else self._roots[0]
            product = root @ b.covariance @ root.T
        else:
            product = self._roots[1] @ a.covariance @ self._roots[1].T
        cross = np.sqrt(np.maximum(np.linalg.eigvalsh(product), 0.0)).sum()
        shift = a.mean - b.mean
        return float(shift @ shift + np.trace(a.covariance) + np.trace(b.covariance) - 2.0 * cross)


class _ProductsLeftOut:
    """Leave-out by striking rows and columns from the inner products of the two sets; any N."""

    def __init__(self, a: np.ndarray, b: np.ndarray):
        self._means = a.mean(0), b.mean(0)
        self._centred = a - self._means[0], b - self._means[1]
        self._products = self._centred[0] @ self._centred[1].T

    def __call__(self, rows_a: np.ndarray, rows_b: np.ndarray) -> float:
        kept, shift, traces = [], self._means[0] - self._means[1], 0.0
        for centred, rows, sign in zip(self._centred, (rows_a, rows_b), (1.0, -1.0), strict=True):
            keep = np.setdiff1d(np.arange(len(centred)), rows)
            moved = centred[keep].mean(0)
            shift = shift + sign * moved
            traces += (np.square(centred[keep]).sum() - len(keep) * moved @ moved) / (len(keep) - 1)
            kept.append(keep)
        products = self._products[np.ix_(*kept)]
        products = products - products.mean(0)
        products -= products.mean(1, keepdims=True)
        scale = np.sqrt((len(kept[0]) - 1.0) * (len(kept[1]) - 1.0))
        return float(shift @ shift + traces - 2.0 * _nuclear_norm(products) / scale)
