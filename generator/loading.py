"""Find a trained generator by run directory or shipped name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from generator.latte import Latte, LatteConfig
from runtime.errors import InputError

# Names of generators that come with the package, and where.
SHIPPED = {"moving-shapes": Path(__file__).parent / "pretrained" / "moving-shapes"}


@dataclass(frozen=True)
class LoadedGenerator:
    """A generator ready to sample from.

    Attributes:
        model: In evaluation mode, gradients off.
        config: Its size.
        latents: What is known of the latents it was trained on: mean and std `[C]`, encoder_hash, tokenizer, data set, clip.
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
        mean, std = (torch.tensor(self.latents[name], device=latents.device).view(1, -1, 1, 1, 1) for name in ("mean", "std"))
        return latents * std + mean


def load_generator(name_or_path: str | Path, step: int | None = None, *, ema: bool = True,
                   device: str | torch.device = "cpu") -> LoadedGenerator:
    """Load a generator.

    Args:
        name_or_path: A run directory of `generator.train`, or a shipped name ("moving-shapes").
        step: Which checkpoint; None: the newest.
        ema: Averaged weights (the ones to sample from), or the raw ones.

    Raises:
        InputError: If there is no such run or checkpoint, or its files do not fit together.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from runtime.checkpoint import find_checkpoint
    from runtime.run import read_json, read_run

    if str(name_or_path) in SHIPPED:
        folder = SHIPPED[str(name_or_path)]
        directory, weights = folder, folder / "model.safetensors"
    else:
        directory = read_run(name_or_path, "generator").dir
        folder = find_checkpoint(directory, step)
        weights = folder / ("ema.safetensors" if ema else "model.safetensors")
    config, state = LatteConfig.from_dict(read_json(folder / "config.json")), read_json(folder / "state.json")
    model = Latte(config)
    try:
        model.load_state_dict(load_file(weights))
    except (SafetensorError, OSError, RuntimeError) as error:
        raise InputError(f"{weights}: damaged, absent, or of another config ({str(error).splitlines()[0]})") from error
    return LoadedGenerator(model.to(device).eval().requires_grad_(False), config, state["latents"], state["step"], directory)
