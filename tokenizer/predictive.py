"""Predictive reconstruction: hide latent groups from the encoder and decode the whole clip all the same.

Source: PV-VAE section 3.2. A *drop schedule* says which groups are hidden at a step, a *padding strategy* what stands
in their place in front of the decoder. Both are small objects, so that other schedules and paddings are one class each.
Hidden groups are given as `dropped`: their ascending places 1 … G-1 in the whole clip. Group 0, the first frame, always
stays; the encoder sees the frames of the other groups as one shorter clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from numbers import Integral

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from runtime import seeds
from runtime.errors import InputError

# -- schedules --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DropSchedule:
    """Drop k groups, k uniform on {0, …, floor((G - 1) * max_ratio)}; subclasses say which.

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

    def dropped(self, groups: int, seed: int, step: int) -> tuple[int, ...]:
        """The hidden groups of one training step, of a clip of `groups`: the same on every process."""
        random = seeds.numpy_generator(seed, "drop", step)
        return tuple(self.places(groups, int(random.integers(self.largest(groups) + 1)), random))

    def places(self, groups: int, k: int, random: np.random.Generator) -> Sequence[int]:
        """Which k of the places 1 … groups-1, ascending; `random` has already drawn k."""
        raise NotImplementedError


@dataclass(frozen=True)
class SuffixDrop(DropSchedule):
    """Drop the last k groups, as published."""

    def places(self, groups: int, k: int, random: np.random.Generator) -> Sequence[int]:
        return range(groups - k, groups)


@dataclass(frozen=True)
class InfillDrop(DropSchedule):
    """Drop k groups from inside the clip, an open direction of the paper; k as in `SuffixDrop` at each seed and step.

    The gap begins anywhere, with equal probability, such that a group on each side of it stays; where k = G - 1, only
    the first group does.
    """

    def places(self, groups: int, k: int, random: np.random.Generator) -> Sequence[int]:
        first = int(random.integers(1, max(1, groups - 1 - k) + 1))
        return range(first, first + k)


SCHEDULES = {"suffix": SuffixDrop, "infill": InfillDrop}


def dropped_places(dropped: int | Sequence[int], groups: int) -> tuple[int, ...]:
    """The ascending places of the hidden groups of a clip of `groups`; a number k stands for the last k.

    Raises:
        InputError: If a place is not in 1 … groups-1 or is named twice.
    """
    if isinstance(dropped, Integral):
        if not 0 <= dropped < groups:
            raise InputError(
                f"the number of dropped groups must lie in [0, {groups - 1}] for a clip of {groups}, got {dropped}"
            )
        return tuple(range(groups - dropped, groups))
    places = tuple(sorted(dropped))
    if len(set(places)) < len(places) or not all(1 <= place < groups for place in places):
        raise InputError(f"dropped groups must be different ones of 1 … {groups - 1}, got {list(places)}")
    return places


def observed_places(dropped: Sequence[int], groups: int) -> tuple[int, ...]:
    """The places that are left of a clip of `groups`."""
    return tuple(sorted(set(range(groups)) - set(dropped)))


# -- paddings ---------------------------------------------------------------------------------------------------------


class LearnablePadding(nn.Module):
    """One learned vector a channel, the same at every dropped place and time (the paper's default)."""

    def __init__(self, channels: int):
        super().__init__()
        self.token = nn.Parameter(0.02 * torch.randn(1, channels, 1, 1, 1))

    def forward(self, observed: Tensor, dropped: Sequence[int], noise: Tensor | None = None) -> Tensor:
        """`observed` `[B, C, G-k, h, w]` -> padding `[B, C, k, h, w]` of its dtype, for the k places `dropped` of G."""
        batch, _, _, height, width = observed.shape
        return self.token.to(observed.dtype).expand(batch, -1, len(dropped), height, width)


class GaussianPadding(nn.Module):
    """Standard normal noise in the dropped places (the paper's table 6)."""

    takes_noise = True  # training draws it, so that it is the same in a run that was resumed

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def forward(self, observed: Tensor, dropped: Sequence[int], noise: Tensor | None = None) -> Tensor:
        """As `LearnablePadding`; `noise` is `[B, C, k, h, w]`, drawn from torch's global state when None."""
        batch, _, _, height, width = observed.shape
        if noise is None:
            noise = torch.randn(batch, self.channels, len(dropped), height, width, device=observed.device)
        return noise.to(observed)


class ConditionalPadding(nn.Module):
    """The learned vector plus what the observed groups next to the gap say, cell by cell (an open direction of the
    paper; construction ours).

    At distance d (in groups) from a neighbour z, sum_j f_j(d) (A_j z + b_j) is added, with f_j a constant and decaying
    exponentials of d: bounded and smooth, so gaps longer than any in training are still meaningful. A and b start at
    zero, that is as `LearnablePadding`. Each neighbour has its own A and b: the last group before the gap, and the
    first after it where there is one. Without one (suffix), padding depends on the last group alone, so it can be
    appended to a stream group by group. Any number of groups, height and width will do.
    """

    RANGES = (1.0, 2.0, 4.0, 8.0)

    def __init__(self, channels: int):
        super().__init__()
        self.token = nn.Parameter(0.02 * torch.randn(1, channels, 1, 1, 1))
        terms = 1 + len(self.RANGES)
        self.before, self.after = nn.Conv3d(channels, terms * channels, 1), nn.Conv3d(channels, terms * channels, 1)
        for parameter in [*self.before.parameters(), *self.after.parameters()]:
            nn.init.zeros_(parameter)

    def forward(self, observed: Tensor, dropped: Sequence[int], noise: Tensor | None = None) -> Tensor:
        """As `LearnablePadding`."""
        seen = observed_places(dropped, observed.shape[2] + len(dropped))
        before = [sum(place < gap for place in seen) - 1 for gap in dropped]  # as indices into `observed`
        after = [min(index + 1, len(seen) - 1) for index in before]
        since = [gap - seen[index] for gap, index in zip(dropped, before, strict=True)]
        until = [seen[index] - gap for gap, index in zip(dropped, after, strict=True)]
        padding = self.token + self._term(self.before, observed[:, :, before], since)
        return (padding + self._term(self.after, observed[:, :, after], until)).to(observed.dtype)

    def _term(self, projection: nn.Conv3d, neighbours: Tensor, distances: Sequence[int]) -> Tensor:
        """Contribution `[B, C, k, h, w]` of one neighbour for each place; none where its distance is negative."""
        distance = torch.tensor(distances, dtype=torch.float32, device=neighbours.device)[:, None]
        ranges = torch.tensor([float("inf"), *self.RANGES], device=neighbours.device)
        factors = torch.exp(-distance.clamp_min(0) / ranges) * (distance > 0)
        terms = rearrange(projection(neighbours), "b (j c) k h w -> b j c k h w", j=len(ranges))
        return (terms.float() * rearrange(factors, "k j -> 1 j 1 k 1 1")).sum(1)


PADDING_CLASSES = {"learnable": LearnablePadding, "gaussian": GaussianPadding, "conditional": ConditionalPadding}


def pad_dropped(
    padding: nn.Module, observed: Tensor, dropped: int | Sequence[int], noise: Tensor | None = None
) -> Tensor:
    """Put observed latents in their places and padding in the others: `[B, C, G-k, h, w]` -> `[B, C, G, h, w]`.

    Args:
        padding: A padding strategy.
        observed: Latents of the groups that are there, in order.
        dropped: The k places of the whole clip that are not; a number k stands for the last k.
        noise: For the Gaussian padding, `[B, C, k, h, w]`.
    """
    groups = observed.shape[2] + (dropped if isinstance(dropped, Integral) else len(dropped))
    places = dropped_places(dropped, groups)
    if not places:
        return observed
    sources = {True: padding(observed, places, noise), False: observed}
    used, parts = {True: 0, False: 0}, []
    for is_dropped, run in groupby(range(groups), key=set(places).__contains__):
        start = used[is_dropped]
        used[is_dropped] = stop = start + len(list(run))
        parts.append(sources[is_dropped][:, :, start:stop])
    return torch.cat(parts, dim=2)


def unused_parameters_term(module: nn.Module) -> Tensor | float:
    """0, but with zero gradients for every trainable parameter of `module`; add it to what goes into the loss.

    `DistributedDataParallel` averages a step's gradients when every parameter has one, and waits for those that never
    come; `find_unused_parameters` would walk the graph at each step instead. So a step that does not call a module says
    so with a gradient of zero.
    """
    return sum((0.0 * p.sum() for p in module.parameters() if p.requires_grad), start=0.0)


# -- augmentation -----------------------------------------------------------------------------------------------------


def reverse_time(video: Tensor, seed: int, step: int, rows: list[int], probability: float) -> Tensor:
    """Play each clip backwards with `probability` (seen in a figure of the paper alone; whole clip, input and target
    alike).

    Args:
        video: `[B, 3, 1+T, H, W]`; row b of the batch has the global index `rows[b]`.
    """
    if probability <= 0.0 or video.shape[2] == 1:
        return video
    flip = seeds.uniform_rows(seed, "reverse", step, rows) < probability
    return torch.where(flip.to(video.device)[:, None, None, None, None], video.flip(2), video)
