"""How fast a generator learns: distance against training step over the kept checkpoints (PV-VAE figure 1a).

`python -m eval.convergence --runs runs/a,runs/b --samples 512`: every checkpoint starts from the same noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ConvergenceConfig(CommonFlags):
    """Flags of `python -m eval.convergence`."""

    runs: tuple[str, ...] = flag((), "runs of generator.train; default: the newest")
    samples: int = flag(512, "generated clips at each checkpoint, and as many real ones", low=2, high=1_000_000)
    steps: int = flag(100, "Euler steps of the sampler", low=1, high=100_000)
    root: str | None = flag(None, "folder of the real clips; default: where the latents were encoded from")
    features: str = flag(
        "auto", "auto: shapes for moving_shapes, i3d for everything else", choices=("auto", "shapes", "i3d")
    )
    batch_size: int = flag(64, "samples in one forward pass", low=1, high=65_536)

    def __post_init__(self) -> None:
        if len({Path(run).resolve() for run in self.runs}) < len(self.runs):
            raise InputError(f"--runs {','.join(self.runs)}: a run is named twice")


def step_reaching(steps: Sequence[int], values: Sequence[float], target: float) -> float | None:
    """The first step at which a falling curve reaches `target`, interpolating log(value) linearly in the step; None if
    it never does."""
    if len(steps) != len(values) or len(steps) < 1 or min(values) <= 0 or target <= 0:
        raise InputError("a convergence curve needs as many positive values as steps, and a positive target")
    for i, (step, value) in enumerate(zip(steps, values, strict=True)):
        if value <= target:
            if i == 0:
                return float(step)
            before, was = steps[i - 1], values[i - 1]
            return before + (step - before) * (math.log(was) - math.log(target)) / (math.log(was) - math.log(value))
    return None


def percent_faster(steps: Sequence[int], values: Sequence[float], other_final: float, total: int) -> float | None:
    """ "x % faster": 100 * (1 - S / total), S the step at which this curve reaches the other's final value; None if it
    never does."""
    reached = step_reaching(steps, values, other_final)
    return None if reached is None else 100.0 * (1.0 - reached / total)


def convergence(config: ConvergenceConfig) -> list[Path]:
    """Measure every kept checkpoint of every run, print the curve, write one JSON a run."""
    import time

    from eval.features import FRECHET_NAMES
    from eval.judge import Judge
    from eval.results import table, write_results
    from eval.set_rows import TO_RECONSTRUCTIONS, differences, distance_rows
    from runtime.run import newest_run, timed_part

    written, curves = [], {}
    runs = config.runs or (str(newest_run(config.runs_dir, "generator")),)
    # All of them before hours go into the first.
    kept_steps = {run: kept_checkpoints(run) for run in runs}
    for run in runs:
        began = time.monotonic()
        judge = Judge(
            run,
            features=config.features,
            root=config.root,
            samples=config.samples,
            seed=config.seed,
            device=config.device,
        )
        folder = judge.folder(config.runs_dir)
        folder.mkdir(parents=True, exist_ok=True)
        with timed_part(folder.parent, "eval.convergence"):
            reference = judge.real(folder, "reference")
            through = judge.real(folder, "reconstructed-reference")
            rows, curve, curve_through = [], [], []
            for step in kept_steps[run]:
                found = judge.generated(folder, config, step=step)
                at_step = distance_rows(found, reference, f"generated, step {step}", judge.network)
                to_through = distance_rows(
                    found, through, f"generated, step {step}", judge.network, "", TO_RECONSTRUCTIONS
                )
                rows += at_step + to_through
                for points, row in ((curve, at_step[0]), (curve_through, to_through[0])):
                    points.append({"step": step, "value": row.value, "low": row.low, "high": row.high})
            floor = distance_rows(judge.real(folder, "real"), reference, "real", judge.network)
            untrained = distance_rows(
                judge.generated(folder, config, untrained=True), reference, "untrained", judge.network
            )
            rows += floor + untrained
            untrained_through = distance_rows(
                judge.generated(folder, config, untrained=True),
                through,
                "untrained",
                judge.network,
                "",
                TO_RECONSTRUCTIONS,
            )
            rows += untrained_through
        metric = FRECHET_NAMES[judge.network.name]
        curves[run] = curve
        out = folder / f"convergence-{judge.network.name}-n{config.samples}.json"
        write_results(
            out,
            kind="convergence",
            rows=rows,
            run=str(run),
            metric=metric,
            curve=curve,
            curve_to_reconstructions=curve_through,
            untrained_to_reconstructions=untrained_through[0].value,
            floor=floor[0].value,
            untrained=untrained[0].value,
            samples=config.samples,
            steps=config.steps,
            seed=config.seed,
            data=judge.facts["data"],
            features=f"{judge.network.name}@{judge.network.version_hash}",
            differences=differences(
                judge.network.name, config.samples, len(reference.features), config.steps, judge.facts
            ),
            seconds=round(time.monotonic() - began, 1),
        )
        print(table([row for row in rows if row.metric.startswith(metric)]))
        print(f"eval.convergence: wrote {out}")
        written.append(out)
    _compare(curves)
    return written


def kept_checkpoints(run: str) -> list[int]:
    """Steps of the checkpoints that stayed, oldest first; InputError when there are none."""
    from generator.loading import load_generator
    from runtime.checkpoint import list_checkpoints
    from runtime.run import read_json

    directory = load_generator(run).dir
    kept = [step for step, path in list_checkpoints(directory) if read_json(path / "state.json").get("keep")]
    if not kept:
        raise InputError(f"{run} has no kept checkpoints to draw a curve of")
    return kept


def _compare(curves: dict[str, list[dict]]) -> None:
    """Print "x % faster" of every run against every other."""
    for run, curve in curves.items():
        for other, rival in curves.items():
            if run != other:
                steps, values = [p["step"] for p in curve], [p["value"] for p in curve]
                faster = percent_faster(steps, values, rival[-1]["value"], rival[-1]["step"])
                words = "never reaches" if faster is None else f"is {faster:.1f} % faster to reach"
                print(f"{run} {words} the final value of {other}")


if __name__ == "__main__":
    run_command(convergence, ConvergenceConfig, example="python -m eval.convergence --runs runs/a,runs/b --samples 512")
