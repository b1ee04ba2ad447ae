"""A control for speed: Latte computed the way of the public reference, from the weights of ours.

Written for comparison alone. What it does as the reference does, and ours does not: tokens are rearranged between
spatial and temporal blocks; the condition is repeated for every frame, and for every cell, before each block's
modulation is computed from it; attention scores are materialised everywhere; sampling keeps every state and evaluates
both halves of guidance; the averaged weights are moved by a loop over parameters; the loss is fetched in every step.

Source: Latte (arXiv 2401.03048) and its published code, whose numbers it repeats; the text is our own.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from generator.latte import FREQUENCIES, Latte


def shifted(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Modulation `[N, D]` of normalised tokens `[N, L, D]`."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class PlainBlock(nn.Module):
    """adaLN-Zero block over sequences `[N, L, D]`, each with a condition of its own `[N, D]`."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.qkv, self.proj, self.heads = block.attention.qkv, block.attention.proj, block.attention.num_heads
        self.mlp, self.modulation = block.mlp, block.modulation
        self.query_norm, self.key_norm = block.attention.query_norm, block.attention.key_norm

    def attend(self, x: Tensor) -> Tensor:
        count, length, size = x.shape
        qkv = self.qkv(x).reshape(count, length, 3, self.heads, size // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        if self.query_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        weights = (query @ key.transpose(-2, -1) * (size // self.heads) ** -0.5).softmax(dim=-1)
        return self.proj((weights @ value).transpose(1, 2).reshape(count, length, size))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(condition)).chunk(6, dim=1)
        x = x + gate1.unsqueeze(1) * self.attend(shifted(x, shift1, scale1))
        return x + gate2.unsqueeze(1) * self.mlp(shifted(x, shift2, scale2))


class PlainLatte(nn.Module):
    """The network of a `Latte`, whose parameters it shares."""

    def __init__(self, model: Latte):
        super().__init__()
        self.config = model.config
        self.embed, self.time, self.classes = model.embed, model.time.mlp, model.classes
        self.blocks = nn.ModuleList([PlainBlock(block) for block in model.blocks])
        self.final_modulation, self.final = model.final_modulation, model.final
        self.register_buffer("cells", model.cells, persistent=False)
        self.register_buffer("times", model.times, persistent=False)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Velocity `[B, C, G, h, w]`, as `Latte.forward`."""
        config, half = self.config, FREQUENCIES // 2
        x = self.embed(rearrange(x, "b c g h w -> (b g) (h w) c")) + self.cells
        frequencies = torch.exp(-math.log(10_000.0) * torch.arange(half, device=t.device) / half)
        angles = 1000.0 * t[:, None] * frequencies
        condition = self.time(torch.cat([angles.cos(), angles.sin()], dim=1))
        if self.classes is not None:
            condition = condition + self.classes(y)
        cells = config.height * config.width
        of_frames = repeat(condition, "b d -> (b g) d", g=config.groups)
        of_cells = repeat(condition, "b d -> (b s) d", s=cells)
        for pair in range(0, config.depth, 2):
            x = self.blocks[pair](x, of_frames)
            x = rearrange(x, "(b g) s d -> (b s) g d", g=config.groups)
            if pair == 0:
                x = x + self.times
            x = self.blocks[pair + 1](x, of_cells)
            x = rearrange(x, "(b s) g d -> (b g) s d", s=cells)
        shift, scale = self.final_modulation(F.silu(of_frames)).chunk(2, dim=1)
        x = self.final(shifted(x, shift, scale))
        return rearrange(x, "(b g) (h w) c -> b c g h w", g=config.groups, h=config.height)


@torch.no_grad()
def move_average(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    """Averaged weights, one parameter after the other."""
    for name, value in model.named_parameters():
        average[name].mul_(decay).add_(value.data, alpha=1 - decay)


@torch.no_grad()
def sample_plainly(model: nn.Module, noise: Tensor, labels: Tensor | None, steps: int, guidance: float) -> list[Tensor]:
    """Euler steps from noise to data, every state kept."""
    states = [noise]
    for step in range(steps):
        x, t = states[-1], torch.full((len(noise),), step / steps, device=noise.device)
        if guidance == 1.0:
            velocity = model(x, t, labels)
        else:
            null = torch.full_like(labels, model.config.num_classes)
            both = model(torch.cat([x, x]), torch.cat([t, t]), torch.cat([labels, null]))
            conditional, unconditional = both.chunk(2)
            velocity = unconditional + guidance * (conditional - unconditional)
        states.append(x + velocity / steps)
    return states
