"""The Fréchet distance with a protocol's own divisor, matrix root, and pairs of sets."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from eval.metrics.frechet import frechet_distance, frechet_left_out
from eval.metrics.intervals import Estimate, interval, spread_of
from eval.metrics.jackknife import ROUNDS
from eval.metrics.published_roots import frechet_by_sqrtm, frechet_by_tfgan
from eval.protocols.presets import NUCLEAR, SQRTM, TFGAN, Protocol

ROOTS: dict[str, Callable] = {NUCLEAR: frechet_distance, SQRTM: frechet_by_sqrtm, TFGAN: frechet_by_tfgan}


def mean_distance(
    protocol: Protocol, a: np.ndarray, b: np.ndarray, *, labels: np.ndarray | None, labels_b: np.ndarray | None
) -> Estimate:
    """Fréchet distance of features `[N, d]` and `[M, d]`, the mean over the protocol's disjoint pairs of sets.

    The interval is that of the exact root with N - 1, which the others differ from by rounding and by 1/N; pairs are
    independent, so their variances add.
    """
    repeats, values, spreads = protocol.repeats, [], []
    for pair in range(repeats):
        parts = [
            None if rows is None else rows[pair * (len(rows) // repeats) : (pair + 1) * (len(rows) // repeats)]
            for rows in (a, b, labels, labels_b)
        ]
        values.append(ROOTS[protocol.root](*parts[:2], protocol.ddof))
        sizes = len(parts[0]), len(parts[1])
        found = spread_of(frechet_left_out(*parts[:2]), sizes, False, tuple(parts[2:]), ROUNDS)
        spreads += [spread._replace(variance=spread.variance / repeats**2) for spread in found]
    made = f"mean of {repeats} pairs of sets; " if repeats > 1 else ""
    return interval(float(np.mean(values)), spreads, len(a), made)
