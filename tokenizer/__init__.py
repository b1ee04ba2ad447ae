"""The PV-VAE tokenizer: model, predictive training, encoding into a latents cache, and loading by name."""

from runtime import lazily

_EXPORTS = {
    "PVVAE": ".pvvae",
    "PVVAEConfig": ".config",
    "Posterior": ".spec",
    "TokenizerSpec": ".spec",
    "VideoTokenizer": ".spec",
    "load": ".zoo",
    "TOKENIZER_NAMES": ".zoo",
}
_MODULES = ("presets",)
__all__ = list(_EXPORTS)
__getattr__, __dir__ = lazily(__name__, _EXPORTS, _MODULES)
