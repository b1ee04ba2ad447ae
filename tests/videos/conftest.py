"""Small videos, sound and damaged, written where a test asks for them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


def numbered_frames(num_frames: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Grey frames whose brightness is their index times 3: decoding tells which frame it was. uint8 `[N, H, W, 3]`."""
    values = (3 * np.arange(num_frames)).astype(np.uint8)
    return np.broadcast_to(values[:, None, None, None], (num_frames, height, width, 3)).copy()


def indices_of(frames: np.ndarray) -> list[int]:
    """Which of `numbered_frames` each frame is; compression moves grey by less than half a step."""
    return np.round(frames.reshape(len(frames), -1).mean(1) / 3).astype(int).tolist()


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[..., Path]:
    """`make_video("Archery/a.avi", num_frames=20)` writes numbered frames below `tmp_path` and returns the path."""
    from videos import write_video

    def make(name: str, num_frames: int = 20, height: int = 48, width: int = 64) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, numbered_frames(num_frames, height, width), fps=25)
        return path

    return make


@pytest.fixture
def which_frames() -> Callable[[np.ndarray], list[int]]:
    return indices_of
