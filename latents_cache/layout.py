"""What is in a latents file.

Contiguous datasets, one row a clip: `mean` float16 [N, C, G, h, w], `logvar` float16 likewise (absent for
deterministic tokenizers), `label` int32 [N], `name` bytes [N], `crc32` uint32 [N], `done` uint8 [N]; and
`latents_mean`, `latents_std` float64 [C], NaN until every row is done. Small facts are attributes of the root.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

FORMAT_VERSION = 1
NAME_BYTES = 128
LATENTS = np.dtype("<f2")
STATISTICS = ("latents_mean", "latents_std")


def row_types(shape: tuple[int, ...], has_logvar: bool) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """dtype and shape of one row of each dataset."""
    types = {
        "mean": (LATENTS, tuple(shape)),
        "label": (np.dtype("<i4"), ()),
        "name": (np.dtype(f"S{NAME_BYTES}"), ()),
        "crc32": (np.dtype("<u4"), ()),
        "done": (np.dtype("u1"), ()),
    }
    return types | ({"logvar": (LATENTS, tuple(shape))} if has_logvar else {})


def row_checksum(mean: np.ndarray, logvar: np.ndarray | None, label: int, name: bytes) -> int:
    """CRC-32 of a row as stored: mean, logvar if there is one, little-endian label, name without padding."""
    checksum = zlib.crc32(np.ascontiguousarray(mean, LATENTS))
    if logvar is not None:
        checksum = zlib.crc32(np.ascontiguousarray(logvar, LATENTS), checksum)
    return zlib.crc32(name.rstrip(b"\0"), zlib.crc32(np.array(label, "<i4").tobytes(), checksum))


def encode_name(name: str) -> bytes:
    """A clip's name in at most `NAME_BYTES` bytes of UTF-8; of a long path the end stays: it tells clips apart."""
    encoded = name.encode()
    if len(encoded) > NAME_BYTES:
        encoded = encoded[-NAME_BYTES:].decode(errors="ignore").encode()
    return encoded


def partial_path(path: Path) -> Path:
    """Where a file lies until it is whole."""
    return path.with_name(path.name + ".partial")


def lock_path(path: Path) -> Path:
    """The file whose lock keeps a second launch out; nothing needs it once `path` is whole."""
    return path.with_name(f".{path.name}.lock")


def plain(value: object) -> object:
    """An HDF5 attribute as a plain Python value."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    return list(value) if isinstance(value, tuple) else value
