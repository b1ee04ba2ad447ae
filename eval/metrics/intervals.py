"""A number with its interval, and the difference of two numbers that were measured on the same clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from eval.metrics.arrays import as_array
from eval.metrics.frechet import NO_ROWS
from eval.metrics.jackknife import ROUNDS, Spread, jackknife, left_out
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
            blocks then hold every class in proportion, and the draw of classes is no part of the interval. Classes
            of fewer than ten clips make fewer blocks; what classes of one clip add is overstated.
        labels_b: Likewise of `b`, `[M]`.
        rounds: How often the clips are dealt into ten blocks; more rounds make the interval itself less random.
        seed: Of the dealing.

    Raises:
        InputError: On fewer than two clips, or sets or labels that do not fit together.
    """
    a, b = as_array(a), None if b is None else as_array(b)
    check_sets(a, b, paired)
    without, sizes = left_out(metric, a, b), (len(a), None if b is None else len(b))
    spreads = spread_of(without, sizes, paired, (labels, labels_b), rounds, seed)
    return interval(without(NO_ROWS, NO_ROWS), spreads, len(a))


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
    without, sizes = difference_left_out(metric, a1, b1, a2, b2, paired)
    spreads = spread_of(without, sizes, paired, (labels, labels_b), rounds, seed)
    return interval(without(NO_ROWS, NO_ROWS), spreads, sizes[0])


def difference_left_out(
    metric: Callable, a1: object, b1: object, a2: object, b2: object, paired: bool
) -> tuple[Callable[[np.ndarray, np.ndarray], float], tuple[int, int]]:
    """A function (rows_a, rows_b) -> metric(a1, b1) - metric(a2, b2) without these rows, and the sizes of both sets.

    Raises:
        InputError: Where the two sides are not of the same clips, or sets do not pair.
    """
    a1, b1, a2, b2 = (as_array(values) for values in (a1, b1, a2, b2))
    if len(a1) != len(a2) or len(b1) != len(b2):
        raise InputError(
            f"a paired comparison needs the same clips on both sides, got {len(a1)} and {len(a2)}, "
            f"{len(b1)} and {len(b2)}"
        )
    check_sets(a1, b1, paired)
    first, second = left_out(metric, a1, b1), left_out(metric, a2, b2)
    return lambda rows_a, rows_b: first(rows_a, rows_b) - second(rows_a, rows_b), (len(a1), len(b1))


def spread_of(
    without: Callable[[np.ndarray, np.ndarray], float],
    sizes: tuple[int, int | None],
    paired: bool,
    labels: tuple[object | None, object | None],
    rounds: int,
    seed: int = 0,
) -> list[Spread]:
    """How far a metric, a function (rows_a, rows_b) -> value without these rows, moves with each draw of clips: of
    pairs, or of either set."""
    if paired:
        return [jackknife(lambda rows: without(rows, rows), sizes[0], labels[0], rounds, seed)]
    spreads = [jackknife(lambda rows: without(rows, NO_ROWS), sizes[0], labels[0], rounds, seed)]
    if sizes[1] is not None:
        spreads.append(jackknife(lambda rows: without(NO_ROWS, rows), sizes[1], labels[1], rounds, seed))
    return spreads


def interval(value: float, spreads: Sequence[Spread], count: int, made: str = "") -> Estimate:
    """The 95 % interval of Student's t around `value`, from independent spreads, by the degrees of freedom and in the
    words of the one that has fewest; `made` is what else the method did."""
    fewest = min(spreads, key=lambda spread: spread.freedom)
    variance = sum(spread.variance for spread in spreads)
    reach = float(stats.t.ppf(0.975, fewest.freedom) * np.sqrt(variance))
    method = f"{made}delete-d jackknife, {fewest.blocks} blocks dealt {fewest.rounds} times"
    return Estimate(value, value - reach, value + reach, count, method)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high) of two or more numbers: the 95 % interval of Student's t."""
    mean, count = float(np.mean(values)), len(values)
    half = float(stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count))
    return mean, mean - half, mean + half


def check_sets(a: np.ndarray, b: np.ndarray | None, paired: bool) -> None:
    """InputError on sets of fewer than two clips, or that do not pair."""
    if len(a) < 2 or (b is not None and len(b) < 2):
        raise InputError(
            f"an estimate needs at least 2 clips in each set, got {len(a)}{'' if b is None else f' and {len(b)}'}"
        )
    if paired and (b is None or len(a) != len(b)):
        raise InputError("paired sets must have the same number of clips")
