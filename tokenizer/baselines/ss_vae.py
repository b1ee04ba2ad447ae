"""SSVAE (arXiv 2512.05394): a causal convolutional video VAE, 4 x 16 x 16 into 48 channels, for its published weights.

Legend: B batch, C channels, T frames, H and W height and width, n -> m channels before and after a resampling.

Parameters carry the names of the published file. A clip is computed whole: at its start every convolution over time
sees copies of the first frame, so no result depends on later frames.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from tokenizer.spec import LOGVAR_RANGE, TokenizerSpec, check_latents, check_video

# Published statistics of the latents, one number a channel: normalised = (mean - LATENTS_MEAN) / LATENTS_STD.
LATENTS_MEAN = (
    -0.1962890625, 0.52734375, -1.3984375, 0.57421875, 0.09326171875, 0.734375, -0.427734375, -0.50390625,
    0.54296875, 0.0986328125, -0.67578125, 0.15625, 0.9453125, -0.091796875, 0.2333984375, -0.10986328125,
    -0.049560546875, 0.74609375, -0.76171875, -0.484375, 0.2236328125, 0.5390625, 0.2255859375, -0.474609375,
    -0.126953125, -0.0341796875, 0.023681640625, -0.0211181640625, -1.015625, -0.60546875, 0.98046875, -0.796875,
    -0.1884765625, -0.4296875, 0.283203125, 0.34375, -0.490234375, 0.021484375, 0.251953125, -0.08154296875,
    -0.5234375, 0.236328125, -0.1826171875, -0.73828125, -0.1796875, -0.6015625, 0.34375, -0.74609375,
)  # fmt: skip
LATENTS_STD = (
    0.69140625, 0.98828125, 2.015625, 1.1640625, 0.64453125, 1.015625, 1.546875, 0.71484375,
    1.359375, 0.96875, 2.0, 0.8828125, 1.40625, 1.046875, 0.85546875, 1.0234375,
    0.88671875, 1.15625, 1.3125, 0.984375, 1.1328125, 1.8046875, 1.21875, 0.98046875,
    1.0859375, 0.96875, 1.046875, 1.0234375, 1.515625, 1.234375, 1.796875, 1.5234375,
    1.1015625, 1.1484375, 0.94140625, 1.1015625, 1.3203125, 1.2265625, 1.359375, 1.09375,
    0.953125, 0.73046875, 0.97265625, 1.265625, 1.1953125, 1.1171875, 0.83203125, 1.4140625,
)  # fmt: skip

# After which of the encoder's stages time is halved too; the decoder doubles it in its first two.
TEMPORAL_STAGES = (2, 3)


class SSVAE(nn.Module):
    """Encoder and decoder of SSVAE; the defaults are the published model (315,177,859 parameters).

    Args:
        latent_channels: Channels of the latents.
        widths: Channels of the encoder's five stages; the decoder has the same in reverse. A stage may have half, as
            many or twice the channels of the one before it.
        stem_channels: Channels before the encoder's first stage.
        encoder_blocks: Residual blocks of each of the encoder's stages.
        decoder_blocks: Likewise of the decoder's.
    """

    def __init__(
        self,
        latent_channels: int = 48,
        widths: tuple[int, int, int, int, int] = (64, 128, 256, 512, 512),
        stem_channels: int = 32,
        encoder_blocks: int = 3,
        decoder_blocks: int = 4,
    ):
        super().__init__()
        self.spec = TokenizerSpec(name="ssvae", temporal=4, spatial=16, channels=latent_channels)
        self.encoder = Encoder(latent_channels, widths, stem_channels, encoder_blocks)
        self.decoder = Decoder(latent_channels, widths[::-1], decoder_blocks)

    def encode(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Moments of the posterior, one latent frame for the first frame and for every four after it.

        Args:
            video: `[B, 3, 1+4k, H, W]` float in [-1, 1], of the weights' dtype; H and W multiples of 16.

        Returns:
            Mean and log-variance (clamped to [-30, 20]), each `[B, C, 1+k, H/16, W/16]`, not normalised.

        Raises:
            InputError: If shape, dtype or range does not fit; the message gives the nearest valid size.
        """
        check_video(video, self.spec)
        mean, logvar = self.encoder(video).chunk(2, dim=1)
        return mean, logvar.clamp(*LOGVAR_RANGE)

    def decode(self, latents: Tensor) -> Tensor:
        """Video `[B, 3, 1+4k, 16h, 16w]`, not clamped, of latents `[B, C, 1+k, h, w]` that are not normalised.

        Raises:
            InputError: If the number of channels or dimensions does not fit.
        """
        check_latents(latents, self.spec)
        return self.decoder(latents)


class Encoder(nn.Module):
    def __init__(self, latent_channels: int, widths: tuple[int, ...], stem_channels: int, blocks: int):
        super().__init__()
        self.conv_in = CausalConv3d(3, stem_channels)
        self.down = nn.ModuleList()
        before = stem_channels
        for index, (width, after) in enumerate(zip(widths, [*widths[1:], None], strict=True)):
            stage = nn.Module()
            stage.block = _residual_blocks(before, width, blocks)
            if after is not None:
                stage.downsample = (TemporalDown if index in TEMPORAL_STAGES else SpatialDown)(width, after)
            self.down.append(stage)
            before = after
        # The published weights have this last attention.
        self.mid = nn.Sequential(Residual(width, width), Attention(width), Residual(width, width), Attention(width))
        self.out = nn.Sequential(RMSNorm(width), nn.SiLU(), CausalConv3d(width, 2 * latent_channels))

    def forward(self, video: Tensor) -> Tensor:
        x = self.conv_in(video)
        for stage in self.down:
            x = stage.block(x)
            if hasattr(stage, "downsample"):
                x = stage.downsample(x)
        return self.out(self.mid(x))


class Decoder(nn.Module):
    def __init__(self, latent_channels: int, widths: tuple[int, ...], blocks: int):
        super().__init__()
        width = widths[0]
        self.conv_in = CausalConv3d(latent_channels, width)
        self.mid = nn.Sequential(Residual(width, width), Attention(width), Residual(width, width))
        self.up = nn.ModuleList()
        for index, (width, after) in enumerate(zip(widths, [*widths[1:], None], strict=True)):
            stage = nn.Module()
            stage.block = _residual_blocks(width, width, blocks)
            if after is not None:
                stage.upsample = Up(width, after, temporal=len(widths) - 2 - index in TEMPORAL_STAGES)
            self.up.append(stage)
        self.out = nn.Sequential(RMSNorm(width), nn.SiLU(), CausalConv3d(width, 3))

    def forward(self, latents: Tensor) -> Tensor:
        x = self.mid(self.conv_in(latents))
        for stage in self.up:
            x = stage.block(x)
            if hasattr(stage, "upsample"):
                x = stage.upsample(x)
        return self.out(x)


class RMSNorm(nn.Module):
    """Normalise over channels at each frame and pixel; `gamma` has `axes` axes of one after the channels."""

    def __init__(self, channels: int, axes: int = 3):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * axes))

    def forward(self, x: Tensor) -> Tensor:
        # In half precision the bound below the norm would vanish, and a pixel of zeros become NaN.
        y = F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=1).to(x.dtype)
        return y * (self.gamma * x.shape[1] ** 0.5)


class CausalConv3d(nn.Module):
    """3 x 3 x 3 convolution; frames before the first are copies of it.

    With stride 2 it halves every axis (T -> 1 + (T-1)/2), and the sides are padded right and below alone.
    """

    def __init__(self, before: int, after: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv3d(before, after, 3, stride, padding=(0, 1, 1) if stride == 1 else 0)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x[:, :, :1], x[:, :, :1], x], dim=2)
        return self.conv(x if self.conv.stride[0] == 1 else F.pad(x, (0, 1, 0, 1)))


class Residual(nn.Module):
    def __init__(self, before: int, after: int):
        super().__init__()
        self.norm1, self.conv1 = RMSNorm(before), CausalConv3d(before, after)
        self.norm2, self.conv2 = RMSNorm(after), CausalConv3d(after, after)
        if before != after:
            self.nin_shortcut = nn.Conv3d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return y + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


def _residual_blocks(before: int, width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(Residual(width if index else before, width) for index in range(count)))


class Attention(nn.Module):
    """Single-head attention among the pixels of each frame."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = RMSNorm(channels, axes=2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        frames, (height, width) = rearrange(x, "b c t h w -> (b t) c h w"), x.shape[-2:]
        parts = rearrange(self.to_qkv(self.norm(frames)), "n (part c) h w -> part n 1 (h w) c", part=3)
        y = F.scaled_dot_product_attention(*parts)
        y = self.proj(rearrange(y, "n 1 (h w) c -> n c h w", h=height, w=width))
        return x + rearrange(y, "(b t) c h w -> b c t h w", b=x.shape[0])


class SpatialDown(nn.Module):
    """Halve height and width: a strided convolution of each frame, plus means of the pixels that it joins."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        frames = F.pad(rearrange(x, "b c t h w -> (b t) c h w"), (0, 1, 0, 1))
        y = rearrange(self.conv(frames), "(b t) c h w -> b c t h w", b=x.shape[0])
        blocks = rearrange(x, "b c t (h dy) (w dx) -> b (c dy dx) t h w", dy=2, dx=2)
        return y + blocks.unflatten(1, (y.shape[1], -1)).mean(2)


class TemporalDown(nn.Module):
    """Halve time, height and width (T -> 1 + (T-1)/2), plus means; in those, a frame of zeros precedes the first."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.conv = CausalConv3d(before, after, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        x = F.pad(x, (0, 0, 0, 0, 1, 0))
        blocks = rearrange(x, "b c (t dt) (h dy) (w dx) -> b (c dt dy dx) t h w", dt=2, dy=2, dx=2)
        return y + blocks.unflatten(1, (y.shape[1], -1)).mean(2)


class Up(nn.Module):
    """Double height and width, and time but for the first frame (T -> 2T-1) where `temporal`.

    A convolution of doubled pixels, plus the channels of each pixel dealt out to the pixels that it becomes.
    """

    def __init__(self, before: int, after: int, temporal: bool):
        super().__init__()
        self.conv = CausalConv3d(before, after)
        self.repeats = 1 + temporal, 2, 2

    def forward(self, x: Tensor) -> Tensor:
        dt, dy, dx = self.repeats
        after = self.conv.conv.out_channels
        shared = x.repeat_interleave(dt * dy * dx * after // x.shape[1], dim=1)
        shared = rearrange(shared, "b (c dt dy dx) t h w -> b c (t dt) (h dy) (w dx)", dt=dt, dy=dy, dx=dx)
        doubled = x.repeat_interleave(dt, 2).repeat_interleave(dy, 3).repeat_interleave(dx, 4)
        return self.conv(doubled[:, :, dt - 1 :]) + shared[:, :, dt - 1 :]
