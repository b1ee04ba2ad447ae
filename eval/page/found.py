"""What a run was found to be worth, in words and in a few numbers: the top of its page.

A number is called better than its rival only where their intervals do not meet.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from eval.features import FRECHET_NAMES
from eval.page.document import Finding
from eval.quantities import better
from eval.results.rows import Row, format_number
from eval.results.tables import Cell

# Of each distance, whichever was measured on the best-known features.
_DISTANCES = sorted(FRECHET_NAMES.values(), key=lambda name: name != "FVD")


def found_in(results: Sequence[tuple[dict, list[Row]]]) -> tuple[str, list[Finding]]:
    """The page's lead, as HTML, and the numbers behind it, from what evaluations of a run wrote.

    Args:
        results: (facts, rows) of each.
    """
    plain = [row for facts, rows in results if facts["kind"] in ("reconstruction", "fvd") for row in rows]
    rows = {(row.metric, row.subject): row for row in reversed(plain) if row.value is not None}
    found = [part for part in (_generated(rows), _judged(rows), _reconstructed(rows), predicted(rows)) if part]
    words = " ".join(sentence for sentence, _ in found)
    return html.escape(words or "Nothing was measured yet."), [finding for _, finding in found]


def verdict(row: Row, rival: Row) -> str:
    """How a number stands to its rival: "better than", "worse than", or "not told apart from"."""
    way = {"lower": 1.0, "higher": -1.0}.get(better(row.metric), 0.0)
    ends = [row.low, row.high, rival.low, rival.high]
    if not way or None in ends or not (row.high < rival.low or rival.high < row.low):
        return "not told apart from"
    return "better than" if way * row.value < way * rival.value else "worse than"


def interval(row: Row | Cell, unit: str = "") -> str:
    """The 95 % interval of a number in words; "" without one."""
    if row.low is None or row.high is None:
        return ""
    return f"95 %: {format_number(row.low)} to {format_number(row.high)}{unit}"


def _generated(rows: dict) -> tuple[str, Finding] | None:
    metric = next((name for name in _DISTANCES if (name, "generated") in rows), None)
    if metric is None:
        return None
    row, real, untrained = (rows.get((metric, subject)) for subject in ("generated", "real", "untrained"))
    held = [interval(row)]
    words = f"{metric} of generated clips is {format_number(row.value)}"
    if untrained:
        words += f", {verdict(row, untrained)} that of an untrained generator ({format_number(untrained.value)})"
        held.append(f"untrained: {format_number(untrained.value)}")
    if real:
        fewer = f"{real.n} " if real.n < row.n else ""
        words += f"; {fewer}other real clips come to {format_number(real.value)}"
        held.append(f"other real clips: {format_number(real.value)}")
    return f"{words}.", Finding(f"{metric} of generated clips, lower is better", format_number(row.value), _list(held))


def _judged(rows: dict) -> tuple[str, Finding] | None:
    metric = next((name for name in ("accuracy-class", "IS", "IS-shapes") if (name, "generated") in rows), None)
    if metric is None:
        return None
    row, real = rows[metric, "generated"], rows.get((metric, "real"))
    if metric == "accuracy-class":
        words = f"The judge sees the class that was asked for in {_percent(row.value)} of them"
        held = [f"95 %: {_percent(row.low)} to {_percent(row.high)}" if interval(row) else ""]
        held.append(f"of real clips: {_percent(real.value)}" if real else "")
        name, value = "the judge sees the class that was asked for", _percent(row.value)
    else:
        value = format_number(row.value)
        words, name = f"Their {metric} is {value}", f"{metric} of generated clips, higher is better"
        held = [interval(row), f"real clips: {format_number(real.value)}" if real else ""]
    return f"{words}.", Finding(name, value, _list(held))


def _reconstructed(rows: dict) -> tuple[str, Finding] | None:
    row, frozen = (rows.get(("PSNR", subject)) for subject in ("reconstructed", "frozen"))
    if row is None:
        return None
    value, words, held = f"{row.value:.2f} dB", "", [interval(row, " dB")]
    if frozen:
        words = f", {verdict(row, frozen)} repeating the first frame ({frozen.value:.2f} dB)"
        held.append(f"first frame repeated: {frozen.value:.2f} dB")
    return f"The tokenizer reconstructs at {value}{words}.", Finding("PSNR of reconstruction", value, _list(held))


def predicted(
    rows: Mapping[tuple[str, str], Row], who: str = "The tokenizer", name: str = ""
) -> tuple[str, Finding] | None:
    """How prediction stands to its rivals, as a sentence and as one of the numbers on top; None if it was not measured.

    Args:
        rows: By metric and subject.
        who: Begins the sentence.
        name: Begins the number's name.
    """
    row, *flat = (rows.get(("error / repeat", subject)) for subject in ("predicted", "blank", "grey"))
    if row is None or row.value is None:
        return None
    repeat = Row(metric=row.metric, subject="repeat", value=1.0, low=1.0, high=1.0)
    value = format_number(row.value)
    words = f"{who} predicts frames that it has not seen with {value} of the squared error of repeating the last one"
    words += f", {verdict(row, repeat)} it"
    held = [interval(row), "last frame repeated: 1"]
    if flat := [one for one in flat if one and one.value is not None]:
        best = min(flat, key=lambda one: one.value)
        words += f" and {verdict(row, best)} a flat picture ({format_number(best.value)}"
        words += ")" if rows.get((row.metric, "grey")) else "; plain grey, which is harder, was not measured)"
        held.append(f"flat picture: {format_number(best.value)}")
    return f"{words}.", Finding(f"{name}error of prediction over that of repeating", value, _list(held))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _list(words: Sequence[str]) -> str:
    return "; ".join(filter(None, words))
