"""Optical flow, point tracks, and how latents move: the numbers behind the paper's probes and figure 5."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.metrics.arrays import as_array
from runtime.errors import InputError


def endpoint_error(flow: object, truth: object, valid: object | None = None) -> float:
    """Mean length of the flow's error in pixels, over all pixels pooled (Sintel's convention).

    Args:
        flow: `[..., 2, H, W]`, (u, v) in pixels.
        truth: Like `flow`.
        valid: Bool `[..., H, W]`; only these pixels count.
    """
    flow, truth = as_array(flow).astype(np.float64), as_array(truth).astype(np.float64)
    if flow.shape != truth.shape or flow.ndim < 3 or flow.shape[-3] != 2:
        raise InputError(f"flow and truth must both be [..., 2, H, W], got {list(flow.shape)} and {list(truth.shape)}")
    error = np.sqrt(np.square(flow - truth).sum(-3))
    if valid is not None:
        error = error[as_array(valid).astype(bool)]
    if error.size == 0:
        raise InputError("no valid pixel to compare flow at")
    return float(error.mean())


def tracking_auc(errors_px: object, visible: object) -> float:
    """Area under the accuracy-threshold curve from 0 to 10 pixels, in [0, 100]: 100 * mean of clip(1 - e / 10, 0, 1).

    Args:
        errors_px: Distances in pixels, any shape.
        visible: Bool, same shape; only visible points count.
    """
    errors, visible = as_array(errors_px).astype(np.float64), as_array(visible).astype(bool)
    if errors.shape != visible.shape:
        raise InputError(
            f"errors and visible must have the same shape, got {list(errors.shape)} and {list(visible.shape)}"
        )
    if not visible.any():
        raise InputError("no visible point to measure tracking on")
    if not np.isfinite(errors[visible]).all() or (errors[visible] < 0).any():
        raise InputError("tracking errors must be finite and not negative")
    return float(100.0 * np.clip(1.0 - errors[visible] / 10.0, 0.0, 1.0).mean())


def latent_temporal_distance(latents: object, intervals: Sequence[int]) -> np.ndarray:
    """Mean L2 distance between the latents of groups k apart (PV-VAE, figure 5c and 5d): float64 `[len(intervals)]`.

    Args:
        latents: `[B, C, G, h, w]`.
        intervals: Group distances k, each 1 … G - 1.
    """
    values = as_array(latents).astype(np.float64)
    if values.ndim != 5:
        raise InputError(f"latents must be [B, C, G, h, w], got {list(values.shape)}")
    groups = values.shape[2]
    if not intervals or not all(1 <= k < groups for k in intervals):
        raise InputError(f"intervals must lie in 1…{groups - 1} for {groups} latent groups, got {list(intervals)}")
    rows = np.moveaxis(values, 2, 1).reshape(len(values), groups, -1)
    return np.array([np.linalg.norm(rows[:, k:] - rows[:, :-k], axis=-1).mean() for k in intervals])
