"""PV-VAE: a causal 3D video VAE that can decode a clip of which the encoder has seen only the beginning.

Legend: B batch, T frames after the first, G = 1 + T/4 latent groups, C latent channels, h = H/s and w = W/s latent
    cells.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from runtime.errors import InputError
from runtime.records import from_record
from tokenizer.cnn import TEMPORAL_STAGES, Decoder, Encoder, check_strides, spatial_stride
from tokenizer.predictive import PADDINGS, pad_dropped
from tokenizer.spec import LOGVAR_RANGE, Posterior, TokenizerSpec, weights_hash

# What a weight file may hold beside the weights: statistics `[C]` of the latents.
STATISTICS = ("latents_mean", "latents_std")
_TEMPORAL_STRIDE = 2**TEMPORAL_STAGES
# Sizes beyond these are a damaged or hostile config, refused before anything is built; the paper's are below a tenth.
_LARGEST = {"latent_channels": 4096, "channels": 16_384, "blocks": 64, "middle_blocks": 64, "patch": 64, "levels": 10}
_ENCODER_FIELDS = ("architecture", "latent_channels", "channels", "blocks", "middle_blocks", "patch", "norm")


@dataclass(frozen=True, kw_only=True)
class PVVAEConfig:
    """Size of a PV-VAE.

    Attributes:
        architecture: "cnn", the causal 3D convolutional network.
        latent_channels: C.
        channels: Width of each level, full resolution first; one downsampling stage between two levels.
        blocks: Residual blocks a level.
        middle_blocks: Residual blocks at the lowest resolution, with one per-frame attention.
        patch: Side of the pixel squares that enter as channels; 1 in the paper.
        norm: "rms" or "layer", over channels only.
        padding: What replaces dropped latents: "learnable" or "gaussian".
        decoder_channels: Like `channels` for the decoder; empty: the same.
        decoder_blocks: Residual blocks a level of the decoder; 0: the same.
    """

    architecture: str = "cnn"
    latent_channels: int = 64
    channels: tuple[int, ...] = (96, 192, 384, 768, 768)
    blocks: int = 3
    middle_blocks: int = 3
    patch: int = 1
    norm: str = "rms"
    padding: str = "learnable"
    decoder_channels: tuple[int, ...] = ()
    decoder_blocks: int = 0

    def __post_init__(self) -> None:
        for name in ("channels", "decoder_channels"):
            object.__setattr__(self, name, tuple(int(c) for c in getattr(self, name)))
        if self.architecture != "cnn":
            raise InputError(f"architecture {self.architecture!r} is not known; known: cnn")
        if self.padding not in PADDINGS:
            raise InputError(f"padding {self.padding!r} is not known; known: {', '.join(PADDINGS)}")
        if self.norm not in ("rms", "layer"):
            raise InputError(f"norm {self.norm!r} is not known; known: rms, layer")
        sizes = {
            "latent_channels": (self.latent_channels,),
            "channels": self.channels + self.decoder_channels,
            "blocks": (self.blocks, self.decoder_blocks or self.blocks),
            "middle_blocks": (self.middle_blocks,),
            "patch": (self.patch,),
            "levels": (len(self.channels),),
        }
        for name, values in sizes.items():
            if any(not 1 <= value <= _LARGEST[name] for value in values):
                raise InputError(f"{name} must be at least 1 and at most {_LARGEST[name]}, got {repr(values)[:60]}")
        if self.decoder_channels and len(self.decoder_channels) != len(self.channels):
            raise InputError(
                f"decoder_channels {self.decoder_channels} needs as many levels as channels {self.channels}"
            )
        check_strides(self.channels, self.patch)

    @property
    def spec(self) -> TokenizerSpec:
        """The strides and channels that follow from the sizes."""
        stride = spatial_stride(self.channels, self.patch)
        name = f"pvvae-t{_TEMPORAL_STRIDE}s{stride}c{self.latent_channels}"
        return TokenizerSpec(name=name, temporal=_TEMPORAL_STRIDE, spatial=stride, channels=self.latent_channels)

    @classmethod
    def from_dict(cls, values: dict, source: object = "the model's config") -> PVVAEConfig:
        """Inverse of `dataclasses.asdict`; InputError, naming `source`, on a field that is unknown or does not fit."""
        return from_record(cls, values, source)


class PVVAE(nn.Module):
    """Encoder, decoder and padding of one PV-VAE. Latents are raw on both sides; see `normalize`."""

    def __init__(self, config: PVVAEConfig):
        super().__init__()
        self.config = config
        self.spec = config.spec
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.padding = PADDINGS[config.padding](config.latent_channels)
        self.register_buffer("latents_mean", torch.zeros(config.latent_channels), persistent=False)
        self.register_buffer("latents_std", torch.ones(config.latent_channels), persistent=False)

    # -- encode -------------------------------------------------------------------------------------------------------

    def encode(self, video: Tensor, chunk_groups: int | None = None) -> Posterior:
        """Encode a clip; every latent group depends on its own and earlier frames only.

        Args:
            video: `[B, 3, 1+T, H, W]` float in [-1, 1], T a multiple of 4, H and W of the spatial stride.
            chunk_groups: Latent groups computed at a time; None: all at once. The result is the same within 1e-5
                (float32).

        Returns:
            Posterior over `[B, C, G, h, w]`, float32, not normalised.

        Raises:
            InputError: If shape or dtype does not fit; the message gives the nearest valid size.
        """
        self._check_video(video)
        groups = self.spec.groups(video.shape[2])
        chunk = _check_chunk(chunk_groups, groups)
        past, parts = None, []
        for start in range(0, groups, chunk):
            stop = min(start + chunk, groups)
            first = 0 if start == 0 else self.spec.frames(start)
            moments, past = self.encoder(video[:, :, first : self.spec.frames(stop)], past)
            parts.append(moments)
        mean, logvar = torch.cat(parts, dim=2).float().chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(*LOGVAR_RANGE))

    # -- decode -------------------------------------------------------------------------------------------------------

    def decode(self, latents: Tensor, chunk_groups: int | None = None) -> Tensor:
        """Decode raw latents `[B, C, G, h, w]` to `[B, 3, 1+T, H, W]` float32, nominally in [-1, 1] but not clamped.

        Args:
            latents: Raw, as `encode` returns them.
            chunk_groups: Latent groups decoded at a time; None: all at once.

        Raises:
            InputError: If the number of channels or dimensions does not fit.
        """
        if latents.ndim != 5 or latents.shape[1] != self.spec.channels or latents.shape[2] < 1:
            raise InputError(
                f"{self.spec.name} decodes latents [B, {self.spec.channels}, G, h, w], got {list(latents.shape)}"
            )
        groups = latents.shape[2]
        chunk = _check_chunk(chunk_groups, groups)
        past, parts = None, []
        for start in range(0, groups, chunk):
            frames, past = self.decoder(latents[:, :, start : start + chunk], past)
            parts.append(frames.float())
        return torch.cat(parts, dim=2)

    def forward(
        self, video: Tensor, *, num_dropped: int = 0, noise: Tensor | None = None, padding_noise: Tensor | None = None
    ) -> tuple[Tensor, Posterior]:
        """One predictive reconstruction (PV-VAE section 3.2), as trained.

        Args:
            video: `[B, 3, 1+T, H, W]` float in [-1, 1].
            num_dropped: k, the latent groups at the end that the encoder does not see; 0 <= k < G.
            noise: Standard normal `[B, C, G, h, w]` for the posterior sample (its last k groups are not used).
            padding_noise: For the "gaussian" padding, `[B, C, k, h, w]`.

        Returns:
            All 1+T decoded frames, and the posterior of the observed groups `[B, C, G-k, h, w]`.
        """
        groups = self.spec.groups(video.shape[2])
        if not 0 <= num_dropped < groups:
            raise InputError(
                f"num_dropped must lie in [0, {groups - 1}] for {video.shape[2]} frames, got {num_dropped}"
            )
        kept = groups - num_dropped
        posterior = self.encode(video[:, :, : self.spec.frames(kept)])
        latents = posterior.sample(None if noise is None else noise[:, :, :kept])
        return self.decode(pad_dropped(self.padding, latents, num_dropped, padding_noise)), posterior

    def predict(self, observed_video: Tensor, groups: int) -> Tensor:
        """Decode the observed frames and the `groups` latent groups that would follow them.

        Args:
            observed_video: `[B, 3, 1+t, H, W]` float in [-1, 1], t a multiple of 4.
            groups: Latent groups to predict, 4 frames each; >= 0.

        Returns:
            `[B, 3, 1+t+4*groups, H, W]`, from the posterior mean. Meant for weights trained with dropping: decoder
            fine-tuning ends that, so take the checkpoint of the video stage.
        """
        if groups < 0:
            raise InputError(f"groups to predict must be at least 0, got {groups}")
        return self.decode(pad_dropped(self.padding, self.encode(observed_video).mode(), groups))

    # -- normalisation, identity --------------------------------------------------------------------------------------

    def set_latent_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Set the per-channel statistics `[C]` that `normalize` uses (they are not part of the model's identity)."""
        self.latents_mean.copy_(torch.as_tensor(mean))
        self.latents_std.copy_(torch.as_tensor(std))

    def normalize(self, latents: Tensor) -> Tensor:
        """(latents - mean) / std per channel, for `[B, C, G, h, w]`."""
        shape = (1, -1, 1, 1, 1)
        return (latents - self.latents_mean.view(shape).to(latents)) / self.latents_std.view(shape).to(latents)

    def denormalize(self, latents: Tensor) -> Tensor:
        """Inverse of `normalize`."""
        shape = (1, -1, 1, 1, 1)
        return latents * self.latents_std.view(shape).to(latents) + self.latents_mean.view(shape).to(latents)

    @property
    def encoder_hash(self) -> str:
        """16 hex digits over the encoder's config and weights: what latents depend on."""
        config = {name: value for name, value in asdict(self.config).items() if name in _ENCODER_FIELDS}
        return weights_hash(config, self.encoder.state_dict())

    @property
    def decoder_hash(self) -> str:
        """16 hex digits over the config and the weights of decoder and padding."""
        tensors = {**self.decoder.state_dict(), **{f"padding.{k}": v for k, v in self.padding.state_dict().items()}}
        return weights_hash(asdict(self.config), tensors)

    # -- files --------------------------------------------------------------------------------------------------------

    def save_pretrained(self, directory: str | Path) -> None:
        """Write config.json and model.safetensors into `directory` (created; each file replaced at once)."""
        from runtime.run import write_json
        from runtime.weights import write_weights

        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {**self.state_dict(), "latents_mean": self.latents_mean, "latents_std": self.latents_std}
        write_weights(directory / "model.safetensors", tensors)
        write_json(directory / "config.json", json.loads(json.dumps(asdict(self.config))))

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> PVVAE:
        """Read what `save_pretrained` wrote; every mismatch between config and weights is an InputError."""
        from runtime.run import read_json
        from runtime.weights import load_model

        directory = Path(directory)
        config = PVVAEConfig.from_dict(read_json(directory / "config.json"), directory / "config.json")
        vae, statistics = load_model(lambda: cls(config), directory / "model.safetensors", optional=STATISTICS)
        if statistics:
            if [list(value.shape) for value in statistics.values()] != [[config.latent_channels]] * len(STATISTICS):
                raise InputError(f"{directory / 'model.safetensors'}: {', '.join(STATISTICS)} must both be [C]")
            vae.set_latent_statistics(*statistics.values())
        return vae.eval()

    def _check_video(self, video: Tensor) -> None:
        if video.ndim != 5 or video.shape[1] != 3:
            raise InputError(f"a video is [B, 3, 1+T, H, W], got {list(video.shape)}")
        if not video.is_floating_point():
            raise InputError(f"a video is float in [-1, 1], got {video.dtype}; videos.to_float converts uint8")
        self.spec.latent_shape(*video.shape[2:])


def _check_chunk(chunk_groups: int | None, groups: int) -> int:
    if chunk_groups is None:
        return groups
    if chunk_groups < 1:
        raise InputError(f"chunk_groups must be at least 1, got {chunk_groups}")
    return chunk_groups
