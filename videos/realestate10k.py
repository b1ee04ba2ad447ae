"""RealEstate10K: camera flights through houses, no classes. Clips are video files, or folders of frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from videos.codec import VIDEO_SUFFIXES
from videos.folders import IMAGE_SUFFIXES, ClipDataset, files_below
from videos.frame_folders import FrameFolders
from videos.splits import sources_of_split


class RealEstate10K(FrameFolders):
    """Video files anywhere below the root, and every folder that holds frame images; splits are as of `VideoFolder`.

    RealEstate10K names frames by time stamp.
    """

    name = "realestate10k"
    suffixes = (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES)

    def list_sources(self) -> list[Path]:
        """Clip files and frame folders of the split."""
        return sources_of_split(self.root, self.split, _sources_below)

    def probe(self, source: Path) -> tuple[int, int, int]:
        """Frames, height and width of a file or folder."""
        return super().probe(source) if source.is_dir() else ClipDataset.probe(self, source)

    def stat(self, source: Path) -> tuple[int, int]:
        """Size on disk and time of the last change of a file or folder."""
        return super().stat(source) if source.is_dir() else ClipDataset.stat(self, source)

    def read(self, source: Path, frames: np.ndarray) -> np.ndarray:
        """The given frames."""
        return super().read(source, frames) if source.is_dir() else ClipDataset.read(self, source, frames)

    def verify(self, source: Path) -> None:
        """Decode every frame."""
        super().verify(source) if source.is_dir() else ClipDataset.verify(self, source)


def _sources_below(folder: Path) -> list[Path]:
    frame_folders = {path.parent for path in files_below(folder, IMAGE_SUFFIXES)}
    return sorted([*files_below(folder, VIDEO_SUFFIXES), *frame_folders])
