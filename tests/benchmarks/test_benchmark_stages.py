"""The benchmark of the stages: every one can be measured."""

import json

import numpy as np

from benchmarks.stages import STAGES, StagesConfig, stages
from videos import write_video


def test_every_stage_is_measured_and_written(tmp_path):
    for number in range(3):
        write_video(tmp_path / f"{number}.mp4", np.zeros((20, 32, 32, 3), np.uint8), 8)
    out = tmp_path / "stages.json"
    found = stages(
        StagesConfig(
            seconds=0.0, batch_size=2, size=32, root=str(tmp_path), out=str(out), device="cpu", dtype="float32"
        )
    )
    assert list(found) == list(STAGES) and set(STAGES) <= set(json.loads(out.read_text())["results"])
    assert all(0 < each["low"] <= each["per_second"] <= each["high"] for each in found.values())
    assert 0 < found["encoding-files"]["in_model"] <= 1
