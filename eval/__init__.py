"""Is this tokenizer a good space to generate in? Set metrics, reconstruction, prediction, convergence, and the report
page."""

from runtime import lazily

_EXPORTS = {
    "Estimate": "eval.metrics.intervals",
    "I3D": "eval.features.i3d",
    "channel_eigenspectrum": "eval.analysis.spectra",
    "compare_at_infinity": "eval.metrics.extrapolation",
    "compare_paired": "eval.metrics.intervals",
    "delta_avg": "eval.metrics.motion",
    "endpoint_error": "eval.metrics.motion",
    "estimate": "eval.metrics.intervals",
    "frechet_at_infinity": "eval.metrics.extrapolation",
    "frechet_distance": "eval.metrics.frechet",
    "high_frequency_energy": "eval.analysis.spectra",
    "inception_score": "eval.metrics.inception",
    "kernel_distance": "eval.metrics.kernel",
    "latent_temporal_distance": "eval.analysis.temporal_distance",
    "lpips": "videos.quality",
    "principal_directions": "eval.analysis.spectra",
    "psnr": "videos.quality",
    "spatial_spectrum": "eval.analysis.spectra",
    "ssim": "videos.quality",
    "temporal_spectrum": "eval.analysis.spectra",
    "tracking_auc": "eval.metrics.motion",
    "velocity_irreducible_variance": "eval.analysis.irreducible_variance",
}
__all__ = list(_EXPORTS)
__getattr__, __dir__ = lazily(__name__, _EXPORTS)
