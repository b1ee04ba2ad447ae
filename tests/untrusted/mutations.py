"""Ways to damage a file, each taking a `random.Random`, so that a seed or hypothesis can drive it."""

from __future__ import annotations

import contextlib
import json
import random
import sys
import tempfile
from pathlib import Path

import numpy as np

NUMBERS = (0, 1, 2, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63 - 1, 2**63, 2**64 - 1)
VALUES = (
    *(None, True, False, -1, 0, 1, 3, 10**9, 2**63, 10**30, -(2**63), 0.5, -0.0, 1e308, 1e400, float("nan"), "", "1"),
    *(
        10**400,
        [],
        {},
        [[]],
        {"": {}},
        [None],
        "../../etc/passwd",
        "/etc/passwd",
        "a\0b",
        "\ud800",
        "ü漢",
        "x" * 5000,
        "{",
        "[1e999]",
    ),
)

# What h5py raises for a mutation that it cannot write, or when an earlier one is in its way.
NOT_WRITTEN = (OSError, ValueError, TypeError, KeyError, OverflowError, RuntimeError, AttributeError)


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, overwrite, cut, splice or repeat, mostly a few bytes and mostly near the beginning."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not out:
            break
        reach = len(out) if rng.random() < 0.5 else min(len(out), 4096)
        at, length = rng.randrange(reach), rng.choice((1, 2, 4, 8, 64, 1024))
        action = rng.choice(
            ("bit", "bit", "byte", "number", "number", "zeros", "cut", "delete", "splice", "repeat", "swap")
        )
        if action == "bit":
            out[at] ^= 1 << rng.randrange(8)
        elif action == "byte":
            out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif action == "number":
            width = rng.choice((2, 4, 8))
            number = rng.choice(NUMBERS) % 256**width
            out[at : at + width] = number.to_bytes(width, rng.choice(("little", "big")))
        elif action == "zeros":
            out[at : at + length] = bytes(len(out[at : at + length]))
        elif action == "cut":
            del out[at:]
        elif action == "delete":
            del out[at : at + length]
        elif action == "splice":
            start = rng.randrange(len(out))
            out[at:at] = out[start : start + length]
        elif action == "repeat":
            out[at:at] = out[at : at + length] * rng.choice((2, 16))
        else:
            start = rng.randrange(len(out))
            out[at : at + length] = out[start : start + length]
    return bytes(out)


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Change a value, a key or the shape of a JSON text; sometimes its bytes, or all of it."""
    wild = rng.random()
    if wild < 0.1:
        return mutate_bytes(data, rng)
    if wild < 0.15:
        whole = (
            "[" * 100_000,
            '{"a":' * 50_000,
            "9" * 1_000_000,
            '{"a": 1' + "0" * 5000 + "}",
            "",
            "null",
            "\ufeff{}",
            "{} {}",
        )
        return rng.choice(whole).encode()
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):  # broken by a mutation before
        return mutate_bytes(data, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        value = _mutate_value(value, rng)
    return json.dumps(value).encode()


def _mutate_value(value: object, rng: random.Random) -> object:
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key, action = rng.choice(list(value)), rng.random()
        if action < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if action < 0.15:
            return {(f"{k}_" if k == key else k): v for k, v in value.items()}
        if action < 0.2:
            return value | {key: value[rng.choice(list(value))]}
        return value | {key: _mutate_value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at, action = rng.randrange(len(value)), rng.random()
        if action < 0.2:
            return value[:at] + value[at + 1 :]
        if action < 0.3:
            return value * rng.choice((2, 1000))
        return [*value[:at], _mutate_value(value[at], rng), *value[at + 1 :]]
    if isinstance(value, str) and value[:1] in ("{", "[") and rng.random() < 0.6:  # JSON inside JSON
        return mutate_json(value.encode(), rng).decode(errors="replace")
    if isinstance(value, int | float) and abs(value) <= sys.float_info.max and rng.random() < 0.4:
        return rng.choice((value + 1, value - 1, -value, value * 10**6, float(value), str(value), [value]))
    return rng.choice(VALUES)


def mutate_lines(data: bytes, rng: random.Random) -> bytes:
    """Change, drop, double or add lines of a text, or change its bytes."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    lines = data.split(b"\n")
    for _ in range(rng.choice((1, 3))):
        at = rng.randrange(len(lines))
        odd = (b"", b" ", b"..", b"/", b"../../etc/passwd 1", b"\x00", b"\xff\xfe", b"a" * 10_000, b"{", b"null", b"[]")
        lines[at : at + 1] = rng.choice(
            (
                [],
                [lines[at]] * 2,
                [rng.choice(odd)],
                [mutate_json(lines[at], rng)] if lines[at][:1] == b"{" else [rng.choice(odd)],
            )
        )
        lines = lines or [b""]
    return b"\n".join(lines)


def mutate_hdf5(data: bytes, rng: random.Random) -> bytes:
    """Change attributes, datasets and links of an HDF5 file as a program would; sometimes its bytes."""
    import h5py

    if rng.random() < 0.4:
        return mutate_bytes(data, rng)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.h5"
        path.write_bytes(data)
        with h5py.File(path, "r+") as file:
            for _ in range(rng.choice((1, 1, 2))):
                with contextlib.suppress(*NOT_WRITTEN):
                    _mutate_group(file, rng)
        return path.read_bytes()


def _mutate_group(file, rng: random.Random) -> None:
    import h5py

    if rng.random() < 0.4:
        name = rng.choice(list(file.attrs))
        odd = (
            h5py.Empty("f4"),
            b"\xff",
            np.zeros(3),
            np.array([b"a", b"b"]),
            np.float64("nan"),
            np.uint64(2**64 - 1),
            file.ref,
        )
        file.attrs[name] = rng.choice(
            (rng.choice(odd), rng.choice([v for v in VALUES if isinstance(v, str | int | float)]))
        )
        if isinstance(file.attrs.get(name), str) and rng.random() < 0.2:
            del file.attrs[name]
        return
    name = rng.choice(list(file))
    old = file[name][()] if file[name].size < 10_000 else np.zeros(3)
    shape = tuple(np.shape(old))
    del file[name]
    action = rng.choice(
        ("absent", "dtype", "shape", "huge", "external", "raw", "virtual", "soft", "group", "gzip", "text", "values")
    )
    if action == "dtype":
        file.create_dataset(
            name, shape, rng.choice(("f8", "f2", "i4", "i8", "u1", "c8", "S3", "?", h5py.string_dtype(), [("a", "f4")]))
        )
    elif action == "shape":
        file.create_dataset(
            name, rng.choice(((), (0,), shape[:1], (*shape, 1), shape[::-1], tuple(n + 1 for n in shape))), old.dtype
        )
    elif action == "huge":
        size = rng.choice((10**12, 2**40, 10**9))
        where = rng.randrange(max(1, len(shape)))
        wide = tuple(size if i == where else n for i, n in enumerate(shape or (1,)))
        file.create_dataset(name, wide, old.dtype, chunks=tuple(min(n, 64) for n in wide))
    elif action == "external":
        file[name] = h5py.ExternalLink(rng.choice(("/etc/passwd", "b.h5", str(file.filename))), f"/{name}")
    elif action == "raw":
        file.create_dataset(name, shape, old.dtype, external=[("/etc/passwd", 0, max(1, old.nbytes))])
    elif action == "virtual":
        layout = h5py.VirtualLayout(shape, old.dtype)
        layout[...] = h5py.VirtualSource("b.h5", name, shape)
        file.create_virtual_dataset(name, layout)
    elif action == "soft":
        file[name] = h5py.SoftLink(rng.choice(("/mean", "/nowhere", f"/{name}", "/")))
    elif action == "group":
        file.create_group(name)
    elif action == "gzip":
        file.create_dataset(name, data=old, chunks=True, compression="gzip", shuffle=rng.random() < 0.5)
    elif action == "text":
        file.create_dataset(name, data=np.array([rng.choice((b"", b"\xff", b"../../x"))] * (shape[0] if shape else 1)))
    elif action == "values":
        filled = np.full(shape, rng.choice((0, 1, 7))).astype(old.dtype) if rng.random() < 0.5 else old * 0 - 1
        file.create_dataset(name, data=filled)
