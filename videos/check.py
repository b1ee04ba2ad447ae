"""What a data set folder holds: `python -m videos.check --data ucf101 --root DIR`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError


@dataclass(frozen=True, kw_only=True)
class CheckConfig(CommonFlags):
    """Flags of `python -m videos.check`."""

    data: str = flag("videos", "data set: ucf101, realestate10k, videos, images, moving_shapes")
    root: str | None = flag(None, "its folder")
    split: str = flag("all", "which part", choices=("all", "train", "test"))
    num_frames: int = flag(17, "frames that a clip needs; shorter videos are listed", low=1)
    frame_stride: int = flag(1, "source frames between two kept ones", low=1)


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


if __name__ == "__main__":
    run_command(check, CheckConfig, example="python -m videos.check --data ucf101 --root UCF-101")
