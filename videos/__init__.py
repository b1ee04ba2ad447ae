"""Data sets, codecs, and how two videos differ. Files in, clips out; knows nothing of the models."""

from runtime import lazily

_EXPORTS = {
    "BatchLoader": ".batches",
    "Bucket": ".batches",
    "ClipSpec": ".clip",
    "DATASETS": ".datasets",
    "lpips": ".quality",
    "open_dataset": ".datasets",
    "psnr": ".quality",
    "read_video": ".codec",
    "ssim": ".quality",
    "to_float": ".batches",
    "to_uint8": ".batches",
    "write_video": ".codec",
}
__all__ = list(_EXPORTS)
__getattr__, __dir__ = lazily(__name__, _EXPORTS)
