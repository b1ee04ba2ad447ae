"""A number with its interval: the delete-d jackknife over clips, never resampling with replacement (which biases set
metrics)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from runtime.errors import InputError

BLOCKS = 10


@dataclass(frozen=True)
class Estimate:
    """`value` at this sample size, and a 95 % interval.

    The interval covers the *expectation of the metric at this number of clips* under fresh draws of clips. It says
    nothing of the bias that set metrics have at finite N, of training seeds, or of the protocol.
    """

    value: float
    low: float
    high: float
    n: int
    method: str


def estimate(metric: Callable, a: object, b: object | None = None, paired: bool = False) -> Estimate:
    """Evaluate `metric(a, b)` (or `metric(a)`) with a 95 % interval from ten jackknife blocks of clips.

    Clips are dealt to the blocks in turn (clip i to block i mod 10), so classes that cycle stay balanced. In a paired
    metric the same clips leave both sets together; otherwise the two sets are independent and their variances add.

    Args:
        metric: Function of one or two arrays whose first axis is clips.
        a: `[N, ...]`.
        b: `[M, ...]` or None.
        paired: Whether row i of `a` and of `b` belong together (N == M).
    """
    a = np.asarray(a.detach().cpu() if hasattr(a, "detach") else a)
    b = None if b is None else np.asarray(b.detach().cpu() if hasattr(b, "detach") else b)
    if len(a) < 2 or (b is not None and len(b) < 2):
        raise InputError(
            f"an estimate needs at least 2 clips in each set, got {len(a)}{'' if b is None else f' and {len(b)}'}"
        )
    if paired and (b is None or len(a) != len(b)):
        raise InputError("paired sets must have the same number of clips")
    value = float(metric(a) if b is None else metric(a, b))
    if b is None:
        spread = _variance(metric, a)
    elif paired:
        spread = _variance(lambda rows: metric(a[rows], b[rows]), np.arange(len(a)))
    else:
        spread = _variance(lambda x: metric(x, b), a) + _variance(lambda y: metric(a, y), b)
    reach = float(stats.t.ppf(0.975, _blocks(len(a)) - 1) * np.sqrt(spread))
    return Estimate(value, value - reach, value + reach, len(a), f"delete-d jackknife, {_blocks(len(a))} blocks")


def _blocks(count: int) -> int:
    """Ten, or fewer where a block's removal would leave less than two clips."""
    return max(2, min(BLOCKS, count - 1)) if count > 2 else 2


def _variance(metric: Callable, values: np.ndarray) -> float:
    blocks = _blocks(len(values))
    member = np.arange(len(values)) % blocks
    if len(values) - np.bincount(member).max() < 2:
        return float("inf")  # two or three clips: no interval can be given
    left_out = np.array([float(metric(values[member != block])) for block in range(blocks)])
    return float((blocks - 1) / blocks * np.square(left_out - left_out.mean()).sum())
