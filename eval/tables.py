"""Tables in the paper's layout, the published rows beside what was measured here.

`python -m eval.tables --results runs/latte/eval/fvd-….json,runs/vae/eval/reconstruction-….json --out tables.md`. Every
row says where it comes from; measured numbers carry interval and number of clips, and below each table stands how their
protocol differs. A number enters a column only under its own name: a distance on other features than I3D's is no FVD.
What fits no column is listed in a table of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.published import TABLES, PublishedTable
from eval.table_formats import FORMATS, MEASURED, PUBLISHED, Cell, Line, Table
from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError
from runtime.output import check_file

SUFFIXES = {".md": "markdown", ".tex": "latex", ".csv": "csv", ".json": "json"}
KINDS = ("fvd", "reconstruction")


@dataclass(frozen=True, kw_only=True)
class TablesConfig(CommonFlags):
    """Flags of `python -m eval.tables`."""

    results: tuple[str, ...] = flag((), "results files of eval.fvd and eval.reconstruction, comma-separated")
    names: tuple[str, ...] = flag((), "what to call the tokenizer of each file; default: its folder's name")
    tables: tuple[str, ...] = flag(("generation", "reconstruction"), "which tables", choices=tuple(TABLES))
    format: str | None = flag(None, "default: by the ending of --out, else markdown", choices=tuple(SUFFIXES.values()))
    out: str | None = flag(None, "file to write; default: print", check=check_file)

    def __post_init__(self) -> None:
        if self.names and len(self.names) != len(self.results):
            raise InputError(f"--names gives {len(self.names)} names to {len(self.results)} files of --results")


@dataclass(frozen=True)
class Measured:
    """One results file; `given` is the name that the command line gives to its tokenizer, or ""."""

    given: str
    source: str
    facts: dict
    rows: list

    @property
    def name(self) -> str:
        """The given name, else that of the tokenizer's or generator's folder."""
        return self.given or Path(self.facts.get("tokenizer") or self.facts.get("run") or self.source).name


def tables(config: TablesConfig) -> str:
    """Write or print the tables; returns the text."""
    from runtime.files import replacing

    measured = read_measured(config)
    found = [fill(TABLES[name], measured) for name in config.tables]
    rest = others(measured, config.tables)
    made = [*found, *([rest] if rest.lines else [])]
    chosen = config.format or SUFFIXES.get(Path(config.out or "").suffix, "markdown")
    text = FORMATS[chosen](made)
    if config.out is None:
        print(text, end="")
        return text
    out = Path(config.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out, "tables") as partial:
        partial.write_text(text, "utf-8")
    print(f"eval.tables: wrote {out}")
    return text


def read_measured(config: TablesConfig) -> list[Measured]:
    """The results files, in order; InputError on one of another kind."""
    from eval.results import read_results
    from runtime.records import check_fields

    found = []
    for number, path in enumerate(config.results):
        facts, rows = read_results(path)
        if facts["kind"] not in KINDS:
            raise InputError(f"{path}: results of {facts['kind']}, tables are made of {' and '.join(KINDS)}")
        check_fields(facts, {"data": str, "decoder_hash": str}, path)
        check_fields(facts, {"differences": list[str], "size": int, "run": str, "tokenizer": str}, path, needed=False)
        found.append(Measured(config.names[number] if config.names else "", str(path), facts, rows))
    return found


def fill(published: PublishedTable, measured: Sequence[Measured]) -> Table:
    """A published table and, below its rows, one for every tokenizer that has a number for it.

    Results of one tokenizer (of equal decoder, and not given different names) share a row, unless two of them have the
    same number to give.
    """
    titles = tuple(column.title for column in published.columns)
    lines = [
        Line(
            name,
            PUBLISHED,
            published.source,
            {c.title: Cell(v, digits=c.digits) for c, v in zip(published.columns, values, strict=True)},
        )
        for name, values in published.lines
    ]
    ours: dict[tuple[str, str], list[Line]] = {}
    for found in measured:
        cells = {title: cell_of(row) for title, row in matching(published, found).items()}
        if not cells:
            continue
        group = ours.setdefault((found.given, found.facts["decoder_hash"]), [])
        place = next((i for i, line in enumerate(group) if not line.cells.keys() & cells.keys()), None)
        before = group.pop(place) if place is not None else Line(found.name, MEASURED, "", {})
        source = ", ".join(part for part in (before.source, found.source) if part)
        notes = tuple(dict.fromkeys((*before.notes, *found.facts.get("differences", ()))))
        group.append(Line(before.name, MEASURED, source, before.cells | cells, notes))
    lines += [line for group in ours.values() for line in group]
    better = tuple(column.better for column in published.columns)
    return Table(published.name, published.title, published.protocol, titles, better, lines)


def matching(published: PublishedTable, found: Measured) -> dict:
    """The rows of a results file that belong into columns of a table, by column title."""
    return {
        column.title: row
        for column in published.columns
        if column.metric and column.data == found.facts["data"] and column.size in (0, found.facts.get("size"))
        for row in found.rows
        if (row.metric, row.subject) == (column.metric, column.subject) and row.value is not None
    }


def cell_of(row) -> Cell:
    """A number with its interval."""
    return Cell(row.value, row.low, row.high, row.n)


def others(measured: Sequence[Measured], names: Sequence[str]) -> Table:
    """Everything that was measured and stands in no column of these tables, in one long table."""
    columns = ("data", "metric", "of", "value", "features")
    lines = []
    for found in measured:
        used = {row for name in names for row in matching(TABLES[name], found).values()}
        for row in found.rows:
            if row.value is None or row in used:
                continue
            cells = {"data": Cell(found.facts["data"]), "metric": Cell(row.metric), "of": Cell(row.subject)}
            cells |= {"value": cell_of(row), "features": Cell(row.features)}
            notes = tuple(found.facts.get("differences", ()))
            lines.append(Line(found.name, MEASURED, found.source, cells, notes))
    title = "Measured here, without a published number beside it"
    return Table("others", title, "", columns, ("",) * len(columns), lines)


if __name__ == "__main__":
    run_command(
        tables,
        TablesConfig,
        example="python -m eval.tables --results runs/latte/eval/fvd-i3d-step00250000-n2048.json --out tables.md",
    )
