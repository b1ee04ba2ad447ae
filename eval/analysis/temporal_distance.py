"""How far latents move from group to group (PV-VAE, figures 5c and 5d)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.analysis.arrays import as_latents, blocks_of_clips
from runtime.errors import InputError


def latent_temporal_distance(latents: object, intervals: Sequence[int]) -> np.ndarray:
    """Mean L2 distance between the latents of groups k apart (PV-VAE, figure 5c and 5d): float64 `[len(intervals)]`.

    Args:
        latents: `[N, C, G, h, w]`.
        intervals: Group distances k, each 1 … G - 1.

    Raises:
        InputError: On another shape, or intervals that the latents do not have.
    """
    values = as_latents(latents)
    check_intervals(intervals, values.shape[2])
    blocks = (squared_distances(block, intervals) for block in blocks_of_clips(values))
    found = [np.concatenate(parts) for parts in zip(*blocks, strict=True)]
    return np.array([np.sqrt(squares.sum(2)).mean() for squares in found])


def squared_distances(block: np.ndarray, intervals: Sequence[int]) -> list[np.ndarray]:
    """For each interval k float64 `[N, G - k, C]`: squared distances of groups k apart, channel by channel, whose sum
    over channels is the square of the L2 distance."""
    moved = (block[:, :, k:] - block[:, :, :-k] for k in intervals)
    return [np.einsum("ncghw,ncghw->ngc", difference, difference) for difference in moved]


def check_intervals(intervals: Sequence[int], groups: int) -> None:
    """InputError unless there are intervals, and all lie in 1 … groups - 1."""
    if not len(intervals) or not all(1 <= k < groups for k in intervals):
        raise InputError(f"intervals must lie in 1…{groups - 1} for {groups} latent groups, got {list(intervals)}")
