"""Verdicts on a study's hypotheses follow from the numbers by the rules that its file states."""

import numpy as np
import pytest

from eval.convergence import Lead, lead
from eval.study.hypotheses import AGAINST, FOR, OPEN, Hypothesis, hypotheses_table, judged, read_hypothesis
from runtime.errors import InputError

NEARER = Hypothesis(name="H1", claim="D helps", nearer=("D", "A"), equal=0.1)
WITH_CONTROL = Hypothesis(name="H3", claim="where it can", nearer=("D", "A"), control=("UD", "UA"))
A = {0: 100.0, 1: 110.0, 2: 105.0}


def shifted(by: float, spread: float = 1.0, of: dict = A) -> dict[int, float]:
    """Another arm's values, whose differences to `of` have this mean and spread."""
    return {seed: value + by + spread * (seed - 1) for seed, value in of.items()}


@pytest.mark.parametrize(
    ("other", "word"),
    [
        (shifted(-20), FOR),
        (shifted(20), AGAINST),
        (shifted(0), AGAINST),  # within 10 % of A on both sides: no difference that matters
        (shifted(0, spread=20), OPEN),
        (shifted(-9), FOR),
        ({0: 80.0}, OPEN),  # one seed
        ({}, OPEN),
    ],
)
def test_nearer_is_judged_within_seeds(other, word):
    verdict = judged(NEARER, {"A": A, "D": other}, {})
    assert verdict.word == word
    assert verdict.seeds == (len(other) if other else 0)


def test_an_interval_around_zero_says_nothing_where_no_equality_was_stated():
    assert judged(Hypothesis(name="H", claim="c", nearer=("D", "A")), {"A": A, "D": shifted(0)}, {}).word == OPEN


def test_the_number_of_a_verdict_is_the_paired_mean_with_students_interval():
    verdict = judged(NEARER, {"A": A, "D": shifted(-20)}, {})
    half = 4.302652729911275 / 3**0.5  # 2 degrees of freedom, standard deviation 1
    assert verdict.number == f"D - A = -20 [{-20 - half:.2f}, {-20 + half:.2f}], -19.0% of A"


@pytest.mark.parametrize(
    ("control", "word"),
    [
        (shifted(0, of=A), FOR),  # nothing is gained there
        (shifted(-20, of=A), AGAINST),  # as much
        (shifted(-60, of=A), AGAINST),  # more
        (shifted(-20, spread=30, of=A), OPEN),
    ],
)
def test_a_gain_has_to_exceed_that_of_its_control(control, word):
    values = {"A": A, "D": shifted(-20), "UA": A, "UD": control}
    assert judged(WITH_CONTROL, values, {}).word == word


def test_no_share_is_taken_of_a_distance_that_is_not_above_zero():
    values = {"A": {0: 1.0, 1: -1.0}, "D": {0: -20.0, 1: -22.0}}
    assert judged(NEARER, values, {}).word == OPEN


def test_without_a_gain_there_is_nothing_to_explain():
    values = {"A": A, "D": shifted(0, spread=20), "UA": A, "UD": shifted(-20)}
    assert judged(WITH_CONTROL, values, {}).word == OPEN


def test_an_order_has_to_fall_in_every_seed_and_counts_against_when_it_rises_in_every_one():
    order = Hypothesis(name="H5", claim="c", order=("low", "mid", "high"))
    falling, rising, mixed = (3.0, 2.0, 1.0), (1.0, 2.0, 3.0), (2.0, 3.0, 1.0)
    for rows, word in (
        ((falling, falling), FOR),
        ((rising, rising), AGAINST),
        ((falling, rising), OPEN),
        ((mixed, (1.0, 3.0, 2.0), (3.0, 1.0, 2.0)), OPEN),  # as by chance more often than not
    ):
        values = {name: {seed: row[place] for seed, row in enumerate(rows)} for place, name in enumerate(order.order)}
        assert judged(order, values, {}).word == word


FASTER = Hypothesis(name="H7", claim="c", faster=("D", "A"))


def leads(*percents: float | None, ends: float = -0.01) -> dict[int, Lead]:
    """Of each seed, so many percent ahead, and by each of them so much lower at the end."""
    return {seed: Lead(percent, None if percent is None else ends * percent) for seed, percent in enumerate(percents)}


@pytest.mark.parametrize("hypothesis", [NEARER, FASTER])
def test_no_verdict_falls_before_all_seeds_of_the_study_are_there(hypothesis):
    two = {seed: value for seed, value in A.items() if seed < 2}
    values, faster = {"A": two, "D": shifted(-20, of=two)}, leads(30.0, 31.0)
    assert judged(hypothesis, values, faster, 2).word == FOR
    verdict = judged(hypothesis, values, faster, 3)
    assert verdict.word == OPEN and "2 of 3 seeds" in verdict.number and verdict.seeds == 2


def test_faster_needs_every_seed_to_get_there():
    assert judged(FASTER, {}, leads(30.0, 32.0, 31.0)).word == FOR
    assert judged(FASTER, {}, leads(-30.0, -32.0)).word == AGAINST
    assert judged(FASTER, {}, leads(30.0, -32.0)).word == OPEN
    assert judged(FASTER, {}, leads(30.0, None)).number == "in 1 of 2 seeds it cannot be said"
    assert judged(FASTER, {}, {}).word == OPEN


@pytest.mark.parametrize("sign", [1, -1])
def test_faster_needs_the_ends_to_differ_by_more_than_chance_too(sign):
    """The curves of a study with three seeds: all of the same sign, and of final values whose interval holds 0."""
    ours = [(264, 240, 214, 212), (247, 219, 206, 206), (245, 230, 221, 219)]
    theirs = [(259, 215, 203, 204), (250, 195, 185, 185), (236, 192, 176, 175)]
    found = {seed: lead(*map(points, pair[::sign])) for seed, pair in enumerate(zip(ours, theirs, strict=True))}
    assert max(sign * each.percent for each in found.values()) < 0 < min(sign * each.end for each in found.values())
    verdict = judged(FASTER, {}, found, 3)
    assert verdict.word == OPEN and "log of the final values' ratio" in verdict.number


def test_faster_is_found_by_chance_in_one_study_of_twenty():
    """Generators of three seeds that do not differ, with curves that are flat at their ends."""
    draw, level = np.random.default_rng(0), np.array([460, 277, 252, 230, 208, 197, 191, 190])

    def drawn() -> list[dict]:
        return points(level + 12 * draw.standard_normal() * np.linspace(0.2, 1, 8) + 4 * draw.standard_normal(8))

    words = [judged(FASTER, {}, {seed: lead(drawn(), drawn()) for seed in range(3)}, 3).word for _ in range(400)]
    assert sum(word != OPEN for word in words) < 0.08 * len(words)


def points(values) -> list[dict]:
    """A curve through these values."""
    return [{"step": 125 * place, "value": float(v), "low": None, "high": None} for place, v in enumerate(values, 1)]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "one of nearer, order, faster"),
        ({"nearer": ["D", "A"], "faster": ["D", "A"]}, "one of nearer, order, faster"),
        ({"nearer": ["D", "D"]}, "nearer names two different arms"),
        ({"nearer": ["D"]}, "nearer names two different arms"),
        ({"order": ["D"]}, "order names two or more different arms"),
        ({"nearer": ["D", "A"], "equal": 1.5}, "equal is 1.5"),
        ({"faster": ["D", "A"], "control": ["D", "A"]}, "control and equal belong to nearer"),
        ({"nearer": ["D", "A"], "colour": "red"}, "unknown fields: colour"),
        ({"nearer": "DA"}, "nearer is 'DA'"),
    ],
)
def test_a_hypothesis_that_is_wrong_is_refused_in_one_line(fields, words):
    with pytest.raises(InputError) as caught:
        read_hypothesis({"name": "H", "claim": "c", **fields}, "plan.toml, hypothesis 1")
    assert words in str(caught.value) and "plan.toml" in str(caught.value) and "\n" not in str(caught.value)


def test_verdicts_are_a_table_with_their_numbers():
    verdict = judged(NEARER, {"A": A, "D": shifted(-20)}, {})
    (line,) = hypotheses_table({"H1": (NEARER, verdict)}).lines
    assert [str(cell) for cell in line.cells.values()] == ["D helps", FOR, verdict.number, "3"]
