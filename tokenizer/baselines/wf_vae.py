"""WF-VAE (arXiv 2411.17459): a video VAE whose low frequencies bypass most of the network, as Haar wavelet bands.

Names and shapes of the state dict are those of the authors' WF-VAE-L with 16 latent channels, so that its weights load
strictly. Legend: B batch, C channels, T frames, H and W height and width, G = 1 + (T - 1) / 4 latent groups, h = H / 8,
w = W / 8.

Clips are encoded and decoded whole, and nothing is kept between calls. The decoder interpolates over time, hence looks
one group ahead: the decoded first groups differ from the first frames of the decoded clip, and decoding in chunks would
leave seams.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime import state_dicts
from runtime.errors import InputError
from tokenizer.spec import LOGVAR_RANGE, TokenizerSpec, check_latents, check_video

# Bands in the order of their channels: the stored name, and the axes along which the second element is subtracted.
HAAR_2D = {"aa": "", "ad": "h", "da": "w", "dd": "hw"}
HAAR_3D = {"h": "", "g": "w", "hh": "h", "gh": "hw", "h_v": "t", "g_v": "tw", "hh_v": "th", "gh_v": "thw"}
# The published files hold four digits of 1 / sqrt(8): there and back multiplies by 8 * 0.3536 ** 2 = 1.00026.
FACTOR_3D = 0.3536


class WFVAE(nn.Module):
    """WF-VAE-L: 4 frames by 8 x 8 pixels to one latent of 16 channels.

    No usable statistics of its latents are published (those in its config are placeholders): measure them per channel
    on the training clips before a generator is trained on the latents.

    Args:
        base_channels: Channels at full width and height of the first wavelet bands; 2 and 4 times as many deeper.
        latent_channels: C of the latents.
        connect_channels: Channels in which the wavelet bands of the coarser levels travel beside the others.
    """

    def __init__(self, base_channels: int = 192, latent_channels: int = 16, connect_channels: int = 128):
        super().__init__()
        self.spec = TokenizerSpec(name="wf-vae", temporal=4, spatial=8, channels=latent_channels)
        self.encoder = Encoder(base_channels, latent_channels, connect_channels)
        self.decoder = Decoder(base_channels, latent_channels, connect_channels)

    def encode(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Encode whole clips, each from its own frames alone.

        Args:
            video: `[B, 3, T, H, W]` float in [-1, 1], T = 1 + 4k, H and W multiples of 8.

        Returns:
            Mean and log-variance (within `LOGVAR_RANGE`), each `[B, C, G, h, w]`, dtype of the weights, not normalised.

        Raises:
            InputError: If shape, dtype or range does not fit; the message gives the nearest valid size.
        """
        check_video(video, self.spec)
        mean, logvar = self.encoder(video.to(self.encoder.conv_out.conv.weight.dtype)).chunk(2, dim=1)
        return mean, logvar.clamp(*LOGVAR_RANGE)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode whole clips; the result is not clamped.

        Args:
            latents: `[B, C, G, h, w]` float, not normalised.

        Returns:
            `[B, 3, 1 + 4 (G - 1), 8h, 8w]` in about [-1, 1], dtype of the weights.

        Raises:
            InputError: If shape or dtype does not fit.
        """
        check_latents(latents, self.spec)
        return self.decoder(latents.to(self.decoder.conv_out.weight.dtype))


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name of a file in one of the authors' layouts (see `runtime.state_dicts.read_state_dict`).

    A checkpoint of their training holds averaged weights in `ema_state_dict`, which are taken where there are any, and
    others in `state_dict`, `gen_model`.
    """
    state = state_dicts.read_state_dict(path, ("ema_state_dict", "state_dict.gen_model", "state_dict"))
    return {name.removeprefix("module."): value for name, value in state.items()}


class Encoder(nn.Module):
    """Video `[B, 3, T, H, W]` to mean and log-variance `[B, 2C, G, h, w]`."""

    def __init__(self, base: int, latent: int, connect: int):
        super().__init__()
        self.down1 = nn.Sequential(
            FrameConv(24, base, 3, padding=1),
            ResidualBlock(base, base, per_frame=True),
            ResidualBlock(base, base, per_frame=True),
            Downsample(FrameConv(base, base, 3, stride=2)),
        )
        self.down2 = nn.Sequential(
            FrameConv(base + connect, 2 * base, 3, padding=1),
            ResidualBlock(2 * base, 2 * base),
            ResidualBlock(2 * base, 2 * base),
            Downsample(CausalConv(2 * base, 2 * base, 3, stride=2, padding=0)),
        )
        self.connect_l1 = FrameConv(12, connect, 3, padding=1)
        self.connect_l2 = FrameConv(24, connect, 3, padding=1)
        self.mid = nn.Sequential(
            ResidualBlock(2 * base + connect, 4 * base),
            FrameAttention(4 * base),
            ResidualBlock(4 * base, 4 * base),
        )
        self.norm_out = ChannelLayerNorm(4 * base)
        self.conv_out = CausalConv(4 * base, 2 * latent, 3)
        self.wavelet_transform_in = Haar(HAAR_3D, FACTOR_3D, as_convolutions=True)
        self.wavelet_transform_l1 = Haar(HAAR_2D, 0.5)
        self.wavelet_transform_l2 = Haar(HAAR_3D, FACTOR_3D, as_convolutions=True)

    def forward(self, video: Tensor) -> Tensor:
        bands = self.wavelet_transform_in(video)
        bands_l1 = self.wavelet_transform_l1(bands[:, :3])
        bands_l2 = self.wavelet_transform_l2(bands_l1[:, :3])
        x = torch.cat([self.down1(bands), self.connect_l1(bands_l1)], dim=1)
        x = torch.cat([self.down2(x), self.connect_l2(bands_l2)], dim=1)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Latents `[B, C, G, h, w]` to video `[B, 3, T, H, W]`."""

    def __init__(self, base: int, latent: int, connect: int):
        super().__init__()
        self.conv_in = CausalConv(latent, 4 * base, 3)
        self.mid = nn.Sequential(
            ResidualBlock(4 * base, 4 * base),
            FrameAttention(4 * base),
            ResidualBlock(4 * base, 4 * base + connect),
        )
        self.up2 = nn.Sequential(
            ResidualBlock(4 * base, 4 * base),
            ResidualBlock(4 * base, 4 * base),
            UpsampleVideo(4 * base),
            ResidualBlock(4 * base, 4 * base + connect),
        )
        self.up1 = nn.Sequential(
            ResidualBlock(4 * base, 2 * base),
            ResidualBlock(2 * base, 2 * base),
            UpsampleFrames(2 * base),
            ResidualBlock(2 * base, 2 * base),
        )
        self.layer = nn.Sequential(ResidualBlock(2 * base, base), ResidualBlock(base, base))
        self.connect_l1 = nn.Sequential(ResidualBlock(connect, connect), FrameConv(connect, 12, 3, padding=1))
        self.connect_l2 = nn.Sequential(ResidualBlock(connect, connect), FrameConv(connect, 24, 3, padding=1))
        self.norm_out = ChannelLayerNorm(base)
        self.conv_out = FrameConv(base, 24, 3, padding=1)
        self.inverse_wavelet_transform_out = Haar(HAAR_3D, FACTOR_3D)
        self.inverse_wavelet_transform_l1 = Haar(HAAR_2D, 0.5)
        self.inverse_wavelet_transform_l2 = Haar(HAAR_3D, FACTOR_3D)
        self._split = 4 * base, connect

    def forward(self, latents: Tensor) -> Tensor:
        x, beside = self.mid(self.conv_in(latents)).split(self._split, dim=1)
        low_l2 = self.inverse_wavelet_transform_l2.inverse(self.connect_l2(beside))
        x, beside = self.up2(x).split(self._split, dim=1)
        low_l1 = self.inverse_wavelet_transform_l1.inverse(_add_to_first(self.connect_l1(beside), low_l2))
        bands = self.conv_out(F.silu(self.norm_out(self.layer(self.up1(x)))))
        return self.inverse_wavelet_transform_out.inverse(_add_to_first(bands, low_l1))


def _add_to_first(bands: Tensor, low: Tensor) -> Tensor:
    """`low` added to the first of the bands, which are the lowest."""
    return torch.cat([bands[:, : low.shape[1]] + low, bands[:, low.shape[1] :]], dim=1)


class Haar(nn.Module):
    """Haar transform over blocks of 2 along (time,) height and width, with fixed kernels; band-major channels.

    Over time, a copy of the first frame comes first, so that 1 + 2k frames make 1 + k, and `inverse` drops it.
    The kernels are stored with the weights: as buffers, or `as_convolutions`, where the authors have modules.
    """

    def __init__(self, bands: Mapping[str, str], factor: float, as_convolutions: bool = False):
        super().__init__()
        axes = "thw" if any("t" in minus for minus in bands.values()) else "hw"
        self._fixed, self._over_time = {}, "t" in axes
        for name, minus in bands.items():
            fixed = torch.full((1, 1, *[2] * len(axes)), factor, device="cpu")
            for axis in minus:
                fixed.select(2 + axes.index(axis), 1).neg_()
            kernel = torch.tensor(fixed.tolist())  # on the device that is asked for, which may be meta
            self._fixed[f"{name}_conv.conv.weight" if as_convolutions else name] = fixed
            if as_convolutions:
                held, conv = nn.Module(), nn.Conv3d(1, 1, 2, stride=2, bias=False)
                conv.weight = nn.Parameter(kernel, requires_grad=False)
                held.conv = conv
                self.add_module(f"{name}_conv", held)
            else:
                self.register_buffer(name, kernel)
        self.register_load_state_dict_pre_hook(_check_kernels)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, T, H, W]` to `[B, bands * C, (1 + T) / 2, H / 2, W / 2]`; in two dimensions, T stays."""
        if self._over_time:
            x = torch.cat([x[:, :, :1], x], dim=2)
        kernels = self._kernels()
        bands = F.conv3d(x.flatten(0, 1).unsqueeze(1), kernels, stride=kernels.shape[2:])
        return bands.unflatten(0, x.shape[:2]).transpose(1, 2).flatten(1, 2)

    def inverse(self, bands: Tensor) -> Tensor:
        """What `forward` had, but for the factor of `FACTOR_3D`."""
        kernels = self._kernels()
        apart = bands.unflatten(1, (len(kernels), -1)).transpose(1, 2)
        x = F.conv_transpose3d(apart.flatten(0, 1), kernels, stride=kernels.shape[2:])
        x = x.squeeze(1).unflatten(0, apart.shape[:2])
        return x[:, :, 1:] if self._over_time else x

    def _kernels(self) -> Tensor:
        """`[bands, 1, 2 or 1, 2, 2]`."""
        kernels = torch.cat([attrgetter(name)(self) for name in self._fixed])
        return kernels if self._over_time else kernels.unsqueeze(2)


def _check_kernels(haar: Haar, state: Mapping[str, Tensor], prefix: str, *_) -> None:
    """Kernels in another order, or of another wavelet, would load and then mix up the bands: refuse them."""
    for name, fixed in haar._fixed.items():
        found = state.get(prefix + name)
        if found is None or found.is_meta:
            continue
        # Half precision moves 0.3536 by less than a thousandth.
        if not torch.allclose(found.float().cpu(), fixed, rtol=0, atol=2e-3):
            raise InputError(f"{prefix}{name} is not the Haar kernel of WF-VAE, so these are other weights")


class ChannelLayerNorm(nn.Module):
    """Layer norm over the channels at each frame and pixel."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class FrameConv(nn.Conv2d):
    """2D convolution of each frame of `[B, C, T, H, W]`."""

    def forward(self, x: Tensor) -> Tensor:
        frames = x.transpose(1, 2)
        return super().forward(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).transpose(1, 2)


class CausalConv(nn.Module):
    """3D convolution that sees earlier frames only; copies of the first frame stand for those before the clip."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, padding: int | None = None):
        super().__init__()
        around = kernel // 2 if padding is None else padding
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, stride, padding=(0, around, around))
        self._before = kernel - 1

    def forward(self, x: Tensor) -> Tensor:
        if self._before:
            x = torch.cat([x[:, :, :1].expand(-1, -1, self._before, -1, -1), x], dim=2)
        return self.conv(x)


class ResidualBlock(nn.Module):
    """Twice norm, SiLU and 3 x 3 (x 3) convolution, added to the input."""

    def __init__(self, in_channels: int, out_channels: int, per_frame: bool = False):
        super().__init__()
        self.norm1 = ChannelLayerNorm(in_channels)
        self.conv1 = _convolution(in_channels, out_channels, per_frame)
        self.norm2 = ChannelLayerNorm(out_channels)
        self.conv2 = _convolution(out_channels, out_channels, per_frame)
        if in_channels != out_channels:
            self.nin_shortcut = CausalConv(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return y + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


def _convolution(in_channels: int, out_channels: int, per_frame: bool) -> nn.Module:
    if per_frame:
        return FrameConv(in_channels, out_channels, 3, padding=1)
    return CausalConv(in_channels, out_channels, 3)


class FrameAttention(nn.Module):
    """Self-attention among the pixels of each frame, one head, added to the input."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = ChannelLayerNorm(channels)
        self.q, self.k, self.v, self.proj_out = (CausalConv(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        # [B, T, H * W, C]
        queries, keys, values = (part(y).movedim(1, -1).flatten(2, 3) for part in (self.q, self.k, self.v))
        seen = F.scaled_dot_product_attention(queries, keys, values)
        return x + self.proj_out(seen.unflatten(2, x.shape[3:]).movedim(-1, 1))


class Downsample(nn.Module):
    """Halve height and width, and time where `conv` does: a row and a column of zeros at the end, then stride 2."""

    def __init__(self, conv: nn.Module):
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class UpsampleVideo(nn.Module):
    """T frames to 2T - 1, of twice the height and width, all interpolated linearly, then a convolution.

    The first frame stands for itself alone. The others are interpolated among themselves, each also from the next one.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = CausalConv(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] > 1:
            x = torch.cat([x[:, :, :1], F.interpolate(x[:, :, 1:], scale_factor=(2, 1, 1), mode="trilinear")], dim=2)
        return self.conv(F.interpolate(x, scale_factor=(1, 2, 2), mode="trilinear"))


class UpsampleFrames(nn.Module):
    """Each pixel doubled along height and width, then a convolution of each frame."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = FrameConv(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=(1, 2, 2), mode="nearest"))
