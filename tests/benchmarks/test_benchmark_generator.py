"""The benchmark of the generator: the control computes the same, and every work is measured and bounded."""

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import generator as benchmark
from benchmarks.generator import Batch, GeneratorSpeedConfig, awake, generator_speed, size_of
from benchmarks.plain_latte import PlainLatte, move_average, sample_plainly
from generator import Latte, LatteConfig, integrate
from generator.latte import forward_flops
from runtime.ema import EMA
from runtime.errors import InputError

SMALL = LatteConfig(
    channels=6, groups=3, height=2, width=3, num_classes=4, hidden_size=32, depth=4, num_heads=2, gelu="tanh"
)


@pytest.fixture
def model() -> Latte:
    torch.manual_seed(0)
    model = Latte(SMALL)
    awake(model)
    return model


def test_the_control_and_ours_agree_in_values_and_gradients(model):
    batch, plain = Batch.drawn(2, SMALL), PlainLatte(model)
    found = []
    for network in (model, plain):
        velocity = network(batch.latents, batch.t, batch.labels)
        gradients = torch.autograd.grad(velocity.square().mean(), list(model.parameters()))
        found.append((velocity, *gradients))
    assert found[0][0].std() > 1e-3
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.detach().abs().max()))
    assert {id(p) for p in plain.parameters()} == {id(p) for p in model.parameters()}


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_the_control_samples_the_same(model, scale):
    batch = Batch.drawn(2, SMALL)
    expected = sample_plainly(PlainLatte(model), batch.noise, batch.labels, 5, scale)
    found = integrate(model, batch.noise, batch.labels, steps=5, guidance_scale=scale)
    assert len(expected) == 6 and torch.allclose(found, expected[-1], rtol=1e-5, atol=1e-5)


def test_the_controls_average_is_ours(model):
    ours, average = EMA(model, 0.5), {name: value.detach().clone() for name, value in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    ours.updates = 1000  # beyond its warm-up
    ours.update()
    move_average(average, model, 0.5)
    assert all(torch.allclose(average[name], value) for name, value in ours.average.items())


def test_operations_are_those_that_pytorch_counts_and_that_were_published():
    small = replace(SMALL, num_classes=0)
    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        Latte(small)(torch.randn(3, *small.latent_shape), torch.rand(3))
    assert counter.get_total_flops() == 3 * forward_flops(small)
    assert forward_flops(size_of("latte-xl")) == pytest.approx(1163.9e9, rel=1e-4)


def test_what_is_kept_for_the_backward_pass_is_counted_however_much_is_computed_again(model):
    """Beside the 2 numbers a token and channel that go into a block, 9 where what is cheap is computed again."""
    batch, kept = Batch.drawn(8, SMALL), {}
    for kept_by in ("nothing", "cheap", "blocks"):
        model.recompute = kept_by
        kept[kept_by] = benchmark.saved_bytes(model, batch, torch.float32)
    per_block = 4 * 8 * SMALL.groups * SMALL.height * SMALL.width * SMALL.hidden_size * SMALL.depth
    assert 9 * per_block < kept["cheap"] - kept["blocks"] < 13 * per_block
    assert 1.8 * kept["cheap"] < kept["nothing"]


@pytest.mark.bf16
def test_converted_weights_are_kept_once_however_many_clips_there_are():
    torch.manual_seed(0)
    size = size_of("demo")
    model, batch = Latte(size), Batch.drawn(4, size)
    model.recompute = "nothing"
    whole = benchmark.saved_bytes(model, batch, torch.bfloat16)
    assert benchmark.saved_of_all(model, batch, torch.bfloat16) == pytest.approx(whole, rel=0.01)
    assert benchmark.saved_of_all(model, batch.head(1), torch.bfloat16) < 0.5 * whole


def test_compiled_sampling_is_warm_before_it_is_timed(model, monkeypatch):
    entered, turns = [], []

    @contextmanager
    def spy(device):
        entered.append(device)
        yield
        entered.pop()

    def take(calls, count, read, device):
        turns.append((count, len(entered)))
        return {name: [1.0] for name in calls}

    monkeypatch.setattr(benchmark, "tensor_float32", spy)
    monkeypatch.setattr("benchmarks.measuring.take_turns", take)
    flags = GeneratorSpeedConfig(device="cpu", turns=3, control=False)
    benchmark.samples(flags, model, Batch.drawn(2, SMALL), torch.float32, {"float32": 1.0, "bytes": 1.0})
    assert turns == [(1, 1), (3, 1)]


def test_the_count_is_of_the_mode_that_is_measured(monkeypatch):
    modes = []
    monkeypatch.setattr(benchmark, "saved_bytes", lambda model, batch, dtype: modes.append(model.recompute) or 1)
    flags = {"presets": ("demo",), "works": ("train",), "dtypes": ("float32",), "smoke": True, "control": False}
    generator_speed(GeneratorSpeedConfig(**flags, device="cpu", recompute="blocks"))
    assert {*modes} == {"blocks"}


def test_every_work_of_every_size_is_measured_and_written(tmp_path):
    out = tmp_path / "generator.json"
    config = GeneratorSpeedConfig(
        presets=("demo", "latte-s"),
        smoke=True,
        dtypes=("float32",),
        clock="cpu",
        batch_size=2,
        device="cpu",
        out=str(out),
    )
    found = generator_speed(config)
    assert len(found) == 2 * 3 and json.loads(out.read_text())["results"].keys() == found.keys()
    for name, each in found.items():
        if "loader" in name:
            assert each["seconds"] > 0 and each["bytes_read"] == 2 * 2 * 2 * 4 * 5 * 4 * 4
            continue
        assert each["largest_difference"] < 1e-5
        assert each["faster"] == each["control_seconds"] / each["seconds"]
        assert each["of_bound"] >= each["of_matmul_peak"] > 0
    train = found["latte-s, train, float32, batch 2"]
    assert train["flops"] == 3 * 2 * forward_flops(size_of("latte-s", smoke=True))
    assert sum(train["parts"].values()) <= train["slowest"] and train["saved_for_backward_gib"] > 0


def test_what_does_not_fit_is_refused_before_work(monkeypatch):
    monkeypatch.setattr("runtime.resources.free_memory", lambda device: 1000)
    with pytest.raises(InputError, match="needs .* free"):
        generator_speed(GeneratorSpeedConfig(smoke=True, presets=("demo",), works=("train",), device="cpu"))
    with pytest.raises(InputError, match="--clock cpu does not see"):
        benchmark_on_a_gpu(monkeypatch)


def benchmark_on_a_gpu(monkeypatch) -> None:
    monkeypatch.setattr("runtime.processes.resolve_device", lambda name: torch.device("cuda"))
    benchmark.generator_speed(replace(GeneratorSpeedConfig(), clock="cpu"))
