"""Frozen features of clips, float32 `[N, D, G, h, w]`: a generator's tokens half-way through, or the noisy latents that
it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from einops import rearrange
from torch import Tensor

from runtime.processes import autocast
from runtime.seeds import normal_rows, seeded

# What is probed: the trained generator, the one that it was before training, and the latents that go into both.
GENERATOR, UNTRAINED, LATENTS = "generator", "untrained generator", "latents"
SOURCES = (GENERATOR, UNTRAINED, LATENTS)
BATCH = 32


def probed_block(depth: int) -> int:
    """Block 14 of 28, and in the middle of others, counted from 1."""
    return max(1, depth // 2)


def first_half(model, block: int, groups: int):
    """A generator cut off after a block, for clips of so many groups; its weights are copied.

    A generator attends over time in both directions: what must not be seen must not be fed, not even as noise, since
    a clip of fewer groups is another input. Positions are sinusoids, so that fewer groups need no other weights.
    """
    from generator import Latte

    made = Latte(replace(model.config, groups=groups))
    made.load_state_dict(model.state_dict())
    made.blocks = made.blocks[:block]
    return made.eval().requires_grad_(False)


def untrained_like(model, seed: int):
    """A generator of the same size as before training. Zero gates make its blocks the identity, so its tokens are a
    random linear map of the noisy latents, and positions."""
    from generator import Latte

    return seeded(lambda: Latte(model.config), seed).eval().requires_grad_(False)


def noise_of(latents: Tensor, level: float, seed: int, stream: str, items: Sequence[int]) -> Tensor:
    """x_t at t = 1 - level, float32 like normalised latents `[N, C, G, h, w]`; the noise of an item is the same at all
    levels, and for every model."""
    if level == 0:
        return latents
    noise = normal_rows(seed, f"probe {stream}", 0, items, latents.shape[1:])
    return level * noise + (1.0 - level) * latents


@torch.no_grad()
def tokens_of(half, x_t: Tensor, level: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Tokens of a `first_half`, on the CPU; labels are left out, so that no class is given away.

    Args:
        x_t: `[N, C, G, h, w]` at time 1 - level.
    """
    half = half.to(device)
    block, null, found = len(half.blocks), half.config.num_classes, []
    for part in x_t.split(BATCH):
        t = torch.full((len(part),), 1.0 - level, device=device)
        labels = torch.full((len(part),), null, dtype=torch.int64, device=device) if null else None
        with autocast(device, dtype):
            _, tokens = half(part.to(device), t, labels, return_block=block)
        found.append(rearrange(tokens.float(), "b g (h w) d -> b d g h w", h=x_t.shape[3]).cpu())
    return torch.cat(found)


def maker(
    model, block: int, seed: int, device: torch.device, dtype: torch.dtype
) -> Callable[[str, Tensor, float], Tensor]:
    """A function (source, x_t, level) -> features of the source."""
    halves: dict[tuple[str, int], torch.nn.Module] = {}

    def make(source: str, x_t: Tensor, level: float) -> Tensor:
        if source == LATENTS:
            return x_t
        groups = x_t.shape[2]
        if (source, groups) not in halves:
            whole = model if source == GENERATOR else untrained_like(model, seed)
            halves[source, groups] = first_half(whole, block, groups)
        return tokens_of(halves[source, groups], x_t, level, device, dtype)

    return make
