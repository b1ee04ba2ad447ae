"""Pairs of frames that share products: the plain formula's result, its causality, and when they are taken."""

import pytest
import torch
import torch.nn.functional as F

from tokenizer import winograd
from tokenizer.layers import CausalConv3d, ChannelNorm


def problem(frames: int, kernel: tuple[int, int], dtype: torch.dtype = torch.float32):
    """Frames, the two before them, weights and biases; outputs have a variance of about 1."""
    generator = torch.Generator().manual_seed(frames)
    x = torch.randn(2, 34, frames + 2, 9, 7, generator=generator)
    weight = torch.randn(40, 34, 3, *kernel, generator=generator) * (34 * 3 * kernel[0] * kernel[1]) ** -0.5
    bias = torch.randn(40, generator=generator)
    return x[:, :, 2:].to(dtype), x[:, :, :2].to(dtype), weight, bias


def plain(x, past, weight, bias):
    x = F.pad(x, (0, 0, 0, 0, 2, 0)) if past is None else torch.cat([past, x], dim=2)
    return F.conv3d(x, weight, bias, padding=(0, weight.shape[3] // 2, weight.shape[4] // 2))


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 8, 9])
@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize("kernel", [(3, 3), (1, 1)])
def test_pairs_equal_the_plain_formula(frames, start, kernel, monkeypatch):
    x, past, weight, bias = problem(frames, kernel)
    past = None if start else past
    expected = plain(x, past, weight, bias)
    for cached in (1, 2 * 2 * 34 * 9 * 7, winograd.CACHED):  # one pair at a time, two, all
        monkeypatch.setattr(winograd, "CACHED", cached)
        for layout in (torch.contiguous_format, torch.channels_last_3d):
            y = winograd.convolve_in_pairs(x.contiguous(memory_format=layout), past, weight, bias)
            assert y.is_contiguous(memory_format=torch.channels_last_3d)
            assert torch.allclose(y, expected, atol=1e-5, rtol=1e-5)


def test_no_output_of_a_pair_sees_a_later_frame():
    x, past, weight, bias = problem(8, (3, 3))
    before = winograd.convolve_in_pairs(x, past, weight, bias)
    for frame in range(1, 8):
        changed = x.clone()
        changed[:, :, frame:] = torch.inf
        assert torch.equal(winograd.convolve_in_pairs(changed, past, weight, bias)[:, :, :frame], before[:, :, :frame])


@pytest.mark.bf16
def test_in_bfloat16_pairs_are_about_as_close_to_float32_as_the_plain_formula():
    x, past, weight, bias = problem(8, (3, 3), torch.bfloat16)
    exact = plain(x.float(), past.float(), weight, bias)
    errors = [
        (y.float() - exact).norm() / exact.norm()
        for y in (
            winograd.convolve_in_pairs(x, past, weight, bias),
            plain(x, past, weight.bfloat16(), bias.bfloat16()),
        )
    ]
    assert errors[0] < 6e-3 and errors[0] < 2 * errors[1]


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.bf16)])
def test_a_causal_convolution_gives_the_same_with_gradients_and_without(dtype, monkeypatch):
    used = []
    in_pairs = winograd.convolve_in_pairs
    monkeypatch.setattr(winograd, "convolve_in_pairs", lambda *inputs: used.append(1) or in_pairs(*inputs))
    x, _, weight, bias = problem(9, (3, 3))
    layer = CausalConv3d(34, 40)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    results = []
    for grad in (True, False):
        with torch.set_grad_enabled(grad), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            first, past = layer(x[:, :, :5])
            second, past = layer(x[:, :, 5:], past)
            results.append([first, second, past])
    assert len(used) == 2
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    for with_gradients, without in zip(*results, strict=True):
        assert without.dtype == with_gradients.dtype or dtype == torch.bfloat16
        assert torch.allclose(with_gradients.float(), without.float(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", [(3, 1), (3, 2)])
def test_an_image_goes_through_the_last_tap_alone_with_the_same_gradients(kind):
    torch.manual_seed(0)
    taps, stride = kind
    layer = CausalConv3d(4, 5, (taps, 3, 3), (stride, stride, stride))
    image = torch.randn(2, 4, 1, 8, 6)
    padded = F.pad(image, (0, 0, 0, 0, taps - 1, 0))
    expected = F.conv3d(padded, layer.weight, layer.bias, layer.stride, layer.padding)
    y, past = layer(image)
    assert torch.allclose(y, expected, atol=1e-6)
    assert torch.equal(past, padded[:, :, stride:])
    grads = [torch.autograd.grad(output.square().sum(), list(layer.parameters())) for output in (y, expected)]
    for mine, theirs in zip(*grads, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("silu", [True, False])
def test_norm_in_blocks_of_rows_equals_norm_at_once(kind, silu, monkeypatch):
    torch.manual_seed(0)
    norm = ChannelNorm(12, kind)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, 12, 3, 5, 7)
    at_once = norm(x, silu)
    monkeypatch.setattr("tokenizer.layers.CACHED", 12 * 8)  # 210 rows in blocks of 8, the last one shorter
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        with torch.no_grad():
            in_blocks = norm(x.contiguous(memory_format=layout), silu)
        assert in_blocks.is_contiguous(memory_format=torch.channels_last_3d)
        assert torch.allclose(in_blocks, at_once, atol=1e-6)
    with torch.no_grad():
        assert norm(x.bfloat16(), silu).dtype == torch.bfloat16


def test_few_pixels_thin_layers_and_training_take_the_plain_formula():
    weight, x = torch.zeros(32, 32, 3, 3, 3), torch.zeros(1, 32, 9, 8, 8)
    with torch.no_grad():
        assert winograd.pays(x, weight, None)
        assert not winograd.pays(x[:, :, :, :2, :2], weight, None)
        assert not winograd.pays(x[:, :, :1], weight, x[:, :, :2])
        assert not winograd.pays(x, weight[:3], None) and not winograd.pays(x[:, :3], weight[:, :3], None)
        assert not winograd.pays(x.to("meta"), weight, None)
    assert not winograd.pays(x, weight, None)
