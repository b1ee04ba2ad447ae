"""Rows of results out of what probes found, their numbers again from kept units, and the published table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from eval.metrics.intervals import Estimate
from eval.probes.clips import TRUTHS
from eval.probes.features import GENERATOR, SOURCES
from eval.probes.measure import Found
from eval.probes.units import Unit, estimate_of, sums_of
from eval.quantities import better
from eval.results.published import TABLES
from eval.results.rows import Row, read_results, row_from
from eval.results.tables import Measured, fill, markdown
from runtime.errors import InputError

TRIVIALS = tuple(truth.trivial_answer for truth in TRUTHS.values())
# In the subject of a row: a difference to another source, and to another generator.
LESS, A_LESS_B = ", less ", ", a - b"


def rows_of(task: str, found: Found) -> list[Row]:
    """Every number, and how the generator's differ from the others at its noise level."""
    rows, nothing = [], (TRUTHS[task].trivial_answer, 0.0)
    levels = dict.fromkeys(level for source, level in found.sums if source == GENERATOR)
    for metric in TRUTHS[task].metrics:
        for who, sums in found.sums.items():
            rows.append(row_of(metric, at(*who), estimate_of(metric, sums[metric]), found.files[who]))
        for level in levels:
            own = (GENERATOR, level)
            for other in (nothing, *((source, level) for source in SOURCES[1:])):
                apart = estimate_of(metric, found.sums[own][metric], found.sums[other][metric])
                files = (*found.files[own], *found.files[other])
                rows.append(row_of(metric, f"{at(*own)}{LESS}{other[0]}", apart, files, told(metric, apart)))
    return [counted(row, len(found.videos)) for row in rows]


def at(source: str, level: float) -> str:
    """The subject of a row."""
    return source if source in TRIVIALS else f"{source}, {100 * level:g} % noise"


def row_of(metric: str, subject: str, estimate: Estimate, files: Sequence[object], note: str = "") -> Row:
    """A number that can be computed again from units; `n` counts videos."""
    return replace(row_from(estimate, metric=metric, subject=subject, note=note), sources=tuple(map(str, files)))


def counted(row: Row, clips: int) -> Row:
    """With the number of clips as `n`, and that of videos in the note where there are fewer of them."""
    videos = f"{row.n} videos" if row.n != clips else ""
    return replace(row, n=clips, note="; ".join(filter(None, (row.note, videos))))


def told(metric: str, apart: Estimate) -> str:
    """In words, whether a number is better than the one that was taken off."""
    gain = -apart.value if better(metric) == "lower" else apart.value
    inside = not (apart.low > 0 or apart.high < 0)
    return "no difference outside the interval" if inside else "better" if gain > 0 else "worse"


def estimate_again(metric: str, subject: str, units: Sequence[Unit], videos: Sequence[int]) -> Estimate:
    """The number of a row from the kept units that it names, in their order.

    Args:
        metric, subject: Of the row.
        videos: Of each clip the place of its video.

    Raises:
        InputError: If they are not of what the row says.
    """
    subject, of_two, _ = subject.partition(A_LESS_B)
    subject, _, other = subject.partition(LESS)
    if not other and not of_two:
        sides, wanted = [units], [subject]
    else:
        count = len(units) - 1 if other in TRIVIALS else len(units) // 2
        sides = [units[:count], units[count:]]
        if other not in TRIVIALS and len(units) % 2:
            raise InputError(f"{len(units)} kept units are not as many of the one as of the other")
        level = subject.partition(", ")[2]
        wanted = [subject, subject if of_two else other if other in TRIVIALS else f"{other}, {level}"]
    for side, name in zip(sides, wanted, strict=True):
        if not side or any(subject_of(unit) != name for unit in side):
            raise InputError(f"kept units are of {', '.join(dict.fromkeys(map(subject_of, units)))}")
        if any(metric not in unit.sums for unit in side):
            raise InputError(f"kept units hold {', '.join(side[0].sums)}, no {metric}")
    return estimate_of(metric, *(sums_of(side, videos)[metric] for side in sides))


def subject_of(unit: Unit) -> str:
    """What a kept unit is of, as rows call it."""
    source, level = unit.key.get("source"), unit.key.get("level")
    return at(source, level) if isinstance(source, str) and isinstance(level, int | float) else str(source)


def beside_published(written: Sequence[tuple[str, Path]]) -> str:
    """Table 3 with what was measured on the paper's data sets, of files by the label of their run."""
    files = [(label, path, *read_results(path)) for label, path in written]
    measured = [Measured(label, str(path), facts, rows) for label, path, facts, rows in files]
    return markdown([fill(TABLES["probes"], [one for one in measured if one.facts["kind"] == "probe"])])
