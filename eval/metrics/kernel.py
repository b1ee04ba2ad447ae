"""Kernel distance: squared MMD with the cubic polynomial kernel (KID, KVD); Bińkowski et al. 2018, as in TATS on all
clips."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eval.metrics.arrays import as_pair, one_blas_thread

TILE = 256  # rows and columns of the kernel matrix in memory at a time: half a MiB stays in the cache


def kernel_distance(a: object, b: object) -> float:
    """Unbiased MMD² with k(x, y) = (x·y / d + 1)³ over all clips, no subsets, no factor; may be slightly negative.

    The kernel matrix is summed tile by tile, so memory does not grow with its N² entries. Unlike moments, its sums do
    not merge across processes: gather the features (`eval.features.store`).

    Args:
        a: Features `[N, d]`, N >= 2.
        b: Features `[M, d]`; M may differ from N.

    Raises:
        InputError: As `frechet_distance`.
    """
    return KernelSums(a, b)((), ())


class KernelSums:
    """Row sums of the three kernel matrices; called with (rows_a, rows_b), the kernel distance without these rows."""

    def __init__(self, a: object, b: object):
        self._a, self._b = as_pair(a, b)
        self._within = _row_sums(self._a), _row_sums(self._b)
        self._across_a, self._across_b = np.zeros(len(self._a)), np.zeros(len(self._b))
        for rows, columns, kernel in _tiles(self._a, self._b):
            self._across_a[rows] += kernel.sum(1)
            self._across_b[columns] += kernel.sum(0)

    @one_blas_thread()
    def __call__(self, rows_a: np.ndarray, rows_b: np.ndarray) -> float:
        rows_a, rows_b = np.asarray(rows_a, dtype=int), np.asarray(rows_b, dtype=int)
        value = 0.0
        for features, sums, rows in ((self._a, self._within[0], rows_a), (self._b, self._within[1], rows_b)):
            left = len(features) - len(rows)
            # Pairs with a struck row go twice, except those of two struck rows.
            pairs = sums.sum() - 2.0 * sums[rows].sum() + _row_sums(features[rows]).sum()
            value += pairs / (left * (left - 1))
        cross = self._across_a.sum() - self._across_a[rows_a].sum() - self._across_b[rows_b].sum()
        cross += _kernel(self._a[rows_a], self._b[rows_b]).sum()
        return float(value - 2.0 * cross / ((len(self._a) - len(rows_a)) * (len(self._b) - len(rows_b))))


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    base = x @ y.T
    base /= x.shape[1]
    base += 1.0
    return base * base * base


def _tiles(x: np.ndarray, y: np.ndarray, upper: bool = False) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """The kernel matrix in tiles: (rows, columns, values); `upper`: only those on and above the diagonal."""
    for i in range(0, len(x), TILE):
        for j in range(i if upper else 0, len(y), TILE):
            rows, columns = slice(i, i + TILE), slice(j, j + TILE)
            yield rows, columns, _kernel(x[rows], y[columns])


def _row_sums(x: np.ndarray) -> np.ndarray:
    """For every clip the sum of the kernel over all other clips, `[N]`."""
    sums = np.zeros(len(x))
    for rows, columns, kernel in _tiles(x, x, upper=True):
        if rows == columns:
            np.fill_diagonal(kernel, 0.0)
        else:
            sums[columns] += kernel.sum(0)
        sums[rows] += kernel.sum(1)
    return sums
