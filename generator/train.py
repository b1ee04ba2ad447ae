"""Train Latte with rectified flow on a latents file: `python -m generator.train --latents ucf101.h5`.

Source: PV-VAE section 4.1: 250K steps, batch 64, learning rate 1e-4; the rest are documented defaults. Data order,
posterior noise, flow noise, time and label dropping are functions of (seed, step, global row), so a resumed run repeats
an undisturbed one.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from generator.presets import PRESETS
from runtime.command import NOT_IDENTITY, CommonFlags, flag, run_command
from runtime.errors import InputError
from runtime.stopping import orderly, stop_asked

# Fields that do not change what is learnt. `steps` may grow, except under a schedule that depends on it.
_NOT_IDENTITY = NOT_IDENTITY | {"save_every", "keep_every", "steps", "latents", "parallel", "shard_dtype"}
_NOT_IDENTITY |= {"accumulate", "checkpoint_blocks", "compile", "deterministic"}
# What earlier versions did, who had no such flags; their runs go on with these.
_AS_BEFORE = {"ema_warmup": True, "qk_norm": False, "time_density": "uniform", "time_shift": 1.0}
# Steps whose numbers a device may still owe when the host prepares the next.
BEHIND = {"cuda": 2, "cpu": 0}
# What a generator, and then its samples, repeat of the latents file's attributes.
_REMEMBERED = ("tokenizer", "tokenizer_name", "weights", "encoder_hash", "decoder_hash", "data", "root", "split")
_REMEMBERED += ("num_classes", "class_names", "clip", "spec", "windows", "flip", "seed", "data_fingerprint")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(CommonFlags):
    """Flags of `python -m generator.train`."""

    latents: str = flag(help="latents file of tokenizer.encode")
    preset: str = flag("latte-xl", "size and recipe", choices=tuple(PRESETS))
    steps: int = flag(
        250_000, "optimizer updates in total; may grow when a finished run is resumed", low=1, high=1_000_000_000
    )
    batch_size: int = flag(64, "clips in a batch, over all processes", low=1, high=65_536)
    optimizer: str = flag("adamw", "adamw, as published, or muon for the weights of layers", choices=("adamw", "muon"))
    learning_rate: float = flag(1e-4, "after warm-up", low=0.0)
    schedule: str = flag("constant", "of the learning rate; cosine falls to a tenth", choices=("constant", "cosine"))
    warmup: int = flag(0, "steps of linear warm-up", low=0)
    betas: tuple[float, ...] = flag((0.9, 0.999), "of AdamW", low=0.0)
    weight_decay: float = flag(0.0, "of the optimizer", low=0.0)
    gradient_clip: float = flag(1.0, "largest norm of the gradient; 0: no limit", low=0.0)
    ema_decay: float = flag(0.9999, "of the averaged weights, which are the ones sampled from", low=0.0, high=1.0)
    ema_warmup: bool = flag(
        False, "average over about the last tenth of the steps while that is a shorter time than the decay's"
    )
    class_dropout: float = flag(0.1, "part of the labels replaced by the null class, for guidance", low=0.0, high=1.0)
    time_density: str = flag("uniform", "of the times t of training", choices=("uniform", "logit-normal"))
    time_shift: float = flag(1.0, "t becomes t / (t + shift (1 - t)): above 1, more of them near noise", low=1e-3)
    qk_norm: bool = flag(False, "norms of queries and keys in every attention, for trainings that diverge")
    parallel: str = flag(
        "ddp", "under torchrun: a copy of the model on each process, or its parameters spread", choices=("ddp", "fsdp")
    )
    shard_dtype: str = flag(
        "float32",
        "what --parallel fsdp sends and computes parameters in; bfloat16 (with --dtype bfloat16) halves what is sent",
        choices=("float32", "bfloat16"),
    )
    accumulate: int = flag(1, "parts that a process computes its share of a batch in, to save memory", low=1)
    checkpoint_blocks: bool = flag(False, "compute every block again in the backward pass, to save memory")
    compile: str = flag(
        "auto",
        "compile every block (torch.compile); auto: models of 100 M parameters and more, on a GPU",
        choices=("auto", "true", "false"),
    )
    deterministic: bool = flag(False, "take only kernels that give the same bits each time, on a GPU too")
    save_every: int = flag(5000, "steps between checkpoints; the last two stay", low=1)
    keep_every: int | None = flag(None, "steps between checkpoints that all stay; default: a tenth of --steps", low=1)

    def __post_init__(self) -> None:
        if len(self.betas) != 2 or max(self.betas) >= 1.0:
            raise InputError(
                f"--betas {','.join(map(str, self.betas))}: expected two numbers in [0, 1), as in 0.9,0.999"
            )
        if self.shard_dtype != "float32" and self.parallel != "fsdp":
            raise InputError(f"--shard-dtype {self.shard_dtype} is about sharded parameters: give --parallel fsdp too")

    @property
    def steps_between_kept(self) -> int:
        """`keep_every`, or its default."""
        return self.keep_every or max(1, self.steps // 10)


def preset_defaults(given: dict) -> dict:
    """Flag defaults that follow from `--preset`."""
    return dict(PRESETS[given.get("preset", "latte-xl")].training)


def train(config: TrainConfig) -> Path:
    """Train, or resume, one generator run; returns its directory."""
    from latents_cache import open_latents

    reader = open_latents(config.latents)
    model_config = build_config(config, reader)

    import torch

    from generator.batches import LatentBatches, channel_statistics, draws_of
    from generator.latte import Latte, forward_flops
    from generator.loading import restore
    from runtime import parallel, processes
    from runtime.log import MetricsLog, Progress
    from runtime.measuring import stated_peak
    from runtime.run import Run, default_name
    from runtime.seeds import seeded
    from runtime.trainer import Trainer, require_training

    world = processes.start_processes(config.device)
    rows = world.rows(config.batch_size, config.accumulate)
    dtype = processes.resolve_dtype(config.dtype, world.device)
    shard_dtype = getattr(torch, config.shard_dtype)
    if shard_dtype not in (torch.float32, dtype):
        raise InputError(f"--shard-dtype {config.shard_dtype}: this run computes in {dtype}; give --dtype bfloat16 too")
    mean, std = (values.tolist() for values in channel_statistics(reader))
    facts = {
        "path": str(reader.path),
        "rows": len(reader),
        "shape": list(reader.shape),
        "mean": mean,
        "std": std,
        **{name: reader.attributes[name] for name in _REMEMBERED if name in reader.attributes},
        **classes_seen(reader.labels, model_config.num_classes),
    }
    identity = run_identity(config, dtype, facts, model_config)
    name = config.name or default_name(config.preset, config.latents, identity)
    Run.check(config, kind="generator", name=name, identity=identity)  # before the network is built
    run_dir = Path(config.runs_dir) / name
    draws = draws_of(run_dir, world.device)
    model = seeded(lambda: Latte(model_config), config.seed).to(world.device).train()
    parameters = sum(p.numel() for p in model.parameters())
    kept = config.steps // config.steps_between_kept
    estimate = require_training(parameters, world, run_dir, mode=config.parallel, steps=config.steps, kept=kept)
    parallel.compile_as_asked(model, config.compile, world.device)
    if config.checkpoint_blocks:
        model.recompute = "blocks"
    trainer = Trainer(
        model,
        world,
        mode=config.parallel,
        optimizer=config.optimizer,
        learning_rate=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
        gradient_clip=config.gradient_clip,
        ema_decay=config.ema_decay,
        ema_warmup=config.ema_warmup,
        gather_dtype=shard_dtype,
    )
    extra = {"latents": facts, "parameters": parameters, "draws": draws}
    session = {"processes": world.size, "parallel": config.parallel, "accumulate": config.accumulate}
    run = world.first(
        lambda: Run.open(
            config,
            kind="generator",
            name=name,
            identity=identity,
            extra_config={"model": asdict(model_config)},
            extra_manifest=extra,
            session=session,
        )
    )
    with run or nullcontext(), processes.deterministic(config.deterministic):
        step = restore(run_dir, trainer)
        if step >= config.steps:
            if world.is_main:
                print(f"generator.train: {run_dir} is complete ({step} steps)")
            return run_dir
        log = MetricsLog(run_dir, resume_step=step) if world.is_main else None
        if world.is_main:
            where = f"on {world.device} in {str(dtype).removeprefix('torch.')}"  # a GPU that is not seen is no error
            print(f"generator.train: {where}; {estimate}", file=sys.stderr)
        batches = LatentBatches(
            reader,
            config.batch_size,
            rows=rows,
            seed=config.seed,
            class_dropout=config.class_dropout,
            num_classes=model_config.num_classes,
            device=world.device,
            draws=draws,
        )
        progress = Progress(
            config.steps,
            start=step,
            label=name,
            flops=3 * forward_flops(model_config) * len(rows),
            peak=stated_peak(world.device, dtype),
        )
        with closing(batches.stream(step, config.steps)) as stream, orderly(), trainer.checkpoints:
            train_loop(config, trainer, stream, log, progress, run_dir=run_dir, facts=facts, dtype=dtype)
    if world.is_main:
        print(f"generator.train: wrote {run_dir}")
    return run_dir


def train_loop(
    config: TrainConfig, trainer, batches: Iterator, log, progress, *, run_dir: Path, facts: dict, dtype
) -> None:
    """Train from `progress.step` to `config.steps`; the main process logs and saves.

    Raises:
        Stopped: When a signal or the time limit asks for it; the checkpoint of the last step is written first.
        InputError: When loss or gradient stay non-finite.
    """
    import torch

    from generator.rectified_flow import flow_loss, shaped_time
    from generator.step_numbers import Reading, step_sums, step_values
    from runtime.measuring import peak_memory_gib
    from runtime.processes import autocast
    from runtime.schedule import is_due, learning_rate

    world, parts, step = trainer.world, config.accumulate, progress.step
    # The host decides nothing by what a step computed, and so prepares the next ones while a GPU is busy with it.
    # Every process learns the numbers of a step in the same later one: they stop together.
    owed: deque[tuple[int, float, Reading]] = deque()
    behind = BEHIND[world.device.type]

    def settle() -> bool:
        """Log the oldest step that is owed; whether some process was asked to stop."""
        at, rate, reading = owed.popleft()
        *numbers, skipped, in_a_row = reading.get()
        values, stop = step_values(numbers)
        if world.is_main:
            values |= {"learning_rate": rate, "skipped": int(skipped)}
            log.write(at, values | progress.measured(at, peak_memory_gib(world.device)))
            progress.update(at, {"loss": values["loss"]})
        trainer.check(at, int(in_a_row), run_dir)
        return stop

    while step < config.steps:
        with progress.wait():
            batch = next(batches)
        batch = batch._replace(t=shaped_time(batch.t, config.time_density, config.time_shift))
        losses = []
        for number, part in enumerate(batch.split(parts)):
            with trainer.part(number, parts):
                with autocast(world.device, dtype):
                    found = flow_loss(trainer.network, part.latents, part.labels, noise=part.noise, t=part.t)
                (found.mean() / parts).backward()
            losses.append(found.detach())
        sums = step_sums(torch.cat(losses), batch.t, trainer.clip(), world, stop_asked())
        rate = learning_rate(
            step, base=config.learning_rate, total=config.steps, warmup=config.warmup, kind=config.schedule
        )
        step = trainer.update(step, rate, sums.isfinite().all(), run_dir)
        owed.append((step, rate, Reading(torch.cat([sums, trainer.skips]))))
        keep = is_due(step, config.steps_between_kept, config.steps)
        due, stop = keep or is_due(step, config.save_every, config.steps), False
        while len(owed) > (0 if due or stop else behind):
            stop = settle() or stop
        if due or stop:
            if world.is_main:
                log.sync()
            # Facts of the latents travel along, so that samples are read back with the right statistics and decoder.
            state, files = {"latents": facts}, {"config.json": asdict(trainer.model.config)}
            trainer.save(run_dir, step, state=state, files=files, keep=keep, passing=not due)
        if stop and step < config.steps:
            trainer.stop()
    if world.is_main:
        progress.close()
        log.close()


def build_config(config: TrainConfig, reader):
    """The preset's size and options at the latent shape and classes of the file; InputError when the file cannot
    be trained on."""
    if reader.attributes.get("kind") == "samples":
        raise InputError(f"{reader.path} holds samples of a generator; --latents takes a file of tokenizer.encode")
    channels, groups, height, width = reader.shape
    classes = int(reader.attributes.get("num_classes", 0))
    if classes and not (reader.labels.min() >= 0 and reader.labels.max() < classes):
        found = f"{reader.labels.min()}…{reader.labels.max()}"
        raise InputError(f"{reader.path}: labels {found} do not fit num_classes {classes}; encode the data set again")
    axes = {"channels": channels, "groups": groups, "height": height, "width": width}
    return replace(PRESETS[config.preset].model, **axes, num_classes=classes, qk_norm=config.qk_norm)


def classes_seen(labels, num_classes: int) -> dict[str, list[int]]:
    """{"classes": those that occur} where some do not, so that no sample is asked for what nobody has seen."""
    found = sorted(set(labels.tolist()))
    return {"classes": found} if len(found) < num_classes else {}


def run_identity(config: TrainConfig, dtype, facts: dict, model_config) -> dict:
    """Everything that changes what is learnt; a run is resumed only by the same."""
    from runtime.run import departing

    identity = {field.name: getattr(config, field.name) for field in fields(config) if field.name not in _NOT_IDENTITY}
    if config.schedule != "constant":
        identity["steps"] = config.steps
    known = {name: facts.get(name) for name in ("rows", "shape", "mean", "std", "encoder_hash", "data")}
    identity |= {"dtype": str(dtype), "latents": known}
    return departing(identity, _AS_BEFORE) | {"model": departing(asdict(model_config), _AS_BEFORE)}


if __name__ == "__main__":
    run_command(train, TrainConfig, presets=preset_defaults, example="python -m generator.train --latents ucf101.h5")
