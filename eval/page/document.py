"""The page's HTML: one file that needs no network, light and dark, with or without its script.

Words from files of results, of runs and of data sets are escaped here; arguments that are HTML already are called
`parts`. The policy in the page's head forbids whatever else got through to load anything, or to run.
"""

from __future__ import annotations

import base64
import hashlib
import html
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from eval.quantities import better
from eval.results.rows import ARROWS, HEADINGS, Row, cells, format_number
from runtime.files import replacing

CONTROLS = ("real", "frozen", "shuffled", "untrained", "blank", "grey", "repeat", "rounding")
# Rows of a table that are shown before the rest is asked for.
FOLD = 10
# Characters from which on a cell is prose, which takes more than one line.
WORDY = 40


@dataclass(frozen=True)
class Finding:
    """One of the few numbers on top of the page.

    Attributes:
        name: What it is of, in a few words.
        value: As text, with its unit.
        words: What it is to be held against: interval, floor, rival.
    """

    name: str
    value: str
    words: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what is read, and what the table is sorted by where that is another number."""

    text: str
    number: float | None = None


def page(title: str, lead: str, sections: Sequence[str], findings: Sequence[Finding] = ()) -> str:
    """The whole document.

    Args:
        title: Its heading.
        lead: What was found, in one or two sentences; HTML.
        sections: Of `section`, in order; each with a link on top.
        findings: The numbers behind `lead`, four or five of them.
    """
    script, style = _beside("page.js"), _beside("page.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"
    )
    links = "".join(f'<a href="#{name}">{words}</a>' for name, words in _HEADING.findall("".join(sections)))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}; form-action \'none\'">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{html.escape(title)}</title>\n'
        f"<style>{style}</style></head>\n<body><header><h1>{html.escape(title)}</h1><p class=lead>{lead}</p>"
        f'{_findings(findings)}<nav aria-label="Sections">{links}</nav></header>\n'
        f"<main>{''.join(sections)}</main>\n<script>{script}</script></body></html>\n"
    )


_HEADING = re.compile(r'<section id="([\w-]*)"><h2>(.*?)</h2>')


def save_page(path: Path, text: str) -> None:
    """Write a page, replaced at once, and its folder; a character that UTF-8 does not have, as in names of files, by its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, "report") as partial:
        partial.write_text(text, "utf-8", "xmlcharrefreplace")


def section(title: str, *parts: str) -> str:
    """A heading and what belongs below it."""
    name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    return f'<section id="{name}"><h2>{html.escape(title)}</h2>{"".join(parts)}</section>\n'


def folded(title: str, *parts: str) -> str:
    """What is shown when its title is clicked."""
    return f"<details><summary>{html.escape(title)}</summary>{''.join(parts)}</details>"


def quiet(words: str) -> str:
    """A paragraph of small print, of HTML."""
    return f"<p class=quiet>{words}</p>"


def bullet_list(words: Sequence[str]) -> str:
    """A list of sentences."""
    return "<ul>" + "".join(f"<li>{html.escape(word)}</li>" for word in words) + "</ul>"


def _findings(findings: Sequence[Finding]) -> str:
    if not findings:
        return ""
    parts = (
        f"<div class=finding><dt>{html.escape(found.name)}</dt><dd class=value>{html.escape(found.value)}</dd>"
        f"<dd class=words>{html.escape(found.words)}</dd></div>"
        for found in findings
    )
    return f"<dl class=findings>{''.join(parts)}</dl>"


# -- tables ------------------------------------------------------------------------------------------------------------


def data_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str | float | Cell | None]],
    *,
    name: str = "",
    caption: str = "",
    controls: Collection[int] = (),
    fold: int = FOLD,
) -> str:
    """A table that sorts when a heading is clicked, scrolls inside its own box, and is folded where it is long.

    Args:
        headings: Of its columns.
        rows: Texts, numbers (four digits are shown, and all of them count in sorting), or `Cell`s; None: a dash. A
            column without any text is set to the right.
        name: What the table is of, for who does not see it; default: the caption.
        caption: Above it.
        controls: Places of rows to grey.
        fold: Rows that are shown first; 0: all.
    """
    table = [[_cell(value) for value in row] for row in rows]
    numeric = [all(row[i].number is not None or row[i].text == "–" for row in table) for i in range(len(headings))]
    wordy = [any(len(row[i].text) > WORDY for row in table) for i in range(len(headings))]
    kinds = [" class=n" if n else " class=words" if w else "" for n, w in zip(numeric, wordy, strict=True)]
    body = []
    for place, row in enumerate(table):
        grey = ' class="control"' if place in controls else ""
        parts = "".join(
            f"<td{kind}{_sorted_by(cell)}>{html.escape(cell.text)}</td>" for kind, cell in zip(kinds, row, strict=True)
        )
        body.append(f"<tr{grey}>{parts}</tr>")
    head = "".join(
        f"<th{kind} scope=col>{html.escape(words)}</th>" for kind, words in zip(kinds, headings, strict=True)
    )
    above = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    name = html.escape(name or caption or ", ".join(headings))
    return (
        f'<div class="wide" role="region" aria-label="{name}"><table class="sortable results" data-fold="{fold}">{above}'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _cell(value: str | float | Cell | None) -> Cell:
    if isinstance(value, Cell):
        return value
    if value is None or isinstance(value, str):
        return Cell("–" if value is None else value)
    return Cell(format_number(value), value)


def _sorted_by(cell: Cell) -> str:
    known = cell.number is not None and math.isfinite(cell.number)
    return f' data-value="{cell.number!r}"' if known else ""


def results_table(rows: Sequence[Row], name: str = "results") -> str:
    """Rows with direction, interval, count and features; controls greyed."""
    table = []
    for row in rows:
        metric, subject, value, interval, count, words = cells(row)
        width = None if row.low is None or row.high is None else row.high - row.low
        numbers = Cell(value, row.value), Cell(interval, width), Cell(count, row.n or None)
        table.append((metric + ARROWS[better(row.metric)], subject, *numbers, words))
    controls = [place for place, row in enumerate(rows) if row.subject.partition(" (")[0] in CONTROLS]
    return data_table(HEADINGS, table, controls=controls, name=name)


def facts_table(facts: Sequence[tuple[str, str]]) -> str:
    """Two columns of names and values."""
    rows = (f"<tr><th scope=row>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in facts)
    return f'<div class="wide" role="region" aria-label="facts"><table class="facts"><tbody>{"".join(rows)}</tbody></table></div>'


@cache
def _beside(name: str) -> str:
    """A file beside this one; the newline of its end is not the page's."""
    return files("eval.page").joinpath(name).read_text("utf-8").strip()
