"""The next frame out of features of the frames before it, judged by the mean squared error of pixels in [-1, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from videos import to_float


class NextFrame:
    """The frame after the observed ones. The last group's features answer for it."""

    metrics, trivial_answer, is_trained = ("next-frame MSE",), "last frame", True
    channels, frames, scale = 3, 1, 1.0  # pixels have one scale

    @staticmethod
    def part(item: dict, observed: int) -> dict:
        """The last of the observed frames and the one after, uint8 `[3, 2, H, W]`."""
        return {"pair": item["video"][:, observed - 1 : observed + 1].copy()}

    def __init__(self, items: Sequence[dict], temporal: int):
        """Args:
        items: What `part` keeps of each clip.
        """
        pair = torch.from_numpy(np.stack([item["pair"] for item in items]))
        self.last, self.next = pair[:, :, 0], pair[:, :, 1]

    def loss(self, pictures: Tensor, places: list[int]) -> Tensor:
        """Mean squared error."""
        return (pictures[:, -1, 0] - to_float(self.next[places]).to(pictures.device)).square().mean()

    def sums(self, pictures: Tensor, places: list[int]) -> dict[str, np.ndarray]:
        """For each clip the sum of squared errors and the number of values: float64 `[B, 2]` by metric."""
        return self._sums(pictures[:, -1, 0].cpu(), places)

    def _sums(self, frame: Tensor, places: list[int]) -> dict[str, np.ndarray]:
        errors = (frame.double() - to_float(self.next[places])).square().flatten(1)
        return {self.metrics[0]: np.stack([errors.sum(1).numpy(), np.full(len(errors), float(errors.shape[1]))], 1)}

    def trivial(self) -> dict[str, np.ndarray]:
        """`sums` of the last observed frame, repeated."""
        return self._sums(to_float(self.last), list(range(len(self.last))))
