"""Checkpoints of a generator: save and restore its training, and load it, by run directory or shipped name."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from generator.latte import Latte, LatteConfig
from runtime.checkpoint import find_checkpoint, list_checkpoints, load_checkpoint
from runtime.errors import InputError
from runtime.run import read_json, read_run
from runtime.trainer import Trainer

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
    """

    model: Latte
    config: LatteConfig
    latents: dict
    step: int
    dir: Path

    def denormalize(self, latents: Tensor) -> Tensor:
        """Normalised latents `[B, C, G, h, w]` -> raw latents, with the training file's statistics."""
        mean, std = (torch.tensor(self.latents[name], device=latents.device) for name in ("mean", "std"))
        return latents * std.view(1, -1, 1, 1, 1) + mean.view(1, -1, 1, 1, 1)


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
    shipped = SHIPPED.get(str(name_or_path))
    if shipped is not None:
        directory, folder, weights = shipped, shipped, shipped / "model.safetensors"
    elif not Path(name_or_path).is_dir():
        raise InputError(f"{name_or_path} is neither a run directory nor a shipped generator ({', '.join(SHIPPED)})")
    else:
        directory = read_run(name_or_path, "generator").dir
        folder = find_checkpoint(directory, step)
        weights = folder / ("ema.safetensors" if ema else "model.safetensors")
    config, state = LatteConfig.from_dict(read_json(folder / "config.json")), read_json(folder / "state.json")
    if shipped is not None and step not in (None, state["step"]):
        raise InputError(f"the shipped generator {name_or_path} has step {state['step']} only; leave --step out")
    model = Latte(config)
    try:
        model.load_state_dict(load_file(weights))
    except (SafetensorError, OSError, RuntimeError) as error:
        raise InputError(f"{weights}: damaged, absent, or of another config ({str(error).splitlines()[0]})") from error
    model.to(device).eval().requires_grad_(False)
    return LoadedGenerator(model, config, state["latents"], state["step"], directory)


def save(run_dir: Path, step: int, trainer: Trainer, *, latents: dict, keep: bool) -> None:
    """Write one checkpoint of training; every process must call it.

    Args:
        latents: Facts of the latents file; they travel in the checkpoint, so that samples are read back with the right
            statistics and decoder.
        keep: Never prune it.
    """
    config = asdict(trainer.model.config)
    trainer.save(run_dir, step, state={"latents": latents}, files={"config.json": config}, keep=keep)


def restore(run_dir: Path, trainer: Trainer) -> int:
    """Load the newest checkpoint of training; returns its step, 0 without any."""
    if not list_checkpoints(run_dir):
        return 0
    checkpoint = load_checkpoint(find_checkpoint(run_dir), optimizer=True)
    trainer.load(checkpoint)
    return checkpoint.step
