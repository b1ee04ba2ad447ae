"""A crash-safe HDF5 file of contiguous datasets, one row a clip.

The file is laid out whole as `<path>.partial` and closed; from then on HDF5 never opens it for writing again. Rows go
to their known offsets with `pwrite`, are fsynced, and only then marked in `done` (uint8 [N]), so a kill loses at most
the rows since the last flush and can never leave an unreadable file. When every row is done the file gets its name.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Self

import h5py
import numpy as np

from latents_cache.heap import check_heaps, lies_within
from runtime.errors import InputError
from runtime.faults import reach
from runtime.files import disk_errors, flock, flush, no_link, sync

# What h5py raises on damaged bytes.
DAMAGE = (OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, OverflowError, MemoryError)
DONE, LEFT_OUT = b"\1", b"\2"  # what `done` holds of a row; 0 until then
PAGE = 4096  # datasets of at least one begin at one: rows of whole pages share none, whatever machine writes them
HEADER_BYTES = 64 * 1024  # more than everything but values and attributes takes
CHUNK = 64 * 2**20  # bytes copied at once
Types = Mapping[str, tuple[np.dtype, tuple[int, ...]]]  # dtype and shape by dataset


class Taken(InputError):
    """Another process fills a row file, or has finished it meanwhile."""


class RowFile:
    """Creates `<path>.partial`, or goes on filling the one that is there. A kind of file is a class made from this one.

    Also a context manager that flushes and closes, without finishing.

    Args:
        path: Final name of the file; its folder is made.
        rows: Number of clips, N.
        attributes: Small facts (str, int, float, list); a file to go on with must have the same.
        whole: Arrays by name: datasets that have no row a clip, with the values that they begin with.
        launch: Processes that give the same text fill the file together; without it the file has one writer.

    Raises:
        InputError: If the final file exists, another launch fills it, the disk is full, or the partial file is damaged
            or holds something else.
    """

    # Fault points by moment: draft (laid out, not yet `.partial`), created, synced, marked, whole, named.
    POINTS: Mapping[str, str] = {}

    def __init__(self, path: Path, rows: int, attributes: dict, whole: dict | None = None, launch: str | None = None):
        self.path, self.partial, self.rows = path, partial_path(path), rows
        self._attributes, self._whole = {name: plain(value) for name, value in attributes.items()}, whole or {}
        self._types: Types | None = None
        self._descriptor, self._launch = -1, launch
        self._unmarked: list[int] = []
        self._lock_path = lock_path(path)
        self._lock = self._take_lock(launch)
        try:
            if self.path.exists():  # asked under the lock: another process may just have finished it
                raise Taken(f"{self.path} exists already; move it away, or write to another name")
            if self.partial.exists():
                self._resume()
            elif types := self._row_types({}, {}):
                self._lay_out(types)
        except BaseException:
            self.close()
            raise

    def _row_types(self, attributes: Mapping[str, object], datasets: Types) -> Types | None:
        """dtype and shape of one row of each dataset, `done` uint8 () among them; None where the first row decides.

        `attributes` and `datasets` are those of the file to go on with, empty for a new one; sizes may be taken over.
        """
        raise NotImplementedError

    def _take_lock(self, launch: str | None):
        """Hold the lock file, exclusively or together with the processes of one launch."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = open(self._lock_path, "a+", opener=no_link)  # noqa: SIM115 - held as long as the writer lives
        except OSError as error:
            raise InputError(f"cannot write to {self.path.parent}: {error.strerror}") from error
        try:
            flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, self._lock_path)
            if not (self._lock_path.exists() and os.path.samestat(os.fstat(lock.fileno()), self._lock_path.stat())):
                lock.close()  # its last holder took it away between our opening and locking it
                return self._take_lock(launch)
            lock.truncate(0)
            if launch is not None:
                lock.write(launch)
                lock.flush()
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return lock
        except OSError:  # locked, or taken away while it was looked at
            lock.seek(0)
            if launch is not None and lock.read() == launch:
                fcntl.flock(lock, fcntl.LOCK_SH)
                return lock
        except InputError:
            lock.close()
            raise
        lock.close()
        raise Taken(f"{self.partial} is being written by another process; wait for it, or write to another name")

    def _datasets(self, types: Types) -> Types:
        """dtype and shape of every dataset, in their order in the file."""
        found = {name: (dtype, (self.rows, *shape)) for name, (dtype, shape) in types.items()}
        return found | {name: (values.dtype, values.shape) for name, values in self._whole.items()}

    def _lay_out(self, types: Types, fill: Callable[[int, dict[str, int]], None] | None = None) -> None:
        """Write the empty file under a name that nobody looks for, rename it to `.partial`, and open it.

        `fill` writes rows into the draft, of which it gets the descriptor and the offsets.
        """
        draft, descriptor = self.path.with_name(f".{self.path.name}.new"), -1
        try:
            descriptor = no_link(draft, os.O_RDWR | os.O_CREAT)
            # Of a full disk HDF5 complains at length, also long after it was told: it must find room.
            _allocate(descriptor, HEADER_BYTES + len(str(self._attributes)))
            aligned = {"alignment_threshold": PAGE, "alignment_interval": PAGE}
            with disk_errors(self.path), h5py.File(draft, "w", libver="earliest", **aligned) as file:
                for name, value in self._attributes.items():
                    file.attrs[name] = value
                offsets = {name: _contiguous(file, name, *kind) for name, kind in self._datasets(types).items()}
            # Truly allocated: a full disk is an error now, not a crash in the middle of the work.
            _allocate(descriptor, os.fstat(descriptor).st_size)
            for name, values in self._whole.items():
                _write_all(descriptor, values.tobytes(), offsets[name])
            if fill is not None:
                fill(descriptor, offsets)
            flush(descriptor)
            self._reach("draft")
            os.replace(draft, self.partial)
            sync(self.path.parent)
            self._reach("created")
        except BaseException as error:
            if descriptor >= 0:
                os.close(descriptor)
                draft.unlink(missing_ok=True)
            if not isinstance(error, OSError):
                raise
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                sizes = ", ".join(f"{name} {list(shape)}" for name, (_, shape) in types.items() if shape)
                raise InputError(f"{self.path}: the disk has no room for {self.rows} rows of {sizes}") from error
            raise InputError(f"{self.path}: cannot be created ({error})") from error
        self._descriptor, self._offsets, self._types = descriptor, offsets, types
        self._share()

    def _resume(self) -> None:
        """Open the partial file; refuse one that is damaged or was begun with other settings."""
        try:
            attributes, datasets, offsets = header(self.partial)
        except DAMAGE as error:
            raise InputError(f"{self.partial} is no file to go on with ({error}); remove it") from error
        if isinstance(attributes.get("left_out"), int):  # a kill came after the gaps had been closed
            self._attributes["left_out"] = attributes["left_out"]
            self.rows -= attributes["left_out"]
        types = self._row_types(attributes, datasets)
        now, wanted = self._attributes, self._datasets(types)
        differing = [
            f"{name}: was {str(attributes.get(name))[:60]!r}, now {str(now.get(name))[:60]!r}"
            for name in sorted(attributes.keys() | now.keys())
            if attributes.get(name) != now.get(name)
        ]
        for name in sorted(datasets.keys() | wanted.keys()):
            if name not in datasets or name not in wanted:
                differing.append(f"{name}: was {name in datasets}, now {name in wanted}")
            elif datasets[name] != wanted[name]:
                before, after = (f"{dtype} {list(shape)}" for dtype, shape in (datasets[name], wanted[name]))
                differing.append(f"{name}: was {before}, now {after}")
        if differing:
            raise InputError(
                f"{self.partial} was begun with other settings ({'; '.join(differing)}); "
                "use those, remove it, or write to another name"
            )
        self._descriptor, self._offsets, self._types = no_link(self.partial, os.O_RDWR), offsets, types
        self._share()

    def _share(self) -> None:
        """Lock the rows' file together with the processes of the launch, whose machines may differ.

        NFS clients send whole pages of a file that nobody has locked, and with them what they believe the neighbours'
        bytes to be; of one under a shared lock they send the bytes that were written (Linux, `nfs_can_extend_write`).
        Taking the lock also makes them forget what they believed.
        """
        if self._launch is not None and self._descriptor >= 0:
            flock(self._descriptor, fcntl.LOCK_SH, self.partial)

    def _keep_rows(self, kept: np.ndarray) -> None:
        """Lay the file out anew with these rows alone, in this order."""
        source, places = self._descriptor, self._offsets

        def fill(descriptor: int, offsets: dict[str, int]) -> None:
            for name, (dtype, shape) in self._types.items():
                size, place = dtype.itemsize * math.prod(shape), 0
                for rows in np.split(kept, np.flatnonzero(np.diff(kept) > 1) + 1):  # runs without a gap
                    start, length = places[name] + int(rows[0]) * size, len(rows) * size
                    _copy(source, descriptor, start, offsets[name] + place * size, length)
                    place += len(rows)

        self.rows, self._descriptor = len(kept), -1
        try:
            self._lay_out(self._types, fill)
        finally:
            os.close(source)

    def missing(self) -> list[int]:
        """Rows that are not done yet, by any process, in order."""
        self._share()
        return np.flatnonzero(self._done() == 0).tolist()

    def leave_out(self, row: int) -> None:
        """Give up a row that can never be written: it is missing no more, and the finished file is shorter by it.

        It may be given up again: after a kill one that is read again fails again.
        """
        if not 0 <= row < self.rows or self._done()[row] == DONE[0]:
            raise InputError(f"{self.path}: row {row} is none of those that missing() lists")
        if self._descriptor < 0:
            raise InputError(f"{self.path}: the first row decides what a row is; it cannot be left out")
        self._mark([row], LEFT_OUT)

    def _done(self) -> np.ndarray:
        if self._descriptor < 0:
            return np.zeros(self.rows, np.uint8)
        return np.frombuffer(os.pread(self._descriptor, self.rows, self._offsets["done"]), np.uint8)

    def _mark(self, rows: Iterable[int], mark: bytes) -> None:
        for row in rows:
            os.pwrite(self._descriptor, mark, self._offsets["done"] + int(row))

    def _put(self, row: int, values: Mapping[str, object]) -> None:
        """Write one row; it counts as done after the next flush. InputError when there is none, or it is done."""
        if not 0 <= row < self.rows:
            raise InputError(f"{self.path}: row {row} is outside 0…{self.rows - 1}")
        # A row that is done stays as it is: a kill while it is replaced would leave a torn one that counts as done.
        if os.pread(self._descriptor, 1, self._offsets["done"] + row) != b"\0":
            raise InputError(f"{self.path}: row {row} is done already; write only the rows that missing() lists")
        for name, value in values.items():
            data = np.asarray(value, self._types[name][0]).tobytes()
            _write_all(self._descriptor, data, self._offsets[name] + row * len(data))
        self._unmarked.append(row)

    def flush(self) -> None:
        """Make the rows written so far durable, then mark them done."""
        if not self._unmarked or self._descriptor < 0:
            return
        flush(self._descriptor)
        self._reach("synced")
        self._mark(self._unmarked, DONE)
        self._unmarked.clear()
        self._reach("marked")

    def finish(self) -> Path:
        """Give the file its final name; returns it.

        Raises:
            InputError: If rows are missing, or what the kind of file demands of whole ones does not hold.
        """
        self.flush()
        if missing := self.missing():
            count = f"{len(missing)} of {self.rows} rows are missing"
            raise InputError(f"{self.partial}: {count}, the first is {missing[0]}")
        kept = np.flatnonzero(self._done() == DONE[0])
        if not len(kept):
            raise InputError(f"{self.partial}: every row was left out")
        if len(kept) < self.rows:
            self._attributes["left_out"] = self.rows - len(kept)
            self._keep_rows(kept)
        for name, values in self._complete().items():
            _write_all(self._descriptor, values.tobytes(), self._offsets[name])
        flush(self._descriptor)
        self._reach("whole")
        os.replace(self.partial, self.path)
        sync(self.path.parent)
        self._reach("named")
        self.close()
        return self.path

    def discard(self) -> None:
        """Take the unfinished file away, and give up the lock."""
        self.partial.unlink(missing_ok=True)
        self.close()

    def _complete(self) -> dict[str, np.ndarray]:
        """Values of the `whole` datasets, which can only be known when every row is there."""
        return {}

    def close(self) -> None:
        """Give up the file and its lock, which the last process of a launch takes away; what was flushed stays."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._lock.closed:
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._lock_path.unlink(missing_ok=True)
        except OSError:
            pass  # others of the launch still hold it
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.flush()
        self.close()

    def _reach(self, moment: str) -> None:
        reach(self.POINTS.get(moment, ""))


def header(path: Path) -> tuple[dict[str, object], Types, dict[str, int]]:
    """Attributes, dtype and shape of the datasets, and their offsets; one of `DAMAGE` where rows are not in place."""
    with h5py.File(path, "r") as file:
        check_heaps(file, path)
        scattered = [name for name in file if not lies_within(file[name], path)]
        if scattered or "done" not in file:
            raise ValueError(f"it does not hold its {', '.join(scattered or ['rows'])} in one piece")
        attributes = {name: plain(value) for name, value in file.attrs.items()}
        datasets = {name: (file[name].dtype, file[name].shape) for name in file}
        return attributes, datasets, {name: file[name].id.get_offset() for name in file}


def _contiguous(file: h5py.File, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> int:
    """Create a dataset whose place in the file is fixed from the start; returns its offset."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_obj_track_times(False)  # equal content, equal bytes
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    kind, space = h5py.h5t.py_create(dtype, logical=True), h5py.h5s.create_simple(shape)
    return h5py.h5d.create(file.id, name.encode(), kind, space, properties).get_offset()


def _allocate(descriptor: int, size: int) -> None:
    """Give a file its room on the disk; where the system cannot (macOS), by writing all of it."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    for start in range(0, size, CHUNK):
        length = min(CHUNK, size - start)
        there = os.pread(descriptor, length, start)
        _write_all(descriptor, there + bytes(length - len(there)), start)


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    """`pwrite`, until everything is written."""
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def _copy(source: int, target: int, start: int, to: int, length: int) -> None:
    """Copy bytes from file to file, by the system or the file server itself where they can."""
    while length:
        try:
            copied = os.copy_file_range(source, target, min(length, CHUNK), start, to)
        except (OSError, AttributeError):  # macOS has none
            copied = 0
        if not copied:
            data = os.pread(source, min(length, CHUNK), start)
            if not data:
                raise OSError(errno.EIO, "the file has become shorter")
            _write_all(target, data, to)
            copied = len(data)
        start, to, length = start + copied, to + copied, length - copied


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
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value
