"""The page of `eval.compare`: tables, curves over each other (the paper's figure 1a), and the clips of all tokenizers
side by side (its figure 3)."""

from __future__ import annotations

import html
import os
import re
from pathlib import Path

from eval.arms.plan import Plan
from eval.comparison.facts import Facts, generator_run
from eval.comparison.outcome import Outcome
from eval.comparison.plan import judging
from eval.page.document import (
    Cell,
    Finding,
    bullet_list,
    data_table,
    facts_table,
    folded,
    page,
    quiet,
    save_page,
    section,
)
from eval.page.figures import curve
from eval.page.found import interval
from eval.page.side_by_side import Side, clip_sections
from eval.quantities import AT_INFINITY
from eval.results.rows import format_number
from eval.results.tables import PUBLISHED, Measured, Table
from generator.sample import SampleConfig
from runtime.run import machine, versions

WIDE = 12  # columns from which on a table is shown on its side


def write_page(config, plan: Plan, outcome: Outcome, out: Path) -> None:
    """Write one HTML file."""
    finished = [facts for facts in outcome.everyone if plan.done(judging(config, facts))]
    parts = clip_sections([side_of(config, facts) for facts in finished]) if finished else []
    parts += [curves_section(config, outcome.curves)] if outcome.curves else []
    parts += [table_section(table) for table in outcome.tables]
    parts += [differences_section(outcome.measured), run_section(plan)]
    lead, findings = found_of(outcome)
    words = f"Each encoded {config.data}, and the same generator learned its latents. {lead}"
    text = page(f"Tokenizers on {config.data}", html.escape(words), parts, findings)
    save_page(out, text)


def found_of(outcome: Outcome) -> tuple[str, list[Finding]]:
    """What was found, in sentences, and a number for each tokenizer: of the distance of its generated clips,
    extrapolated to infinitely many where that was possible."""
    tables = {table.name: table for table in outcome.tables}
    columns = [c for c in tables["measured"].columns if c.subject == "generated" and c.direction == "lower"]
    columns = sorted(columns, key=lambda column: not column.metric.endswith(AT_INFINITY))
    if not columns:
        return "No generator was judged yet.", []
    title = columns[0].title
    findings = []
    for line in tables["measured"].lines:
        cell = line.cells.get(title)
        value, held = (format_number(cell.value), interval(cell)) if cell else ("not judged", "")
        findings.append(Finding(line.name, value, held))
    told = [
        f"Against {line.name}, {note.removeprefix(f'{title}: ')}."
        for line in (tables["differences"].lines if "differences" in tables else ())
        for note in line.notes
        if note.startswith(f"{title}: ")
    ]
    return " ".join([f"The numbers are {title} of generated clips to real ones, less is better.", *told]), findings


def write_cards_page(config, plan: Plan, table: Table, out: Path) -> None:
    """The numbers of the cards side by side, and where the cards are."""
    links = [
        f'<a href="{html.escape(os.path.relpath(stage.results[1], out.parent))}">{html.escape(arm.name)}</a>'
        for arm in plan.arms
        for stage in arm.stages
        if plan.done(stage)
    ]
    parts = [table_section(table), run_section(plan)]
    save_page(out, page(f"Cards on {config.data}", f"Each on a page of its own: {', '.join(links)}.", parts))


def table_section(table: Table) -> str:
    """A table, published lines greyed; its notes below. One of many numbers of few things is shown on its side."""
    if len(table.columns) > WIDE and not any(line.origin == PUBLISHED for line in table.lines):
        return turned_section(table)
    rows = [(line.name + (f" [{table.mark(line)}]" if line.notes else ""), *table.texts(line)) for line in table.lines]
    grey = [place for place, line in enumerate(table.lines) if line.origin == PUBLISHED]
    notes = [f"[{number}] {note}" for number, note in enumerate(table.notes(), 1)]
    below = [quiet(f"Grey: published ({html.escape(table.protocol)}).")] if table.protocol else []
    below += [bullet_list(notes)] if notes else []
    cells = [[row[0], *(sortable(text) for text in row[1:])] for row in rows]
    return section(table.title, data_table(table.head(), cells, name=table.title, controls=grey, fold=0), *below)


def turned_section(table: Table) -> str:
    """A table with a row for each of its columns; the notes of each line folded below."""
    head = ["number", *(line.name for line in table.lines)]
    titles = [*table.head()[1:-1], "clips"]
    texts = zip(titles, *(table.texts(line) for line in table.lines), strict=True)
    rows = [[title, *map(sortable, values)] for title, *values in texts]
    notes = [folded(f"About {line.name}", bullet_list(line.notes)) for line in table.lines if line.notes]
    return section(table.title, data_table(head, rows, name=table.title, fold=0), *notes)


def sortable(text: str) -> Cell:
    """A cell that is sorted by the number that it begins with."""
    found = re.match(r"-?\d[\d,]*(\.\d+)?(e[-+]?\d+)?", text)
    return Cell(text, float(found[0].replace(",", ""))) if found else Cell(text)


def curves_section(config, curves: dict[str, dict]) -> str:
    """Distance against step, all generators in one chart: to real clips, and to what each tokenizer makes of them."""
    charts = []
    for name, words in (
        ("curve", "to real clips"),
        ("curve_to_reconstructions", "to its reconstructions"),
    ):
        points = {label: [(p["step"], p["value"]) for p in found[name]] for label, found in curves.items()}
        bands = {
            label: [(p["step"], p["low"], p["high"]) for p in found[name] if p["low"] is not None]
            for label, found in curves.items()
        }
        floors = [found["floor"] for found in curves.values()] if name == "curve" else []
        metric = next((found["metric"] for found in curves.values()), "distance")
        chart = curve(
            points,
            bands=bands,
            levels={"other real clips": floors[0]} if floors else {},
            log_y=all(floor > 0 for floor in floors),
            x_label="generator step",
            y_label=f"{metric} {words}, {config.curve_samples} clips",
        )
        charts.append(chart)
    return section("Curves", f'<div class="charts">{"".join(charts)}</div>')


def side_of(config, facts: Facts) -> Side:
    """The row of a tokenizer whose generator was judged."""
    common = {name: getattr(config, name) for name in ("runs_dir", "seed", "device", "dtype", "steps")}
    sampling = SampleConfig(
        **common,
        run=str(generator_run(config, facts)),
        step=config.train_steps,
        samples=config.clips,
        guidance_scale=config.guidance_scales[0],
    )
    return Side(facts.entry.label, facts.entry.tokenizer, facts.entry.weights, sampling)


def differences_section(measured: dict[str, list[Measured]]) -> str:
    """In words, how these numbers differ from the paper's."""
    words = dict.fromkeys(word for found in measured.values() for each in found for word in each.differences)
    return section("How this differs from the paper", bullet_list(list(words)))


def run_section(plan: Plan) -> str:
    """The commands of every arm, how long each took, and on what."""
    rows = []
    for stage in plan.stages.values():
        done = plan.done(stage)
        took = (
            f"{done.seconds / 60:.1f} minutes{'' if done.in_one_go else ' since it was last taken up'}"
            if done
            else "not done"
        )
        rows.append((stage.name, f"{stage.command} — {took}"))
    about = machine()
    rows += [("machine", f"{about['processor']}, {about['cores']} cores, {about['system']}")]
    rows += [("versions", ", ".join(f"{name} {version}" for name, version in versions().items()))]
    return section("What was run", facts_table(rows))
