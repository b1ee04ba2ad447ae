"""Sample latents from a generator into a latents file: `python -m generator.sample --run RUN --samples 2048`.

Sample i has its own noise, from (seed, i), and of the n classes that were learned number i % n (or one drawn from
(seed, i)), so more samples never change the first ones: a second call adds only what is missing. With guidance each of
the `steps` model calls evaluates twice as many rows, but for those outside of `--guidance-interval`.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path

from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError
from runtime.faults import reach
from runtime.output import check_file
from runtime.stopping import orderly, stop_asked

WAIT_SECONDS = 1.0  # between two looks at a file that another command fills
OPTIONS = ("guidance_interval", "labels")  # of `sampling_options`


@dataclass(frozen=True, kw_only=True)
class SamplingFlags(CommonFlags):
    """How samples are drawn: flags of every command that needs some."""

    steps: int = flag(100, "Euler steps of the sampler, one model call each", low=1, high=100_000)
    guidance_interval: tuple[float, ...] = flag(
        (0.0, 1.0), "times between which to guide, noise being 0; outside, a step costs half", low=0.0, high=1.0
    )
    labels: str = flag(
        "balanced", "every class as often as the others, in turn, or drawn at random", choices=("balanced", "drawn")
    )

    def __post_init__(self) -> None:
        if len(self.guidance_interval) != 2 or self.guidance_interval[0] >= self.guidance_interval[1]:
            given = ",".join(f"{time:g}" for time in self.guidance_interval)
            raise InputError(f"--guidance-interval {given}: expected two times, the smaller first, as in 0.1,0.8")


@dataclass(frozen=True, kw_only=True)
class SampleConfig(SamplingFlags):
    """Flags of `python -m generator.sample`."""

    run: str | None = flag(None, "run of generator.train or shipped name; default: the newest run")
    step: int | None = flag(None, "which checkpoint; default: the newest", low=0)
    samples: int = flag(2048, "how many samples in all", low=1, high=1_000_000)
    guidance_scale: float = flag(1.0, "classifier-free guidance; 1 is off", low=0.0, high=1000.0)
    batch_size: int = flag(64, "samples in one forward pass", low=1, high=65_536)
    untrained: bool = flag(False, "a control: the same network before training, whose samples are the noise itself")
    out: str | None = flag(None, "file to write; default: in the run's samples folder", check=check_file)


def sample_path(
    run_dir: Path,
    step: int,
    steps: int,
    guidance_scale: float,
    seed: int,
    untrained: bool = False,
    **options: object,
) -> Path:
    """Where the samples of these settings are kept; `options` are those of `sampling_options`."""
    kind = "untrained" if untrained else f"step_{step:08d}"
    more = options_word(options)
    return Path(run_dir) / "samples" / f"{kind}_euler{steps}_guidance{guidance_scale:g}{more}_seed{seed}.h5"


def options_word(options: dict) -> str:
    """The options of `sampling_options` as part of a file's name; "" without any."""
    words = []
    for name, value in options.items():
        text = value if isinstance(value, str) else "-".join(f"{time:g}" for time in value)
        words.append(f"_{name.rpartition('_')[2]}{text}")
    return "".join(words)


def sampling_of(flags: SamplingFlags) -> dict:
    """The flags that say how samples are drawn, by the names that `SampleConfig` has for them, too."""
    common = {each.name for each in fields(CommonFlags)}
    return {each.name: getattr(flags, each.name) for each in fields(SamplingFlags) if each.name not in common}


def sampling_options(flags: SamplingFlags, *guidance_scales: float) -> dict:
    """What departs from the plain way: options that only those files name which were made with them.

    Args:
        guidance_scales: That samples are drawn with; without guidance there is no interval of it.
    """
    found = {}
    if set(guidance_scales) - {1.0} and flags.guidance_interval != (0.0, 1.0):
        found["guidance_interval"] = list(flags.guidance_interval)
    if flags.labels != "balanced":
        found["labels"] = flags.labels
    return found


def sample(config: SampleConfig) -> Path:
    """Bring the samples file to `config.samples` rows at least; returns its path.

    The file grows under another name beside it, so that it is whole at any moment. Its bytes do not depend on how it
    grew as long as the forward passes are the same: when the earlier counts were multiples of `batch_size`.

    Raises:
        InputError: If there is no such generator, guidance is asked of one without classes, or the file holds others.
    """
    import torch

    from generator.loading import SHIPPED, chosen, load_generator
    from latents_cache.row_file import lock_path
    from runtime import processes

    world = processes.start_processes(config.device)
    dtype = processes.resolve_dtype(config.dtype, world.device)
    # The main process chooses: a run that is being trained may get a newer checkpoint at any moment.
    run, step = world.agreed(lambda: chosen(config.run, config.step, config.runs_dir))
    generator = load_generator(run, step, device=world.device)
    check_guidance(generator, run, config.guidance_scale)
    folder = Path(config.runs_dir) / f"shipped-{run}" if run in SHIPPED else generator.dir
    settings = (generator.step, config.steps, config.guidance_scale, config.seed, config.untrained)
    default = sample_path(folder, *settings, **sampling_options(config, config.guidance_scale))
    out = Path(config.out) if config.out else default
    attributes = world.agreed(lambda: sample_attributes(config, generator, str(dtype)))
    if dtype != torch.float32:
        convert_weights(generator.model, dtype)
    growing = out.with_name(f"{out.stem}.growing.h5")
    with orderly():  # to the end: a process that left early would let the others wait
        for round_number in itertools.count():
            if world.is_main and growing.is_file():  # whole, but killed before it got its name
                with contextlib.suppress(FileNotFoundError):  # or being named by another command now
                    os.replace(growing, out)
                lock_path(growing).unlink(missing_ok=True)
            world.barrier()
            before = world.agreed(lambda: finished_rows(out, attributes))
            if before >= config.samples:
                return out
            smaller, target = (out, growing) if before else (None, out)
            if fill(config, world, dtype, generator, attributes, smaller=smaller, target=target):
                break
            wait(world, target, tell=round_number == 0)
        if before and world.is_main:
            with contextlib.suppress(FileNotFoundError):  # a command that waited for it has named it
                os.replace(growing, out)
            reach("samples.grown")
        world.barrier()
    if world.is_main:
        print(f"generator.sample: wrote {out}")
    return out


def check_guidance(generator, run: str, scale: float) -> None:
    """Refuse guidance by a generator that has no classes, or never learned to do without one."""
    flag_text = f"--guidance-scale {scale:g}"
    if scale != 1.0 and not generator.config.num_classes:
        raise InputError(f"{flag_text} needs a class-conditional generator; {run} has no classes: use 1")
    if scale != 1.0 and generator.class_dropout == 0:
        raise InputError(f"{flag_text}: {run} was trained with --class-dropout 0 and always needs a class: use 1")


def wait(world, target: Path, tell: bool) -> None:
    """Let another command go on that fills the file, as one that judges the same generator; Stopped if asked to."""
    if world.is_main and tell:
        print(f"generator.sample: waiting for another process that fills {target}", file=sys.stderr, flush=True)
    time.sleep(WAIT_SECONDS)
    world.check_stop()


def finished_rows(out: Path, attributes: dict) -> int:
    """How many samples the file has, 0 without a file; InputError when they are of other settings, or weights."""
    from latents_cache import open_latents

    if not out.is_file():
        return 0
    with open_latents(out) as reader:
        found = reader.attributes
        changed = [
            f"{name}: {found.get(name)!r}, now {value!r}"
            for name, value in {**dict.fromkeys(OPTIONS), **attributes}.items()
            if found.get(name) != value and not (name == "generator_hash" and name not in found)  # an earlier version
        ]
        if changed:
            raise InputError(
                f"{out} exists and holds other samples ({'; '.join(changed)[:300]}); move it away or give another --out"
            )
        return len(reader)


def fill(
    config: SampleConfig, world, dtype, generator, attributes: dict, *, smaller: Path | None, target: Path
) -> bool:
    """Write `config.samples` rows to `target`: those of a smaller file as they are, the others sampled.

    Returns:
        Whether it was written; False where another launch fills it, or has just done so.

    Raises:
        Stopped: When a signal or the time limit asks for it; what is sampled stays.
    """
    from latents_cache import create_latents
    from latents_cache.row_file import Taken, partial_path
    from runtime.log import Progress

    shape = generator.config.latent_shape
    if world.agreed(lambda: (smaller is not None and lacks_hash(smaller)) or lacks_hash(partial_path(target))):
        attributes = {name: value for name, value in attributes.items() if name != "generator_hash"}
    open_file = functools.partial(
        create_latents, target, config.samples, shape, attributes, has_logvar=False, launch=world.launch
    )

    def opened():
        with contextlib.suppress(Taken):
            return open_file()

    writer = world.first(opened)  # the main process creates the file
    if world.same(writer is None):
        return False
    with writer or open_file() as writer:
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
        world.check_stop()
        if world.is_main:
            progress.close()
            writer.finish()
    return True


def lacks_hash(samples: Path) -> bool:
    """Whether an earlier version began this file, which did not note the generator's weights."""
    from latents_cache.row_file import DAMAGE, header

    try:
        return "generator_hash" not in header(samples)[0]
    except DAMAGE:
        return False


def sample_rows(config: SampleConfig, generator, rows: range, device, dtype):
    """Raw latents float32 numpy `[b, C, G, h, w]` and labels (-1 without classes) of the given samples."""
    import torch

    from generator.rectified_flow import integrate
    from runtime.processes import autocast
    from runtime.seeds import normal_rows

    latents = normal_rows(config.seed, "sample", 0, rows, generator.config.latent_shape).to(device)
    labels = sample_labels(config, generator.classes, rows)
    if not config.untrained:  # before training the velocity is zero, and the flow leaves the noise where it is
        asked = torch.tensor(labels, device=device) if generator.classes else None
        with autocast(device, dtype):
            latents = integrate(
                generator.model,
                latents,
                asked,
                steps=config.steps,
                guidance_scale=config.guidance_scale,
                guidance_interval=config.guidance_interval,
            )
    return generator.denormalize(latents.float()).cpu().numpy(), labels


def sample_labels(config: SampleConfig, classes: list[int], rows: range) -> list[int]:
    """The class of each sample, a function of its number (and the seed) alone; -1 without classes."""
    from generator.batches import hashed_rows

    if not classes:
        return [-1] * len(rows)
    if config.labels == "balanced":
        return [classes[row % len(classes)] for row in rows]
    return [classes[int(place * len(classes))] for place in hashed_rows(config.seed, "class", 0, rows)]


def convert_weights(model, dtype) -> None:
    """Convert the weights of the layers that autocast runs in `dtype`, for good: it would do so again in each call,
    since it remembers conversions of trained weights alone. The time embedding runs in float32."""
    from torch import nn

    exact = set(model.time.modules())
    for module in model.modules():
        if isinstance(module, nn.Linear) and module not in exact:
            module.to(dtype)


def sample_attributes(config: SampleConfig, generator, dtype: str) -> dict:
    """What a samples file says about itself."""
    from runtime.run import file_sha256

    facts = generator.latents
    known = "tokenizer tokenizer_name weights encoder_hash data root split clip spec num_classes class_names"
    return {
        **{name: facts[name] for name in known.split() if name in facts},
        "kind": "samples",
        "generator_run": generator.dir.resolve().name,
        "step": 0 if config.untrained else generator.step,
        **({} if config.untrained else {"generator_hash": file_sha256(generator.weights)[:16]}),
        "untrained": int(config.untrained),
        "steps": config.steps,
        "nfe": 0 if config.untrained else config.steps,
        "guidance_scale": config.guidance_scale,
        "rows_per_call": 1 if config.guidance_scale == 1.0 else 2,
        "seed": config.seed,
        "dtype": dtype,
        **sampling_options(config, config.guidance_scale),
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
