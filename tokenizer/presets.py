"""Named sizes and recipes of the tokenizer.

`paper`: PV-VAE as published (PV-VAE section 4.1), with documented defaults for what was not. One command a stage on
GPUs.
`paper-transformer`: PV-VAE-T (its table 7), 1.2 B parameters, trained alike: no recipe of its own was published.
`demo`: the same method at 17x32x32, small enough for two CPU cores; `small`: for real clips at 17x64x64. The README
says what they reach, and how long they take.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tokenizer.config import PVVAEConfig


@dataclass(frozen=True, kw_only=True)
class TokenizerPreset:
    """A model and the training defaults that go with it.

    Attributes:
        model: Size of the network.
        stage_steps: Steps of the stages images, video, decoder; `--steps` scales them for `--stage all`.
        training: Defaults of `tokenizer.train` flags; a flag that is given wins.
    """

    model: PVVAEConfig
    stage_steps: dict[str, int]
    training: dict[str, int | float | str | bool | tuple[int, ...]]


_PAPER = TokenizerPreset(
    # Channels and blocks are ours: 661.8 M parameters of the 661 M published, and an encoder of 1.10 times the
    # multiply-adds of Wan2.2's, beside whose training the published one ran at 0.89 of the speed.
    model=PVVAEConfig(
        channels=(64, 192, 384, 768, 768),
        blocks=(1, 2, 3, 3, 3),
        decoder_channels=(96, 192, 384, 768, 768),
        decoder_blocks=3,
    ),
    stage_steps={"images": 300_000, "video": 50_000, "decoder": 50_000},
    training={
        "size": 256,
        "image_sizes": (256, 384, 512),
        "clip_sizes": (256, 512),
        "frame_stride": (1, 3),
        "batch_size": 32,  # 128, 56 and 32 images, 32 and 8 clips: they divide over 2, 4 or 8 processes
        "images_per_clip": 4,
        "learning_rate": 5e-5,
        "warmup": 1000,
        "kl_weight": 1e-6,
        "lpips_weight": 1.0,
        "ema_decay": 0.999,
        "save_every": 5000,
        "validate_every": 5000,
    },
)
# Two cores without bfloat16 are enough for these. A latent cell is 8 pixels wide: at 16, outlines of so small a picture
# are lost.
_DEMO_MODEL = PVVAEConfig(
    latent_channels=12,
    channels=(24, 48, 80),
    decoder_channels=(32, 64, 96),
    blocks=1,
    middle_blocks=1,
    patch=2,
    norm="layer",
)
_SMALL_TRAINING = {
    "images_per_clip": 6,
    "optimizer": "muon",
    "learning_rate": 2e-3,
    "warmup": 50,
    "weight_decay": 0.0,
    "spatial_weight": 4.0,
    "kl_weight": 1e-5,
    "lpips_weight": 0.0,
    "gan_weight": 0.0,
    "discriminator_layers": 2,
    "ema_decay": 0.998,
    "save_every": 250,
    "validate_every": 250,
}

PRESETS: dict[str, TokenizerPreset] = {
    "paper": _PAPER,
    "paper-transformer": replace(_PAPER, model=PVVAEConfig(architecture="transformer")),
    "demo": TokenizerPreset(
        model=_DEMO_MODEL,
        stage_steps={"images": 700, "video": 700, "decoder": 150},
        training={**_SMALL_TRAINING, "size": 32, "batch_size": 8},
    ),
    "small": TokenizerPreset(
        model=replace(_DEMO_MODEL, latent_channels=32, channels=(32, 64, 96), decoder_channels=(40, 80, 128)),
        stage_steps={"images": 600, "video": 1000, "decoder": 300},
        training={**_SMALL_TRAINING, "size": 64, "batch_size": 4, "frame_stride": (1, 3), "spatial_weight": 1.0},
    ),
}
