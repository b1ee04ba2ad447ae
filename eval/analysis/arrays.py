"""Checked latents, block by block in float64."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eval.metrics.arrays import as_array
from runtime.errors import InputError

# Elements of latents that are looked at together: 32 MiB in float64.
BLOCK_ELEMENTS = 2**22


def as_latents(latents: object) -> np.ndarray:
    """`[N, C, G, h, w]` of any dtype, from NumPy or torch; it is not copied.

    Raises:
        InputError: On another shape, or an axis without elements.
    """
    values = as_array(latents)
    if values.ndim != 5 or 0 in values.shape:
        raise InputError(f"latents must be [N, C, G, h, w], got {list(values.shape)}")
    return values


def blocks_of_clips(values: np.ndarray) -> Iterator[np.ndarray]:
    """Latents of a few clips at a time, in order, float64, so that memory does not grow with their number.

    Raises:
        InputError: When some are not finite.
    """
    count = max(1, BLOCK_ELEMENTS // values[0].size)
    for start in range(0, len(values), count):
        block = np.asarray(values[start : start + count], np.float64)
        if not np.isfinite(block).all():
            raise InputError("some latents are not finite")
        yield block
