"""Create a latents file and fill its rows, in any order, surviving a kill at any moment.

The file is laid out whole as `<path>.partial` and closed; from then on HDF5 never opens it for writing again. Rows go to their known
offsets with `pwrite`, are fsynced, and only then marked done, so a kill loses at most the rows since the last flush and can never
leave an unreadable file. When every row is done, the statistics are written and the file gets its final name.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import h5py
import numpy as np

from latents_cache.layout import FORMAT_VERSION, NAME_BYTES, plain, row_checksum, row_types
from latents_cache.statistics import ChannelStatistics
from runtime.errors import InputError

FLUSH_ROWS = 64


def create_latents(path: str | Path, rows: int, shape: tuple[int, ...], attributes: dict, *, has_logvar: bool = True) -> LatentsWriter:
    """Create `<path>.partial`, or go on filling the one that is there.

    Args:
        path: Final name of the file.
        rows: Number of clips, N.
        shape: (C, G, h, w) of one row.
        attributes: Small facts (str, int, float, list); a file to resume must carry the same.
        has_logvar: False for a deterministic tokenizer.

    Raises:
        InputError: If the final file exists, another process fills it, the disk is full, or the partial file holds something else.
    """
    return LatentsWriter(Path(path), int(rows), tuple(int(s) for s in shape), dict(attributes), has_logvar)


class LatentsWriter:
    """Fills one latents file; see `create_latents`. Also a context manager that closes, without finishing."""

    def __init__(self, path: Path, rows: int, shape: tuple[int, ...], attributes: dict, has_logvar: bool):
        if rows < 1 or len(shape) != 4 or min(shape) < 1:
            raise InputError(f"{path}: a latents file needs at least 1 row of shape (C, G, h, w), got {rows} rows of {shape}")
        if path.exists():
            raise InputError(f"{path} exists already; move it away, or write to another name")
        self.path, self.rows, self.shape, self.has_logvar = path, rows, shape, has_logvar
        self.partial = path.with_name(path.name + ".partial")
        self._types = row_types(shape, has_logvar)
        self._attributes = attributes | {"format_version": FORMAT_VERSION}
        self._lock = self._take_lock()
        try:
            if self.partial.exists():
                self._check_resumable()
            else:
                self._lay_out()
            self._open_rows()
        except BaseException:
            self._lock.close()
            raise
        self._unmarked: list[int] = []

    # -- creating -----------------------------------------------------------------------------------------------------

    def _take_lock(self):
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = open(self.path.with_name(f".{self.path.name}.lock"), "w")  # noqa: SIM115 - held as long as the writer lives
        except OSError as error:
            raise InputError(f"cannot write to {self.path.parent}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise InputError(f"{self.partial} is being written by another process; wait for it, or write to another name") from error
        return lock

    def _lay_out(self) -> None:
        """Write the empty file under a name that no reader or writer looks for, then rename it to `.partial`."""
        draft = self.path.with_name(f".{self.path.name}.new")
        try:
            with h5py.File(draft, "w", libver="earliest") as file:
                for name, value in self._attributes.items():
                    file.attrs[name] = value
                for name, (dtype, shape) in self._types.items():
                    self._contiguous(file, name, (self.rows, *shape), dtype)
                for name in ("latents_mean", "latents_std"):
                    self._contiguous(file, name, (self.shape[0],), np.dtype("<f8"))
            descriptor = os.open(draft, os.O_RDWR)
            try:
                # Truly allocated: a full disk is an error now, not a crash in the middle of the work.
                os.posix_fallocate(descriptor, 0, os.fstat(descriptor).st_size)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            draft.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT) or "space" in str(error):
                raise InputError(f"{self.path}: not enough room on the disk for {self.rows} rows of {self.shape}") from error
            raise
        with h5py.File(draft, "r") as file:
            offset, size = file["done"].id.get_offset(), self.rows
        with open(draft, "r+b") as raw:  # the one dataset that must start as zeros
            raw.seek(offset)
            raw.write(bytes(size))
        os.replace(draft, self.partial)

    @staticmethod
    def _contiguous(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_layout(h5py.h5d.CONTIGUOUS)
        properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(dtype, logical=True), h5py.h5s.create_simple(shape), properties)

    def _check_resumable(self) -> None:
        try:
            with h5py.File(self.partial, "r") as file:
                found = {name: plain(value) for name, value in file.attrs.items()}
                shapes = {name: (file[name].dtype, file[name].shape) for name in self._types if name in file}
        except (OSError, KeyError) as error:
            raise InputError(f"{self.partial}: not a latents file to go on with ({error}); remove it to start anew") from error
        wanted = {name: (dtype, (self.rows, *shape)) for name, (dtype, shape) in self._types.items()}
        differing = [name for name in self._attributes if found.get(name) != plain(self._attributes[name])]
        differing += [f"rows or shape of {name}" for name in wanted if shapes.get(name) != wanted[name]]
        if differing:
            raise InputError(f"{self.partial} was begun with other settings ({', '.join(differing)}); "
                             "use those, remove it, or write to another name")

    def _open_rows(self) -> None:
        with h5py.File(self.partial, "r") as file:
            self._offsets = {name: file[name].id.get_offset() for name in [*self._types, "latents_mean", "latents_std"]}
            self.done = file["done"][:].astype(bool)
        self._descriptor = os.open(self.partial, os.O_RDWR)

    # -- filling ------------------------------------------------------------------------------------------------------

    def missing(self) -> list[int]:
        """Rows that are not done yet, in order."""
        return np.flatnonzero(~self.done).tolist()

    def write(self, row: int, mean: np.ndarray, logvar: np.ndarray | None = None, *, label: int = -1, name: str = "") -> None:
        """Write one row: `mean` and `logvar` are (C, G, h, w) floats; the row counts as done after the next flush.

        Raises:
            InputError: If shapes do not fit, or a value is not finite in float16.
        """
        if not 0 <= row < self.rows:
            raise InputError(f"{self.path}: row {row} is outside 0…{self.rows - 1}")
        if (logvar is None) == self.has_logvar:
            raise InputError(f"{self.path}: row {row} must come {'with' if self.has_logvar else 'without'} logvar")
        values = {"mean": self._half(row, "mean", mean)}
        if logvar is not None:
            values["logvar"] = self._half(row, "logvar", logvar)
        encoded = name.encode()
        if len(encoded) > NAME_BYTES:  # keep the end of a path: it tells clips apart
            encoded = encoded[-NAME_BYTES:].decode(errors="ignore").encode()
        values |= {"label": np.array(label, "<i4"), "name": np.array(encoded, f"S{NAME_BYTES}"),
                   "crc32": np.array(row_checksum(values["mean"], values.get("logvar")), "<u4")}
        for dataset, value in values.items():
            self._put(dataset, row, value.tobytes())
        self._unmarked.append(row)
        if len(self._unmarked) >= FLUSH_ROWS:
            self.flush()

    def _half(self, row: int, what: str, value: np.ndarray) -> np.ndarray:
        value = np.asarray(value)
        if value.shape != self.shape:
            raise InputError(f"{self.path}: {what} of row {row} is {value.shape}, expected {self.shape}")
        with np.errstate(over="ignore"):
            half = np.ascontiguousarray(value, dtype="<f2")
        if not np.isfinite(half).all():
            raise InputError(f"{self.path}: {what} of row {row} is not finite in float16 (largest {np.abs(value).max():g})")
        return half

    def _put(self, dataset: str, row: int, data: bytes) -> None:
        offset = self._offsets[dataset] + row * len(data)
        while data:
            written = os.pwrite(self._descriptor, data, offset)
            data, offset = data[written:], offset + written

    def flush(self) -> None:
        """Make the rows written so far durable, then mark them done."""
        os.fsync(self._descriptor)
        for row in self._unmarked:
            self._put("done", row, b"\x01")
            self.done[row] = True
        self._unmarked.clear()

    def finish(self) -> Path:
        """Write the statistics of the sampled latents and give the file its final name; InputError when rows are missing."""
        self.flush()
        missing = self.missing()
        if missing:
            raise InputError(f"{self.partial}: {len(missing)} of {self.rows} rows are missing, the first is {missing[0]}")
        statistics = ChannelStatistics(self.shape[0])
        with h5py.File(self.partial, "r") as file:
            for start in range(0, self.rows, 256):
                stop = min(start + 256, self.rows)
                statistics.add(file["mean"][start:stop], file["logvar"][start:stop] if self.has_logvar else None)
        for name, value in (("latents_mean", statistics.mean), ("latents_std", statistics.std)):
            self._put(name, 0, value.astype("<f8").tobytes())
        os.fsync(self._descriptor)
        self.close()
        os.replace(self.partial, self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self.path.with_name(f".{self.path.name}.lock").unlink(missing_ok=True)
        return self.path

    def close(self) -> None:
        """Give up the file and its lock; what was flushed stays for the next time."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._lock.close()

    def __enter__(self) -> LatentsWriter:
        return self

    def __exit__(self, kind, error, trace) -> None:
        if self._descriptor >= 0:
            self.flush()
            self.close()
