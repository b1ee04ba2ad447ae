"""What is in a latents file.

Contiguous datasets, one row a clip: `mean` float16 [N, C, G, h, w], `logvar` float16 likewise (absent for deterministic tokenizers),
`label` int32 [N], `name` bytes [N], `crc32` uint32 [N] (of the row's mean and logvar bytes), `done` uint8 [N]; once whole also
`latents_mean` and `latents_std` float64 [C]. Small facts are attributes of the root.
"""

from __future__ import annotations

import zlib

import numpy as np

FORMAT_VERSION = 1
NAME_BYTES = 128
ROW_DATASETS = ("mean", "logvar", "label", "name", "crc32", "done")


def row_types(shape: tuple[int, ...], has_logvar: bool) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """dtype and shape of one row of each dataset."""
    latents = (np.dtype("<f2"), tuple(shape))
    types = {"mean": latents, "label": (np.dtype("<i4"), ()), "name": (np.dtype(f"S{NAME_BYTES}"), ()),
             "crc32": (np.dtype("<u4"), ()), "done": (np.dtype("u1"), ())}
    return types | ({"logvar": latents} if has_logvar else {})


def row_checksum(mean: np.ndarray, logvar: np.ndarray | None) -> int:
    """CRC-32 of a row's float16 bytes."""
    checksum = zlib.crc32(np.ascontiguousarray(mean, dtype="<f2"))
    return checksum if logvar is None else zlib.crc32(np.ascontiguousarray(logvar, dtype="<f2"), checksum)


def plain(value: object) -> object:
    """An HDF5 attribute as a plain Python value."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    return value
