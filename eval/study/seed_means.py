"""Means over a study's seeds; and its long tables, a line for every number and a column for every arm: what latents are
like, and what probes find."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from eval.metrics.intervals import mean_interval
from eval.probes.rows import LESS
from eval.quantities import LATENTS, PROBES, better
from eval.results.rows import ARROWS, Row
from eval.results.tables import MEASURED, Cell, Column, Table
from eval.results.tables import Line as TableLine
from eval.study.file import Study


def over_seeds(rows: Sequence[Row]) -> Cell:
    """The mean over seeds with its 95 % interval by Student's t, which the chance of each seed's clips is part of; of
    one seed its own interval, over clips alone."""
    values = [row.value for row in rows]
    if len(values) == 1:
        return Cell(values[0], rows[0].low, rows[0].high, rows[0].n)
    return Cell(*mean_interval(values), sum(row.n for row in rows))


def lost_differences(study: Study, apart: Iterable[str], failed: dict[str, str]) -> set[str]:
    """Arms whose difference does not count, since they, or the arm that they are compared with, do not."""
    return {name for name in apart if failed.keys() & {name, study.against(study.arm(name)).name}}


def latents_table(study: Study, rows: dict[str, dict], failed: dict[str, str]) -> Table:
    """What the latents of each arm are like; arms of one encoder have them at the first of these."""
    keys = [key for arms in rows.values() for seen in arms.values() for key in seen if key[1] == LATENTS]
    columns = {arm.name: rows[arm.name] for arm in study.arms}
    return numbers_table(study, "latents-here", "Latents of each arm", keys, columns, failed)


def probe_tables(
    study: Study, rows: dict[str, dict], apart: dict[str, dict], failed: dict[str, str]
) -> tuple[Table, Table]:
    """What generators know of motion half-way through, and differences on the same clips and by the same seeds of
    heads; the paper's table 3."""
    keys, pairs = (
        [
            key
            for arms in found.values()
            for seen in arms.values()
            for key in seen
            if key[0] in PROBES and LESS not in key[1]
        ]
        for found in (rows, apart)
    )
    columns = {arm.name: rows[arm.name] for arm in study.arms}
    titles = {name: f"{name} less {study.against(study.arm(name)).name}" for name in apart}
    beside = {titles[name]: found for name, found in apart.items()}
    lost = {titles[name] for name in lost_differences(study, apart, failed)}
    title = "Probes of the features of each arm's generator"
    return (
        numbers_table(study, "probes-here", title, keys, columns, failed),
        numbers_table(study, "probes-differences", f"{title}: differences, paired in each seed", pairs, beside, lost),
    )


def numbers_table(
    study: Study,
    name: str,
    title: str,
    keys: Sequence[tuple[str, str]],
    columns: dict[str, dict[int, dict]],
    failed: Container[str],
) -> Table:
    """A line for every number, and a column for everything that has one of them: means over seeds.

    Args:
        keys: Metric and subject of the numbers.
        columns: Rows by title, seed, and metric and subject.
        failed: Titles of what does not count.
    """
    lines, heads = [], {}
    for column, by_seed in columns.items():
        count = sum(any(key in seen for key in keys) for seen in by_seed.values())
        words = [f"{count} of {len(study.seeds)} seeds"] if count < len(study.seeds) else []
        words += ["does not count"] if column in failed else []
        heads |= {column: Column(f"{column} ({', '.join(words)})" if words else column)} if count else {}
    for metric, subject in dict.fromkeys(keys):
        cells = {}
        for column, head in heads.items():
            found = [seen[metric, subject] for seen in columns[column].values() if (metric, subject) in seen]
            cells |= {head.title: over_seeds(found)} if found else {}
        words = metric if subject == LATENTS else f"{metric}, {subject}"
        lines.append(TableLine(words + ARROWS[better(metric)], MEASURED, "", cells))
    return Table(name, f"{title}, {len(study.seeds)} seeds", "", tuple(heads.values()), lines, of="number")
