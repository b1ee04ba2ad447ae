"""Count, mean and scatter of features, gathered batch by batch and process by process: all that a Fréchet distance
needs."""

from __future__ import annotations

import numpy as np

from eval.metrics.arrays import as_features, check_width
from runtime.errors import InputError


class FeatureMoments:
    """Moments of a set of features, float64, without keeping the features.

    However the set is cut into batches and the batches into processes, and in whatever order they are merged, the
    result is the same up to float64 summation error. The mean is carried along (Chan et al. 1979), so that features far
    from zero lose no digits.

    Attributes:
        count: Clips so far.
        mean: float64 `[d]`.
        scatter: float64 `[d, d]`, the sum of (x - mean)(x - mean)ᵀ.
    """

    def __init__(self, dim: int):
        self.count, self.mean, self.scatter = 0, np.zeros(dim), np.zeros((dim, dim))

    @classmethod
    def of(cls, features: object) -> FeatureMoments:
        """Moments of one array `[N, d]`, N >= 1."""
        features = as_features(features, least=1)
        found = cls(features.shape[1])
        found.count, found.mean = len(features), features.mean(0)
        centred = features - found.mean
        found.scatter = centred.T @ centred
        return found

    def add(self, batch: object) -> FeatureMoments:
        """Take in a batch `[n, d]`; returns self."""
        return self.merge(FeatureMoments.of(batch))

    def merge(self, other: FeatureMoments) -> FeatureMoments:
        """Take in another set's moments, from another process say; returns self."""
        check_width(len(self.mean), len(other.mean))
        count = self.count + other.count
        if count:
            apart = other.mean - self.mean
            self.mean = self.mean + apart * (other.count / count)
            self.scatter = self.scatter + other.scatter + np.outer(apart, apart) * (self.count * other.count / count)
        self.count = count
        return self

    def without(self, batch: object) -> FeatureMoments:
        """The moments of what is left when a batch `[n, d]` that was taken in is taken out again."""
        out = FeatureMoments.of(batch)
        check_width(len(self.mean), len(out.mean))
        left = FeatureMoments(len(self.mean))
        left.count = self.count - out.count
        if left.count < 1:
            raise InputError(f"cannot take {out.count} clips out of {self.count} and have some left")
        left.mean = self.mean - (out.mean - self.mean) * (out.count / left.count)
        apart = out.mean - left.mean
        left.scatter = self.scatter - out.scatter - np.outer(apart, apart) * (left.count * out.count / self.count)
        return left

    @property
    def covariance(self) -> np.ndarray:
        """Scatter over N - 1, `[d, d]`; InputError for fewer than two clips."""
        if self.count < 2:
            raise InputError(f"a set metric needs at least 2 clips, got {self.count}")
        return self.scatter / (self.count - 1)

    def root(self) -> np.ndarray:
        """R `[r, d]` with RᵀR the covariance. N clips span at most N - 1 directions; what rounding adds is left out."""
        values, vectors = np.linalg.eigh(self.covariance)
        rank = min(self.count - 1, len(values))
        return (vectors[:, -rank:] * np.sqrt(np.maximum(values[-rank:], 0.0))).T


def frechet_from_moments(a: FeatureMoments, b: FeatureMoments) -> float:
    """The Fréchet distance of `frechet_distance`, from moments alone.

    Raises:
        InputError: On fewer than two clips in a set, or different widths.
    """
    check_width(len(a.mean), len(b.mean))
    shift = a.mean - b.mean
    cross = np.linalg.svd(a.root() @ b.root().T, compute_uv=False).sum()
    return float(shift @ shift + np.trace(a.covariance) + np.trace(b.covariance) - 2.0 * cross)
