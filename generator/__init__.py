"""The latent video generator: Latte with patch 1, trained with rectified flow. Sees latents only."""

from runtime import lazily

_EXPORTS = {
    "Latte": ".latte",
    "LatteConfig": ".config",
    "LoadedGenerator": ".loading",
    "flow_loss": ".rectified_flow",
    "integrate": ".rectified_flow",
    "load_generator": ".loading",
}
_MODULES = ("presets",)
__all__ = list(_EXPORTS)
__getattr__, __dir__ = lazily(__name__, _EXPORTS, _MODULES)
