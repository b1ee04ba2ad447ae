"""Tables of published and measured numbers as Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from eval.results import format_number

PUBLISHED, MEASURED = "published", "measured here"


@dataclass(frozen=True)
class Cell:
    """A number with interval and count where it was measured here, with its digits where published; or a text."""

    value: float | str
    low: float | None = None
    high: float | None = None
    n: int = 0
    digits: int | None = None


@dataclass(frozen=True)
class Line:
    """One row of a table: `cells` by column title; `origin` is PUBLISHED or MEASURED; `source` a paper or a file."""

    name: str
    origin: str
    source: str
    cells: dict[str, Cell]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table to print; `better` is "lower", "higher" or "" for each column."""

    name: str
    title: str
    protocol: str
    columns: tuple[str, ...]
    better: tuple[str, ...]
    lines: list[Line] = field(default_factory=list)


def shown(cell: Cell | None) -> str:
    """A cell as text: published numbers as they were published, ours with the interval."""
    if cell is None:
        return "–"
    if isinstance(cell.value, str):
        return cell.value or "–"
    if cell.digits is not None:
        return f"{cell.value:.{cell.digits}f}"
    interval = "" if cell.low is None else f" [{format_number(cell.low)}, {format_number(cell.high)}]"
    return f"{format_number(cell.value)}{interval}"


def clips(line: Line) -> str:
    """How many clips the numbers of a line are of."""
    counts = sorted({cell.n for cell in line.cells.values() if cell.n})
    return " / ".join(f"{count:,}" for count in counts) or "–"


def footnotes(table: Table) -> tuple[list[str], dict[int, str]]:
    """The differing protocols of a table's measured lines, each once, and the mark of each line (by its place)."""
    notes: list[str] = []
    marks = {}
    for place, line in enumerate(table.lines):
        for note in line.notes:
            if note not in notes:
                notes.append(note)
        marks[place] = ",".join(str(notes.index(note) + 1) for note in line.notes)
    return notes, marks


ARROWS = {"lower": " ↓", "higher": " ↑", "": ""}


def markdown(tables: Sequence[Table]) -> str:
    """Tables with pipes; measured rows are bold, and marked with the numbers of the notes below."""
    parts = []
    for table in tables:
        notes, marks = footnotes(table)
        head = ["tokenizer", *(title + ARROWS[way] for title, way in zip(table.columns, table.better, strict=True))]
        rows = [[*head, "clips", "from"], ["---"] * (len(head) + 2)]
        for place, line in enumerate(table.lines):
            name = f"**{line.name}**" if line.origin == MEASURED else line.name
            mark = f" [{marks[place]}]" if marks[place] else ""
            cells = [shown(line.cells.get(title)) for title in table.columns]
            origin = f"{line.origin}: {line.source}" if line.origin == PUBLISHED else line.origin
            rows.append([name + mark, *cells, clips(line), origin])
        escaped = ([cell.replace("|", "\\|") for cell in row] for row in rows)
        parts.append(f"### {table.title}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in escaped) + "\n")
        parts += [f"\nPublished: {table.protocol}.\n"] if table.protocol else []
        parts += [f"\n[{number}] {note}" for number, note in enumerate(notes, 1)] + ["\n" if notes else ""]
        parts.append("\n")
    return "".join(parts) + "Numbers in brackets after a value are its 95 % interval; published ones have none.\n"


_LATEX = {"\\": r"\textbackslash{}", **{c: f"\\{c}" for c in "&%$#_{}"}, "~": r"\textasciitilde{}"}
_LATEX |= {"^": r"\textasciicircum{}", "–": "--", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "…": r"\ldots{}"}


def tex(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    return "".join(_LATEX.get(character, character) for character in text)


def latex(tables: Sequence[Table]) -> str:
    """Tables for booktabs and xcolor; published rows are grey."""
    parts = ["% needs \\usepackage{booktabs,xcolor}"]
    for table in tables:
        notes, marks = footnotes(table)
        titles = [title + ARROWS[way] for title, way in zip(table.columns, table.better, strict=True)]
        parts += [r"\begin{table}", rf"\caption{{{tex(table.title)}}}", r"\centering"]
        parts += [rf"\begin{{tabular}}{{l{'r' * len(titles)}r}}", r"\toprule"]
        parts += [" & ".join(map(tex, ["tokenizer", *titles, "clips"])) + r" \\", r"\midrule"]
        previous = None
        for place, line in enumerate(table.lines):
            parts += [r"\midrule"] if previous not in (None, line.origin) else []
            previous = line.origin
            name = tex(line.name) + (f"$^{{{marks[place]}}}$" if marks[place] else "")
            cells = [name, *(tex(shown(line.cells.get(title))) for title in table.columns), tex(clips(line))]
            if line.origin == PUBLISHED:
                cells = [rf"\textcolor{{gray}}{{{cell}}}" for cell in cells]
            parts.append(" & ".join(cells) + r" \\")
        parts += [r"\bottomrule", r"\end{tabular}"]
        sources = sorted({line.source for line in table.lines if line.origin == PUBLISHED})
        words = [f"Grey: published ({', '.join(sources)}; {table.protocol})."] if sources else []
        words += ["Black: measured here, with 95 % intervals."]
        words += [f"[{number}] {note}." for number, note in enumerate(notes, 1)]
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
    return json.dumps({"tables": [asdict(table) for table in tables]}, indent=2, ensure_ascii=False) + "\n"


FORMATS: dict[str, Callable[[Sequence[Table]], str]] = {
    "markdown": markdown,
    "latex": latex,
    "csv": as_csv,
    "json": as_json,
}
