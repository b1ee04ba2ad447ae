"""What the adversary does: `python -m benchmarks.adversarial --steps 2000` (an hour or two on two cores).

The decoder of a trained tokenizer is fine-tuned twice at the demo's size, with the GAN loss and without it, everything
else equal. The curves of both are drawn beside each other, whatever they are. Runs resume, so a second call only draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.command import CommonFlags, flag, run_command
from runtime.output import check_file

# What is kept of each step of the log; validation comes with some steps only.
LOSSES = ("loss", "mse", "gan", "gan_weight", "discriminator_loss", "real_logits", "fake_logits")
POINTS = 100  # of a curve in the results file
VALIDATION = ("val_psnr", "val_ssim", "val_lpips_alex")


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig(CommonFlags):
    """Flags of `python -m benchmarks.adversarial`."""

    tokenizer: str = flag("moving-shapes", "tokenizer of the demo's size to begin from: a run, folder or shipped name")
    steps: int = flag(2000, "steps of decoder fine-tuning, of each of the two", low=2)
    batch_size: int = flag(8, "clips in a batch", low=1)
    gan_weight: float = flag(0.05, "weight of the adversarial loss", low=1e-9)
    adaptive_gan: bool = flag(False, "scale it so that it pulls at the last layer as hard as the other losses")
    learning_rate: float = flag(1e-4, "peak rate of both networks; a tenth of the demo's", low=0.0)
    validations: int = flag(20, "how often the held-out clips are looked at", low=1)
    out: str = flag(
        "benchmarks/results/adversarial.json", "JSON file to write; a figure goes beside it as SVG", check=check_file
    )


def adversarial(config: AdversarialConfig) -> dict[str, dict]:
    """Train what is missing, print both ends, write JSON and figure."""
    from benchmarks.measuring import write_benchmark

    results, drawn = {}, {}
    for name, weight in (("gan", config.gan_weight), ("control", 0.0)):
        run = fine_tune(config, name, weight)
        logged = curves(run)
        drawn[name] = logged["curves"]
        thin = {key: thinned(*points) for key, points in drawn[name].items()}
        results[name] = {"run": run.name, "gan_weight": weight, "skipped": logged["skipped"], "curves": thin}
        ends = {key: values[-1] for key, (_, values) in thin.items()}
        print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in ends.items()))
    facts = {"tokenizer": config.tokenizer, "steps": config.steps, "batch_size": config.batch_size, "seed": config.seed}
    write_benchmark(config.out, results, **facts, data="moving_shapes", learning_rate=config.learning_rate)
    draw(drawn, Path(config.out).with_suffix(".svg"))
    return results


def fine_tune(config: AdversarialConfig, name: str, weight: float) -> Path:
    """One of the two runs, trained or found."""
    from benchmarks.measuring import demo_tokenizer

    alike = {name: getattr(config, name) for name in ("steps", "batch_size", "learning_rate", "adaptive_gan")}
    alike |= dict.fromkeys(("validate_every", "save_every"), max(1, config.steps // config.validations))
    run = f"{config.name or 'adversarial'}-{name}"
    return demo_tokenizer(config, stage="decoder", init_from=config.tokenizer, gan_weight=weight, name=run, **alike)


def curves(run: Path) -> dict:
    """The curves that a run logged: for each name, steps and values."""
    from runtime.records import read_lines

    lines = read_lines(run / "metrics.jsonl", {"step": int, "skipped": int})
    found = {}
    for name in (*LOSSES, *VALIDATION):
        points = [(line["step"], line[name]) for line in lines if name in line]
        if points:
            found[name] = [list(column) for column in zip(*points, strict=True)]
    return {"curves": found, "skipped": lines[-1]["skipped"]}


def thinned(steps: list[int], values: list[float]) -> list[list]:
    """A long curve as means over equal spans of steps, for the results file."""
    import numpy as np

    span = -(-len(values) // POINTS)
    parts = [slice(start, start + span) for start in range(0, len(values), span)]
    return [[steps[part][-1] for part in parts], [float(f"{np.mean(values[part]):.5g}") for part in parts]]


def smoothed(values: list[float], width: int):
    """Moving average over `width` values, shorter at the beginning."""
    import numpy as np

    sums = np.cumsum(np.concatenate([[0.0], values]))
    stops = np.arange(1, len(values) + 1)
    starts = np.maximum(0, stops - width)
    return (sums[stops] - sums[starts]) / (stops - starts)


def draw(curves: dict[str, dict], path: Path) -> None:
    """Four panels: the generator's adversarial loss, the logits, the discriminator's loss, and validation PSNR."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    from runtime.files import replacing

    figure, ((generator, logits), (discriminator, quality)) = plt.subplots(2, 2, figsize=(9, 6), sharex=True)
    with_gan = curves["gan"]
    for axes, name, words in (
        (generator, "gan", "GAN loss of the decoder"),
        (logits, "real_logits", "real clips"),
        (logits, "fake_logits", "decoded clips"),
        (discriminator, "discriminator_loss", "loss of the discriminator"),
    ):
        steps, values = with_gan[name]
        (line,) = axes.plot(steps, values, lw=0.5, alpha=0.3)
        axes.plot(steps, smoothed(values, max(1, len(values) // 50)), color=line.get_color(), label=words)
    discriminator.axhline(1.0, ls="--", color="black", lw=0.8, label="knows nothing")
    for name, words in (("gan", "with the adversary"), ("control", "without")):
        quality.plot(*curves[name]["val_psnr"], marker=".", label=words)
    generator.set(ylabel="-mean logit")
    logits.set(ylabel="mean logit")
    discriminator.set(xlabel="step", ylabel="hinge loss")
    quality.set(xlabel="step", ylabel="PSNR of held-out clips, dB")
    for axes in (generator, logits, discriminator, quality):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    figure.tight_layout()
    with replacing(path, "results") as partial:
        figure.savefig(partial)
    plt.close(figure)


if __name__ == "__main__":
    run_command(adversarial, AdversarialConfig, example="python -m benchmarks.adversarial --steps 2000")
