import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.counting import counting_live_bytes
from benchmarks.plain_latte import PlainLatte
from generator.attention import FUSED_SEQUENCE, SHORT_SEQUENCE, Attention, attend
from generator.config import LatteConfig
from generator.latte import RECOMPUTE, Latte, cell_positions, forward_flops, sinusoids
from generator.presets import PRESETS
from runtime.errors import InputError
from runtime.parallel import compile_blocks
from runtime.records import from_record


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


@pytest.mark.parametrize("gelu", ["tanh", "none"])
def test_operations_are_counted_as_pytorch_counts_them(gelu):
    config = LatteConfig(channels=6, groups=3, height=6, width=7, num_classes=4, hidden_size=16, depth=4, num_heads=2,
                         mlp_ratio=2.5, gelu=gelu)  # fmt: skip
    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        Latte(config)(*inputs(config, batch=3))
    assert counter.get_total_flops() == 3 * forward_flops(config)


def test_an_unconditional_model_lacks_the_class_table_only():
    assert parameters(PRESETS["latte-xl"].model) == 673_773_760 == 673_891_264 - 1152 * 102


def test_position_tables_are_not_saved(model):
    assert not any("cells" in name or "times" in name or "frequencies" in name for name in model.state_dict())


def test_sinusoids_by_hand():
    angles = torch.tensor([3.0, 0.3, 0.03, 0.003])
    torch.testing.assert_close(sinusoids(torch.tensor([3]), 8)[0], torch.cat([angles.sin(), angles.cos()]))


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


def test_weights_of_a_new_model_are_drawn_as_published():
    torch.manual_seed(0)
    network = Latte(LatteConfig(num_classes=100, hidden_size=64, depth=2, num_heads=2))
    for layer in (network.classes, network.time.mlp[0], network.time.mlp[2]):
        assert float(layer.weight.std().detach()) == pytest.approx(0.02, rel=0.05)  # four standard errors and more
    weight = network.blocks[0].attention.qkv.weight
    bound = (6 / sum(weight.shape)) ** 0.5  # uniform, of Xavier; that of PyTorch's own would be narrower
    assert 0.99 * bound < weight.abs().max() <= bound


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
@pytest.mark.parametrize("compiling", [False, True])
def test_short_and_long_attention_equal_a_plain_reference(axis, length, compiling, monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
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


@pytest.mark.parametrize("compiling", [False, True])
def test_logits_of_bfloat16_tokens_are_not_rounded(compiling, monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    heads = torch.randn(3, 8, 16, 2, 5, 72, generator=torch.Generator().manual_seed(0))
    heads[0] *= 9.0  # so that the logits have a standard deviation of 9
    heads = heads.bfloat16()
    assert heads.shape[-2] <= FUSED_SEQUENCE
    expected = F.scaled_dot_product_attention(*heads.double())
    query, key, value = heads.float()
    logits = (query @ key.mT).bfloat16().float() * 72**-0.5  # what a product of bfloat16 gives
    assert logits.std() == pytest.approx(9, rel=0.02)
    rounded = (logits.softmax(-1).bfloat16().float() @ value).bfloat16().float()
    error, before = ((found - expected).square().mean().sqrt() for found in (attend(heads).float(), rounded))
    assert 2 * error < before and attend(heads).dtype == torch.bfloat16


def test_norms_of_queries_and_keys_bound_the_logits():
    torch.manual_seed(0)
    attention = Attention(24, 3, "temporal", qk_norm=True)
    with torch.no_grad():
        attention.qkv.weight[:48].mul_(1000.0)  # of queries and keys
        attention.query_norm.weight.uniform_(0.5, 2.0)
    x = torch.randn(2, 5, 4, 24)
    query, key, value = (part.unflatten(-1, (3, 8)).permute(0, 2, 3, 1, 4) for part in attention.qkv(x).chunk(3, -1))
    query, key = (part / part.square().mean(-1, keepdim=True).sqrt() for part in (query, key))
    y = F.scaled_dot_product_attention(query * attention.query_norm.weight, key, value)
    expected = attention.proj(y.permute(0, 3, 1, 2, 4).flatten(-2))
    torch.testing.assert_close(attention(x), expected, atol=2e-6, rtol=1e-5)
    assert (query * attention.query_norm.weight @ key.mT).abs().max() <= 8 * 2


def gradients(network, how, given):
    """Of every parameter; the bytes that are kept for the backward pass; how often matrices are multiplied."""
    network.train().recompute = how
    network.zero_grad()
    products = []

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            products.append(function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default))
            return function(*args, **(kwargs or {}))

    with counting_live_bytes([*network.parameters(), *network.buffers(), *given]) as live, Counting():
        loss = network(*given).square().mean()
        kept = live.now
        loss.backward()
    return [parameter.grad.clone() for parameter in network.parameters()], kept, sum(products)


def awake(config: LatteConfig) -> Latte:
    """In training mode, its weights away from zero: at first every block is the identity."""
    torch.manual_seed(0)
    network = Latte(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize("options", [{}, {"qk_norm": True}, {"gelu": "none", "mlp_ratio": 2.5}, {"num_classes": 0}])
@pytest.mark.parametrize("how", RECOMPUTE)
def test_values_and_gradients_are_those_of_the_plain_network(options, how):
    config = LatteConfig(**{"channels": 6, "groups": 5, "height": 5, "width": 7, "num_classes": 4, "hidden_size": 48,
                            "depth": 4, "num_heads": 2} | options)  # fmt: skip
    network = awake(config)
    network.recompute = how
    given, found = inputs(config, batch=3), []
    for each in (network, PlainLatte(network)):
        velocity = each(*given)
        found.append((velocity, *torch.autograd.grad(velocity.square().mean(), list(network.parameters()))))
    assert found[1][0].std() > 0.1
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.detach().abs().max()))


@pytest.mark.parametrize("size", [(3, 2, 3), (2, 6, 6)])  # without and with the fused kernel of long attention
def test_computing_again_keeps_less_and_changes_no_gradient(size):
    groups, height, width = size
    config = LatteConfig(channels=6, groups=groups, height=height, width=width, num_classes=4, hidden_size=48, depth=6,
                         num_heads=2, qk_norm=True)  # fmt: skip
    network = awake(config)
    given = inputs(config, batch=4)
    plain, most, products = gradients(network, "nothing", given)
    cheap, less, same = gradients(network, "cheap", given)
    blocks, least, more = gradients(network, "blocks", given)
    for expected, *found in zip(plain, cheap, blocks, strict=True):
        assert expected.abs().max() > 0
        for each in found:
            torch.testing.assert_close(each, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))
    assert least < 0.3 * less and less < 0.7 * most
    assert same == products < more


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_compiled_blocks_keep_matrix_products_alone_too():
    """By PyTorch's own choice they would keep twice as much: what goes into each product besides."""
    config = LatteConfig(channels=6, groups=5, height=6, width=6, num_classes=4, hidden_size=48, depth=2, num_heads=2)
    network = awake(config)
    given = inputs(config, batch=4)
    plain, _, _ = gradients(network, "nothing", given)
    kept = {}
    for how in ("nothing", "cheap"):
        torch.compiler.reset()
        compiled = copy.deepcopy(network)
        compile_blocks(
            compiled, backend="aot_eager_decomp_partition"
        )  # the partitioner of Inductor, without its kernels
        found, kept[how], _ = gradients(compiled, how, given)
        for expected, each in zip(plain, found, strict=True):
            torch.testing.assert_close(each, expected, rtol=1e-5, atol=2e-6 * float(expected.abs().max()))
    torch.compiler.reset()
    assert kept["cheap"] < 0.7 * kept["nothing"]


def test_large_models_on_a_gpu_and_compiled_blocks_compute_what_is_cheap_again(model):
    with torch.device("meta"):  # as on a GPU: not in main memory
        found = {name: Latte(preset.model).recomputed() for name, preset in PRESETS.items()}
    small = {"latte-s": "nothing", "demo": "nothing"}
    assert found == dict.fromkeys(("latte-xl", "latte-l", "latte-b"), "cheap") | small
    model.train()
    assert model.recomputed() == "nothing"
    compile_blocks(model, backend="eager")
    assert model.recomputed() == "cheap" and model.eval().recomputed() == "nothing"
    model.train().recompute = "blocks"
    assert model.recomputed() == "blocks"
    with torch.no_grad():
        assert model.recomputed() == "nothing"


def test_nothing_is_computed_again_without_training(model, monkeypatch):
    import generator.latte as latte

    def refuse(*_, **__):
        raise AssertionError("checkpoint was called")

    monkeypatch.setattr(latte, "checkpoint", refuse)
    for model.recompute in ("cheap", "blocks"):
        model.eval()(*inputs(model.config))
        with torch.no_grad():
            model.train()(*inputs(model.config))
        with pytest.raises(AssertionError, match="checkpoint was called"):
            model(*inputs(model.config))


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
    assert from_record(LatteConfig, dataclasses.asdict(config), "config.json") == config
    with pytest.raises(InputError, match="patch_size"):
        from_record(LatteConfig, {"patch_size": 2}, "config.json")


def test_latents_of_every_float_type_are_taken(model):
    x, t, y = inputs(model.config)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert torch.equal(model(x.to(dtype), t, y), model(x.to(dtype).float(), t, y))


def test_wrong_inputs_are_refused_by_name(model):
    x, t, y = inputs(model.config)
    with pytest.raises(InputError, match=r"\[B, 6, 3, 2, 3\]"):
        model(x[:, :5], t, y)
    with pytest.raises(InputError, match="one t"):
        model(x, t[:1], y)
    with pytest.raises(InputError, match="absent"):
        model(x, t)
    with pytest.raises(InputError, match=r"int64 tensor \[2\], got Tensor of torch.int32"):
        model(x, t, y.int())
    with pytest.raises(InputError, match="got ndarray of int64"):
        model(x, t, y.numpy())
    with pytest.raises(InputError, match=r"0…4"):
        model(x, t, y + 5)
    with pytest.raises(InputError, match="1…4"):
        model(x, t, y, return_block=5)
    unconditional = Latte(dataclasses.replace(model.config, num_classes=0))
    with pytest.raises(InputError, match="given"):
        unconditional(x, t, y)
