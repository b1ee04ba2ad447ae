import dataclasses
import json

import benchmarks.optimizers as module
from benchmarks.optimizers import OptimizersConfig, optimizers
from tokenizer import presets
from tokenizer.pvvae import PVVAEConfig

TINY = PVVAEConfig(latent_channels=4, channels=(8, 8, 8), blocks=1, middle_blocks=1, patch=4, norm="layer")


def test_every_optimizer_and_rate_gets_the_steps_that_fit_into_the_seconds(tmp_path, monkeypatch):
    demo = presets.PRESETS["demo"]
    monkeypatch.setitem(presets.PRESETS, "demo", dataclasses.replace(demo, model=TINY))
    monkeypatch.setattr(module, "seconds_a_step", lambda config: {"adamw": 0.1, "muon": 0.15})
    config = OptimizersConfig(
        seeds=(3,),
        seconds=0.6,
        adamw_rates=(1e-3,),
        muon_rates=(6e-3,),
        clips=16,
        runs_dir=str(tmp_path / "runs"),
        out=str(tmp_path / "found.json"),
        device="cpu",
        dtype="float32",
    )
    rows = optimizers(config)
    assert [(row["optimizer"], row["rate"], row["steps"]) for row in rows] == [
        ("adamw", 1e-3, 6),
        ("muon", 6e-3, 4),
    ]
    for row in rows:
        assert 0 < row["psnr"] < 40 and row["predicted_over_repeat"] > 0
        assert 0 <= row["shape"] <= 1 and 0 <= row["motion"] <= 1
    kept = json.loads((tmp_path / "found.json").read_text())
    assert kept["results"] == rows and kept["gflops_float32"] > 0
