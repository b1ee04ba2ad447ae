"""Kinetics-400: 400 classes of human action. Folders of classes, or flat folders with the official lists of labels."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from runtime.errors import InputError
from videos.codec import VIDEO_SUFFIXES
from videos.folders import ClipDataset, files_below
from videos.splits import sources_of_split

# The folder of each split as public copies name it; the held-out part is the validation set, as in published tables.
SPLIT_FOLDERS = {
    "train": ("train", "train_256", "videos_train"),
    "test": ("val", "val_256", "videos_val", "validation", "validate"),
}
_SPLITS = {folder: split for split, folders in SPLIT_FOLDERS.items() for folder in folders}
# A video's id, and the seconds that were cut out of it.
_FILE = re.compile(r"(?P<id>.+)_\d{6}_\d{6}")
LIST_FOLDERS = (".", "annotations", "..", "../annotations")
_COLUMNS = ("label", "youtube_id")


class Kinetics400(ClipDataset):
    """Videos of a split, labelled by the place of their class among all classes in sorted order.

    `val/<class>/<video>`, or `val/<video>` with the class in a list: any CSV file with the columns `label` and
    `youtube_id`, in the root, in its folder `annotations`, or around the root. `train` holds the training part, and the
    split "test" is the validation set. Where the root has no folder of a split, the column `split` of the lists
    decides; without lists a hash of the video ids does. A flat file that no list names has the label -1.
    """

    name = "kinetics400"

    def list_sources(self) -> list[Path]:
        """Videos of the split, sorted by path."""
        self._listed = read_lists(self.root)
        folders = [path for path in sorted(self.root.iterdir()) if path.is_dir() and path.name in _SPLITS]
        places = folders or [self.root]
        classes = {path.name for place in places for path in place.iterdir() if _is_class(path)}
        self.class_names = tuple(sorted(classes or {label for label, _ in self._listed.values()}))
        self.num_classes = len(self.class_names)
        self._index = {name: label for label, name in enumerate(self.class_names)}
        chosen = [path for path in folders if self.split in ("all", _SPLITS[path.name])]
        files = sorted(file for place in chosen or places for file in files_below(place, VIDEO_SUFFIXES))
        if chosen or self.split == "all":
            return files
        if folders:
            return []  # the other split's folder alone is there
        if not any(split for _, split in self._listed.values()):
            if _SPLITS.get(self.root.name) == self.split == "test":
                return files
            return sources_of_split(self.root, self.split, lambda _: files)
        return [path for path in files if self._listed.get(video_id(path), ("", ""))[1] == self.split]

    def label(self, source: Path) -> int:
        """Class index, from 0; -1 where neither folder nor list names the class."""
        name = source.parent.name
        if name not in self._index or source.parent == self.root:
            name = self._listed.get(video_id(source), ("", ""))[0]
        return self._index.get(name, -1)


def _is_class(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".") and path.name not in (*_SPLITS, "annotations")


def video_id(path: Path) -> str:
    """The YouTube id that begins an official file name, `<id>_<first second>_<last second>`; else the whole stem."""
    match = _FILE.fullmatch(path.stem)
    return match["id"] if match else path.stem


def read_lists(root: Path) -> dict[str, tuple[str, str]]:
    """(class, split) of every video id in the lists around a root; the split is "train", "test" or "" for another."""
    found: dict[str, tuple[str, str]] = {}
    files = [path for folder in LIST_FOLDERS for path in sorted((root.absolute() / folder).glob("*.csv"))]
    for path in files:
        try:
            with open(path, newline="", encoding="utf-8") as text:
                reader = csv.DictReader(text)
                if not set(_COLUMNS) <= set(reader.fieldnames or ()):
                    continue  # of something else
                for row in reader:
                    if not (row["label"] and row["youtube_id"]):
                        raise InputError(f"{path}, line {reader.line_num}: a row without label or youtube_id")
                    found.setdefault(row["youtube_id"], (row["label"], _SPLITS.get(row.get("split") or "", "")))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path}: not a readable list of labels ({error})") from error
    return found
