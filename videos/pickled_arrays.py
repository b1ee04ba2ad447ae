"""Read a pickle of arrays, texts and numbers in lists and dictionaries, as some data sets are published, and nothing
else.

A pickle is a program. This one is read twice. First its instructions are listed without being run: only those that such
a file needs are let through, and none that would take more memory than the file is long. Then it runs with stand-ins
for the few NumPy names that arrays are pickled by: they look at nothing but a plain numeric type, a shape and bytes of
the right number. No class is imported, no code of the file's choice is called.
"""

from __future__ import annotations

import math
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from runtime.errors import InputError

# Instructions that build values; those that reach for objects outside the file (PERSID, EXT1, NEXT_BUFFER, …) or make
# instances (INST, OBJ, NEWOBJ) are not among them.
_VALUES = (
    "MARK STOP POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT "
    "BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES "
    "SHORT_BINBYTES BINBYTES8 BYTEARRAY8 TUPLE EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 LIST EMPTY_LIST APPEND APPENDS "
    "DICT EMPTY_DICT SETITEM SETITEMS GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE PROTO FRAME GLOBAL "
    "STACK_GLOBAL REDUCE BUILD "
)
_ALLOWED = frozenset(_VALUES.split())
_MAX_DIGITS = 4000  # of a whole number; longer ones take quadratic time
_MAX_DEPTH = 100
_NUMERIC = frozenset(
    f"{kind}{size}" for kind, sizes in (("f", "248"), ("iu", "1248")) for kind in kind for size in sizes
)
_TYPES = _NUMERIC | {"b1"}
_DAMAGE = (pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError, AttributeError, OverflowError)
_DAMAGE += (MemoryError, RecursionError, AssertionError)


class _Type:
    """Stands in for `numpy.dtype`: a plain number or truth value, in either byte order."""

    def __init__(self, code: str, align: bool = False, copy: bool = False):
        if not isinstance(code, str) or code.lstrip("<>|=") not in _TYPES:
            raise pickle.UnpicklingError(f"it holds an array of type {str(code)[:20]!r}, not of plain numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        # (version, byte order, subarray, names, fields, size, alignment, flags[, metadata])
        if not isinstance(state, tuple) or len(state) < 8 or any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("it holds an array of a composed type, not of plain numbers")
        if state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("it holds an array of no byte order")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands in for an array under construction: `value` is there once its bytes are."""

    value: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, fortran, data = state
        self.value = _array(data, kind, shape, "F" if fortran is True else "C")


def _array(data: object, kind: object, shape: object, order: object) -> np.ndarray:
    """The array of some bytes; UnpicklingError unless they are as many as type and shape need."""
    if not isinstance(kind, _Type) or not isinstance(data, bytes | bytearray) or order not in ("C", "F"):
        raise pickle.UnpicklingError("it holds an array of other things than numbers")
    if not isinstance(shape, tuple) or len(shape) > 32 or not all(type(n) is int and 0 <= n < 2**48 for n in shape):
        raise pickle.UnpicklingError("it holds an array of no shape")
    if math.prod(shape) * kind.dtype.itemsize != len(data):
        raise pickle.UnpicklingError(f"it holds an array of shape {list(shape)} and {len(data)} bytes")
    return np.frombuffer(data, kind.dtype).reshape(shape, order=order)


def _reconstruct(subtype: object, shape: object, code: object) -> _Array:
    return _Array()  # the state, which comes next, says everything


def _from_buffer(data: object, kind: object, shape: object, order: object) -> _Array:
    made = _Array()
    made.value = _array(data, kind, shape, order)
    return made


def _scalar(kind: object, data: object) -> object:
    return _array(data, kind, (), "C").item()


def _encode(text: object, encoding: object) -> bytes:
    """Bytes, as protocols below 3 write them."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("it asks for another encoding than latin1")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """No bytes, as protocols below 3 write them."""
    return b""


class _Name:
    """`numpy.ndarray` itself, as an argument; it cannot be called."""


_CORES = ("numpy.core", "numpy._core")
_KNOWN: dict[tuple[str, str], Callable | type] = {
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Name,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    **{(f"{core}.multiarray", "_reconstruct"): _reconstruct for core in _CORES},
    **{(f"{core}.multiarray", "scalar"): _scalar for core in _CORES},
    **{(f"{core}.numeric", "_frombuffer"): _from_buffer for core in _CORES},
}


class _Called:
    """A stand-in as a file sees it: it can be called, but not be given attributes, which would outlast the file."""

    def __init__(self, made: Callable):
        self._made = made

    def __call__(self, *arguments: object) -> object:
        return self._made(*arguments)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it changes what arrays are made by")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no arrays need")
        return _Called(_KNOWN[module, name])


class _Bounded:
    """A file that is never asked for more than it holds: what is asked for is allocated first."""

    def __init__(self, file: BinaryIO, size: int):
        self._file, self._size = file, size

    def read(self, count: int = -1) -> bytes:
        """As a file's; EOFError where so much is not left."""
        left = self._size - self._file.tell()
        if count > left:
            raise EOFError(f"it ends {count - left} bytes early")
        return self._file.read(left if count < 0 else count)

    def readline(self) -> bytes:
        """As a file's."""
        return self._file.readline(2**20)

    def tell(self) -> int:
        """As a file's."""
        return self._file.tell()


def read_pickled_arrays(path: str | Path) -> object:
    """The value of a pickle: dictionaries, lists, tuples, numpy arrays of numbers, texts, bytes, numbers, None.

    Raises:
        InputError: In one line, when the file is absent, damaged, or holds or asks for anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            bounded = _Bounded(file, size)
            _check_instructions(bounded)
            file.seek(0)
            value = _Unpickler(bounded, encoding="latin1").load()
        return _plain(value, {}, 0)
    except _DAMAGE as error:
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path}: not a pickle of arrays, texts and numbers ({words})") from error


def _check_instructions(file: _Bounded) -> None:
    """UnpicklingError on an instruction that arrays do not need, or that would take memory out of nothing."""
    for count, (instruction, argument, _) in enumerate(pickletools.genops(file)):
        name = instruction.name
        if name not in _ALLOWED:
            raise pickle.UnpicklingError(f"it holds the instruction {name}, which no arrays need")
        # The table of remembered values grows to twice the largest number in it.
        if name.endswith("PUT") and not 0 <= argument <= count:
            raise pickle.UnpicklingError(f"it remembers value {argument} after {count} instructions")
        if isinstance(argument, int) and not isinstance(argument, bool) and argument.bit_length() > 8 * _MAX_DIGITS:
            raise pickle.UnpicklingError("it holds a whole number of thousands of digits")


def _plain(value: object, seen: dict[int, object], depth: int) -> object:
    """The value with arrays in the places of their stand-ins; what is there many times is looked at once."""
    if id(value) in seen:
        if seen[id(value)] is _PENDING:
            raise pickle.UnpicklingError("it holds itself")
        return seen[id(value)]
    if depth > _MAX_DEPTH:
        raise pickle.UnpicklingError(f"it is nested more than {_MAX_DEPTH} deep")
    if value is None or type(value) in (bool, int, float, str, bytes, bytearray):
        return value
    seen[id(value)] = _PENDING
    if type(value) is dict:
        if not all(type(key) in (str, int, bytes) for key in value):
            raise pickle.UnpicklingError("it holds a dictionary whose keys are no texts or numbers")
        made: object = {key: _plain(part, seen, depth + 1) for key, part in value.items()}
    elif type(value) in (list, tuple):
        made = type(value)(_plain(part, seen, depth + 1) for part in value)
    elif isinstance(value, _Array) and value.value is not None:
        made = value.value
    else:
        raise pickle.UnpicklingError("it holds something else than arrays, texts and numbers")
    seen[id(value)] = made
    return made


_PENDING = object()
