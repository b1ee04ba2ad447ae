"""Turn what a caller has into checked float64 arrays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
from threadpoolctl import ThreadpoolController

from runtime.errors import InputError


def as_array(values: object) -> np.ndarray:
    """NumPy array from NumPy, torch on any device, or a sequence; the dtype stays, but for bfloat16: NumPy has none."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if str(values.dtype) == "torch.bfloat16" else values
    return np.asarray(values)


def as_features(values: object, name: str = "features") -> np.ndarray:
    """float64 `[N, d]` from NumPy or torch; InputError unless N >= 2 and everything is finite."""
    array = np.asarray(as_array(values), np.float64)
    if array.ndim != 2:
        raise InputError(f"{name} must be [N, d], got {list(array.shape)}")
    if len(array) < 2:
        raise InputError(f"{name}: a set metric needs at least 2 clips, got {len(array)}")
    if not np.isfinite(array).all():
        raise InputError(f"{name}: {int((~np.isfinite(array)).any(1).sum())} clips have features that are not finite")
    return array


def as_pair(a: object, b: object) -> tuple[np.ndarray, np.ndarray]:
    """Two feature sets of the same width."""
    a, b = as_features(a, "the first set"), as_features(b, "the second set")
    check_width(a.shape[1], b.shape[1])
    return a, b


def check_width(a: int, b: int) -> None:
    """InputError unless two sets have equally many features."""
    if a != b:
        raise InputError(f"the two sets have {a} and {b} features; they must come from the same network")


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Around, or as a decorator of, what is computed of matrices with some hundred rows: several threads wait for each
    other within each product and at each column of a decomposition, on a machine with other work for their turn."""
    with _threads().limit(limits=1, user_api="blas"):
        yield


@cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()
