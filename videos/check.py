"""What a data set folder holds: `python -m videos.check --data ucf101 --root DIR`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from runtime.command import ReadingFlags, flag, run_command
from runtime.errors import InputError


@dataclass(frozen=True, kw_only=True)
class CheckConfig(ReadingFlags):
    """Flags of `python -m videos.check`."""

    data: str = flag("videos", "data set: ucf101, realestate10k, kinetics400, davis, sintel, badja, videos, images, …")
    root: str | None = flag(None, "its folder")
    split: str = flag("all", "which part", choices=("all", "train", "test"))
    num_frames: int = flag(17, "frames that a clip needs; shorter videos are listed", low=1)
    frame_stride: int = flag(1, "source frames between two kept ones", low=1)
    full: bool = flag(False, "decode every frame, which also shows damage that players cover up")


def check(config: CheckConfig) -> None:
    """Print counts by class, lengths, strides, and every file that is unreadable or too short."""
    from videos.clip import ClipSpec
    from videos.datasets import FILE_DATASETS, open_dataset, open_files
    from videos.folders import ClipDataset

    frames = 1 if config.data == "images" else config.num_frames
    clip = ClipSpec(num_frames=frames, size=64, frame_stride=config.frame_stride)
    if config.data in FILE_DATASETS and config.root is not None:
        dataset = open_files(config.data, config.root, config.split, clip, strict=False)
    else:  # synthetic, or refused for its name or for want of a root
        dataset = open_dataset(config.data, config.root, config.split, clip)
    print(
        f"{config.data} (split {config.split}): {len(dataset)} usable items, {len(dataset.skipped)} skipped, "
        f"fingerprint {dataset.fingerprint()}"
    )
    if isinstance(dataset, ClipDataset) and len(dataset):
        print(
            f"  frames: {min(dataset.lengths)} to {max(dataset.lengths)}; "
            f"frame stride used: {dict(sorted(Counter(dataset.strides).items()))}"
        )
        counts = Counter(dataset.label(source) for source in dataset.sources)
        for label, count in sorted(counts.items()):
            if label >= 0:
                print(f"  {dataset.class_names[label]} (label {label}): {count}")
    for path, reason in dataset.skipped:
        print(f"  skipped {path}: {reason}")
    if not len(dataset):
        raise InputError(f"{config.root}: no usable item of data set {config.data!r} (split {config.split!r})")
    if config.full and isinstance(dataset, ClipDataset):
        decode_all(dataset)


def decode_all(dataset) -> None:
    """Decode everything and list what is damaged; InputError if anything is."""
    damaged = 0
    for source in dataset.sources:
        try:
            dataset.verify(source)
        except InputError as error:
            damaged += 1
            print(f"  {error}")
    if damaged:
        raise InputError(f"{dataset.root}: {damaged} of {len(dataset)} items are damaged inside; they are listed above")
    print(f"  all {len(dataset)} items decoded: no damage")


if __name__ == "__main__":
    run_command(check, CheckConfig, example="python -m videos.check --data ucf101 --root UCF-101")
