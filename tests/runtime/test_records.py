"""Records of strangers: fields and types are checked before they are used."""

from dataclasses import dataclass

import pytest

from runtime.errors import InputError
from runtime.records import check_fields, from_record, parse_json


@dataclass(frozen=True, kw_only=True)
class Sizes:
    name: str
    widths: tuple[int, ...] = (1,)
    size: int | tuple[int, int] = 3
    rate: float = 0.5
    note: str | None = None
    wide: bool = False

    def __post_init__(self) -> None:
        if self.rate > 1:
            raise InputError("rate must be at most 1")


@pytest.mark.parametrize(
    "record",
    [
        {"name": "a"},
        {"name": "a", "widths": [1, 2], "size": [3, 4], "rate": 1, "note": "x", "wide": True},
        {"name": "", "widths": [], "note": None},
    ],
)
def test_what_fits_becomes_the_dataclass(record):
    found = from_record(Sizes, record, "a.json")
    assert found == Sizes(**{name: tuple(v) if isinstance(v, list) else v for name, v in record.items()})


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ([], "a.json: expected an object, found list"),
        (None, "a.json: expected an object, found NoneType"),
        ({}, "a.json: name is missing"),
        ({"name": 3}, "name is 3, expected text"),
        ({"name": "a", "nmae": 1, "b": 2}, "a.json has unknown fields: b, nmae"),
        ({"name": "a", "widths": 3}, "widths is 3, expected a list, each a whole number"),
        ({"name": "a", "widths": [1, "2"]}, "expected a list, each a whole number"),
        ({"name": "a", "widths": [True]}, "expected a list, each a whole number"),
        ({"name": "a", "size": [1, 2, 3]}, "expected a whole number or a list"),
        ({"name": "a", "size": 2.0}, "size is 2.0"),
        ({"name": "a", "rate": "0.5"}, "rate is '0.5', expected a number"),
        ({"name": "a", "rate": 10**400}, "expected a number"),
        ({"name": "a", "rate": None}, "rate is None, expected a number"),
        ({"name": "a", "rate": 2.0}, "a.json: rate must be at most 1"),
        ({"name": "a", "note": 1}, "note is 1, expected text or null"),
        ({"name": "a", "wide": 1}, "wide is 1, expected true or false"),
        ({"name": "a" * 10_000, "rate": "b" * 10_000}, "rate is 'bbb"),
    ],
)
def test_what_does_not_fit_is_named(record, words):
    with pytest.raises(InputError) as refused:
        from_record(Sizes, record, "a.json")
    assert words in str(refused.value) and len(str(refused.value)) < 300


def test_other_fields_may_be_there_and_absent_ones_only_where_they_are_not_needed():
    check_fields({"a": 1, "b": None}, {"a": int}, "a.json")
    check_fields({}, {"a": int}, "a.json", needed=False)
    with pytest.raises(InputError, match="a is missing"):
        check_fields({}, {"a": int}, "a.json")
    with pytest.raises(InputError, match="a is 1.5, expected a whole number"):
        check_fields({"a": 1.5}, {"a": int}, "a.json", needed=False)


def test_json_is_parsed_or_refused():
    assert parse_json(b'{"a": [1, null]}', "a.json") == {"a": [1, None]}
    for text in ("{", "[" * 100_000, "1" * 100_000, b"\xff", ""):
        with pytest.raises(InputError, match="a.json: not readable as JSON"):
            parse_json(text, "a.json")
