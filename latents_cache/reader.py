"""Read a latents file."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np

from latents_cache.heap import check_heaps
from latents_cache.layout import (
    FORMAT_VERSION,
    LATENTS,
    STATISTICS,
    check_attributes,
    check_datasets,
    row_checksum,
)
from latents_cache.row_file import DAMAGE, partial_path, plain
from runtime.errors import InputError

AHEAD = 64  # rows that the system is asked for while those before are read


def open_latents(path: str | Path) -> LatentsReader:
    """Open a whole latents file for reading.

    Raises:
        InputError: If the file is absent, still partial, truncated, from a newer version, or no latents file.
    """
    return LatentsReader(Path(path))


class LatentsReader:
    """Rows of a latents file. Also a context manager.

    A contiguous file is memory-mapped, so that readers in threads and forked processes are safe and share the page
    cache; a chunked or compressed one (rewritten by other programs) is read through h5py, slower.

    Attributes:
        path: The file.
        shape: (C, G, h, w) of a row.
        mean: float64 `[C]`, per-channel mean of the sampled latents; `std` likewise.
        has_logvar: Whether rows carry a log-variance.
        attributes: Small facts, plain Python values.
        labels: int32 `[N]`, -1 where a clip has no class.
        names: N clip names.
    """

    def __init__(self, path: Path):
        self.path = path
        partial = partial_path(path)
        if path.suffix == ".partial":
            raise InputError(f"{path} is not complete; run the command that was writing it again")
        if not path.is_file():
            if partial.is_file():
                raise InputError(f"{path} is not complete: only {partial.name} is there; run its command again")
            raise InputError(f"{path}: no such latents file; python -m tokenizer.encode writes one")
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise InputError(f"{path}: not a whole HDF5 file ({error}); write it again") from error
        try:
            self._read_header()
        except InputError:
            self._file.close()
            raise
        except DAMAGE as error:
            self._file.close()
            raise InputError(f"{path}: damaged ({error}); write it again") from error

    def _read_header(self) -> None:
        file, path = self._file, self.path
        check_heaps(file, path)
        absent = [name for name in ("mean", "label", *STATISTICS) if not isinstance(file.get(name), h5py.Dataset)]
        if absent:
            raise InputError(f"{path}: not a latents file (no dataset {', '.join(absent)})")
        self.attributes = {name: plain(value) for name, value in file.attrs.items()}
        version = self.attributes.get("format_version")
        if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
            raise InputError(f"{path}: format version {version!r}, this program reads up to {FORMAT_VERSION}; update")
        check_attributes(self.attributes, path)
        self.shape = tuple(file["mean"].shape[1:])
        self.has_logvar = "logvar" in file
        rows = check_datasets(file, path)
        self.mean, self.std = (file[name][:].astype(np.float64) for name in STATISTICS)
        unfinished = int((file["done"][:] == 0).sum()) if "done" in file else 0
        if unfinished or not (np.isfinite(self.mean).all() and np.isfinite(self.std).all()):
            raise InputError(f"{path}: never finished ({unfinished} rows are missing); write it again")
        if self.std.min() < 0:
            raise InputError(f"{path}: a standard deviation is negative; write it again")
        self.labels = file["label"][:]
        self._names = file["name"][:] if "name" in file else np.zeros(rows, "S1")
        self._rows = {name: self._map(file[name]) for name in (("mean", "logvar") if self.has_logvar else ("mean",))}
        if all(isinstance(values, np.memmap) for values in self._rows.values()):
            file.close()  # an open HDF5 handle does not survive a fork

    def _map(self, dataset: h5py.Dataset) -> np.memmap | h5py.Dataset:
        offset = dataset.id.get_offset()
        if offset is None or dataset.dtype != LATENTS:
            return dataset
        size, wanted = self.path.stat().st_size, offset + dataset.nbytes
        if wanted > size:
            raise InputError(f"{self.path}: truncated ({size} bytes, {wanted} expected); write it again")
        return np.memmap(self.path, LATENTS, "r", offset, dataset.shape)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def names(self) -> list[str]:
        """Clip names, in row order."""
        return [name.decode(errors="replace") for name in self._names]

    def batch(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray | None]:
        """Rows in the order asked, each as often as asked.

        Returns:
            "mean": float16 `[n, C, G, h, w]`, raw latents; "logvar": likewise, or None; "label": int32 `[n]`.

        Raises:
            InputError: If `indices` are no list of rows, or some are not in the file.
        """
        indices = np.asarray(indices)
        if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
            found = f"{indices.dtype} {list(indices.shape)}"
            raise InputError(
                f"{self.path}: rows are a list of whole numbers, got {found}; np.flatnonzero finds a mask's"
            )
        indices = indices.astype(np.int64)
        if indices.size and (indices.min() < 0 or indices.max() >= len(self)):
            asked = f"{indices.min()}…{indices.max()}"
            raise InputError(f"{self.path}: rows {asked} were asked for, it has 0…{len(self) - 1}")
        try:
            values = {name: _gather(source, indices) for name, source in self._rows.items()}
        except OSError as error:  # a compressed file is decoded only here
            raise InputError(f"{self.path}: damaged rows ({error}); write it again") from error
        return {"mean": values["mean"], "logvar": values.get("logvar"), "label": self.labels[indices]}

    def prefetch(self, indices: Sequence[int] | np.ndarray) -> None:
        """Ask the system to read rows that will be wanted soon, all at once, and do not wait for it.

        Touching a mapped row reads it page by page, one after the other: slow where the disk is far away.
        """
        rows = np.unique(np.asarray(indices, dtype=np.int64))
        runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1) if len(rows) else []
        for source in self._rows.values():
            if isinstance(source, np.memmap):
                size = source[0].nbytes
                for run in runs:
                    _will_need(source, int(run[0]) * size, (int(run[-1]) + 1) * size)

    def sources(self) -> tuple[np.memmap | h5py.Dataset, np.memmap | h5py.Dataset | None]:
        """`mean` and `logvar` (or None) of all rows, to be sliced."""
        return self._rows["mean"], self._rows.get("logvar")

    def damaged_rows(self, seen: Callable[[int], None] | None = None) -> list[int]:
        """Rows whose bytes do not match their checksum (reads everything); InputError if the file has no checksums.

        Args:
            seen: Called after each row with the number of rows read so far.
        """
        with h5py.File(self.path, "r") as file:
            if "crc32" not in file:
                raise InputError(f"{self.path}: it has no checksums")
            stored = file["crc32"][:]
        damaged = []
        for row in range(len(self)):
            if row % AHEAD == 0:
                self.prefetch(range(row, min(row + 2 * AHEAD, len(self))))
            values = self.batch([row])
            logvar = None if values["logvar"] is None else values["logvar"][0]
            if stored[row] != row_checksum(values["mean"][0], logvar, self.labels[row], self._names[row]):
                damaged.append(row)
            if seen is not None:
                seen(row + 1)
        return damaged

    def close(self) -> None:
        """Close the file."""
        self._rows.clear()
        self._file.close()

    def __reduce__(self):
        # Another process opens the file for itself instead of receiving its contents.
        return type(self), (self.path,)

    def __enter__(self) -> LatentsReader:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()


def _will_need(source: np.memmap, start: int, stop: int) -> None:
    """Let the system read bytes of a mapped array, counted from its beginning."""
    begin = source.offset % mmap.ALLOCATIONGRANULARITY + start
    page = begin - begin % mmap.PAGESIZE
    source._mmap.madvise(mmap.MADV_WILLNEED, page, begin - page + stop - start)


def _gather(source: np.memmap | h5py.Dataset, indices: np.ndarray) -> np.ndarray:
    """Rows of one dataset, as an array of its own."""
    if isinstance(source, np.memmap):
        return np.asarray(source)[indices]
    unique, back = np.unique(indices, return_inverse=True)  # h5py wants increasing indices
    with np.errstate(over="ignore"):
        return source[unique].astype(LATENTS)[back]
