"""Train Latte with rectified flow on a latents file: `python -m generator.train --latents ucf101.h5`.

Source: PV-VAE section 4.1: 250K steps, batch 64, learning rate 1e-4; the rest are documented defaults. Data order,
posterior noise, flow noise, time and label dropping are functions of (seed, step, global row), so a resumed run repeats
an undisturbed one.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from runtime.command import NOT_IDENTITY, CommonFlags, flag, run_command
from runtime.errors import InputError
from runtime.stopping import Stopped, orderly, stop_asked

# Fields that do not change what is learnt. `steps` may grow, except under a schedule that depends on it.
_NOT_IDENTITY = NOT_IDENTITY | {
    "save_every",
    "keep_every",
    "steps",
    "latents",
    "parallel",
    "accumulate",
}
# What a generator, and then its samples, repeat of the latents file's attributes.
_REMEMBERED = (
    "tokenizer",
    "tokenizer_name",
    "weights",
    "encoder_hash",
    "decoder_hash",
    "data",
    "root",
    "split",
    "num_classes",
    "class_names",
    "clip",
    "spec",
    "windows",
    "flip",
    "seed",
    "data_fingerprint",
)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(CommonFlags):
    """Flags of `python -m generator.train`."""

    latents: str = flag(help="latents file of tokenizer.encode")
    preset: str = flag("latte-xl", "size and recipe", choices=("latte-xl", "latte-l", "latte-b", "latte-s", "demo"))
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
    class_dropout: float = flag(0.1, "part of the labels replaced by the null class, for guidance", low=0.0, high=1.0)
    parallel: str = flag(
        "ddp", "under torchrun: a copy of the model on each process, or its parameters spread", choices=("ddp", "fsdp")
    )
    accumulate: int = flag(1, "parts that a process computes its share of a batch in, to save memory", low=1)
    save_every: int = flag(5000, "steps between checkpoints; the last two stay", low=1)
    keep_every: int | None = flag(None, "steps between checkpoints that all stay; default: a tenth of --steps", low=1)

    def __post_init__(self) -> None:
        if len(self.betas) != 2 or max(self.betas) >= 1.0:
            raise InputError(
                f"--betas {','.join(map(str, self.betas))}: expected two numbers in [0, 1), as in 0.9,0.999"
            )


def preset_defaults(given: dict) -> dict:
    """Flag defaults that follow from `--preset`."""
    from generator.presets import PRESETS

    return dict(PRESETS[given.get("preset", "latte-xl")].training)


def train(config: TrainConfig) -> Path:
    """Train, or resume, one generator run; returns its directory."""
    from latents_cache import open_latents

    reader = open_latents(config.latents)
    model_config = build_config(config.preset, reader)

    import torch

    from generator.batches import LatentBatches, channel_statistics
    from generator.latte import Latte
    from generator.loading import restore
    from runtime import processes
    from runtime.log import MetricsLog
    from runtime.resources import require_training
    from runtime.run import Run, default_name
    from runtime.trainer import Trainer

    world = processes.start_processes(config.device)
    rows = world.rows(config.batch_size, config.accumulate)
    dtype = processes.resolve_dtype(config.dtype, world.device)
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
    identity = run_identity(config, dtype, facts) | {"model": asdict(model_config)}
    name = config.name or default_name(config.preset, config.latents, identity)
    Run.check(config, kind="generator", name=name, identity=identity)  # before the network is built
    run_dir = Path(config.runs_dir) / name
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = Latte(model_config).to(world.device).train()
    parameters = sum(p.numel() for p in model.parameters())
    keep_every = config.keep_every or max(1, config.steps // 10)
    estimate = require_training(
        parameters, world, run_dir, mode=config.parallel, checkpoints=3 + config.steps // keep_every
    )
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
    )
    manifest = {"latents": facts, "parameters": parameters, "config": {"model": asdict(model_config)}}
    session = {"processes": world.size, "parallel": config.parallel, "accumulate": config.accumulate}
    run = world.first(
        lambda: Run.open(
            config, kind="generator", name=name, identity=identity, extra_manifest=manifest, session=session
        )
    )
    with run or nullcontext():
        step = restore(run_dir, trainer)
        if step >= config.steps:
            if world.is_main:
                print(f"generator.train: {run_dir} is complete ({step} steps)")
            return run_dir
        log = MetricsLog(run_dir, resume_step=step) if world.is_main else None
        if world.is_main:
            print(f"generator.train: {estimate}", file=sys.stderr)
        batches = LatentBatches(
            reader,
            config.batch_size,
            rows=rows,
            seed=config.seed,
            class_dropout=config.class_dropout,
            num_classes=model_config.num_classes,
            pin=world.device.type == "cuda",
        )
        with closing(batches.stream(step, config.steps)) as stream, orderly():
            train_loop(config, trainer, stream, log=log, step=step, run_dir=run_dir, facts=facts, dtype=dtype)
    return run_dir


def train_loop(
    config: TrainConfig, trainer, batches: Iterator, *, log, step: int, run_dir: Path, facts: dict, dtype
) -> None:
    """Train from `step` to `config.steps`; the main process logs and saves.

    Raises:
        Stopped: When a signal or the time limit asks for it; the checkpoint of the last step is written first.
    """
    import torch

    from generator.loading import save
    from generator.rectified_flow import flow_loss
    from runtime.log import Progress
    from runtime.processes import autocast
    from runtime.schedule import is_due, learning_rate

    world, parts = trainer.world, config.accumulate
    progress = Progress(config.steps, start=step, label=run_dir.name)
    keep_every = config.keep_every or max(1, config.steps // 10)
    while step < config.steps:
        with progress.wait():
            batch = next(batches).to(world.device)
        losses = []
        for number, part in enumerate(batch.split(parts)):
            with trainer.part(number, parts):
                with autocast(world.device, dtype):
                    found = flow_loss(trainer.network, part.latents, part.labels, noise=part.noise, t=part.t)
                (found.mean() / parts).backward()
            losses.append(found.detach())
        values, stop = step_values(torch.cat(losses), batch.t, trainer.clip(), world, stop_asked())
        rate = learning_rate(
            step, base=config.learning_rate, total=config.steps, warmup=config.warmup, kind=config.schedule
        )
        finite = math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])
        step = trainer.update(step, rate, finite, run_dir)
        if world.is_main:
            log.write(step, {**values, "learning_rate": rate, "skipped": trainer.skipped})
            progress.update(step, {"loss": values["loss"]})
        keep = is_due(step, keep_every, config.steps)
        due = keep or is_due(step, config.save_every, config.steps)
        if due or stop:
            save(run_dir, step, trainer, latents=facts, keep=keep, passing=not due)
        if stop and step < config.steps:
            raise Stopped(stop_asked() or "another process")
    if world.is_main:
        progress.close()
        log.close()


def step_values(losses, t, norm, world, stop: object) -> tuple[dict[str, float], bool]:
    """What one step logs, over all processes, and whether any of them was asked to stop; in one exchange.

    Beside the mean loss, the mean in each quarter of time: near noise (0) the task is another one than near data (3).
    """
    import torch

    quarter = (t * 4).long().clamp(max=3) == torch.arange(4, device=t.device)[:, None]  # [4, b]
    sums = torch.where(quarter, losses.double(), 0.0).sum(1)
    asked = torch.tensor([float(bool(stop))], device=t.device)
    # The norm is the same on every process already: one of them counts.
    *sums, norm, asked = world.sum(torch.cat([sums, quarter.sum(1), norm.view(1) / world.size, asked]).double())
    loss, count = sum(sums[:4]) / sum(sums[4:]), sums[4:]
    values = {"loss": loss, "grad_norm": norm} | {f"loss_t{q}": sums[q] / count[q] for q in range(4) if count[q]}
    return values, asked > 0


def build_config(preset: str, reader):
    """The preset's size at the file's latent shape and classes; InputError when the file cannot be trained on."""
    from generator.presets import PRESETS

    if reader.attributes.get("kind") == "samples":
        raise InputError(f"{reader.path} holds samples of a generator; --latents takes a file of tokenizer.encode")
    channels, groups, height, width = reader.shape
    classes = int(reader.attributes.get("num_classes", 0))
    if classes and not (reader.labels.min() >= 0 and reader.labels.max() < classes):
        found = f"{reader.labels.min()}…{reader.labels.max()}"
        raise InputError(f"{reader.path}: labels {found} do not fit num_classes {classes}; encode the data set again")
    return replace(
        PRESETS[preset].model, channels=channels, groups=groups, height=height, width=width, num_classes=classes
    )


def classes_seen(labels, num_classes: int) -> dict[str, list[int]]:
    """{"classes": those that occur} where some do not, so that no sample is asked for what nobody has seen."""
    found = sorted(set(labels.tolist()))
    return {"classes": found} if len(found) < num_classes else {}


def run_identity(config: TrainConfig, dtype, facts: dict) -> dict:
    """Everything that changes what is learnt; a run is resumed only by the same."""
    identity = {field.name: getattr(config, field.name) for field in fields(config) if field.name not in _NOT_IDENTITY}
    if config.schedule != "constant":
        identity["steps"] = config.steps
    known = {name: facts.get(name) for name in ("rows", "shape", "mean", "std", "encoder_hash", "data")}
    return identity | {"dtype": str(dtype), "latents": known}


if __name__ == "__main__":
    run_command(train, TrainConfig, presets=preset_defaults, example="python -m generator.train --latents ucf101.h5")
