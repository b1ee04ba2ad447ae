"""Sample latents from a generator into a latents file: `python -m generator.sample --run RUN --samples 2048`.

Sample i has its own noise, from (seed, i), and class i % num_classes, so more samples never change the first ones: a second call adds
only what is missing. With guidance each of the `steps` model calls evaluates twice as many rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SampleConfig(CommonFlags):
    """Flags of `python -m generator.sample`."""

    run: str | None = flag(None, "run of generator.train or shipped name; default: the newest run")
    step: int | None = flag(None, "which checkpoint; default: the newest", low=0)
    samples: int = flag(2048, "how many samples in all", low=1)
    steps: int = flag(100, "Euler steps, one model call each", low=1)
    guidance_scale: float = flag(1.0, "classifier-free guidance; 1 is off", low=0.0)
    batch_size: int = flag(64, "samples in one forward pass", low=1)
    untrained: bool = flag(False, "sample from the same network before training: a control")
    out: str | None = flag(None, "file to write; default: in the run's samples folder")


def sample_path(run_dir: Path, step: int, steps: int, guidance_scale: float, seed: int, untrained: bool = False) -> Path:
    """Where the samples of these settings are kept."""
    kind = "untrained" if untrained else f"step_{step:08d}"
    return Path(run_dir) / "samples" / f"{kind}_euler{steps}_guidance{guidance_scale:g}_seed{seed}.h5"


def sample(config: SampleConfig) -> Path:
    """Bring the samples file to `config.samples` rows; returns its path."""
    from generator.loading import SHIPPED, load_generator
    from latents_cache import create_latents, open_latents
    from runtime import processes
    from runtime.log import Progress
    from runtime.run import newest_run

    run = config.run or str(newest_run(config.runs_dir, "generator"))
    device = processes.resolve_device(config.device)
    dtype = processes.resolve_dtype(config.dtype, device)
    generator = load_generator(run, config.step, device=device)
    if config.guidance_scale != 1.0 and not generator.config.num_classes:
        raise InputError(f"--guidance-scale {config.guidance_scale:g} needs a class-conditional generator; {run} has no classes: use 1")
    folder = Path(config.runs_dir) / f"shipped-{run}" if run in SHIPPED else generator.dir
    out = Path(config.out) if config.out else sample_path(folder, generator.step, config.steps, config.guidance_scale, config.seed,
                                                          config.untrained)
    attributes = sample_attributes(config, generator, str(run), str(dtype))
    finished = None
    if out.is_file():
        finished = open_latents(out)
        if any(finished.attributes.get(name) != value for name, value in attributes.items()):
            raise InputError(f"{out} exists and holds samples of other settings; move it away or give another --out")
        if len(finished) >= config.samples:
            return out
        finished.close()
        grown = out.with_name(out.name + ".smaller")
        out.rename(grown)  # stays until the larger file is whole
    model = untrained_like(generator, config.seed, device) if config.untrained else generator.model
    writer = create_latents(out, config.samples, generator.config.latent_shape, attributes, has_logvar=False)
    copy_rows(out.with_name(out.name + ".smaller"), writer)
    missing = writer.missing()
    progress = Progress(config.samples, start=config.samples - len(missing), label=f"sample {out.stem}")
    for start in range(0, len(missing), config.batch_size):
        rows = missing[start : start + config.batch_size]
        for row, latents, label in zip(rows, *sample_rows(config, generator, model, rows, device, dtype), strict=True):
            writer.write(row, latents, label=label, name=f"sample-{row:06d}")
        writer.flush()
        progress.update(progress.step + len(rows), {})
    progress.close()
    writer.finish()
    out.with_name(out.name + ".smaller").unlink(missing_ok=True)
    return out


def sample_rows(config: SampleConfig, generator, model, rows: list[int], device, dtype):
    """Raw latents float32 numpy `[b, C, G, h, w]` and labels (-1 without classes) of the given samples."""
    import torch

    from generator.rectified_flow import integrate
    from runtime.processes import autocast
    from runtime.seeds import normal_rows

    shape, classes = generator.config.latent_shape, generator.config.num_classes
    noise = normal_rows(config.seed, "sample", 0, rows, shape).to(device)
    labels = torch.tensor([row % classes for row in rows], device=device) if classes else None
    with autocast(device, dtype):
        latents = integrate(model, noise, labels, steps=config.steps, guidance_scale=config.guidance_scale)
    raw = generator.denormalize(latents.float()).cpu().numpy()
    return raw, (labels.tolist() if classes else [-1] * len(rows))


def sample_attributes(config: SampleConfig, generator, run: str, dtype: str) -> dict:
    """What a samples file says about itself."""
    facts = generator.latents
    known = ("tokenizer", "tokenizer_name", "encoder_hash", "data", "root", "split", "clip", "spec", "num_classes", "class_names")
    return {**{name: facts[name] for name in known if name in facts}, "kind": "samples", "generator_run": run, "step": 0 if config.untrained else generator.step,
            "untrained": int(config.untrained), "steps": config.steps, "nfe": config.steps, "guidance_scale": config.guidance_scale,
            "rows_per_call": 2 if config.guidance_scale != 1.0 else 1, "seed": config.seed, "dtype": dtype}


def untrained_like(generator, seed: int, device):
    """The generator's network as it was before training; its velocity is zero, so its samples are the noise itself."""
    import torch

    from generator.latte import Latte

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Latte(generator.config).to(device).eval()


def copy_rows(smaller: Path, writer) -> None:
    """Take over the rows of a smaller samples file, byte for byte."""
    if not smaller.is_file():
        return
    from latents_cache import open_latents

    with open_latents(smaller) as reader:
        for row in set(range(len(reader))) & set(writer.missing()):
            values = reader.batch([row])
            writer.write(row, values["mean"][0], label=int(values["label"][0]), name=f"sample-{row:06d}")
    writer.flush()


if __name__ == "__main__":
    run_command(sample, SampleConfig, example="python -m generator.sample --run runs/my-generator --samples 2048")
