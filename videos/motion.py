"""Data sets whose motion is known: videos in consecutive windows, and flow and points brought to a clip's size."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from videos.clip import ClipSpec, fit
from videos.frame_folders import FrameFolders

# Bilinear weights of an invalid pixel below which a resized one still counts.
_MOSTLY = 0.01


def windows_of(length: int, clip: ClipSpec, stride: int) -> range:
    """First frames of the windows that a video of `length` frames is cut into: the last frame of one is the first of
    the next, so that each step from frame to frame is in one window, but for a rest at the end."""
    span = (clip.num_frames - 1) * stride
    return range(0, length - span, max(1, span))


class MotionClips(FrameFolders):
    """Folders of frames, each in consecutive windows, that are the items; `ClipSpec.window` and the seed say nothing.

    Args:
        truth: Whether items hold what `truth_of` gives.
    """

    in_windows = True

    def __init__(self, root, split: str, clip: ClipSpec, *, strict: bool = True, truth: bool = False):
        self.truth = truth
        super().__init__(root, split, clip, strict=strict)

    def _use(self, clip: ClipSpec, *, strict: bool = True, enlarge: bool = True) -> None:
        super()._use(clip, strict=strict, enlarge=enlarge)
        found = zip(self.sources, self.lengths, self.strides, strict=True)
        cut = [(*video, start) for video in found for start in windows_of(video[1], clip, video[2])]
        self.sources, self.lengths, self.strides = ([row[column] for row in cut] for column in range(3))
        self.starts = [row[3] for row in cut]
        self.num_enlarged = 0

    def name_of(self, index: int) -> str:
        """Path below the root, and the first frame of the window."""
        return f"{super().name_of(index)}@{self.starts[index]}"

    def classes(self) -> list[Hashable]:
        """The video of every item: windows of one video are no independent draws."""
        return [source.relative_to(self.root).as_posix() for source in self.sources]

    def frame_indices(self, index: int, seed: int) -> np.ndarray:
        """Frames of a window; the seed says nothing."""
        return self.starts[index] + self.strides[index] * np.arange(self.clip.num_frames)

    def read_item(self, index: int, frames: np.ndarray) -> tuple[np.ndarray, dict]:
        """Pictures, and the truth about their motion where it was asked for."""
        pictures = self.read(self.sources[index], frames)
        return pictures, self.truth_of(index, frames, pictures.shape[1:3]) if self.truth else {}

    def truth_of(self, index: int, frames: np.ndarray, source: tuple[int, int]) -> dict[str, np.ndarray]:
        """What is known of the motion in these frames, in pixels of the clip; `source` is (H, W) of the pictures."""
        raise NotImplementedError


def fit_flow(flow: np.ndarray, valid: np.ndarray, size: int | tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Bring flow to the size of `resize_and_crop`'s pictures: vectors are averaged over valid pixels, and scaled.

    Args:
        flow: float32 `[T, 2, H, W]`, (u, v) in pixels.
        valid: Bool `[T, H, W]`.

    Returns:
        Flow float32 `[T, 2, h, w]` in pixels of the new size, and where it is valid, bool `[T, h, w]`: where hardly
        any invalid pixel took part.
    """
    import torch
    import torch.nn.functional as F

    source = flow.shape[-2:]
    target = fit(*source, size)
    weight = torch.from_numpy(valid[:, None].astype(np.float32))
    vectors = torch.from_numpy(np.where(valid[:, None], flow, 0).astype(np.float32))
    if target[:2] != source:
        vectors, weight = (
            F.interpolate(x, size=target[:2], mode="bilinear", antialias=True) for x in (vectors * weight, weight)
        )
        vectors = vectors / weight.clamp_min(1e-6)
        vectors = vectors * torch.tensor([target.width / source[1], target.height / source[0]]).view(1, 2, 1, 1)
    kept = weight[:, 0, target.rows, target.columns] > 1.0 - _MOSTLY
    return np.ascontiguousarray(vectors[:, :, target.rows, target.columns].numpy()), kept.numpy()


def fit_points(
    points: np.ndarray, visible: np.ndarray, source: tuple[int, int], size: int | tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Bring points to the size of `resize_and_crop`'s pictures.

    Args:
        points: `[P, N, 2]`, (x, y) in pixels; (0, 0) is the centre of the top left pixel.
        visible: Bool `[P, N]`.
        source: (H, W) of the pictures that they are in.

    Returns:
        Points float32 `[P, N, 2]` in pixels of the new size, and which are visible and inside the crop.
    """
    height, width = (size, size) if isinstance(size, int) else size
    target = fit(*source, size)
    scale = np.array([target.width / source[1], target.height / source[0]])
    found = (np.asarray(points, np.float64) + 0.5) * scale - 0.5 - (target.columns.start, target.rows.start)
    inside = ((found >= -0.5) & (found < (width - 0.5, height - 0.5))).all(-1)
    return found.astype(np.float32), np.asarray(visible, bool) & inside
