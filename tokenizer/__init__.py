"""The PV-VAE tokenizer: model, predictive training, encoding into a latents cache, and loading by name."""

import importlib

_EXPORTS = {
    "PVVAE": "pvvae",
    "PVVAEConfig": "config",
    "Posterior": "spec",
    "TokenizerSpec": "spec",
    "VideoTokenizer": "spec",
    "load": "zoo",
    "TOKENIZER_NAMES": "zoo",
}
_MODULES = ("presets",)
__all__ = list(_EXPORTS)


def __getattr__(name: str):
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
