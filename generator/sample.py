"""Sample latents from a generator into a latents file: `python -m generator.sample --run RUN --samples 2048`.

Sample i has its own noise, from (seed, i), and of the n classes that were learned number i % n, so more samples never
change the first ones: a second call adds only what is missing. With guidance each of the `steps` model calls evaluates
twice as many rows.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path

from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError
from runtime.faults import reach
from runtime.output import check_file
from runtime.stopping import Stopped, orderly, stop_asked


@dataclass(frozen=True, kw_only=True)
class SampleConfig(CommonFlags):
    """Flags of `python -m generator.sample`."""

    run: str | None = flag(None, "run of generator.train or shipped name; default: the newest run")
    step: int | None = flag(None, "which checkpoint; default: the newest", low=0)
    samples: int = flag(2048, "how many samples in all", low=1, high=1_000_000)
    steps: int = flag(100, "Euler steps, one model call each", low=1, high=100_000)
    guidance_scale: float = flag(1.0, "classifier-free guidance; 1 is off", low=0.0, high=1000.0)
    batch_size: int = flag(64, "samples in one forward pass", low=1, high=65_536)
    untrained: bool = flag(False, "a control: the same network before training, whose samples are the noise itself")
    out: str | None = flag(None, "file to write; default: in the run's samples folder", check=check_file)


def sample_path(
    run_dir: Path, step: int, steps: int, guidance_scale: float, seed: int, untrained: bool = False
) -> Path:
    """Where the samples of these settings are kept."""
    kind = "untrained" if untrained else f"step_{step:08d}"
    return Path(run_dir) / "samples" / f"{kind}_euler{steps}_guidance{guidance_scale:g}_seed{seed}.h5"


def sample(config: SampleConfig) -> Path:
    """Bring the samples file to `config.samples` rows at least; returns its path.

    The file grows under another name beside it, so that it is whole at any moment. Its bytes do not depend on how it
    grew as long as the forward passes are the same: when the earlier counts were multiples of `batch_size`.

    Raises:
        InputError: If there is no such generator, guidance is asked of one without classes, or the file holds others.
    """
    from generator.loading import SHIPPED, load_generator
    from latents_cache.row_file import lock_path
    from runtime import processes
    from runtime.run import newest_run

    run = config.run or str(newest_run(config.runs_dir, "generator"))
    world = processes.start_processes(config.device)
    dtype = processes.resolve_dtype(config.dtype, world.device)
    generator = load_generator(run, config.step, device=world.device)
    if config.guidance_scale != 1.0 and not generator.config.num_classes:
        scale = f"--guidance-scale {config.guidance_scale:g}"
        raise InputError(f"{scale} needs a class-conditional generator; {run} has no classes: use 1")
    folder = Path(config.runs_dir) / f"shipped-{run}" if run in SHIPPED else generator.dir
    default = sample_path(folder, generator.step, config.steps, config.guidance_scale, config.seed, config.untrained)
    out = Path(config.out) if config.out else default
    attributes = sample_attributes(config, generator, str(dtype))
    growing = out.with_name(f"{out.stem}.growing.h5")
    if world.is_main and growing.is_file():  # whole, but killed before it got its name
        os.replace(growing, out)
        lock_path(growing).unlink(missing_ok=True)
    world.barrier()
    before = finished_rows(out, attributes)
    if before >= config.samples:
        return out
    smaller, target = (out, growing) if before else (None, out)
    with orderly():  # to the end: a process that left early would let the others wait
        fill(config, world, dtype, generator, attributes, smaller=smaller, target=target)
        if before and world.is_main:
            os.replace(growing, out)
            reach("samples.grown")
        world.barrier()
    return out


def finished_rows(out: Path, attributes: dict) -> int:
    """How many samples the file has, 0 without a file; InputError when they are of other settings."""
    from latents_cache import open_latents

    if not out.is_file():
        return 0
    with open_latents(out) as reader:
        found = reader.attributes
        changed = [
            f"{name}: {found.get(name)!r}, now {value!r}"
            for name, value in attributes.items()
            if found.get(name) != value
        ]
        if changed:
            raise InputError(
                f"{out} exists and holds other samples ({'; '.join(changed)[:300]}); move it away or give another --out"
            )
        return len(reader)


def fill(
    config: SampleConfig, world, dtype, generator, attributes: dict, *, smaller: Path | None, target: Path
) -> None:
    """Write `config.samples` rows to `target`: those of a smaller file as they are, the others sampled.

    Raises:
        Stopped: When a signal or the time limit asks for it; what is sampled stays.
    """
    from latents_cache import create_latents
    from runtime.log import Progress

    shape = generator.config.latent_shape
    open_file = functools.partial(
        create_latents, target, config.samples, shape, attributes, has_logvar=False, launch=world.launch
    )
    writer = world.first(open_file) or open_file()  # the main process creates the file
    with writer:
        if world.is_main and smaller is not None:
            copy_rows(smaller, writer)
            reach("samples.copied")
        world.barrier()
        missing = set(writer.missing())
        world.barrier()  # all have seen what is missing before anyone writes
        progress = Progress(config.samples, start=config.samples - len(missing), label=f"sample {target.stem}")
        for rows in world.blocks(config.samples, config.batch_size):
            wanted = missing.intersection(rows)
            if not wanted:
                continue
            # The whole block, even for one missing row: another batch size may round differently.
            raw, labels = sample_rows(config, generator, rows, world.device, dtype)
            for row in sorted(wanted):
                writer.write(row, raw[row - rows.start], label=labels[row - rows.start], name=f"sample-{row:06d}")
            writer.flush()
            if world.is_main:
                progress.update(min(config.samples, progress.step + len(wanted) * world.size), {})
            if stop_asked():
                break
        if world.any(stop_asked()):
            raise Stopped(stop_asked() or "another process")
        if world.is_main:
            progress.close()
            writer.finish()


def sample_rows(config: SampleConfig, generator, rows: range, device, dtype):
    """Raw latents float32 numpy `[b, C, G, h, w]` and labels (-1 without classes) of the given samples."""
    import torch

    from generator.rectified_flow import integrate
    from runtime.processes import autocast
    from runtime.seeds import normal_rows

    classes = generator.classes
    latents = normal_rows(config.seed, "sample", 0, rows, generator.config.latent_shape).to(device)
    labels = [classes[row % len(classes)] if classes else -1 for row in rows]
    if (
        not config.untrained
    ):  # before training the velocity is zero everywhere, and the flow leaves the noise where it is
        asked = torch.tensor(labels, device=device) if classes else None
        with autocast(device, dtype):
            latents = integrate(
                generator.model, latents, asked, steps=config.steps, guidance_scale=config.guidance_scale
            )
    return generator.denormalize(latents.float()).cpu().numpy(), labels


def sample_attributes(config: SampleConfig, generator, dtype: str) -> dict:
    """What a samples file says about itself."""
    facts = generator.latents
    known = (
        "tokenizer",
        "tokenizer_name",
        "weights",
        "encoder_hash",
        "data",
        "root",
        "split",
        "clip",
        "spec",
        "num_classes",
        "class_names",
    )
    return {
        **{name: facts[name] for name in known if name in facts},
        "kind": "samples",
        "generator_run": generator.dir.resolve().name,
        "step": 0 if config.untrained else generator.step,
        "untrained": int(config.untrained),
        "steps": config.steps,
        "nfe": 0 if config.untrained else config.steps,
        "guidance_scale": config.guidance_scale,
        "rows_per_call": 1 if config.guidance_scale == 1.0 else 2,
        "seed": config.seed,
        "dtype": dtype,
    }


def copy_rows(smaller: Path, writer) -> None:
    """Take over the rows of a smaller samples file, byte for byte."""
    from latents_cache import open_latents

    with open_latents(smaller) as reader:
        names = reader.names
        for row in set(range(len(reader))).intersection(writer.missing()):
            values = reader.batch([row])
            writer.write(row, values["mean"][0], label=int(values["label"][0]), name=names[row])
    writer.flush()


if __name__ == "__main__":
    run_command(sample, SampleConfig, example="python -m generator.sample --run runs/my-generator --samples 2048")
