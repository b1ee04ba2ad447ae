"""Data sets, codecs, and how two videos differ. Files in, clips out; knows nothing of the models."""

import importlib

_EXPORTS = {
    "BatchLoader": "batches",
    "Bucket": "batches",
    "ClipSpec": "clip",
    "DATASETS": "datasets",
    "lpips": "quality",
    "open_dataset": "datasets",
    "psnr": "quality",
    "read_video": "codec",
    "ssim": "quality",
    "to_float": "batches",
    "to_uint8": "batches",
    "write_video": "codec",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str):
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
