"""The tokenizers that flags name: the one that decodes, or those that a command puts side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.command import flag
from runtime.errors import InputError
from tokenizer.hub import DownloadFlags

OWN, RANDOM = "own", "random"  # words of --weights; own: those that the tokenizer has of itself
_WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
_SAID = " (random weights)"  # ends the name of a tokenizer that has such


@dataclass(frozen=True, kw_only=True)
class DecoderFlags(DownloadFlags):
    """Which tokenizer decodes latents: flags of every command that decodes some."""

    tokenizer: str | None = flag(None, "tokenizer to decode with; default: the one that encoded the latents")
    weights: str | None = flag(None, "its weight file, or 'random'; default: as the latents were encoded")


@dataclass(frozen=True)
class Entry:
    """What to call a tokenizer, and its name and weights as `tokenizer.load` takes them."""

    label: str
    tokenizer: str
    weights: str | None


def said_random(name: str) -> str:
    """A tokenizer's name that says, once, that its weights are random."""
    return unsaid(name) + _SAID


def is_said_random(name: str) -> bool:
    """Whether a tokenizer's name says that its weights are random."""
    return name.endswith(_SAID)


def unsaid(name: str) -> str:
    """A tokenizer's name without these words."""
    return name.removesuffix(_SAID)


def entries_of(tokenizers: Sequence[str], weights: Sequence[str] = (OWN,)) -> list[Entry]:
    """The tokenizers of `--tokenizers`, in order; the label of one with random weights says so.

    Args:
        tokenizers: Names, runs or folders. LABEL=NAME gives one another label; NAME=random or NAME=FILE gives a known
            name its weights.
        weights: A weight file, "random" or "own": one for all, or one each.

    Raises:
        InputError: If there are none, two of one label, or weights for another number of tokenizers.
    """
    if len(weights) not in (1, len(tokenizers)):
        raise InputError(f"--weights gives {len(weights)} to {len(tokenizers)} tokenizers; give 1, or each")
    found = []
    for text, own in zip(tokenizers, weights * (len(tokenizers) if len(weights) == 1 else 1), strict=True):
        label, equals, name = text.partition("=")
        if equals and (name == RANDOM or Path(name).is_file()):
            name, own = label, name
        elif equals and Path(name).suffix in _WEIGHT_SUFFIXES:
            raise InputError(f"--tokenizers {text}: no such weight file {name}")
        label, name = (label, name) if equals else (Path(text).name, text)
        found.append(Entry(said_random(label) if own == RANDOM else label, name, None if own == OWN else own))
    if not found or len({entry.label for entry in found}) < len(found):
        raise InputError(f"--tokenizers {','.join(tokenizers)}: expected one or more, of different labels")
    return found


def with_commits(config, field: str = "tokenizers"):
    """The flags of a command, with the commit in the name of each tokenizer of the Hugging Face Hub, under the label
    that it had; what is not here is fetched before, if the flags ask for it.

    Args:
        config: Has `field` and `weights` as `entries_of` takes them, and `download`.

    Raises:
        InputError: If one is not here and may not, or cannot, be fetched.
    """
    from tokenizer.zoo import pinned

    names = getattr(config, field)
    entries = entries_of(names, config.weights) if names else []
    found = [pinned(entry.tokenizer, entry.weights, download=config.download) for entry in entries]
    if found == [entry.tokenizer for entry in entries]:
        return config
    texts = (f"{unsaid(entry.label)}={name}" for entry, name in zip(entries, found, strict=True))
    return replace(config, **{field: tuple(texts), "weights": tuple(entry.weights or OWN for entry in entries)})
