"""Results are rechecked from what is kept, and whatever was changed since is found."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial

import h5py
import numpy as np
import pytest

from eval.fvd import FVDConfig, fvd
from eval.reconstruction import ReconstructionConfig, reconstruction
from eval.results.rows import read_results
from eval.verify import DIFFERS, UNCHECKED, VERIFIED, VerifyConfig, checks_of, results_files, verify
from runtime.errors import InputError

COMMON = {"device": "cpu", "dtype": "float32", "samples": 12}


@pytest.fixture(scope="module")
def measured(chain, judge_weights, tmp_path_factory):
    """A folder of runs with results of a tokenizer and of a generator."""
    runs = tmp_path_factory.mktemp("measured") / "runs"
    shutil.copytree(chain.runs, runs, ignore=shutil.ignore_patterns("eval", "samples"))  # of other tests
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eval.features.shapes.WEIGHTS", judge_weights)
        patch.setenv("PVVAE_WEIGHTS", str(judge_weights.parent))
        patch.setenv("HOME", str(judge_weights.parent))
        patch.chdir(runs.parent)
        flags = {"runs_dir": "runs", **COMMON}
        reconstruction(ReconstructionConfig(tokenizer=f"runs/{chain.tokenizer.name}", **flags))
        fvd(FVDConfig(run=f"runs/{chain.generator.name}", steps=2, **flags))
    return runs


@pytest.fixture
def runs(measured, judge, tmp_path, monkeypatch):
    """A copy to damage, in a folder from which the results' own paths are seen."""
    shutil.copytree(measured, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def states(path, **more) -> dict[str, str]:
    return {check.what: check.state for check in checks_of(path, **more)}


def results_of(runs, kind: str):
    (path,) = [path for path in results_files(runs) if read_results(path)[0]["kind"] == kind]
    return path


def edit(path, change) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


@pytest.mark.parametrize("kind", ["reconstruction", "fvd"])
def test_every_measured_number_is_computed_again_and_equal(runs, kind):
    path = results_of(runs, kind)
    _, rows = read_results(path)
    found = states(path)
    numbers = [f"{row.metric}, {row.subject}" for row in rows if row.value is not None]
    assert len(numbers) > 10 and {found[what] for what in numbers} == {VERIFIED}
    assert DIFFERS not in found.values()
    unmeasured = {f"{row.metric}, {row.subject}" for row in rows if row.value is None}
    assert {what for what, state in found.items() if state == UNCHECKED} == unmeasured
    assert any("/set-" in what for what in found) and any(what.startswith("features shapes@") for what in found)


def test_a_folder_is_rechecked_whole_and_moved_runs_are_found(runs, capsys):
    checks = verify(VerifyConfig(results=str(runs)))
    said = capsys.readouterr().out
    assert len([check for check in checks if check.state == VERIFIED]) > 40
    assert said.count("runs/") >= 2 and " verified, 0 differs, " in said.splitlines()[-1]
    shutil.move(runs, runs.parent / "elsewhere")
    path = results_of(runs.parent / "elsewhere", "fvd")
    assert states(path)["FD-shapes, generated"] == VERIFIED


@pytest.mark.parametrize("field, by", [("value", 1e-4), ("low", -1e-3), ("high", 1e-3), ("n", 1)])
@pytest.mark.parametrize("kind", ["reconstruction", "fvd"])
def test_a_number_that_was_changed_differs(runs, kind, field, by):
    path = results_of(runs, kind)

    def change(record):
        row = next(row for row in record["rows"] if row["sources"])
        row[field] += by if field == "n" else by * (abs(row[field]) + 1)

    edit(path, change)
    wrong = [check for check in checks_of(path, weights=False) if check.state == DIFFERS]
    assert len(wrong) == 1 and f"{field} " in wrong[0].words and "follows from what is kept" in wrong[0].words


def test_a_difference_within_the_tolerance_is_verified_and_said(runs):
    path = results_of(runs, "fvd")
    edit(path, lambda record: record["rows"][0].update(value=record["rows"][0]["value"] * (1 + 1e-8)))
    check = next(c for c in checks_of(path, weights=False) if c.what == "FD-shapes, generated")
    assert check.state == VERIFIED and "to within 1e-08" in check.words


def test_the_command_ends_with_one_line_and_the_first_difference(runs, capsys):
    path = results_of(runs, "fvd")
    edit(path, lambda record: record["rows"][0].update(value=1.0))
    with pytest.raises(InputError, match=r"1 of \d+ differ, the first is FD-shapes, generated: value 1.0 is written"):
        verify(VerifyConfig(results=str(path)))
    assert "differs              FD-shapes, generated" in capsys.readouterr().out


def test_features_that_were_changed_without_their_checksum_differ(runs):
    path = results_of(runs, "fvd")
    source = next(row for row in read_results(path)[1] if row.subject == "generated").sources[1]  # the reference
    for kept in (path.parent / source).parent.glob("segment-*.h5"):
        with h5py.File(kept, "r+") as file:
            file["features"][:, 0] += 1.0
    found = states(path, weights=False)
    assert found[source] == DIFFERS
    assert found["FD-shapes, generated"] == UNCHECKED and found["IS-shapes, generated"] == VERIFIED


def test_absent_features_and_samples_cannot_be_rechecked(runs):
    path = results_of(runs, "fvd")
    row = next(row for row in read_results(path)[1] if row.subject == "shuffled")
    (path.parent / row.sources[0]).unlink()
    shutil.rmtree(path.parents[1] / "samples")
    found = states(path, weights=False)
    assert found["FD-shapes, shuffled"] == UNCHECKED and DIFFERS not in found.values()
    assert [state for what, state in found.items() if what.endswith("seed0.h5")] == [UNCHECKED] * 2


def test_other_samples_under_the_same_name_differ(runs):
    path = results_of(runs, "fvd")
    samples = next((path.parents[1] / "samples").glob("*guidance1_seed0.h5"))
    with h5py.File(samples, "r+") as file:
        file["mean"][3] = np.zeros_like(file["mean"][3])
    assert states(path, weights=False)[samples.name] == DIFFERS


def test_other_weights_under_the_same_name_differ(runs, tmp_path, monkeypatch):
    path = results_of(runs, "reconstruction")
    edit(path, lambda record: record.update(decoder_hash="0" * 16))
    facts, rows = read_results(path)
    found = states(path)
    assert found[f"decoder of {facts['tokenizer']}"] == DIFFERS and found[f"{rows[0].sources[0]}, decoder"] == DIFFERS
    assert found[f"encoder of {facts['tokenizer']}"] == VERIFIED
    monkeypatch.chdir(tmp_path.parent)  # from where the tokenizer's path leads nowhere
    assert states(path)[f"tokenizer {facts['tokenizer']}"] == UNCHECKED


def test_features_of_another_network_than_the_row_names_differ(runs):
    path = results_of(runs, "fvd")
    edit(path, lambda record: record["rows"][0].update(features="shapes@" + "0" * 16))
    check = next(c for c in checks_of(path, weights=False) if c.what == "FD-shapes, generated")
    assert check.state == DIFFERS and "not of shapes@000" in check.words


def test_numbers_without_a_source_or_a_recipe_are_listed(runs):
    path = results_of(runs, "fvd")
    edit(path, lambda record: (record["rows"][0].pop("sources"), record["rows"][1].update(metric="FD-new")))
    found = {check.what: check for check in checks_of(path, weights=False)}
    assert found["FD-shapes, generated"].words == "it names no kept features"
    assert found["FD-new, generated"].words == "no recipe for this number"


def test_stratified_and_extrapolated_numbers_have_recipes(tmp_path):
    from eval.features.store import FeatureSet
    from eval.metrics.extrapolation import frechet_at_infinity
    from eval.metrics.frechet import frechet_distance
    from eval.metrics.intervals import estimate
    from eval.results.rows import row_from
    from eval.verify import check_row

    random, labels = np.random.default_rng(0), np.arange(60) % 4
    a, b = (
        FeatureSet(random.standard_normal((60, 3)) + shift, None, labels, key={"weights": "x"}) for shift in (0, 0.5)
    )
    by_class, at_infinity = (
        metric(a.features, b.features, labels=labels, labels_b=labels)
        for metric in (partial(estimate, frechet_distance), frechet_at_infinity)
    )
    for metric, found in (("FVD", by_class), ("FVD at infinity", at_infinity)):
        found = replace(found, method=found.method + ", class-stratified in equal shares")
        row = row_from(found, metric=metric, subject="generated", features="i3d@x")
        assert check_row("", row, [a, b]).state == VERIFIED
        assert check_row("", replace(row, low=row.low - 0.1), [a, b]).state == DIFFERS
    # An interval by a method that is no longer ours cannot be had again, its number can.
    older = row_from(replace(by_class, low=0.0), metric="FVD", subject="generated", features="i3d@x")
    check = check_row("", older, [a, b])
    assert check.state == UNCHECKED and "older method" in check.words
    assert check_row("", replace(older, value=1.0), [a, b]).state == DIFFERS


@pytest.mark.parametrize(
    "kind, metric, subject",
    [
        ("reconstruction", "LPIPS (vgg)", "reconstructed"),
        ("reconstruction", "error / repeat, frame +99", "predicted"),
        ("reconstruction", "FVD", "generated"),
        ("reconstruction", "accuracy-shape", "reconstructed"),
        ("fvd", "PSNR", "reconstructed"),
        ("fvd", "accuracy-shape", "generated"),
    ],
)
def test_a_number_that_its_kept_rows_do_not_hold_is_one_line(runs, kind, metric, subject):
    path = results_of(runs, kind)

    def change(record):
        row = next(row for row in record["rows"] if row["sources"])
        row.update(metric=metric, subject=subject)

    edit(path, change)
    check = next(check for check in checks_of(path, weights=False) if check.what == f"{metric}, {subject}")
    assert check.state == DIFFERS and check.words and "\n" not in check.words


@pytest.mark.parametrize("content", [None, "{}", "[]"])
def test_what_is_no_results_file_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match="no results of an evaluation|missing|expected|no such file"):
        verify(VerifyConfig(results=str(tmp_path if content == "{}" else tmp_path / "a.json")))
