"""The size of a PV-VAE: one flat config for both networks, written beside their weights as config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from runtime.errors import InputError
from runtime.records import from_record
from tokenizer.cnn import check_strides, spatial_stride
from tokenizer.predictive import PADDINGS
from tokenizer.spec import TokenizerSpec

TEMPORAL_STRIDE = 4

# The fields that only some architectures have, each with the paper's value or, where it gives none, ours.
ARCHITECTURES: Mapping[str, Mapping[str, object]] = {
    "cnn": {
        "channels": (96, 192, 384, 768, 768),
        "blocks": 3,
        "middle_blocks": 3,
        "patch": 1,
        "norm": "rms",
        "decoder_channels": (),
        "decoder_blocks": 0,
    },
    "transformer": {
        "width": 2048,
        "depth": 12,
        "heads": 16,
        "mlp_ratio": 4.0,
        "patch": 16,
        "window": 0,
        "decoder_depth": 0,
    },
}
# What latents do not depend on; every other field is part of the encoder's identity.
DECODER_FIELDS = frozenset({"padding", "decoder_channels", "decoder_blocks", "decoder_depth"})
# Sizes beyond these are a damaged or hostile config, refused before anything is built; the paper's are below a quarter.
_RANGES = {
    "latent_channels": (1, 4096),
    "patch": (1, 64),
    "blocks": (1, 64),
    "middle_blocks": (1, 64),
    "decoder_blocks": (0, 64),
    "width": (1, 16_384),
    "depth": (1, 256),
    "heads": (1, 1024),
    "window": (0, 65_536),
    "decoder_depth": (0, 256),
}
_MAX_CHANNELS, _MAX_LEVELS, _MAX_MLP_RATIO = 16_384, 10, 64


@dataclass(frozen=True, kw_only=True)
class PVVAEConfig:
    """Size of a PV-VAE.

    A field of the chosen architecture that is left out takes its value in `ARCHITECTURES`. A field of the other
    architecture is None; giving it is an InputError.

    Attributes:
        architecture: "cnn", the causal 3D convolutional network, or "transformer", block-causal over latent groups
            (the paper's PV-VAE-T).
        latent_channels: C.
        padding: What replaces dropped latents: "learnable", "gaussian" or "conditional" (see `predictive.PADDINGS`).
        patch: Side in pixels of the squares that enter as channels ("cnn"; 1 in the paper) or, four frames at a time,
            as one token ("transformer"; 16 in the paper).
        channels: cnn: width of each level, full resolution first; one downsampling stage between two levels.
        blocks: cnn: residual blocks a level.
        middle_blocks: cnn: residual blocks at the lowest resolution, with one per-frame attention.
        norm: cnn: "rms" or "layer", over channels only.
        decoder_channels: cnn: like `channels` for the decoder; empty: the same.
        decoder_blocks: cnn: residual blocks a level of the decoder; 0: the same.
        width: transformer: channels of a token.
        depth: transformer: layers of the encoder.
        heads: transformer: attention heads; `width / heads` is even and at least 6.
        mlp_ratio: transformer: hidden channels of the MLP over `width`.
        window: transformer: latent groups that a token attends to, its own and the ones just before; 0: all so far.
        decoder_depth: transformer: layers of the decoder; 0: the same.
    """

    architecture: str = "cnn"
    latent_channels: int = 64
    padding: str = "learnable"
    patch: int | None = None
    channels: tuple[int, ...] | None = None
    blocks: int | None = None
    middle_blocks: int | None = None
    norm: str | None = None
    decoder_channels: tuple[int, ...] | None = None
    decoder_blocks: int | None = None
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    mlp_ratio: float | None = None
    window: int | None = None
    decoder_depth: int | None = None

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise InputError(f"architecture {self.architecture!r} is not known; known: {', '.join(ARCHITECTURES)}")
        own = ARCHITECTURES[self.architecture]
        for name in sorted({name for names in ARCHITECTURES.values() for name in names}):
            if name in own and getattr(self, name) is None:
                object.__setattr__(self, name, own[name])
            elif name not in own and getattr(self, name) is not None:
                raise InputError(
                    f"{name} is not a field of architecture {self.architecture!r}, which has: {', '.join(own)}"
                )
        for name, (low, high) in _RANGES.items():
            _check_count(name, getattr(self, name), low, high)
        if self.padding not in PADDINGS:
            raise InputError(f"padding {self.padding!r} is not known; known: {', '.join(PADDINGS)}")
        if self.architecture == "cnn":
            self._check_cnn()
        else:
            self._check_transformer()

    def _check_cnn(self) -> None:
        for name in ("channels", "decoder_channels"):
            levels = getattr(self, name)
            if not isinstance(levels, (tuple, list)):
                raise InputError(f"{name} must be a list of whole numbers, got {levels!r}")
            for channels in levels:
                _check_count(name, channels, 1, _MAX_CHANNELS)
            if len(levels) > _MAX_LEVELS:
                raise InputError(f"{name} has {len(levels)} levels; at most {_MAX_LEVELS} are possible")
            object.__setattr__(self, name, tuple(levels))
        if self.norm not in ("rms", "layer"):
            raise InputError(f"norm {self.norm!r} is not known; known: rms, layer")
        if self.decoder_channels and len(self.decoder_channels) != len(self.channels):
            raise InputError(
                f"decoder_channels {self.decoder_channels} needs as many levels as channels {self.channels}"
            )
        check_strides(self.channels, self.patch)

    def _check_transformer(self) -> None:
        if not isinstance(self.mlp_ratio, (int, float)) or not self.mlp_ratio * self.width >= 1:
            raise InputError(f"mlp_ratio must be a positive number, got {self.mlp_ratio!r}")
        if self.mlp_ratio > _MAX_MLP_RATIO:
            raise InputError(f"mlp_ratio must be at most {_MAX_MLP_RATIO}, got {self.mlp_ratio!r}")
        object.__setattr__(self, "mlp_ratio", float(self.mlp_ratio))
        # Each of the three axes of positions turns pairs of a head's channels.
        if self.width % self.heads or (self.width // self.heads) % 2 or self.width // self.heads < 6:
            raise InputError(f"width {self.width} must be heads {self.heads} times an even number of at least 6")

    @property
    def spec(self) -> TokenizerSpec:
        """The strides and channels that follow from the sizes."""
        family, spatial = "pvvae-transformer", self.patch
        if self.architecture == "cnn":
            family, spatial = "pvvae", spatial_stride(self.channels, self.patch)
        name = f"{family}-t{TEMPORAL_STRIDE}s{spatial}c{self.latent_channels}"
        return TokenizerSpec(name=name, temporal=TEMPORAL_STRIDE, spatial=spatial, channels=self.latent_channels)

    def to_dict(self) -> dict:
        """The fields that the architecture has, as written to config.json and as they enter the hashes."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, values: dict, source: object = "the model's config") -> PVVAEConfig:
        """Inverse of `to_dict`, and of `asdict`; InputError, naming `source`, on a field that is unknown or does not
        fit."""
        return from_record(cls, values, source)


def _check_count(name: str, value: object, low: int, high: int) -> None:
    """InputError unless `value` is a whole number from `low` to `high`, or None."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high):
        raise InputError(f"{name} must be a whole number from {low} to {high}, got {repr(value)[:60]}")
