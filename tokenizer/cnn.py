"""The causal 3D convolutional encoder and decoder of PV-VAE (paper section 3; sizes of the levels are our
reconstruction).

The first two of the downsampling stages halve time and space, the others space only; the decoder mirrors the encoder.
With `patch` p > 1 the pixels of p x p squares enter as channels, and that replaces the first log2(p) spatial halvings.
"""

from __future__ import annotations

from collections.abc import Iterator

from einops import rearrange
from torch import Tensor, nn

from tokenizer.config import TEMPORAL_STAGES, CNNConfig
from tokenizer.layers import (
    CausalConv3d,
    CausalSequential,
    ChannelNorm,
    Downsample,
    FrameAttention,
    Past,
    ResidualBlock,
    Upsample,
)
from tokenizer.spec import INITIAL_LOGVAR


def _middle(channels: int, blocks: int, norm: str) -> list[nn.Module]:
    """`blocks` residual blocks with one per-frame attention after the first."""
    layers: list[nn.Module] = [ResidualBlock(channels, norm) for _ in range(blocks)]
    layers.insert(1, FrameAttention(channels, norm))
    return layers


class Encoder(nn.Module):
    """`[B, 3, 1+T, H, W]` -> moments `[B, 2C, G, h, w]` (mean, logvar along channels).

    Attributes:
        checkpoint_blocks: Recompute the activations of residual blocks in the backward pass of training instead of
            keeping them.
    """

    def __init__(self, config: CNNConfig):
        super().__init__()
        self.checkpoint_blocks = False
        self.patch = config.patch
        channels, norm = config.channels, config.norm
        layers: list[nn.Module] = [CausalConv3d(3 * config.patch**2, channels[0])]
        for level, (width, blocks) in enumerate(config.encoder_levels):
            layers += [ResidualBlock(width, norm) for _ in range(blocks)]
            if level + 1 < len(channels):
                layers.append(Downsample(width, channels[level + 1], temporal=level < TEMPORAL_STAGES))
        layers += _middle(channels[-1], config.middle_blocks, norm)
        self.layers = CausalSequential(layers)
        self.norm_out = ChannelNorm(channels[-1], norm)
        self.conv_out = CausalConv3d(channels[-1], 2 * config.latent_channels)
        nn.init.constant_(self.conv_out.bias.data[config.latent_channels :], INITIAL_LOGVAR)

    def forward(self, video: Tensor, past: Past = None) -> tuple[Tensor, Past]:
        trunk_past, out_past = past or (None, None)
        # The target order is channels-last in memory; the permute back is a view.
        x = rearrange(video, "b c t (h p) (w q) -> b t h w (c p q)", p=self.patch, q=self.patch).permute(0, 4, 1, 2, 3)
        x, trunk_past = self.layers(x, trunk_past, self.checkpoint_blocks and self.training)
        x, out_past = self.conv_out(x, out_past, self.norm_out)
        return x, [trunk_past, out_past]


class Decoder(nn.Module):
    """`[B, C, G, h, w]` -> `[B, 3, 1+T, H, W]`, not clamped; `checkpoint_blocks` as in `Encoder`."""

    def __init__(self, config: CNNConfig):
        super().__init__()
        self.checkpoint_blocks = False
        self.patch = config.patch
        channels, norm = config.decoder_channels or config.channels, config.norm
        layers: list[nn.Module] = [CausalConv3d(config.latent_channels, channels[-1])]
        layers += _middle(channels[-1], config.middle_blocks, norm)
        for level, (width, blocks) in reversed(list(enumerate(config.decoder_levels))):
            layers += [ResidualBlock(width, norm) for _ in range(blocks)]
            if level > 0:
                layers.append(Upsample(width, channels[level - 1], temporal=level <= TEMPORAL_STAGES))
        self.layers = CausalSequential(layers)
        self.norm_out = ChannelNorm(channels[0], norm)
        self.conv_out = CausalConv3d(channels[0], 3 * config.patch**2)

    def forward(self, latents: Tensor, past: Past = None) -> tuple[Tensor, Past]:
        trunk_past, out_past = past or (None, None)
        x, trunk_past = self.layers(latents, trunk_past, self.checkpoint_blocks and self.training)
        x, out_past = self.conv_out(x, out_past, self.norm_out)
        x = rearrange(x, "b (c p q) t h w -> b c t (h p) (w q)", p=self.patch, q=self.patch)
        return x, [trunk_past, out_past]

    @property
    def last_layer(self) -> nn.Module:
        """The layer whose outputs are pixels; an adaptive adversarial weight is measured there."""
        return self.conv_out

    def clip_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters to freeze while training on images alone: those of doubling time.

        The first frame of a clip sees only half of their outputs, so that images would pull the two halves apart, and
        a clip of a still picture would no longer decode to it in every frame.
        """
        for layer in self.layers:
            if isinstance(layer, Upsample) and layer.time is not None:
                yield from layer.time.parameters()
