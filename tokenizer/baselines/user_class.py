"""A tokenizer class of the user's own, `module:CLASS`."""

from __future__ import annotations

import importlib.machinery
import inspect
from pathlib import Path

import torch
from torch import Tensor, nn

from runtime.errors import InputError
from runtime.run import file_sha256
from tokenizer.baselines.base import RANDOM, OtherShape, held, said_to_be_random, seeded
from tokenizer.spec import Posterior, TokenizerSpec, VideoTokenizer, weights_hash

_MEMBERS = ("spec", "encode", "decode", "normalize", "denormalize", "encoder_hash", "decoder_hash")


def load_class(name: str, weights: str | Path | None = None) -> OwnTokenizer:
    """An instance of the class `module:CLASS`: made without arguments, or with `weights=` the path that was given.

    Random weights are what it makes without arguments, seeded; the name in its spec then says so.

    Raises:
        InputError: If there is no such class, it cannot be made, or is no `VideoTokenizer`.
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
    return OwnTokenizer(made, name, random_weights=weights == RANDOM)


def lies_in_bare_folder(name: str) -> bool:
    """Whether the class `module:CLASS` is reached through a folder without an `__init__.py`, as a downloaded one may be
    below the current folder. Nothing is imported."""
    where, places = "", None
    for part in name.partition(":")[0].split("."):
        where = f"{where}.{part}".lstrip(".")
        found = importlib.machinery.PathFinder.find_spec(where, places)
        if found is None or found.origin is None:
            return found is not None
        places = found.submodule_search_locations
    return False


def code_hash(name: str) -> str:
    """SHA-256 of the file that defines the class `module:CLASS`; "" where there is none."""
    return _code_hash(_class_of(name))


def _code_hash(found: type) -> str:
    try:
        return file_sha256(inspect.getfile(found))
    except (TypeError, OSError):  # made by other code, or in a module without a file
        return ""


def _class_of(name: str) -> type[nn.Module]:
    module_name, _, class_name = name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name, None)
    except Exception as error:  # the user's code runs here, and may raise anything
        raise InputError(f"tokenizer {name}: {module_name} cannot be imported ({_words(error)})") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise InputError(f"tokenizer {name}: {module_name} has no torch.nn.Module {class_name!r}")
    return found


class OwnTokenizer(nn.Module):
    """Somebody's class as a `VideoTokenizer`; whatever else it has is found here too.

    What it returns is held against its spec. The file of its class is part of its hashes, by which everything that is
    kept of a tokenizer is found: after an edit of its code that would be another one's.

    Args:
        own: Of the class.
        name: As it was asked for.
        random_weights: Whether its weights are random, which the name in the spec then says.

    Raises:
        InputError: If a hash is no text.
    """

    def __init__(self, own: nn.Module, name: str, *, random_weights: bool = False):
        super().__init__()
        self.own, self._name = own, name
        self.spec = said_to_be_random(own.spec) if random_weights else own.spec
        code = _code_hash(type(own))
        for each in ("encoder_hash", "decoder_hash"):
            found = getattr(own, each)
            if not isinstance(found, str):
                kind = type(found).__name__
                raise InputError(f"tokenizer {name}: its {each} is a {kind}, not a text; is @property missing?")
            setattr(self, each, weights_hash({"own": found, "code": code}, {}))

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("own"), name)

    def encode(self, video: Tensor, chunk_groups: int | None = None) -> Posterior:
        """What the class returns for a clip; OtherShape, an InputError, when that is not what its spec says."""
        found = self.own.encode(video, **_given(chunk_groups))
        if not isinstance(found, Posterior):
            kind = type(found).__name__
            raise OtherShape(f"tokenizer {self._name}: encode returned a {kind}, not a tokenizer.Posterior")
        shape = [len(video), *self.spec.latent_shape(*video.shape[2:])]
        held(found.mean, shape, "latents", self.spec)
        if found.logvar is not None:
            held(found.logvar, shape, "log-variances", self.spec)
        return found

    def decode(self, latents: Tensor, chunk_groups: int | None = None) -> Tensor:
        """What the class returns for latents; OtherShape, an InputError, when that is not what its spec says."""
        shape = [len(latents), *self.spec.video_shape(*latents.shape[2:])]
        return held(self.own.decode(latents, **_given(chunk_groups)), shape, "a video", self.spec)

    def normalize(self, latents: Tensor) -> Tensor:
        """As the class does."""
        return self.own.normalize(latents)

    def denormalize(self, latents: Tensor) -> Tensor:
        """As the class does."""
        return self.own.denormalize(latents)

    @torch.no_grad()
    def try_out(self) -> None:
        """Encode and decode the smallest clip. Not for an object that works afterwards: it may have made tables for
        that clip's type and device.

        Raises:
            InputError: If other shapes come back than the spec says.
        """
        self.eval()
        try:
            with torch.random.fork_rng(devices=[]):
                spec = self.spec
                self.decode(self.encode(torch.zeros(1, 3, 1 + spec.step, spec.spatial, spec.spatial)).mean)
        except OtherShape:
            raise
        except Exception:
            pass  # it may need a larger clip, or a GPU; the first clip of the work will tell


def _given(chunk_groups: int | None) -> dict[str, int]:
    return {} if chunk_groups is None else {"chunk_groups": chunk_groups}


def _words(error: BaseException) -> str:
    first, *more = (line.strip() for line in str(error).splitlines() or [""])
    text = f"{first} {more[0]}"[:300] if first.endswith(":") and more else first  # as of tensors that do not fit
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
