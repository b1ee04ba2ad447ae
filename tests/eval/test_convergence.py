"""Distance against training step, and what "x % faster" means."""

from __future__ import annotations

import math

import pytest

from eval.convergence import ConvergenceConfig, convergence, percent_faster, step_reaching
from eval.results import read_results
from runtime.errors import InputError

COMMON = {"device": "cpu", "dtype": "float32"}


def test_between_two_points_the_logarithm_falls_linearly():
    # from 400 to 100 over 1,000 steps: 200 is half the way in the logarithm
    assert step_reaching([1000, 2000], [400.0, 100.0], 200.0) == pytest.approx(1500.0)
    assert step_reaching([1000, 2000, 3000], [400.0, 200.0, 100.0], 200.0) == pytest.approx(2000.0)


def test_an_exponential_curve_is_inverted_exactly():
    steps = [0, 1000, 2500, 6000]
    values = [500.0 * math.exp(-step / 2000) for step in steps]
    assert step_reaching(steps, values, 500.0 * math.exp(-1.7)) == pytest.approx(3400.0)


def test_a_target_below_the_curve_is_never_reached_and_one_above_at_once():
    assert step_reaching([10, 20], [5.0, 4.0], 3.0) is None
    assert step_reaching([10, 20], [5.0, 4.0], 6.0) == 10.0


def test_the_first_crossing_counts_on_a_curve_that_rises_again():
    assert step_reaching([1, 2, 3, 4], [8.0, 2.0, 8.0, 1.0], 4.0) == pytest.approx(1.5)


def test_percent_faster_compares_with_the_rivals_whole_training():
    assert percent_faster([1000, 2000], [400.0, 100.0], other_final=200.0, total=2000) == pytest.approx(25.0)
    assert percent_faster([1000], [400.0], other_final=200.0, total=2000) is None


@pytest.mark.parametrize(
    "steps, values, target", [([1, 2], [1.0], 1.0), ([], [], 1.0), ([1], [-1.0], 1.0), ([1], [1.0], 0.0)]
)
def test_an_impossible_curve_is_refused(steps, values, target):
    with pytest.raises(InputError, match="positive"):
        step_reaching(steps, values, target)


def test_the_curve_has_every_kept_checkpoint_with_its_interval(chain, judge, capsys):
    flags = {"runs_dir": str(chain.runs), "samples": 8, "steps": 2, **COMMON}
    (out,) = convergence(ConvergenceConfig(**flags))
    facts, rows = read_results(out)
    assert [point["step"] for point in facts["curve"]] == [2, 4]
    assert all(point["low"] <= point["value"] <= point["high"] for point in facts["curve"])
    assert facts["metric"] == "FD-shapes" and facts["floor"] is not None and facts["untrained"] > 0
    assert {row.subject for row in rows} == {"generated, step 2", "generated, step 4", "real", "untrained"}
    assert "generated, step 2" in capsys.readouterr().out
    assert read_results(convergence(ConvergenceConfig(**flags))[0])[0]["curve"] == facts["curve"]


def test_a_run_beside_itself_is_not_faster(chain, judge, capsys, tmp_path):
    import shutil

    twin = chain.runs / "twin"
    shutil.copytree(chain.generator, twin, ignore=shutil.ignore_patterns("samples", "eval"))
    try:
        convergence(
            ConvergenceConfig(
                runs_dir=str(chain.runs), runs=(str(chain.generator), str(twin)), samples=8, steps=2, **COMMON
            )
        )
    finally:
        shutil.rmtree(twin)
    assert capsys.readouterr().out.count("faster to reach") == 2
