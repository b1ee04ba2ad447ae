"""Videos that are folders of frame images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from runtime.errors import InputError
from videos.folders import IMAGE_SUFFIXES, ClipDataset, images_in
from videos.images import probe_image, read_image


class FrameFolders(ClipDataset):
    """Clips of folders of frames; a subclass lists its sources, and may say where the frames of one lie.

    Frames are ordered by the number in their name.
    """

    suffixes = IMAGE_SUFFIXES

    def frames_of(self, source: Path) -> list[Path]:
        """Frame images of a source, in order of time."""
        return numbered_images(source)

    def probe(self, source: Path) -> tuple[int, int, int]:
        """How many frames, and height and width of the first."""
        files = self.frames_of(source)
        if not files:
            raise InputError(f"{source}: no frames")
        return len(files), *probe_image(files[0])

    def stat(self, source: Path) -> tuple[int, int]:
        """Bytes of all frames and time of the last change of any."""
        found = [path.stat() for path in self.frames_of(source)]
        return sum(stat.st_size for stat in found), max(stat.st_mtime_ns for stat in [*found, source.stat()])

    def read(self, source: Path, frames: np.ndarray) -> np.ndarray:
        """The given frames."""
        files = self.frames_of(source)
        pictures = [read_image(files[i]) for i in frames]
        if len({picture.shape for picture in pictures}) > 1:
            raise InputError(f"{source}: its frames differ in size")
        return np.stack(pictures)

    def verify(self, source: Path) -> None:
        """Decode every frame."""
        self.read(source, np.arange(len(self.frames_of(source))))


def numbered_images(folder: Path) -> list[Path]:
    """Images of a folder by the number in their names: frame 10 comes after frame 2."""
    return sorted(images_in(folder), key=lambda path: (number_of(path), path.name))


def number_of(path: Path) -> int:
    """The number in a file's name; -1 without any."""
    digits = "".join(c for c in path.stem if c.isdecimal())
    return int(digits) if digits else -1
