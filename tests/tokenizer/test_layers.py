"""Layers of the convolutional network on their shorter ways: the same values and gradients as the plain formulas."""

import pytest
import torch
import torch.nn.functional as F

from tokenizer import layers
from tokenizer.layers import CausalConv3d, ChannelNorm, Upsample


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


def assert_gradients_equal(found: torch.Tensor, expected: torch.Tensor, inputs: list, **bounds: float) -> None:
    """Of a weighted sum, so that none cancel."""
    of_y = torch.randn(expected.shape, dtype=expected.dtype, generator=torch.Generator().manual_seed(1))
    gradients = (torch.autograd.grad(y, inputs, of_y, retain_graph=True) for y in (found, expected))
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, **bounds)


EXACT = {"rtol": 1e-10, "atol": 1e-10}


@pytest.mark.parametrize("kind", [(3, 1), (3, 2)])
def test_an_image_goes_through_the_last_tap_alone_with_the_same_gradients(kind):
    taps, stride = kind
    layer = randomised(CausalConv3d(4, 5, (taps, 3, 3), (stride, stride, stride))).double()
    image = torch.randn(2, 4, 1, 8, 6, dtype=torch.float64, requires_grad=True)
    padded = F.pad(image, (0, 0, 0, 0, taps - 1, 0))
    expected = F.conv3d(padded, layer.weight, layer.bias, layer.stride, layer.padding)
    y, past = layer(image)
    torch.testing.assert_close(y, expected, **EXACT)
    assert torch.equal(past, padded[:, :, stride:])
    assert_gradients_equal(y, expected, [image, *layer.parameters()], **EXACT)


@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2)])
def test_frames_by_themselves_equal_the_3d_convolution(stride):
    layer = randomised(CausalConv3d(4, 5, (1, 3, 3), stride)).double()
    x = torch.randn(2, 4, 3, 8, 6, dtype=torch.float64, requires_grad=True)
    expected = F.conv3d(x, layer.weight, layer.bias, layer.stride, layer.padding)
    y, _ = layer(x)
    torch.testing.assert_close(y, expected, **EXACT)
    assert_gradients_equal(y, expected, [x, *layer.parameters()], **EXACT)


@pytest.mark.parametrize("few", [0, 10**9])
def test_added_taps_equal_the_convolution_of_doubled_pixels(few, monkeypatch):
    monkeypatch.setattr(layers, "FEW_PIXELS", few)
    up = randomised(Upsample(4, 5, temporal=False)).double()
    x = torch.randn(2, 4, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    doubled = x.repeat_interleave(2, 3).repeat_interleave(2, 4)
    expected = F.conv3d(doubled, up.conv.weight, up.conv.bias, padding=(0, 1, 1))
    y, _ = up(x)
    torch.testing.assert_close(y, expected, **EXACT)
    assert_gradients_equal(y, expected, [x, *up.parameters()], **EXACT)


def plain_norm(norm: ChannelNorm, x: torch.Tensor, silu: bool) -> torch.Tensor:
    rows = x.movedim(1, -1)
    if norm.kind == "layer":
        rows = rows - rows.mean(-1, keepdim=True)
    rows = rows / (rows.square().mean(-1, keepdim=True) + norm.eps).sqrt()
    y = (rows * norm.weight + norm.bias).movedim(-1, 1)
    return y * y.sigmoid() if silu else y


@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("before", ["none", "zeros", "frames"])
@pytest.mark.parametrize("way", ["cpu", "gpu"])
def test_the_norm_that_keeps_its_input_alone_equals_the_plain_one(kind, silu, before, way, monkeypatch):
    """As one function in blocks of rows, and as separate operations; with the frames before its own in front; the way
    that CPUs take and the one that GPUs do."""
    monkeypatch.setattr(layers, "CACHED", 12 * 8)  # 105 rows of a clip in blocks of 8, the last one shorter
    if way == "gpu":
        monkeypatch.setattr(layers, "on_cpu", lambda x: False)
    norm = randomised(ChannelNorm(12, kind))
    x = torch.randn(2, 12, 3, 5, 7, requires_grad=True)
    frames = torch.randn(2, 12, 2, 5, 7, requires_grad=True)
    given = {"none": 0, "zeros": 2, "frames": frames}[before]
    expected = plain_norm(norm, x, silu)
    if before != "none":
        expected = torch.cat([frames if before == "frames" else torch.zeros_like(frames), expected], dim=2)
    inputs = [x, *norm.parameters(), *([frames] if before == "frames" else [])]
    kept: list[torch.Tensor] = []
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        there = x.contiguous(memory_format=layout)
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda value: kept.append(value) or value, lambda value: value):
            fused = layers._Norm.apply(there, norm.weight, norm.bias, given, kind, norm.eps, silu)
        assert sum(value.numel() for value in kept) == x.numel() + 24
        with torch.no_grad():
            without = norm(there, silu, given)
        for y in (fused, norm(there, silu, given), without):
            assert torch.allclose(y, expected, atol=1e-5)
        assert fused.is_contiguous(memory_format=torch.channels_last_3d)
        assert_gradients_equal(fused, expected, inputs, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert norm(x.bfloat16(), silu).dtype == torch.bfloat16
