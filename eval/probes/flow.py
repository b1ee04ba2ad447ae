"""Optical flow out of features: a head gives the steps from frame to frame, judged by the endpoint error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class FlowTruth:
    """The flow of clips, to train on and to judge by.

    A group after the first answers for the steps that end in its frames, so that all groups but the first do.
    """

    metrics, trivial_answer, is_trained = ("EPE",), "zero flow", True
    channels = 2

    @staticmethod
    def part(item: dict, observed: int) -> dict:
        """Flow `[T, 2, H, W]` of a clip, and where it is valid, `[T, H, W]`."""
        return {"flow": item["flow"], "valid": item.get("valid", np.ones(item["flow"][:, 0].shape, bool))}

    def __init__(self, items: Sequence[dict], temporal: int):
        """Args:
        items: What `part` keeps of each clip.
        temporal: Frames of a group.
        """
        self.frames = temporal
        self.flow = torch.from_numpy(np.stack([item["flow"] for item in items]))
        self.valid = torch.from_numpy(np.stack([item["valid"] for item in items]))
        self.scale = float(self.flow.square().mean().sqrt().clamp_min(1e-6))

    def _answer(self, pictures: Tensor) -> Tensor:
        return pictures[:, 1:].flatten(1, 2) * self.scale  # [B, T, 2, H, W]

    def loss(self, pictures: Tensor, places: list[int]) -> Tensor:
        """The mean endpoint error over valid pixels, but smooth below the scale of the flow.

        The plain error is least for the median: where most pixels stand still, as in synthetic clips, a head that does
        not know yet which move stays at zero for good.
        """
        flow, valid = (x[places].to(pictures.device) for x in (self.flow, self.valid))
        squares = ((self._answer(pictures) - flow) / self.scale).square().sum(2)
        return self.scale * ((((squares + 1).sqrt() - 1) * valid).sum() / valid.sum().clamp_min(1))

    def sums(self, pictures: Tensor, places: list[int]) -> dict[str, np.ndarray]:
        """For each clip the sum of endpoint errors and the number of valid pixels: float64 `[B, 2]` by metric."""
        return self._sums(self._answer(pictures).cpu(), places)

    def _sums(self, flow: Tensor, places: list[int]) -> dict[str, np.ndarray]:
        errors = (flow.double() - self.flow[places]).square().sum(2).sqrt() * self.valid[places]
        parts = errors.flatten(1).sum(1), self.valid[places].flatten(1).sum(1).double()
        return {self.metrics[0]: torch.stack(parts, 1).numpy()}

    def trivial(self) -> dict[str, np.ndarray]:
        """`sums` of the answer that nothing moves."""
        return self._sums(torch.zeros_like(self.flow), list(range(len(self.flow))))
