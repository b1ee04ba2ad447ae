"""The block-causal Transformer encoder and decoder of PV-VAE-T (paper table 7; first frame, mask and positions are our
reconstruction).

Legend: B batch, G latent groups of the chunk at hand, h and w its height and width in tokens, S = h * w, D width,
    m heads, d = D / m.

A token is a patch of 4 frames. The first frame of a clip stands for a whole group: the encoder sees it four times, as
if the clip had stood still before it, and of the four frames that the decoder makes of the first group the last one
counts. So frame 0 is the newest frame of its group, as frame 4g is of group g.

Every token attends to all tokens of its own group and of the groups before it, `config.window` groups in all. Each
group attends to exactly its keys, without a mask: nothing is computed for the future, none of it can leak, and a clip
processed in chunks equals the clip processed whole. `past` holds the number of groups before the chunk and, of every
layer, the keys and values that later groups can still attend to.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from timm.layers import Mlp, apply_rot_embed_cat
from torch import Tensor, nn

from tokenizer.layers import Past, attend, maybe_checkpoint
from tokenizer.spec import INITIAL_LOGVAR

if TYPE_CHECKING:
    from tokenizer.config import TransformerConfig

GROUP_FRAMES = 4
ROTARY_BASE = 10_000.0


def axis_widths(head_width: int) -> tuple[int, int, int]:
    """Channels of a head that turn with group, row and column: about a third each, all even."""
    spatial = 2 * (head_width // 6)
    return head_width - 2 * spatial, spatial, spatial


def axial_rotary(first_group: int, shape: tuple[int, int, int], head_width: int, device: torch.device) -> Tensor:
    """Sines and cosines of rotary positions over (group, row, column) for a grid `shape` = (G, h, w) of tokens.

    Returns:
        `[G * h * w, 2 * d]` float32: d sines, then d cosines, each angle for two neighbouring channels.
    """
    angles = []
    for axis, (start, count, width) in enumerate(zip((first_group, 0, 0), shape, axis_widths(head_width), strict=True)):
        positions = torch.arange(start, start + count, dtype=torch.float32, device=device)
        frequencies = ROTARY_BASE ** -(torch.arange(0, width, 2, dtype=torch.float32, device=device) / width)
        along = [1, 1, 1]
        along[axis] = count
        angles.append((positions[:, None] * frequencies).view(*along, -1).expand(*shape, -1))
    both = torch.cat(angles, dim=-1).flatten(0, 2).repeat_interleave(2, dim=-1)
    return torch.cat([both.sin(), both.cos()], dim=-1)


class TokenNorm(nn.RMSNorm):
    """RMS norm over the last axis in float32; returns the dtype of its weight, which is what the next layer takes."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.normalized_shape, self.weight.float(), self.eps).to(self.weight.dtype)


class BlockCausalAttention(nn.Module):
    """Self-attention of each group over the tokens of the last `window` groups, its own among them; 0: of all so far.

    Queries and keys are normalised, then turned by their positions.
    """

    def __init__(self, width: int, heads: int, window: int):
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.norm_query = TokenNorm(width // heads, eps=1e-6)
        self.norm_key = TokenNorm(width // heads, eps=1e-6)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, rotary: Tensor, past: Past = None) -> tuple[Tensor, Past]:
        """`x` `[B, G, S, D]`; `past` keys and values `[B, m, tokens, d]` of earlier groups -> like `x`, new past."""
        cells = x.shape[2]
        query, key, value = rearrange(self.qkv(x), "b g s (three m d) -> three b m (g s) d", three=3, m=self.heads)
        query = apply_rot_embed_cat(self.norm_query(query), rotary).to(value.dtype)
        key = apply_rot_embed_cat(self.norm_key(key), rotary).to(value.dtype)
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        earlier = key.shape[2] - query.shape[2]
        parts = []
        for start in range(0, query.shape[2], cells):
            stop = earlier + start + cells
            seen = slice(max(0, stop - self.window * cells) if self.window else 0, stop)
            parts.append(attend(query[:, :, start : start + cells], key[:, :, seen], value[:, :, seen]))
        y = rearrange(torch.cat(parts, dim=2), "b m (g s) d -> b g s (m d)", s=cells)
        return self.out(y), [self._keep(part, cells) for part in (key, value)]

    def _keep(self, tokens: Tensor, cells: int) -> Tensor:
        """What a later group can still see of keys or values."""
        if not self.window:
            return tokens
        kept = tokens[:, :, max(0, tokens.shape[2] - (self.window - 1) * cells) :]
        return kept if torch.is_grad_enabled() else kept.clone()  # a view would keep the whole chunk in memory


class Block(nn.Module):
    """Pre-norm Transformer layer."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.norm1 = TokenNorm(config.width, eps=1e-6)
        self.attention = BlockCausalAttention(config.width, config.heads, config.window)
        self.norm2 = TokenNorm(config.width, eps=1e-6)
        self.mlp = Mlp(config.width, int(config.width * config.mlp_ratio))

    def forward(self, x: Tensor, rotary: Tensor, past: Past = None) -> tuple[Tensor, Past]:
        y, past = self.attention(self.norm1(x), rotary, past)
        x = x + y
        return x + self.mlp(self.norm2(x)), past


class BlockCausalTransformer(nn.Module):
    """Linear layer in, Transformer layers, norm, linear layer out; the residual stream is float32.

    Attributes:
        blocks: The layers, to compile or shard one by one.
        checkpoint_blocks: Recompute each layer's activations in the backward pass of training instead of keeping them.
    """

    def __init__(self, config: TransformerConfig, depth: int, in_features: int, out_features: int):
        super().__init__()
        self.checkpoint_blocks = False
        self.head_width = config.width // config.heads
        self.embed = nn.Linear(in_features, config.width)
        self.blocks = nn.ModuleList([Block(config) for _ in range(depth)])
        self.norm_out = TokenNorm(config.width, eps=1e-6)
        self.out = nn.Linear(config.width, out_features)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def transform(self, tokens: Tensor, past: Past) -> tuple[Tensor, Past]:
        """`[B, G, h, w, in_features]` -> `[B, G, h, w, out_features]`."""
        first_group, block_pasts = past or (0, [None] * len(self.blocks))
        groups, height, width = shape = tuple(tokens.shape[1:4])
        rotary = axial_rotary(first_group, shape, self.head_width, tokens.device)
        x = self.embed(tokens.flatten(2, 3)).float()
        checkpoint = self.checkpoint_blocks and self.training
        kept = []
        for block, block_past in zip(self.blocks, block_pasts, strict=True):
            x, block_past = maybe_checkpoint(checkpoint, block, x, rotary, block_past)
            kept.append(block_past)
        x = self.out(self.norm_out(x)).unflatten(2, (height, width))
        return x, [first_group + groups, kept]


class Encoder(BlockCausalTransformer):
    """`[B, 3, 1+T, H, W]` -> moments `[B, 2C, G, h, w]` (mean, logvar along channels)."""

    def __init__(self, config: TransformerConfig):
        super().__init__(config, config.depth, 3 * GROUP_FRAMES * config.patch**2, 2 * config.latent_channels)
        self.patch = config.patch
        nn.init.constant_(self.out.bias.data[config.latent_channels :], INITIAL_LOGVAR)

    def forward(self, video: Tensor, past: Past = None) -> tuple[Tensor, Past]:
        if past is None:
            video = torch.cat([video[:, :, :1].expand(-1, -1, GROUP_FRAMES - 1, -1, -1), video], dim=2)
        patches = "b c (g t) (h p) (w q) -> b g h w (c t p q)"
        x, past = self.transform(rearrange(video, patches, t=GROUP_FRAMES, p=self.patch, q=self.patch), past)
        return rearrange(x, "b g h w c -> b c g h w"), past


class Decoder(BlockCausalTransformer):
    """`[B, C, G, h, w]` -> `[B, 3, 1+T, H, W]`, not clamped."""

    def __init__(self, config: TransformerConfig):
        depth = config.decoder_depth or config.depth
        super().__init__(config, depth, config.latent_channels, 3 * GROUP_FRAMES * config.patch**2)
        self.patch = config.patch

    def forward(self, latents: Tensor, past: Past = None) -> tuple[Tensor, Past]:
        first = past is None
        x, past = self.transform(rearrange(latents, "b c g h w -> b g h w c"), past)
        patches = "b g h w (c t p q) -> b c (g t) (h p) (w q)"
        video = rearrange(x, patches, t=GROUP_FRAMES, p=self.patch, q=self.patch)
        return video[:, :, GROUP_FRAMES - 1 :] if first else video, past

    @property
    def last_layer(self) -> nn.Module:
        """The layer whose outputs are pixels; an adaptive adversarial weight is measured there."""
        return self.out

    def clip_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters to freeze while training on images alone, as in the CNN: none."""
        return iter(())
