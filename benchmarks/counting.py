"""Count the bytes of tensors: those that live at once, and those that are kept for the backward pass. With PyTorch's
fake tensors, which have no content, at any size."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@contextmanager
def counting_live_bytes(apart_from: list[torch.Tensor]) -> Iterator[SimpleNamespace]:
    """Count the bytes of tensors that operators return, from when they are made until the last reference is gone.

    Args:
        apart_from: Tensors whose memory is not counted.

    Yields:
        `now` and `peak`, in bytes.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.weak import WeakIdKeyDictionary

    count, known = SimpleNamespace(now=0, peak=0), WeakIdKeyDictionary()
    for tensor in apart_from:
        known[tensor.untyped_storage()] = 0

    def forget(size: int) -> None:
        count.now -= size

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for tensor in tree_leaves(result):
                storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
                if storage is not None and storage not in known:
                    known[storage] = size = storage.nbytes()
                    count.now += size
                    count.peak = max(count.peak, count.now)
                    weakref.finalize(storage, forget, size)
            return result

    with Counting():
        yield count


def saved_bytes(work, apart_from: list[torch.Tensor]) -> int:
    """Bytes that `work()` keeps for its backward pass, each storage once, without those of the tensors `apart_from`."""
    from torch.autograd.graph import saved_tensors_hooks

    known, kept = {tensor.untyped_storage()._cdata for tensor in apart_from}, {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            kept[storage._cdata] = storage  # held, so that its address is not used again
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        result = work()
    size = sum(storage.nbytes() for storage in kept.values())
    del result
    return size
