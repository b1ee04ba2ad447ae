"""Per-channel mean and standard deviation of sampled latents, in float64."""

from __future__ import annotations

import numpy as np


class ChannelStatistics:
    """Streaming moments of `mean + exp(logvar / 2) * noise` over all rows and places.

    The noise is never drawn: Var = Var(mean) + E[exp(logvar)].
    """

    def __init__(self, channels: int):
        self._count = 0
        self._centre = np.zeros(channels)
        self._squares = np.zeros(channels)
        self._noise = np.zeros(channels)

    def add(self, mean: np.ndarray, logvar: np.ndarray | None = None) -> None:
        """Add rows `[n, C, G, h, w]` (Chan's parallel update, which does not cancel as sums of squares do)."""
        values = _by_channel(mean)
        count = values.shape[1]
        centre = values.mean(1)
        squares = ((values - centre[:, None]) ** 2).sum(1)
        total = self._count + count
        shift = centre - self._centre
        self._squares += squares + shift**2 * self._count * count / total
        self._centre += shift * count / total
        self._count = total
        if logvar is not None:
            with np.errstate(over="ignore"):  # infinite then, which the caller refuses
                self._noise += np.exp(_by_channel(logvar)).sum(1)

    @property
    def mean(self) -> np.ndarray:
        """float64 `[C]`."""
        return self._centre.copy()

    @property
    def std(self) -> np.ndarray:
        """float64 `[C]`, population."""
        return np.sqrt((self._squares + self._noise) / self._count)


def _by_channel(values: np.ndarray) -> np.ndarray:
    """float64 `[C, everything else]`."""
    return np.moveaxis(values, 1, 0).reshape(values.shape[1], -1).astype(np.float64)
