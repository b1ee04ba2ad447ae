"""Pictures of validation clips: the clip itself, its reconstruction, and what is predicted of its second half."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from videos import to_uint8

CLIPS_SHOWN = 4
# Of a long clip, so many frames are shown side by side.
FRAMES_SHOWN = 9
# Pixels of a shown frame's longer side, about: small ones are enlarged by whole numbers, large ones averaged.
SIDE = 128
BORDER = 2
PREDICTED, REST = (227, 116, 0), (255, 255, 255)


def strips(clips: Sequence[Sequence[Tensor]], observed: int) -> dict[str, np.ndarray]:
    """Pictures by name: each clip as a strip of frames and, when it has more than one, playing.

    Args:
        clips: For each clip the `videos` of `strip`.
        observed: Frames that the predictions have seen.
    """
    found = {}
    for number, videos in enumerate(clips):
        found[f"clip_{number}"] = strip(videos, observed)
        if videos[0].shape[1] > 1:
            found[f"clip_{number}_playing"] = playing(videos, observed)
    return found


def strip(videos: Sequence[Tensor], observed: int) -> np.ndarray:
    """One picture: a row for each video, time from left to right, predicted frames underlined.

    Args:
        videos: `[3, N, H, W]` in [-1, 1]: real, reconstructed and, where there is one, predicted.
        observed: Frames that the prediction has seen.

    Returns:
        uint8 `[1, height, width, 3]`.
    """
    rows = _bordered(videos, observed)
    count = rows[0].shape[0]
    chosen = np.linspace(0, count - 1, min(count, FRAMES_SHOWN)).round().astype(int)
    return np.concatenate([np.concatenate(list(row[chosen]), axis=1) for row in rows], axis=0)[None]


def playing(videos: Sequence[Tensor], observed: int) -> np.ndarray:
    """The same videos from left to right, to be played: uint8 `[N, height, width, 3]`."""
    return np.concatenate(_bordered(videos, observed), axis=2)


def _bordered(videos: Sequence[Tensor], observed: int) -> list[np.ndarray]:
    """uint8 `[N, h, w, 3]` each, with room to the right and below; below the frames of the third that are predicted, a
    line."""
    found = []
    for number, video in enumerate(videos):
        frames = to_uint8(_resized(video.float().transpose(0, 1))).permute(0, 2, 3, 1).cpu().numpy()
        height, width = frames.shape[1:3]
        out = np.full((len(frames), height + BORDER, width + BORDER, 3), REST, dtype=np.uint8)
        out[:, :height, :width] = frames
        if number == 2:
            out[observed:, height:, :width] = PREDICTED
        found.append(out)
    return found


def _resized(frames: Tensor) -> Tensor:
    """`[N, 3, H, W]` with a longer side of about `SIDE`."""
    longer = max(frames.shape[-2:])
    if longer <= SIDE:
        return frames.repeat_interleave(SIDE // longer, dim=-1).repeat_interleave(SIDE // longer, dim=-2)
    size = [max(1, round(side * SIDE / longer)) for side in frames.shape[-2:]]
    return F.interpolate(frames, size, mode="area")
