"""The latent video generator: Latte with patch 1, trained with rectified flow. Sees latents only."""

import importlib

_EXPORTS = {
    "Latte": "latte",
    "LatteConfig": "latte",
    "LoadedGenerator": "loading",
    "flow_loss": "rectified_flow",
    "integrate": "rectified_flow",
    "load_generator": "loading",
}
_MODULES = ("presets",)
__all__ = list(_EXPORTS)


def __getattr__(name: str):
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
