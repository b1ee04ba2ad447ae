"""Speed and memory: every metric of every tokenizer has a row, and what could not be measured says why."""

import dataclasses
import json
import math
import textwrap

import pytest
import torch

from eval import speed as module
from eval.results.rows import read_results
from eval.speed import UNITS, Entry, Reading, SpeedConfig, measure, rows_of, speed, table, time_and_memory
from runtime.errors import InputError

CLASSES = """
    import os

    import torch
    from torch import nn

    from tokenizer import Posterior, TokenizerSpec
    from tokenizer.spec import LatentStatistics


    class Patches(LatentStatistics):
        spec = TokenizerSpec(name="patches", temporal=4, spatial=8, channels=5)

        def __init__(self):
            super().__init__(5)
            self.down = nn.Conv3d(3, 5, (1, 8, 8), stride=(4, 8, 8), bias=False)
            self.up = nn.ConvTranspose3d(5, 3, (1, 8, 8), stride=(1, 8, 8), bias=False)

        def encode(self, video, chunk_groups=None):
            return Posterior(self.down(video))

        def decode(self, latents, chunk_groups=None):
            return self.up(latents).repeat_interleave(4, dim=2)[:, :, 3:]

        encoder_hash = decoder_hash = "0"


    class Wide(Patches):
        spec = TokenizerSpec(name="wide", temporal=4, spatial=48, channels=5)


    class Dies(Patches):
        def decode(self, latents, chunk_groups=None):
            os._exit(7)
"""
FILLED = {"size": 32, "warmup": 1, "repeats": 3, "train_steps": 2, "generator": "demo", "batch_size": 2}
FILLED |= {"device": "cpu", "dtype": "float32"}


@pytest.fixture
def classes(tmp_path, monkeypatch):
    """The name of an importable module with the tokenizers above."""
    (tmp_path / "speed_classes.py").write_text(textwrap.dedent(CLASSES))
    monkeypatch.syspath_prepend(tmp_path)
    return "speed_classes"


def test_tokenizers_are_measured_in_processes_of_their_own_and_one_that_fails_leaves_the_others_alone(
    classes, tmp_path, capfd
):
    out = tmp_path / "speed.json"
    names = (f"mine={classes}:Patches", f"{classes}:Wide", f"dies={classes}:Dies")
    assert (
        speed(SpeedConfig(tokenizers=names, weights=("own", "own", "random"), rounds=2, out=str(out), **FILLED)) == out
    )
    facts, rows = read_results(out)
    assert facts["kind"] == "speed" and facts["tokenizers"][0] == {
        "label": "mine",
        "tokenizer": f"{classes}:Patches",
        "weights": None,
    }
    found = {(row.subject, row.metric): row for row in rows}
    subjects = ("mine", f"{classes}:Wide", "dies (random weights)")
    assert set(found) == {(subject, metric) for subject in subjects for metric in UNITS}
    mine = {metric: found["mine", metric] for metric in UNITS}
    assert all(row.value > 0 and "batch 2 of 17x32x32, float32" in row.note for row in mine.values())
    counts = {"ISpeed": 2 * 3, "TSpeed (tokenizer inside)": 2 * 2, "TSpeed (from latents)": 2 * 2, "tokens": 2}
    assert {metric: mine[metric].n for metric in counts} == counts
    assert mine["ISpeed"].note.startswith("it/s, fastest run; median ")
    for metric in UNITS:  # whose clips do not fit
        row = found[f"{classes}:Wide", metric]
        assert (
            row.value is None
            and row.note == "not measured: height 32 does not fit wide: it must be a multiple of 48; nearest: 48"
        )
    dead = {metric: found["dies (random weights)", metric] for metric in UNITS}
    assert dead["tokens"].value == mine["tokens"].value  # what it said before stays
    assert dead["ISpeed"].value is None and "exit code 7" in dead["ISpeed"].note
    shown = capfd.readouterr()
    assert shown.err.count("round 2 of 2") == 1  # nothing that failed is tried again
    assert "| mine |" in shown.out and "dies (random weights): not measured: its process" in shown.out


def test_counts_are_exact(classes):
    readings = measure(SpeedConfig(tokenizers=("x",), **FILLED), Entry("x", f"{classes}:Patches", None))
    found = {reading.metric: reading.values for reading in readings}
    assert set(found) == set(UNITS)
    weights = 3 * 5 * 8 * 8  # of each of the two layers
    assert found["parameters"] == (2 * weights / 1e6,)
    assert found["tokens"] == (5 * 4 * 4,)
    assert found["multiply-adds"] == (2 * weights * found["tokens"][0] / 1e9,)
    assert [len(found[metric]) for metric in ("ISpeed", *module.INSIDE)] == [3, 2, 1]
    assert all(math.isfinite(value) and value > 0 for values in found.values() for value in values)
    # weights, averages and two moments of the generator are held in training
    assert found["TMem (from latents)"][0] > 4 * 4 * 1_000_000 / 2**30


def test_memory_is_what_is_held_and_the_most_that_a_run_takes():
    weights = torch.zeros(2**18)

    def work() -> None:
        torch.ones(64, 2**20)

    ran, peak = time_and_memory(("speed", "memory"), work, lambda: [weights], 3, 1, torch.device("cpu"))
    assert len(ran.values) == 3 and (peak.metric, ran.metric) == ("memory", "speed")
    assert not peak.values or 0.2 < peak.values[0] - 2**20 / 2**30 < 0.4


def test_the_best_run_counts_and_ratios_stand_beside_the_papers():
    def rows(label: str, *speeds: float):
        return rows_of(label, [Reading("ISpeed", speeds[:2]), Reading("ISpeed", speeds[2:])], "too slow", "here")

    ours, peer = rows("cogvideox (random weights)", 1.0, 3.0, 2.0), rows("wan2.2", 4.0, 4.0, 5.0)
    best = next(row for row in ours if row.metric == "ISpeed")
    assert (best.value, best.n, best.note) == (3.0, 3, "it/s, fastest run; median 2, slowest 1; here")
    assert {row.note for row in ours if row.metric != "ISpeed"} == {"not measured: too slow"}
    shown = table(ours + peer, "here", "demo")
    assert "| cogvideox (random weights) | 3 (0.60; paper 0.79) | – |" in shown  # 0.46 / 0.58
    assert "| wan2.2 | 5 | – |" in shown and "ratios to wan2.2" in shown
    assert "| own | 3 |" in table(rows("own", 3.0) + rows("other", 1.0), "here", "demo")  # the first, without that peer
    assert "| other | 1 (0.33) |" in table(rows("own", 3.0) + rows("other", 1.0), "here", "demo")


def test_what_cannot_be_measured_is_refused_before_any_process(monkeypatch, tmp_path, classes):
    def none(*_):
        raise AssertionError("a process was started")

    monkeypatch.setenv("PVVAE_WEIGHTS", str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(module, "in_a_process", none)
        for flags, words in (
            ({"tokenizers": ("moving-shapes", "wan2.3")}, "neither a folder nor a known name"),
            ({"tokenizers": ("wan2.2",)}, "or --weights random"),
            ({"tokenizers": ("a=moving-shapes", "a=sd1.5")}, "different labels"),
            ({"tokenizers": ("a", "b", "c"), "weights": ("random", "own")}, "gives 2 to 3"),
        ):
            with pytest.raises(InputError, match=words):
                speed(SpeedConfig(**flags))
    out = tmp_path / "none.json"
    monkeypatch.setattr(module, "in_a_process", lambda *_: iter(["does not fit"]))
    with pytest.raises(InputError, match="none of the tokenizers could be measured: does not fit"):
        speed(SpeedConfig(tokenizers=("moving-shapes",), out=str(out), **FILLED))
    assert not out.exists()


def test_flags_left_open_follow_the_device(monkeypatch, tmp_path):
    seen = []

    def process(config, entry):
        seen.append((dataclasses.asdict(config), entry.tokenizer, entry.weights))
        yield Reading("tokens", (20,))

    monkeypatch.setattr(module, "in_a_process", process)
    names = ("a=moving-shapes", "moving-shapes")
    out = speed(
        SpeedConfig(tokenizers=names, weights=("own", "random"), device="cpu", runs_dir=str(tmp_path), repeats=9)
    )
    assert [call[1:] for call in seen] == [("moving-shapes", None), ("moving-shapes", "random")] * 2
    assert {name: seen[0][0][name] for name in module.DEFAULTS["cpu"]} == module.DEFAULTS["cpu"] | {"repeats": 9}
    assert out == tmp_path / "speed-cpu-17x64.json" and json.loads(out.read_text())["size"] == 64
    assert {row.subject for row in read_results(out)[1]} == {"a", "moving-shapes (random weights)"}
