"""RealEstate10K: camera flights through houses, no classes. Clips are video files, or folders of frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from runtime.errors import InputError
from videos.codec import VIDEO_SUFFIXES, probe_video, read_video
from videos.folders import IMAGE_SUFFIXES, ClipDataset, files_below, images_in
from videos.images import probe_image, read_image
from videos.splits import sources_of_split


class RealEstate10K(ClipDataset):
    """Video files anywhere below the root, and every folder that holds frame images; splits are as of `VideoFolder`.

    Frames of a folder are ordered by the number in their name, as RealEstate10K names them by time stamp.
    """

    name = "realestate10k"
    suffixes = (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES)

    def list_sources(self) -> list[Path]:
        """Clip files and frame folders of the split."""
        return sources_of_split(self.root, self.split, _sources_below)

    def probe(self, source: Path) -> tuple[int, int, int]:
        """Frames, height and width of a file or folder; of a folder, those of its first frame."""
        if not source.is_dir():
            return probe_video(source)
        files = _frames(source)
        if not files:
            raise InputError(f"{source}: no frames")
        return len(files), *probe_image(files[0])

    def stat(self, source: Path) -> tuple[int, int]:
        """Size on disk and time of the last change; of a folder, the sum and the latest of its frames."""
        if not source.is_dir():
            return super().stat(source)
        found = [path.stat() for path in _frames(source)]
        return sum(stat.st_size for stat in found), max(stat.st_mtime_ns for stat in [*found, source.stat()])

    def read(self, source: Path, frames: np.ndarray) -> np.ndarray:
        """The given frames."""
        if not source.is_dir():
            return read_video(source, frames)
        files = _frames(source)
        pictures = [read_image(files[i]) for i in frames]
        if len({picture.shape for picture in pictures}) > 1:
            raise InputError(f"{source}: its frames differ in size")
        return np.stack(pictures)

    def verify(self, source: Path) -> None:
        """Decode every frame."""
        if source.is_dir():
            self.read(source, np.arange(len(_frames(source))))
        else:
            super().verify(source)


def _sources_below(folder: Path) -> list[Path]:
    frame_folders = {path.parent for path in files_below(folder, IMAGE_SUFFIXES)}
    return sorted([*files_below(folder, VIDEO_SUFFIXES), *frame_folders])


def _frames(folder: Path) -> list[Path]:
    """Frame images by the number in their names: frame 10 comes after frame 2."""

    def number(path: Path) -> tuple:
        digits = "".join(c for c in path.stem if c.isdecimal())
        return (int(digits) if digits else -1, path.name)

    return sorted(images_in(folder), key=number)
