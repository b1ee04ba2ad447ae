"""Named sizes and recipes of the generator; latent shape and number of classes come from the latents file."""

from __future__ import annotations

from dataclasses import dataclass

from generator.config import LatteConfig


@dataclass(frozen=True, kw_only=True)
class GeneratorPreset:
    """A network and its recipe.

    Attributes:
        model: The network, unconditional on 5x16x16 latents of 64 channels until a file says otherwise.
        training: Defaults of `generator.train` flags; a flag that is given wins.
    """

    model: LatteConfig
    training: dict[str, int | float | str | bool]


# PV-VAE trains its generator at 1e-4 with batch 64 for 250K steps.
_PAPER = {
    "steps": 250_000,
    "batch_size": 64,
    "learning_rate": 1e-4,
    "warmup": 0,
    "ema_decay": 0.9999,
    "save_every": 5000,
}

PRESETS: dict[str, GeneratorPreset] = {
    "latte-xl": GeneratorPreset(model=LatteConfig(hidden_size=1152, depth=28, num_heads=16), training=_PAPER),
    "latte-l": GeneratorPreset(model=LatteConfig(hidden_size=1024, depth=24, num_heads=16), training=_PAPER),
    "latte-b": GeneratorPreset(model=LatteConfig(hidden_size=768, depth=12, num_heads=12), training=_PAPER),
    "latte-s": GeneratorPreset(model=LatteConfig(hidden_size=384, depth=12, num_heads=6), training=_PAPER),
    # For 5x4x4 latents on two CPU cores, and 5x8x8 in an hour.
    "demo": GeneratorPreset(
        model=LatteConfig(hidden_size=128, depth=6, num_heads=4, gelu="none"),
        training={
            "steps": 1000,
            "batch_size": 32,
            "optimizer": "muon",
            "learning_rate": 1e-2,
            "schedule": "cosine",
            "warmup": 50,
            "ema_decay": 0.995,
            "ema_warmup": True,
            "save_every": 200,
        },
    ),
}
