"""The benchmark of the stages: every one can be measured, and what is measured is written."""

import json

import numpy as np
import pytest
import torch

from benchmarks.measuring import Results
from benchmarks.stages import STAGES, StagesConfig, stages
from videos import write_video


def test_every_stage_is_measured_and_written(tmp_path):
    for number in range(3):
        write_video(tmp_path / f"{number}.mp4", np.zeros((20, 32, 32, 3), np.uint8), 8)
    out = tmp_path / "stages.json"
    found = stages(StagesConfig(smoke=True, root=str(tmp_path), out=str(out), device="cpu", dtype="float32"))
    assert tuple(found) == STAGES == tuple(json.loads(out.read_text())["results"])
    assert all(0 < each["low"] <= each["per_second"] <= each["high"] for each in found.values())
    assert 0 < found["encoding-files"]["in_model"] <= 1


def fail() -> dict:
    raise ValueError("broken\nin two lines")


def exhaust() -> dict:
    raise torch.OutOfMemoryError


def test_a_failure_stops_a_benchmark_that_somebody_watches(tmp_path):
    results = Results(tmp_path / "a.json")
    assert results.measure("good", lambda: {"seconds": 1.0}) == {"seconds": 1.0}
    with pytest.raises(ValueError, match="broken"):
        results.measure("bad", fail)
    assert json.loads((tmp_path / "a.json").read_text())["results"] == {"good": {"seconds": 1.0}}


def test_each_measurement_has_its_own_peak_of_memory(tmp_path, monkeypatch):
    resets = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: resets.append(len(resets)))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    results = Results(None)
    for name in ("a", "b"):
        results.measure(name, lambda: {"resets": len(resets)})
    assert [found["resets"] for found in results.values()] == [1, 2]


def test_unattended_a_failure_is_noted_and_what_is_there_is_not_made_again(tmp_path):
    out = tmp_path / "a.json"
    first = Results(out, unattended=True, device="cpu")
    first.measure("good", lambda: {"seconds": 1.0})
    first.measure("bad", fail)
    first.measure("large", exhaust)
    with pytest.raises(KeyboardInterrupt):
        first.measure("killed", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    written = json.loads(out.read_text())
    assert written["device"] == "cpu" and written["results"]["good"]["seconds"] == 1.0
    assert written["results"]["bad"] == {"failed": "ValueError: broken"}
    assert written["results"]["large"]["out_of_memory"] is True
    assert written["results"]["killed"] == {"failed": "ended from outside while it ran"}
    again = Results(out, unattended=True)
    assert [name for name in written["results"] if again.missing(name)] == ["bad", "killed"]
    assert again.measure("good", fail) is None and again.measure("large", fail) is None
    assert again.measure("bad", lambda: {"seconds": 2.0}) == {"seconds": 2.0}
