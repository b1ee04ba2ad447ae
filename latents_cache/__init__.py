"""The latents file: one plain HDF5 file of encoded clips. Create, fill, resume, finish, read, check."""

from runtime import lazily

_EXPORTS = {
    "FORMAT_VERSION": ".layout",
    "LatentsReader": ".reader",
    "LatentsWriter": ".writer",
    "create_latents": ".writer",
    "open_latents": ".reader",
}
__all__ = list(_EXPORTS)
__getattr__, __dir__ = lazily(__name__, _EXPORTS)
