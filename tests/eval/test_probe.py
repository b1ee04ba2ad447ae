"""The command: every number it promises, the same again, from where it was stopped, and two generators side by side."""

import json
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eval.difference import DifferenceConfig, difference
from eval.probe import TASKS, ProbeConfig, probe
from eval.probes import measure
from eval.probes.clips import TRUTHS
from eval.probes.rows import beside_published
from eval.probes.units import read_unit
from eval.results.rows import Row, read_results, write_results
from eval.verify import DIFFERS, UNCHECKED, VERIFIED, Check, checks_of
from runtime.errors import InputError
from runtime.processes import World
from runtime.stopping import Stopped

SMALL = {"device": "auto", "dtype": "float32", "samples": 4, "train_clips": 4, "head_steps": 2, "head_width": 8}
SMALL |= {"batch_size": 4, "noise": (0.0, 10.0), "seeds": (0, 1)}


@pytest.fixture
def config(chain, tmp_path):
    return ProbeConfig(runs_dir=str(tmp_path), run=str(chain.generator), **SMALL)


def results(paths) -> dict[str, tuple[dict, list[Row]]]:
    return {facts["of"]: (facts, rows) for facts, rows in map(read_results, paths)}


def test_every_process_probes_the_checkpoint_that_the_main_one_chose(config, monkeypatch):
    class Told(Exception):
        pass

    def load(run, step):
        raise Told(run, step)

    monkeypatch.setattr("generator.loading.load_generator", load)
    monkeypatch.setattr(World, "same", lambda self, value: ("another", 2) if isinstance(value, tuple) else value)
    with pytest.raises(Told) as told:
        probe(config)
    assert told.value.args == ("another", 2)


def test_every_task_has_its_numbers_and_what_they_are_worth(config, chain, capsys):
    found = results(probe(config))
    assert set(found) == set(TASKS)
    for task, (facts, rows) in found.items():
        kind = TRUTHS[task]
        assert facts["kind"] == "probe" and facts["data"] == "moving_shapes" and facts["samples"] == 4
        assert (facts["block"], facts["depth"], facts["seeds"], facts["noise"]) == (1, 2, [0, 1], [0.0, 10.0])
        assert facts["train_clips"] == (4 if kind.is_trained else 0) and facts["run"] == str(chain.generator)
        subjects = {row.subject: row for row in rows if row.metric == kind.metrics[0]}
        sources = ("generator", "untrained generator", "latents")
        wanted = {kind.trivial_answer, *(f"{source}, {level} % noise" for source in sources for level in (0, 10))}
        others = (kind.trivial_answer, *sources[1:])
        wanted |= {f"generator, {level} % noise, less {other}" for other in others for level in (0, 10)}
        assert set(subjects) == wanted and len(rows) == len(wanted) * len(kind.metrics)
        own, trivial = (subjects[name].value for name in ("generator, 10 % noise", kind.trivial_answer))
        less = subjects[f"generator, 10 % noise, less {kind.trivial_answer}"]
        assert less.value == pytest.approx(own - trivial) and less.low <= less.value <= less.high
        assert less.note.split("; ")[0] in ("better", "worse", "no difference outside the interval")
        assert ("seeds of the head" in subjects["latents, 0 % noise"].method) == kind.is_trained
    printed = capsys.readouterr().out
    assert "5.1805" in printed and "with predictive reconstruction" in printed


def numbers(paths) -> list:
    return [
        [(row.metric, row.subject, row.value, row.low, row.high) for row in read_results(path)[1]] for path in paths
    ]


def test_it_goes_on_where_it_was_stopped_and_comes_to_the_same_numbers(config, tmp_path, monkeypatch):
    config = replace(config, task=("flow",))
    whole = numbers(probe(replace(config, runs_dir=str(tmp_path / "whole"))))
    made, unit = [], measure._unit

    def stops(*arguments):
        if len(made) == 3:
            raise Stopped("SIGTERM")
        made.append(1)
        return unit(*arguments)

    monkeypatch.setattr(measure, "_unit", stops)
    with pytest.raises(Stopped):
        probe(config)
    assert len(list((tmp_path / "probes").glob("unit-*.json"))) == 3
    more = []
    monkeypatch.setattr(measure, "_unit", lambda *arguments: more.append(1) or unit(*arguments))
    assert numbers(probe(config)) == whole and len(more) == 12 - 3
    monkeypatch.setattr(measure, "_unit", None)  # nothing is left to make
    assert numbers(probe(config)) == whole


def test_other_seeds_noise_and_heads_are_other_units(config, tmp_path):
    config = replace(config, task=("next-frame",), noise=(10.0,), seeds=(0,))

    def units() -> int:
        return len(list((tmp_path / "probes").glob("unit-*.json")))

    probe(config)
    assert units() == 4  # and the answer that knows nothing
    for change in ({"seeds": (1,)}, {"head_steps": 3}, {"noise": (20.0,)}, {"train_clips": 3}):
        before = units()
        probe(replace(config, **change))
        assert units() == before + 3, change
    before = units()
    probe(replace(config, block=2))  # latents, and those of an untrained generator, whose block is the identity
    assert units() == before + 2


def test_two_generators_are_compared_on_the_same_clips_and_seeds(config, chain, tmp_path):
    runs = {name: tmp_path / name for name in ("with", "without")}
    for run in runs.values():
        shutil.copytree(chain.generator, run, ignore=shutil.ignore_patterns("samples", "eval"))
    shutil.rmtree(runs["without"] / "checkpoints" / "step_00000004")
    pair = tuple(f"{name}={run}" for name, run in runs.items())
    written = probe(replace(config, run=None, runs=pair, task=("flow", "tracking"), noise=(10.0,)))
    known = {path: read_results(path) for path in written}
    found = {about["of"]: (path, about, rows) for path, (about, rows) in known.items() if about["kind"] == "difference"}
    assert set(found) == {"probe flow", "probe tracking"}
    for of, (path, about, rows) in found.items():
        sides = [{(row.metric, row.subject): row for row in read_results(about[side])[1]} for side in "ab"]
        assert all(about[side].startswith(str(run)) for side, run in zip("ab", runs.values(), strict=True))
        apart = [row for row in rows if row.subject.endswith(", a - b")]
        truth = TRUTHS[of.removeprefix("probe ")]
        assert len(apart) == len(truth.metrics)
        for row in apart:
            a, b = (side[row.metric, row.subject.removesuffix(", a - b")] for side in sides)
            assert row.value == pytest.approx(a.value - b.value) and row.low <= row.value <= row.high
            assert row.note.startswith(("a is better", "b is better", "no difference"))
            units = [read_unit(path.parent / source) for source in row.sources]
            assert len(units) == (4 if truth.is_trained else 2) and row.n == 4  # two seeds of each
        assert any(row.value for row in apart)
        states = {check.what: check.state for check in checks_of(path) if "a - b" in check.what}
        assert len(states) == len(apart) and set(states.values()) == {VERIFIED}
    flow = [about[side] for _, about, _ in (found["probe flow"],) for side in "ab"]
    facts, rows = known[Path(flow[1])]
    write_results(flow[1], kind="probe", rows=rows, **{k: v for k, v in facts.items() if k != "kind"} | {"seeds": [0]})
    with pytest.raises(InputError, match=r"not of the same clips and heads: seeds is \[0, 1\] and \[0\]"):
        difference(DifferenceConfig(a=flow[0], b=flow[1]))


@pytest.fixture(scope="module")
def probed(chain, tmp_path_factory):
    """A folder with results of flow, and what was kept of them."""
    folder = tmp_path_factory.mktemp("probed")
    flags = SMALL | {"runs_dir": str(folder), "run": str(chain.generator), "task": ("flow", "tracking")}
    probe(ProbeConfig(**flags, out=str(folder / "results" / "probe.json")))
    return folder


def test_every_number_is_computed_again_from_what_was_kept_of_each_head(probed, tmp_path, monkeypatch):
    folder = tmp_path / "moved"
    shutil.copytree(probed, folder)
    monkeypatch.chdir(tmp_path)
    for task in ("flow", "tracking"):
        path = folder / "results" / f"probe-{task}.json"
        rows = read_results(path)[1]
        found = {check.what: check for check in checks_of(path)}
        assert {found[f"{row.metric}, {row.subject}"].state for row in rows} == {VERIFIED}
        assert all(check.state == VERIFIED for check in found.values()) and len(found) == len(rows) + 2  # and hashes


@pytest.mark.parametrize(
    ("subject", "field", "by"),
    [
        ("generator, 10 % noise", "value", 1e-4),
        ("zero flow", "low", -1e-3),
        ("latents, 0 % noise", "n", 1),
        ("generator, 0 % noise, less zero flow", "high", 1e-3),
        ("generator, 10 % noise, less untrained generator", "value", -1e-4),
    ],
)
def test_a_number_of_a_probe_that_was_changed_differs(subject, field, by, probed, tmp_path):
    path = tmp_path / "results" / "probe-flow.json"
    shutil.copytree(probed, tmp_path, dirs_exist_ok=True)

    def change(record):
        row = next(row for row in record["rows"] if row["subject"] == subject)
        row[field] += by

    (wrong,) = changed(path, change)
    assert wrong.what == f"EPE, {subject}" and f"{field} " in wrong.words


def changed(path, change) -> list[Check]:
    """What differs after a change of a results file."""
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    return [check for check in checks_of(path, weights=False) if check.state == DIFFERS]


def test_verdicts_sources_and_kept_errors_that_were_changed_differ(probed, tmp_path):
    path = tmp_path / "results" / "probe-flow.json"
    shutil.copytree(probed, tmp_path, dirs_exist_ok=True)
    text = path.read_text()

    def rows_of(record) -> dict:
        return {row["subject"]: row for row in record["rows"]}

    def verdict(record):
        rows_of(record)["generator, 10 % noise, less latents"]["note"] = "by far the best"

    def other_noise(record):
        rows = rows_of(record)
        rows["generator, 10 % noise"]["sources"] = rows["generator, 0 % noise"]["sources"]

    def fewer_clips(record):
        record["videos"].pop()

    def one_head_more(record):
        found = rows_of(record)["generator, 10 % noise, less latents"]
        found["sources"].append(found["sources"][-1])

    assert [check.what for check in changed(path, verdict)] == ["EPE, generator, 10 % noise, less latents"]
    path.write_text(text)
    (wrong,) = changed(path, other_noise)
    assert wrong.words == "kept units are of generator, 0 % noise"
    path.write_text(text)
    (wrong,) = changed(path, one_head_more)
    assert wrong.words == "5 kept units are not as many of the one as of the other"
    path.write_text(text)
    assert len(changed(path, fewer_clips)) == len(json.loads(text)["rows"])
    path.write_text(text)
    (kept,) = rows_of(json.loads(text))["zero flow"]["sources"]
    unit = json.loads((path.parent / kept).read_text())
    unit["sums"]["EPE"][0][0] *= 1.01
    (path.parent / kept).write_text(json.dumps(unit))
    wrong = {check.what for check in checks_of(path, weights=False) if check.state == DIFFERS}
    assert wrong == {"EPE, zero flow", *(f"EPE, generator, {n} % noise, less zero flow" for n in (0, 10))}
    (path.parent / kept).unlink()
    absent = [check for check in checks_of(path, weights=False) if check.state == UNCHECKED]
    assert {check.what for check in absent} == wrong | {kept}


def test_runs_that_cannot_be_compared_are_refused_before_any_work(config, chain, monkeypatch, tmp_path):
    from eval import probe as module

    with pytest.raises(InputError, match="a label holds a slash"):
        replace(config, run=None, runs=(f"a={chain.generator}", "b/c=another"))
    plan, seen = module.Subject.plan, []

    def of_another_size(self, task):
        judged, *rest = plan(self, task)
        seen.append(1)
        return judged.with_clip(replace(judged.clip, num_frames=9)) if len(seen) > 1 else judged, *rest

    monkeypatch.setattr(module.Subject, "plan", of_another_size)
    monkeypatch.setattr(module.Subject, "probe", None)
    shutil.copytree(chain.generator, tmp_path / "other", ignore=shutil.ignore_patterns("samples", "eval"))
    pair = (f"with={chain.generator}", f"without={tmp_path / 'other'}")
    with pytest.raises(InputError, match="with and without would be judged on other clips"):
        probe(replace(config, run=None, runs=pair, task=("flow",)))


def test_a_head_is_not_judged_on_what_it_was_trained_on(config, tmp_path):
    rng = np.random.default_rng(0)
    video = rng.integers(0, 255, (17, 32, 32, 3)).astype(np.uint8)
    one = {"video": video, "points": np.zeros((1, 17, 2)), "occluded": np.zeros((1, 17), bool)}
    (tmp_path / "tapvid_davis.pkl").write_bytes(pickle.dumps({"goat": one, "bear": one}, 4))
    there = {"data": ("tapvid_davis",), "root": (str(tmp_path),), "task": ("next-frame",)}
    with pytest.raises(InputError, match="its splits train and test share videos"):
        probe(replace(config, **there))


def test_numbers_of_the_papers_data_stand_in_its_table(tmp_path):
    rows = [Row(metric="EPE", subject="generator, 10 % noise", value=4.25, low=4.0, high=4.5, n=12)]
    about = {"data": "sintel", "decoder_hash": "0", "run": "runs/mine", "tokenizer": "vae", "differences": []}
    write_results(tmp_path / "a.json", kind="probe", rows=rows, **about)
    text = beside_published([("", tmp_path / "a.json")])
    assert re.search(r"\*\*vae\*\* \| 4\.25 \[4, 4\.5\] \| – \| – \| 12", text), text
    assert "**with**" in beside_published([("with", tmp_path / "a.json")])
    write_results(tmp_path / "a.json", kind="probe", rows=rows, **(about | {"data": "moving_shapes"}))
    assert "4.25" not in beside_published([("", tmp_path / "a.json")])
