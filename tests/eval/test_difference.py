"""Two of the same clips are compared from what was kept of them; anything else is refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from eval.difference import DifferenceConfig, difference, find_results, name_of, verdict
from eval.features.store import FeatureSet, FeatureStore, load_feature_set
from eval.fvd import FVDConfig, fvd
from eval.measurements import layout_of
from eval.metrics.frechet import frechet_distance
from eval.metrics.intervals import Estimate, compare_paired, estimate
from eval.quantities import better, distance_rows
from eval.results.rows import read_results, row_from, write_results
from runtime.command import parse, run_command
from runtime.errors import InputError

COMMON = {"device": "cpu", "dtype": "float32", "steps": 2, "samples": 12}


@pytest.fixture(scope="module")
def judged(chain, judge_weights, tmp_path_factory):
    """Results of the same generator after two and after four steps, and with another seed."""
    folder = tmp_path_factory.mktemp("judged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eval.features.shapes.WEIGHTS", judge_weights)
        for name, more in (("two", {"step": 2}), ("four", {"step": 4}), ("seeded", {"step": 4, "seed": 1})):
            out = str(folder / f"{name}.json")
            fvd(FVDConfig(runs_dir=str(chain.runs), run=str(chain.generator), out=out, **COMMON, **more))
    return folder


def run_compare(folder, a, b, **more):
    paths = {"a": str(folder / f"{a}.json"), "b": str(folder / f"{b}.json")}
    return read_results(difference(DifferenceConfig(**paths, out=str(folder / "out.json"), **more)))


def test_two_generators_by_the_same_seeds(judged, capsys):
    facts, rows = run_compare(judged, "two", "four")
    assert facts["kind"] == "difference" and facts["of"] == "fvd"
    found = {(row.metric, row.subject): row for row in rows}
    metrics = {metric for metric, _ in found}
    assert {"FD-shapes", "KD-shapes", "FD-shapes to reconstructions", "IS-shapes", "accuracy-motion"} <= metrics
    for metric in metrics:
        a, b, apart = (found[metric, f"generated, {side}"] for side in ("a", "b", "a - b"))
        assert apart.value == pytest.approx(a.value - b.value, abs=1e-9) and apart.n == 12
        assert apart.low <= apart.value <= apart.high and re.search("better|no difference|no verdict", apart.note)
    printed = capsys.readouterr().out
    assert "FD-shapes, generated: no verdict: not extrapolated" in printed and "not other training seeds" in printed


def test_the_difference_is_that_of_the_kept_features(judged):
    _, rows = run_compare(judged, "two", "four")
    sides = []
    for name in ("two", "four"):
        row = next(row for row in read_results(judged / f"{name}.json")[1] if row.metric == "FD-shapes")
        sides.append([load_feature_set(judged / source) for source in row.sources])
    arrays = [found.features for side in sides for found in side]
    labels = {"labels": sides[0][0].labels, "labels_b": sides[0][1].labels}
    expected = compare_paired(frechet_distance, *arrays, paired=False, **labels)
    found = next(row for row in rows if (row.metric, row.subject) == ("FD-shapes", "generated, a - b"))
    assert (found.value, found.low, found.high) == (expected.value, expected.low, expected.high)


def test_a_run_stands_for_its_newest_results(chain, judged, tmp_path):
    run = tmp_path / "run"
    (run / "eval").mkdir(parents=True)
    record = json.loads((judged / "two.json").read_text())
    for name, created, kind in (("old", "2020", "fvd"), ("new", "2030", "fvd"), ("other", "2040", "convergence")):
        (run / "eval" / f"{name}.json").write_text(json.dumps(record | {"created": created, "kind": kind}))
    assert find_results(str(run), "runs") == {"fvd": run / "eval" / "new.json"}
    (run / "eval" / "step_00000007").mkdir()
    older = (run / "eval" / "old.json").rename(run / "eval" / "step_00000007" / "old.json")
    assert find_results(f"{run}@7", "runs") == {"fvd": older}
    assert name_of(older) == "run-step_00000007" and name_of(run / "eval" / "new.json") == "run"
    assert name_of(tmp_path / "results" / "mine.json") == "mine"
    with pytest.raises(InputError, match="eval.fvd, eval.reconstruction and eval.probe can be compared"):
        find_results(str(run / "eval" / "other.json"), "runs")
    with pytest.raises(InputError, match="no results there; measure it with"):
        find_results(str(tmp_path / "nothing"), "runs")


def test_other_seeds_and_the_same_results_are_refused(judged):
    with pytest.raises(InputError, match="not of the same clips: seed is 0 and 1") as error:
        run_compare(judged, "four", "seeded")
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="the same results"):
        run_compare(judged, "four", "four")
    with pytest.raises(InputError, match="--b is needed"):
        parse(["--a", "x"], DifferenceConfig)


def reconstruction(
    folder, name, *, error, count=60, seed=0, clips=None, num_frames=12, observed=9, kept=True, width=4, made=None
):
    """Results of a tokenizer that moves features by `error`, or makes these of real clips' features, and loses as many
    decibels, as eval.reconstruction's."""
    layout, rng = layout_of(num_frames, observed, [], width), np.random.default_rng(7)
    clip, own = rng.normal(size=(count, width)), np.random.default_rng(len(name)).normal(size=(count, 1))
    psnr = 30 + 3 * rng.normal(size=(count, 1)) - error + 0.1 * own
    change, repeat = 1 + rng.random((count, 1)), 1 + rng.random((count, num_frames - 9))
    measured = {"psnr": psnr, "change_error": error * change, "change": change}
    measured |= {"predicted": repeat * error, "repeat": repeat}
    measured |= {"real_features": clip, "features": made(clip) if made else clip + error + 0.1 * own}
    parts = [measured.get(column, np.zeros((count, width))) for column, width in layout.items()]
    key = {"layout": layout, "num_frames": num_frames, "observed": observed, "network": "i3d", "weights": "w"}
    key |= {"decoder": name, "seed": seed, "stratified": False}
    store, clips = FeatureStore(folder, name, key), clips or [f"clip-{i}" for i in range(count)]
    with store.segment(clips) as segment:
        rows = np.concatenate(parts, 1).astype(np.float32)
        segment.write(range(count), FeatureSet(rows, None, np.full(count, -1)))
        segment.finish()
    found = store.gather(clips)
    rows = [row_from(estimate(np.mean, psnr[:, 0]), metric="PSNR", subject="reconstructed", of=(found,))]
    others = [("change explained", "reconstructed"), ("rFVD", "reconstructed"), ("PSNR", "frozen")]
    for metric, subject in others + ([] if observed is None else [("error / repeat", "predicted")]):
        rows.append(replace(rows[0], metric=metric, subject=subject))
    rows = rows if kept else [replace(row, sources=()) for row in rows]
    write_results(folder / f"{name}.json", kind="reconstruction", rows=rows, data="kinetics400")
    return measured


def test_two_tokenizers_on_the_same_clips(tmp_path):
    good = reconstruction(tmp_path, "good", error=0.1)
    poor = reconstruction(tmp_path, "poorer", error=0.5)
    _, rows = run_compare(tmp_path, "good", "poorer")
    apart = {row.metric: row for row in rows if row.subject.endswith("a - b")}
    assert set(apart) == {"PSNR", "change explained", "error / repeat", "rFVD"}  # and no control
    assert all(row.note.removeprefix("at infinity, ").startswith("a is better") for row in apart.values())
    quality = good["psnr"][:, 0], poor["psnr"][:, 0]
    psnr = compare_paired(lambda x, _: x.mean(), quality[0], quality[0], quality[1], quality[1])
    assert (apart["PSNR"].value, apart["PSNR"].low) == (
        pytest.approx(psnr.value, abs=1e-5),
        pytest.approx(psnr.low, abs=1e-5),
    )
    assert apart["change explained"].value == pytest.approx(0.4, abs=1e-5)
    assert apart["error / repeat"].value == pytest.approx(-0.4, abs=1e-5)
    distances = [frechet_distance(x["features"], x["real_features"]) for x in (good, poor)]
    assert apart["rFVD"].value == pytest.approx(distances[0] - distances[1], abs=1e-4)
    # Clips differ by 3 dB, and what the two make of a clip by a tenth: pairing sees the difference.
    assert apart["PSNR"].high - apart["PSNR"].low < 0.1 < estimate(np.mean, quality[0]).high - quality[0].mean()


@pytest.mark.parametrize(("count", "words"), [(256, "at infinity, b is better"), (60, "no verdict: not")])
def test_what_a_tokenizer_changes_clip_by_clip_is_no_distance_between_distributions(tmp_path, count, words):
    """Features a little too small are wrong in distribution; as much noise as keeps their variance is not, though at
    this number of clips its distance is the larger one."""
    noise = np.random.default_rng(1).normal(size=(count, 40))
    about = {"error": 0.1, "count": count, "width": 40}
    reconstruction(tmp_path, "too small", made=lambda clip: 0.9 * clip, **about)
    reconstruction(tmp_path, "noisy", made=lambda clip: 0.9 * clip + (1 - 0.9**2) ** 0.5 * noise, **about)
    _, rows = run_compare(tmp_path, "too small", "noisy")
    (apart,) = (row for row in rows if row.metric == "rFVD" and row.subject.endswith("a - b"))
    assert apart.high < 0 and re.match(words, apart.note)


def test_no_difference_is_said_where_there_is_none(tmp_path):
    reconstruction(tmp_path, "one", error=0.3)
    reconstruction(tmp_path, "two four", error=0.3)
    _, rows = run_compare(tmp_path, "one", "two four")
    (psnr,) = (row for row in rows if row.metric == "PSNR" and row.subject.endswith("a - b"))
    assert psnr.low < 0 < psnr.high and psnr.note == "no difference can be told from 60 clips"


@pytest.mark.parametrize(
    "more, words",
    [
        ({"count": 50}, "of 60 and 50 clips"),
        ({"seed": 3}, "seed is 0 and 3"),
        ({"clips": [f"other-{i}" for i in range(60)]}, "not of the same clips"),
        ({"num_frames": 13}, "num_frames is"),
        ({"kept": False}, "no number in common whose clips were kept"),
    ],
)
def test_sets_that_are_not_of_the_same_clips_are_refused(tmp_path, more, words):
    reconstruction(tmp_path, "one", error=0.1)
    reconstruction(tmp_path, "other", error=0.2, **more)
    with pytest.raises(InputError, match=words):
        run_compare(tmp_path, "one", "other")


def test_columns_that_one_of_them_lacks_are_left_out(tmp_path):
    reconstruction(tmp_path, "one", error=0.1)
    reconstruction(tmp_path, "other", error=0.2, observed=None)
    _, rows = run_compare(tmp_path, "one", "other")
    assert {row.metric for row in rows if row.subject.endswith("a - b")} == {"PSNR", "change explained", "rFVD"}


def test_different_kinds_are_refused(judged, tmp_path):
    reconstruction(tmp_path, "one", error=0.1)
    with pytest.raises(InputError, match="nothing of the same kind"):
        difference(DifferenceConfig(a=str(tmp_path / "one.json"), b=str(judged / "two.json")))


@pytest.mark.parametrize(
    "metric, value, wins",
    [("FVD", -3.0, "a"), ("FVD", 3.0, "b"), ("PSNR", 3.0, "a"), ("LPIPS (alex)", 3.0, "b"), ("IS", -3.0, "b")],
)
def test_the_verdict_knows_which_way_is_better(metric, value, wins):
    difference = Estimate(value, value - 1, value + 1, 60, "")
    assert verdict(better(metric), difference) == f"{wins} is better, by 3"
    assert "no difference" in verdict(better(metric), replace(difference, low=-1.0, high=4.0))


def judged_by(folder, name, features, reference, **facts):
    """Results of a generator whose clips have these features."""
    found = []
    for picture, rows in (("generated", features), ("real", reference)):
        key = {"network": "i3d", "weights": "w", "data": "ucf101", "picture": picture, "decoder": name}
        clips = [f"{picture} {i}" for i in range(len(rows))]
        store = FeatureStore(folder / "features", f"{name}-{picture}", key)
        with store.segment(clips) as segment:
            segment.write(range(len(rows)), FeatureSet(rows.astype(np.float32), None, np.full(len(rows), -1)))
            segment.finish()
        found.append(store.gather(clips))
    rows = distance_rows(*found, "generated", infinity=True)
    write_results(folder / f"{name}.json", kind="fvd", rows=rows, data="ucf101", seed=0, **facts)


def test_samples_that_were_drawn_in_different_ways_are_compared_with_a_word(tmp_path, capsys):
    random = np.random.default_rng(0)
    alike = {"steps": 100, "guidance_scales": [1.0, 4.0]}
    judged_by(tmp_path, "plain", random.normal(size=(30, 4)), reference := random.normal(size=(30, 4)), **alike)
    judged_by(tmp_path, "same", random.normal(size=(30, 4)), reference, **alike | {"guidance_scales": [1.0]})
    other = {"steps": 32, "labels": "drawn", "guidance_scales": [4.0]}
    judged_by(tmp_path, "other", random.normal(size=(30, 4)), reference, **other)
    assert not any("different ways" in words for words in run_compare(tmp_path, "plain", "same")[0]["differences"])
    words = run_compare(tmp_path, "plain", "other")[0]["differences"]
    assert "drawn in different ways: steps is 100 of a, 32 of b" in words
    assert "drawn in different ways: guidance scale is 1.0 of a, 4.0 of b" in words
    assert "drawn in different ways: labels is as by default of a, drawn of b" in words
    assert "steps is 100 of a" in capsys.readouterr().out


def test_the_verdict_is_that_of_infinitely_many_clips(tmp_path):
    """Few clips of a generator whose features vary in all directions have the larger bias, whatever its distance is."""
    random = np.random.default_rng(0)
    reference = random.normal(size=(96, 40))
    wide = random.normal(size=(96, 40)) * 1.05
    narrow = np.concatenate([random.normal(size=(96, 8)), 0.45 * random.normal(size=(96, 32))], 1)
    judged_by(tmp_path, "wide", wide, reference)
    judged_by(tmp_path, "narrow", narrow, reference)
    _, rows = run_compare(tmp_path, "wide", "narrow")
    plain, extrapolated = (
        next(row for row in rows if (row.metric, row.subject) == (metric, "generated, a - b"))
        for metric in ("FVD", "FVD at infinity")
    )
    assert extrapolated.value < plain.value and plain.note == f"at infinity, {extrapolated.note}"


def test_the_command_refuses_in_one_line_and_explains_itself(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        run_command(difference, DifferenceConfig, argv=["--a", str(tmp_path / "x"), "--b", "y"])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    with pytest.raises(SystemExit) as ended:
        run_command(difference, DifferenceConfig, argv=["--help"])
    assert ended.value.code == 0 and "--a TEXT" in capsys.readouterr().out
