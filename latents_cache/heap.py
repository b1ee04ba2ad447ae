"""Where things lie in an HDF5 file of a stranger.

The global heaps, where a file keeps the texts of attributes, are looked at before HDF5 reads them.

HDF5 walks a heap from object to object; where damage says that one has no length it walks for ever, inside C, where not
even Ctrl-C reaches it. (Layout: HDF5 file format specification, section III.E.)
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

import h5py

from runtime.errors import InputError

_SIGNATURE = b"GCOL\x01\0\0\0"
_HEADER = 16  # of a heap, and of each object in it
MAX_SEARCH = 64 * 2**20  # bytes between two datasets; all that is not their values is some kilobytes


def check_heaps(file: h5py.File, path: Path) -> None:
    """Walk every global heap; InputError when one would not end, or a dataset is not in the file itself."""
    with open(path, "rb") as raw, mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for start, stop in _between_datasets(file, len(content)):
            at = content.find(_SIGNATURE, start, min(stop, start + MAX_SEARCH))
            while at >= 0:
                if not _ends(content, at):
                    raise InputError(f"{path}: damaged (its attributes, at byte {at}); write it again")
                at = content.find(_SIGNATURE, at + _HEADER, min(stop, start + MAX_SEARCH))


def lies_within(dataset: h5py.Dataset, path: Path) -> bool:
    """Whether a dataset is one piece of the file, so that its rows can be written in place."""
    offset = dataset.id.get_offset()
    return offset is not None and not dataset.external and offset + dataset.nbytes <= path.stat().st_size


def _between_datasets(file: h5py.File, length: int) -> list[tuple[int, int]]:
    """Where heaps can be: everywhere but in the values of contiguous datasets."""
    taken = []
    for name in file:
        # HDF5 follows a link when it is asked what lies there, and a pipe at its end would keep it waiting for ever.
        dataset = file.get(name) if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
        is_dataset = isinstance(dataset, h5py.Dataset)
        if dataset is None or (is_dataset and (dataset.external or dataset.is_virtual)):
            raise InputError(f"{file.filename}: {name} lies in another file, or behind a link; copy it into this one")
        offset = dataset.id.get_offset() if is_dataset else None
        if offset is not None:
            taken.append((offset, min(length, offset + dataset.nbytes)))
    gaps, start = [], 0
    for first, after in sorted(taken):
        gaps.append((start, first))
        start = max(start, after)
    return [*gaps, (start, length)]


def _ends(content: mmap.mmap, at: int) -> bool:
    """Whether walking the heap at `at` leads to its end in steps that are not empty."""
    if at + _HEADER > len(content):
        return False
    end = at + int.from_bytes(content[at + 8 : at + 16], "little")
    if end > len(content):
        return False
    place = at + _HEADER
    while end - place >= _HEADER:
        number, _, _, size = struct.unpack_from("<HHIQ", content, place)
        # Object 0 is the room that is left, and counts its own header.
        step = size if number == 0 else _HEADER + -(-size // 8) * 8
        if step < _HEADER:
            return False
        place += step
    return place <= end
