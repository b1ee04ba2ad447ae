"""Fréchet distance between Gaussians fitted to two feature sets (FID, FVD); Heusel et al. 2017, Unterthiner et al.
2018."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from scipy.linalg.lapack import dsygst

from eval.metrics.arrays import as_features, check_width, one_blas_thread

NO_ROWS = np.empty(0, dtype=int)

# Eigenvalues are taken where rounding cannot move the sum of their roots by more than this share of both traces. What
# it does move it by is a thousandth of the bound and less.
TRUSTED = 1e-8


def frechet_distance(a: object, b: object, ddof: int = 1) -> float:
    """|mean_a - mean_b|² + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), float64.

    The trace of the root is the nuclear norm of A Bᵀ, where AᵀA = S_a and BᵀB = S_b, so no matrix root, no complex
    number and no regularisation is needed, and sets smaller than the feature width are exact.

    Where many sets meet one reference, keep the `Gaussian` of that: `Gaussian(b).distance(Gaussian(a))` is this number.

    Args:
        a: Features `[N, d]`, NumPy or torch, N >= 2.
        b: Features `[M, d]`.
        ddof: Covariances are divided by N - ddof. 1 is the headline; StyleGAN-V, Latte and cd-fvd have 0.

    Raises:
        InputError: On fewer than two clips, different widths, or values that are not finite.
    """
    return Gaussian(b, ddof, "the second set").distance(Gaussian(a, ddof, "the first set"))


class Gaussian:
    """The Gaussian fitted to a set of features; what is costly about it is computed once, when first needed.

    Args:
        features: `[N, d]`, NumPy or torch, N >= 2.
        ddof: The covariance is divided by N - ddof.
        name: What errors call the set.

    Attributes:
        count: N.
        mean: float64 `[d]`.
        covariance: float64 `[d, d]`.
        root: R with RᵀR the covariance: upper triangular `[d, d]` where N > d, else `[N, d]`.

    Raises:
        InputError: On fewer than two clips, or values that are not finite.
    """

    def __init__(self, features: object, ddof: int = 1, name: str = "features"):
        self._features, self._out, self._ddof = as_features(features, name), NO_ROWS, ddof
        self.count, self.mean = len(self._features), self._features.mean(0)

    @property
    def full(self) -> bool:
        """Whether there are more clips than features."""
        return self.count > len(self.mean)

    def _centred(self) -> np.ndarray:
        return (np.delete(self._features, self._out, 0) if len(self._out) else self._features) - self.mean

    @cached_property
    def covariance(self) -> np.ndarray:
        centred = self._centred()
        return centred.T @ centred / (self.count - self._ddof)

    @cached_property
    def root(self) -> np.ndarray:
        if self.full:
            try:
                root = np.linalg.cholesky(self.covariance).T  # in Fortran's order, as LAPACK wants it
            except np.linalg.LinAlgError:
                pass
            else:
                # Of weaker directions the covariance has kept too few digits; the features themselves have them.
                if root.diagonal().min() > 1e-6 * root.diagonal().max():
                    return root
        centred = self._centred() / np.sqrt(self.count - self._ddof)
        return np.asfortranarray(np.linalg.qr(centred, mode="r")) if self.full else centred

    @cached_property
    def trace(self) -> float:
        """Of the covariance."""
        return float(np.trace(self.covariance) if self.full else np.square(self.root).sum())

    def without(self, rows: np.ndarray) -> Gaussian:
        """The Gaussian of the clips that are left without some rows, from this one's moments; itself without none."""
        if not len(rows):
            return self
        left = Gaussian.__new__(Gaussian)
        left._features, left._out, left._ddof = self._features, rows, self._ddof
        left.count = self.count - len(rows)
        gone = self._features[rows] - self.mean
        shift = gone.sum(0) / left.count
        left.mean = self.mean - shift
        if left.full:
            scatter = self.covariance * (self.count - self._ddof)
            scatter -= gone.T @ gone
            scatter -= np.outer(left.count * shift, shift)
            scatter /= left.count - self._ddof
            left.covariance = scatter
        return left

    @one_blas_thread()
    def distance(self, other: Gaussian, trusted: float = TRUSTED) -> float:
        """The Fréchet distance to another; of the two, this one's `root` is needed always, the other's rarely.

        Raises:
            InputError: On different widths.
        """
        check_width(len(other.mean), len(self.mean))
        shift = self.mean - other.mean
        return float(shift @ shift + self.trace + other.trace - 2.0 * self._cross(other, trusted))

    def _cross(self, other: Gaussian, trusted: float) -> float:
        """The nuclear norm of R R'ᵀ: the trace of the root of the product of the covariances."""
        if self.full and other.full:
            # R S' Rᵀ, one triangle of it. Its eigenvalues are the squares, which cost half of what singular values
            # cost, but lose digits of the weakest directions.
            product, _ = dsygst(other.covariance.T, self.root, itype=2)
            squares = np.linalg.eigvalsh(product.T)
            rounding = np.finfo(float).eps * np.linalg.norm(self.covariance) * np.linalg.norm(other.covariance)
            low, high = (np.sqrt(np.maximum(squares + r, 0.0)).sum() for r in (-rounding, rounding))
            if high - low <= 2.0 * trusted * (self.trace + other.trace):
                return float(np.sqrt(np.maximum(squares, 0.0)).sum())
        return float(np.linalg.svd(self.root @ other.root.T, compute_uv=False).sum())


def frechet_left_out(a: object, b: object) -> Callable[[np.ndarray, np.ndarray], float]:
    """A function (rows_a, rows_b) -> Fréchet distance without these rows, much cheaper than computing it anew."""
    first, second = Gaussian(a, name="the first set"), Gaussian(b, name="the second set")
    check_width(len(first.mean), len(second.mean))

    @one_blas_thread()
    def without(rows_a: np.ndarray, rows_b: np.ndarray) -> float:
        left, reference = first.without(rows_a), second.without(rows_b)
        if left is first and reference is not second:
            left, reference = reference, left  # the root of a whole set is there, that of what is left of one is not
        # Where an interval is made of them, distances need fewer digits.
        return reference.distance(left, TRUSTED if left is first and reference is second else 1e-5)

    return without
