"""Optical flow and point tracks: the numbers behind the paper's probes."""

from __future__ import annotations

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


# TAP-Vid's thresholds, in pixels of a 256 x 256 picture.
THRESHOLDS = (1.0, 2.0, 4.0, 8.0, 16.0)


def tracking_scores(errors_px: np.ndarray) -> np.ndarray:
    """What every point adds to the area: clip(1 - e / 10, 0, 1), like the errors."""
    return np.clip(1.0 - errors_px / 10.0, 0.0, 1.0)


def accuracy_within(errors_px: np.ndarray) -> np.ndarray:
    """Share of `THRESHOLDS` that each error is below, like the errors."""
    return np.mean([errors_px < threshold for threshold in THRESHOLDS], axis=0)


def tracking_auc(errors_px: object, visible: object) -> float:
    """Area under the accuracy-threshold curve from 0 to 10 pixels, in [0, 100]: 100 * mean of clip(1 - e / 10, 0, 1).

    Args:
        errors_px: Distances in pixels, any shape.
        visible: Bool, same shape; only visible points count.
    """
    return float(100.0 * tracking_scores(_visible_errors(errors_px, visible)).mean())


def delta_avg(errors_px: object, visible: object) -> float:
    """Mean share of points nearer than 1, 2, 4, 8 and 16 pixels, in [0, 100] (TAP-Vid, arXiv 2211.03726, which measures
    on 256 x 256 pictures, and averages over videos).

    Args:
        errors_px, visible: As in `tracking_auc`.
    """
    return float(100.0 * accuracy_within(_visible_errors(errors_px, visible)).mean())


def _visible_errors(errors_px: object, visible: object) -> np.ndarray:
    errors, visible = as_array(errors_px).astype(np.float64), as_array(visible).astype(bool)
    if errors.shape != visible.shape:
        raise InputError(
            f"errors and visible must have the same shape, got {list(errors.shape)} and {list(visible.shape)}"
        )
    if not visible.any():
        raise InputError("no visible point to measure tracking on")
    if not np.isfinite(errors[visible]).all() or (errors[visible] < 0).any():
        raise InputError("tracking errors must be finite and not negative")
    return errors[visible]
