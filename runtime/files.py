"""Files that are whole or absent: written beside, made durable, renamed."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from runtime.errors import InputError
from runtime.faults import reach

# A machine that fails is neither the user's fault nor a bug.
MACHINE_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG)


@contextmanager
def replacing(path: str | Path, point: str) -> Iterator[Path]:
    """Give a name beside `path` to write to; when the with-block ends well, that file takes the place of `path`.

    A reader sees the old file or the new one, also after a power cut. After an error the unfinished file is removed;
    what a kill leaves behind is removed by the next write. Two processes that write one name, also on two machines, do
    not disturb each other: the last to finish wins.

    Args:
        path: Final name; its folder must exist.
        point: Names the fault points `<point>.begin`, `.written` and `.renamed`; see `runtime.faults`.

    Raises:
        OSError: When the disk is full or broken, whatever library finds that out in the with-block.
    """
    path = Path(path)
    # The suffix stays, since some writers go by it.
    partial = path.with_name(f".{path.stem}.{_machine()}.{os.getpid()}.partial{path.suffix}")
    _remove_leftovers(path)
    try:
        reach(f"{point}.begin")
        with disk_errors(path):
            yield partial
        reach(f"{point}.written")
        sync(partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)
    reach(f"{point}.renamed")


def _machine() -> str:
    """This machine in names of files: only here is it known which of its processes live."""
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:32]


def _remove_leftovers(path: Path) -> None:
    """Remove unfinished files of this machine's processes that are no more."""
    name = re.compile(rf"\.{re.escape(path.stem)}\.{_machine()}\.(\d+)\.partial{re.escape(path.suffix)}")
    for leftover in path.parent.glob(f".{glob.escape(path.stem)}.*.partial{glob.escape(path.suffix)}"):
        match = name.fullmatch(leftover.name)
        if match and not _is_alive(int(match.group(1))):
            leftover.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def no_link(path: str | Path, flags: int) -> int:
    """Descriptor of a file, there or new; as `opener` of `open` for what is written in place.

    Raises:
        InputError: If it is a link: in a folder of a stranger it may lead to any file of the user.
    """
    try:
        return os.open(path, flags | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP and os.path.islink(path):
            raise InputError(f"{path} is a link, through which nothing is written; remove it") from error
        raise


def open_end(path: str | Path) -> int:
    """Descriptor of a file, there or new, that is written to at its end alone."""
    return no_link(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def append_to(descriptor: int, path: str | Path, data: bytes, point: str) -> None:
    """Append `data` whole, or (when the disk is full) not at all; a kill can leave its beginning.

    Args:
        descriptor: Of `open_end(path)`.
        point: Name of the fault point in the middle.
    """
    before = os.fstat(descriptor).st_size
    try:
        with disk_errors(path):
            os.write(descriptor, data[:1])
            reach(point)
            rest = data[1:]
            while rest:
                rest = rest[os.write(descriptor, rest) :]
    except OSError:
        os.ftruncate(descriptor, before)
        raise


@contextmanager
def disk_errors(path: str | Path) -> Iterator[None]:
    """Raise an OSError that names `path` where a full or broken disk is the reason, whatever library notices it.

    safetensors and HDF5 put the system's number into their messages, torch.save buries the OSError of its file.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        number = _machine_fault(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _machine_fault(error: BaseException | None) -> int | None:
    """The one of `MACHINE_FAULTS` in an error, or in one that led to it."""
    while error is not None:
        told = re.search(r"\(os error (\d+)\)|errno = (\d+)", str(error))
        number = getattr(error, "errno", None) or (told and int(told[1] or told[2]))
        if number in MACHINE_FAULTS:
            return number
        error = error.__cause__ or error.__context__
    return None


def flock(file: IO | int, how: int, path: str | Path) -> None:
    """`fcntl.flock`.

    Raises:
        BlockingIOError: If another process holds the lock, and `how` says not to wait.
        InputError: If the file system of `path` has no locks, so that two processes could begin the same.
    """
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        raise
    except OSError as error:
        raise InputError(
            f"{path} cannot be locked: {error.strerror}; use a folder on a file system with locks"
        ) from error


def flush(descriptor: int) -> None:
    """What was written to the disk itself; fsync of macOS leaves it in the drive's memory."""
    if hasattr(fcntl, "F_FULLFSYNC"):
        with suppress(OSError):  # some network disks
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def sync(path: str | Path) -> None:
    """Make a file's contents, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        flush(descriptor)
    finally:
        os.close(descriptor)
