"""The model's config: one for both networks, the identity that follows from it, and refusals."""

import copy
import dataclasses
import json
import pickle

import pytest
import torch

import tokenizer
from generator.loading import SHIPPED as GENERATORS
from runtime.errors import InputError
from tokenizer import PVVAE, PVVAEConfig
from tokenizer.config import ARCHITECTURES, DROP_SCHEDULES, PADDINGS, CNNConfig, TransformerConfig
from tokenizer.layers import ResidualBlock
from tokenizer.predictive import PADDING_CLASSES, SCHEDULES
from tokenizer.presets import PRESETS
from tokenizer.zoo import SHIPPED

CNN = PVVAEConfig(latent_channels=4, channels=(8, 8, 8), blocks=1, middle_blocks=1, patch=4)
TRANSFORMER = PVVAEConfig(architecture="transformer", latent_channels=4, patch=8, width=12, depth=1, heads=2)


def names(architecture: str) -> set[str]:
    """Of the fields of its configs."""
    return {field.name for field in dataclasses.fields(ARCHITECTURES[architecture])}


def test_hashes_of_the_shipped_weights_never_change():
    """Latents files and generators record them: another hash would cut those off from their tokenizer."""
    vae = tokenizer.load("moving-shapes")
    assert (vae.encoder_hash, vae.decoder_hash) == ("0d8dfbc0534bbe88", "57ff1e96518acaff")
    recorded = (GENERATORS["moving-shapes"] / "state.json").read_text()
    assert f'"encoder_hash": "{vae.encoder_hash}"' in recorded and f'"decoder_hash": "{vae.decoder_hash}"' in recorded


def test_drop_schedules_and_paddings_have_a_class_for_each_name():
    assert tuple(SCHEDULES) == DROP_SCHEDULES and tuple(PADDING_CLASSES) == PADDINGS


def test_a_config_written_before_there_were_two_architectures_is_read():
    written = json.loads((SHIPPED["moving-shapes"] / "config.json").read_text())
    assert not set(written) & (names("transformer") - names("cnn"))
    config = PVVAEConfig.from_dict(written)
    assert type(config) is CNNConfig and config.blocks == 1
    assert json.loads(json.dumps(config.to_dict())) == written


@pytest.mark.parametrize("config", [CNN, TRANSFORMER, *(preset.model for preset in PRESETS.values())])
def test_a_config_survives_json_with_and_without_nulls_of_the_other_architecture(config):
    """Which it was written with while there was one class for both."""
    for values in (config.to_dict(), dict.fromkeys(names("cnn") | names("transformer")) | config.to_dict()):
        assert PVVAEConfig.from_dict(json.loads(json.dumps(values))) == config
    assert set(config.to_dict()) == names(config.architecture)


@pytest.mark.parametrize(("config", "kind"), [(CNN, CNNConfig), (TRANSFORMER, TransformerConfig)])
def test_a_config_is_of_its_architectures_class_and_can_be_copied_pickled_and_changed(config, kind):
    assert type(config) is kind and isinstance(config, PVVAEConfig) and dataclasses.is_dataclass(config)
    for same in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config), dataclasses.replace(config)):
        assert type(same) is kind and same == config and hash(same) == hash(config)
    assert dataclasses.replace(config, latent_channels=5).latent_channels == 5
    other = "cnn" if kind is TransformerConfig else "transformer"
    with pytest.raises(InputError, match="architecture"):
        dataclasses.replace(config, architecture=other)
    with pytest.raises(TypeError, match="colour"):
        PVVAEConfig(architecture=config.architecture, colour=1)


def test_blocks_are_one_number_for_all_levels_or_one_for_each():
    for equal in (2, [2, 2, 2], (2, 2, 2)):
        config = dataclasses.replace(CNN, blocks=equal, decoder_blocks=equal)
        assert config.blocks == config.decoder_blocks == 2  # one form, so that equal networks have equal hashes
        assert config.encoder_levels == config.decoder_levels == [(8, 2)] * 3
    config = dataclasses.replace(CNN, blocks=(1, 2, 3), decoder_channels=(8, 12, 16))
    assert config.encoder_levels == [(8, 1), (8, 2), (8, 3)]
    assert config.decoder_levels == [(8, 1), (12, 2), (16, 3)]
    vae = PVVAE(dataclasses.replace(config, decoder_blocks=(2, 1, 1)))
    for network, expected in ((vae.encoder, [8] * 6 + [8]), (vae.decoder, [16] + [16, 12, 8, 8])):
        found = [layer.conv1.out_channels for layer in network.layers if isinstance(layer, ResidualBlock)]
        assert found == expected  # one more in the middle


def test_the_paper_preset_has_as_many_parameters_as_published():
    with torch.device("meta"):
        vae = PVVAE(PRESETS["paper"].model)
    assert sum(parameter.numel() for parameter in vae.parameters()) == pytest.approx(661e6, rel=0.002)


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
        ({"architecture": ["cnn"]}, "known: cnn, transformer"),
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
        ({"blocks": (1, 2)}, "as many levels"),
        ({"decoder_blocks": (1, 2, 3, 4, 5, 6)}, "as many levels"),
        ({"blocks": (1, 2, 3, 3, 0)}, "blocks must be a whole number from 1"),
        ({"blocks": 0}, "blocks must be a whole number from 1"),
        ({"blocks": "3"}, "blocks must be a whole number"),
        ({"norm": "group"}, "known: rms, layer"),
        ({"padding": "zeros"}, "known: "),
    ],
)
def test_a_config_that_cannot_be_built_is_refused_in_one_line(values, message):
    with pytest.raises(InputError, match=message) as error:
        PVVAEConfig(**values)
    assert "\n" not in str(error.value)
