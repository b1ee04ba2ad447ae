"""DAVIS: short videos of moving things as folders of JPEG frames, no classes."""

from __future__ import annotations

from pathlib import Path

from videos.frame_folders import FrameFolders
from videos.splits import held_out

RESOLUTIONS = ("480p", "Full-Resolution")


class DAVIS(FrameFolders):
    """`JPEGImages/480p/<video>/00000.jpg`, or `Full-Resolution` where that is there alone.

    "train" and "test" are the lists `ImageSets/2017/train.txt` and `val.txt`; where one of them is there alone, the
    other part is what it does not name; without both, one video in twenty is "test", by a hash of its name.
    """

    name = "davis"

    def list_sources(self) -> list[Path]:
        """Folders of the videos of the split."""
        pictures = self.root / "JPEGImages"
        folder = next((pictures / name for name in RESOLUTIONS if (pictures / name).is_dir()), pictures)
        found = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        if self.split == "all":
            return found
        lists = {"train": "train.txt", "test": "val.txt"}
        own = lists.pop(self.split)
        for name in (own, *lists.values()):
            names = self.root / "ImageSets" / "2017" / name
            if names.is_file():
                listed = set(names.read_text(errors="replace").split())
                return [path for path in found if (path.name in listed) == (name == own)]
        return [
            p for p, out in zip(found, held_out(self.root, found), strict=True) if out in (self.split == "test", None)
        ]
