"""The record that every evaluation writes: rows of numbers, each with interval, count, features and controls beside
it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from runtime.records import check_fields, from_record
from runtime.run import command_line, is_main, machine, now, read_json, versions, write_json


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number.

    Attributes:
        metric: "FD-shapes", "PSNR", …; FVD, KVD and IS only for I3D and C3D features.
        subject: What was measured: generated, reconstructed, predicted, or a control: real (other real clips), frozen
            (first frame repeated), shuffled (frames in random order), untrained (the untrained generator), repeat,
            blank.
        value, low, high: The number and its 95 % interval, in the metric's unit; None where it was not measured (see
            `note`).
        n: Clips.
        method: Of the interval.
        features: Name and hash of the feature network, or "".
        note: Words that belong to the number.
        sources: Files of kept features that it can be computed from again; in a results file, as seen from its folder.
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


def row_from(estimate, *, metric: str, subject: str, features: str = "", note: str = "", of: Sequence = ()) -> Row:
    """A row from an `Estimate` of the feature sets `of`, in the metric's order."""
    low, high = (None if not math.isfinite(v) else v for v in (estimate.low, estimate.high))
    return Row(
        metric=metric,
        subject=subject,
        value=estimate.value,
        low=low,
        high=high,
        n=estimate.n,
        method=estimate.method,
        features=features,
        note=note,
        sources=tuple(str(found.path) for found in of) if all(found.path for found in of) else (),
    )


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
            "machine": machine(),
            "versions": versions(),
            **facts,
            "rows": [asdict(replace(row, sources=names)) for row, names in zip(rows, seen, strict=True)],
        },
        point="results",
    )


def read_results(path: str | Path) -> tuple[dict, list[Row]]:
    """(facts, rows) of one evaluation."""
    record = read_json(path)
    check_fields(record, {"kind": str, "command": str, "created": str, "rows": list}, path)
    rows = [from_record(Row, row, f"{path}, row {number}") for number, row in enumerate(record.pop("rows"))]
    return record, rows


def format_number(value: float | None) -> str:
    """Four significant digits, or a dash."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def table(rows: list[Row]) -> str:
    """Rows as an aligned text table."""
    cells = [["metric", "of", "value", "95 % interval", "clips", "features"]]
    for row in rows:
        interval = "–" if row.low is None else f"{format_number(row.low)} … {format_number(row.high)}"
        words = row.features + (f"  ({row.note})" if row.note else "")
        cells.append([row.metric, row.subject, format_number(row.value), interval, str(row.n), words])
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )
