"""The benchmark of the stages: they can be measured, and what is measured is written."""

import json

import numpy as np

from benchmarks.stages import STAGES, StagesConfig, stages
from videos import write_video

SLOW = ("sampling", "features", "distances")  # a minute each on a busy machine; tests of their packages call the same


def test_stages_are_measured_and_written(tmp_path):
    for number in range(3):
        write_video(tmp_path / f"{number}.mp4", np.zeros((20, 32, 32, 3), np.uint8), 8)
    out = tmp_path / "stages.json"
    small = {"seconds": 0.0, "batch_size": 2, "size": 32, "device": "cpu", "dtype": "float32"}
    chosen = tuple(stage for stage in STAGES if stage not in SLOW)
    found = stages(StagesConfig(stages=chosen, root=str(tmp_path), out=str(out), **small))
    assert tuple(found) == chosen and set(chosen) <= set(json.loads(out.read_text())["results"])
    assert all(0 < each["low"] <= each["per_second"] <= each["high"] for each in found.values())
    assert 0 < found["encoding-files"]["in_model"] <= 1
