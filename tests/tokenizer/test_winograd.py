"""Pairs of frames that share products: the plain formula's result and gradients, its causality, and when they are
taken."""

import pytest
import torch
import torch.nn.functional as F

from tokenizer import winograd
from tokenizer.layers import CausalConv3d


def problem(frames: int, kernel: tuple[int, int], start: bool = False, dtype: torch.dtype = torch.float32):
    """Frames after the two before them, weights and biases; outputs have a variance of about 1."""
    generator = torch.Generator().manual_seed(frames)
    seen = torch.randn(2, 34, frames + 2, 9, 7, generator=generator)
    if start:
        seen[:, :, :2] = 0.0
    weight = torch.randn(40, 34, 3, *kernel, generator=generator) * (34 * 3 * kernel[0] * kernel[1]) ** -0.5
    bias = torch.randn(40, generator=generator)
    return seen.to(dtype), weight.to(dtype), bias.to(dtype)


def plain(seen, weight, bias):
    return F.conv3d(seen, weight, bias, padding=(0, weight.shape[3] // 2, weight.shape[4] // 2))


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 8, 9])
@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize("kernel", [(3, 3), (1, 1)])
def test_pairs_equal_the_plain_formula(frames, start, kernel, monkeypatch):
    seen, weight, bias = problem(frames, kernel, start)
    expected = plain(seen, weight, bias)
    for cached in (1, 2 * 2 * 34 * 9 * 7, winograd.CACHED):  # one pair at a time, two, all
        monkeypatch.setattr(winograd, "CACHED", cached)
        for layout in (torch.contiguous_format, torch.channels_last_3d):
            y = winograd.convolve_in_pairs(seen.contiguous(memory_format=layout), weight, bias, start)
            assert y.is_contiguous(memory_format=torch.channels_last_3d)
            assert torch.allclose(y, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("frames", [1, 2, 3, 8, 9])
@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize("cached", [1, winograd.CACHED])
def test_gradients_of_pairs_are_those_of_the_plain_formula(frames, start, cached, monkeypatch):
    """In float64, where only a wrong formula could differ; zeros before a clip get no gradient that anyone uses."""
    monkeypatch.setattr(winograd, "CACHED", cached)
    inputs = [value.requires_grad_() for value in problem(frames, (3, 3), start, torch.float64)]
    of_y = torch.randn(plain(*inputs).shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(winograd.convolve_in_pairs(*inputs, start), inputs, of_y)
    expected = torch.autograd.grad(plain(*inputs), inputs, of_y)
    for name, mine, theirs in zip(("frames", "weight", "bias"), found, expected, strict=True):
        if name == "frames" and start:
            mine, theirs = mine[:, :, 2:], theirs[:, :, 2:]
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_frozen_inputs_of_pairs_get_no_gradient_and_the_others_the_same(wanted):
    values = problem(5, (3, 3), dtype=torch.float64)
    inputs = [value.requires_grad_(number in wanted) for number, value in enumerate(values)]
    trained = [inputs[number] for number in wanted]
    found = torch.autograd.grad(winograd.convolve_in_pairs(*inputs, False).square().sum(), trained)
    expected = torch.autograd.grad(plain(*inputs).square().sum(), trained)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_pairs_keep_nothing_for_the_backward_pass_but_their_inputs():
    inputs = [value.requires_grad_() for value in problem(9, (3, 3))]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda value: kept.append(value) or value, lambda value: value):
        winograd.convolve_in_pairs(*inputs, False)
    assert sum(value.numel() for value in kept) == sum(value.numel() for value in inputs[:2])


def test_no_output_of_a_pair_sees_a_later_frame():
    seen, weight, bias = problem(8, (3, 3))
    before = winograd.convolve_in_pairs(seen, weight, bias, False)
    for frame in range(1, 8):
        changed = seen.clone()
        changed[:, :, 2 + frame :] = torch.inf
        after = winograd.convolve_in_pairs(changed, weight, bias, False)
        assert torch.equal(after[:, :, :frame], before[:, :, :frame])


@pytest.mark.bf16
@pytest.mark.bf16
def test_in_bfloat16_pairs_are_about_as_close_to_float32_as_the_plain_formula():
    seen, weight, bias = problem(8, (3, 3))
    seen = seen.bfloat16()
    exact = plain(seen.float(), weight, bias)
    errors = [
        (y.float() - exact).norm() / exact.norm()
        for y in (
            winograd.convolve_in_pairs(seen, weight, bias, False),
            plain(seen, weight.bfloat16(), bias.bfloat16()),
        )
    ]
    assert errors[0] < 6e-3 and errors[0] < 2 * errors[1]


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.bf16)])
def test_a_causal_convolution_in_chunks_gives_values_and_gradients_of_the_plain_formula(dtype, monkeypatch):
    used = []
    in_pairs = winograd.convolve_in_pairs
    monkeypatch.setattr(winograd, "convolve_in_pairs", lambda *inputs: used.append(1) or in_pairs(*inputs))
    monkeypatch.setattr(winograd, "FEW_PIXELS", 0)
    seen, weight, bias = problem(9, (3, 3), start=True)
    layer = CausalConv3d(34, 40)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    x = seen[:, :, 2:].clone().requires_grad_()
    inputs = [x, layer.weight, layer.bias]
    expected = plain(F.pad(x, (0, 0, 0, 0, 2, 0)), layer.weight, layer.bias)
    of_y = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        first, past = layer(x[:, :, :5])
        second, _ = layer(x[:, :, 5:], past)
        with torch.no_grad():
            without = layer(x)[0]
    found = torch.cat([first, second], dim=2).float()
    assert len(used) == 3
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    assert torch.allclose(found, expected, atol=tolerance, rtol=tolerance)
    assert torch.allclose(without.float(), expected, atol=tolerance, rtol=tolerance)
    gradients = (torch.autograd.grad(y, inputs, of_y) for y in (found, expected))
    for mine, theirs in zip(*gradients, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - theirs).norm() < (1e-5 if dtype == torch.float32 else 1e-2) * theirs.norm()


def test_few_pixels_thin_layers_other_devices_and_compilers_take_the_plain_formula(monkeypatch):
    weight, seen = torch.zeros(32, 32, 3, 3, 3), torch.zeros(1, 32, 11, 16, 16)
    assert winograd.pays(seen, weight, True) and winograd.pays(seen, weight, False)
    assert not winograd.pays(seen[..., :2, :2], weight, True)
    assert not winograd.pays(seen[:, :, :4], weight, True)
    assert not winograd.pays(seen, weight[:3], True) and not winograd.pays(seen[:, :3], weight[:, :3], True)
    assert not winograd.pays(seen.to("meta"), weight, True)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not winograd.pays(seen, weight, True)
