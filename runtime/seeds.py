"""Randomness keyed by what it is for, never by who draws it: (seed, stream, step, global row)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Built = TypeVar("Built")


def key(seed: int, *parts: int | str) -> int:
    """A stable 63-bit number from a seed and any whole numbers and words."""
    text = "\x1f".join([str(int(seed)), *(str(part) for part in parts)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, for whatever draws outside this module."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seeded(build: Callable[[], Built], seed: int = 0) -> Built:
    """What `build` makes, in float32, of the numbers that PyTorch draws on the CPU after `seed`.

    The caller's default dtype stays, and so do the generators of all devices: `torch.manual_seed` would seed each GPU.
    """
    dtype = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        try:
            torch.set_default_dtype(torch.float32)
            torch.default_generator.manual_seed(seed)
            return build()
        finally:
            torch.set_default_dtype(dtype)


def numpy_generator(seed: int, *parts: int | str) -> np.random.Generator:
    """A NumPy generator of its own for (seed, parts)."""
    return np.random.default_rng(key(seed, *parts))


def normal_rows(seed: int, stream: str, step: int, rows: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Standard normal float32 `[len(rows), *shape]` on the CPU; each row depends on its own (seed, stream, step, row)
    only.

    Drawn by NumPy: seeding a generator for each row is many times cheaper there than in torch.
    """
    out = np.empty((len(rows), *shape), dtype=np.float32)
    for i, row in enumerate(rows):
        numpy_generator(seed, stream, step, int(row)).standard_normal(dtype=np.float32, out=out[i])
    return torch.from_numpy(out)


def uniform_rows(seed: int, stream: str, step: int, rows: Sequence[int]) -> Tensor:
    """Uniform float32 `[len(rows)]` in [0, 1), keyed like `normal_rows`."""
    values = [numpy_generator(seed, stream, step, int(row)).random(dtype=np.float32) for row in rows]
    return torch.from_numpy(np.array(values, dtype=np.float32))
