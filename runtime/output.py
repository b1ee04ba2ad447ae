"""Where a command may write: refused before any work when it cannot."""

from __future__ import annotations

import os
from pathlib import Path

from runtime.errors import InputError

MAX_NAME = 200  # bytes; file systems take 255, and files beside the folder add to it


def check_name(flag: str, name: str) -> None:
    """`name` must be one folder name that any shell and any file system can hold; InputError otherwise."""
    fits = name and Path(name).name == name and name.isprintable() and len(os.fsencode(name)) <= MAX_NAME
    if not fits or name.startswith((".", "-")):
        raise InputError(
            f"{flag} {name[:80]!r} cannot be a folder name; use up to {MAX_NAME} letters, digits, '-', '_' and '.'"
        )


def check_file(flag: str, path: str, *, folder_exists: bool = False) -> None:
    """A file may be written at `path`: it is no folder, and no file stands where one of its folders should be.

    Args:
        flag: Named in the message.
        folder_exists: Also ask for the folder: commands that write beside the user's own files make none.

    Raises:
        InputError: If nothing could be written there.
    """
    target = Path(path)
    try:
        if target.is_dir():
            raise InputError(f"{flag} {path}: is a folder; give the name of a file in it")
        if folder_exists and not target.parent.is_dir():
            raise InputError(f"{flag} {path}: no such folder {target.parent}")
    except OSError as error:  # a name that is too long
        raise InputError(f"{flag} {path[:80]}…: {error.strerror}") from error
    check_folder(flag, path, target.parent)


def check_folder(flag: str, path: str, folder: Path | None = None) -> None:
    """A folder may be made at `path`, or is there and can be written to; InputError otherwise."""
    folder = Path(path) if folder is None else folder
    try:
        nearest = next(place for place in (folder, *folder.parents) if place.exists())
    except OSError as error:
        raise InputError(f"{flag} {path[:80]}…: {error.strerror}") from error
    except StopIteration:
        nearest = Path(".")
    if not nearest.is_dir():
        raise InputError(f"{flag} {path}: {nearest} is a file, not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"{flag} {path}: no permission to write in {nearest}")
