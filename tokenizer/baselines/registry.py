"""Which tokenizers of others there are, and how each kind is loaded."""

from __future__ import annotations

import re
from pathlib import Path

from torch import nn

from tokenizer.baselines import diffusers_folder, diffusers_hub, diffusers_vaes, ports, user_class
from tokenizer.baselines.base import RANDOM, Baseline, find_file, load_baseline

BASELINES: dict[str, Baseline] = {row.name: row for row in (*diffusers_vaes.ROWS, *ports.ROWS)}

_FOLDER = "diffusers:"
_CLASS = re.compile(rf"(?!{_FOLDER})[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_baseline(name: str | Path) -> bool:
    """Whether a tokenizer's name asks for a baseline, rather than for a PV-VAE."""
    return str(name) in BASELINES or str(name).startswith(_FOLDER) or _CLASS.fullmatch(str(name)) is not None


def folder_of(name: str, weights: str | Path | None = None, *, download: bool = False) -> Path | None:
    """The folder that "diffusers:…" names, here or in the Hub's cache (see `diffusers_hub.folder_of`); None for other
    names."""
    if not name.startswith(_FOLDER):
        return None
    return diffusers_hub.folder_of(name.removeprefix(_FOLDER), weights=weights is None, download=download)


def pinned(name: str, weights: str | Path | None = None, *, download: bool = False) -> str:
    """The name, of a repository of the Hub with its commit (see `diffusers_hub.pinned`)."""
    if not name.startswith(_FOLDER):
        return name
    return _FOLDER + diffusers_hub.pinned(name.removeprefix(_FOLDER), weights=weights is None, download=download)


def code_hash(name: str) -> str:
    """SHA-256 of the file of "module:CLASS"; "" for other names."""
    return user_class.code_hash(name) if _CLASS.fullmatch(name) else ""


def lies_in_bare_folder(name: str) -> bool:
    """Whether "module:CLASS" is code in a folder that is no package; False for other names."""
    return _CLASS.fullmatch(name) is not None and user_class.lies_in_bare_folder(name)


def is_on_hub(name: str) -> bool:
    """Whether a name is of a repository of the Hub, rather than of a folder or a class."""
    return name.startswith(_FOLDER) and diffusers_hub.repository(name.removeprefix(_FOLDER)) is not None


def check(name: str, weights: str | Path | None = None) -> None:
    """What `load` refuses for want of a file, refused before anything is built."""
    if name in BASELINES and weights != RANDOM:
        find_file(BASELINES[name], weights)
    folder_of(name, weights)


def load(name: str, weights: str | Path | None = None, *, download: bool = False) -> nn.Module:
    """The tokenizer of a name that `is_baseline`, on the CPU.

    Args:
        name: Of `BASELINES`, "diffusers:FOLDER", "diffusers:USER/NAME" of the Hub, or "module:CLASS".
        weights: A file, or "random"; None: the published file, or what folder or class have of their own.
        download: Fetch from the Hub what is not here.

    Raises:
        InputError: If there is no such tokenizer, or its weights are not here or do not fit.
    """
    if name in BASELINES:
        return load_baseline(BASELINES[name], weights)
    folder = folder_of(name, weights, download=download)
    return user_class.load_class(name, weights) if folder is None else diffusers_folder.load_folder(folder, weights)
