"""What files a data set holds, found out once: the result is kept by (path, size, time of change) for later runs."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

from runtime.errors import InputError
from runtime.files import no_link, replacing
from runtime.published_weights import cache_folder
from runtime.records import parse_json

FORMAT = 3
# Files between two writes of what was found out, so that a kill loses little.
CHUNK = 20_000


class ListedFile(NamedTuple):
    """A readable source of a data set.

    Attributes:
        name: Its path below the data set's root.
        bytes: Its size on disk.
        frames, height, width: Of its pictures.
    """

    name: str
    bytes: int
    frames: int
    height: int
    width: int


def list_files(
    kind: str,
    root: Path,
    sources: Sequence[Path],
    *,
    stat: Callable[[Path], tuple[int, int]],
    probe: Callable[[Path], tuple[int, int, int]],
) -> list[ListedFile | str]:
    """Every source, or why it cannot be read. Only what has changed since it was last seen is opened.

    What was found out lies in `probes` of `runtime.published_weights.cache_folder`, a file for each root. One process
    at a time opens files there and the others then find them done. Where nothing can be written, nothing is kept. A
    damaged file there is made anew; removing it is safe.

    Args:
        kind: Name of the data set's kind: what is a source, and what its frames are, depends on it.
        stat: Size and time of change (ns) of a source.
        probe: Frames, height and width of a source; InputError when it cannot be read.
    """
    path = _kept_in(kind, root)
    kept = _read_kept(path)
    found: list[ListedFile | str] = []
    # Threads: the system is waited for, and opening a container releases the interpreter lock.
    with ThreadPoolExecutor(max_workers=min(8, 2 * (os.cpu_count() or 1))) as pool:
        stats = list(pool.map(lambda source: _or_reason(stat, source), sources))
        names = [source.relative_to(root).as_posix() for source in sources]

        def is_known(index: int) -> bool:
            return tuple(kept.get(names[index], ())[:2]) == stats[index]

        def look(index: int) -> tuple[int, int, int] | str:
            if isinstance(stats[index], str):
                return stats[index]
            return kept[names[index]][2:] if is_known(index) else _or_reason(probe, sources[index])

        with _one_at_a_time(path) if not all(map(is_known, range(len(names)))) else nullcontext():
            kept = _read_kept(path)  # by now another process may have looked
            for start in range(0, len(sources), CHUNK):
                part = range(start, min(start + CHUNK, len(sources)))
                new = {}
                for index, seen in zip(part, pool.map(look, part), strict=True):
                    if isinstance(seen, str):
                        found.append(seen)
                        continue
                    found.append(ListedFile(names[index], stats[index][0], *seen))
                    if not is_known(index):
                        new[names[index]] = (*stats[index], *seen)
                if new:
                    kept |= new
                    _write_kept(path, kept)
    return found


def _or_reason(look: Callable[[Path], tuple], source: Path) -> tuple | str:
    try:
        return look(source)
    except InputError as error:
        return str(error)
    except OSError as error:
        return f"{source}: {error.strerror}"


def _kept_in(kind: str, root: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(f"{kind} {root.resolve()}")).hexdigest()[:16]
    return cache_folder() / "probes" / f"{kind}-{digest}.json"


def _read_kept(path: Path) -> dict[str, tuple[int, ...]]:
    """(bytes, time, frames, height, width) by name; whatever is damaged counts as absent."""
    try:
        value = json.loads(path.read_bytes())
        files = value["files"] if value["format"] == FORMAT else {}
        return {name: tuple(values) for name, values in files.items() if _is_kept(values)}
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return {}


def _is_kept(values: object) -> bool:
    return (
        isinstance(values, list)
        and len(values) == 5
        and all(type(value) is int for value in values)
        and min(values[0], *values[2:]) > 0
    )


def _write_kept(path: Path, kept: dict[str, tuple[int, ...]]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, "probes") as partial:
            partial.write_text(json.dumps({"format": FORMAT, "files": kept}))
    except OSError:
        pass  # a full disk, or a home that is not ours to write to: the next run looks again


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Wait until no other process is looking at the same folder; where no lock can be had, do not wait."""
    name = path.with_suffix(".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(name, "w", opener=no_link)  # noqa: SIM115 - held for the with-block
    except OSError:
        yield
        return
    with lock:
        with suppress(OSError):  # of a network disk without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
        name.unlink(missing_ok=True)  # those who wait have it open, and find everything done


# -- the listing of a run ----------------------------------------------------------------------------------------------


def write_listing(path: Path, listing: dict[str, Sequence[ListedFile]]) -> None:
    """Keep the files of some data sets, by a word for each."""
    with replacing(path, "manifest") as partial:
        partial.write_text(json.dumps({word: [list(file) for file in files] for word, files in listing.items()}))


def read_listing(path: Path) -> dict[str, list[ListedFile]]:
    """What `write_listing` wrote; empty without the file.

    Raises:
        InputError: If it is damaged.
    """
    if not path.is_file():
        return {}
    value = parse_json(path.read_bytes(), path)
    try:
        listing = {word: [ListedFile(*file) for file in files] for word, files in value.items()}  # type: ignore[union-attr]
        sound = all(
            type(file.name) is str and _is_kept([file[1], 0, *file[2:]]) for f in listing.values() for file in f
        )
    except (TypeError, AttributeError):
        sound = False
    if not sound:
        raise InputError(f"{path}: damaged, or of another program; it lists the files of the run's data sets")
    return listing
