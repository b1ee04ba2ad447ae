import json

import numpy as np
import pytest
import torch

from generator.config import LatteConfig
from generator.latte import Latte
from generator.presets import PRESETS, GeneratorPreset
from latents_cache import create_latents

SHAPE = (6, 3, 2, 2)
CLASSES = 4


def write_file(path, *, rows=40, shape=SHAPE, num_classes=CLASSES, has_logvar=True, label=None, kind="latents"):
    """A whole latents file with channel means 1, 2, … and standard deviations near 2."""
    generator = np.random.default_rng(0)
    attributes = {
        "kind": kind, "encoder_hash": "e" * 16, "decoder_hash": "d" * 16, "tokenizer": "runs/tokenizer",
        "tokenizer_name": "pv-vae", "data": "moving_shapes", "root": "", "split": "train", "num_classes": num_classes,
        "clip": json.dumps({"num_frames": 9}), "spec": json.dumps({"temporal": 4}),
    }  # fmt: skip
    writer = create_latents(path, rows, shape, attributes, has_logvar=has_logvar)
    offset = np.arange(1, shape[0] + 1).reshape(-1, 1, 1, 1)
    for row in range(rows):
        mean = offset + 2.0 * generator.standard_normal(shape)
        logvar = np.full(shape, -2.0) if has_logvar else None
        own = row % num_classes if num_classes else -1
        chosen = own if label is None else label(row) if callable(label) else label
        writer.write(row, mean, logvar, label=chosen)
    writer.finish()
    return path


@pytest.fixture
def write_latents():
    """A function (path, **changes) -> path that writes a latents file."""
    return write_file


@pytest.fixture
def latents_file(tmp_path):
    return write_file(tmp_path / "latents.h5")


@pytest.fixture
def tiny_demo(monkeypatch):
    """The demo preset with a network small enough for many steps a second."""
    tiny = GeneratorPreset(
        model=LatteConfig(hidden_size=16, depth=2, num_heads=2),
        training={"steps": 20, "batch_size": 8, "learning_rate": 1e-3, "ema_decay": 0.9, "save_every": 10},
    )
    monkeypatch.setitem(PRESETS, "demo", tiny)


@pytest.fixture
def model():
    """A small generator with every weight away from zero, so that conditions and positions act."""
    config = LatteConfig(
        channels=6, groups=3, height=2, width=3, num_classes=CLASSES, hidden_size=16, depth=4, num_heads=2
    )
    torch.manual_seed(0)
    network = Latte(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.requires_grad_(False)
