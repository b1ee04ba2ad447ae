"""The Fréchet distance by the matrix roots of published code, to reproduce its numbers to the last digits.

`eval.metrics.frechet` has the exact one; these differ from it by rounding, most where clips are fewer than features.
"""

from __future__ import annotations

import warnings

import numpy as np

from eval.metrics.arrays import as_pair


def frechet_by_sqrtm(a: object, b: object, ddof: int = 1) -> float:
    """With `scipy.linalg.sqrtm` of S_a S_b, of which the real part counts; float64 (StyleGAN-V, Latte, cd-fvd).

    Args:
        a, b: Features `[N, d]` and `[M, d]`.
        ddof: Covariances are divided by N - ddof.

    Returns:
        The distance; NaN where `sqrtm` fails, as it may on singular products.
    """
    import scipy.linalg

    a, b = as_pair(a, b)
    shift = a.mean(0) - b.mean(0)
    covariances = [np.atleast_2d(np.cov(x, rowvar=False, ddof=ddof)) for x in (a, b)]
    with warnings.catch_warnings():
        # That the product is singular, which it is with fewer clips than features.
        warnings.simplefilter("ignore")
        root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    return float(shift @ shift + np.real(np.trace(covariances[0] + covariances[1] - 2.0 * root)))


def frechet_by_tfgan(a: object, b: object, ddof: int = 1) -> float:
    """With TF-GAN's square root by singular values, applied twice, all in float32 (VideoGPT, TATS).

    Singular values below 1e-10 stay as they are. Arguments as in `frechet_by_sqrtm`.
    """
    a, b = (x.astype(np.float32) for x in as_pair(a, b))
    shift = a.mean(0) - b.mean(0)
    first, second = (_covariance(x, ddof) for x in (a, b))
    root = _root(first)
    trace = np.trace(_root(root @ second @ root))
    return float(np.trace(first + second) - np.float32(2.0) * trace + np.square(shift).sum())


def _covariance(features: np.ndarray, ddof: int) -> np.ndarray:
    centred = features - features.mean(0)
    return centred.T @ centred * np.float32(1.0 / (len(features) - ddof))


def _root(matrix: np.ndarray) -> np.ndarray:
    left, values, right = np.linalg.svd(matrix)
    return (left * np.where(values < 1e-10, values, np.sqrt(values))) @ right
