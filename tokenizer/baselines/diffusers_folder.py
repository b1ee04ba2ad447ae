"""Any autoencoder of the diffusers library, from a folder as the library writes it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection
from pathlib import Path

import torch
from torch import nn

from runtime.errors import InputError, first_line
from runtime.records import read_json
from runtime.weights import load_model
from tokenizer.baselines.base import RANDOM, Baseline, BaselineTokenizer, seeded
from tokenizer.baselines.diffusers_classes import (
    build,
    decode_clip,
    decode_frames,
    decode_vidtok,
    diffusers_class,
    encode_clip,
    encode_frames,
    encode_vidtok,
    published_normalisation,
    rename_old,
)
from tokenizer.spec import SteppedSpec, TokenizerSpec

# What the library calls the weights in a folder; of large ones, the list of the files that they are in.
STEM = "diffusion_pytorch_model"
PLAIN = f"{STEM}.safetensors"
INDEX = f"{PLAIN}.index.json"
_SHARD = re.compile(rf"{STEM}[\w.-]*\.safetensors", re.ASCII)
_PROBE = 9  # frames: the fewest that tell a temporal stride of 8 from one of 16
# Of a network's parts and of any whole number: modules take memory even where their weights take none.
_MAX_DEPTH, _MAX_SIZE = 64, 2**20
_REFUSALS = (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError, LookupError, AssertionError)


def load_folder(folder: Path, weights: str | Path | None = None) -> BaselineTokenizer:
    """An autoencoder from a folder as diffusers writes it: config.json, that names its class, and safetensors files.

    Its shape, and whether it takes videos or pictures, are found out by running it on a few frames of zeros.

    Args:
        weights: Another file, or "random".

    Raises:
        InputError: If the folder holds no such autoencoder, or the class does not give back clips of 1 + k frames.
    """
    name, fields = read_config(folder)

    def make() -> nn.Module:
        try:
            return build(name, **fields)
        except _REFUSALS as error:
            raise InputError(f"{folder / 'config.json'}: {name} refuses it ({first_line(error)})") from error

    if weights == RANDOM:
        network = seeded(make)
    else:
        files = [Path(weights)] if weights else weight_files(folder)
        network, _ = load_model(make, *files, rename=_renaming(name))
    network.eval()
    facts = {"build": make, "tiny": make, "licence": "not known here", "normalisation": published_normalisation}
    facts["parameters"] = sum(parameter.numel() for parameter in network.parameters())
    video = (encode_vidtok, decode_vidtok) if name == "AutoencoderVidTok" else (encode_clip, decode_clip)
    reasons = []
    for encode, decode in (video, (encode_frames, decode_frames)):
        try:
            spec = probed(network, encode, decode, name)
        except _REFUSALS as error:
            reasons.append(first_line(error))
        else:
            baseline = Baseline(spec=spec, encode=encode, decode=decode, **facts)
            return BaselineTokenizer(baseline, network, random_weights=weights == RANDOM)
    raise InputError(f"{folder}: {name} is no tokenizer of clips ({reasons[0]}) nor of pictures ({reasons[1]})")


def class_of(path: Path) -> str | None:
    """The class that a config.json of diffusers names; None where it names none."""
    config = read_json(path)
    name = config.get("_class_name") if isinstance(config, dict) else None
    return name if isinstance(name, str) else None


def read_config(folder: Path) -> tuple[str, dict]:
    """The autoencoder's class that a folder's config.json names, and the arguments that it has for it.

    Raises:
        InputError: If it names no autoencoder of diffusers, or one that is no tokenizer or of absurd size.
    """
    path = folder / "config.json"
    config, name = read_json(path), class_of(path)
    if name is None:
        raise InputError(f"{path}: it names no class of diffusers (_class_name)")
    if config.get("timestep_conditioning"):
        raise InputError(f"{path}: the decoder of this {name} draws noise; it is no tokenizer that can be compared")
    taken = inspect.signature(diffusers_class(name).__init__).parameters
    fields = {key: value for key, value in config.items() if key in taken}
    for key, value in fields.items():
        parts = value if isinstance(value, list) else [value]
        most = _MAX_DEPTH if "layers" in key or "blocks" in key else _MAX_SIZE
        too_long = len(parts) > _MAX_DEPTH and not key.startswith("latents_")  # which has a number a channel
        if too_long or any(isinstance(part, int) and part > most for part in parts):
            raise InputError(f"{path}: {key} is {str(value)[:60]}, more than any autoencoder has")
    return name, fields


def _renaming(class_name: str):
    return rename_old if class_name in ("AutoencoderKL", "AutoencoderKLTemporalDecoder") else None


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files with the weights of a folder, by `chosen_weights`."""
    names = [path.name for path in folder.iterdir()]
    return [folder / name for name in chosen_weights(names, folder, lambda: shards_of(folder / INDEX))]


def chosen_weights(names: Collection[str], where: object, shards: Callable[[], list[str]]) -> list[str]:
    """Of the files of a folder, those with the weights as they were written: the one with the library's name before a
    list of shards, these before rounded ones (`.fp16.`), and before a single file of any other name.

    Args:
        names: Of the files.
        where: The folder, for the message.
        shards: Reads the list of shards, where there is one.

    Raises:
        InputError: If there is no such file, or it is not clear which one it is.
    """
    if PLAIN in names:
        return [PLAIN]
    if INDEX in names:
        return shards()
    found = sorted(name for name in names if name.endswith(".safetensors"))
    found = [name for name in found if name.startswith(STEM)] or found
    if len(found) != 1:
        more = "" if found else "; pickled weights are not read"
        raise InputError(
            f"{where}: one safetensors file is wanted, it holds {len(found)}; name one with --weights{more}"
        )
    return found


def shards_of(index: Path) -> list[str]:
    """The files that a list of shards names, all of the same folder."""
    content = read_json(index)
    listed = content.get("weight_map") if isinstance(content, dict) else None
    names = [*listed.values()] if isinstance(listed, dict) else []
    if not names or not all(isinstance(name, str) and _SHARD.fullmatch(name) for name in names):
        raise InputError(f"{index}: it is no list of safetensors files")
    return sorted(set(names))


@torch.no_grad()
def probed(network: nn.Module, encode, decode, name: str) -> TokenizerSpec:
    """The shape of a tokenizer's latents, from runs on zeros.

    Raises:
        ValueError: If it does not give back what it takes; other errors as its class raises them.
    """
    for side in (32, 64, 128):
        try:
            picture = encode(network, torch.zeros(1, 3, 1, side, side))[0]
            break
        except _REFUSALS:
            if side == 128:
                raise
    _, channels, groups, height, width = picture.shape
    if groups != 1 or height != width or side % height:
        raise ValueError(f"a picture of {side} pixels gives latents {list(picture.shape[1:])}")
    longer = encode(network, torch.zeros(1, 3, _PROBE, side, side))[0].shape[2] - 1
    if longer < 1 or (_PROBE - 1) % longer:
        raise ValueError(f"{_PROBE} frames give {longer + 1} groups")
    temporal = (_PROBE - 1) // longer
    spec = TokenizerSpec(
        name=f"{name}-t{temporal}s{side // height}c{channels}",
        **{"temporal": temporal, "spatial": side // height, "channels": channels},
    )

    def returns(num_frames: int) -> bool:
        video = torch.zeros(1, 3, num_frames, side, side)
        return decode(network, encode(network, video)[0]).shape == video.shape

    if not returns(1):
        raise ValueError("a picture comes back in another size")
    for step in (temporal, 2 * temporal, 4 * temporal):
        if returns(1 + step):
            return spec if step == temporal else SteppedSpec(**spec.to_dict(), frame_step=step)
    raise ValueError(f"clips of 1 + {temporal}k frames come back in other lengths")
