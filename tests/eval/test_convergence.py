"""Distance against training step, and what "x % faster" means."""

from __future__ import annotations

import math

import pytest

from eval.convergence import (
    ConvergenceConfig,
    comparability,
    convergence,
    faster_than,
    same_clips,
    step_reaching,
)
from eval.results.rows import read_results
from eval.verify import DIFFERS, VERIFIED, checks_of
from runtime.checkpoint import list_checkpoints
from runtime.errors import InputError
from runtime.processes import World
from tokenizer.zoo import load, video_folder

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
    ours, final = points([400.0, 100.0]), [{"step": 2000, "value": 200.0, "low": None, "high": None}]
    assert faster_than(ours, final).percent == pytest.approx(25.0)
    assert faster_than(ours[:1], final).percent is None


@pytest.mark.parametrize(
    "steps, values, target", [([1, 2], [1.0], 1.0), ([], [], 1.0), ([1], [-1.0], 1.0), ([1], [1.0], 0.0)]
)
def test_an_impossible_curve_is_refused(steps, values, target):
    with pytest.raises(InputError, match="positive"):
        step_reaching(steps, values, target)


def test_every_process_measures_the_checkpoints_that_the_main_one_found(chain, monkeypatch):
    """Another process may see one more, of a run that is being trained, and then wait for the others for ever."""

    class Told(Exception):
        pass

    def measure(run, steps, config):
        raise Told(run, steps)

    monkeypatch.setattr("eval.convergence.measure_run", measure)
    monkeypatch.setattr(World, "same", lambda self, value: {"another": [2, 4]} if isinstance(value, dict) else value)
    with pytest.raises(Told) as told:
        convergence(ConvergenceConfig(runs_dir=str(chain.runs), **COMMON))
    assert told.value.args == ("another", [2, 4])


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


def test_the_curve_of_another_decoder_stands_beside_the_generators_own(chain, judge, tmp_path):
    video = [step for step, folder in list_checkpoints(chain.tokenizer) if folder == video_folder(chain.tokenizer)]
    before = f"{chain.tokenizer}@{video[0]}"  # the same encoder, its decoder not fine-tuned yet
    flags = {"runs_dir": str(chain.runs), "samples": 4, "steps": 1, **COMMON}
    (own,) = convergence(ConvergenceConfig(**flags))
    written = own.read_bytes()
    (other,) = convergence(ConvergenceConfig(**flags, tokenizer=before))
    facts, rows = read_results(other)
    assert other.name == f"convergence-shapes-n4_euler1-vae-{video[0]}-{load(before).decoder_hash[:8]}.json"
    assert own.read_bytes() == written and read_results(own)[0]["curve"] != facts["curve"]
    assert facts["encoder_hash"] == read_results(own)[0]["encoder_hash"] == load(before).encoder_hash
    assert facts["decoder_hash"] == load(before).decoder_hash != read_results(own)[0]["decoder_hash"]
    out = tmp_path / "curve.json"
    assert convergence(ConvergenceConfig(**flags, tokenizer=before, out=str(out))) == [out]
    assert read_results(out)[0]["curve"] == facts["curve"]
    states = {check.what: check.state for check in checks_of(out)}
    assert DIFFERS not in states.values() and states[f"decoder of {before}"] == VERIFIED
    assert {states[f"{row.metric}, {row.subject}"] for row in rows} == {VERIFIED}
    other.unlink()  # others make pages of this folder


def test_curves_by_other_sampling_have_other_names_and_say_so(chain, judge):
    flags = {"runs_dir": str(chain.runs), "samples": 4, "steps": 2, **COMMON}
    ways = {"guidance_scale": 2.0, "guidance_interval": (0.25, 0.75), "labels": "drawn"}
    (out,) = convergence(ConvergenceConfig(**flags, **ways))
    facts, _ = read_results(out)
    assert out.name == "convergence-shapes-n4_euler2_guidance2_interval0.25-0.75_labelsdrawn.json"
    assert (facts["guidance_scale"], facts["guidance_interval"], facts["labels"]) == (2.0, [0.25, 0.75], "drawn")
    assert "guidance at times 0.25 to 0.75 alone, noise being 0" in facts["differences"]
    assert all("guidance2_interval0.25-0.75_labelsdrawn" in name for name in facts["samples_of"].values()
               if "untrained" not in name)  # fmt: skip
    out.unlink()


def points(values, spread=0.0):
    """A curve with a point every 1,000 steps and ends `spread` (a share) away."""
    return [
        {"step": 1000 * (i + 1), "value": v, "low": v * (1 - spread), "high": v * (1 + spread)}
        for i, v in enumerate(values)
    ]


def test_x_percent_faster_has_the_ends_of_both_curves():
    ours, rival = points([400.0, 200.0, 100.0, 50.0], 0.1), points([400.0, 300.0, 250.0, 200.0], 0.1)
    found = faster_than(ours, rival)
    assert found.percent == pytest.approx(50.0) and not found.at_least
    # Ours at its upper ends reaches the rival's lower end later, and the other way round.
    slow = step_reaching([1000, 2000, 3000], [440.0, 220.0, 110.0], 180.0)
    fast = step_reaching([1000, 2000, 3000], [360.0, 180.0, 90.0], 220.0)
    assert found.low == pytest.approx(100 * (1 - slow / 4000)) and found.high == pytest.approx(100 * (1 - fast / 4000))
    assert found.low < found.percent < found.high
    assert (
        found.words("a", "b")
        == f"a is 50.0 % faster to reach the final value of b ({found.low:.1f} … {found.high:.1f})"
    )


def test_x_percent_faster_is_open_where_an_end_never_gets_there():
    ours, rival = points([400.0, 205.0], 0.1), points([400.0, 210.0], 0.1)
    found = faster_than(ours, rival)
    assert found.percent > 0 and found.low is None and found.high > found.percent
    assert "(– … " in found.words("a", "b")
    assert faster_than(rival, ours).words("b", "a") == "b never reaches the final value of a"


def test_a_first_checkpoint_that_is_there_already_bounds_from_below():
    found = faster_than(points([100.0, 50.0]), points([400.0, 200.0]))
    assert found.at_least and found.percent == pytest.approx(50.0)
    assert "at least 50.0 % faster" in found.words("a", "b")


def test_ends_below_zero_and_curves_without_intervals_are_no_trouble():
    ours = [{"step": 10, "value": 5.0, "low": None, "high": None}, {"step": 20, "value": 1.0, "low": -2.0, "high": 4.0}]
    found = faster_than(ours, ours)
    assert found.percent == pytest.approx(0.0) and found.high > 0
    assert faster_than([{"step": 10, "value": -1.0, "low": None, "high": None}], ours).percent is None


def test_what_bears_on_the_comparison_is_said():
    facts = {
        **dict.fromkeys(("data", "fingerprint", "clip", "features"), "x"),
        **{"seed": 0, "samples": 8, "device": "cpu"},
    }
    a = {**facts, "run": "a", "trained_on": {"machine": {"cores": 2}, "batch_size": 4}}
    b = {**facts, "run": "b", "trained_on": {"machine": {"cores": 8}, "batch_size": 8}, "fingerprint": "y"}
    assert comparability({"a": a}) == []
    notes = comparability({"a": a, "b": b})
    assert any("different machines" in line for line in notes) and any("batches of 4 and 8" in line for line in notes)
    assert any("different clips" in line for line in notes) and not same_clips(a, b)
    (alike,) = comparability({"a": a, "b": {**a, "run": "b"}})
    assert alike.startswith("all curves were measured on cpu")


def test_a_run_beside_itself_is_not_faster(chain, judge, capsys, tmp_path):
    import shutil

    twin = chain.runs / "twin"
    shutil.copytree(chain.generator, twin, ignore=shutil.ignore_patterns("samples", "eval"))
    try:
        written = convergence(
            ConvergenceConfig(
                runs_dir=str(chain.runs), runs=(str(chain.generator), str(twin)), samples=8, steps=2, **COMMON
            )
        )
        records = [read_results(path)[0] for path in written]
    finally:
        shutil.rmtree(twin)
    printed = capsys.readouterr().out
    assert printed.count("faster to reach") == 2 and "all curves were measured on cpu" in printed
    first, second = (record["faster_than"] for record in records)
    assert first[str(twin)] == second[str(chain.generator)] and len(first) == len(second) == 1
    assert records[0]["device"] == "cpu" and records[0]["notes"] == records[1]["notes"]
