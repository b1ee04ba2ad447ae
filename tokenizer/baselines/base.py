"""What a baseline is: the facts about a published tokenizer in one place, and one module that makes of its network what
`tokenizer.spec.VideoTokenizer` says.

A published class is trusted with nothing that it does not check itself: clips are checked before it is called, and what
comes back is held against the spec, since most classes take a clip of a wrong length and silently return another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from runtime.errors import InputError
from runtime.published_weights import PublishedFile, checked, missing, place_of
from runtime.seeds import seeded
from runtime.weights import load_model, load_strictly
from tokenizer.spec import (
    LOGVAR_RANGE,
    LatentStatistics,
    Posterior,
    TokenizerSpec,
    check_latents,
    check_video,
    weights_hash,
)

RANDOM = "random"  # what takes the place of a weight file


@dataclass(frozen=True)
class Normalisation:
    """normalised = (latents - mean) / std, with numbers of the authors: one, or one a channel.

    Attributes:
        mean: 0 where the authors only scale.
        std: The reciprocal of what they call a scaling factor.
    """

    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0


def encode_natively(network: nn.Module, video: Tensor) -> tuple[Tensor, Tensor | None]:
    """Mean and log-variance `[B, C, G, h, w]` from a network that returns just these; no log-variance: None."""
    return network.encode(video)


def decode_natively(network: nn.Module, latents: Tensor) -> Tensor:
    """`[B, 3, 1+T, H, W]` from a network that returns just this."""
    return network.decode(latents)


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A published tokenizer.

    Attributes:
        spec: Shape of its latents, and which clips come back as long as they went in. Its name is the baseline's.
        build: Makes the network as published, with random weights.
        tiny: Makes one of the same class, with the same spec, in a fraction of the memory; for tests.
        parameters: Of the network as published.
        encode: Takes the network and a checked video; returns mean and log-variance (None: deterministic).
        decode: Takes the network and latents; returns the video.
        normalisation: What the authors publish, or how it is read off the loaded network; None: nothing usable is
            published, and it is to be measured on the latents (`set_latent_statistics`; a latents file has them).
        files: As published, the one to load first.
        read: Reads a file that is no safetensors file into a state dict of the network; None: such a file is refused.
        rename: Takes the names in the safetensors file to the network's, where they differ.
        licence: Of the weights.
        clamps: Whether the class itself clamps what it decodes to [-1, 1]; we never do.
        one_by_one: Whether the class fails on more than one clip at a time, so that a batch is split.
        encoder_only: Beginnings of the names of tensors that decoding does not use.
        decoder_only: Beginnings of the names of tensors that encoding does not use.
        remarks: What a reader of its numbers should know.
    """

    spec: TokenizerSpec
    build: Callable[[], nn.Module]
    tiny: Callable[[], nn.Module]
    parameters: int
    encode: Callable[[nn.Module, Tensor], tuple[Tensor, Tensor | None]] = encode_natively
    decode: Callable[[nn.Module, Tensor], Tensor] = decode_natively
    normalisation: Normalisation | Callable[[nn.Module], Normalisation | None] | None = None
    files: tuple[PublishedFile, ...] = ()
    read: Callable[[Path], Mapping[str, Tensor]] | None = None
    rename: Callable[[str], str] | None = None
    licence: str
    clamps: bool = False
    one_by_one: bool = False
    encoder_only: tuple[str, ...] = ("encoder.", "quant_conv.")
    decoder_only: tuple[str, ...] = ("decoder.", "post_quant_conv.")
    remarks: str = ""

    @property
    def name(self) -> str:
        """How it is asked for."""
        return self.spec.name


class BaselineTokenizer(LatentStatistics):
    """A published network as a `VideoTokenizer`; it holds nothing between calls.

    Args:
        baseline: What the network is.
        network: With its weights.
        random_weights: Whether these are random, which the name in the spec then says.
    """

    def __init__(self, baseline: Baseline, network: nn.Module, *, random_weights: bool = False):
        super().__init__(baseline.spec.channels)
        self.baseline = baseline
        self.spec = said_to_be_random(baseline.spec) if random_weights else baseline.spec
        self.network = network
        self._hashes: dict[str, str] = {}
        found = baseline.normalisation(network) if callable(baseline.normalisation) else baseline.normalisation
        if found is not None:
            values = (torch.as_tensor(each, dtype=torch.float32) for each in (found.mean, found.std))
            self.set_latent_statistics(*(each.expand(self.spec.channels) for each in values))

    def encode(self, video: Tensor, chunk_groups: int | None = None) -> Posterior:
        """Encode a clip.

        Args:
            video: `[B, 3, 1+T, H, W]` float in [-1, 1], of a size that `spec` allows.
            chunk_groups: Without effect: the classes chunk as they were trained to, or not at all.

        Returns:
            Posterior over `[B, C, G, h, w]`, float32, not normalised.

        Raises:
            InputError: If shape, dtype or values do not fit, before the network is called; or if the network returns
                latents of another shape than `spec` says.
        """
        check_video(video, self.spec, values=not self.training)
        moments = [self.baseline.encode(self.network, part) for part in self._parts(video)]
        shape = [len(video), *self.spec.latent_shape(*video.shape[2:])]
        mean = held(torch.cat([mean for mean, _ in moments]), shape, "latents", self.spec).float()
        if moments[0][1] is None:
            return Posterior(mean)
        logvar = held(torch.cat([logvar for _, logvar in moments]), shape, "log-variances", self.spec).float()
        return Posterior(mean, logvar.clamp(*LOGVAR_RANGE))

    def decode(self, latents: Tensor, chunk_groups: int | None = None) -> Tensor:
        """Decode raw latents `[B, C, G, h, w]` to `[B, 3, 1+T, H, W]` float32, nominally in [-1, 1], not clamped by us.

        Args:
            latents: Raw, as `encode` returns them.
            chunk_groups: Without effect.

        Raises:
            InputError: If channels, dimensions or the number of groups do not fit; or if the network returns a video of
                another size than `spec` says.
        """
        check_latents(latents, self.spec)
        video = torch.cat([self.baseline.decode(self.network, part) for part in self._parts(latents)])
        shape = [len(latents), *self.spec.video_shape(*latents.shape[2:])]
        return held(video, shape, "a video", self.spec).float()

    def cast(self, dtype: torch.dtype) -> BaselineTokenizer:
        """Hold the weights in `dtype`; statistics stay float32, and hashes those of the weights before."""
        _ = self.encoder_hash, self.decoder_hash
        self.network.to(dtype)
        return self

    @property
    def encoder_hash(self) -> str:
        """16 hex digits over class, its settings, and weights of all that encoding may use; made once."""
        return self._hash_without("encoder", self.baseline.decoder_only)

    @property
    def decoder_hash(self) -> str:
        """16 hex digits over class, its settings, and weights of all that decoding may use; made once."""
        return self._hash_without("decoder", self.baseline.encoder_only)

    def _hash_without(self, half: str, beginnings: tuple[str, ...]) -> str:
        if half not in self._hashes:
            tensors = {k: v for k, v in self.network.state_dict().items() if not k.startswith(beginnings)}
            about = {"class": type(self.network).__name__, "name": self.baseline.name}
            # Of diffusers' classes; underscored ones say which version wrote the folder.
            settings = dict(getattr(self.network, "config", {}))
            about["settings"] = repr(sorted((k, v) for k, v in settings.items() if not k.startswith("_")))
            self._hashes[half] = weights_hash(about, tensors)
        return self._hashes[half]

    def _parts(self, batch: Tensor) -> tuple[Tensor, ...]:
        dtype = next(self.network.parameters()).dtype
        return batch.to(dtype).split(1 if self.baseline.one_by_one else max(1, len(batch)))


class OtherShape(InputError):
    """A tokenizer's class returned what its spec does not say."""


def held(found: Tensor, shape: list[int], what: str, spec: TokenizerSpec) -> Tensor:
    """What a tokenizer's class returned, if it has the shape that its spec says; OtherShape else."""
    if not isinstance(found, Tensor):
        raise OtherShape(f"{spec.name}: its class returned {what} as a {type(found).__name__}, not as a tensor")
    if list(found.shape) != shape:
        raise OtherShape(f"{spec.name}: its class returned {what} {list(found.shape)} instead of {shape}")
    return found


def said_to_be_random(spec: TokenizerSpec) -> TokenizerSpec:
    """The spec under a name that no result can be mistaken under."""
    return replace(spec, name=f"{spec.name} (random weights)")


def load_baseline(baseline: Baseline, weights: str | Path | None = None) -> BaselineTokenizer:
    """The baseline with the weights of a file, of the published file where that lies here, or with seeded random ones.

    Raises:
        InputError: If there is no such file; for a published one, it names size, sha256 and address as far as they are
            published.
    """
    if weights == RANDOM:
        return BaselineTokenizer(baseline, seeded(baseline.build), random_weights=True)
    return BaselineTokenizer(baseline, read_network(baseline, find_file(baseline, weights)))


def find_file(baseline: Baseline, weights: str | Path | None = None) -> Path:
    """The weight file to load: the given one, else the published one where weights are kept, then checked.

    Raises:
        InputError: If it is nowhere, or is not the published one.
    """
    if weights is not None:
        if not Path(weights).is_file():
            raise InputError(f"{weights}: no such weight file of {baseline.name}; give one, or {RANDOM!r}")
        return Path(weights)
    for published in baseline.files:
        found = place_of(published)
        if found is not None:
            return checked(found, published)
    wanted = missing(baseline.files[0]) if baseline.files else "no file of its weights is known here"
    raise InputError(f"{baseline.name}: {wanted}; or give --weights FILE, or --weights {RANDOM}")


def read_network(baseline: Baseline, path: Path) -> nn.Module:
    """The network with the weights of a file: of safetensors with the class's own names, or as its authors wrote it."""
    if path.suffix == ".safetensors":
        return load_model(baseline.build, path, rename=baseline.rename)[0]
    if baseline.read is None:
        which = "".join(f", {file.filename} of {file.address}" for file in baseline.files[:1])
        raise InputError(f"{path}: {baseline.name} is read from a safetensors file{which}")
    state = baseline.read(path)
    network = seeded(baseline.build)
    load_strictly(network, state, path)
    return network
