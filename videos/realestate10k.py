"""RealEstate10K: camera flights through houses, no classes. Clips are video files, or folders of frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from runtime.errors import InputError
from videos.codec import VIDEO_SUFFIXES, count_frames, read_video
from videos.folders import IMAGE_SUFFIXES, ClipDataset, files_below, images_in, read_image, split_folder


class RealEstate10K(ClipDataset):
    """Video files anywhere below the root (or below its `train` and `test`), and every folder that holds frame images.

    Frames of a folder are ordered by the number in their name, as RealEstate10K names them by time stamp.
    """

    name = "realestate10k"
    suffixes = (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES)

    def list_sources(self) -> list[Path]:
        """Clip files and frame folders of the split."""
        folder = split_folder(self.root, self.split)
        frame_folders = {path.parent for path in files_below(folder, IMAGE_SUFFIXES)}
        return sorted([*files_below(folder, VIDEO_SUFFIXES), *frame_folders])

    def count(self, source: Path) -> int:
        """Frames of a file or folder."""
        return len(_frames(source)) if source.is_dir() else count_frames(source)

    def bytes(self, source: Path) -> int:
        """Size on disk; of a folder, that of its frames."""
        return sum(path.stat().st_size for path in _frames(source)) if source.is_dir() else source.stat().st_size

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
            self.read(source, np.arange(self.count(source)))
        else:
            super().verify(source)


def _frames(folder: Path) -> list[Path]:
    """Frame images by the number in their names: frame 10 comes after frame 2."""

    def number(path: Path) -> tuple:
        digits = "".join(c for c in path.stem if c.isdecimal())
        return (int(digits) if digits else -1, path.name)

    return sorted(images_in(folder), key=number)
