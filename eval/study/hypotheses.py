"""Hypotheses of a study's file, and what the runs say of them, by rules that the file states before there are any.

[[hypothesis]]
name = "H1"
claim = "prediction helps"
nearer = ["C", "A"]             # the first arm's distance is the smaller one
equal = 0.1                     # an interval of C - A around 0 within 10 % of A counts against it; default: it does not
[[hypothesis]]
name = "H3"
claim = "it helps because motion can be predicted"
nearer = ["C", "A"]
control = ["blind-C", "blind-A"]  # where the claim says that less is gained, or nothing
[[hypothesis]]
name = "H5"
claim = "more is better"
order = ["half", "most", "C"]   # distances fall from one to the next in every seed; against it: they rise in every one
[[hypothesis]]
name = "H7"
claim = "generators learn faster"
faster = ["C", "A"]             # C's generator reaches A's final value earlier, and ends lower; `eval.convergence.Lead`

Arms are compared within a seed; a verdict is on the mean over seeds and its 95 % interval by Student's t, and falls
when all seeds of the study are there, not before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from eval.metrics.intervals import mean_interval
from eval.results.tables import MEASURED, Cell, Column, Line, Table
from runtime.errors import InputError
from runtime.records import from_record

if TYPE_CHECKING:
    from eval.convergence import Lead

FORMS = ("nearer", "order", "faster")
FOR, AGAINST, OPEN = "speaks for it", "COUNTS AGAINST IT", "cannot be told"


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """One claim in one of three forms (module docstring), with arms by name.

    Attributes:
        equal: Share of the second arm's value within which an interval around 0 counts against `nearer`; 0: none does.
        control: Two arms whose gain `nearer` has to exceed, as shares of the second one's values.
    """

    name: str
    claim: str
    nearer: tuple[str, ...] = ()
    order: tuple[str, ...] = ()
    faster: tuple[str, ...] = ()
    equal: float = 0.0
    control: tuple[str, ...] = ()


def read_hypothesis(record: dict, source: str | Path) -> Hypothesis:
    """Check one table of a study's file, but for the names of arms.

    Raises:
        InputError: In one line that names the file and what is wrong.
    """
    made = from_record(Hypothesis, record, source)
    given = [form for form in FORMS if getattr(made, form)]
    if len(given) != 1:
        raise InputError(f"{source}: a hypothesis has one of {', '.join(FORMS)}")
    if (made.control or made.equal) and given != ["nearer"]:
        raise InputError(f"{source}: control and equal belong to nearer")
    for form in (*given, *(["control"] if made.control else [])):
        arms = getattr(made, form)
        if len(set(arms)) != len(arms) or len(arms) < 2 or (form != "order" and len(arms) > 2):
            raise InputError(f"{source}: {form} names {'two or more' if form == 'order' else 'two'} different arms")
    if not 0 <= made.equal < 1:
        raise InputError(f"{source}: equal is {made.equal}, expected a share from 0 to below 1")
    return made


def arms_of(hypothesis: Hypothesis) -> tuple[str, ...]:
    """Every arm that it speaks of."""
    return tuple(dict.fromkeys((*hypothesis.nearer, *hypothesis.order, *hypothesis.faster, *hypothesis.control)))


@dataclass(frozen=True)
class Verdict:
    """What is said of a hypothesis: FOR, AGAINST or OPEN, the number that says so in words, and over how many seeds."""

    word: str
    number: str = ""
    seeds: int = 0


def judged(
    hypothesis: Hypothesis, values: dict[str, dict[int, float]], leads: dict[int, Lead], wanted: int = 2
) -> Verdict:
    """The verdict on what was measured.

    Args:
        values: By arm and seed, the distance of generated clips; arms that do not count are not in it.
        leads: By seed, how far the first arm's curve is ahead of the second's.
        wanted: How many seeds the study has; two at least.
    """
    wanted = max(2, wanted)
    if hypothesis.faster:
        return judged_faster(leads, wanted)
    if absent := [name for name in arms_of(hypothesis) if not values.get(name)]:
        return Verdict(OPEN, f"no number of {', '.join(absent)}")
    seeds = sorted(set.intersection(*(set(values[name]) for name in arms_of(hypothesis))))
    if len(seeds) < wanted:
        return Verdict(OPEN, f"{len(seeds)} of {wanted} seeds", len(seeds))
    if hypothesis.order:
        return judged_order([[values[name][seed] for name in hypothesis.order] for seed in seeds])
    return judged_nearer(hypothesis, values, seeds)


def judged_nearer(hypothesis: Hypothesis, values: dict[str, dict[int, float]], seeds: Sequence[int]) -> Verdict:
    """Of two arms, and of their gain beside that of a control."""
    ours, theirs = hypothesis.nearer
    if min(values[name][seed] for name in arms_of(hypothesis) for seed in seeds) <= 0:
        return Verdict(OPEN, "a distance at infinity is not above 0, so that nothing is a share of it", len(seeds))
    gains = [values[ours][seed] - values[theirs][seed] for seed in seeds]
    gain = Cell(*mean_interval(gains))
    level = sum(values[theirs][seed] for seed in seeds) / len(seeds)
    words = f"{ours} - {theirs} = {gain}, {gain.value / level:+.1%} of {theirs}"
    if gain.low > 0:
        return Verdict(AGAINST, words, len(seeds))
    if gain.high >= 0:
        is_equal = -hypothesis.equal * level < gain.low and gain.high < hypothesis.equal * level
        return Verdict(AGAINST if is_equal else OPEN, words, len(seeds))
    if not hypothesis.control:
        return Verdict(FOR, words, len(seeds))
    shares = [gain / values[theirs][seed] for gain, seed in zip(gains, seeds, strict=True)]
    ours, theirs = hypothesis.control
    others = [(values[ours][seed] - values[theirs][seed]) / values[theirs][seed] for seed in seeds]
    more = Cell(*mean_interval([share - other for share, other in zip(shares, others, strict=True)]))
    share, other = (sum(each) / len(seeds) for each in (shares, others))
    words = f"{words}; {ours} - {theirs} is {other:+.1%}; difference of shares {more}"
    if more.high < 0:
        return Verdict(FOR, words, len(seeds))
    is_same = more.low > 0 or more.high - more.low < abs(share) / 2
    return Verdict(AGAINST if is_same else OPEN, words, len(seeds))


def judged_order(rows: Sequence[Sequence[float]]) -> Verdict:
    """Of the distances of several arms, for each seed: whether they fall, or rise, all the way."""
    falling = sum(all(first > second for first, second in pairwise(row)) for row in rows)
    rising = sum(all(first < second for first, second in pairwise(row)) for row in rows)
    words = f"falls in {falling} and rises in {rising} of {len(rows)} seeds"
    return Verdict(FOR if falling == len(rows) else AGAINST if rising == len(rows) else OPEN, words, len(rows))


def judged_faster(leads: dict[int, Lead], wanted: int) -> Verdict:
    """Of how much faster an arm gets there, where it also ends lower, or higher, by more than chance.

    Curves are flat at their ends, so that any gap there is worth tens of percent, with the sign of the gap: by percents
    alone, of three pairs of generators that do not differ, 15 % come to a verdict in place of 5 %.
    """
    if len(leads) < wanted:
        return Verdict(OPEN, f"curves of {len(leads)} of {wanted} seeds", len(leads))
    said = [lead for lead in leads.values() if lead.percent is not None and lead.end is not None]
    if lost := len(leads) - len(said):
        return Verdict(OPEN, f"in {lost} of {len(leads)} seeds it cannot be said", len(leads))
    percent = Cell(*mean_interval([lead.percent for lead in said]))
    end = Cell(*mean_interval([lead.end for lead in said]))
    ahead, behind = percent.low > 0 and end.high < 0, percent.high < 0 and end.low > 0
    words = f"{percent} % faster, log of the final values' ratio {end}"
    return Verdict(FOR if ahead else AGAINST if behind else OPEN, words, len(leads))


def hypotheses_table(verdicts: dict[str, tuple[Hypothesis, Verdict]]) -> Table:
    """Claims and verdicts as a table."""
    columns = (Column("claim"), Column("verdict"), Column("by"), Column("seeds"))
    lines = [
        Line(
            name,
            MEASURED,
            "",
            {
                "claim": Cell(hypothesis.claim),
                "verdict": Cell(verdict.word),
                "by": Cell(verdict.number),
                "seeds": Cell(str(verdict.seeds)),
            },
        )
        for name, (hypothesis, verdict) in verdicts.items()
    ]
    return Table("hypotheses", "Hypotheses, by the rules of the study's file", "", columns, lines, of="hypothesis")
