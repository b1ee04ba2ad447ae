"""Latte, the factorised video diffusion transformer, on latents of any shape and with patch 1.

Source: Latte (arXiv 2401.03048), variant 1: spatial and temporal blocks alternate, adaLN-Zero conditioning. PV-VAE
drops the 2x2 patching, because the latents are small already.

Legend: B batch, C latent channels, G groups (latent time), S = h * w cells, D hidden size. Tokens stay `[B, G, S, D]`.
"""

from __future__ import annotations

import logging
import math
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from timm.layers import Mlp
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from generator.attention import Attention
from generator.config import LatteConfig
from runtime.errors import InputError
from runtime.parallel import LARGE

FREQUENCIES = 256
RECOMPUTE = ("nothing", "cheap", "blocks")
_NOTHING_RANDOM = {"use_reentrant": False, "preserve_rng_state": False}
_ATEN = torch.ops.aten
# Compiled, it would advise at every start against operators in place where something is computed again: there are none.
logging.getLogger("torch._higher_order_ops.wrap").setLevel(logging.ERROR)


def forward_flops(config: LatteConfig) -> int:
    """Floating-point operations of one forward pass for one sample: those of matrix products, a multiply-add being two.
    A training step takes three times as many."""
    size, cells, groups = config.hidden_size, config.height * config.width, config.groups
    hidden = int(size * config.mlp_ratio)
    token = config.depth * (4 * size * size + 2 * size * hidden) + 2 * config.channels * size  # layers
    token += config.depth // 2 * 2 * (cells + groups) * size  # attention
    sample = (FREQUENCIES + size) * size + config.depth * 6 * size * size + 2 * size * size
    return 2 * (cells * groups * token + sample)


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Sine-cosine table `[len(positions), width]`, frequencies from 1 down to 1e-4."""
    half = width // 2
    frequencies = torch.exp(
        -math.log(10_000.0) * torch.arange(half, dtype=torch.float64, device=positions.device) / half
    )
    angles = positions.double()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def cell_positions(height: int, width: int, hidden_size: int) -> Tensor:
    """Fixed 2D table `[h * w, D]`: the first half of D for the column, the second for the row."""
    column = sinusoids(torch.arange(width), hidden_size // 2)
    row = sinusoids(torch.arange(height), hidden_size // 2)
    return torch.cat([column.repeat(height, 1), row.repeat_interleave(width, 0)], dim=1)


class TimeEmbedding(nn.Module):
    """t in [0, 1] -> `[B, D]`; the sinusoids see 1000 t, and are computed in float32."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))
        half = FREQUENCIES // 2
        self.register_buffer(
            "frequencies", torch.exp(-math.log(10_000.0) * torch.arange(half) / half), persistent=False
        )

    def forward(self, t: Tensor) -> Tensor:
        with torch.autocast(t.device.type, enabled=False):  # angles up to 1000 need the digits
            angles = 1000.0 * t.float()[:, None] * self.frequencies
            return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=1))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without affine, then scale and shift `[B, 1, 1, D]` of tokens `[B, G, S, D]`; all in float32."""
    return F.layer_norm(x.float(), x.shape[-1:], eps=1e-6) * (1.0 + scale.float()) + shift.float()


def _keep_products(_, operator, *arguments, **named) -> CheckpointPolicy:
    kept = operator in (_ATEN.mm.default, _ATEN.addmm.default) or "scaled_dot_product" in operator.__name__
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


class Block(nn.Module):
    """adaLN-Zero transformer block; at initialisation it is the identity."""

    def __init__(self, config: LatteConfig, axis: str):
        super().__init__()
        size = config.hidden_size
        self.attention = Attention(size, config.num_heads, axis, config.qk_norm)
        self.mlp = Mlp(size, int(size * config.mlp_ratio), act_layer=partial(nn.GELU, config.gelu))
        self.modulation = nn.Linear(size, 6 * size)

    def forward(self, x: Tensor, condition: Tensor, recompute: bool = False) -> Tensor:
        """Tokens `[B, G, S, D]`, condition `[B, D]` -> tokens.

        Args:
            recompute: Keep the results of matrix products and of long attention alone for the backward pass, and
                compute the rest again: norms, modulation, activations, sums, attention among few.
        """
        if recompute:
            keep = partial(create_selective_checkpoint_contexts, _keep_products)
            return checkpoint(self._forward, x, condition, context_fn=keep, **_NOTHING_RANDOM)
        return self._forward(x, condition)

    def _forward(self, x: Tensor, condition: Tensor) -> Tensor:
        # The modulation is one row a sample, not a token: 256 times less work than repeating the condition first.
        parts = self.modulation(condition)[:, None, None].chunk(6, dim=-1)
        shift1, scale1, gate1, shift2, scale2, gate2 = parts
        x = x + gate1.float() * self.attention(modulate(x, shift1, scale1)).float()
        return x + gate2.float() * self.mlp(modulate(x, shift2, scale2)).float()


class Latte(nn.Module):
    """The velocity network; the residual stream is float32 under autocast.

    Attributes:
        recompute: What the backward pass of training computes again instead of keeping it: "nothing", what is "cheap"
            (no matrix products: 12 numbers a token and channel are kept in place of 26), or whole "blocks" (2 numbers).
            None: see `recomputed`.
    """

    def __init__(self, config: LatteConfig):
        super().__init__()
        self.config, self.recompute = config, None
        size = config.hidden_size
        self.embed = nn.Linear(config.channels, size)
        self.time = TimeEmbedding(size)
        self.classes = nn.Embedding(config.num_classes + 1, size) if config.num_classes else None
        axes = ("spatial", "temporal")
        self.blocks = nn.ModuleList([Block(config, axes[i % 2]) for i in range(config.depth)])
        self.final_modulation = nn.Linear(size, 2 * size)
        self.final = nn.Linear(size, config.channels)
        self.register_buffer("cells", cell_positions(config.height, config.width, size), persistent=False)
        self.register_buffer("times", sinusoids(torch.arange(config.groups), size), persistent=False)
        self._initialise()
        self._large = sum(parameter.numel() for parameter in self.parameters()) >= LARGE

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for layer in (self.time.mlp[0], self.time.mlp[2], self.classes):
            if layer is not None:
                nn.init.normal_(layer.weight, std=0.02)
        # Zero gates make every block the identity, a zero head makes the first velocity zero.
        for layer in (*(block.modulation for block in self.blocks), self.final_modulation, self.final):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, return_block: int | None = None):
        """Predict the velocity.

        Args:
            x: Noisy normalised latents `[B, C, G, h, w]`, of any float type.
            t: `[B]` in [0, 1]; 0 is noise.
            y: int64 labels `[B]`, `num_classes` for "no class"; None for an unconditional model.
            return_block: Also return the tokens after this block (counted from 1).

        Returns:
            Velocity like x, float32; with `return_block` also tokens `[B, G, h * w, D]`.

        Raises:
            InputError: If shapes or labels do not fit the config.
        """
        self._check(x, t, y, return_block)
        tokens = self.embed(rearrange(x.float(), "b c g h w -> b g (h w) c")).float() + self.cells  # [B, G, S, D]
        condition = self.time(t)
        if self.classes is not None:
            condition = condition + self.classes(y)
        condition = F.silu(condition)
        kept, recompute = None, self.recomputed()
        for number, block in enumerate(self.blocks, start=1):
            if number == 2:  # before the first temporal block, as published
                tokens = tokens + self.times[:, None]
            if recompute == "blocks":
                tokens = checkpoint(block, tokens, condition, **_NOTHING_RANDOM)
            else:
                tokens = block(tokens, condition, recompute == "cheap")
            if number == return_block:
                kept = tokens
        shift, scale = self.final_modulation(condition)[:, None, None].chunk(2, dim=-1)
        velocity = self.final(modulate(tokens, shift, scale)).float()
        velocity = rearrange(velocity, "b g (h w) c -> b c g h w", h=self.config.height)
        return velocity if return_block is None else (velocity, kept)

    def recomputed(self) -> str:
        """One of `RECOMPUTE`, as it is in a forward pass now. Unless `recompute` says: what is cheap, where blocks are
        compiled or the model is large, but on a CPU, which has memory and waits for what is computed twice. (Choosing
        costs the host 3 ms an uncompiled block, which a small model on a GPU would wait for.)"""
        if not (self.training and torch.is_grad_enabled()):
            return "nothing"
        compiled = self.blocks[0]._compiled_call_impl is not None
        large = self._large and self.embed.weight.device.type != "cpu"
        return self.recompute or ("cheap" if compiled or large else "nothing")

    def _check(self, x: Tensor, t: Tensor, y: Tensor | None, return_block: int | None) -> None:
        config = self.config
        if tuple(x.shape[1:]) != config.latent_shape:
            wanted = ", ".join(map(str, config.latent_shape))
            raise InputError(f"the generator takes latents [B, {wanted}], got {list(x.shape)}")
        if t.shape != x.shape[:1]:
            raise InputError(f"the generator takes one t for each of the {len(x)} samples, got shape {list(t.shape)}")
        if (y is None) != (config.num_classes == 0):
            raise InputError(
                "labels are needed exactly when the generator has classes: "
                f"num_classes is {config.num_classes}, labels are {'absent' if y is None else 'given'}"
            )
        if y is not None:
            if not isinstance(y, Tensor) or y.shape != x.shape[:1] or y.dtype != torch.int64:
                found = f"{type(y).__name__} of {getattr(y, 'dtype', '?')} {list(getattr(y, 'shape', []))}"
                raise InputError(f"labels must be an int64 tensor [{len(x)}], got {found}")
            # On a GPU, looking at the values would make every call wait for the device.
            if y.device.type == "cpu" and not ((y >= 0) & (y <= config.num_classes)).all():
                raise InputError(
                    f"labels must lie in 0…{config.num_classes} ({config.num_classes} is no class), "
                    f"got {int(y.min())}…{int(y.max())}"
                )
        if return_block is not None and not 1 <= return_block <= config.depth:
            raise InputError(f"return_block must lie in 1…{config.depth}, got {return_block}")
