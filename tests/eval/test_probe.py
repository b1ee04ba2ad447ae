"""The command: every number it promises, the same again, from where it was stopped, and two generators side by side."""

import pickle
import re
from dataclasses import replace

import numpy as np
import pytest

from eval.probe import TASKS, ProbeConfig, probe
from eval.probes import measure
from eval.probes.rows import beside_published
from eval.results.rows import Row, read_results, write_results
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
        kind = measure.TASKS[task]
        assert facts["kind"] == "probe" and facts["data"] == "moving_shapes" and facts["samples"] == 4
        assert (facts["block"], facts["depth"], facts["seeds"], facts["noise"]) == (1, 2, [0, 1], [0.0, 10.0])
        assert facts["train_clips"] == (4 if kind.TRAINED else 0) and facts["run"] == str(chain.generator)
        subjects = {row.subject: row for row in rows if row.metric == kind.METRICS[0]}
        sources = ("generator", "untrained generator", "latents")
        wanted = {kind.TRIVIAL, *(f"{source}, {level} % noise" for source in sources for level in (0, 10))}
        others = (kind.TRIVIAL, *sources[1:])
        wanted |= {f"generator, {level} % noise, less {other}" for other in others for level in (0, 10)}
        assert set(subjects) == wanted and len(rows) == len(wanted) * len(kind.METRICS)
        own, trivial = (subjects[name].value for name in ("generator, 10 % noise", kind.TRIVIAL))
        less = subjects[f"generator, 10 % noise, less {kind.TRIVIAL}"]
        assert less.value == pytest.approx(own - trivial) and less.low <= less.value <= less.high
        assert less.note.split("; ")[0] in ("better", "worse", "no difference outside the interval")
        assert ("seeds of the head" in subjects["latents, 0 % noise"].method) == kind.TRAINED
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
    assert units() == 3
    for change in ({"seeds": (1,)}, {"head_steps": 3}, {"noise": (20.0,)}, {"train_clips": 3}):
        before = units()
        probe(replace(config, **change))
        assert units() == before + 3, change
    before = units()
    probe(replace(config, block=2))  # latents, and those of an untrained generator, whose block is the identity
    assert units() == before + 2


def test_two_generators_are_compared_on_the_same_clips_and_seeds(config, chain, capsys):
    pair = (f"with={chain.generator}", f"without={chain.generator}")
    written = probe(replace(config, run=None, runs=pair, task=("flow", "tracking")))
    facts = [(path, *read_results(path)) for path in written]
    found = {about["of"]: (about, rows) for _, about, rows in facts if about["kind"] == "difference"}
    assert set(found) == {"probe flow", "probe tracking"}
    for about, rows in found.values():
        assert about["a"] == about["b"] == str(chain.generator)
        assert {row.subject for row in rows} == {f"generator, {n} % noise, with less without" for n in (0, 10)}
        assert all(row.value == row.low == row.high == 0 for row in rows)  # one generator twice
        assert all(row.note == "no difference outside the interval" for row in rows)
    for path in written:  # others make pages of this folder
        path.unlink(missing_ok=True)  # a generator beside itself has one file


def test_runs_that_cannot_be_compared_are_refused_before_any_work(config, chain, monkeypatch, tmp_path):
    from eval import probe as module

    with pytest.raises(InputError, match="a label holds a slash"):
        replace(config, run=None, runs=(f"a={chain.generator}", f"b/c={chain.generator}"))
    plan, seen = module.Subject.plan, []

    def of_another_size(self, task):
        judged, *rest = plan(self, task)
        seen.append(1)
        return judged.with_clip(replace(judged.clip, num_frames=9)) if len(seen) > 1 else judged, *rest

    monkeypatch.setattr(module.Subject, "plan", of_another_size)
    monkeypatch.setattr(module.Subject, "probe", None)
    pair = (f"with={chain.generator}", f"without={chain.generator}")
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
