"""Data sets of video files in a folder, and what all file data sets share."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from runtime.errors import InputError
from videos.clip import ClipSpec, resize_and_crop
from videos.codec import VIDEO_SUFFIXES, check_video, probe_video, read_video
from videos.listing import ListedFile, list_files
from videos.splits import sources_of_split, split_folder
from videos.unreadable import NUM_LISTED, UnreadableClip, refuse_many

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class ClipDataset:
    """Clips of a list of sources; a subclass says how to list, probe and read them.

    Sources that cannot be read or are shorter than a clip are skipped, counted and listed in `skipped` as (path,
    reason), never replaced.

    Args:
        strict: Refuse a folder where more than one file in a hundred cannot be read, or none is long enough.

    Attributes:
        files: All readable sources.
        gone: Names of those that are not readable any more, see `as_listed`.
        sources, lengths: Path and frames of each item.
        strides: The frame stride used for each item: the largest up to the asked one that fits.
        num_enlarged: Items whose pictures are smaller than the clip's.
    """

    name = "videos"

    def __init__(self, root: str | Path, split: str, clip: ClipSpec, *, strict: bool = True):
        self.root, self.split = Path(root), split
        if not self.root.is_dir():
            raise InputError(f"{self.root}: no such folder for data set {self.name!r}")
        sources = self.list_sources()
        links = links_not_followed(split_folder(self.root, split), self.suffixes)
        if not sources:
            more = f"; {len(links)} links there are not followed" if links else ""
            raise InputError(f"{self.root}: nothing of data set {self.name!r} found there (split {split!r}){more}")
        found = list_files(self.name, self.root, sources, stat=self.stat, probe=self.probe)
        unreadable = {str(source): seen for source, seen in zip(sources, found, strict=True) if isinstance(seen, str)}
        self._unusable = [*links, *((path, seen.removeprefix(f"{path}: ")) for path, seen in unreadable.items())]
        self.files: Sequence[ListedFile] = [file for file in found if isinstance(file, ListedFile)]
        self.gone: list[str] = []
        if strict:
            where = f"python -m videos.check --data {self.name} --root {self.root}"
            self._refuse_many(list(unreadable.values()), len(sources), f"{where} lists all; remove or repair them")
        self._use(clip, strict=strict)

    def as_listed(self, listed: Sequence[ListedFile], flag: str = "--name") -> Self:
        """The data set with the `files` that it had at an earlier time, in their places.

        One that has gone or cannot be read any more fails when it is read.

        Args:
            listed: Those files.
            flag: What an error advises to give anew.

        Raises:
            InputError: If files that make clips are new or of another size, or more than one in a hundred has gone.
        """
        other = copy.copy(self)
        other.gone = self._gone(listed, flag)
        self._refuse_many(other.gone, len(listed), "the run was begun with them; bring them back, or begin another")
        other.files = list(listed)
        other._use(self.clip)
        return other

    def _refuse_many(self, unreadable: list[str], listed: int, advice: str) -> None:
        try:
            refuse_many(unreadable, listed, advice)
        except InputError as error:
            raise InputError(f"{self.root}: {error}") from None

    def with_clip(self, clip: ClipSpec, *, enlarge: bool = True) -> Self:
        """The same files as clips of another kind; none is opened again.

        Args:
            enlarge: Whether pictures may be enlarged to the clip's size; else smaller ones are among the `skipped`.

        Raises:
            InputError: If no file will do.
        """
        other = copy.copy(self)
        other._use(clip, enlarge=enlarge)
        return other

    def _use(self, clip: ClipSpec, *, strict: bool = True, enlarge: bool = True) -> None:
        self.clip, self.skipped, chosen = clip, list(self._unusable), []
        for file in self.files:
            if clip.fitting_stride(file.frames) == 0:
                problem = f"{file.frames} frames, a clip needs {clip.num_frames}"
            elif not enlarge and clip.enlarges(file.height, file.width):
                problem = f"{file.width}x{file.height} pixels, a clip has {clip.width}x{clip.height}"
            else:
                chosen.append(file)
                continue
            self.skipped.append((str(self.root / file.name), problem))
        if strict and not chosen:
            raise InputError(
                f"{self.root}: no file is long enough for {clip.num_frames} frames"
                + ("" if enlarge else f" and has {clip.width}x{clip.height} pixels")
                + f" ({len(self.skipped)} are shorter{'' if enlarge else ' or smaller'})"
            )
        self._chosen = chosen
        self.sources = [self.root / file.name for file in chosen]
        self.lengths = [file.frames for file in chosen]
        self.strides = [clip.fitting_stride(file.frames) for file in chosen]
        self.num_enlarged = sum(clip.enlarges(file.height, file.width) for file in chosen)

    def _gone(self, listed: Sequence[ListedFile], flag: str) -> list[str]:
        before, now = ({file.name: file for file in files} for files in (listed, self.files))
        same = [name for name in now if name in before]
        changed = [f"{name} has changed" for name in same if before[name].bytes != now[name].bytes]
        changed += [
            f"{name} has {now[name].frames} frames, and had {before[name].frames} (earlier versions also counted what "
            "its edit list hides)"
            for name in same
            if before[name].bytes == now[name].bytes and before[name].frames != now[name].frames
        ]
        new = [f"{name} is new" for name in now if name not in before and self.clip.fitting_stride(now[name].frames)]
        if changed or new:
            found = [*changed, *new]
            more = f" and {len(found) - NUM_LISTED} more" if len(found) > NUM_LISTED else ""
            raise InputError(
                f"{self.root}: not the files that the run was begun with: {'; '.join(found[:NUM_LISTED])}{more}; put "
                f"them back as they were, or begin another under another {flag}"
            )
        return [name for name in before if name not in now]

    # -- what a subclass may say otherwise ----------------------------------------------------------------------------

    num_classes = 0
    class_names: Sequence[str] = ()
    suffixes: Sequence[str] = VIDEO_SUFFIXES

    def list_sources(self) -> list[Path]:
        """All sources of the split, in a fixed order."""
        return files_below(self.root, VIDEO_SUFFIXES)

    def probe(self, source: Path) -> tuple[int, int, int]:
        """Frames, height and width of a source, without decoding it; InputError when it cannot be read."""
        return probe_video(source)

    def read(self, source: Path, frames: np.ndarray) -> np.ndarray:
        """The given frames, uint8 `[N, H, W, 3]`."""
        return read_video(source, frames)

    def verify(self, source: Path) -> None:
        """Decode all of a source; InputError on damage, also where reading would cover it up."""
        check_video(source)

    def stat(self, source: Path) -> tuple[int, int]:
        """Size on disk, and time of the last change in nanoseconds."""
        found = source.stat()
        return found.st_size, found.st_mtime_ns

    def label(self, source: Path) -> int:
        """Class of a source; -1 for none."""
        return -1

    # -- the data set -------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> dict:
        return self.item(index, 0)

    def item(self, index: int, seed: int) -> dict:
        """{"video": uint8 `[3, 1+T, H, W]`, "label", "name"}, its window drawn from `seed`; UnreadableClip when it
        cannot be decoded."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        source = self.sources[index]
        try:
            pictures, more = self.read_item(index, self.frame_indices(index, seed))
        except (InputError, OSError) as error:
            raise UnreadableClip(source, str(error)) from error
        pictures = resize_and_crop(pictures, self.clip.size)
        return {
            "video": np.ascontiguousarray(pictures.transpose(3, 0, 1, 2)),
            "label": self.label(source),
            "name": self.name_of(index),
        } | more

    def name_of(self, index: int) -> str:
        """What tells an item apart from all others: its path below the root."""
        return self.sources[index].relative_to(self.root).as_posix()

    def frame_indices(self, index: int, seed: int) -> np.ndarray:
        """Frames of an item, int64 `[1+T]`."""
        return self.clip.frame_indices(self.lengths[index], seed)

    def read_item(self, index: int, frames: np.ndarray) -> tuple[np.ndarray, dict]:
        """Pictures of an item, uint8 `[N, H, W, 3]` in the source's size, and what else it holds."""
        return self.read(self.sources[index], frames), {}

    def labels(self) -> list[int]:
        """Label of every item, without decoding any."""
        return [self.label(source) for source in self.sources]

    def classes(self) -> list[Hashable]:
        """What to balance a draw over, of every item: its label, or the folder it lies in where there are none."""
        return self.labels() if self.num_classes else [source.parent.as_posix() for source in self.sources]

    def fingerprint(self) -> str:
        """Hash of the (path, size) list of the files in use."""
        digest = hashlib.sha256()
        for file in self._chosen:
            digest.update(os.fsencode(f"{file.name} {file.bytes}\n"))
        return digest.hexdigest()[:16]


class VideoFolder(ClipDataset):
    """Every video file below a folder, without labels. Folders `train` and `test` below the root are the splits, or
    names decide; see `videos.splits`."""

    def list_sources(self) -> list[Path]:
        """Videos of the split."""
        return sources_of_split(self.root, self.split, lambda folder: files_below(folder, VIDEO_SUFFIXES))


def files_below(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Files with one of the suffixes below a folder, sorted; links that lead out of the folder are left out."""
    resolved = folder.resolve()
    return sorted(path for path in _candidates(folder.rglob("*"), suffixes) if _is_file_within(path, resolved))


def images_in(folder: Path) -> list[Path]:
    """Images of one folder, without those below it; links that lead out of it are left out."""
    resolved = folder.resolve()
    return [path for path in _candidates(folder.iterdir(), IMAGE_SUFFIXES) if _is_file_within(path, resolved)]


def links_not_followed(folder: Path, suffixes: Sequence[str]) -> list[tuple[str, str]]:
    """Links that `files_below` leaves out, as (path, reason), sorted: to folders, out of the folder, or to nowhere."""
    links = [path for path in folder.rglob("*") if path.is_symlink() and not path.name.startswith(".")]
    out = [path for path in _candidates(links, suffixes) if not _is_file_within(path, folder.resolve())]
    return sorted(
        [(str(path), "a link to a folder, which is not followed") for path in links if path.is_dir()]
        + [
            (str(path), "a link that leads out of the data set" if path.is_file() else "a link to nowhere")
            for path in out
            if not path.is_dir()
        ]
    )


def _candidates(paths: Iterable[Path], suffixes: Sequence[str]) -> list[Path]:
    return [path for path in paths if path.suffix.lower() in suffixes and not path.name.startswith(".")]


def _is_file_within(path: Path, resolved: Path) -> bool:
    # Only a link can lead out: none of a million files is resolved, which takes ten looks at the disk.
    return path.is_file() and (not path.is_symlink() or path.resolve().is_relative_to(resolved))
