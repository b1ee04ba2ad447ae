"""Autoencoder classes of the diffusers library, each called as a tokenizer of clips."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from runtime.errors import InputError
from tokenizer.baselines.base import Normalisation

# Paths that a class takes for memory's sake and that change its numbers; all are off.
_MEMORY_SAVERS = ("use_framewise_encoding", "use_framewise_decoding", "use_tiling", "use_slicing")
# Attention in image autoencoders, as it is named in files of before 2023.
_OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def diffusers_class(name: str) -> type[nn.Module]:
    """An autoencoder of diffusers by the name of its class.

    Raises:
        InputError: If diffusers is not installed, or has no such autoencoder.
    """
    try:
        import diffusers
    except ImportError as error:
        more = "which is not installed: pip install diffusers, or here pip install -e '.[baselines]'"
        raise InputError(f"{name} is a class of diffusers, {more}") from error
    with torch.device("cpu"):  # modules are imported here, with tensors of their own, also where a model has no memory
        found = getattr(diffusers, name, None) if name.startswith("Autoencoder") else None
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        raise InputError(
            f"{name!r} is no autoencoder of diffusers {diffusers.__version__}; pip install -U diffusers may help"
        )
    return found


def build(name: str, **config) -> nn.Module:
    """A network of that class, with random weights."""
    network = diffusers_class(name)(**config)
    for switch in _MEMORY_SAVERS:
        if hasattr(network, switch):
            setattr(network, switch, False)
    return network


def encode_clip(network: nn.Module, video: Tensor) -> tuple[Tensor, Tensor | None]:
    """Mean and log-variance of a class that takes videos (None for a plain autoencoder)."""
    output = network.encode(video)
    posterior = getattr(output, "latent_dist", None)
    if posterior is None:
        return output.latent, None
    logvar = getattr(posterior, "logvar", None)
    return (posterior.mode(), None) if logvar is None else (posterior.mean, logvar)


def decode_clip(network: nn.Module, latents: Tensor) -> Tensor:
    """The video from a class that takes latents of videos."""
    output = network.decode(latents)
    return output if isinstance(output, Tensor) else output.sample


def encode_frames(network: nn.Module, video: Tensor) -> tuple[Tensor, Tensor | None]:
    """`encode_clip` of a class that takes pictures: frame by frame."""
    moments = encode_clip(network, video.transpose(1, 2).flatten(0, 1))
    return tuple(None if each is None else _as_clips(each, len(video)) for each in moments)


def decode_frames(network: nn.Module, latents: Tensor) -> Tensor:
    """`decode_clip` of a class that takes latents of pictures: frame by frame."""
    return _as_clips(decode_clip(network, latents.transpose(1, 2).flatten(0, 1)), len(latents))


def _as_clips(pictures: Tensor, count: int) -> Tensor:
    return pictures.unflatten(0, (count, -1)).transpose(1, 2)


def encode_vidtok(network: nn.Module, video: Tensor) -> tuple[Tensor, Tensor | None]:
    """Mean and log-variance from VidTok, which wants its first frame as often as a group has frames; its `decode` drops
    the copies."""
    copies = video[:, :, :1].expand(-1, -1, network.temporal_compression_ratio - 1, -1, -1)
    try:
        return encode_clip(network, torch.cat([copies, video], dim=2))
    finally:
        network._empty_causal_cached(network.encoder)  # a copy of every layer's input


def decode_vidtok(network: nn.Module, latents: Tensor) -> Tensor:
    """The video from VidTok."""
    try:
        return decode_clip(network, latents)
    finally:
        network._empty_causal_cached(network.decoder)


def published_normalisation(network: nn.Module) -> Normalisation | None:
    """What the pipelines of diffusers do with the latents of a network, by its config or the buffers in its weights."""
    config = dict(network.named_buffers()) | network.config
    scale = config.get("scaling_factor") or 1.0
    mean, std = (config.get(name) for name in ("latents_mean", "latents_std"))
    if mean is not None and std is not None:
        mean, std = (torch.as_tensor(values, dtype=torch.float64).flatten() for values in (mean, std))
        channels = config.get("latent_channels") or config.get("z_dim")
        if len(mean) != channels:  # of places in time too, as for Cosmos
            return None
        return Normalisation(tuple(mean.tolist()), tuple((std / scale).tolist()))
    if config.get("scaling_factor") is None:
        return None
    return Normalisation(config.get("shift_factor") or 0.0, 1.0 / scale)


def rename_old(name: str) -> str:
    """The name that a tensor of an image autoencoder has now, from its name in an old file."""
    for old, new in _OLD_NAMES.items():
        name = name.replace(old, new)
    return name
