"""Records in files of JSON: written whole, and out of files that anybody may have written; their fields and types are
checked before they are used."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path

from runtime.errors import InputError
from runtime.files import append_to, open_end, replacing

_NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    tuple: "a list",
    dict: "an object",
    types.NoneType: "null",
}


def parse_json(text: str | bytes, source: object) -> object:
    """The value of a JSON text; InputError when it is none, or one that is nested or long beyond reason."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source}: not readable as JSON ({error})") from error


def read_json(path: str | Path) -> dict:
    """Read a JSON object; InputError when absent or not one."""
    try:
        text = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: not readable as JSON ({error.strerror})") from error
    value = parse_json(text, path)
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def as_text(value: object) -> str:
    """JSON for people to read."""
    return json.dumps(value, indent=2) + "\n"


def plain(value: object) -> object:
    """`value` as it would come back from a file: tuples as lists, paths as text."""
    return json.loads(json.dumps(value, default=str))


def write_json(path: str | Path, value: object, point: str = "manifest") -> None:
    """Write JSON, replaced at once: a reader sees the old file or the new one. `point` names its fault points."""
    with replacing(path, point) as partial:
        partial.write_text(as_text(value))


def as_line(value: object) -> bytes:
    """A line of a file of JSON lines."""
    return (json.dumps(value) + "\n").encode()


def append_line(path: str | Path, value: object) -> None:
    """Append one JSON line."""
    descriptor = open_end(path)
    try:
        append_to(descriptor, path, as_line(value), "log.append")
    finally:
        os.close(descriptor)


def read_lines(path: str | Path, wanted: Mapping[str, object]) -> list[dict]:
    """The objects of a file of JSON lines; none without the file. Half a line at the end, as a kill leaves it, is left
    out.

    Args:
        wanted: Fields that every line must have, with their types (see `check_fields`).

    Raises:
        InputError: Names the first line that is damaged.
    """
    path = Path(path)
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if line.endswith(b"\n"):
            source = f"{path}, line {number}"
            found.append(parse_json(line, source))
            check_fields(found[-1], wanted, source)
    return found


def check_fields(record: object, wanted: Mapping[str, object], source: object, *, needed: bool = True) -> None:
    """Check fields of a JSON object; others may be there too.

    Args:
        record: What was read.
        wanted: Type by field: `str`, `int`, `float` (whole numbers will do), `bool`, `dict`, `list[…]`,
            `tuple[…, ...]`, unions of these.
        source: File, for the message.
        needed: Whether an absent field is an error.

    Raises:
        InputError: Names the first field that is absent or of another type.
    """
    if not isinstance(record, dict):
        raise InputError(f"{source}: expected an object, found {type(record).__name__}")
    for name, kind in wanted.items():
        if name not in record:
            if needed:
                raise InputError(f"{source}: {name} is missing; the file is damaged, or of another program")
        elif not _fits(record[name], kind):
            raise InputError(f"{source}: {name} is {repr(record[name])[:60]}, expected {_words(kind)}")


def from_record(cls: type, record: object, source: object):
    """Make a dataclass from a JSON object with its fields; those with defaults may be absent.

    Raises:
        InputError: On a field that is absent, unknown or of another type, or whatever the dataclass itself refuses.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    needed = [name for name, each in fields.items() if each.default is each.default_factory is dataclasses.MISSING]
    check_fields(record, {name: hints[name] for name in needed}, source)
    check_fields(record, {name: hints[name] for name in fields}, source, needed=False)
    unknown = sorted(set(record) - set(fields))
    if unknown:
        raise InputError(f"{source} has unknown fields: {', '.join(unknown)[:200]}")
    try:
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in record.items()})
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def is_number(value: object) -> bool:
    """Whether a value is a number, and one that a float can hold: JSON has whole numbers of thousands of digits."""
    if isinstance(value, bool):
        return False
    return isinstance(value, float) or (isinstance(value, int) and abs(value) <= sys.float_info.max)


def _fits(value: object, kind: object) -> bool:
    if isinstance(kind, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(kind))
    origin, inside = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin in (list, tuple):
        of = [part for part in inside if part is not Ellipsis]
        if not isinstance(value, list | tuple):
            return False
        if len(of) > 1:  # tuple[int, int]
            return len(value) == len(of) and all(map(_fits, value, of))
        return all(_fits(part, of[0]) for part in value) if of else True
    if origin in (int, float):
        return is_number(value) and (origin is float or isinstance(value, int))
    return isinstance(value, origin)


def _words(kind: object) -> str:
    if isinstance(kind, types.UnionType):
        return " or ".join(_words(option) for option in typing.get_args(kind))
    origin = typing.get_origin(kind) or kind
    inside = [part for part in typing.get_args(kind) if part is not Ellipsis]
    return _NAMES[origin] + (f", each {_words(inside[0])}" if inside else "")
