import dataclasses

import pytest
import torch
import torch.nn.functional as F

from generator.latte import SHORT_SEQUENCE, Attention, Latte, LatteConfig, cell_positions
from generator.presets import PRESETS
from runtime.errors import InputError


def parameters(config):
    with torch.device("meta"):
        return sum(p.numel() for p in Latte(config).parameters())


def inputs(config, batch=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, *config.latent_shape, generator=generator)
    t = torch.rand(batch, generator=generator)
    y = torch.randint(config.num_classes + 1, (batch,), generator=generator) if config.num_classes else None
    return x, t, y


@pytest.mark.parametrize(
    "preset, count",
    [("latte-xl", 673_891_264), ("latte-l", 457_002_048), ("latte-b", 129_686_848), ("latte-s", 32_550_592)],
)
def test_presets_have_the_published_number_of_parameters(preset, count):
    assert parameters(dataclasses.replace(PRESETS[preset].model, num_classes=101)) == count


def test_an_unconditional_model_lacks_the_class_table_only():
    assert parameters(PRESETS["latte-xl"].model) == 673_773_760 == 673_891_264 - 1152 * 102


def test_position_tables_are_not_saved(model):
    assert not any("cells" in name or "times" in name or "frequencies" in name for name in model.state_dict())


def test_cell_positions_put_the_column_first():
    table = cell_positions(3, 4, 16)
    assert table.shape == (12, 16)
    same_row, same_column = table[0] == table[1], table[0] == table[4]
    assert same_row[8:].all() and not same_row[:8].all()
    assert same_column[:8].all() and not same_column[8:].all()


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 2, 1, 5), (7, 5, 3, 2), (4, 1, 6, 6), (24, 9, 2, 2)])
@pytest.mark.parametrize("num_classes", [0, 3])
def test_any_latent_shape_goes_through(shape, num_classes):
    channels, groups, height, width = shape
    config = LatteConfig(channels=channels, groups=groups, height=height, width=width, num_classes=num_classes,
                         hidden_size=16, depth=2, num_heads=2)  # fmt: skip
    x, t, y = inputs(config)
    velocity, tokens = Latte(config)(x, t, y, return_block=2)
    assert velocity.shape == x.shape and velocity.dtype == torch.float32
    assert tokens.shape == (2, groups, height * width, 16)


def test_a_new_model_gives_zero_velocity_and_identity_blocks():
    config = LatteConfig(channels=6, groups=3, height=2, width=2, num_classes=4, hidden_size=16, depth=4, num_heads=2)
    network = Latte(config)
    x, t, y = inputs(config)
    velocity, last = network(x, t, y, return_block=4)
    assert (velocity == 0).all()
    first = network(x, t, y, return_block=1)[1]
    assert torch.equal(last, first + network.times[:, None])


def test_return_block_gives_the_tokens_that_the_head_reads(model):
    x, t, y = inputs(model.config)
    kept = []
    model.blocks[2].register_forward_hook(lambda module, given, result: kept.append(result))
    velocity, tokens = model(x, t, y, return_block=3)
    assert torch.equal(tokens, kept[0])
    assert torch.equal(velocity, model(x, t, y))


def influence(block, tokens, condition, group, cell):
    """Which (group, cell) places of the block's output depend on one place of its input."""
    changed = tokens.clone()
    changed[:, group, cell] += 1.0
    return (block(changed, condition) != block(tokens, condition)).any(-1)[0]


def test_spatial_blocks_mix_within_a_group_and_temporal_blocks_within_a_cell(model):
    tokens, condition = torch.randn(1, 3, 6, 16), torch.randn(1, 16)
    spatial = influence(model.blocks[0], tokens, condition, 1, 2)
    assert spatial[1].all() and spatial.sum() == 6
    temporal = influence(model.blocks[1], tokens, condition, 1, 2)
    assert temporal[:, 2].all() and temporal.sum() == 3


def test_every_place_reaches_every_place_through_two_blocks(model):
    x, t, y = inputs(model.config, batch=1)
    x.requires_grad_(True)
    model(x, t, y)[0, :, 2, 1, 2].sum().backward()
    assert (x.grad.abs().sum(1) > 0).all()


def test_samples_of_a_batch_do_not_touch(model):
    x, t, y = inputs(model.config, batch=4)
    torch.testing.assert_close(model(x, t, y)[1:2], model(x[1:2], t[1:2], y[1:2]), atol=1e-5, rtol=1e-5)


def test_time_class_and_position_act(model):
    x, t, y = inputs(model.config)
    base = model(x, t, y)
    assert not torch.equal(base, model(x, t * 0.5, y))
    assert not torch.equal(base, model(x, t, (y + 1) % 5))
    same = torch.ones_like(x)
    velocity = model(same, t, y)
    assert not torch.allclose(velocity[:, :, 0], velocity[:, :, 1])
    assert not torch.allclose(velocity[..., 0, 0], velocity[..., 0, 1])


def test_time_is_told_apart_to_a_thousandth():
    network = Latte(LatteConfig(hidden_size=16, depth=2, num_heads=2))
    first, second = network.time(torch.tensor([0.5, 0.501]))
    assert (first - second).norm() > 0.01 * first.norm()


@pytest.mark.parametrize("axis", ["spatial", "temporal"])
@pytest.mark.parametrize("length", [5, SHORT_SEQUENCE, SHORT_SEQUENCE + 1])
def test_short_and_long_attention_equal_a_plain_reference(axis, length):
    torch.manual_seed(0)
    attention = Attention(24, 3, axis)
    shape = (2, 4, length, 24) if axis == "spatial" else (2, length, 4, 24)
    x = torch.randn(shape)
    query, key, value = attention.qkv(x).chunk(3, dim=-1)
    if axis == "temporal":
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    heads = [part.unflatten(-1, (3, 8)).transpose(-2, -3) for part in (query, key, value)]
    y = F.scaled_dot_product_attention(*heads).transpose(-2, -3).flatten(-2)
    expected = attention.proj(y.transpose(1, 2) if axis == "temporal" else y)
    torch.testing.assert_close(attention(x), expected, atol=2e-6, rtol=1e-5)


@pytest.mark.bf16
def test_bfloat16_compute_keeps_the_residual_stream_and_velocity_in_float32(model):
    x, t, y = inputs(model.config)
    with torch.autocast("cpu", torch.bfloat16):
        velocity, tokens = model(x, t, y, return_block=4)
    assert velocity.dtype == tokens.dtype == torch.float32
    torch.testing.assert_close(velocity, model(x, t, y), atol=0.1, rtol=0.1)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"depth": 3}, "even"), ({"num_heads": 3}, "num_heads"), ({"num_classes": -1}, "num_classes"),
        ({"groups": 0}, "at least 1"), ({"gelu": "erf"}, "tanh, none"), ({"hidden_size": 18, "num_heads": 2}, "of 4"),
    ],
)  # fmt: skip
def test_impossible_sizes_are_refused(changes, words):
    with pytest.raises(InputError, match=words):
        LatteConfig(**{"hidden_size": 16, "num_heads": 2, **changes})


def test_config_survives_its_dict_and_refuses_unknown_fields():
    config = LatteConfig(channels=3, num_classes=7)
    assert LatteConfig.from_dict(dataclasses.asdict(config)) == config
    with pytest.raises(InputError, match="patch_size"):
        LatteConfig.from_dict({"patch_size": 2})


def test_wrong_inputs_are_refused_by_name(model):
    x, t, y = inputs(model.config)
    with pytest.raises(InputError, match=r"\[B, 6, 3, 2, 3\]"):
        model(x[:, :5], t, y)
    with pytest.raises(InputError, match="one t"):
        model(x, t[:1], y)
    with pytest.raises(InputError, match="absent"):
        model(x, t)
    with pytest.raises(InputError, match="int64"):
        model(x, t, y.int())
    with pytest.raises(InputError, match=r"0…4"):
        model(x, t, y + 5)
    with pytest.raises(InputError, match="1…4"):
        model(x, t, y, return_block=5)
    unconditional = Latte(dataclasses.replace(model.config, num_classes=0))
    with pytest.raises(InputError, match="given"):
        unconditional(x, t, y)
