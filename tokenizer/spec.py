"""What every video tokenizer looks like from outside: its strides, its posterior, its five methods."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.errors import InputError

# Bounds of the log-variance: e^-30 is still a normal float32, e^20 keeps the KL finite in float32.
LOGVAR_RANGE = (-30.0, 20.0)
# Encoders start with little posterior noise: at standard deviation 1 the decoder learns to ignore the latents first.
INITIAL_LOGVAR = -6.0
# Beyond [-1, 1]: a decoder's output, unclamped, may be encoded again; that of 0…255 or a diverged one may not.
MAX_VALUE = 8.0


@dataclass(frozen=True, kw_only=True)
class TokenizerSpec:
    """Shape of a tokenizer's latents.

    Attributes:
        name: For example "pvvae-t4s16c64".
        temporal: Frames per latent group after the first; the first group is one frame.
        spatial: Pixels per latent cell along height and width.
        channels: Latent channels.
    """

    name: str
    temporal: int
    spatial: int
    channels: int

    @property
    def step(self) -> int:
        """Frames by which the lengths of valid clips differ."""
        return self.temporal

    def groups(self, num_frames: int) -> int:
        """Number of latent groups of a clip of `num_frames` frames; InputError unless it is 1 + k * `step`."""
        if num_frames < 1 or (num_frames - 1) % self.step:
            lower = max(0, num_frames - 1) // self.step * self.step + 1
            raise InputError(
                f"{num_frames} frames do not fit {self.name}: it takes 1 + {self.step}k frames; "
                f"the nearest are {lower} and {lower + self.step}"
            )
        return 1 + (num_frames - 1) // self.temporal

    def frames(self, groups: int) -> int:
        """Number of frames that `groups` latent groups decode to."""
        return 1 + (groups - 1) * self.temporal

    def video_shape(self, groups: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(3, 1+T, H, W) of what latents of so many groups, rows and columns decode to."""
        return 3, self.frames(groups), height * self.spatial, width * self.spatial

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(C, G, h, w) of a clip; InputError when a side is not a multiple of `spatial`."""
        for side, size in (("height", height), ("width", width)):
            if size < self.spatial or size % self.spatial:
                near = max(self.spatial, round(size / self.spatial) * self.spatial)
                raise InputError(
                    f"{side} {size} does not fit {self.name}: it must be a multiple of {self.spatial}; nearest: {near}"
                )
        return self.channels, self.groups(num_frames), height // self.spatial, width // self.spatial

    def pad_to_valid(self, video: Tensor, first: int = 1) -> tuple[Tensor, tuple[int, int, int]]:
        """Repeat the last frame, row and column of a video of any size until it can be encoded.

        Args:
            video: `[B, 3, 1+T, H, W]` float.
            first: Frames at its beginning that are a group of their own: 1, or 0 for a later part of a video.

        Returns:
            The video, at most `step - 1` frames and `spatial - 1` rows and columns larger, and the size (1+T, H, W)
            that `crop_to` takes to undo it.
        """
        frames, height, width = size = tuple(video.shape[-3:])
        padding = (0, -width % self.spatial, 0, -height % self.spatial, 0, (first - frames) % self.step)
        return (F.pad(video, padding, mode="replicate") if any(padding) else video), size

    def to_dict(self) -> dict:
        """Plain dict, as stored in a latents file."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class SteppedSpec(TokenizerSpec):
    """Of a tokenizer that computes several groups together, and gives back other frames than it got when one is
    missing.

    Attributes:
        frame_step: Clips are of 1 + k * frame_step frames, a multiple of `temporal`.
    """

    frame_step: int

    @property
    def step(self) -> int:
        """Frames by which the lengths of valid clips differ."""
        return self.frame_step


def check_video(video: Tensor, spec: TokenizerSpec, *, values: bool = True) -> None:
    """InputError unless a video is float `[B, 3, 1+T, H, W]`, of a size that fits, and as `check_range` says.

    Args:
        values: Whether to look at its values too.
    """
    if video.ndim != 5 or video.shape[1] != 3:
        raise InputError(f"a video is [B, 3, 1+T, H, W], got {list(video.shape)}")
    if not video.is_floating_point():
        raise InputError(f"a video is float in [-1, 1], got {video.dtype}; videos.to_float converts uint8")
    spec.latent_shape(*video.shape[2:])
    if values:
        check_range(video)


def check_latents(latents: Tensor, spec: TokenizerSpec) -> None:
    """InputError unless latents are float `[B, C, G, h, w]` of as many channels and groups as a clip of the tokenizer
    has."""
    if latents.ndim != 5 or latents.shape[1] != spec.channels or 0 in latents.shape[2:]:
        raise InputError(f"{spec.name} decodes latents [B, {spec.channels}, G, h, w], got {list(latents.shape)}")
    if not latents.is_floating_point():
        raise InputError(f"latents are float, got {latents.dtype}")
    spec.groups(spec.frames(latents.shape[2]))


def check_range(video: Tensor) -> None:
    """InputError when a video holds numbers that are not finite or lie far outside of [-1, 1], as those of 0…255 do.

    One pass over the pixels; on a GPU the result is waited for. Not part of training, where the losses tell.
    """
    if video.is_meta or not video.numel():  # a shape alone, as for counting, has no values
        return
    low, high = (float(value) for value in torch.aminmax(video))
    if not (low >= -MAX_VALUE and high <= MAX_VALUE):
        raise InputError(
            f"a video is finite and in [-1, 1], got values from {low:g} to {high:g}; videos.to_float converts uint8"
        )


def crop_to(video: Tensor, size: tuple[int, int, int]) -> Tensor:
    """The first frames, rows and columns of `[B, 3, 1+T, H, W]`: undoes `TokenizerSpec.pad_to_valid`."""
    frames, height, width = size
    if any(have < want for have, want in zip(video.shape[-3:], size, strict=True)):
        raise InputError(f"a video of {list(video.shape[-3:])} frames, rows, columns cannot be cropped to {list(size)}")
    return video[..., :frames, :height, :width]


@dataclass(frozen=True)
class Posterior:
    """Diagonal Gaussian over latents.

    Attributes:
        mean: `[B, C, G, h, w]` float.
        logvar: Natural logarithm of the variance, like `mean`; None for a deterministic tokenizer.
    """

    mean: Tensor
    logvar: Tensor | None = None

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """mean + std * noise; `noise` is standard normal like `mean`, drawn from torch's global state when None."""
        if self.logvar is None:
            return self.mean
        if noise is None:
            noise = torch.randn_like(self.mean)
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def mode(self) -> Tensor:
        """The mean, `[B, C, G, h, w]`."""
        return self.mean

    def kl(self) -> Tensor:
        """KL(posterior || standard normal) in nats, summed over C, G, h, w -> `[B]` float32; 0 when deterministic."""
        mean = self.mean.float()
        if self.logvar is None:
            return mean.new_zeros(mean.shape[0])
        logvar = self.logvar.float()
        return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).flatten(1).sum(1)


@runtime_checkable
class VideoTokenizer(Protocol):
    """What encoding, decoding and evaluation need of a tokenizer; every one is an `nn.Module`."""

    spec: TokenizerSpec

    def encode(self, video: Tensor, chunk_groups: int | None = None) -> Posterior: ...
    def decode(self, latents: Tensor, chunk_groups: int | None = None) -> Tensor: ...
    def normalize(self, latents: Tensor) -> Tensor: ...
    def denormalize(self, latents: Tensor) -> Tensor: ...

    @property
    def encoder_hash(self) -> str: ...
    @property
    def decoder_hash(self) -> str: ...


class LatentStatistics(nn.Module):
    """Mean and standard deviation of each latent channel, float32, 0 and 1 until they are set; no part of the weights.

    Attributes:
        spec: Of the tokenizer that this is a base class of.
    """

    spec: TokenizerSpec

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("latents_mean", torch.zeros(channels), persistent=False)
        self.register_buffer("latents_std", torch.ones(channels), persistent=False)

    def set_latent_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Set the per-channel statistics `[C]` that `normalize` uses (they are not part of the model's identity).

        Raises:
            InputError: If they are not one finite number a channel, or a deviation is not above 0.
        """
        mean, std = (torch.as_tensor(values, dtype=torch.float32) for values in (mean, std))
        if mean.shape != self.latents_mean.shape or std.shape != mean.shape:
            raise InputError(
                f"{self.spec.name} needs latent statistics of {self.spec.channels} channels, "
                f"got {list(mean.shape)} and {list(std.shape)}"
            )
        if not (torch.isfinite(mean).all() and torch.isfinite(std).all() and (std > 0).all()):
            raise InputError("latent statistics must be finite, and standard deviations above 0")
        self.latents_mean.copy_(mean)
        self.latents_std.copy_(std)

    def normalize(self, latents: Tensor) -> Tensor:
        """(latents - mean) / std per channel, for `[B, C, G, h, w]`."""
        shape = (1, -1, 1, 1, 1)
        return (latents - self.latents_mean.view(shape).to(latents)) / self.latents_std.view(shape).to(latents)

    def denormalize(self, latents: Tensor) -> Tensor:
        """Inverse of `normalize`."""
        shape = (1, -1, 1, 1, 1)
        return latents * self.latents_std.view(shape).to(latents) + self.latents_mean.view(shape).to(latents)


def weights_hash(config: Mapping, tensors: Mapping[str, Tensor]) -> str:
    """16 hex digits of the SHA-256 of a config and of named tensors (order-free, device-free, dtype-aware)."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
