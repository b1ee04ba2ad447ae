"""Which tokenizers of others there are, and how each kind is loaded."""

from __future__ import annotations

import re
from pathlib import Path

from torch import nn

from tokenizer.baselines import diffusers_vaes, ports
from tokenizer.baselines.base import RANDOM, Baseline, find_file, load_baseline
from tokenizer.baselines.user_class import load_class

BASELINES: dict[str, Baseline] = {row.name: row for row in (*diffusers_vaes.ROWS, *ports.ROWS)}

_FOLDER = "diffusers:"
_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_baseline(name: str | Path) -> bool:
    """Whether a tokenizer's name asks for a baseline, rather than for a PV-VAE."""
    return str(name) in BASELINES or str(name).startswith(_FOLDER) or _CLASS.fullmatch(str(name)) is not None


def check(name: str, weights: str | Path | None = None) -> None:
    """What `load` refuses for want of a file, refused before anything is built."""
    if name in BASELINES and weights != RANDOM:
        find_file(BASELINES[name], weights)


def load(name: str, weights: str | Path | None = None) -> nn.Module:
    """The tokenizer of a name that `is_baseline`, on the CPU.

    Args:
        name: Of `BASELINES`, "diffusers:FOLDER" or "module:CLASS".
        weights: A file, or "random"; None: the published file, or what folder or class have of their own.

    Raises:
        InputError: If there is no such tokenizer, or its weights are not here or do not fit.
    """
    if name in BASELINES:
        return load_baseline(BASELINES[name], weights)
    if name.startswith(_FOLDER):
        return diffusers_vaes.load_folder(Path(name.removeprefix(_FOLDER)), weights)
    return load_class(name, weights)
