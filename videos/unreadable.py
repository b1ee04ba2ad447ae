"""Clips that turn out undecodable in the middle of the work: recorded once, and too many of them end it."""

from __future__ import annotations

import fcntl
import json
import sys
import threading
from pathlib import Path

from runtime.errors import InputError
from runtime.files import flock, no_link
from runtime.records import read_lines

MAX_UNREADABLE = 0.01
NUM_LISTED = 10  # unreadable files in an error line


class UnreadableClip(InputError):
    """A clip of a file data set that cannot be decoded.

    Attributes:
        path: Its file or folder.
        reason: In words, without the path.
    """

    def __init__(self, path: Path, reason: str):
        self.path, self.reason = str(path), reason.removeprefix(f"{path}: ")
        super().__init__(f"{path}: {self.reason}")

    def __reduce__(self):
        return type(self), (self.path, self.reason)  # from one process of a launch to another


class UnreadableFiles:
    """The record of a run's undecodable files: JSON lines {"path", "reason"}, each path once.

    All processes of a launch and all sittings of the run share it.

    Args:
        record: The file; its folder exists when the first line is written.
        listed: Files of the data set, of which at most one in a hundred may be undecodable.
    """

    def __init__(self, record: Path, listed: int):
        self.path, self.listed = record, listed
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    def record(self, clip: UnreadableClip) -> None:
        """Note a file, if it is new.

        Raises:
            InputError: If more than one in a hundred files are undecodable by now; it lists them.
        """
        with self._lock:
            if clip.path in self._seen:
                return
            with open(self.path, "a+b", opener=no_link) as file:
                flock(file, fcntl.LOCK_EX, self.path)  # one process at a time; closing the file gives it up
                known = [line["path"] for line in read_lines(self.path, {"path": str, "reason": str})]
                if clip.path not in known:
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)  # half a line is what a kill leaves
                    file.write(json.dumps({"path": clip.path, "reason": clip.reason}).encode() + b"\n")
                    print(f"left out, {len(known) + 1} of {self.listed} files: {clip}", file=sys.stderr)
                    known.append(clip.path)
            self._seen.update(known)
        refuse_many(known, self.listed, f"{self.path} has the reasons; repair them, remove that file, and start again")


def refuse_many(unreadable: list[str], listed: int, advice: str) -> None:
    """InputError with the list when more than one in a hundred files cannot be read."""
    if len(unreadable) > MAX_UNREADABLE * listed:
        more = f" and {len(unreadable) - NUM_LISTED} more" if len(unreadable) > NUM_LISTED else ""
        raise InputError(
            f"{len(unreadable)} of {listed} files cannot be read, more than 1 %: "
            f"{'; '.join(unreadable[:NUM_LISTED])}{more}; {advice}"
        )
