"""Rows of results out of what probes found, and the table of the paper that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from eval.metrics.intervals import Estimate
from eval.probes.features import GENERATOR, SOURCES
from eval.probes.measure import TASKS, Found
from eval.probes.units import estimate_of
from eval.quantities import better
from eval.results.published import TABLES
from eval.results.rows import Row, read_results, row_from
from eval.results.tables import Measured, fill, markdown


def rows_of(task: str, found: Found) -> list[Row]:
    """Every number, and how the generator's differ from the others at its noise level."""
    rows, trivial = [], TASKS[task].TRIVIAL
    for metric in TASKS[task].METRICS:
        rows.append(_row(metric, trivial, estimate_of(metric, found.trivial[metric]), found))
        for (source, level), sums in found.sums.items():
            rows.append(_row(metric, at(source, level), estimate_of(metric, sums[metric]), found))
        for level in dict.fromkeys(level for _, level in found.sums):
            own = found.sums[GENERATOR, level][metric]
            for other in (trivial, *SOURCES[1:]):
                sums = found.trivial if other == trivial else found.sums[other, level]
                better = estimate_of(metric, own, sums[metric])
                rows.append(_row(metric, f"{at(GENERATOR, level)}, less {other}", better, found, verdict=True))
    return rows


def at(source: str, level: float) -> str:
    """The subject of a row."""
    return f"{source}, {100 * level:g} % noise"


def _row(metric: str, subject: str, estimate: Estimate, found: Found, verdict: bool = False) -> Row:
    note = ""
    if verdict:
        gain = -estimate.value if better(metric) == "lower" else estimate.value
        inside = not (estimate.low > 0 or estimate.high < 0)
        note = "no difference outside the interval" if inside else "better" if gain > 0 else "worse"
    videos = f"{estimate.n} videos" if estimate.n != found.clips else ""
    row = row_from(estimate, metric=metric, subject=subject, note="; ".join(filter(None, (note, videos))))
    return replace(row, n=found.clips)


def difference_rows(a: Found, b: Found, labels: tuple[str, str]) -> list[Row]:
    """How the generators of two runs differ, at every level that both have, on the same clips and by the same seeds."""
    return [
        _row(metric, f"{at(source, level)}, {labels[0]} less {labels[1]}", found, a, verdict=True)
        for (source, level), sums in a.sums.items()
        for metric in sums
        if source == GENERATOR and (source, level) in b.sums
        for found in (estimate_of(metric, sums[metric], b.sums[source, level][metric]),)
    ]


def beside_published(written: Sequence[tuple[str, Path]]) -> str:
    """Table 3 with what was measured on the paper's data sets, of files by the label of their run."""
    files = [(label, path, *read_results(path)) for label, path in written]
    measured = [Measured(label, str(path), facts, rows) for label, path, facts, rows in files]
    return markdown([fill(TABLES["probes"], [one for one in measured if one.facts["kind"] == "probe"])])
