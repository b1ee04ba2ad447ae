"""What `eval.compare` ends with: tables with a line for every tokenizer, whose cells are empty where nothing was
measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eval.arms.plan import Plan
from eval.comparison.facts import Facts, facts_of, speed_file
from eval.comparison.plan import card, curve, judging, reconstructions
from eval.comparison.plan import difference as difference_stage
from eval.results.rows import ARROWS
from eval.results.tables import (
    MEASURED,
    Cell,
    Column,
    Line,
    Measured,
    Table,
    as_json,
    column_title,
    fill,
    markdown,
    number,
)
from runtime.files import replacing
from runtime.records import read_json

SHOWN = ("fvd", "reconstruction")  # kinds of results whose numbers have columns
SUBJECTS = ("generated", "reconstructed", "predicted")


@dataclass(frozen=True)
class Outcome:
    """What is known when all is done that could be done.

    Attributes:
        everyone: The tokenizers.
        measured: Results by label.
        curves: What eval.convergence found, by label, of those that it has measured.
        tables: As printed.
    """

    everyone: list[Facts]
    measured: dict[str, list[Measured]]
    curves: dict[str, dict]
    tables: list[Table]


def outcome_of(config, plan: Plan) -> Outcome:
    """Read the results of all finished stages."""
    everyone = facts_of(config)
    measured = {facts.entry.label: measured_of(config, plan, facts) for facts in everyone}
    curves = curves_of(config, plan, everyone)
    return Outcome(everyone, measured, curves, tables_of(config, plan, everyone, measured, curves))


def write_tables(folder: Path, tables: Sequence[Table]) -> None:
    """tables.md and tables.json in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("tables.md", markdown(tables)), ("tables.json", as_json(tables))):
        with replacing(folder / name, "results") as partial:
            partial.write_text(text, "utf-8")


def cards_table(config, plan: Plan) -> Table:
    """A line for every number that any of the cards has, a column for each tokenizer; empty where it has none."""
    from eval.quantities import better
    from eval.results.rows import read_results

    lines: dict[str, Line] = {}
    everyone = facts_of(config)
    for facts in everyone:
        stage = card(config, facts)
        if not plan.done(stage):
            continue
        for row in read_results(stage.results[0])[1]:
            name = f"{row.metric}, {row.subject}" + ARROWS[better(row.metric)]
            line = lines.setdefault(name, Line(name, MEASURED, "", {}))
            if row.value is not None:
                line.cells[facts.entry.label] = number(row)
    columns = tuple(Column(facts.entry.label) for facts in everyone)
    return Table("cards", f"Cards of tokenizers on {config.data}", "", columns, list(lines.values()), of="number")


def measured_of(config, plan: Plan, facts: Facts) -> list[Measured]:
    """The results of a tokenizer's finished stages, and its speeds where there are any."""
    from eval.tables import measured_in

    stages = [judging(config, facts), *(reconstructions(config, facts) if config.reconstruction else [])]
    paths = [stage.results[0] for stage in stages if plan.done(stage)]
    found = [replace(each, given=facts.entry.label) for path in paths for each in measured_in(path)]
    speeds = speed_file(config)
    if speeds is not None and speeds.is_file():
        found += [each for each in measured_in(speeds) if each.given == facts.entry.label]
    return found


def tables_of(
    config, plan: Plan, everyone: Sequence[Facts], measured: dict[str, list[Measured]], curves: dict[str, dict]
) -> list[Table]:
    """What was measured here, differences and speed of learning, and the published tables with ours in them."""
    from eval.results.published import TABLES

    every = [each for found in measured.values() for each in found]
    known = {facts.entry.label: {"latent": Cell(latent_words(facts))} for facts in everyone}
    nothing = {label: {} for label in known}
    columns = [Column("latent"), *columns_of(every)]
    made = [fill(Table("measured", f"Measured here on {config.data}", "", tuple(columns), []), every, known)]
    made += [table for table in (differences(config, plan, everyone), learning(config, everyone, curves)) if table]
    made.append(fill(TABLES["generation"], every, known))
    made += [fill(TABLES["reconstruction"], every, nothing)] if config.reconstruction else []
    transformers = [facts.entry.label for facts in everyone if "transformer" in facts.spec.name]
    if transformers:
        theirs = [each for label in transformers for each in measured[label]]
        made.append(fill(TABLES["transformer"], theirs, dict.fromkeys(transformers, {})))
    return made


def latent_words(facts: Facts) -> str:
    """As the paper names latents: "t4s16c64"."""
    return f"t{facts.spec.temporal}s{facts.spec.spatial}c{facts.spec.channels}"


def columns_of(measured: Sequence[Measured]) -> Iterator[Column]:
    """A column for every number of generated, reconstructed and predicted clips that any of the results has."""
    found = {}
    for each in measured:
        facts = each.facts
        for row in each.rows if facts["kind"] in SHOWN else ():
            if row.value is None or not row.subject.startswith(SUBJECTS) or ", frame +" in row.metric:
                continue
            size = facts["size"] if facts["kind"] == "reconstruction" else 0
            at = f", {facts['data']} at {size}" if size else ""
            title = column_title(row.metric, row.subject) + at
            found[title] = Column(title, row.metric, row.subject, facts["data"], size)
    return iter(found.values())


def differences(config, plan: Plan, everyone: Sequence[Facts]) -> Table | None:
    """Paired differences to the first tokenizer, with verdicts as notes; None where nothing was compared."""
    from eval.results.rows import read_results

    first, *others = everyone
    columns, lines = {}, []
    for facts in others:
        cells, notes, sources = {}, [], []
        pairs = [(judging(config, facts), judging(config, first), 0)]
        if config.reconstruction:
            both = zip(reconstructions(config, facts), reconstructions(config, first), strict=True)
            pairs += [(ours, theirs, number) for number, (ours, theirs) in enumerate(both, 1)]
        for ours, theirs, number_of_pair in pairs:
            stage = difference_stage(config, ours, theirs)
            if not plan.done(stage):
                continue
            sources.append(str(stage.results[0]))
            at = f" at {config.reconstruction_sizes[number_of_pair - 1]}" if len(pairs) > 2 and number_of_pair else ""
            for row in read_results(stage.results[0])[1]:
                subject, _, side = row.subject.rpartition(", ")
                if side != "a - b":
                    continue
                title = column_title(row.metric, subject) + at
                columns[title] = Column(title, row.metric, subject)
                cells[title] = number(row)
                told = row.note.replace("a is better", f"{facts.entry.label} is better")
                notes.append(f"{title}: {told.replace('b is better', f'{first.entry.label} is better')}")
        lines.append(Line(facts.entry.label, MEASURED, ", ".join(sources), cells, tuple(notes)))
    if not columns:
        return None
    title = f"Difference to {first.entry.label} on the same clips and seeds"
    return Table("differences", title, "", tuple(columns.values()), lines)


def curves_of(config, plan: Plan, everyone: Sequence[Facts]) -> dict[str, dict]:
    """What eval.convergence found, by label, for those that it has measured."""
    if not config.curve_samples:
        return {}
    stages = {facts.entry.label: curve(config, facts) for facts in everyone}
    return {label: read_json(stage.results[0]) for label, stage in stages.items() if plan.done(stage)}


def learning(config, everyone: Sequence[Facts], curves: dict[str, dict]) -> Table | None:
    """How much faster than with the first tokenizer a generator reaches the first one's final distance, and the other
    way round; None without its curve."""
    from eval.convergence import faster_than

    first = everyone[0].entry.label
    if first not in curves:
        return None
    metric = curves[first]["metric"]
    final = Column(f"{metric} at the last step", metric)
    ahead = Column(f"% faster to reach the final value of {first}", better="higher")
    lines = []
    for facts in everyone:
        label, cells, notes = facts.entry.label, {}, []
        if label in curves:
            last = curves[label]["curve"][-1]
            cells[final.title] = Cell(last["value"], last["low"], last["high"], curves[label]["samples"])
        if label in curves and label != first:
            found = faster_than(curves[label]["curve"], curves[first]["curve"])
            never = Cell("never gets there")
            cells[ahead.title] = never if found.percent is None else Cell(found.percent, found.low, found.high)
            back = faster_than(curves[first]["curve"], curves[label]["curve"])
            notes = [found.words(label, first), back.words(first, label)]
        lines.append(Line(label, MEASURED, "", cells, tuple(notes)))
    title = f"How fast generators learn: {config.train_steps:,} steps, {len(curves[first]['curve'])} checkpoints"
    return Table("learning", title, "", (final, ahead), lines)
