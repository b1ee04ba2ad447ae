"""A tokenizer class of the user's own, `module:CLASS`."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from pathlib import Path

import torch
from torch import Tensor, nn

from runtime.errors import InputError
from tokenizer.baselines.base import RANDOM, OtherShape, held, said_to_be_random, seeded
from tokenizer.spec import Posterior, TokenizerSpec, VideoTokenizer, weights_hash

_MEMBERS = ("spec", "encode", "decode", "normalize", "denormalize", "encoder_hash", "decoder_hash")


def load_class(name: str, weights: str | Path | None = None) -> nn.Module:
    """An instance of the class `module:CLASS`: made without arguments, or with `weights=` the path that was given.

    Random weights are what it makes without arguments, seeded; the name in its spec then says so. What `encode` and
    `decode` return is held against the spec, at each call.

    Raises:
        InputError: If there is no such class, it cannot be made, is no `VideoTokenizer`, or returns other shapes than
            its spec says.
    """
    found = _class_of(name)
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
    made = _behind_checks(made)
    _try_out(made, name)
    return made


def source_file(name: str) -> Path | None:
    """The file that defines the class `module:CLASS`; None where there is none."""
    return _file_of(_class_of(name))


def _file_of(found: type) -> Path | None:
    try:
        return Path(inspect.getfile(found))
    except (TypeError, OSError):  # made by other code, or in a module without a file
        return None


def _class_of(name: str) -> type[nn.Module]:
    module_name, _, class_name = name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name, None)
    except Exception as error:  # the user's code runs here, and may raise anything
        raise InputError(f"tokenizer {name}: {module_name} cannot be imported ({_words(error)})") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise InputError(f"tokenizer {name}: {module_name} has no torch.nn.Module {class_name!r}")
    return found


class _Checks:
    """Stands before somebody's class in the order of methods, and holds what that returns against its spec."""

    def encode(self, video: Tensor, *args, **flags) -> Posterior:
        found = super().encode(video, *args, **flags)
        if not isinstance(found, Posterior):
            kind = type(found).__name__
            raise OtherShape(f"{self.spec.name}: encode returned a {kind}, not a tokenizer.Posterior")
        shape = [len(video), *self.spec.latent_shape(*video.shape[2:])]
        held(found.mean, shape, "latents", self.spec)
        if found.logvar is not None:
            held(found.logvar, shape, "log-variances", self.spec)
        return found

    def decode(self, latents: Tensor, *args, **flags) -> Tensor:
        sides = [side * self.spec.spatial for side in latents.shape[3:]]
        shape = [len(latents), 3, self.spec.frames(latents.shape[2]), *sides]
        return held(super().decode(latents, *args, **flags), shape, "a video", self.spec)


def _behind_checks(made: nn.Module) -> nn.Module:
    """The same object, now of a class with `_Checks`, whose hashes are over its file too: what is kept of a tokenizer
    is found by its hashes, and after an edit of its code that would be another one's."""
    found = type(made)
    file = _file_of(found)
    code = hashlib.sha256(file.read_bytes()).hexdigest() if file else ""
    names = ("encoder_hash", "decoder_hash")
    hashes = {name: weights_hash({"own": getattr(made, name), "code": code}, {}) for name in names}
    members = {name: property(lambda self, value=value: value) for name, value in hashes.items()}
    made.__class__ = type(found.__name__, (_Checks, found), {"__module__": found.__module__, **members})
    return made


def _try_out(made: nn.Module, name: str) -> None:
    """Refuse, before any work, a class that returns other shapes than its spec says, by the smallest clip."""
    spec = made.spec
    made.eval()
    try:
        with torch.no_grad():
            made.decode(made.encode(torch.zeros(1, 3, 1 + spec.step, spec.spatial, spec.spatial)).mean)
    except OtherShape as error:
        raise InputError(f"tokenizer {name}: {error}") from error
    except Exception:
        pass  # it may need a larger clip, or a GPU; the first clip of the work will tell


def _words(error: BaseException) -> str:
    first, *more = (line.strip() for line in str(error).splitlines() or [""])
    text = f"{first} {more[0]}"[:300] if first.endswith(":") and more else first  # as of tensors that do not fit
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
