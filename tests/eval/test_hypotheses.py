"""Verdicts on a study's hypotheses follow from the numbers by the rules that its file states."""

import pytest

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


@pytest.mark.parametrize("hypothesis", [NEARER, Hypothesis(name="H7", claim="c", faster=("D", "A"))])
def test_no_verdict_falls_before_all_seeds_of_the_study_are_there(hypothesis):
    two = {seed: value for seed, value in A.items() if seed < 2}
    values, faster = {"A": two, "D": shifted(-20, of=two)}, {0: 30.0, 1: 31.0}
    assert judged(hypothesis, values, faster, 2).word == FOR
    verdict = judged(hypothesis, values, faster, 3)
    assert verdict.word == OPEN and "2 of 3 seeds" in verdict.number and verdict.seeds == 2


def test_faster_needs_every_seed_to_get_there():
    faster = Hypothesis(name="H7", claim="c", faster=("D", "A"))
    assert judged(faster, {}, {0: 30.0, 1: 32.0, 2: 31.0}).word == FOR
    assert judged(faster, {}, {0: -30.0, 1: -32.0}).word == AGAINST
    assert judged(faster, {}, {0: 30.0, 1: -32.0}).word == OPEN
    assert judged(faster, {}, {0: 30.0, 1: None}).number == "in 1 of 2 seeds it cannot be said"
    assert judged(faster, {}, {}).word == OPEN


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
