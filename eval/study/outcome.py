"""What a study ends with: a line for every arm, over its seeds, beside the published lines; cells of what was not run
are empty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eval.arms.plan import Plan
from eval.latents import LatentsConfig
from eval.metrics.intervals import mean_interval
from eval.quantities import AT_INFINITY, PROBES
from eval.results.published import TABLES
from eval.results.rows import Row, read_results
from eval.results.tables import MEASURED, Cell, Column, Measured, Table, column_title
from eval.results.tables import Line as TableLine
from eval.study.file import ArmSpec, Study
from eval.study.hypotheses import Hypothesis, Verdict, hypotheses_table, judged
from eval.study.plan import Line
from eval.study.seed_means import latents_table, over_seeds, probe_tables
from eval.tokenizer_clips import clip_of
from runtime.command import parse
from runtime.records import check_fields, read_json
from tokenizer.zoo import trained_on

Judgements = dict[str, tuple[Hypothesis, Verdict]]
Numbers = dict[str, dict[int, dict[tuple[str, str], Row]]]
SUBJECTS = ("generated", "reconstructed", "predicted")


@dataclass(frozen=True)
class Outcome:
    """What is known of a study.

    Attributes:
        tables: As printed.
        curves: What eval.convergence found, by arm and seed.
        rows: Numbers by arm, seed, and metric and subject.
        apart: Differences to the arm that each is compared with, likewise.
        failed: Arms that do not count, and why.
        judgements: Hypotheses and their verdicts, by name.
    """

    tables: list[Table]
    curves: dict[str, dict[int, dict]]
    rows: Numbers
    apart: Numbers
    failed: dict[str, str]
    judgements: Judgements

    @property
    def verdicts(self) -> list[str]:
        """In a sentence each: arms that do not count, and what is said of the hypotheses."""
        lost = [f"arm {name} does not count: {words}" for name, words in self.failed.items()]
        return lost + [f"{one.name} ({one.claim}): {verdict.word}" for one, verdict in self.judgements.values()]


def outcome_of(study: Study, plan: Plan, lines: Sequence[Line]) -> Outcome:
    """Read the results of all finished stages."""
    measured = {arm.name: {line.seed: measured_of(plan, line) for line in lines if line.arm is arm}
                for arm in study.arms}  # fmt: skip
    rows = {name: {seed: rows_of(found) for seed, found in by_seed.items()} for name, by_seed in measured.items()}
    curves = {arm.name: {line.seed: found for line in lines if line.arm is arm and (found := curve_of(plan, line))}
              for arm in study.arms}  # fmt: skip
    failed = {arm.name: words for arm in study.arms if (words := gate_words(study, rows[arm.name]))}
    apart = {arm.name: {line.seed: paired_rows(plan, line) for line in lines if line.arm is arm}
             for arm in study.arms if study.against(arm)}  # fmt: skip
    tables = [measured_table(study, rows, failed), differences_table(study, apart, failed)]
    tables.append(learning_table(study, curves, failed))
    asked = {name for arm in study.arms for name in arm.line}
    for name in [name for name in TABLES if name in asked]:
        tables += published_tables(study, name, measured, rows, failed)
    tables += [latents_table(study, rows, failed), *probe_tables(study, rows, apart, failed)]
    tables = [table for table in tables if table.lines]
    judgements = verdicts_of(study, rows, curves, failed)
    tables = [*([hypotheses_table(judgements)] if judgements else []), *tables]
    return Outcome(tables, {name: found for name, found in curves.items() if found}, rows, apart, failed, judgements)


def measured_of(plan: Plan, line: Line) -> list[Measured]:
    """The results of one arm with one seed."""
    found = []
    for kind in ("fvd", "reconstruction", "latents", "probe"):
        stage = next((stage for stage in line.stages.values() if stage.kind == kind), None)
        if stage is None or not plan.done(stage):
            continue
        if kind == "latents":  # the stage's own result is a page; the numbers are in the tokenizer's run
            written = [(path, *read_results(path)) for path in (line.tokenizer / "eval").glob("latents-*.json")]
            read = asked_for(written, parse(stage.argv[1:], LatentsConfig), trained_on(str(line.tokenizer)))
        else:
            read = [(path, *read_results(path)) for path in stage.results]
        found += [Measured("", str(path), facts, rows) for path, facts, rows in read]
    return found


def asked_for(
    written: Sequence[tuple[Path, dict, list]], asked: LatentsConfig, trained: dict
) -> list[tuple[Path, dict, list]]:
    """Of what eval.latents wrote of one tokenizer, also by hand, the newest that these flags gave.

    Args:
        trained: What the tokenizer was trained on, as `tokenizer.zoo.trained_on` has it.
    """
    check = {**dict.fromkeys(("data", "split"), str), **dict.fromkeys(("samples", "seed", "size", "num_frames"), int)}
    for path, facts, _ in written:
        check_fields(facts, check, path)
    clip = clip_of(asked, trained, asked.data)
    wanted = {"data": asked.data, "split": asked.split, "seed": asked.seed}
    wanted |= {"size": clip.height, "num_frames": clip.num_frames}
    same = [one for one in written if wanted.items() <= one[1].items()]
    same = [one for one in same if one[1]["samples"] <= asked.samples]  # fewer where the data set has no more
    return [max(same, key=lambda one: (one[1]["samples"], one[1]["created"]))] if same else []


def rows_of(measured: Sequence[Measured]) -> dict[tuple[str, str], Row]:
    """Numbers by metric and subject."""
    return {(row.metric, row.subject): row for one in measured for row in one.rows if row.value is not None}


def curve_of(plan: Plan, line: Line) -> dict | None:
    """The curve of one arm with one seed."""
    stage = line.stages.get(f"convergence-{line.name}")
    return read_json(stage.results[0]) if stage and plan.done(stage) else None


def headline(rows: Numbers) -> tuple[str, str] | None:
    """Metric and subject of the distance that arms are judged by: extrapolated to infinitely many clips; None where
    nothing was."""
    keys = dict.fromkeys(key for arms in rows.values() for seen in arms.values() for key in seen)
    return next((key for key in keys if key[0].endswith(AT_INFINITY) and key[1] == "generated"), None)


def verdicts_of(study: Study, rows: Numbers, curves: dict[str, dict], failed: dict[str, str]) -> Judgements:
    """What the study's hypotheses come to."""
    from eval.convergence import lead

    distance = headline(rows)
    values = {
        name: {seed: seen[distance].value for seed, seen in arms.items() if distance in seen}
        for name, arms in rows.items()
        if name not in failed
    }
    found = {}
    for hypothesis in study.hypotheses:
        leads = {}
        if hypothesis.faster and not failed.keys() & {*hypothesis.faster}:
            ours, theirs = (curves[name] for name in hypothesis.faster)
            leads = {
                seed: lead(ours[seed]["curve"], theirs[seed]["curve"])
                for seed in study.seeds
                if seed in ours and seed in theirs
            }
        found[hypothesis.name] = hypothesis, judged(hypothesis, values, leads, len(study.seeds))
    return found


def gate_words(study: Study, rows: dict[int, dict]) -> str:
    """Why an arm does not count, by the mean over its seeds; "" where it does, or has no distance yet."""
    words, judged = [], any(subject == "generated" for seen in rows.values() for _, subject in seen)
    for metric, least in study.gate.items():
        found = [seen[metric, "reconstructed"].value for seen in rows.values() if (metric, "reconstructed") in seen]
        if not found and judged:
            words.append(f"{metric} of reconstructions was not measured yet")
        elif found and not (mean := math.fsum(found) / len(found)) >= least:
            words.append(f"{metric} of reconstructions is {mean:.3g}, below {least:g}: its distance measures blur")
    return "; ".join(words)


def notes_of(study: Study, arm: ArmSpec, rows: dict[int, dict], failed: dict[str, str]) -> tuple[str, ...]:
    """What belongs to an arm's line."""
    notes = [arm.title] if arm.title else []
    notes += seed_notes(study, sum(map(bool, rows.values())))
    notes += [f"does not count: {failed[arm.name]}"] if arm.name in failed else []
    return tuple(notes)


def seed_notes(study: Study, count: int) -> list[str]:
    """What a mean over so many of the study's seeds says of itself."""
    notes = [f"{count} of {len(study.seeds)} seeds"] if 0 < count < len(study.seeds) else []
    return [*notes, *(["one seed: the interval covers clips alone"] if count == 1 else [])]


def lost_notes(arms: Sequence[ArmSpec], failed: dict[str, str]) -> list[str]:
    """Which of the arms of a comparison do not count."""
    return [f"does not count: {arm.name}, {failed[arm.name]}" for arm in arms if arm.name in failed]


def cells_of(columns: Sequence[Column], rows: dict[int, dict]) -> dict[str, Cell]:
    """Means over seeds by column title."""
    cells = {}
    for column in columns:
        found = [
            seen[column.metric, column.subject] for seen in rows.values() if (column.metric, column.subject) in seen
        ]
        if found:
            cells[column.title] = over_seeds(found)
    return cells


def measured_table(study: Study, rows: dict[str, dict], failed: dict[str, str]) -> Table:
    """Every number of every arm."""
    keys = dict.fromkeys(
        key
        for arms in rows.values()
        for seen in arms.values()
        for key in seen
        if key[1].startswith(SUBJECTS) and ", frame +" not in key[0]
    )
    columns = tuple(Column(column_title(*key), *key) for key in keys)
    lines = [
        TableLine(
            arm.name, MEASURED, "", cells_of(columns, rows[arm.name]), notes_of(study, arm, rows[arm.name], failed)
        )
        for arm in study.arms
    ]
    title = f"Measured here on {study.data}, {len(study.seeds)} seeds"
    return Table("measured", title, "", columns, lines, of="arm")


def differences_table(study: Study, apart: dict[str, dict], failed: dict[str, str]) -> Table:
    """Each arm less the one that it is compared with: paired by clips and noise in each seed, the mean over seeds.

    Args:
        apart: What `paired_rows` gives, by arm and seed.
    """
    columns: dict[tuple[str, str], Column] = {}
    made = []
    for name, rows in apart.items():
        arm = study.arm(name)
        other = study.against(arm)
        for seen in rows.values():
            columns |= {key: Column(column_title(*key), *key) for key in seen if key[0] not in PROBES}
        notes = [f"less {other.name}", *lost_notes((arm, other), failed)]
        notes += seed_notes(study, sum(map(bool, rows.values())))
        made.append(TableLine(arm.name, MEASURED, "", cells_of(list(columns.values()), rows), tuple(notes)))
    title = "Differences, paired in each seed"
    return Table("differences", title, "", tuple(columns.values()), made if columns else [], of="arm")


def paired_rows(plan: Plan, line: Line) -> dict[tuple[str, str], Row]:
    """Differences of one seed, by metric and subject."""
    found = {}
    for stage in line.stages.values():
        if stage.kind == "difference" and stage.name.endswith(f"-{line.name}") and plan.done(stage):
            for row in read_results(stage.results[0])[1]:
                subject, _, side = row.subject.rpartition(", ")
                if side == "a - b" and row.value is not None:
                    found[row.metric, subject] = row
    return found


def learning_table(study: Study, curves: dict[str, dict], failed: dict[str, str]) -> Table:
    """How much faster an arm's generator is at the final value of the one that it is compared with, over seeds."""
    from eval.convergence import faster_than

    column, lines = Column("% faster to reach its final value", better="higher"), []
    for arm in study.arms:
        other = study.against(arm)
        both = sorted(set(curves[arm.name]) & set(curves[other.name])) if other else []
        if not both:
            continue
        found = [faster_than(curves[arm.name][seed]["curve"], curves[other.name][seed]["curve"]) for seed in both]
        reached = [each.percent for each in found if each.percent is not None]
        notes = [f"against {other.name}", *lost_notes((arm, other), failed), *seed_notes(study, len(both))]
        if early := sum(each.at_least for each in found):
            notes.append(f"at least: in {early} of {len(found)} seeds it is there before the first checkpoint")
        if len(reached) < len(found):
            notes.append(f"in {len(found) - len(reached)} of {len(found)} seeds it never gets there")
            cell = Cell("not in every seed" if reached else "never gets there")
        elif len(reached) == 1:
            cell = Cell(reached[0], found[0].low, found[0].high, 0)
        else:
            cell = Cell(*mean_interval(reached))
            notes.append("of curves of equal length it is never below 0, also of arms that do not differ")
        lines.append(TableLine(arm.name, MEASURED, "", {column.title: cell}, tuple(notes)))
    return Table("learning", "How fast generators learn", "", (column,), lines, of="arm")


def published_tables(
    study: Study, name: str, measured: dict[str, dict[int, list]], rows: dict[str, dict], failed: dict[str, str]
) -> list[Table]:
    """A published table with our arms below its lines, in its columns what belongs there by name, data and size; and
    where nothing does, our own numbers of these arms in a table of the same order."""
    published = TABLES[name]
    arms, ours = [arm for arm in study.arms if name in arm.line], []
    for arm in arms:
        found: dict[str, list[Row]] = {}
        for one in (one for results in measured[arm.name].values() for one in results):
            for title, row in one.in_columns(published).items():
                found.setdefault(title, []).append(row)
        cells = {title: over_seeds(same) for title, same in found.items()}
        notes = notes_of(study, arm, rows[arm.name], failed)
        ours.append(TableLine(f"{arm.line[name]}: {arm.name}", MEASURED, "", cells, notes))
    made = [Table(name, published.title, published.protocol, published.columns, [*published.lines, *ours], of="arm")]
    if name == "probes" or any(line.cells for line in ours):  # probes have a table of their own
        return made
    whole = measured_table(study, rows, failed)
    lines = {line.name: line for line in whole.lines}
    kept = [replace(lines[arm.name], name=f"{arm.line[name]}: {arm.name}") for arm in arms]
    return [
        *made,
        replace(whole, name=f"{name}-here", title=f"{published.title}: {study.data}, measured here", lines=kept),
    ]


def gathered(curves: dict[str, dict[int, dict]], name: str) -> dict[str, list[tuple]]:
    """Points (step, mean over seeds) of a curve by arm, of the steps that all its seeds have."""
    found = {}
    for arm, by_seed in curves.items():
        values = [{point["step"]: point["value"] for point in curve[name]} for curve in by_seed.values()]
        steps = sorted(set.intersection(*(set(each) for each in values)))
        found[arm] = [(step, math.fsum(each[step] for each in values) / len(values)) for step in steps]
    return found
