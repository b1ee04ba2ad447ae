"""PatchGAN discriminators of frames and of clips, with spectral norm.

PV-VAE trains with a GAN loss (section 3.3) and does not publish its discriminator; this one is our choice. Two
networks look at the same video: a 2D one judges patches of every frame, a 3D one patches of the clip. Neither has batch
norm, which breaks at one clip a process and lets the clips of a batch, real and fake ones too, see each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils import parametrize

from runtime.errors import InputError

INITIAL_ITERATIONS = 15


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """Size of both discriminators.

    Attributes:
        channels: Width after the first layer; it doubles with every further one.
        max_channels: Where the doubling ends.
        layers: Convolutions of stride 2. 3, meant for 256 pixels, judge patches of 54x54 pixels; 2 those of 26x26.
    """

    channels: int = 64
    max_channels: int = 512
    layers: int = 3

    def __post_init__(self) -> None:
        if min(self.channels, self.max_channels, self.layers) < 1:
            raise InputError("channels, max_channels and layers of the discriminator must be at least 1")

    def check_size(self, height: int, width: int) -> None:
        """InputError when a frame is too small to be halved `layers` times."""
        if min(height, width) < 2**self.layers:
            raise InputError(
                f"a discriminator of {self.layers} layers needs frames of at least {2**self.layers} pixels a side, "
                f"got {height}x{width}; take fewer layers"
            )


class SpectralNorm(nn.Module):
    """The parametrisation weight -> weight / s, where s = u'Wv estimates the largest singular value of W `[out, rest]`.

    Source: Miyato et al. 2018, arXiv 1802.05957, algorithm 1. Unlike `torch.nn.utils.parametrizations.spectral_norm`,
    forward only reads u and v: how far the power iteration has come must not depend on how often a training step looks
    at the network. `iterate` moves them, by the weight alone, so that processes with equal weights keep equal buffers.
    """

    def __init__(self, weight: Tensor):
        super().__init__()
        matrix = weight.detach().flatten(1)
        self.register_buffer("u", torch.randn_like(matrix[:, 0]))
        self.register_buffer("v", torch.zeros_like(matrix[0]))
        for _ in range(INITIAL_ITERATIONS):
            self.iterate(weight)

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            return weight / torch.dot(self.u, torch.mv(weight.flatten(1), self.v))

    @torch.no_grad()
    def iterate(self, weight: Tensor) -> None:
        """One power iteration towards the leading singular vectors of `weight`."""
        matrix = weight.flatten(1)
        self.v.copy_(F.normalize(torch.mv(matrix.T, self.u), dim=0))
        self.u.copy_(F.normalize(torch.mv(matrix, self.v), dim=0))


def patch_network(config: DiscriminatorConfig, dimensions: int) -> nn.Sequential:
    """Convolutions from 3 channels to one logit a patch, over (H, W) or, with `dimensions` 3, (T, H, W)."""
    convolution = {2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
    # An odd kernel in time keeps a single frame one frame.
    halving = {2: (4, 4), 3: (3, 4, 4)}[dimensions]
    widths = [3] + [min(config.channels * 2**i, config.max_channels) for i in range(config.layers + 1)]
    layers: list[nn.Module] = []
    for i in range(config.layers):
        layers += [convolution(widths[i], widths[i + 1], halving, stride=2, padding=1), nn.LeakyReLU(0.2)]
    layers += [convolution(widths[-2], widths[-1], 3, padding=1), nn.LeakyReLU(0.2)]
    layers += [convolution(widths[-1], 1, 3, padding=1)]
    for layer in layers[::2]:
        parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight))
    return nn.Sequential(*layers)


class Discriminator(nn.Module):
    """Both patch networks. An image goes through both as a clip of one frame.

    The 3D network then sees zeros before and after the image and judges it with its middle taps alone. It could be left
    out there, since nothing moves; but so it comes to the video stage knowing pictures, and every parameter belongs to
    every step, as `DistributedDataParallel` wants it.
    """

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        self.config = config
        self.frames = patch_network(config, 2).to(memory_format=torch.channels_last)
        self.clips = patch_network(config, 3).to(memory_format=torch.channels_last_3d)

    def forward(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Judge `video` `[B, 3, 1+T, H, W]` in [-1, 1]; above 0 means real.

        Returns:
            Logits of the frames `[B, 1+T, h, w]` and of the clips `[B, t, h, w]`, float32, with h = H / 2^layers and
            t = 1 + T / 2^layers, the quotients rounded down.

        Raises:
            InputError: If a frame is too small for the number of layers.
        """
        self.config.check_size(*video.shape[-2:])
        frames = self.frames(rearrange(video, "b c t h w -> (b t) c h w"))
        frames = rearrange(frames, "(b t) 1 h w -> b t h w", b=len(video))
        return frames.float(), self.clips(video).squeeze(1).float()

    def iterate_spectral_norms(self) -> None:
        """One power iteration of every spectral norm; call it once after each update of the weights."""
        for layer in [*self.frames, *self.clips]:
            if parametrize.is_parametrized(layer):
                layer.parametrizations.weight[0].iterate(layer.parametrizations.weight.original)


def layers_of(tensors: Mapping[str, Tensor]) -> int:
    """`DiscriminatorConfig.layers` of the discriminator that a state dict is of."""
    return sum(name.startswith("frames.") and name.endswith(".bias") for name in tensors) - 2
