"""What predictive reconstruction teaches: `python -m benchmarks.prediction --seeds 0,1,2` (an hour on two cores).

For every seed one model learns images, and from its weights two learn clips: one with latent groups dropped (PV-VAE
section 3.2), one without, everything else equal. Both then see the first half of unseen clips and draw the rest; their
error on moving pixels, frame by frame, is divided by that of repeating the last observed frame. A flat picture of the
clip's most common colour stands beside them: it predicts nothing. `eval.prediction` measures, and shows clips on a page
in the folder of runs. Runs resume, so a second call only measures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.command import CommonFlags, flag, run_command

VARIANTS = {"predictive": 1.0, "without": 0.0}


@dataclass(frozen=True, kw_only=True)
class PredictionConfig(CommonFlags):
    """Flags of `python -m benchmarks.prediction`."""

    seeds: tuple[int, ...] = flag((0, 1, 2), "one pair of models each", low=0)
    image_steps: int = flag(400, "steps on images", low=1)
    video_steps: int = flag(1400, "steps on clips, of each of the pair", low=1)
    clips: int = flag(512, "unseen clips to measure on", low=2)
    out: str = flag("benchmarks/results/prediction.json", "JSON file to write; a figure goes beside it as SVG")


def prediction(config: PredictionConfig) -> dict:
    """Train what is missing, measure, print the table, write JSON and figure."""
    import numpy as np

    from benchmarks.measuring import write_benchmark
    from eval.prediction import PredictionConfig as MeasureConfig
    from eval.prediction import predictions

    runs = {(name, seed): run for seed in config.seeds for name, run in train_pair(config, seed).items()}
    settings = {name: getattr(config, name) for name in ("runs_dir", "device", "dtype")}
    found = predictions(
        MeasureConfig(
            **settings,
            tokenizers=tuple(f"{name} {seed}={run}" for (name, seed), run in runs.items()),
            samples=config.clips,
            out=str(Path(config.runs_dir) / "prediction.html"),
        )
    )
    results: dict[str, list[dict]] = {name: [] for name in VARIANTS}
    for (name, _), run, one in zip(runs, runs.values(), found, strict=True):
        results[name].append({"run": run.name, **summary(one)})
    frames = len(results["predictive"][0]["error_over_repeat"])
    print("frame  " + "  ".join(f"{name:>24}" for name in (*VARIANTS, "flat picture")))
    flat = np.array([row["flat_over_repeat"] for row in results["predictive"]])
    for frame in range(frames):
        columns = [np.array([row["error_over_repeat"][frame] for row in results[name]]) for name in VARIANTS]
        cells = [f"{c.mean():8.3f} ({c.min():.3f} … {c.max():.3f})" for c in (*columns, flat[:, frame])]
        print(f"  +{frame + 1:<4} " + "  ".join(cell.rjust(24) for cell in cells))
    for name in VARIANTS:
        decibels = [row["psnr"] for row in results[name]]
        print(f"{name}: reconstruction {np.mean(decibels):.2f} dB ({min(decibels):.2f} … {max(decibels):.2f})")
    write_benchmark(config.out, results, seeds=list(config.seeds), clips=config.clips, data="moving_shapes test split")
    draw(results, Path(config.out).with_suffix(".svg"))
    return results


def train_pair(config: PredictionConfig, seed: int) -> dict[str, Path]:
    """The two runs of a seed, trained or found."""
    from benchmarks.measuring import demo_tokenizer

    name = f"prediction-images-{seed}"
    images = demo_tokenizer(config, stage="images", steps=config.image_steps, seed=seed, name=name)
    video = {"stage": "video", "steps": config.video_steps, "init_from": str(images), "seed": seed}
    return {
        name: demo_tokenizer(config, **video, max_drop_ratio=ratio, name=f"prediction-{name}-{seed}")
        for name, ratio in VARIANTS.items()
    }


def summary(one) -> dict:
    """Of what `eval.prediction` found of a run: errors over repetition, by predicted frame; and reconstruction PSNR."""
    return {
        "observed_frames": one.facts["observed_frames"],
        "error_over_repeat": [row.value for _, row in one.by_frame("predicted")],
        "flat_over_repeat": [row.value for _, row in one.by_frame("blank")],
        "psnr": one.row("PSNR", "reconstructed").value,
    }


def draw(results: dict[str, list[dict]], path: Path) -> None:
    """Error over repetition by predicted frame: the mean of the seeds, and their range as a band."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt
    import numpy as np

    from runtime.files import replacing

    figure, axes = plt.subplots(figsize=(6, 3.6))
    words = {"predictive": "with predictive reconstruction", "without": "without (padding never trained)"}
    for name, rows in results.items():
        values = np.array([row["error_over_repeat"] for row in rows])
        frames = np.arange(1, values.shape[1] + 1)
        (line,) = axes.plot(frames, values.mean(0), marker="o", label=words[name])
        axes.fill_between(frames, values.min(0), values.max(0), alpha=0.25, color=line.get_color())
    flat = np.array([row["flat_over_repeat"] for row in results["predictive"]]).mean(0)
    axes.plot(frames, flat, ls=":", color="grey", label="a flat picture")
    axes.axhline(1.0, ls="--", color="black", lw=0.8, label="repeating the last observed frame")
    axes.set(xlabel="frames after the last observed one", ylabel="squared error / repeating", yscale="log")
    axes.legend(fontsize=8)
    figure.tight_layout()
    with replacing(path, "results") as partial:
        figure.savefig(partial)
    plt.close(figure)


if __name__ == "__main__":
    run_command(prediction, PredictionConfig, example="python -m benchmarks.prediction --seeds 0,1,2")
