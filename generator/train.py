"""Train Latte with rectified flow on a latents file: `python -m generator.train --latents ucf101.h5`.

Source: PV-VAE section 4.1: 250K steps, batch 64, learning rate 1e-4; the rest are documented defaults. Data order, posterior noise,
flow noise, time and label dropping are functions of (seed, step, global row), so a resumed run repeats an undisturbed one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError

MAX_SKIPPED_IN_A_ROW = 10
_NOT_IDENTITY = {"runs_dir", "name", "device", "dry_run", "save_every", "keep_every", "steps", "latents"}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(CommonFlags):
    """Flags of `python -m generator.train`."""

    latents: str = flag(help="latents file of tokenizer.encode")
    preset: str = flag("latte-xl", "size and recipe", choices=("latte-xl", "latte-l", "latte-b", "latte-s", "demo"))
    steps: int = flag(250_000, "optimizer updates in total; may grow when a finished run is resumed", low=1)
    batch_size: int = flag(64, "clips in a batch, over all processes", low=1)
    learning_rate: float = flag(1e-4, "of AdamW, constant after warm-up", low=0.0)
    warmup: int = flag(0, "steps of linear warm-up", low=0)
    weight_decay: float = flag(0.0, "of AdamW", low=0.0)
    gradient_clip: float = flag(1.0, "largest norm of the gradient; 0: no limit", low=0.0)
    ema_decay: float = flag(0.9999, "of the averaged weights, which are the ones sampled from", low=0.0, high=1.0)
    class_dropout: float = flag(0.1, "part of the labels replaced by the null class, for guidance", low=0.0, high=1.0)
    save_every: int = flag(5000, "steps between checkpoints", low=1)
    keep_every: int | None = flag(None, "steps between checkpoints that stay, for convergence curves; default: a tenth of --steps", low=1)


def preset_defaults(given: dict) -> dict:
    """Flag defaults that follow from `--preset`."""
    from generator.presets import PRESETS

    return dict(PRESETS[given.get("preset", "latte-xl")].training)


@dataclass(frozen=True)
class LatentBatches:
    """Training batches of normalised latents, a function of (seed, step, global rows)."""

    reader: object
    batch_size: int
    seed: int
    rows: Sequence[int]

    def at(self, step: int):
        """(latents float32 `[b, C, G, h, w]` sampled from their posteriors and normalised, labels int64 `[b]`) for one step."""
        import numpy as np
        import torch

        from runtime.seeds import normal_rows

        count = len(self.reader)
        positions = step * self.batch_size + np.asarray(self.rows)
        indices = [int(_permutation(count, int(p // count), self.seed)[p % count]) for p in positions]
        batch = self.reader.batch(indices)
        latents = torch.from_numpy(batch["mean"].astype(np.float32))
        if batch["logvar"] is not None:
            std = torch.exp(0.5 * torch.from_numpy(batch["logvar"].astype(np.float32)))
            latents = latents + std * normal_rows(self.seed, "posterior", step, self.rows, latents.shape[1:])
        mean, std = (torch.from_numpy(v.astype(np.float32)).view(1, -1, 1, 1, 1) for v in (self.reader.mean, self.reader.std))
        return (latents - mean) / std, torch.from_numpy(batch["label"].astype(np.int64))

    def stream(self, start: int) -> Iterator[tuple]:
        """Endless batches from step `start` on, gathered one ahead by a thread."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            ahead = pool.submit(self.at, start)
            step = start
            while True:
                batch = ahead.result()
                step += 1
                ahead = pool.submit(self.at, step)
                yield batch


_orders: dict = {}


def _permutation(count: int, epoch: int, seed: int):
    """The order of one epoch; the last two are kept, since a batch may span both."""
    from runtime.seeds import numpy_generator

    if (count, epoch, seed) not in _orders:
        while len(_orders) > 1:
            _orders.pop(next(iter(_orders)))
        _orders[count, epoch, seed] = numpy_generator(seed, "order", epoch).permutation(count)
    return _orders[count, epoch, seed]


def latents_facts(reader) -> dict:
    """What a generator must remember of its latents file, as JSON values."""
    attributes = reader.attributes
    known = ("tokenizer", "tokenizer_name", "encoder_hash", "decoder_hash", "data", "root", "split", "num_classes", "class_names",
             "clip", "spec", "windows", "flip", "seed", "data_fingerprint")
    return {"path": str(reader.path), "rows": len(reader), "shape": list(reader.shape), "mean": reader.mean.tolist(),
            "std": reader.std.tolist(), **{name: attributes[name] for name in known if name in attributes}}


def build_config(preset: str, reader):
    """The preset's size at the file's latent shape and classes."""
    from generator.presets import PRESETS

    channels, groups, height, width = reader.shape
    classes = int(reader.attributes.get("num_classes", 0))
    if classes and not (0 <= reader.labels.min() and reader.labels.max() < classes):
        raise InputError(f"{reader.path}: labels {reader.labels.min()}…{reader.labels.max()} do not fit num_classes {classes}")
    return replace(PRESETS[preset].model, channels=channels, groups=groups, height=height, width=width, num_classes=classes)


def train(config: TrainConfig) -> Path:
    """Train, or resume, one generator run; returns its directory."""
    from latents_cache import open_latents

    reader = open_latents(config.latents)
    model_config = build_config(config.preset, reader)
    facts = latents_facts(reader)

    import torch

    from generator.latte import Latte
    from runtime import processes, seeds
    from runtime.ema import EMA
    from runtime.log import MetricsLog, Progress
    from runtime.run import Run, default_name

    world = processes.start_processes(config.device)
    dtype = processes.resolve_dtype(config.dtype, world.device)
    identity = {field.name: getattr(config, field.name) for field in fields(config) if field.name not in _NOT_IDENTITY}
    identity |= {"dtype": str(dtype), "latents": {name: facts.get(name) for name in ("rows", "shape", "mean", "encoder_hash", "data")}}
    name = config.name or default_name(config.preset, config.latents, identity)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = Latte(model_config).to(world.device).train()
    ema = EMA(model, config.ema_decay)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay,
                                  fused=world.device.type == "cuda")
    extra = {"latents": facts, "parameters": sum(p.numel() for p in model.parameters()), "config": {"model": asdict(model_config)}}
    with Run.open(config, kind="generator", name=name, identity=identity, extra_manifest=extra) as run:
        seeds.seed_everything(config.seed)
        step = restore(run.dir, model, ema, optimizer)
        log = MetricsLog(run.dir, resume_step=step)
        progress = Progress(config.steps, start=step, label=name)
        rows = list(world.rows(config.batch_size))
        batches = LatentBatches(reader, config.batch_size, config.seed, rows).stream(step)
        train_loop(config, model, ema, optimizer, batches, step=step, rows=rows, run_dir=run.dir, facts=facts, dtype=dtype,
                   log=log, progress=progress)
        batches.close()
        progress.close()
        log.close()
    return run.dir


def train_loop(config: TrainConfig, model, ema, optimizer, batches: Iterator, *, step: int, rows: Sequence[int], run_dir: Path,
               facts: dict, dtype, log, progress) -> None:
    """Train from `step` to `config.steps`."""
    import torch

    from generator.rectified_flow import flow_loss
    from runtime.processes import autocast
    from runtime.schedule import is_due, learning_rate
    from runtime.seeds import normal_rows, uniform_rows

    device = next(model.parameters()).device
    keep_every = config.keep_every or max(1, config.steps // 10)
    skipped = skipped_in_a_row = 0
    while step < config.steps:
        with progress.wait():
            latents, labels = next(batches)
        latents = latents.to(device, non_blocking=True)
        noise = normal_rows(config.seed, "noise", step, rows, latents.shape[1:]).to(device)
        t = uniform_rows(config.seed, "time", step, rows).to(device)
        classes = None
        if model.config.num_classes:
            dropped = uniform_rows(config.seed, "label", step, rows) < config.class_dropout
            classes = torch.where(dropped, model.config.num_classes, labels).to(device)
        rate = learning_rate(step, base=config.learning_rate, total=config.steps, warmup=config.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with autocast(device, dtype):
            losses = flow_loss(model, latents, classes, noise=noise, t=t)
        loss = losses.mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip or float("inf"))
        if torch.isfinite(loss) and torch.isfinite(norm):
            optimizer.step()
            skipped_in_a_row = 0
        else:
            skipped, skipped_in_a_row = skipped + 1, skipped_in_a_row + 1
            if skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
                raise InputError(f"{run_dir}: loss or gradient was not finite in {skipped_in_a_row} steps in a row, up to step {step + 1}; "
                                 "lower --learning-rate; the newest checkpoint is from before")
        optimizer.zero_grad(set_to_none=True)
        step += 1
        ema.update(step)
        values = {"loss": float(loss.detach()), "grad_norm": float(norm), "learning_rate": rate, "skipped": skipped}
        values |= loss_by_time(losses.detach(), t)
        log.write(step, values)
        progress.update(step, {"loss": values["loss"]})
        if is_due(step, config.save_every, config.steps) or is_due(step, keep_every, config.steps):
            save(run_dir, step, model, ema, optimizer, facts, keep=is_due(step, keep_every, config.steps))


def loss_by_time(losses, t) -> dict[str, float]:
    """Mean loss in each quarter of time: near noise (0) the task is another one than near data (3)."""
    quarter = (t * 4).long().clamp(max=3)
    return {f"loss_t{q}": float(losses[quarter == q].mean()) for q in range(4) if bool((quarter == q).any())}


def restore(run_dir: Path, model, ema, optimizer) -> int:
    """Load the newest checkpoint of the run; 0 when there is none."""
    from runtime.checkpoint import find_checkpoint, list_checkpoints, load_checkpoint

    if not list_checkpoints(run_dir):
        return 0
    checkpoint = load_checkpoint(find_checkpoint(run_dir), optimizer=True)
    model.load_state_dict(checkpoint.tensors["model"])
    ema.load_state_dict(checkpoint.tensors["ema"])
    optimizer.load_state_dict(checkpoint.optimizer)
    return checkpoint.step


def save(run_dir: Path, step: int, model, ema, optimizer, facts: dict, *, keep: bool) -> None:
    """One checkpoint; the latents' statistics travel in it, so that samples can only be read back with the right ones."""
    from runtime.checkpoint import save_checkpoint

    config = json.loads(json.dumps(asdict(model.config)))
    save_checkpoint(run_dir, step, tensors={"model": model.state_dict(), "ema": ema.state_dict()}, optimizer=optimizer.state_dict(),
                    state={"latents": facts}, files={"config.json": config}, keep=keep)


if __name__ == "__main__":
    run_command(train, TrainConfig, presets=preset_defaults, example="python -m generator.train --latents ucf101.h5")
