"""Which frames of a video make a clip, and at what size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from runtime.errors import InputError

WINDOWS = ("random", "first", "center", "scattered")
LARGEST = 16_384  # frames, pixels, stride: beyond it a number is a mistake that would fill the memory


@dataclass(frozen=True)
class ClipSpec:
    """A window of frames and its size in pixels.

    Attributes:
        num_frames: Frames kept.
        size: Height and width, or (height, width): the shorter side is resized to fit, then the centre is cropped.
        frame_stride: Source frames between two kept ones; or (lowest, highest), of random windows: each has a stride
            of its own, drawn from the item's seed with equal probability. A video that is too short gets the largest
            stride that fits.
        window: Where the window starts: "random" (drawn from the item's seed), "first", or "center"; or "scattered":
            single frames from anywhere in the video (drawn likewise), in order.
    """

    num_frames: int = 17
    size: int | tuple[int, int] = 256
    frame_stride: int | tuple[int, int] = 1
    window: str = "random"

    def __post_init__(self) -> None:
        if isinstance(self.size, list):
            object.__setattr__(self, "size", tuple(self.size))  # as JSON gives it back
        if isinstance(self.frame_stride, list):
            object.__setattr__(self, "frame_stride", tuple(self.frame_stride))
        if isinstance(self.size, tuple) and len(self.size) != 2:
            raise InputError(f"size of a clip is one number or (height, width), got {self.size!r}")
        strides = self.frame_stride if isinstance(self.frame_stride, tuple) else (self.frame_stride,)
        if len(strides) not in (1, 2):
            raise InputError(f"frame_stride of a clip is one number or (lowest, highest), got {self.frame_stride!r}")
        for name, value in (
            ("num_frames", self.num_frames),
            *(("frame_stride", stride) for stride in strides),
            ("size", self.height),
            ("size", self.width),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST:
                raise InputError(
                    f"{name} of a clip must be a whole number of at least 1 and at most {LARGEST}, "
                    f"got {repr(value)[:60]}"
                )
        if self.window not in WINDOWS:
            raise InputError(f"window {self.window!r} is not known; known: {', '.join(WINDOWS)}")
        if isinstance(self.frame_stride, tuple):
            if strides[0] > strides[-1]:
                raise InputError(f"frame_stride of a clip goes from the lowest to the highest, got {strides}")
            if self.window != "random":
                raise InputError(f"frame_stride {strides} is drawn for random windows only, not for {self.window!r}")

    @property
    def height(self) -> int:
        """Pixels."""
        return self.size[0] if isinstance(self.size, tuple) else self.size

    @property
    def width(self) -> int:
        """Pixels."""
        return self.size[1] if isinstance(self.size, tuple) else self.size

    @property
    def strides(self) -> tuple[int, int]:
        """Lowest and highest frame stride."""
        return self.frame_stride if isinstance(self.frame_stride, tuple) else (self.frame_stride, self.frame_stride)

    def fitting_stride(self, available: int) -> int:
        """The largest stride up to `frame_stride` that fits into `available` frames; 0 when even stride 1 does not."""
        if available < self.num_frames:
            return 0
        highest = self.strides[1]
        return highest if self.num_frames == 1 else min(highest, (available - 1) // (self.num_frames - 1))

    def drawn_stride(self, random: np.random.Generator, fitting: int) -> int:
        """The stride of a window: one of the range, no larger than `fitting`."""
        lowest, highest = min(self.strides[0], fitting), min(self.strides[1], fitting)
        return lowest if lowest == highest else int(random.integers(lowest, highest + 1))

    def enlarges(self, height: int, width: int) -> bool:
        """Whether pictures of this size have to be enlarged to cover the clip's."""
        return height < self.height or width < self.width

    def frame_indices(self, available: int, seed: int) -> np.ndarray:
        """Indices of the kept frames, int64 `[num_frames]`; `seed` decides a random window and its stride."""
        fitting, random = self.fitting_stride(available), np.random.default_rng(seed)
        if fitting == 0:
            raise InputError(f"{available} frames are fewer than the {self.num_frames} of a clip")
        if self.window == "scattered":
            return np.sort(random.choice(available, self.num_frames, replace=False))
        stride = self.drawn_stride(random, fitting)
        room = available - ((self.num_frames - 1) * stride + 1)
        start = {"first": 0, "center": room // 2, "random": int(random.integers(room + 1))}[self.window]
        return start + stride * np.arange(self.num_frames)


def lowest_stride(stride: int | Sequence[int] | None) -> int:
    """The stride, or the lowest of a range, that a run's config.json holds; 1 where it holds none."""
    return (stride or 1) if not isinstance(stride, Sequence) else min(stride, default=1)


class Fit(NamedTuple):
    """How pictures are brought to a clip's size: resized to `height` x `width`, of which `rows` and `columns` stay."""

    height: int
    width: int
    rows: slice
    columns: slice


def fit(source_height: int, source_width: int, size: int | tuple[int, int]) -> Fit:
    """Cover `size` (one number, or height and width) as tightly as can be, and crop the centre."""
    height, width = (size, size) if isinstance(size, int) else size
    scale = max(height / source_height, width / source_width)
    resized = max(height, round(source_height * scale)), max(width, round(source_width * scale))
    top, left = (resized[0] - height) // 2, (resized[1] - width) // 2
    return Fit(*resized, slice(top, top + height), slice(left, left + width))


def resize_and_crop(frames: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Bring frames to a size as `fit` says, antialiased bilinear: uint8 `[N, H, W, 3]` -> `[N, h, w, 3]`."""
    import torch
    import torch.nn.functional as F

    target = fit(*frames.shape[1:3], size)
    if target[:2] != frames.shape[1:3]:
        pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
        # uint8 in, uint8 out: torch's native integer kernel, several times faster than float.
        resized = F.interpolate(pixels, size=target[:2], mode="bilinear", antialias=True)
        frames = resized.permute(0, 2, 3, 1).numpy()
    return np.ascontiguousarray(frames[:, target.rows, target.columns])
