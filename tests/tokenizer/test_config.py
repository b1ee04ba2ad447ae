"""The model's config: one for both networks, the identity that follows from it, and refusals."""

import dataclasses
import json

import pytest
import torch

import tokenizer
from generator.loading import SHIPPED as GENERATORS
from runtime.errors import InputError
from tokenizer import PVVAE, PVVAEConfig
from tokenizer.config import ARCHITECTURES
from tokenizer.presets import PRESETS
from tokenizer.zoo import SHIPPED

CNN = PVVAEConfig(latent_channels=4, channels=(8, 8, 8), blocks=1, middle_blocks=1, patch=4)
TRANSFORMER = PVVAEConfig(architecture="transformer", latent_channels=4, patch=8, width=12, depth=1, heads=2)


def test_hashes_of_the_shipped_weights_never_change():
    """Latents files and generators record them: another hash would cut those off from their tokenizer."""
    vae = tokenizer.load("moving-shapes")
    assert (vae.encoder_hash, vae.decoder_hash) == ("303517476bd57250", "ac5c0503d0580a95")
    recorded = (GENERATORS["moving-shapes"] / "state.json").read_text()
    assert f'"encoder_hash": "{vae.encoder_hash}"' in recorded and f'"decoder_hash": "{vae.decoder_hash}"' in recorded


def test_a_config_written_before_there_were_two_architectures_is_read():
    written = json.loads((SHIPPED["moving-shapes"] / "config.json").read_text())
    assert not set(written) & (set(ARCHITECTURES["transformer"]) - set(ARCHITECTURES["cnn"]))
    config = PVVAEConfig.from_dict(written)
    assert config.channels == (40, 64, 80) and config.width is None
    assert json.loads(json.dumps(config.to_dict())) == written


@pytest.mark.parametrize("config", [CNN, TRANSFORMER, *(preset.model for preset in PRESETS.values())])
def test_a_config_survives_json_with_and_without_the_other_architectures_fields(config):
    for values in (config.to_dict(), dataclasses.asdict(config)):
        assert PVVAEConfig.from_dict(json.loads(json.dumps(values))) == config
    assert set(config.to_dict()) == {"architecture", "latent_channels", "padding", *ARCHITECTURES[config.architecture]}


@pytest.mark.parametrize(
    ("config", "change", "of_the_encoder"),
    [
        (CNN, {"norm": "layer"}, True),
        (CNN, {"decoder_blocks": 2}, False),
        (CNN, {"padding": "gaussian"}, False),
        (TRANSFORMER, {"window": 2}, True),
        (TRANSFORMER, {"heads": 1}, True),
        (TRANSFORMER, {"decoder_depth": 2}, False),
        (TRANSFORMER, {"padding": "gaussian"}, False),
    ],
)
def test_the_encoders_identity_covers_the_fields_that_latents_depend_on(config, change, of_the_encoder):
    torch.manual_seed(0)
    vae = PVVAE(config)
    torch.manual_seed(0)  # equal weights, so that only the config can differ
    other = PVVAE(dataclasses.replace(config, **change))
    assert (other.encoder_hash != vae.encoder_hash) is of_the_encoder
    assert other.decoder_hash != vae.decoder_hash


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"architecture": "mlp"}, "known: cnn, transformer"),
        ({"width": 64}, "width is not a field of architecture 'cnn'"),
        ({"window": 0}, "window is not a field of architecture 'cnn'"),
        (
            {"architecture": "transformer", "channels": (8, 8, 8)},
            "channels is not a field of architecture 'transformer'",
        ),
        ({"architecture": "transformer", "norm": "rms"}, "norm is not a field"),
        ({"architecture": "transformer", "width": 100}, "width 100 must be heads 16 times an even number"),
        ({"architecture": "transformer", "width": 48, "heads": 16}, "at least 6"),
        ({"architecture": "transformer", "width": 28, "heads": 4}, "an even number"),
        ({"architecture": "transformer", "window": -1}, "window must be a whole number from 0"),
        ({"architecture": "transformer", "depth": 0}, "depth must be a whole number from 1"),
        ({"architecture": "transformer", "depth": 1.5}, "depth must be a whole number"),
        ({"architecture": "transformer", "heads": "16"}, "heads must be a whole number"),
        ({"architecture": "transformer", "mlp_ratio": 0.0}, "mlp_ratio must be a positive number"),
        ({"architecture": "transformer", "mlp_ratio": "4"}, "mlp_ratio must be a positive number"),
        ({"latent_channels": 0}, "latent_channels must be a whole number from 1"),
        ({"channels": 8}, "channels must be a list"),
        ({"channels": (8, "8", 8)}, "channels must be a whole number"),
        ({"channels": (8, 8)}, "at least 3 levels"),
        ({"patch": 3}, "power of two"),
        ({"decoder_channels": (8, 8)}, "as many levels"),
        ({"norm": "group"}, "known: rms, layer"),
        ({"padding": "zeros"}, "known: "),
    ],
)
def test_a_config_that_cannot_be_built_is_refused_in_one_line(values, message):
    with pytest.raises(InputError, match=message) as error:
        PVVAEConfig(**values)
    assert "\n" not in str(error.value)
