"""State dicts of weight files that others wrote: read without running anything in them.

Whether they fit is for `runtime.weights.load_strictly` to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from runtime.errors import InputError
from runtime.weights import read_weights, reading


def read_state_dict(path: str | Path, keys: Sequence[str] = ("",), *, dropped: Sequence[str] = ()) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, of a safetensors file or of one that `torch.save` wrote; nothing in it is run.

    Args:
        keys: Where a file of `torch.save` may keep them, the first that is there: "" for all that it holds,
            "state_dict" for what PyTorch Lightning keeps beside other things, "a.b" for one dict in another.
        dropped: Beginnings of names that are left out.

    Raises:
        InputError: When there is no such file, it is damaged, holds objects that are no plain data, or no tensors
            there.
    """
    if Path(path).suffix == ".safetensors":
        state = read_weights(Path(path))
    else:
        with reading(path):
            held = torch.load(path, "cpu", weights_only=True)
        found = (_at(held, key) for key in keys)
        state = next((each for each in found if isinstance(each, Mapping) and each), None)
        if state is None or not all(
            isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
        ):
            where = " or ".join(filter(None, keys))
            raise InputError(f"{path}: holds no state dict{where and f' in {where}'}; fetch it again")
    return {name: value for name, value in state.items() if not name.startswith(tuple(dropped))}


def _at(held: object, key: str) -> object:
    for part in filter(None, key.split(".")):
        held = held.get(part) if isinstance(held, Mapping) else None
    return held
