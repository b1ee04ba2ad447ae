"""Data sets by name."""

from __future__ import annotations

import difflib
import importlib

from runtime.errors import InputError
from videos.clip import ClipSpec

# Data sets of files: module and class (`videos.folders.ClipDataset`).
FILE_DATASETS = {
    "ucf101": "ucf101.UCF101",
    "realestate10k": "realestate10k.RealEstate10K",
    "kinetics400": "kinetics400.Kinetics400",
    "davis": "davis.DAVIS",
    "sintel": "sintel.Sintel",
    "sintel_clean": "sintel.SintelClean",
    "badja": "badja.BADJA",
    "videos": "folders.VideoFolder",
    "images": "images.ImageFolder",
}
SYNTHETIC = ("moving_shapes", "moving_shapes_textured", "moving_shapes_unpredictable")
DATASETS = (*SYNTHETIC, "tapvid_davis", *FILE_DATASETS)
# What is known of motion, by data set: flow, or tracks of points.
WITH_FLOW = (*SYNTHETIC, "sintel", "sintel_clean")
WITH_TRACKS = (*SYNTHETIC, "tapvid_davis", "badja")


def open_dataset(
    name: str, root: str | None = None, split: str = "all", clip: ClipSpec | None = None, truth: bool = False
):
    """Open a data set.

    Args:
        name: One of `DATASETS`.
        root: Its folder; not used by the synthetic ones.
        split: "all", "train" or "test".
        clip: Which frames, at what size; default `ClipSpec()`, with one frame for "images".
        truth: Add what is known of motion to each item: "flow" (`WITH_FLOW`; Sintel's also has "valid"), "tracks" and
            "visible" (`WITH_TRACKS`).

    Returns:
        An object with `len(ds)`; `ds[i]` -> {"video": uint8 `[3, 1+T, H, W]`, "label": int (-1: none), "name": str};
        `ds.item(i, seed)` for a window drawn from `seed`, which is always 0 in `ds[i]`; `ds.with_clip(clip)`, the same
        files as other clips; `num_classes`, `class_names`, `skipped` and `fingerprint()`. Data sets of files have more:
        see `videos.folders.ClipDataset`.

    Raises:
        InputError: On an unknown name or split, or a folder that does not hold the data set.
    """
    clip = clip or ClipSpec(num_frames=1 if name == "images" else ClipSpec.num_frames)
    if split not in ("all", "train", "test"):
        raise InputError(f"split {split!r} is not known; known: all, train, test")
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(DATASETS)}"
        raise InputError(f"data set {name!r} is not known{hint}")
    if name.startswith("moving_shapes"):
        from videos.moving_shapes import MovingShapes

        level = name.removeprefix("moving_shapes").lstrip("_") or "plain"
        return MovingShapes(root, split, clip, truth, level)
    if truth and name not in (*WITH_FLOW, *WITH_TRACKS):
        known = ", ".join(dict.fromkeys((*WITH_FLOW, *WITH_TRACKS)))
        raise InputError(f"data set {name!r} has no ground truth of motion; known of: {known}")
    if root is None:
        raise InputError(f"data set {name!r} needs --root, the folder that holds it")
    if name == "tapvid_davis":
        from videos.tapvid import TapVidDavis

        return TapVidDavis(root, split, clip)
    return open_files(name, root, split, clip, truth=truth)


def left_out_words(dataset, root: str | None) -> str:
    """One line about what of a folder the data set leaves out, such as links to folders; "" where that is nothing."""
    if not dataset.skipped:
        return ""
    first = ": ".join(dataset.skipped[0])
    return f"{len(dataset.skipped)} entries of {root} are left out, such as {first}; python -m videos.check lists them"


def open_files(name: str, root: str, split: str, clip: ClipSpec, *, strict: bool = True, truth: bool = False):
    """Open a data set of files; unless `strict`, also one that is mostly unreadable, to see its `skipped`."""
    module, kind = FILE_DATASETS[name].split(".")
    more = {"truth": True} if truth else {}
    return getattr(importlib.import_module(f"videos.{module}"), kind)(root, split, clip, strict=strict, **more)
