"""The size of a PV-VAE: one flat config for encoder and decoder, written beside their weights as config.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from runtime.errors import InputError
from runtime.records import from_record

if TYPE_CHECKING:  # presets, and with them --help, need no torch
    from tokenizer.spec import TokenizerSpec

# Names of the classes in tokenizer.predictive.
DROP_SCHEDULES = ("suffix", "infill")
PADDINGS = ("learnable", "gaussian", "conditional")

TEMPORAL_STAGES = 2  # of the convolutional network, each halving time
TEMPORAL_STRIDE = 2**TEMPORAL_STAGES

# What latents do not depend on; every other field is part of the encoder's identity.
DECODER_FIELDS = frozenset({"padding", "decoder_channels", "decoder_blocks", "decoder_depth"})
# Sizes beyond these are a damaged or hostile config, refused before anything is built; the paper's are below a quarter.
_MAX_CHANNELS, _MAX_LEVELS, _MAX_BLOCKS, _MAX_MLP_RATIO = 16_384, 10, 64, 64


@dataclass(frozen=True, kw_only=True)
class PVVAEConfig:
    """Size of a PV-VAE: what both architectures have. `PVVAEConfig(...)` makes a `CNNConfig` or a `TransformerConfig`.

    Attributes:
        architecture: "cnn", the causal 3D convolutional network, or "transformer", block-causal over latent groups
            (the paper's PV-VAE-T).
        latent_channels: C.
        padding: What replaces dropped latents: "learnable", "gaussian" or "conditional" (`tokenizer.predictive`).
    """

    architecture: str = "cnn"
    latent_channels: int = 64
    padding: str = "learnable"

    def __new__(cls, **values: object) -> PVVAEConfig:
        if cls is PVVAEConfig:
            cls = _class_of(values)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        if ARCHITECTURES.get(self.architecture) is not type(self):
            raise InputError(f"architecture {self.architecture!r} is not that of a {type(self).__name__}")
        _check_count("latent_channels", self.latent_channels, 1, 4096)
        if self.padding not in PADDINGS:
            raise InputError(f"padding {self.padding!r} is not known; known: {', '.join(PADDINGS)}")

    @property
    def spec(self) -> TokenizerSpec:
        """The strides and channels that follow from the sizes."""
        raise NotImplementedError

    def _spec(self, family: str, spatial: int) -> TokenizerSpec:
        from tokenizer.spec import TokenizerSpec

        name = f"{family}-t{TEMPORAL_STRIDE}s{spatial}c{self.latent_channels}"
        return TokenizerSpec(name=name, temporal=TEMPORAL_STRIDE, spatial=spatial, channels=self.latent_channels)

    def to_dict(self) -> dict:
        """The fields, as written to config.json and as they enter the hashes."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict, source: object = "the model's config") -> PVVAEConfig:
        """Inverse of `to_dict`; null is as good as absent.

        Raises:
            InputError: Naming `source`, on a field that is unknown or does not fit.
        """
        if isinstance(values, dict):
            values = {name: value for name, value in values.items() if value is not None}
            try:
                cls = _class_of(values)
            except InputError as error:
                raise InputError(f"{source}: {error}") from error
        return from_record(cls, values, source)


@dataclass(frozen=True, kw_only=True)
class CNNConfig(PVVAEConfig):
    """Size of the convolutional network; the defaults are of the paper's scale, and the preset `paper` is cheaper.

    Attributes:
        channels: Width of each level, full resolution first; one downsampling stage between two levels.
        blocks: Residual blocks of each level, in the order of `channels`; one number: of every level.
        middle_blocks: Residual blocks at the lowest resolution, with one per-frame attention.
        patch: Side in pixels of the squares that enter as channels.
        norm: "rms" or "layer", over channels only.
        decoder_channels: Like `channels` for the decoder; empty: the same.
        decoder_blocks: Like `blocks` for the decoder; 0: the same.
    """

    architecture: str = "cnn"
    channels: tuple[int, ...] = (96, 192, 384, 768, 768)
    blocks: int | tuple[int, ...] = 3
    middle_blocks: int = 3
    patch: int = 1
    norm: str = "rms"
    decoder_channels: tuple[int, ...] = ()
    decoder_blocks: int | tuple[int, ...] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("channels", "decoder_channels"):
            object.__setattr__(self, name, _levels(name, getattr(self, name), _MAX_CHANNELS))
        if self.decoder_channels and len(self.decoder_channels) != len(self.channels):
            raise InputError(
                f"decoder_channels {self.decoder_channels} needs as many levels as channels {self.channels}"
            )
        for name, low in (("blocks", 1), ("decoder_blocks", 0)):
            blocks = getattr(self, name)
            if not isinstance(blocks, (tuple, list)):
                _check_count(name, blocks, low, _MAX_BLOCKS)
                continue
            blocks = _levels(name, blocks, _MAX_BLOCKS)
            if len(blocks) != len(self.channels):
                raise InputError(f"{name} {blocks} needs as many levels as channels {self.channels}")
            # Equal networks have equal configs, and so equal hashes.
            object.__setattr__(self, name, blocks[0] if len(set(blocks)) == 1 else blocks)
        _check_count("middle_blocks", self.middle_blocks, 1, _MAX_BLOCKS)
        _check_count("patch", self.patch, 1, 64)
        if self.norm not in ("rms", "layer"):
            raise InputError(f"norm {self.norm!r} is not known; known: rms, layer")
        if len(self.channels) <= TEMPORAL_STAGES:
            raise InputError(f"channels needs at least {TEMPORAL_STAGES + 1} levels, got {self.channels}")
        if math.log2(self.patch) % 1:
            raise InputError(f"patch must be a power of two, got {self.patch}")

    @property
    def encoder_levels(self) -> list[tuple[int, int]]:
        """Width and number of residual blocks of each level, full resolution first."""
        return self._with_blocks(self.channels, self.blocks)

    @property
    def decoder_levels(self) -> list[tuple[int, int]]:
        """Likewise, of the decoder."""
        return self._with_blocks(self.decoder_channels or self.channels, self.decoder_blocks or self.blocks)

    @staticmethod
    def _with_blocks(channels: tuple[int, ...], blocks: int | tuple[int, ...]) -> list[tuple[int, int]]:
        return list(zip(channels, (blocks,) * len(channels) if isinstance(blocks, int) else blocks, strict=True))

    @property
    def spec(self) -> TokenizerSpec:
        return self._spec("pvvae", self.patch * 2 ** (len(self.channels) - 1))


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(PVVAEConfig):
    """Size of the Transformer (PV-VAE-T); the defaults are the paper's or, where it gives none, ours.

    Attributes:
        width: Channels of a token.
        depth: Layers of the encoder.
        heads: Attention heads; `width / heads` is even and at least 6.
        mlp_ratio: Hidden channels of the MLP over `width`.
        patch: Side in pixels of the squares that are, four frames at a time, one token.
        window: Latent groups that a token attends to, its own and the ones just before; 0: all so far.
        decoder_depth: Layers of the decoder; 0: the same.
    """

    architecture: str = "transformer"
    width: int = 2048
    depth: int = 12
    heads: int = 16
    mlp_ratio: float = 4.0
    patch: int = 16
    window: int = 0
    decoder_depth: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low, high in (
            ("width", 1, 16_384),
            ("depth", 1, 256),
            ("heads", 1, 1024),
            ("patch", 1, 64),
            ("window", 0, 65_536),
            ("decoder_depth", 0, 256),
        ):
            _check_count(name, getattr(self, name), low, high)
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
        return self._spec("pvvae-transformer", self.patch)


ARCHITECTURES: Mapping[str, type[PVVAEConfig]] = {"cnn": CNNConfig, "transformer": TransformerConfig}


def _class_of(values: Mapping[str, object]) -> type[PVVAEConfig]:
    """Whose fields `values` are; InputError when the architecture is unknown, or a field is only the other one's."""
    architecture = values.get("architecture", "cnn")
    found = ARCHITECTURES.get(architecture) if isinstance(architecture, str) else None
    if found is None:
        raise InputError(f"architecture {architecture!r} is not known; known: {', '.join(ARCHITECTURES)}")
    own = {field.name for field in fields(found)}
    for name in sorted({field.name for each in ARCHITECTURES.values() for field in fields(each)} - own):
        if name in values:
            raise InputError(
                f"{name} is not a field of architecture {architecture!r}, which has: {', '.join(sorted(own))}"
            )
    return found


def _levels(name: str, values: object, high: int) -> tuple[int, ...]:
    """One whole number from 1 to `high` a level."""
    if not isinstance(values, (tuple, list)):
        raise InputError(f"{name} must be a list of whole numbers, got {values!r}")
    for value in values:
        _check_count(name, value, 1, high)
    if len(values) > _MAX_LEVELS:
        raise InputError(f"{name} has {len(values)} levels; at most {_MAX_LEVELS} are possible")
    return tuple(values)


def _check_count(name: str, value: object, low: int, high: int) -> None:
    """InputError unless `value` is a whole number from `low` to `high`."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InputError(f"{name} must be a whole number from {low} to {high}, got {repr(value)[:60]}")
