"""Muon beside AdamW at equal processor time: `python -m benchmarks.optimizers --seeds 0,1,2`.

For every seed the demo's tokenizer is trained with each optimizer and rate, for as many steps as fit into the same
processor seconds: what a step costs is measured first, the optimizers taking turns. Then: PSNR of reconstructed and
error of predicted frames on unseen clips, and how often the judge names shape and motion of reconstructions. Runs
resume, so a second call only measures.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.command import CommonFlags, flag, run_command


@dataclass(frozen=True, kw_only=True)
class OptimizersConfig(CommonFlags):
    """Flags of `python -m benchmarks.optimizers`."""

    seeds: tuple[int, ...] = flag((0, 1, 2), "one run of each optimizer and rate", low=0)
    seconds: float = flag(200.0, "processor seconds of a run", low=0.0)
    adamw_rates: tuple[float, ...] = flag((1e-3, 3e-3), "learning rates of AdamW", low=0.0)
    muon_rates: tuple[float, ...] = flag((2e-3, 6e-3), "learning rates of Muon", low=0.0)
    clips: int = flag(256, "unseen clips to measure on", low=2)
    out: str = flag("benchmarks/results/optimizers.json", "JSON file to write")


def optimizers(config: OptimizersConfig) -> list[dict]:
    """Train what is missing, measure, print the table, write JSON; one row for each run."""
    import torch

    from benchmarks.measuring import write_benchmark
    from runtime.measuring import matmul_flops
    from runtime.processes import resolve_device

    arms = [("adamw", rate) for rate in config.adamw_rates] + [("muon", rate) for rate in config.muon_rates]
    costs = seconds_a_step(config)
    rows = []
    for seed in config.seeds:
        for name, rate in arms:
            steps = max(3, round(config.seconds / costs[name]))
            run = trained(config, name, rate, seed, steps)
            rows.append({"optimizer": name, "rate": rate, "seed": seed, "steps": steps, **measure(config, run)})
            numbers = "  ".join(f"{key} {value:.3f}" for key, value in rows[-1].items() if isinstance(value, float))
            print(f"{name:>6}  seed {seed}  {steps} steps  {numbers}", flush=True)
    flops = matmul_flops(resolve_device(config.device), torch.float32, "cpu") / 1e9
    facts = {"seconds": config.seconds, "seconds_a_step": costs, "clips": config.clips, "gflops_float32": round(flops)}
    write_benchmark(config.out, rows, **facts)
    return rows


def trained(config: OptimizersConfig, optimizer: str, rate: float, seed: int, steps: int, name: str = "") -> Path:
    """The run of one optimizer, trained or found."""
    from benchmarks.measuring import demo_tokenizer

    name = name or f"optimizers-{optimizer}-{rate:g}-{seed}-{steps}"
    return demo_tokenizer(config, optimizer=optimizer, learning_rate=rate, seed=seed, steps=steps, name=name)


def seconds_a_step(config: OptimizersConfig) -> dict[str, float]:
    """Processor seconds of a step of each optimizer, over all stages: what twelve more of them cost, at best."""
    from tempfile import TemporaryDirectory

    steps, found = 12, {name: [] for name in ("adamw", "muon")}
    for turn in range(2):
        for name, costs in found.items():
            spent = []
            for count in (steps, 2 * steps):
                with TemporaryDirectory() as folder:
                    began = time.process_time()
                    trained(replace(config, runs_dir=folder), name, 1e-3, turn, count, "cost")
                    spent.append(time.process_time() - began)
            costs.append(max(spent[1] - spent[0], 1e-9) / steps)
    return {name: min(costs) for name, costs in found.items()}


def measure(config: OptimizersConfig, run: Path) -> dict[str, float]:
    """PSNR in dB, error of predicted frames over repeating, and shares of shapes and motions that the judge names."""
    import numpy as np
    import torch

    from eval.features import load_features
    from eval.quantities import ASPECTS
    from runtime.processes import resolve_device
    from tokenizer.train import validation_batches
    from tokenizer.validation import validate
    from tokenizer.zoo import load
    from videos import ClipSpec, open_dataset, to_float

    device = resolve_device(config.device)
    vae, predictor = load(run, device=device), load(run, stage="video", device=device)
    dataset = open_dataset("moving_shapes", split="test", clip=ClipSpec(num_frames=17, size=32))
    batches = validation_batches(dataset, config.clips, config.seed)
    found, predicted = (validate(model, batches, device, torch.float32).values for model in (vae, predictor))
    judge = load_features("shapes")
    with torch.no_grad():
        decoded = [vae.decode(vae.encode(to_float(batch.to(device))).mode()).clamp(-1, 1).cpu() for batch in batches]
        seen = torch.cat([judge.probabilities(batch).argmax(1) for batch in decoded]).numpy()
    asked = np.array(dataset.labels()[: config.clips])
    return {
        "psnr": found["val_psnr"],
        "predicted_over_repeat": predicted["val_predicted_over_repeat"],
        **{name: float((ASPECTS[name](seen) == ASPECTS[name](asked)).mean()) for name in ("shape", "motion")},
    }


if __name__ == "__main__":
    run_command(optimizers, OptimizersConfig, example="python -m benchmarks.optimizers --seeds 0,1,2 --seconds 200")
