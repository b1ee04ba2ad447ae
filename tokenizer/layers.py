"""Causal building blocks of the 3D convolutional VAE.

Legend: B batch, C channels, T frames of the chunk at hand, H and W its height and width.

Every temporal layer is `forward(x, past) -> (y, past)`: `past` is what the layer keeps of the frames before this chunk
(None at the start of a clip), so a clip processed in chunks equals the clip processed whole, and no module holds state.
Composite layers keep the pasts of their parts in a list.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from tokenizer import winograd

Past = Tensor | list | None

# Below this many keys, a materialised softmax beats the fused kernel on the CPU (its backward is slow for short
# sequences).
SHORT_SEQUENCE = 64
# Numbers that are normalised at a time on the CPU.
CACHED = 2**16
# Pixels, over all frames, below which adding up the taps of doubled pixels costs more than it saves.
FEW_PIXELS = 1024


def on_cpu(x: Tensor) -> bool:
    """Whether the ways that CPUs are better served by are taken."""
    return x.device.type == "cpu"


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

    def forward(self, x: Tensor, silu: bool = False, before: Tensor | int = 0) -> Tensor:
        """Like `x`, in channels-last memory; with `silu`, after that activation.

        Args:
            before: Frames to put in front of the result, or how many of zeros: what a convolution over time sees
                before this chunk, so that nothing needs to be copied for it.
        """
        if torch.compiler.is_compiling() or (torch.is_grad_enabled() and on_cpu(x)):
            # A compiler joins these and chooses what to keep; a CPU has memory, and waits for what is computed again.
            rows = x.permute(0, 2, 3, 4, 1).float()
            y = _normalise(rows, self.weight.float(), self.bias.float(), self.kind, self.eps)
            y = (F.silu(y) if silu else y).to(x.dtype)
            return prepend(before, y.permute(0, 4, 1, 2, 3))
        return _Norm.apply(x, self.weight, self.bias, before, self.kind, self.eps, silu)


class _Norm(torch.autograd.Function):
    """`ChannelNorm` and the activation after it, which keeps its input alone: the rest is cheap to compute again.

    On the CPU, without gradients, it takes a few rows at a time, so that they stay in the processor's cache.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, before, kind: str, eps: float, silu: bool) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.kind, ctx.eps, ctx.silu, ctx.given = kind, eps, silu, isinstance(before, Tensor)
        ctx.before = before.shape[2] if ctx.given else before
        weight, bias = weight.float(), bias.float()
        shape = *x.shape[:2], ctx.before + x.shape[2], *x.shape[3:]
        out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
        if ctx.before:
            out[:, :, : ctx.before] = before if ctx.given else 0.0
        for rows, place in zip(_rows(x), _rows(out[:, :, ctx.before :]), strict=True):
            y = _normalise(rows.float(), weight, bias, kind, eps)
            place.copy_(F.silu(y, inplace=True) if silu else y)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, of_out: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        of_x = torch.empty_like(x, memory_format=torch.channels_last_3d)
        of_weight, of_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        for rows, of_rows, place in zip(_rows(x), _rows(of_out[:, :, ctx.before :]), _rows(of_x), strict=True):
            inputs = rows.float().flatten(0, -2), weight.float(), bias.float(), ctx.kind, ctx.eps
            found = _normalise_backward(of_rows.float().flatten(0, -2), *inputs, ctx.silu)
            for total, part in zip((of_weight, of_bias), found[1:], strict=True):
                total += part
            place.copy_(found[0].view(place.shape))
        of_before = of_out[:, :, : ctx.before] if ctx.given else None
        return of_x, of_weight, of_bias, of_before, None, None, None


def _rows(x: Tensor) -> Iterator[Tensor]:
    """The pixels of `[B, C, T, H, W]` as rows `[..., C]`, views where it is in channels-last memory."""
    x = x.permute(0, 2, 3, 4, 1)
    if not on_cpu(x):
        yield x  # not flattened: of clips with frames in front that would be a copy, and nothing written to it arrives
    else:
        for clip in x:
            yield from clip.flatten(0, 2).split(max(1, CACHED // x.shape[-1]))


def _normalise(rows: Tensor, weight: Tensor, bias: Tensor, kind: str, eps: float) -> Tensor:
    """Over the last axis; all float32."""
    if kind == "layer":
        return F.layer_norm(rows, rows.shape[-1:], weight, bias, eps)
    return F.rms_norm(rows, rows.shape[-1:], weight, eps) + bias


def _normalise_backward(
    of_y: Tensor, rows: Tensor, weight: Tensor, bias: Tensor, kind: str, eps: float, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Of rows `[N, C]`, weight and bias, all float32, from that of `_normalise` with or without the activation."""
    if kind == "layer":
        y, mean, scale = torch.native_layer_norm(rows, rows.shape[-1:], weight, bias, eps)
        of_y = torch.ops.aten.silu_backward(of_y, y) if silu else of_y
        inputs = rows, rows.shape[-1:], mean, scale, weight, bias, [True, True, True]
        return torch.ops.aten.native_layer_norm_backward(of_y, *inputs)
    scale = torch.rsqrt(rows.square().mean(-1, keepdim=True) + eps)
    normalised = rows * scale
    of_y = torch.ops.aten.silu_backward(of_y, normalised * weight + bias) if silu else of_y
    of_normalised = of_y * weight
    along = (of_normalised * normalised).mean(-1, keepdim=True)
    return (of_normalised - normalised * along) * scale, (of_y * normalised).sum(0), of_y.sum(0)


def prepend(before: Tensor | int, x: Tensor) -> Tensor:
    """`x` after the frames `before`, or after so many of zeros."""
    if isinstance(before, Tensor):
        return torch.cat([before.to(x.dtype), x], dim=2)
    return F.pad(x, (0, 0, 0, 0, before, 0)) if before else x


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

    def forward(  # type: ignore[override]
        self, x: Tensor, past: Past = None, norm: ChannelNorm | None = None
    ) -> tuple[Tensor, Past]:
        """With `norm`, of silu(norm(x)), which is written where the frames of the past already are."""
        taps, stride = self.kernel_size[0], self.stride[0]
        start, image = past is None, past is None and x.shape[2] == 1
        before = (0 if image else taps - 1) if past is None else past
        seen = prepend(before, x) if norm is None else norm(x, silu=True, before=before)
        if taps == 1:
            return self._convolve(seen, self.weight), None
        if image:  # no tap but the last one meets anything
            return self._convolve(seen, self.weight[:, :, -1:]), prepend(taps - stride - 1, seen)
        kept = seen[:, :, seen.shape[2] - (taps - stride) :]
        if not torch.is_grad_enabled():
            kept = kept.clone(memory_format=torch.preserve_format)  # a view would keep the whole chunk in memory
        if (taps, stride) == (3, 1) and winograd.pays(seen, self.weight, start):
            if torch.is_autocast_enabled("cpu"):
                seen = seen.to(torch.get_autocast_dtype("cpu"))
            return winograd.convolve_in_pairs(seen, self.weight, self.bias, start), kept
        return self._convolve(seen, self.weight), kept

    def _convolve(self, seen: Tensor, weight: Tensor) -> Tensor:
        if weight.shape[2] > 1 or not on_cpu(seen):
            return F.conv3d(seen, weight, self.bias, self.stride, self.padding)
        # Frames one by one as images: PyTorch's 2D convolution on the CPU is as fast or faster, and keeps the layout.
        images = seen[:, :, :: self.stride[0]].transpose(1, 2)
        y = F.conv2d(images.flatten(0, 1), weight.squeeze(2), self.bias, self.stride[1:], self.padding[1:])
        return y.unflatten(0, images.shape[:2]).transpose(1, 2)


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
        y, past1 = self.conv1(x, past1, self.norm1)
        y, past2 = self.conv2(y, past2, self.norm2)
        return y.add_(x), [past1, past2]


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention over `[..., tokens, width]`."""
    if on_cpu(query) and key.shape[-2] <= SHORT_SEQUENCE:
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
        return self._doubled(x), past

    def _doubled(self, x: Tensor) -> Tensor:
        """The convolution over `x` after every pixel became four."""
        frames, weight = x.shape[2], self.conv.weight.squeeze(2)
        images = rearrange(x, "b c t h w -> (b t) c h w")
        if on_cpu(x) and images[:, 0].numel() >= FEW_PIXELS:
            # Of the nine taps on doubled pixels, only four meet different ones: added up beforehand, as a transposed
            # convolution of the small images, they take 4/9 of the multiplications and no memory for the doubled ones.
            weight = weight.flip(2, 3)
            weight = F.pad(weight, (0, 0, 0, 1)) + F.pad(weight, (0, 0, 1, 0))
            weight = F.pad(weight, (0, 1)) + F.pad(weight, (1, 0))
            y = F.conv_transpose2d(images, weight.transpose(0, 1), self.conv.bias, stride=2, padding=1)
            return rearrange(y, "(b t) c h w -> b c t h w", t=frames)
        # In 2D: the 3D kernel is slower and loses the channels-last layout.
        images = F.interpolate(images, scale_factor=2.0, mode="nearest")
        return self.conv(rearrange(images, "(b t) c h w -> b c t h w", t=frames))[0]
