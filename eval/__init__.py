"""Is this tokenizer a good space to generate in? Set metrics, reconstruction, prediction, convergence, and the report
page."""

import importlib

_EXPORTS = {
    "Estimate": "eval.metrics.intervals",
    "I3D": "eval.features.i3d",
    "compare_at_infinity": "eval.metrics.extrapolation",
    "compare_paired": "eval.metrics.intervals",
    "endpoint_error": "eval.metrics.motion",
    "estimate": "eval.metrics.intervals",
    "frechet_at_infinity": "eval.metrics.extrapolation",
    "frechet_distance": "eval.metrics.frechet",
    "inception_score": "eval.metrics.inception",
    "kernel_distance": "eval.metrics.kernel",
    "latent_temporal_distance": "eval.metrics.motion",
    "lpips": "videos.quality",
    "psnr": "videos.quality",
    "ssim": "videos.quality",
    "tracking_auc": "eval.metrics.motion",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str):
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
