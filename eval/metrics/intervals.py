"""A number with its interval, and the difference of two numbers that were measured on the same clips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from eval.metrics.arrays import as_array
from eval.metrics.jackknife import BLOCKS, NO_ROWS, ROUNDS, deal, degrees_of_freedom, jackknife_variance, left_out
from runtime.errors import InputError


@dataclass(frozen=True)
class Estimate:
    """`value` at this sample size, and a 95 % interval.

    The interval covers the *expectation of the metric at this number of clips* under fresh draws of clips. It says
    nothing of the bias that set metrics have at finite N (`frechet_at_infinity` does), of training seeds, or of the
    protocol.
    """

    value: float
    low: float
    high: float
    n: int
    method: str


def estimate(
    metric: Callable,
    a: object,
    b: object | None = None,
    paired: bool = False,
    *,
    labels: object | None = None,
    labels_b: object | None = None,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> Estimate:
    """Evaluate `metric(a, b)` (or `metric(a)`) with a 95 % interval: a tenth of the clips left out at a time, each clip
    once in a round.

    In a paired metric the same clips leave both sets together; otherwise the two sets are independent draws and their
    variances add. In simulations with Gaussian features (60 to 80 clips, 6 to 16 features) the interval covers its
    target in 91 to 98 % of cases where the sets differ and in 97 % or more where they are equal: there the metric is
    flat, and the jackknife overstates its variance. With few clips of heavy-tailed features it covers less (log-normal,
    80 clips: 74 to 81 %), since the clips at hand do not show the tail.

    Args:
        metric: Function of one or two arrays whose first axis is clips. `frechet_distance`, `kernel_distance` and
            `inception_score` are updated for what is left out; any other is computed anew each time.
        a: `[N, ...]`.
        b: `[M, ...]` or None.
        paired: Whether row i of `a` and of `b` belong together (N == M).
        labels: Classes `[N]` of `a` (of both sets when paired), where the number of clips of each class was *chosen*:
            blocks then hold every class in proportion, and the draw of classes is no part of the interval.
        labels_b: Likewise of `b`, `[M]`.
        rounds: How often the clips are dealt into ten blocks; more rounds make the interval itself less random.
        seed: Of the dealing.

    Raises:
        InputError: On fewer than two clips, or sets or labels that do not fit together.
    """
    a, b = as_array(a), None if b is None else as_array(b)
    check_sets(a, b, paired)
    value = float(metric(a) if b is None else metric(a, b))
    sizes = (len(a), None if b is None else len(b))
    spread = spread_of(left_out(metric, a, b), sizes, paired, (labels, labels_b), rounds, seed)
    return interval(value, spread, sizes, rounds)


def compare_paired(
    metric: Callable,
    a1: object,
    b1: object,
    a2: object,
    b2: object,
    paired: bool = True,
    *,
    labels: object | None = None,
    labels_b: object | None = None,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> Estimate:
    """metric(a1, b1) - metric(a2, b2) with a 95 % interval: two tokenizers or generators on the same clips or seeds.

    The same clips leave both sides at once, so what the sides have in common cancels, and the interval is often many
    times narrower than two separate ones suggest. The sides differ significantly (5 %) when it does not contain 0.

    Args:
        metric: Function of two arrays.
        a1, a2: `[N, ...]`; row i of both comes from the same clip or seed.
        b1, b2: `[M, ...]`, likewise; the same array twice where both are compared with one reference.
        paired: Whether row i of `a` and of `b` belong together, as in rFVD (N == M). False for generated against real.
        labels, labels_b, rounds, seed: As in `estimate`.
    """
    a1, b1, a2, b2 = (as_array(values) for values in (a1, b1, a2, b2))
    if len(a1) != len(a2) or len(b1) != len(b2):
        raise InputError(
            f"a paired comparison needs the same clips on both sides, got {len(a1)} and {len(a2)}, "
            f"{len(b1)} and {len(b2)}"
        )
    check_sets(a1, b1, paired)
    first, second = left_out(metric, a1, b1), left_out(metric, a2, b2)
    value = float(metric(a1, b1)) - float(metric(a2, b2))
    sizes = (len(a1), len(b1))

    def without(rows_a: np.ndarray, rows_b: np.ndarray) -> float:
        return first(rows_a, rows_b) - second(rows_a, rows_b)

    return interval(value, spread_of(without, sizes, paired, (labels, labels_b), rounds, seed), sizes, rounds)


def spread_of(
    without: Callable[[np.ndarray, np.ndarray], float],
    sizes: tuple[int, int | None],
    paired: bool,
    labels: tuple[object | None, object | None],
    rounds: int,
    seed: int,
) -> float:
    """Jackknife variance of a metric given as a function (rows_a, rows_b) -> value without these rows."""
    blocks_a = deal(sizes[0], labels[0], rounds, seed)
    if paired:
        return jackknife_variance([[without(rows, rows) for rows in blocks] for blocks in blocks_a])
    spread = jackknife_variance([[without(rows, NO_ROWS) for rows in blocks] for blocks in blocks_a])
    if sizes[1] is not None:
        blocks_b = deal(sizes[1], labels[1], rounds, seed)
        spread += jackknife_variance([[without(NO_ROWS, rows) for rows in blocks] for blocks in blocks_b])
    return spread


def interval(value: float, spread: float, sizes: tuple[int, int | None], rounds: int, made: str = "") -> Estimate:
    """The 95 % interval of Student's t around `value`; `made` is what else the method did."""
    smaller = min(size for size in sizes if size is not None)
    reach = float(stats.t.ppf(0.975, degrees_of_freedom(smaller, rounds)) * np.sqrt(spread))
    method = f"{made}delete-d jackknife, {min(BLOCKS, smaller)} blocks dealt {rounds} times"
    return Estimate(value, value - reach, value + reach, sizes[0], method)


def check_sets(a: np.ndarray, b: np.ndarray | None, paired: bool) -> None:
    """InputError on sets of fewer than two clips, or that do not pair."""
    if len(a) < 2 or (b is not None and len(b) < 2):
        raise InputError(
            f"an estimate needs at least 2 clips in each set, got {len(a)}{'' if b is None else f' and {len(b)}'}"
        )
    if paired and (b is None or len(a) != len(b)):
        raise InputError("paired sets must have the same number of clips")
