"""The Fréchet distance that infinitely many clips would give; after Chong & Forsyth 2020 (FID∞)."""

from __future__ import annotations

import numpy as np

from eval.metrics.arrays import as_pair
from eval.metrics.frechet import frechet_left_out
from eval.metrics.intervals import Estimate, check_sets, interval, spread_of
from eval.metrics.jackknife import BLOCKS, NO_ROWS, ROUNDS, deal
from runtime.errors import InputError


def frechet_at_infinity(
    a: object,
    b: object,
    paired: bool = False,
    *,
    labels: object | None = None,
    labels_b: object | None = None,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> Estimate:
    """The Fréchet distance extrapolated to infinitely many clips in both sets, with a 95 % interval.

    The bias of the distance falls as 1/N. The line through 1/N is laid through the whole sets and the mean over all
    sets with a tenth of the clips left out of each; its intercept is the estimate. As every clip is left out equally
    often, the intercept scatters no more than the distance itself: FID∞'s fit over random subsets down to N/2 scatters
    by a quarter more (d = 40, N = 205) and bends more, since the terms in 1/N² grow with 1/N.

    Unlike the distance, the estimate is (nearly) unbiased, so numbers from different N compare; and it may be slightly
    negative where the sets are equal.

    Args:
        a: Features `[N, d]`, N >= 2 d.
        b: Features `[M, d]`, M >= 2 d.
        paired, labels, labels_b, rounds, seed: As in `eval.estimate`.

    Raises:
        InputError: With fewer clips than 2 d, where the bias is no longer a line in 1/N.
    """
    a, b = as_pair(a, b)
    check_sets(a, b, paired)
    fewest, width = min(len(a), len(b)), a.shape[1]
    if fewest < max(2 * width, BLOCKS):
        raise InputError(
            f"extrapolating {width} features to infinitely many clips needs at least {max(2 * width, BLOCKS)} clips "
            f"in each set, got {fewest}"
        )
    without = frechet_left_out(a, b)
    value = without(NO_ROWS, NO_ROWS)
    blocks_a, blocks_b = (deal(len(x), y, rounds, seed) for x, y in ((a, labels), (b, labels if paired else labels_b)))
    fewer = np.mean(
        [
            without(rows_a, rows_b)
            for of_a, of_b in zip(blocks_a, blocks_b, strict=True)
            for rows_a, rows_b in zip(of_a, of_b, strict=True)
        ]
    )
    # Two points of a line in 1/N, at N and at (1 - 1/10) N; its value at 1/N = 0.
    extrapolated = float(BLOCKS * value - (BLOCKS - 1) * fewer)
    sizes = (len(a), len(b))
    spread = spread_of(without, sizes, paired, (labels, labels_b), rounds, seed)
    return interval(extrapolated, spread, sizes, rounds, made="linear in 1/N to infinity; ")
