"""Tensors of a TorchScript archive, without TorchScript: nothing of the archive's code is compiled or run.

The archive is a zip file: `<name>/data.pkl` pickles the module tree, `<name>/data/<key>` hold the bytes of the tensors.
The pickle is read by an unpickler that knows tensors, lists and nameless objects, and refuses everything else.
"""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from runtime.state_dicts import read_state_dict
from runtime.weights import reading

_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class ScriptObject:
    """An object of the archive: its attributes, and none of its methods."""


def read_torch_file(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, of a TorchScript archive or of a `torch.save` file; nothing in it is run.

    Raises:
        InputError: When there is no such file, it is damaged, or holds more than tensors.
    """
    with reading(path):
        return read_torchscript(path) if is_torchscript(path) else read_state_dict(path)


def is_torchscript(path: str | Path) -> bool:
    """Whether the file is a TorchScript archive, and not a plain checkpoint or something else."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: str | Path) -> dict[str, Tensor]:
    """Every tensor of the module tree by its dotted name, as `state_dict()` of the running module would give it.

    Raises:
        pickle.UnpicklingError, zipfile.BadZipFile, ValueError, RuntimeError: When the archive is damaged, or asks for
            more than tensors.
    """
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("a TorchScript archive has one data.pkl")
        root = _Unpickler(archive, pickles[0].removesuffix("/data.pkl")).load()
    return dict(_tensors(root, ""))


class _Unpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, folder: str):
        super().__init__(io.BytesIO(archive.read(f"{folder}/data.pkl")))
        self._archive, self._folder = archive, folder
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str):
        if module.split(".")[0] == "__torch__":
            return ScriptObject
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no weights need")
        return _KNOWN[module, name]

    def persistent_load(self, saved) -> Tensor:
        _, dtype, key, _, count = saved
        if key not in self._storages:
            data = self._archive.read(f"{self._folder}/data/{key}")
            if len(data) != count * dtype.itemsize:
                raise ValueError(f"tensor storage {key} has {len(data)} bytes instead of {count * dtype.itemsize}")
            self._storages[key] = (
                torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
            )
        return self._storages[key]


def _rebuild_tensor(storage: Tensor, offset: int, size: tuple, stride: tuple, *_) -> Tensor:
    return storage.as_strided(size, stride, offset)  # torch refuses what lies outside of the storage


_KNOWN = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch.jit._pickle", "build_boollist"): list,
    ("torch.jit._pickle", "build_doublelist"): list,
    ("torch.jit._pickle", "build_intlist"): list,
    ("torch.jit._pickle", "build_tensorlist"): list,
    ("torch.jit._pickle", "restore_type_tag"): lambda value, _: value,
}


def _tensors(value: object, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, ScriptObject):
        for part, inner in vars(value).items():
            yield from _tensors(inner, f"{name}.{part}" if name else part)
