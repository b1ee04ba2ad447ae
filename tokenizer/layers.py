"""Causal building blocks of the 3D convolutional VAE.

Legend: B batch, C channels, T frames of the chunk at hand, H and W its height and width.

Every temporal layer is `forward(x, past) -> (y, past)`: `past` is what the layer keeps of the frames before this chunk
(None at the start of a clip), so a clip processed in chunks equals the clip processed whole, and no module holds state.
Composite layers keep the pasts of their parts in a list.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tokenizer import winograd

Past = Tensor | list | None

# Below this many keys, a materialised softmax beats the fused kernel on the CPU (its backward is slow for short
# sequences).
SHORT_SEQUENCE = 64
# Numbers that are normalised at a time on the CPU without gradients.
CACHED = 2**16


class ChannelNorm(nn.Module):
    """Normalise over channels at each frame and pixel, in float32.

    Group norm would pool over time and break "chunked = whole". `kind` "rms" divides by the root mean square; "layer"
    also subtracts the mean, which PyTorch computes several times faster on the CPU.
    """

    def __init__(self, channels: int, kind: str = "rms", eps: float = 1e-6):
        super().__init__()
        self.kind, self.eps = kind, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, silu: bool = False) -> Tensor:
        """Like `x`, in channels-last memory; with `silu`, after that activation."""
        # With channels_last_3d memory the permuted view is contiguous, so no copy is made.
        rows = x.permute(0, 2, 3, 4, 1)
        if torch.is_grad_enabled() or x.device.type != "cpu":
            y = self._normalise(rows.float()).to(x.dtype)
            y = F.silu(y) if silu else y
        else:  # a few rows at a time, so that they stay in the processor's cache from step to step
            y = torch.empty(rows.shape, dtype=x.dtype)
            count = max(1, CACHED // x.shape[1])
            for part, out in zip(rows.flatten(0, 3).split(count), y.flatten(0, 3).split(count), strict=True):
                part = self._normalise(part.float())
                out.copy_(F.silu(part, inplace=True) if silu else part)
        return y.permute(0, 4, 1, 2, 3)

    def _normalise(self, rows: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        if self.kind == "layer":
            return F.layer_norm(rows, rows.shape[-1:], weight, bias, self.eps)
        return F.rms_norm(rows, rows.shape[-1:], weight, self.eps) + bias


class CausalConv3d(nn.Conv3d):
    """3D convolution whose output frame i sees input frames up to i * stride only.

    At the start of a clip the missing earlier frames are zeros, and the taps on them start at zero: until training on
    video moves them, a static clip gives the same result in every frame, and weights trained on images alone keep doing
    so.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int, int] = (3, 3, 3),
        stride: tuple[int, int, int] = (1, 1, 1),
    ):
        super().__init__(in_channels, out_channels, kernel, stride, padding=(0, kernel[1] // 2, kernel[2] // 2))
        with torch.no_grad():
            self.weight[:, :, :-1].zero_()
            # The variance of the signal is kept by the tap on the present alone. PyTorch's default keeps a third of it
            # in each layer, and shares it among all taps, so that after a few layers the biases drown the picture.
            nn.init.normal_(self.weight[:, :, -1], std=(in_channels * kernel[1] * kernel[2]) ** -0.5)
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, past: Past = None) -> tuple[Tensor, Past]:  # type: ignore[override]
        taps, stride = self.kernel_size[0], self.stride[0]
        if taps == 1:
            return super().forward(x), None
        if past is None and x.shape[2] == 1:  # an image: no tap but the last one meets anything
            y = F.conv3d(x, self.weight[:, :, -1:], self.bias, self.stride, self.padding)
            return y, F.pad(x, (0, 0, 0, 0, taps - stride - 1, 0))
        if (taps, stride) == (3, 1) and winograd.pays(x, self.weight, past):
            dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
            x, past = x.to(dtype), None if past is None else past.to(dtype)
            y = winograd.convolve_in_pairs(x, past, self.weight, self.bias)
            return y, x[:, :, -2:].clone(memory_format=torch.preserve_format)
        x = F.pad(x, (0, 0, 0, 0, taps - 1, 0)) if past is None else torch.cat([past, x], dim=2)
        keep = taps - stride
        kept = x[:, :, x.shape[2] - keep :]
        if not torch.is_grad_enabled():
            kept = kept.clone(memory_format=torch.preserve_format)  # a view would keep the whole chunk in memory
        return super().forward(x), kept


def maybe_checkpoint(recompute: bool, layer: nn.Module, *inputs: Tensor | Past) -> tuple[Tensor, Past]:
    """`layer(*inputs)`; with `recompute`, the backward pass computes its activations again instead of keeping them."""
    if recompute and torch.is_grad_enabled():
        # No layer draws random numbers, so there is no state to restore.
        return checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=False)
    return layer(*inputs)


class CausalSequential(nn.ModuleList):
    """Layers in a row, each with its own past; `recompute` is for the residual blocks, which hold nearly all memory."""

    def forward(self, x: Tensor, past: Past = None, recompute: bool = False) -> tuple[Tensor, Past]:
        past = [None] * len(self) if past is None else past
        kept = []
        for layer, layer_past in zip(self, past, strict=True):
            x, layer_past = maybe_checkpoint(recompute and isinstance(layer, ResidualBlock), layer, x, layer_past)
            kept.append(layer_past)
        return x, kept


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))))))."""

    def __init__(self, channels: int, norm: str):
        super().__init__()
        self.norm1, self.conv1 = ChannelNorm(channels, norm), CausalConv3d(channels, channels)
        self.norm2, self.conv2 = ChannelNorm(channels, norm), CausalConv3d(channels, channels)

    def forward(self, x: Tensor, past: Past = None) -> tuple[Tensor, Past]:
        past1, past2 = past or (None, None)
        y, past1 = self.conv1(self.norm1(x, silu=True), past1)
        y, past2 = self.conv2(self.norm2(y, silu=True), past2)
        return y.add_(x), [past1, past2]


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention over `[..., tokens, width]`."""
    if query.device.type == "cpu" and key.shape[-2] <= SHORT_SEQUENCE:
        scores = (query @ key.mT).float() * query.shape[-1] ** -0.5
        return scores.softmax(-1).to(value.dtype) @ value
    return F.scaled_dot_product_attention(query, key, value)


class FrameAttention(nn.Module):
    """Single-head self-attention among the pixels of each frame; frames do not see each other, so there is no past."""

    def __init__(self, channels: int, norm: str):
        super().__init__()
        self.norm = ChannelNorm(channels, norm)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, past: Past = None) -> tuple[Tensor, Past]:
        _, _, frames, height, _ = x.shape
        tokens = rearrange(self.norm(x), "b c t h w -> (b t) 1 (h w) c")
        query, key, value = self.qkv(tokens).chunk(3, dim=-1)
        y = self.out(attend(query, key, value))
        return x + rearrange(y, "(b t) 1 (h w) c -> b c t h w", t=frames, h=height), None


class Downsample(nn.Module):
    """Halve height and width, and time when `temporal`: 1 + 2m frames become 1 + m (later chunks: 2m become m)."""

    def __init__(self, in_channels: int, out_channels: int, temporal: bool):
        super().__init__()
        kernel, stride = ((3, 3, 3), (2, 2, 2)) if temporal else ((1, 3, 3), (1, 2, 2))
        self.conv = CausalConv3d(in_channels, out_channels, kernel, stride)

    def forward(self, x: Tensor, past: Past = None) -> tuple[Tensor, Past]:
        return self.conv(x, past)


class Upsample(nn.Module):
    """Double height and width, and time when `temporal`: 1 + m frames become 1 + 2m (later chunks: m become 2m).

    Time is doubled by a causal convolution with two outputs a frame, both starting as the identity (repetition); the
    first frame of a clip keeps only the second of its two.
    """

    def __init__(self, in_channels: int, out_channels: int, temporal: bool):
        super().__init__()
        self.time = CausalConv3d(in_channels, 2 * in_channels, (3, 1, 1)) if temporal else None
        if self.time is not None:
            with torch.no_grad():
                identity = torch.eye(in_channels)[:, :, None, None]
                self.time.weight[:, :, -1] = torch.cat([identity, identity])
                self.time.bias.zero_()
        self.conv = CausalConv3d(in_channels, out_channels, (1, 3, 3))

    def forward(self, x: Tensor, past: Past = None) -> tuple[Tensor, Past]:
        if self.time is not None:
            first = past is None
            x, past = self.time(x, past)
            x = rearrange(x.permute(0, 2, 3, 4, 1), "b t h w (two c) -> b (t two) h w c", two=2).permute(0, 4, 1, 2, 3)
            x = x[:, :, 1:] if first else x
        frames = x.shape[2]
        # Nearest-neighbour doubling frame by frame in 2D: the 3D kernel is slower and loses the channels-last layout.
        x = F.interpolate(rearrange(x, "b c t h w -> (b t) c h w"), scale_factor=2.0, mode="nearest")
        x = rearrange(x, "(b t) c h w -> b c t h w", t=frames)
        return self.conv(x)[0], past
