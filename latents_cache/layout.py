"""What is in a latents file.

Contiguous datasets, one row a clip: `mean` float16 [N, C, G, h, w], `logvar` float16 likewise (absent for
deterministic tokenizers), `label` int32 [N], `name` bytes [N], `crc32` uint32 [N], `done` uint8 [N]; and
`latents_mean`, `latents_std` float64 [C], NaN until every row is done. Small facts are attributes of the root.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from runtime.errors import InputError
from runtime.records import check_fields, parse_json

FORMAT_VERSION = 1
NAME_BYTES = 128
MAX_COMPRESSION = 1100  # deflate, the usual filter, reaches 1032
LATENTS = np.dtype("<f2")
STATISTICS = ("latents_mean", "latents_std")
# Types of the attributes that readers rely on, where they are there; three of them are JSON texts.
_ATTRIBUTES = {
    **dict.fromkeys(("kind", "tokenizer", "tokenizer_name", "weights", "encoder_hash", "decoder_hash"), str),
    **dict.fromkeys(("data", "root", "split", "clip", "spec", "class_names", "data_fingerprint"), str),
    **dict.fromkeys(("num_classes", "windows", "flip", "seed"), int),
}
_TEXTS = {"clip": dict, "spec": dict, "class_names": list[str]}


def check_attributes(attributes: Mapping[str, object], source: object) -> None:
    """Check the facts of a latents file, or of a checkpoint that repeats them; InputError names the first bad one."""
    check_fields(attributes, _ATTRIBUTES, source, needed=False)
    texts = {name: parse_json(attributes[name], f"{source}: {name}") for name in _TEXTS if name in attributes}
    check_fields(texts, _TEXTS, source, needed=False)
    for name, low in (("num_classes", 0), ("windows", 1), ("flip", 0)):
        if attributes.get(name, low) < low:
            raise InputError(f"{source}: {name} is {attributes[name]}, the least is {low}")


def check_datasets(file: h5py.File, path: Path) -> int:
    """Check dtypes and shapes of the datasets, and that this file holds them; returns the number of rows.

    Raises:
        InputError: Also for sizes that a file of this length cannot hold, so that nothing is allocated for them.
    """
    mean = file["mean"]
    rows, shape = len(mean), tuple(mean.shape[1:])
    if len(shape) != 4 or min(mean.shape) < 1:
        raise InputError(f"{path}: mean is {list(mean.shape)}, expected [N, C, G, h, w] with N of at least 1")
    length = path.stat().st_size
    kinds = {"mean": "f", "logvar": "f", "label": "i", "name": "S", "crc32": "u", "done": "u"} | dict.fromkeys(
        STATISTICS, "f"
    )
    for name, kind in kinds.items():
        if name not in file:
            continue
        dataset, wanted = file[name], (rows,)
        if name in STATISTICS:
            wanted = shape[:1]
        elif kind == "f":
            wanted = mean.shape
        if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind != kind or dataset.shape != wanted:
            raise InputError(f"{path}: {name} is {dataset}, expected {list(wanted)} of numpy kind {kind!r}")
        if dataset.nbytes > MAX_COMPRESSION * length:
            raise InputError(f"{path}: {name} promises {dataset.nbytes} bytes, the file has {length}; write it again")
    return rows


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
