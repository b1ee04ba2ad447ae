"""A tokenizer class of the user's own, `module:CLASS`."""

from __future__ import annotations

import importlib
from pathlib import Path

from torch import nn

from runtime.errors import InputError
from tokenizer.baselines.base import RANDOM, said_to_be_random, seeded
from tokenizer.spec import TokenizerSpec, VideoTokenizer

_MEMBERS = ("spec", "encode", "decode", "normalize", "denormalize", "encoder_hash", "decoder_hash")


def load_class(name: str, weights: str | Path | None = None) -> nn.Module:
    """An instance of the class `module:CLASS`: made without arguments, or with `weights=` the path that was given.

    Random weights are what it makes without arguments, seeded; the name in its spec then says so.

    Raises:
        InputError: If there is no such class, it cannot be made, or is no `VideoTokenizer`.
    """
    module_name, _, class_name = name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name, None)
    except Exception as error:  # the user's code runs here, and may raise anything
        raise InputError(f"tokenizer {name}: {module_name} cannot be imported ({_words(error)})") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise InputError(f"tokenizer {name}: {module_name} has no torch.nn.Module {class_name!r}")
    try:
        made = seeded(found) if weights in (None, RANDOM) else found(weights=weights)
    except InputError:
        raise
    except Exception as error:
        given = "without arguments" if weights in (None, RANDOM) else f"with weights={str(weights)!r}"
        raise InputError(f"tokenizer {name}: it cannot be made {given} ({_words(error)})") from error
    absent = [member for member in _MEMBERS if not hasattr(made, member)]
    if absent or not isinstance(made, VideoTokenizer) or not isinstance(made.spec, TokenizerSpec):
        lacks = ", ".join(absent) or "a tokenizer.TokenizerSpec as its spec"
        raise InputError(f"tokenizer {name}: it is no VideoTokenizer (tokenizer/spec.py); it lacks {lacks}")
    if weights == RANDOM:
        try:
            made.spec = said_to_be_random(made.spec)
        except AttributeError as error:
            raise InputError(
                f"tokenizer {name}: its spec is a property, which --weights random cannot rename"
            ) from error
    return made


def _words(error: BaseException) -> str:
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
