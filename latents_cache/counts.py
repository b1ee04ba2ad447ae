"""How often each float16 number occurs in each channel of a latents file.

From whole numbers everything that is asked of all rows follows exactly: statistics and quantiles depend neither on the
order of the rows nor on how many processes counted them, and counts of parts add up.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from latents_cache.layout import LATENTS

CODES = 2**16  # float16 numbers, by their bits
BLOCK_BYTES = 64 * 2**20  # of one dataset, read at a time
_VALUES = np.arange(CODES, dtype=np.uint16).view(LATENTS).astype(np.float64)


def count_values(mean, logvar=None, rows: np.ndarray | None = None, seen: Callable[[int], None] | None = None):
    """Count the numbers in rows of `mean` and `logvar` `[N, C, G, h, w]`, read block by block.

    Args:
        mean: float16 h5py dataset or array; other floats are rounded to float16.
        logvar: Likewise, or None.
        rows: Which rows, increasing; None: all.
        seen: Called after each block with the number of rows counted so far.

    Returns:
        int64 `[1, C, 65536]`, or `[2, C, 65536]` with `logvar`, by the bits of the number.
    """
    sources = [source for source in (mean, logvar) if source is not None]
    channels = mean.shape[1]
    counts = np.zeros((len(sources), channels, CODES), np.int64)
    rows = np.arange(len(mean)) if rows is None else np.asarray(rows, np.int64)
    block = max(1, BLOCK_BYTES // (LATENTS.itemsize * int(np.prod(mean.shape[1:]))))
    for start in range(0, len(rows), block):
        chosen = rows[start : start + block]
        whole = slice(int(chosen[0]), int(chosen[-1]) + 1)
        kept = slice(None) if whole.stop - whole.start == len(chosen) else chosen - chosen[0]
        for own, source in zip(counts, sources, strict=True):
            with np.errstate(over="ignore"):
                codes = np.asarray(source[whole]).astype(LATENTS, copy=False)[kept].view(np.uint16)
            for channel in range(channels):
                own[channel] += np.bincount(codes[:, channel].reshape(-1), minlength=CODES)
        if seen is not None:
            seen(start + len(chosen))
    return counts


def bytes_of_counts(channels: int, has_logvar: bool) -> int:
    """Memory that counts take, and `CountedStatistics` of them: a small file may have channels without number."""
    return np.dtype(np.int64).itemsize * CODES * channels * (has_logvar + 4)


class CountedStatistics:
    """What counts of `count_values` say about `mean + exp(logvar / 2) * noise`.

    The noise is never drawn: Var = Var(mean) + E[exp(logvar)].

    Attributes:
        mean: float64 `[C]`; `std` likewise, of the population.
    """

    def __init__(self, counts: np.ndarray):
        self._counts = counts
        number = counts[0].sum(1)
        with np.errstate(over="ignore", invalid="ignore"):
            self.mean = _total(counts[0], _VALUES) / number
            squares = [_total(own, (_VALUES - mean) ** 2) for own, mean in zip(counts[0], self.mean, strict=True)]
            noise = _total(counts[1], np.exp(_VALUES)) if len(counts) > 1 else 0.0
            self.std = np.sqrt((np.array(squares) + noise) / number)

    def quantiles(self, levels: list[float]) -> np.ndarray:
        """Of the stored `mean`, `[C, len(levels)]`: the smallest number that at least that part does not exceed."""
        order = np.argsort(np.where(np.isnan(_VALUES), np.inf, _VALUES), kind="stable")
        up_to = self._counts[0][:, order].cumsum(1)
        places = [np.searchsorted(own, np.ceil(np.array(levels) * own[-1]).clip(1)) for own in up_to]
        return _VALUES[order][np.array(places)]

    def histogram(self, edges: np.ndarray) -> np.ndarray:
        """Numbers of the stored `mean` between edges `[C, bins + 1]`: int64 `[C, bins]`."""
        found = []
        for own, bins in zip(self._counts[0], edges, strict=True):
            seen = own > 0
            found.append(np.histogram(_VALUES[seen], bins, weights=own[seen])[0])
        return np.stack(found).astype(np.int64)


def _total(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sums over the last axis; numbers that do not occur may be infinite or none."""
    return np.where(counts > 0, counts * np.where(counts > 0, values, 0.0), 0.0).sum(-1)
