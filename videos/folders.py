"""Data sets of files in a folder: any videos, any images; and what all file data sets share."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from runtime.errors import InputError
from videos.clip import ClipSpec, resize_and_crop
from videos.codec import VIDEO_SUFFIXES, check_picture, check_video, count_frames, read_video

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# PIL goes by content, and some of its formats (EPS) start other programs.
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
MAX_UNREADABLE = 0.01
# What PIL raises on damaged bytes, beside its own errors.
_DAMAGE = (OSError, SyntaxError, ValueError, LookupError, TypeError, RuntimeError, EOFError, OverflowError, MemoryError)
_DAMAGE += (struct.error, zlib.error)
NUM_LISTED = 10  # unreadable files in an error line; `videos.check` lists all


class ClipDataset:
    """Clips of a list of sources; a subclass says how to list, count and read them.

    Sources that cannot be read or are shorter than a clip are skipped, counted and listed in `skipped` as (path,
    reason), never replaced.

    Attributes:
        strides: The frame stride used for each item: the largest up to the asked one that fits.
    """

    name = "videos"

    def __init__(self, root: str | Path, split: str, clip: ClipSpec, *, strict: bool = True):
        self.root, self.split, self.clip = Path(root), split, clip
        if not self.root.is_dir():
            raise InputError(f"{self.root}: no such folder for data set {self.name!r}")
        sources = self.list_sources()
        self.skipped: list[tuple[str, str]] = links_not_followed(split_folder(self.root, split), self.suffixes)
        if not sources:
            links = f"; {len(self.skipped)} links there are not followed" if self.skipped else ""
            raise InputError(f"{self.root}: nothing of data set {self.name!r} found there (split {split!r}){links}")
        self.sources: list[Path] = []
        self.lengths: list[int] = []
        unreadable: list[str] = []
        # Threads: opening a container releases the interpreter lock.
        with ThreadPoolExecutor(max_workers=min(8, 2 * (os.cpu_count() or 1))) as pool:
            for source, (length, problem) in zip(sources, pool.map(self._probe, sources), strict=True):
                if problem is not None:
                    unreadable.append(problem)
                    self.skipped.append((str(source), problem.removeprefix(f"{source}: ")))
                elif clip.fitting_stride(length) == 0:
                    self.skipped.append((str(source), f"{length} frames, a clip needs {clip.num_frames}"))
                else:
                    self.sources.append(source)
                    self.lengths.append(length)
        if strict and len(unreadable) > MAX_UNREADABLE * len(sources):
            more = f" and {len(unreadable) - NUM_LISTED} more" if len(unreadable) > NUM_LISTED else ""
            raise InputError(
                f"{self.root}: {len(unreadable)} of {len(sources)} files cannot be read, more than 1 %: "
                f"{'; '.join(unreadable[:NUM_LISTED])}{more}; "
                f"python -m videos.check --data {self.name} --root {self.root} lists all; remove or repair them"
            )
        if strict and not self.sources:
            raise InputError(
                f"{self.root}: no file is long enough for {clip.num_frames} frames ({len(self.skipped)} are shorter)"
            )
        self.strides = [clip.fitting_stride(length) for length in self.lengths]

    # -- what a subclass may say otherwise ----------------------------------------------------------------------------

    num_classes = 0
    class_names: Sequence[str] = ()
    suffixes: Sequence[str] = VIDEO_SUFFIXES

    def list_sources(self) -> list[Path]:
        """All sources of the split, in a fixed order."""
        return files_below(self.root, VIDEO_SUFFIXES)

    def count(self, source: Path) -> int:
        """Frames of a source; InputError when it cannot be read."""
        return count_frames(source)

    def read(self, source: Path, frames: np.ndarray) -> np.ndarray:
        """The given frames, uint8 `[N, H, W, 3]`."""
        return read_video(source, frames)

    def verify(self, source: Path) -> None:
        """Decode all of a source; InputError on damage, also where reading would cover it up."""
        check_video(source)

    def bytes(self, source: Path) -> int:
        """Size on disk."""
        return source.stat().st_size

    def label(self, source: Path) -> int:
        """Class of a source; -1 for none."""
        return -1

    # -- the data set -------------------------------------------------------------------------------------------------

    def _probe(self, source: Path) -> tuple[int, str | None]:
        try:
            return self.count(source), None
        except InputError as error:
            return 0, str(error)

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> dict:
        return self.item(index, 0)

    def item(self, index: int, seed: int) -> dict:
        """{"video": uint8 `[3, 1+T, H, W]`, "label", "name"}, its window drawn from `seed`."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        source = self.sources[index]
        pictures = resize_and_crop(
            self.read(source, self.clip.frame_indices(self.lengths[index], seed)), self.clip.size
        )
        return {
            "video": np.ascontiguousarray(pictures.transpose(3, 0, 1, 2)),
            "label": self.label(source),
            "name": source.relative_to(self.root).as_posix(),
        }

    def labels(self) -> list[int]:
        """Label of every item, without decoding any."""
        return [self.label(source) for source in self.sources]

    def fingerprint(self) -> str:
        """Hash of the (path, size) list of the files in use."""
        digest = hashlib.sha256()
        for source in self.sources:
            digest.update(os.fsencode(f"{source.relative_to(self.root).as_posix()} {self.bytes(source)}\n"))
        return digest.hexdigest()[:16]


class VideoFolder(ClipDataset):
    """Every video file below a folder, without labels. Folders `train` and `test` below the root are the splits, if
    there are any."""

    def list_sources(self) -> list[Path]:
        """Videos of the split."""
        return files_below(split_folder(self.root, self.split), VIDEO_SUFFIXES)


class ImageFolder(ClipDataset):
    """Every image file below a folder, as clips of one frame."""

    name = "images"
    suffixes = IMAGE_SUFFIXES

    def __init__(self, root: str | Path, split: str, clip: ClipSpec, *, strict: bool = True):
        if clip.num_frames != 1:
            raise InputError(f"data set 'images' has clips of 1 frame, {clip.num_frames} asked")
        super().__init__(root, split, clip, strict=strict)

    def list_sources(self) -> list[Path]:
        """Images of the split."""
        return files_below(split_folder(self.root, self.split), IMAGE_SUFFIXES)

    def count(self, source: Path) -> int:
        """1, once the header has been read."""
        with open_image(source) as image:
            try:
                image.verify()
            except _DAMAGE as error:
                raise InputError(f"{source}: not a readable image ({error})") from error
        return 1

    def read(self, source: Path, frames: np.ndarray) -> np.ndarray:
        """The image, RGB."""
        return read_image(source)[None]

    def verify(self, source: Path) -> None:
        """Decode the image."""
        read_image(source)


def open_image(path: Path):
    """A PIL image whose header is read; InputError when it is none of `IMAGE_FORMATS`, or of an absurd size."""
    from PIL import Image

    try:
        image = Image.open(path, formats=IMAGE_FORMATS)
    except (*_DAMAGE, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not a readable image ({error})") from error
    try:
        check_picture(path, image.height, image.width)
    except InputError:
        image.close()
        raise
    return image


def read_image(path: Path) -> np.ndarray:
    """uint8 RGB `[H, W, 3]`; InputError when it cannot be decoded."""
    with open_image(path) as image:
        try:
            return np.array(image.convert("RGB"))
        except _DAMAGE as error:
            raise InputError(f"{path}: damaged image ({error})") from error


def split_folder(root: Path, split: str) -> Path:
    """`root/train` or `root/test` when the root is divided like that, else the root (then every split holds
    everything)."""
    return root / split if split != "all" and (root / split).is_dir() else root


def files_below(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Files with one of the suffixes below a folder, sorted; links that lead out of the folder are left out."""
    return sorted(path for path in _candidates(folder.rglob("*"), suffixes) if _is_file_within(path, folder.resolve()))


def images_in(folder: Path) -> list[Path]:
    """Images of one folder, without those below it; links that lead out of it are left out."""
    return [path for path in _candidates(folder.iterdir(), IMAGE_SUFFIXES) if _is_file_within(path, folder.resolve())]


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
    return path.is_file() and path.resolve().is_relative_to(resolved)
