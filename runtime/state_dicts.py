"""State dicts of weight files that others wrote: read without running anything in them.

Whether they fit is for `runtime.weights.load_strictly` to say.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from runtime.errors import InputError
from runtime.torchscript import is_torchscript, read_torchscript

# What cut-off or changed bytes end in: zip archives, pickles, and tensors that do not fit their bytes.
DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, of a `torch.save` file or of a TorchScript archive.

    Raises:
        InputError: When the file is damaged, holds more than tensors, or none.
    """
    return _tensors_of(read_plain(path), path)


def read_checkpoint(path: str | Path, key: str, *, dropped: Sequence[str] = ()) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, of a `torch.save` file that keeps them under `key` beside other things, as PyTorch
    Lightning does, or that holds nothing else.

    Args:
        dropped: Beginnings of names that are left out.

    Raises:
        InputError: When the file is damaged, holds objects that are no plain data, or no tensors there.
    """
    found = read_plain(path)
    state = _tensors_of(found[key] if isinstance(found, Mapping) and key in found else found, path)
    return {name: value for name, value in state.items() if not name.startswith(tuple(dropped))}


def read_plain(path: str | Path) -> object:
    """What a `torch.save` file or a TorchScript archive holds, of tensors and plain data alone; nothing in it is run.

    Raises:
        InputError: When there is no such file, it is damaged, or it holds more; its cause is PyTorch's own error.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such weight file")
    try:
        return read_torchscript(path) if is_torchscript(path) else torch.load(path, "cpu", weights_only=True)
    except DAMAGED as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: not readable as weights ({first}); fetch it again") from error


def _tensors_of(state: object, path: str | Path) -> dict[str, Tensor]:
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: holds no state dict; fetch it again")
    return dict(state)
