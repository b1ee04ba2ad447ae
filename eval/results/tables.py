"""Tables of published and measured numbers: which number stands in which row and column, and how that is laid out as
Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from eval.entries import RANDOM, said_random
from eval.results.rows import ARROWS, Row, format_number

PUBLISHED, MEASURED = "published", "measured here"
# Kinds of results that tables are made of, and what each must say of itself. Numbers of the first three stand in the
# paper's columns; those of other protocols, and differences, have none.
IN_COLUMNS = ("fvd", "reconstruction", "probe")
KINDS = {kind: {"data": str, "decoder_hash": str} for kind in IN_COLUMNS}
KINDS |= {"protocols": {"data": str, "protocols": dict}, "difference": {"a": str, "b": str}}
KINDS |= {"speed": {"batch_size": int, "num_frames": int, "size": int, "dtype": str, "device": str, "generator": str}}
SPEED = "a tokenizer"  # `Column.subject` of what eval.speed measures, whose rows have a tokenizer's label there


@dataclass(frozen=True)
class Cell:
    """A number with interval and count where it was measured here, with its digits where published; or a text."""

    value: float | str
    low: float | None = None
    high: float | None = None
    n: int = 0
    digits: int | None = None
    better: str = ""

    def __str__(self) -> str:
        """Published numbers as they were published, ours with the interval, metrics with their direction."""
        if isinstance(self.value, str):
            return (self.value or "–") + ARROWS[self.better]
        if self.digits is not None:
            return f"{self.value:.{self.digits}f}"
        interval = "" if self.low is None else f" [{format_number(self.low)}, {format_number(self.high)}]"
        return f"{format_number(self.value)}{interval}"


@dataclass(frozen=True)
class Line:
    """One row of a table: `cells` by column title; `origin` is PUBLISHED or MEASURED; `source` a paper or a file."""

    name: str
    origin: str
    source: str
    cells: dict[str, Cell]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """One column of a table, and what of our results belongs there.

    Attributes:
        title: As printed.
        metric: `Row.metric` of results that fill it; "" for what no results file holds.
        subject: `Row.subject` likewise, or SPEED.
        data: Data set of those results.
        size: Pixels of those results; 0: of any size.
        better: "lower" or "higher", where no metric says so.
        digits: After the decimal point, of published numbers.
    """

    title: str
    metric: str = ""
    subject: str = "generated"
    data: str = ""
    size: int = 0
    better: str = ""
    digits: int = 2

    @property
    def direction(self) -> str:
        """Which way it improves: "lower", "higher", or "" where neither is better."""
        from eval.quantities import better

        return self.better or better(self.metric)


def column_title(metric: str, subject: str) -> str:
    """What stands above a number of ours: the metric, and of what it is unless of generated clips; two subjects of one
    metric never share a title."""
    return " ".join(filter(None, (metric, subject.removeprefix("generated").strip())))


@dataclass(frozen=True)
class Table:
    """A table to print."""

    name: str
    title: str
    protocol: str
    columns: tuple[Column, ...]
    lines: list[Line]
    of: str = "tokenizer"  # what a line is of

    def head(self) -> list[str]:
        """What stands above the columns that `texts` gives."""
        return [self.of, *(column.title + ARROWS[column.direction] for column in self.columns), "clips"]

    def texts(self, line: Line) -> list[str]:
        """The cells of a line, and how many clips its numbers are of."""
        counts = sorted({cell.n for cell in line.cells.values() if cell.n})
        clips = " / ".join(f"{count:,}" for count in counts) or "–"
        return [*(str(line.cells.get(column.title, "–")) for column in self.columns), clips]

    def notes(self) -> list[str]:
        """The notes of all lines, each once."""
        return list(dict.fromkeys(note for line in self.lines for note in line.notes))

    def mark(self, line: Line) -> str:
        """The numbers of a line's notes."""
        notes = self.notes()
        return ",".join(str(notes.index(note) + 1) for note in line.notes)


@dataclass(frozen=True)
class Measured:
    """One results file, or what one of eval.speed holds of one tokenizer; `given` is the name that the command line
    gives to its tokenizer, or ""."""

    given: str
    source: str
    facts: dict
    rows: list[Row]

    @property
    def name(self) -> str:
        """The given name, else that of the tokenizer's or generator's folder; it says where weights are random."""
        name = self.given or Path(self.facts.get("tokenizer") or self.facts.get("run") or self.source).name
        return said_random(name) if self.facts.get("weights") == RANDOM else name

    def in_columns(self, table: Table) -> dict[str, Row]:
        """The rows that belong into columns of a table, by column title."""
        return {
            column.title: row
            for column in table.columns
            for row in self.rows
            if row.metric == column.metric and row.value is not None and self._belongs(row, column)
        }

    def _belongs(self, row: Row, column: Column) -> bool:
        """Whether a row of a column's metric is what the column is of."""
        facts = self.facts
        if column.subject == SPEED or facts["kind"] == "speed":
            return column.subject == SPEED and facts["kind"] == "speed"
        same = column.subject == row.subject and column.data == facts.get("data")
        return same and column.size in (0, facts.get("size")) and facts["kind"] in IN_COLUMNS and not row.other_protocol

    @property
    def differences(self) -> tuple[str, ...]:
        """In words, how its numbers differ from the paper's."""
        facts = self.facts
        if facts["kind"] != "speed":
            return tuple(facts.get("differences", ()))
        shape = f"batch {facts['batch_size']} of {facts['num_frames']}x{facts['size']}x{facts['size']}"
        place = f"{shape}, {facts['dtype']}, generator {facts['generator']}, on {facts['device']}"
        return (f"speeds and memory: {place}; the paper's machine is not named, so only ratios compare",)

    def notes(self, row: Row) -> tuple[str, ...]:
        """How a number that stands in no column differs from the paper's, and what its a and b are."""
        facts = self.facts
        # "generated, latte (guidance 2)" in files whose rows do not name their protocol
        name = (row.protocol or row.subject.removeprefix("generated, ")).partition("@")[0].partition(" (")[0]
        followed = facts.get("protocols", {}).get(name, {}).get("differences", ())
        sides = (f"a: {facts['a']}, b: {facts['b']}",) if facts["kind"] == "difference" else ()
        return (*sides, *self.differences, *(f"{name}: {words}" for words in followed))


def number(row: Row) -> Cell:
    """A measured number with its interval."""
    return Cell(row.value, row.low, row.high, row.n)


def fill(table: Table, measured: Sequence[Measured], known: Mapping[str, dict[str, Cell]] | None = None) -> Table:
    """A published table and, below its lines, one for every tokenizer that has a number for it.

    Results of one tokenizer share a line (those of equal decoder that are not given different names, and speeds of the
    same name), unless two of them have the same number to give.

    Args:
        known: By name, tokenizers that have a line in any case, and the cells that are known of them.
    """
    ours: dict[tuple[str, str], list[Line]] = {}
    for name, cells in (known or {}).items():
        ours[name, ""] = [Line(name, MEASURED, "", cells)]
    for found in measured:
        cells = {title: number(row) for title, row in found.in_columns(table).items()}
        if not cells:
            continue
        group = ours.setdefault(_group(found, ours), [])
        place = next((i for i, line in enumerate(group) if not line.cells.keys() & cells.keys()), None)
        before = group.pop(place) if place is not None else Line(found.name, MEASURED, "", {})
        source = ", ".join(filter(None, (before.source, found.source)))
        notes = tuple(dict.fromkeys((*before.notes, *found.differences)))
        group.append(Line(before.name, MEASURED, source, before.cells | cells, notes))
    return replace(table, lines=[*table.lines, *(line for group in ours.values() for line in group)])


def _group(found: Measured, groups: Mapping[tuple[str, str], list[Line]]) -> tuple[str, str]:
    """Key of the lines that results belong to."""
    if (found.given, "") in groups and found.given:
        return found.given, ""
    if found.facts["kind"] == "speed":
        same = (key for key, lines in groups.items() if any(line.name == found.name for line in lines))
        return next(same, (found.given, found.name))
    return found.given, found.facts["decoder_hash"]


def others(measured: Sequence[Measured], tables: Sequence[Table]) -> Table:
    """Everything that was measured and stands in no column of these tables, in one long table."""
    from eval.quantities import better

    columns = tuple(Column(title) for title in ("data", "metric", "of", "value", "features", "notes"))
    lines = []
    for found in measured:
        used = {row for table in tables for row in found.in_columns(table).values()}
        for row in found.rows:
            if row.value is None or row in used:
                continue
            cells = {"data": Cell(found.facts.get("data", "")), "metric": Cell(row.metric, better=better(row.metric))}
            cells |= {"of": Cell(row.subject), "value": number(row)}
            cells |= {"features": Cell(row.features), "notes": Cell(row.remarks)}
            lines.append(Line(found.name, MEASURED, found.source, cells, found.notes(row)))
    title = "Measured here, without a published number beside it"
    return Table("others", title, "", columns, lines)


def markdown(tables: Sequence[Table]) -> str:
    """Tables with pipes; measured rows are bold, and marked with the numbers of the notes below."""
    parts = []
    for table in tables:
        head = [*table.head(), "from"]
        rows = [head, ["---"] * len(head)]
        for line in table.lines:
            name = f"**{line.name}**" if line.origin == MEASURED else line.name
            mark = f" [{table.mark(line)}]" if line.notes else ""
            origin = f"{line.origin}: {line.source}" if line.origin == PUBLISHED else line.origin
            rows.append([name + mark, *table.texts(line), origin])
        escaped = ([cell.replace("|", "\\|") for cell in row] for row in rows)
        parts.append(f"### {table.title}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in escaped) + "\n")
        parts += [f"\nPublished: {table.protocol}.\n"] if table.protocol else []
        notes = table.notes()
        parts += [f"\n[{number}] {note}" for number, note in enumerate(notes, 1)] + ["\n" if notes else "", "\n"]
    return "".join(parts) + "Numbers in brackets after a value are its 95 % interval; published ones have none.\n"


_LATEX = {"\\": r"\textbackslash{}", **{c: f"\\{c}" for c in "&%$#_{}"}, "~": r"\textasciitilde{}"}
_LATEX |= {"^": r"\textasciicircum{}", "–": "--", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "…": r"\ldots{}"}
_LATEX |= {"·": r"$\cdot$", "³": "$^3$"}


def tex(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    return "".join(_LATEX.get(character, character) for character in text)


def latex(tables: Sequence[Table]) -> str:
    """Tables for booktabs and xcolor; published rows are grey."""
    parts = ["% needs \\usepackage{booktabs,xcolor}"]
    for table in tables:
        head = table.head()
        parts += [r"\begin{table}", rf"\caption{{{tex(table.title)}}}", r"\centering"]
        parts += [rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\toprule"]
        parts += [" & ".join(map(tex, head)) + r" \\", r"\midrule"]
        previous = None
        for line in table.lines:
            parts += [r"\midrule"] if previous not in (None, line.origin) else []
            previous = line.origin
            name = tex(line.name) + (f"$^{{{table.mark(line)}}}$" if line.notes else "")
            cells = [name, *map(tex, table.texts(line))]
            if line.origin == PUBLISHED:
                cells = [rf"\textcolor{{gray}}{{{cell}}}" for cell in cells]
            parts.append(" & ".join(cells) + r" \\")
        parts += [r"\bottomrule", r"\end{tabular}"]
        sources = sorted({line.source for line in table.lines if line.origin == PUBLISHED})
        words = [f"Grey: published ({', '.join(sources)}; {table.protocol})."] if sources else []
        words += ["Black: measured here, with 95 % intervals."]
        words += [f"[{number}] {note}." for number, note in enumerate(table.notes(), 1)]
        parts += [r"\par\footnotesize " + tex(" ".join(words)), r"\end{table}", ""]
    return "\n".join(parts)


CSV_COLUMNS = ("table", "tokenizer", "origin", "source", "column", "value", "low", "high", "n", "notes")


def as_csv(tables: Sequence[Table]) -> str:
    """One line a number."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for table in tables:
        for line in table.lines:
            for title, cell in line.cells.items():
                about = (table.name, line.name, line.origin, line.source, title)
                writer.writerow([*about, cell.value, cell.low, cell.high, cell.n or None, "; ".join(line.notes)])
    return text.getvalue()


def as_json(tables: Sequence[Table]) -> str:
    """Everything, by name."""
    made = []
    for table in tables:
        titles, better = [c.title for c in table.columns], [c.direction for c in table.columns]
        made.append(asdict(table) | {"columns": titles, "better": better})
    return json.dumps({"tables": made}, indent=2, ensure_ascii=False) + "\n"


FORMATS: dict[str, Callable[[Sequence[Table]], str]] = {
    "markdown": markdown,
    "latex": latex,
    "csv": as_csv,
    "json": as_json,
}
