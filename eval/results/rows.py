"""The record that every evaluation writes: rows of numbers, each with interval, count, features and controls beside
it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from eval.protocols.presets import PAPER
from runtime.command import printable
from runtime.records import check_fields, from_record, read_json, write_json
from runtime.run import command_line, git_commit, is_main, machine, now, versions


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number.

    Attributes:
        metric: "FD-shapes", "PSNR", …; FVD, KVD and IS only for I3D and C3D features.
        subject: What was measured: generated, reconstructed, predicted, or a control: real (other real clips), frozen
            (first frame repeated), shuffled (frames in random order), untrained (the untrained generator), repeat,
            blank and grey (flat pictures).
        value, low, high: The number and its 95 % interval, in the metric's unit; None where it was not measured (see
            `note`).
        n: Clips.
        method: Of the interval.
        features: Name and hash of the feature network, or "".
        note: Words that belong to the number.
        sources: Files of kept features that it can be computed from again; in a results file, as seen from its folder.
        protocol: Name and hash of the protocol that it was made by, or "" (older files, and numbers without one).
    """

    metric: str
    subject: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    method: str = ""
    features: str = ""
    note: str = ""
    sources: tuple[str, ...] = ()
    protocol: str = ""

    @property
    def other_protocol(self) -> str:
        """The protocol where it is not the paper's, else ""."""
        return "" if self.protocol.partition("@")[0] in ("", PAPER.name) else self.protocol

    @property
    def remarks(self) -> str:
        """What belongs to the number: a protocol other than the paper's, and the note."""
        return " · ".join(filter(None, (self.other_protocol and f"protocol {self.other_protocol}", self.note)))


def row_from(estimate, *, of: Sequence = (), **about) -> Row:
    """A row from an `Estimate` of the feature sets `of`, in the metric's order; `about` are the other fields."""
    ends = {"low": estimate.low, "high": estimate.high}
    ends = {name: value if math.isfinite(value) else None for name, value in ends.items()}
    files = tuple(str(found.path) for found in of) if all(found.path for found in of) else ()
    return Row(**asdict(estimate) | ends, sources=files, **about)


def write_results(path: str | Path, *, kind: str, rows: list[Row], **facts) -> None:
    """Write one evaluation as JSON, replaced at once, on the main process; adds command, time, machine and versions."""
    if not is_main():
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    seen = [tuple(os.path.relpath(source, path.parent) for source in row.sources) for row in rows]
    write_json(
        path,
        {
            "kind": kind,
            "command": command_line(),
            "created": now(),
            "git_commit": git_commit(),
            "machine": machine(),
            "versions": versions(),
            **facts,
            "rows": [asdict(replace(row, sources=names)) for row, names in zip(rows, seen, strict=True)],
        },
        point="results",
    )


# Facts that readers of all kinds of results rely on, where they are there.
_FACTS = {"differences": list[str], "protocols": dict, "guidance_scales": list[float], "samples_of": dict}


def read_results(path: str | Path) -> tuple[dict, list[Row]]:
    """(facts, rows) of one evaluation."""
    record = read_json(path)
    check_fields(record, {"kind": str, "command": str, "created": str, "rows": list}, path)
    check_fields(record, _FACTS, path, needed=False)
    for name, protocol in record.get("protocols", {}).items():
        check_fields(protocol, {"differences": list[str]}, f"{path}, protocol {name}")
    if record["kind"] == "comparison":  # what eval.difference wrote when it had that name
        record["kind"] = "difference"
    rows = [from_record(Row, row, f"{path}, row {number}") for number, row in enumerate(record.pop("rows"))]
    return record, rows


def format_number(value: float | None) -> str:
    """Four significant digits, or a dash."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


HEADINGS = ("metric", "of", "value", "95 % interval", "clips", "features, notes")
ARROWS = {"lower": " ↓", "higher": " ↑", "": ""}


def cells(row: Row) -> tuple[str, ...]:
    """A row as texts, one below each of `HEADINGS`."""
    interval = "–" if row.low is None else f"{format_number(row.low)} … {format_number(row.high)}"
    words = " · ".join(filter(None, (row.features, row.remarks)))
    return row.metric, row.subject, format_number(row.value), interval, str(row.n or "–"), words


def table(rows: list[Row]) -> str:
    """Rows as an aligned text table."""
    lines = [HEADINGS, *([printable(cell) for cell in cells(row)] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
