"""Checkpoints of a generator: save and restore its training, and load it, by run directory or shipped name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from generator.config import LatteConfig
from generator.latte import Latte
from latents_cache.layout import check_attributes
from runtime.checkpoint import find_checkpoint, load_checkpoint, prune, step_named
from runtime.errors import InputError
from runtime.records import check_fields, from_record, read_json
from runtime.run import newest_run, read_run
from runtime.trainer import Trainer
from runtime.weights import load_model

# Names of generators that come with the package, and where.
SHIPPED = {"moving-shapes": Path(__file__).parent / "pretrained" / "moving-shapes"}


@dataclass(frozen=True)
class LoadedGenerator:
    """A generator ready to sample from.

    Attributes:
        model: In evaluation mode, gradients off.
        config: Its size.
        latents: What is known of its training latents: mean and std `[C]`, encoder_hash, tokenizer, data, clip.
        step: Training step of the weights.
        dir: The run directory, or the folder of the shipped weights.
        weights: Their file.
        class_dropout: How often it was trained without a class, which is what guidance needs.
    """

    model: Latte
    config: LatteConfig
    latents: dict
    step: int
    dir: Path
    weights: Path
    class_dropout: float

    @property
    def classes(self) -> list[int]:
        """Classes that it has learned, which samples are asked for in turn; none where it is unconditional."""
        return self.latents.get("classes") or list(range(self.config.num_classes))

    def denormalize(self, latents: Tensor) -> Tensor:
        """Normalised latents `[B, C, G, h, w]` -> raw latents, with the training file's statistics."""
        mean, std = (torch.tensor(self.latents[name], device=latents.device) for name in ("mean", "std"))
        return latents * std.view(1, -1, 1, 1, 1) + mean.view(1, -1, 1, 1, 1)


def chosen(run: str | None, step: int | None, runs_dir: str | Path) -> tuple[str, int | None]:
    """Run and step that flags mean: without `run` the newest of `runs_dir`, without `step` its newest checkpoint.

    A run that is being trained may get a newer checkpoint at any moment, so one process asks, once.
    """
    run = run or str(newest_run(runs_dir, "generator"))
    if run in SHIPPED or not Path(run).is_dir():
        return run, step
    return run, step_named(find_checkpoint(read_run(run, "generator").dir, step))


def load_generator(
    name_or_path: str | Path, step: int | None = None, *, ema: bool = True, device: str | torch.device = "cpu"
) -> LoadedGenerator:
    """Load a generator.

    Args:
        name_or_path: A run directory of `generator.train`, or a shipped name ("moving-shapes").
        step: Which checkpoint; None: the newest.
        ema: Averaged weights (the ones to sample from), or the raw ones; shipped generators have only the averaged.

    Raises:
        InputError: If there is no such run or checkpoint, or its files do not fit together.
    """
    shipped, flags = SHIPPED.get(str(name_or_path)), {}
    if shipped is not None:
        directory, folder, weights = shipped, shipped, shipped / "model.safetensors"
    elif not Path(name_or_path).is_dir():
        raise InputError(f"{name_or_path} is neither a run directory nor a shipped generator ({', '.join(SHIPPED)})")
    else:
        run = read_run(name_or_path, "generator")
        directory, flags = run.dir, run.config
        check_fields(flags, {"class_dropout": float}, directory / "config.json", needed=False)
        folder = find_checkpoint(directory, step)
        weights = folder / ("ema.safetensors" if ema else "model.safetensors")
    config = from_record(LatteConfig, read_json(folder / "config.json"), folder / "config.json")
    state = read_state(folder, config)
    if shipped is not None and step not in (None, state["step"]):
        raise InputError(f"the shipped generator {name_or_path} has step {state['step']} only; leave --step out")
    model, _ = load_model(lambda: Latte(config), weights)
    model.to(device).eval().requires_grad_(False)
    dropout = flags.get("class_dropout", 0.1)
    return LoadedGenerator(model, config, state["latents"], state["step"], directory, weights, dropout)


def read_state(folder: Path, config: LatteConfig) -> dict:
    """state.json of a checkpoint: "step", and of the "latents" at least mean and std `[C]`; InputError if they are
    not."""
    source = folder / "state.json"
    state = read_json(source)
    check_fields(state, {"step": int, "latents": dict}, source)
    facts = state["latents"]
    check_fields(facts, {"mean": list[float], "std": list[float]}, source)
    check_fields(facts, {"classes": list[int]}, source, needed=False)
    if not all(0 <= label < config.num_classes for label in facts.get("classes", ())):
        raise InputError(f"{source}: classes of the latents must lie in 0…{config.num_classes - 1}")
    check_attributes(facts, source)
    mean, std = facts["mean"], facts["std"]
    if not (len(mean) == len(std) == config.channels and all(map(math.isfinite, mean + std)) and min(std) > 0):
        raise InputError(f"{source}: mean and std of the latents must be {config.channels} finite numbers, std above 0")
    return state


def restore(run_dir: Path, trainer: Trainer) -> int:
    """Load the newest checkpoint of training; returns its step, 0 without any. Every process must call it."""
    if trainer.world.is_main:
        prune(run_dir)
    newest = trainer.newest(run_dir)
    if newest is None:
        return 0
    checkpoint = load_checkpoint(newest, optimizer=True)
    trainer.load(checkpoint)
    return checkpoint.step
