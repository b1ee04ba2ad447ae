"""Data sets by name."""

from __future__ import annotations

from runtime.errors import InputError
from videos.clip import ClipSpec

DATASETS = ("moving_shapes", "moving_shapes_textured", "ucf101", "realestate10k", "videos", "images")


def open_dataset(
    name: str, root: str | None = None, split: str = "all", clip: ClipSpec | None = None, truth: bool = False
):
    """Open a data set.

    Args:
        name: One of `DATASETS`.
        root: Its folder; not used by the synthetic ones.
        split: "all", "train" or "test".
        clip: Which frames, at what size; default `ClipSpec()`.
        truth: Add "flow", "tracks" and "visible" to each item (moving_shapes only).

    Returns:
        An object with `len(ds)`; `ds[i]` -> {"video": uint8 `[3, 1+T, H, W]`, "label": int (-1: none), "name": str};
        `ds.item(i, seed)` for a window drawn from `seed`; `num_classes`, `class_names`, `skipped` and `fingerprint()`.

    Raises:
        InputError: On an unknown name or split, or a folder that does not hold the data set.
    """
    import difflib

    clip = clip or ClipSpec()
    if split not in ("all", "train", "test"):
        raise InputError(f"split {split!r} is not known; known: all, train, test")
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(DATASETS)}"
        raise InputError(f"data set {name!r} is not known{hint}")
    if name.startswith("moving_shapes"):
        from videos.moving_shapes import MovingShapes

        level = "textured" if name.endswith("textured") else "plain"
        return MovingShapes(root, split, clip, truth, level)
    if truth:
        raise InputError(f"data set {name!r} has no ground truth of motion; moving_shapes has")
    if root is None:
        raise InputError(f"data set {name!r} needs --root, the folder that holds it")
    if name == "ucf101":
        from videos.ucf101 import UCF101

        return UCF101(root, split, clip)
    if name == "realestate10k":
        from videos.realestate10k import RealEstate10K

        return RealEstate10K(root, split, clip)
    from videos.folders import ImageFolder, VideoFolder

    return (VideoFolder if name == "videos" else ImageFolder)(root, split, clip)
