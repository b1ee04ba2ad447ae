"""Create a latents file and fill its rows, in any order, surviving a kill at any moment.

The file is laid out whole as `<path>.partial` and closed; from then on HDF5 never opens it for writing again. Rows go
to their known offsets with `pwrite`, are fsynced, and only then marked done, so a kill loses at most the rows since the
last flush and can never leave an unreadable file. When every row is done, the statistics are written and the file gets
its name.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from latents_cache.heap import check_heaps, lies_within
from latents_cache.layout import (
    DAMAGE,
    FORMAT_VERSION,
    LATENTS,
    STATISTICS,
    encode_name,
    lock_path,
    partial_path,
    plain,
    row_checksum,
    row_types,
)
from latents_cache.moments import latents_statistics
from runtime.errors import InputError
from runtime.faults import reach
from runtime.files import disk_errors, sync

FLUSH_ROWS = 64
DONE, LEFT_OUT = b"\1", b"\2"  # what `done` holds of a row; 0 until then


def create_latents(
    path: str | Path,
    rows: int,
    shape: tuple[int, ...],
    attributes: dict,
    *,
    has_logvar: bool | None = None,
    launch: str | None = None,
) -> LatentsWriter:
    """Create `<path>.partial`, or go on filling the one that is there.

    Args:
        path: Final name of the file; its folder is made.
        rows: Number of clips, N.
        shape: (C, G, h, w) of one row.
        attributes: Small facts (str, int, float, list); a file to resume must carry the same.
        has_logvar: False for a deterministic tokenizer. Without it the first row decides, and lays the file out.
        launch: Processes that give the same text fill the file together: one creates it, then the others join, and when
            all have flushed, one finishes. Without it the file has one writer.

    Raises:
        InputError: If the final file exists, another launch fills it, the disk is full, or the partial file holds
            something else.
    """
    shape = tuple(int(size) for size in shape)
    if rows < 1 or len(shape) != 4 or min(shape) < 1:
        raise InputError(f"{path}: a latents file needs 1 row of (C, G, h, w) or more, got {rows} rows of {shape}")
    return LatentsWriter(Path(path), int(rows), shape, dict(attributes), has_logvar, launch)


class LatentsWriter:
    """Fills one latents file; see `create_latents`. Also a context manager that flushes and closes, without finishing.

    Attributes:
        path, partial: The file's final name, and its name until then.
        rows: N.
        shape: (C, G, h, w) of a row.
    """

    def __init__(
        self,
        path: Path,
        rows: int,
        shape: tuple[int, ...],
        attributes: dict,
        has_logvar: bool | None,
        launch: str | None,
    ):
        self.path, self.partial, self.rows, self.shape = path, partial_path(path), rows, shape
        self._attributes = {name: plain(value) for name, value in attributes.items()}
        self._attributes["format_version"] = FORMAT_VERSION
        self._has_logvar = has_logvar
        self._descriptor = -1
        self._unmarked: list[int] = []
        self._lock_path = lock_path(path)
        self._refuse_existing()
        self._lock = self._take_lock(launch)
        try:
            self._refuse_existing()  # another process may have finished it meanwhile
            if self.partial.exists():
                self._check_resumable()
            elif has_logvar is not None:
                self._lay_out()
            if self.partial.exists():
                self._open_rows()
        except BaseException:
            self._release_lock()
            raise

    # -- creating ------------------------------------------------------------------------------------------------------

    def _refuse_existing(self) -> None:
        if self.path.exists():
            raise InputError(f"{self.path} exists already; move it away, or write to another name")

    def _take_lock(self, launch: str | None):
        """Hold the lock file, exclusively or together with the processes of one launch."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = open(self._lock_path, "a+")  # noqa: SIM115 - held as long as the writer lives
        except OSError as error:
            raise InputError(f"cannot write to {self.path.parent}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not (self._lock_path.exists() and os.path.samestat(os.fstat(lock.fileno()), self._lock_path.stat())):
                lock.close()  # its last holder took it away between our opening and locking it
                return self._take_lock(launch)
            lock.truncate(0)
            if launch is not None:
                lock.write(launch)
                lock.flush()
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return lock
        except OSError:
            lock.seek(0)
            if launch is not None and lock.read() == launch:
                fcntl.flock(lock, fcntl.LOCK_SH)
                return lock
        lock.close()
        raise InputError(f"{self.partial} is being written by another process; wait for it, or write to another name")

    def _release_lock(self) -> None:
        """Give up the lock; the last process of a launch takes its file away."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._lock_path.unlink(missing_ok=True)
        except OSError:
            pass  # others of the launch still hold it
        self._lock.close()

    def _lay_out(self, fill: Callable[[int], None] | None = None) -> None:
        """Write the empty file under a name that no reader or writer looks for, then rename it to `.partial`.

        Args:
            fill: Writes rows into the draft, of which it gets the descriptor.
        """
        draft = self.path.with_name(f".{self.path.name}.new")
        try:
            with disk_errors(self.path), h5py.File(draft, "w", libver="earliest") as file:
                for name, value in self._attributes.items():
                    file.attrs[name] = value
                for name, (dtype, shape) in row_types(self.shape, self._has_logvar).items():
                    _contiguous(file, name, (self.rows, *shape), dtype)
                offsets = [_contiguous(file, name, self.shape[:1], np.dtype("<f8")) for name in STATISTICS]
                done_at = file["done"].id.get_offset()
            descriptor = os.open(draft, os.O_RDWR)
            try:
                # Truly allocated: a full disk is an error now, not a crash in the middle of the work.
                os.posix_fallocate(descriptor, 0, os.fstat(descriptor).st_size)
                _write_all(descriptor, bytes(self.rows), done_at)
                for offset in offsets:
                    _write_all(descriptor, np.full(self.shape[0], np.nan, "<f8").tobytes(), offset)
                os.fsync(descriptor)
                if fill is not None:
                    fill(descriptor)
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            reach("latents.draft")
            os.replace(draft, self.partial)
            sync(self.path.parent)
            reach("latents.created")
        except OSError as error:
            draft.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise InputError(f"{self.path}: the disk has no room for {self.rows} rows of {self.shape}") from error
            raise InputError(f"{self.path}: cannot be created ({error})") from error

    def _check_resumable(self) -> None:
        """Refuse a partial file that was begun with other settings."""
        try:
            with h5py.File(self.partial, "r") as file:
                check_heaps(file, self.partial)
                found = {name: plain(value) for name, value in file.attrs.items()}
                present = {name: (file[name].dtype, file[name].shape) for name in file}
                scattered = [name for name in present if not lies_within(file[name], self.partial)]
        except InputError:
            raise
        except DAMAGE as error:
            raise InputError(f"{self.partial} is no latents file to go on with ({error}); remove it") from error
        if self._has_logvar is None:
            self._has_logvar = "logvar" in present
        if isinstance(found.get("left_out"), int):  # a kill came after the gaps had been closed
            self._attributes["left_out"] = found["left_out"]
            self.rows -= found["left_out"]
        types = row_types(self.shape, self._has_logvar)
        wanted = {name: (dtype, (self.rows, *shape)) for name, (dtype, shape) in types.items()}
        wanted |= dict.fromkeys(STATISTICS, (np.dtype("<f8"), self.shape[:1]))
        differing = [
            f"{name}: was {str(found.get(name))[:60]!r}, now {str(self._attributes.get(name))[:60]!r}"
            for name in sorted(found.keys() | self._attributes.keys())
            if found.get(name) != self._attributes.get(name)
        ]
        differing += [
            f"{name}: was {list(present.get(name, (0, ()))[1])}, now {list(shape)}"
            for name, (dtype, shape) in wanted.items()
            if present.get(name) != (dtype, shape)
        ]
        if self._has_logvar != ("logvar" in present):
            differing.append(f"logvar: was {'logvar' in present}, now {self._has_logvar}")
        if scattered:
            raise InputError(f"{self.partial} does not hold its {', '.join(scattered)} in one piece; remove it")
        if differing:
            raise InputError(
                f"{self.partial} was begun with other settings ({'; '.join(differing)}); "
                "use those, remove it, or write to another name"
            )

    def _offsets_in(self, path: Path) -> dict[str, int]:
        with h5py.File(path, "r") as file:
            names = [*row_types(self.shape, self._has_logvar), *STATISTICS]
            return {name: file[name].id.get_offset() for name in names}

    def _open_rows(self) -> None:
        self._offsets = self._offsets_in(self.partial)
        self._descriptor = os.open(self.partial, os.O_RDWR)

    # -- filling -------------------------------------------------------------------------------------------------------

    def missing(self) -> list[int]:
        """Rows that are not done yet, by any process, in order."""
        return np.flatnonzero(self._done() == 0).tolist()

    def _done(self) -> np.ndarray:
        if self._descriptor < 0:
            return np.zeros(self.rows, np.uint8)
        return np.frombuffer(os.pread(self._descriptor, self.rows, self._offsets["done"]), np.uint8)

    def write(
        self, row: int, mean: np.ndarray, logvar: np.ndarray | None = None, *, label: int = -1, name: str = ""
    ) -> None:
        """Write one row; it counts as done after the next flush.

        Args:
            row: 0 … N - 1, not done yet.
            mean: Raw latents (C, G, h, w), any float type; stored as float16.
            logvar: Likewise, in every row or in none.
            label: Class, or -1.
            name: Of the clip.

        Raises:
            InputError: If shapes do not fit, the row is done, or a value is not finite in float16.
        """
        if not 0 <= row < self.rows:
            raise InputError(f"{self.path}: row {row} is outside 0…{self.rows - 1}")
        if self._has_logvar is None:
            self._has_logvar = logvar is not None
        if (logvar is not None) != self._has_logvar:
            raise InputError(f"{self.path}: row {row} must come {'with' if self._has_logvar else 'without'} logvar")
        values = {"mean": self._half(row, "mean", mean)}
        if logvar is not None:
            values["logvar"] = self._half(row, "logvar", logvar)
        if self._descriptor < 0:
            self._lay_out()
            self._open_rows()
        # A row that is done stays as it is: a kill while it is replaced would leave a torn one that counts as done.
        if os.pread(self._descriptor, 1, self._offsets["done"] + row) != b"\0":
            raise InputError(f"{self.path}: row {row} is done already; write only the rows that missing() lists")
        encoded = encode_name(name)
        types = row_types(self.shape, self._has_logvar)
        values["label"] = np.array(label, types["label"][0])
        values["name"] = np.array(encoded, types["name"][0])
        checksum = row_checksum(values["mean"], values.get("logvar"), label, encoded)
        values["crc32"] = np.array(checksum, types["crc32"][0])
        for dataset, value in values.items():
            _write_all(self._descriptor, value.tobytes(), self._offsets[dataset] + row * value.nbytes)
        reach("latents.row")
        self._unmarked.append(row)
        if len(self._unmarked) >= FLUSH_ROWS:
            self.flush()

    def leave_out(self, row: int) -> None:
        """Give up a row that can never be written: it is missing no more, and the finished file is shorter by it."""
        if not 0 <= row < self.rows or row not in self.missing():
            raise InputError(f"{self.path}: row {row} is none of those that missing() lists")
        if self._descriptor < 0:
            raise InputError(f"{self.path}: the first row decides whether there is a logvar; it cannot be left out")
        _write_all(self._descriptor, LEFT_OUT, self._offsets["done"] + row)

    def _close_gaps(self) -> None:
        """Lay the file out anew without the rows that were left out, which the attribute `left_out` counts."""
        kept = np.flatnonzero(self._done() == DONE[0])
        if len(kept) == self.rows:
            return
        if not len(kept):
            raise InputError(f"{self.partial}: every row was left out")
        source, places, types = self._descriptor, self._offsets, row_types(self.shape, self._has_logvar)
        self._attributes["left_out"], self.rows = self.rows - len(kept), len(kept)
        sizes = {name: dtype.itemsize * math.prod(shape) for name, (dtype, shape) in types.items()}

        def fill(descriptor: int) -> None:
            offsets = self._offsets_in(self.path.with_name(f".{self.path.name}.new"))
            for name, size in sizes.items():
                for place, row in enumerate(kept):
                    data = os.pread(source, size, places[name] + int(row) * size)
                    _write_all(descriptor, data, offsets[name] + place * size)

        try:
            self._lay_out(fill)
        finally:
            os.close(source)
            self._descriptor = -1
        self._open_rows()

    def _half(self, row: int, what: str, value: np.ndarray) -> np.ndarray:
        value = np.asarray(value)
        if value.shape != self.shape:
            raise InputError(f"{self.path}: {what} of row {row} is {value.shape}, expected {self.shape}")
        with np.errstate(over="ignore"):
            half = np.ascontiguousarray(value, LATENTS)
        if not np.isfinite(half).all():
            largest = np.abs(value).max()
            raise InputError(
                f"{self.path}: {what} of row {row} does not fit float16 (largest magnitude {largest:g}, limit 65504); "
                "check the tokenizer's weights"
            )
        return half

    def flush(self) -> None:
        """Make the rows written so far durable, then mark them done."""
        if not self._unmarked:
            return
        os.fsync(self._descriptor)
        reach("latents.synced")
        for row in self._unmarked:
            _write_all(self._descriptor, DONE, self._offsets["done"] + row)
        self._unmarked.clear()
        reach("latents.marked")

    def finish(self) -> Path:
        """Write the statistics of the sampled latents and give the file its final name.

        Raises:
            InputError: If rows are missing, or the statistics are not finite.
        """
        self.flush()
        missing = self.missing()
        if missing:
            count = f"{len(missing)} of {self.rows} rows are missing"
            raise InputError(f"{self.partial}: {count}, the first is {missing[0]}")
        self._close_gaps()
        with h5py.File(self.partial, "r") as file:
            statistics = latents_statistics(file["mean"], file["logvar"] if self._has_logvar else None)
        for name, value in zip(STATISTICS, (statistics.mean, statistics.std), strict=True):
            if not np.isfinite(value).all():
                raise InputError(f"{self.partial}: {name} is not finite; the tokenizer's log-variances are too large")
            _write_all(self._descriptor, value.astype("<f8").tobytes(), self._offsets[name])
        os.fsync(self._descriptor)
        reach("latents.statistics")
        os.replace(self.partial, self.path)
        sync(self.path.parent)
        reach("latents.finished")
        self.close()
        return self.path

    def close(self) -> None:
        """Give up the file and its lock; what was flushed stays for the next time."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if not self._lock.closed:
            self._release_lock()

    def __enter__(self) -> LatentsWriter:
        return self

    def __exit__(self, kind, error, trace) -> None:
        if self._descriptor >= 0:
            self.flush()
        self.close()


def _contiguous(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Create a dataset whose place in the file is fixed from the start; returns its offset."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_obj_track_times(False)  # equal content, equal bytes
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    kind, space = h5py.h5t.py_create(dtype, logical=True), h5py.h5s.create_simple(shape)
    return h5py.h5d.create(file.id, name.encode(), kind, space, properties).get_offset()


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    """`pwrite`, until everything is written."""
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
