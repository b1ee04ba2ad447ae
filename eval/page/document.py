"""The report's HTML: one file, no network, no script, light and dark."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from eval.quantities import better
from eval.results.rows import ARROWS, HEADINGS, Row, cells

STYLE = """
:root { --ink: #1c1e21; --quiet: #666c75; --paper: #fff; --line: #dfe2e6; --s0: #1f6feb; --s1: #d1570b; --s2: #2c974b; --s3: #8250df }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --quiet: #9aa1ab; --paper: #15171a; --line: #30343a; --s0: #6cb0ff;
  --s1: #f0965a; --s2: #5cc878; --s3: #bb99f5 } }
* { box-sizing: border-box } body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 64rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, sans-serif }
h1 { font-size: 1.7rem; margin: 0 0 .3rem } h2 { font-size: 1.2rem; margin: 2.4rem 0 .4rem; border-top: 1px solid var(--line);
  padding-top: 1.2rem } p { margin: .4rem 0 } .quiet, figcaption { color: var(--quiet); font-size: .88rem }
.clips { display: grid; grid-template-columns: repeat(auto-fill, minmax(92px, 1fr)); gap: .6rem; margin: .7rem 0 }
.strips { grid-template-columns: repeat(auto-fill, minmax(264px, 1fr)); gap: 1rem }
.clips figure { margin: 0 } .clips img { width: 100%; image-rendering: pixelated; display: block; border-radius: 3px }
.clips figcaption { font-size: .74rem; line-height: 1.3; margin-top: .15rem } .wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .88rem; width: 100% } th, td { padding: .3rem .6rem; text-align: left;
  border-bottom: 1px solid var(--line); vertical-align: top } td.n { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap } th { font-weight: 600 } tr.control td { color: var(--quiet) }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); gap: 1rem } .charts figure { margin: 0 }
svg { width: 100%; height: auto } svg text { fill: var(--quiet); font: 11px system-ui, sans-serif } .grid { stroke: var(--line) }
.line { fill: none; stroke-width: 1.8 } .band { fill: none; stroke-width: 7; opacity: .35 } .level { stroke: var(--quiet);
  stroke-dasharray: 4 4 } .s0 { stroke: var(--s0); fill: var(--s0) } .s1 { stroke: var(--s1); fill: var(--s1) }
.s2 { stroke: var(--s2); fill: var(--s2) } .s3 { stroke: var(--s3); fill: var(--s3) } .line.s0, .line.s1, .line.s2, .line.s3,
.band.s0, .band.s1, .band.s2, .band.s3 { fill: none } .key { margin-left: .6rem } .key.s0 { color: var(--s0) }
.key.s1 { color: var(--s1) } .key.s2 { color: var(--s2) } .key.s3 { color: var(--s3) }
pre { overflow-x: auto; background: color-mix(in srgb, var(--ink) 6%, transparent); padding: .6rem .8rem; border-radius: 4px;
  font-size: .8rem } ul { padding-left: 1.2rem } .green { color: #2ea043 } .orange { color: #e37400 }
"""

CONTROLS = ("real", "frozen", "shuffled", "untrained", "blank", "repeat", "rounding")


def clip_grid(clips: Iterable[tuple[str, str]], wide: bool = False) -> str:
    """(data address, caption) pairs as a grid of playing clips; `wide` for pictures of several clips side by side."""
    figures = (
        f'<figure><img src="{address}" alt="{html.escape(caption)}"><figcaption>{html.escape(caption)}</figcaption></figure>'
        for address, caption in clips
    )
    return f'<div class="clips{" strips" if wide else ""}">{"".join(figures)}</div>'


def results_table(rows: Sequence[Row]) -> str:
    """Rows with direction, interval, count and features; controls greyed."""
    body = []
    for row in rows:
        metric, subject, *numbers, words = map(html.escape, cells(row))
        control = ' class="control"' if row.subject in CONTROLS else ""
        right = "".join(f'<td class="n">{number}</td>' for number in numbers)
        body.append(
            f"<tr{control}><td>{metric}{ARROWS[better(row.metric)]}</td><td>{subject}</td>{right}<td>{words}</td></tr>"
        )
    return _table("".join(body), "".join(f"<th>{title}</th>" for title in HEADINGS))


def facts_table(facts: Sequence[tuple[str, str]]) -> str:
    """Two columns of names and values."""
    return _table(
        "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in facts)
    )


def _table(body: str, head: str = "") -> str:
    above = f"<thead><tr>{head}</tr></thead>" if head else ""
    return f'<div class="wide"><table>{above}<tbody>{body}</tbody></table></div>'


def quiet(words: str) -> str:
    """A paragraph of small print, of HTML."""
    return f"<p class=quiet>{words}</p>"


def bullet_list(words: Sequence[str]) -> str:
    """A list of sentences."""
    return "<ul>" + "".join(f"<li>{html.escape(word)}</li>" for word in words) + "</ul>"


def section(title: str, *parts: str) -> str:
    """A heading and what belongs below it."""
    return f"<section><h2>{html.escape(title)}</h2>{''.join(parts)}</section>"


def page(title: str, intro: str, sections: Sequence[str]) -> str:
    """The whole document."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, '
        f'initial-scale=1"><title>{html.escape(title)}</title><style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>'
        f"<p>{intro}</p>{''.join(sections)}</body></html>\n"
    )
