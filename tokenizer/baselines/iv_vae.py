"""IV-VAE (arXiv 2411.06449): a video VAE whose features are half of key frames and half of motion.

Features are `[B, 1+T, 2n, H, W]`: n channels of the key-frame half, convolved frame by frame, then n of the temporal
half, convolved in three dimensions inside groups of frames. Each half reads both. The first frame is a group of its
own; later ones have as many frames as one latent stands for at that depth: 4, after one halving of time 2, then 1.

An implementation of our own, under the names of the published state dicts. Where the published code walks through the
groups and keeps their last frames, all groups are computed together here: a group needs of the past only the last input
frame of the group before it, and that is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from runtime.errors import InputError
from tokenizer.spec import TokenizerSpec, check_latents, check_video

PYRAMID_DILATIONS = (0, 1, 3, 6, 9, 12)  # 0 stands for a 1x1 convolution


@dataclass(frozen=True)
class Variant:
    """Sizes of published weights, and what their latents are normalised by: `scale * (latents - shift)`."""

    latent_channels: int
    width: int
    scale: float
    shift: float


VARIANTS = {
    "z16_dim96": Variant(16, 96, 0.7619, -0.0483),
    "z16_dim64": Variant(16, 64, 0.9697, -0.1553),
    "z8_dim64": Variant(8, 64, 1.0940, -0.0322),
    "z4_dim64": Variant(4, 64, 1.3196, 0.1250),
}


class IVVAE(nn.Module):
    """IV-VAE with 4 frames and 8x8 pixels to a latent; by default the one of its paper, z16_dim96.

    Calls leave nothing behind: there is no state but the weights.

    Args:
        latent_channels: Even.
        width: Channels of either half at full resolution; 2, 4 and 4 times as many below.
    """

    def __init__(self, latent_channels: int = 16, width: int = 96):
        super().__init__()
        if latent_channels < 2 or latent_channels % 2 or width < 1:
            raise InputError(
                f"IV-VAE needs an even number of latent channels and a width above 0, got {latent_channels} and {width}"
            )
        self.spec = TokenizerSpec(
            name=f"iv-vae-z{latent_channels}-dim{width}", temporal=4, spatial=8, channels=latent_channels
        )
        self.encoder = Encoder(2 * latent_channels, width)
        self.conv1 = SplitConv(2 * latent_channels, latent_channels, 1)
        self.conv2 = SplitConv(latent_channels, latent_channels // 2, 1)
        self.decoder = Decoder(latent_channels, width)

    def encode(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and natural logarithm of the variance of raw latents, each `[B, C, G, h, w]` in the weights' dtype.

        Args:
            video: `[B, 3, 1+T, H, W]` float in [-1, 1]; T a multiple of 4, H and W of 8.

        Returns:
            Both as the network gives them: the latents not normalised, the logarithms not clamped.

        Raises:
            InputError: If the shape or dtype does not fit; the message gives the nearest valid size.
        """
        check_video(video, self.spec, values=False)
        moments = self.conv1(self.encoder(self._frames(video)))
        # Of either half, the first channels are means.
        mean, logvar = rearrange(moments, "b t (half which c) h w -> which b (half c) t h w", half=2, which=2)
        return mean.contiguous(), logvar.contiguous()

    def decode(self, latents: Tensor) -> Tensor:
        """Decode raw latents `[B, C, G, h, w]` to `[B, 3, 1+T, H, W]` in the weights' dtype, not clamped to [-1, 1].

        Raises:
            InputError: If the number of channels or dimensions does not fit, or there is no group.
        """
        check_latents(latents, self.spec)
        key, temporal = self.decoder(self.conv2(self._frames(latents))).chunk(2, dim=2)
        # The first frame of every group is a key frame; what either half says of the other frames is of no use.
        places = torch.arange(key.shape[1], device=key.device)
        is_key = (places == 0) | (places % self.spec.temporal == 1)
        return torch.where(is_key.view(-1, 1, 1, 1), key, temporal).transpose(1, 2).contiguous()

    def _frames(self, x: Tensor) -> Tensor:
        return x.to(self.conv1.conv_2d.weight.dtype).transpose(1, 2)


class Encoder(nn.Module):
    """`[B, 1+T, 3, H, W]` -> `[B, G, moments, h, w]`."""

    def __init__(self, moments: int, width: int):
        super().__init__()
        self.conv1 = SplitConv(3, width, 3, group=4)
        self.downsamples = nn.Sequential(
            Residual(width, width, group=4),
            Residual(width, width, group=4),
            Down(width, temporal=False),
            Residual(width, 2 * width, group=4),
            Residual(2 * width, 2 * width, group=4),
            Down(2 * width, temporal=True),
            Residual(2 * width, 4 * width, group=2),
            Residual(4 * width, 4 * width, group=2),
            Down(4 * width, temporal=True),
            *_alternate(SplitAttention, Residual, 4 * width, 5),
        )
        self.middle = nn.Sequential(*_alternate(Residual, SplitAttention, 4 * width, 3))
        self.head = nn.Sequential(_split_norm(4 * width), nn.SiLU(), Pyramid(8 * width, moments))

    def forward(self, video: Tensor) -> Tensor:
        return self.head(self.middle(self.downsamples(self.conv1(video))))


class Decoder(nn.Module):
    """`[B, G, C, h, w]` -> `[B, 1+T, 6, H, W]`, the colours of the key-frame half before those of the temporal half."""

    def __init__(self, latent_channels: int, width: int):
        super().__init__()
        self.conv1 = FrameConv(latent_channels, 8 * width, 3)
        self.middle = nn.Sequential(*_alternate(Residual, SplitAttention, 4 * width, 3))
        self.upsamples = nn.Sequential(
            *_alternate(Residual, SplitAttention, 4 * width, 6),
            Up(4 * width, temporal=True),
            *_residuals((2, 4, 4, 4), width, group=2),
            Up(4 * width, temporal=True),
            *_residuals((2, 2, 2, 2), width, group=4),
            Up(2 * width, temporal=False),
            *_residuals((1, 1, 1, 1), width, group=4),
        )
        self.head = nn.Sequential(_split_norm(width), nn.SiLU(), SplitConv(2 * width, 3, 3, group=4))

    def forward(self, latents: Tensor) -> Tensor:
        return self.head(self.upsamples(self.middle(self.conv1(latents))))


def _alternate(first: type, second: type, width: int, count: int) -> list[nn.Module]:
    """`count` blocks of two kinds in turns, of `width` per half and without time."""
    return [(second if index % 2 else first)(width) for index in range(count)]


def _residuals(multiples: tuple[int, ...], width: int, group: int) -> list[nn.Module]:
    return [Residual(before * width, after * width, group) for before, after in pairwise(multiples)]


class Residual(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), from `width` to `out_width` channels per half.

    With `group` frames to a group the convolutions are split; without, they are two-dimensional over both halves.
    """

    def __init__(self, width: int, out_width: int | None = None, group: int | None = None):
        super().__init__()
        out_width = out_width or width

        def conv(before: int) -> nn.Module:
            if group is None:
                return FrameConv(2 * before, 2 * out_width, 3)
            return SplitConv(2 * before, out_width, 3, group)

        layers = [_split_norm(width), nn.SiLU(), conv(width), _split_norm(out_width), nn.SiLU()]
        # A place is left free, where others have dropout: published weights count it.
        self.residual = nn.Sequential(*layers, nn.Identity(), conv(out_width))
        self.shortcut = nn.Identity() if width == out_width else SplitConv(2 * width, out_width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.residual(x)


class Norm(nn.Module):
    """Channels of each of `parts` scaled to a root mean square of 1, then by `gamma`; over `[..., C, H, W]`."""

    def __init__(self, gamma_shape: tuple[int, ...], parts: int):
        super().__init__()
        self.parts = parts
        self.gamma = nn.Parameter(torch.ones(gamma_shape))

    def forward(self, x: Tensor) -> Tensor:
        gamma = self.gamma.view(-1, 1, 1) * (len(self.gamma) / self.parts) ** 0.5
        return F.normalize(x.unflatten(-3, (self.parts, -1)), dim=-3).flatten(-4, -3) * gamma


def _split_norm(width: int) -> Norm:
    """Of features with `width` channels per half, each half by itself."""
    return Norm((2 * width, 1, 1, 1), parts=2)


def _per_frame(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer of images over `[B, 1+T, C, H, W]`."""
    return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def _over_time(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer of `[B, C, T, H, W]` over `[B, T, C, H, W]`."""
    return layer(x.transpose(1, 2)).transpose(1, 2)


class FrameConv(nn.Module):
    """One two-dimensional convolution of every frame, over both halves."""

    def __init__(self, channels: int, out_channels: int, kernel: int, dilation: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, kernel, padding=kernel // 2 * dilation, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        return _per_frame(self.conv, x)


class SplitConv(nn.Module):
    """`[B, 1+T, channels, H, W]` -> `[B, 1+T, 2 * out_width, H, W]`: a convolution for either half.

    Within a group the temporal half is not causal: it sees all frames of its group, one before them and an empty one
    after them. What comes before the first frame is that frame itself.
    """

    def __init__(self, channels: int, out_width: int, kernel: int, group: int = 1):
        super().__init__()
        self.group = group
        padding = kernel // 2
        self.conv_2d = nn.Conv2d(channels, out_width, kernel, padding=padding)
        self.conv_3d = nn.Conv3d(channels, out_width, kernel, padding=(0, padding, padding))

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.conv_2d.kernel_size[0]
        # On the first frame, which is its own past and has an empty future, the convolution in time is one in space:
        # its first two taps add up. So is one of a single tap, on any frame.
        alone = x[:, :1] if kernel > 1 else x
        weight = torch.cat([self.conv_2d.weight, self.conv_3d.weight[:, :, :2].sum(2)])
        bias = torch.cat([self.conv_2d.bias, self.conv_3d.bias])
        first = _per_frame(lambda frames: F.conv2d(frames, weight, bias, padding=kernel // 2), alone)
        if alone.shape[1] == x.shape[1]:
            return first
        key = _per_frame(self.conv_2d, x[:, 1:])
        # Each group with the frame before it, and an empty one after: [B, groups, C, 1 + group + 1, H, W].
        groups = x.unfold(1, 1 + self.group, self.group).movedim(-1, 3)
        groups = F.pad(groups, (0, 0, 0, 0, 0, 1))
        temporal = _per_frame(self.conv_3d, groups).transpose(2, 3).flatten(1, 2)
        return torch.cat([first, torch.cat([key, temporal], dim=2)], dim=1)


class SplitAttention(nn.Module):
    """Attention among the pixels of each frame, in either half by itself."""

    def __init__(self, width: int):
        super().__init__()
        self.Attention_2d = Attention(width)
        self.Attention_3d = Attention(width)

    def forward(self, x: Tensor) -> Tensor:
        key, temporal = x.chunk(2, dim=2)
        return torch.cat([_per_frame(self.Attention_2d, key), _per_frame(self.Attention_3d, temporal)], dim=2)


class Attention(nn.Module):
    """Single-head self-attention among the pixels of images `[N, C, H, W]`, added to them."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = Norm((width, 1, 1), parts=1)
        self.to_qkv = nn.Conv2d(width, 3 * width, 1)
        self.proj = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        # Pixels before channels also in memory: the fast kernels take nothing else.
        qkv = rearrange(self.to_qkv(self.norm(x)), "n (which c) h w -> which n 1 (h w) c", which=3).contiguous()
        y = F.scaled_dot_product_attention(*qkv)
        return x + self.proj(rearrange(y, "n 1 (h w) c -> n c h w", h=x.shape[-2]))


class Down(nn.Module):
    """Halve height and width of `width` channels per half, and time when `temporal`: 1 + 2m frames become 1 + m."""

    def __init__(self, width: int, temporal: bool):
        super().__init__()
        # Padded at the right and at the bottom alone.
        self.resample_2d, self.resample_3d = (
            nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(width, width, 3, stride=2)) for _ in range(2)
        )
        self.time_conv = nn.Conv3d(width, width, (2, 1, 1), stride=(2, 1, 1)) if temporal else None

    def forward(self, x: Tensor) -> Tensor:
        halve_time = self.time_conv is not None and x.shape[1] > 1
        key, temporal = x.chunk(2, dim=2)
        if halve_time:
            key = torch.cat([key[:, :1], key[:, 1::2]], dim=1)
        key, temporal = _per_frame(self.resample_2d, key), _per_frame(self.resample_3d, temporal)
        if halve_time:
            temporal = torch.cat([temporal[:, :1], _over_time(self.time_conv, temporal[:, 1:])], dim=1)
        return torch.cat([key, temporal], dim=2)


class Up(nn.Module):
    """Double height and width, from `width` to `width // 2` channels per half, and time when `temporal`: 1 + m frames
    become 1 + 2m."""

    def __init__(self, width: int, temporal: bool):
        super().__init__()
        self.resample_2d, self.resample_3d = (
            nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest-exact"), nn.Conv2d(width, width // 2, 3, padding=1))
            for _ in range(2)
        )
        self.time_conv = nn.Conv3d(width, 2 * width, 1) if temporal else None

    def forward(self, x: Tensor) -> Tensor:
        double_time = self.time_conv is not None and x.shape[1] > 1
        key, temporal = x.chunk(2, dim=2)
        if double_time:
            later = _over_time(self.time_conv, temporal[:, 1:])
            # Of the channels, the first half is one frame and the second half the next.
            later = rearrange(later, "b t (two c) h w -> b (t two) c h w", two=2)
            temporal = torch.cat([temporal[:, :1], later], dim=1)
        key, temporal = _per_frame(self.resample_2d, key), _per_frame(self.resample_3d, temporal)
        if double_time:
            key = torch.cat([key[:, :1], key[:, 1:].repeat_interleave(2, dim=1)], dim=1)
        return torch.cat([key, temporal], dim=2)


class Pyramid(nn.Module):
    """Convolutions of several dilations side by side, and one of 1x1 over all their outputs."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        for dilation in PYRAMID_DILATIONS:
            kernel = 3 if dilation else 1
            self.add_module(f"PAC_{dilation}", FrameConv(channels, out_channels, kernel, dilation or 1))
        self.PAC_conv = FrameConv(len(PYRAMID_DILATIONS) * out_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.stack([self.get_submodule(f"PAC_{dilation}")(x) for dilation in PYRAMID_DILATIONS])
        # First the first half of the channels of all, then the second half of all.
        return self.PAC_conv(rearrange(parts, "n b t (half c) h w -> b t (half n c) h w", half=2))
