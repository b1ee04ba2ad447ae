"""A whole chain at its very smallest, made once: tokenizer run, latents file, generator run, an untrained judge."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest


@dataclass(frozen=True)
class Chain:
    """Where the parts of the chain are."""

    runs: Path
    tokenizer: Path
    latents: Path
    generator: Path


COMMON = {"device": "cpu", "dtype": "float32"}


@pytest.fixture
def random():
    """Each test's own draws, whichever ran before it."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def judge_weights(tmp_path_factory):
    """Random weights of the shapes network, so that no test depends on the trained ones."""
    import torch
    from safetensors.torch import save_file

    from eval.features.shapes import ShapesNet

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ShapesNet()
    path = tmp_path_factory.mktemp("judge") / "shapes.safetensors"
    save_file({name: value.half() for name, value in network.state_dict().items()}, path)
    return path


@pytest.fixture(scope="session")
def judging(judge_weights):
    """While it lasts, `load_features("shapes")` returns the random judge, and no published weights are found."""

    @contextmanager
    def patched():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("eval.features.shapes.WEIGHTS", judge_weights)
            patch.setenv("PVVAE_WEIGHTS", str(judge_weights.parent))
            patch.setenv("HOME", str(judge_weights.parent))
            yield patch

    return patched


@pytest.fixture
def judge(judge_weights, judging):
    """`judging` for one test."""
    with judging():
        yield judge_weights


@pytest.fixture
def guesser():
    """Stands for C3D: two classes, told from the mean brightness of a clip."""
    import torch

    class Guesser:
        name, version_hash = "c3d", "guesses"

        def to(self, device):
            return self

        def features(self, video):
            bright = torch.sigmoid(5 * video.mean((1, 2, 3, 4)))
            return torch.stack([bright, 1 - bright], dim=1)

        def classify(self, features):
            return features

    return Guesser()


@pytest.fixture(scope="session")
def chain(tmp_path_factory) -> Chain:
    """`build_chain`, on the CPU."""
    return build_chain(tmp_path_factory.mktemp("chain") / "runs")


@pytest.fixture(scope="session")
def make_chain():
    """`build_chain`, for tests that want one of their own."""
    return build_chain


def build_chain(runs: Path, **flags) -> Chain:
    """Four tokenizer steps, 40 encoded clips, four generator steps; all on 17x32x32 clips."""
    pytest.importorskip("tensorboard")
    from generator import train as generator_train
    from generator.config import LatteConfig
    from generator.presets import PRESETS as GENERATORS
    from generator.presets import GeneratorPreset
    from tokenizer import encode as encoding
    from tokenizer import train as tokenizer_train
    from tokenizer.presets import PRESETS as TOKENIZERS
    from tokenizer.presets import TokenizerPreset
    from tokenizer.pvvae import PVVAEConfig

    common = {**COMMON, **flags}
    model = PVVAEConfig(
        latent_channels=4,
        channels=(8, 8, 8),
        decoder_channels=(8, 8, 8),
        blocks=1,
        middle_blocks=1,
        patch=4,
        norm="layer",
    )
    with pytest.MonkeyPatch.context() as patch:
        stages = {"images": 1, "video": 2, "decoder": 1}
        patch.setitem(TOKENIZERS, "tiny", TokenizerPreset(model=model, stage_steps=stages, training={}))
        patch.setitem(
            GENERATORS, "demo", GeneratorPreset(model=LatteConfig(hidden_size=32, depth=2, num_heads=2), training={})
        )
        tokenizer = tokenizer_train.train(
            tokenizer_train.TrainConfig(
                runs_dir=str(runs),
                name="vae",
                preset="tiny",
                data="moving_shapes",
                size=32,
                batch_size=2,
                lpips_weight=0.0,
                warmup=1,
                validate_every=2,
                **common,
            )
        )
        latents = encoding.encode(
            encoding.EncodeConfig(
                runs_dir=str(runs), tokenizer=str(tokenizer), max_clips=40, out=str(runs.parent / "shapes.h5"), **common
            )
        )
        generator = generator_train.train(
            generator_train.TrainConfig(
                runs_dir=str(runs),
                name="gen",
                latents=str(latents),
                preset="demo",
                steps=4,
                keep_every=2,
                batch_size=4,
                **common,
            )
        )
    return Chain(runs, Path(tokenizer), Path(latents), Path(generator))
