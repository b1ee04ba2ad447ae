"""The latents file: one plain HDF5 file of encoded clips. Create, fill, resume, finish, read, check."""

import importlib

_EXPORTS = {
    "FORMAT_VERSION": "layout",
    "LatentsReader": "reader",
    "LatentsWriter": "writer",
    "create_latents": "writer",
    "open_latents": "reader",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str):
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
