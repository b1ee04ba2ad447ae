"""LeanVAE: wavelet patches, depthwise convolutions and an unrolled sparse code in 40 million parameters.

Source: arXiv 2503.14325. Every weight has the name and shape that it has in the authors' files (`read_state_dict`).

Legend: B batch, T frames after the first, G = 1 + T/4 latent groups, C latent channels, h = H/8 and w = W/8 latent
    cells, D features. Features are channels-last, `[B, G, h, w, D]`; maps and latents have their channels second.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenizer.spec import LOGVAR_RANGE, TokenizerSpec, check_latents, check_video

# What the authors multiply latents with before they generate, by number of channels.
LATENT_FACTORS = {16: 1.0, 4: 0.7744}
# Axes of the wavelet transform of the first frame and of the others; the first axis here changes its band last.
IMAGE_AXES, VIDEO_AXES = (4, 3), (2, 3, 4)
# Frames, rows and columns of wavelet maps that are one token.
IMAGE_PATCH, VIDEO_PATCH = (1, 4, 4), (2, 4, 4)
# Layers on each of the two frequency ranges, on both together, and in each part of the latents' decoding.
RANGE_LAYERS, JOINT_LAYERS, CODE_LAYERS = 2, 4, 2
CODE_STEPS = 2


class LeanVAE(nn.Module):
    """Encoder and decoder, 4 times smaller in time and 8 times in space. Keeps nothing between calls.

    The network works on pixels in [-0.5, 0.5]; `encode` and `decode` convert from and to [-1, 1]. Every latent group
    depends on its own and earlier frames only, every decoded frame on its own and earlier groups.

    Random weights come from torch's global generator. The authors' way of drawing `phi` and `Q` is not followed:
    here `phi` starts with orthonormal rows and `Q` as its transpose.

    Args:
        channels: Latent channels, C: 16 or 4 in the published files.
        low_width: Features of the low frequencies.
        high_width: Features of the high frequencies.
    """

    def __init__(self, channels: int = 16, low_width: int = 128, high_width: int = 384):
        super().__init__()
        self.spec = TokenizerSpec(name="leanvae", temporal=4, spatial=8, channels=channels)
        self.encoder = Encoder(low_width, high_width)
        self.latent_bottleneck = SparseCode(channels, low_width + high_width)
        self.std_layer = nn.Linear(low_width + high_width, channels)
        self.decoder = Decoder(low_width, high_width)

    def encode(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a clip, or an image as a clip of one frame.

        Args:
            video: `[B, 3, 1+T, H, W]` float in [-1, 1], T a multiple of 4, H and W of 8.

        Returns:
            Mean and logarithm of the variance, each `[B, C, G, h, w]` in the dtype of the weights, not normalised.

        Raises:
            InputError: If shape or dtype does not fit; the message gives the nearest valid size.
        """
        check_video(video, self.spec, values=False)
        mean, logvar = self.moments(0.5 * video.to(self.std_layer.weight.dtype))
        return mean, logvar.clamp(*LOGVAR_RANGE)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents as `encode` returns them; one group gives one frame.

        Args:
            latents: `[B, C, G, h, w]` float.

        Returns:
            Video `[B, 3, 1+T, H, W]` in the dtype of the weights, nominally in [-1, 1] but not clamped.

        Raises:
            InputError: If shape or dtype does not fit.
        """
        check_latents(latents, self.spec)
        return 2.0 * self.pixels(latents.to(self.std_layer.weight.dtype))

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and unbounded logvar of a checked video in [-0.5, 0.5]."""
        features = self.encoder(pixels)
        return self.latent_bottleneck.encode(features).movedim(-1, 1), self.std_layer(features).movedim(-1, 1)

    def pixels(self, latents: Tensor) -> Tensor:
        """The video, nominally in [-0.5, 0.5], of checked latents."""
        return self.decoder(self.latent_bottleneck.decode(latents.movedim(1, -1)))


class Encoder(nn.Module):
    """`[B, 3, 1+T, H, W]` in [-0.5, 0.5] -> features `[B, G, h, w, low_width + high_width]`."""

    def __init__(self, low_width: int, high_width: int):
        super().__init__()
        # A patch is made in front of each linear layer, which is why its weights are called 1.
        for name, (low, high), patch in PROJECTIONS:
            self.add_module(f"{name}_low_proj", nn.Sequential(ToPatches(patch), nn.Linear(low, low_width)))
            self.add_module(f"{name}_high_proj", nn.Sequential(ToPatches(patch), nn.Linear(high, high_width)))
        self.low_layer = Layers(low_width, RANGE_LAYERS)
        self.high_layer = Layers(high_width, RANGE_LAYERS)
        self.fusion_layer = Layers(low_width + high_width, JOINT_LAYERS)

    def forward(self, video: Tensor) -> Tensor:
        maps = haar(video[:, :, :1], IMAGE_AXES)
        low, high = self.image_low_proj(maps[:, :3]), self.image_high_proj(maps[:, 3:])
        if video.shape[2] > 1:
            maps = haar(video[:, :, 1:], VIDEO_AXES)
            low = torch.cat([low, self.video_low_proj(maps[:, :3])], dim=1)
            high = torch.cat([high, self.video_high_proj(maps[:, 3:])], dim=1)
        return self.fusion_layer(torch.cat([self.low_layer(low), self.high_layer(high)], dim=-1))


class Decoder(nn.Module):
    """Features `[B, G, h, w, low_width + high_width]` -> `[B, 3, 1+T, H, W]` nominally in [-0.5, 0.5]."""

    def __init__(self, low_width: int, high_width: int):
        super().__init__()
        self.widths = (low_width, high_width)
        for name, (low, high), patch in PROJECTIONS:
            self.add_module(f"{name}_low_proj", nn.Sequential(nn.Linear(low_width, low), FromPatches(patch)))
            self.add_module(f"{name}_high_proj", nn.Sequential(nn.Linear(high_width, high), FromPatches(patch)))
        self.low_layer = Layers(low_width, RANGE_LAYERS)
        self.high_layer = Layers(high_width, RANGE_LAYERS)
        self.fusion_layer = Layers(low_width + high_width, JOINT_LAYERS)

    def forward(self, features: Tensor) -> Tensor:
        low, high = self.fusion_layer(features).split(self.widths, dim=-1)
        low, high = self.low_layer(low), self.high_layer(high)
        first = torch.cat([self.image_low_proj(low[:, :1]), self.image_high_proj(high[:, :1])], dim=1)
        parts = [inverse_haar(first, IMAGE_AXES)]
        if features.shape[1] > 1:
            rest = torch.cat([self.video_low_proj(low[:, 1:]), self.video_high_proj(high[:, 1:])], dim=1)
            parts.append(inverse_haar(rest, VIDEO_AXES))
        return torch.cat(parts, dim=2)


class SparseCode(nn.Module):
    """Features to few channels by one matrix, and back by a learned search for the features that they came from.

    The search is proximal gradient descent on the distance to the given latents, unrolled: after each step the features
    are transformed, their small entries set to zero, and transformed back.
    """

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.phi = nn.Parameter(nn.init.orthogonal_(torch.empty(channels, width)))
        self.Q = nn.Parameter(self.phi.detach().T.contiguous())
        self.forward_l = nn.ModuleList(Layers(width, CODE_LAYERS, residual=False) for _ in range(CODE_STEPS))
        self.backward_l = nn.ModuleList(Layers(width, CODE_LAYERS, residual=False) for _ in range(CODE_STEPS))
        self.weights = nn.ParameterList(torch.ones(()) for _ in range(CODE_STEPS))
        self.threshold = nn.ParameterList(torch.full((1,), 0.01) for _ in range(CODE_STEPS))

    def encode(self, features: Tensor) -> Tensor:
        """`[B, G, h, w, D]` -> `[B, G, h, w, C]`."""
        return F.linear(features, self.phi)

    def decode(self, latents: Tensor) -> Tensor:
        """`[B, G, h, w, C]` -> `[B, G, h, w, D]`."""
        features = F.linear(latents, self.Q)
        steps = zip(self.forward_l, self.backward_l, self.weights, self.threshold, strict=True)
        for transform, transform_back, rate, threshold in steps:
            features = features - rate * F.linear(F.linear(features, self.phi) - latents, self.phi.T)
            code = transform(features)
            features = features + transform_back(code.sign() * F.relu(code.abs() - threshold))
        return features


class Layers(nn.Module):
    """Layers of a convolution and an MLP on features `[B, G, h, w, D]`, each added to its input if `residual`."""

    def __init__(self, width: int, num_layers: int, residual: bool = True):
        super().__init__()
        self.residual = residual
        self.dconv_layer = nn.ModuleList(CausalDepthwiseConv(width) for _ in range(num_layers))
        self.ffd_layer = nn.ModuleList(_mlp(width) for _ in range(num_layers))

    def forward(self, features: Tensor) -> Tensor:
        for convolution, mlp in zip(self.dconv_layer, self.ffd_layer, strict=True):
            for part in (convolution, mlp):
                features = features + part(features) if self.residual else part(features)
        return features


class CausalDepthwiseConv(nn.Module):
    """A 3x3x3 convolution of each feature alone that sees the present and two earlier groups; zeros outside."""

    def __init__(self, width: int):
        super().__init__()
        self.ds_conv = nn.Conv3d(width, width, 3, groups=width)

    def forward(self, features: Tensor) -> Tensor:
        return self.ds_conv(F.pad(features.movedim(-1, 1), (1, 1, 1, 1, 2, 0))).movedim(1, -1)


def _mlp(width: int) -> nn.Sequential:
    hidden = 8 * width // 3
    return nn.Sequential(
        OrderedDict(
            [  # the authors' file counts a dropout as 3, which has no weights
                ("0", nn.LayerNorm(width)),
                ("1", nn.Linear(width, 2 * hidden, bias=False)),
                ("2", GatedGELU()),
                ("4", nn.Linear(hidden, width, bias=False)),
            ]
        )
    )


class GatedGELU(nn.Module):
    """The first half of the features times the GELU of the second."""

    def forward(self, features: Tensor) -> Tensor:
        value, gate = features.chunk(2, dim=-1)
        return F.gelu(gate) * value


class ToPatches(nn.Module):
    """Maps `[B, M, T, H, W]` -> `[B, T/pt, H/ph, W/pw, M*pt*ph*pw]`."""

    def __init__(self, patch: tuple[int, int, int]):
        super().__init__()
        self.patch = patch

    def forward(self, maps: Tensor) -> Tensor:
        for axis, size in zip((2, 4, 6), self.patch, strict=True):
            maps = maps.unflatten(axis, (-1, size))
        return maps.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)


class FromPatches(nn.Module):
    """Undoes `ToPatches`."""

    def __init__(self, patch: tuple[int, int, int]):
        super().__init__()
        self.patch = patch

    def forward(self, patches: Tensor) -> Tensor:
        maps = patches.unflatten(-1, (-1, *self.patch)).permute(0, 4, 1, 5, 2, 6, 3, 7)
        return maps.flatten(6).flatten(4, 5).flatten(2, 3)


def haar(video: Tensor, axes: Sequence[int]) -> Tensor:
    """`[B, 3, T, H, W]` -> `[B, 3 * 2**n, …]`, the n `axes` halved: unscaled sums and differences of neighbours.

    Channels are band * 3 + colour. The first three are sums alone; the last of `axes` changes fastest between bands.
    """
    bands = [video]
    for axis in axes:
        bands = [part for band in bands for part in _sum_and_difference(band, axis)]
    return torch.cat(bands, dim=1)


def inverse_haar(maps: Tensor, axes: Sequence[int]) -> Tensor:
    """Undo `haar`."""
    bands = maps.chunk(2 ** len(axes), dim=1)
    for axis in reversed(axes):
        pairs = zip(bands[::2], bands[1::2], strict=True)
        bands = [torch.stack([low + high, low - high], axis + 1).flatten(axis, axis + 1) * 0.5 for low, high in pairs]
    return bands[0]


def _sum_and_difference(band: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    even, odd = band.unflatten(axis, (-1, 2)).unbind(axis + 1)
    return even + odd, even - odd


def _sizes(axes: Sequence[int], patch: tuple[int, int, int]) -> tuple[int, int]:
    """Numbers in one patch of the low and of the high frequencies."""
    low = 3 * patch[0] * patch[1] * patch[2]
    return low, low * (2 ** len(axes) - 1)


# What a token holds of the first frame and of the others: its name in the weights, its sizes, its patch.
PROJECTIONS = (
    ("video", _sizes(VIDEO_AXES, VIDEO_PATCH), VIDEO_PATCH),
    ("image", _sizes(IMAGE_AXES, IMAGE_PATCH), IMAGE_PATCH),
)
