"""Predictive reconstruction: hide the last latent groups from the encoder and decode the whole clip all the same.

Source: PV-VAE section 3.2. A *drop schedule* says how many groups to hide at a step, a *padding strategy* what stands
in their place in front of the decoder. Both are small objects, so that other schedules and paddings are one class each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from runtime import seeds
from runtime.errors import InputError


@dataclass(frozen=True)
class SuffixDrop:
    """Drop the last k groups, k uniform on {0, …, floor((G - 1) * max_ratio)}; the first frame always stays.

    Attributes:
        max_ratio: The paper's maximum dropping ratio (MDR), in [0, 1]; 0 switches prediction off.
    """

    max_ratio: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.max_ratio <= 1.0:
            raise InputError(f"max_drop_ratio must lie in [0, 1], got {self.max_ratio}")

    def largest(self, groups: int) -> int:
        """The largest k for a clip of `groups` latent groups."""
        # The small term keeps e.g. 4 * 0.75 from falling to 2 in floating point.
        return int((groups - 1) * self.max_ratio + 1e-9)

    def num_dropped(self, groups: int, seed: int, step: int) -> int:
        """k of one training step: the same on every process, a function of (seed, step)."""
        return int(seeds.numpy_generator(seed, "drop", step).integers(self.largest(groups) + 1))


class LearnablePadding(nn.Module):
    """One learned vector a channel, the same at every dropped place and time (the paper's default)."""

    def __init__(self, channels: int):
        super().__init__()
        self.token = nn.Parameter(0.02 * torch.randn(1, channels, 1, 1, 1))

    def forward(self, observed: Tensor, groups: int, noise: Tensor | None = None) -> Tensor:
        """`observed` `[B, C, G, h, w]` -> padding `[B, C, groups, h, w]` of its dtype."""
        batch, _, _, height, width = observed.shape
        return self.token.to(observed.dtype).expand(batch, -1, groups, height, width)


class GaussianPadding(nn.Module):
    """Standard normal noise in the dropped places (the paper's table 6)."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def forward(self, observed: Tensor, groups: int, noise: Tensor | None = None) -> Tensor:
        """As `LearnablePadding`; `noise` is `[B, C, groups, h, w]`, drawn from torch's global state when None."""
        batch, _, _, height, width = observed.shape
        if noise is None:
            noise = torch.randn(batch, self.channels, groups, height, width, device=observed.device)
        return noise.to(observed)


PADDINGS = {"learnable": LearnablePadding, "gaussian": GaussianPadding}


def pad_dropped(padding: nn.Module, observed: Tensor, groups: int, noise: Tensor | None = None) -> Tensor:
    """Append `groups` padding groups to the observed latents: `[B, C, G, h, w]` -> `[B, C, G + groups, h, w]`."""
    if groups == 0:
        return observed
    return torch.cat([observed, padding(observed, groups, noise)], dim=2)


def reverse_time(video: Tensor, seed: int, step: int, rows: list[int], probability: float) -> Tensor:
    """Play each clip backwards with `probability` (the paper's "motion" augmentation; whole clip, input and target
    alike).

    Args:
        video: `[B, 3, 1+T, H, W]`; row b of the batch has the global index `rows[b]`.
    """
    if probability <= 0.0 or video.shape[2] == 1:
        return video
    flip = seeds.uniform_rows(seed, "reverse", step, rows) < probability
    return torch.where(flip.to(video.device)[:, None, None, None, None], video.flip(2), video)
