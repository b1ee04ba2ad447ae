"""Causal convolution over time with a third fewer multiplications, for the CPU without gradients.

Winograd's F(2, 3) (S. Winograd, Arithmetic Complexity of Computations, 1980; for networks: arXiv 1509.09308), along
time only: two neighbouring output frames share the sums that three taps need, so that they take four convolutions over
height and width where the plain formula takes six. For frames d0 … d3 and taps g0, g1, g2:

    plus = (d1 + d2) * (g0 + g1 + g2)    minus = (d2 - d1) * (g0 - g1 + g2)
    d0 * g0 + d1 * g1 + d2 * g2 = (d0 - d2) * g0 + (plus + minus) / 2
    d1 * g0 + d2 * g1 + d3 * g2 = (d3 - d1) * g2 + (plus - minus) / 2

The first frame of a clip has no past: one tap is enough for it, so 1 + 2m frames take 1 + 4m convolutions, not 3 + 6m.
The first output of a pair is never touched by d3, so that causality holds bit for bit.

A GPU multiplies so fast that the extra sums would cost more than they save.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Pairs are taken together up to so many numbers, so that what is computed of them stays in the processor's cache.
CACHED = 2**21
# Pixels, over all pairs, below which transforming the weights costs more than it saves.
FEW_PIXELS = 128


def pays(x: Tensor, weight: Tensor, past: Tensor | None) -> bool:
    """Whether `convolve_in_pairs` may be called here and is faster than the plain formula."""
    pairs = (x.shape[2] - (past is None)) // 2
    return (
        x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and min(weight.shape[:2]) >= 32
        and len(x) * pairs * x.shape[3] * x.shape[4] >= FEW_PIXELS
    )


def convolve_in_pairs(x: Tensor, past: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
    """Three taps over time, stride 1, height and width kept: `F.conv3d` over `past` (or zeros) and `x`.

    Args:
        x: `[B, C, T, H, W]`.
        past: `[B, C, 2, H, W]`, the two frames before; None at the start of a clip.
        weight: `[D, C, 3, kh, kw]`, kh and kw odd; transformed in its own dtype, multiplied in that of `x`.
        bias: `[D]`.

    Returns:
        `[B, D, T, H, W]` in channels-last memory; in float32 within 1e-5 of the plain formula.
    """
    batch, channels, frames, height, width = x.shape
    x, bias = x.transpose(1, 2), bias.to(x.dtype)
    padding = (weight.shape[3] // 2, weight.shape[4] // 2)
    y = x.new_empty(batch, frames, height, width, len(weight)).permute(0, 1, 4, 2, 3)
    first, middle, last = weight.unbind(2)
    outer = first + last
    first, plus, minus, last = (
        tap.to(x.dtype, memory_format=torch.channels_last) for tap in (first, outer + middle, outer - middle, last)
    )

    def convolve(images: Tensor, tap: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.conv2d(images.flatten(0, 1), tap, bias, padding=padding).unflatten(0, (batch, -1))

    start = 0
    if past is None:
        start, past = 1, torch.zeros_like(x[:, :1]).expand(-1, 2, -1, -1, -1)
        y[:, :1] = convolve(x[:, :1], last, bias)
    else:
        past = past.transpose(1, 2)
    stop = start + (frames - start) // 2 * 2
    step = 2 * max(1, CACHED // (batch * channels * height * width))
    for begin in range(start, stop, step):
        end = min(begin + step, stop)
        earlier = x[:, begin - 2 : end - 2] if begin >= 2 else torch.cat([past[:, begin:], x[:, : end - 2]], dim=1)
        d0, d1, d2, d3 = earlier[:, ::2], earlier[:, 1::2], x[:, begin:end:2], x[:, begin + 1 : end : 2]
        with_plus, with_minus = convolve(d1 + d2, plus), convolve(d2 - d1, minus)
        torch.add(convolve(d0 - d2, first, bias), with_plus + with_minus, alpha=0.5, out=y[:, begin:end:2])
        torch.add(convolve(d3 - d1, last, bias), with_plus - with_minus, alpha=0.5, out=y[:, begin + 1 : end : 2])
    if stop < frames:  # a frame without a partner
        seen = torch.cat([past, x], dim=1)[:, -3:].transpose(1, 2)
        y[:, stop:] = F.conv3d(seen, weight.to(x.dtype), bias, padding=(0, *padding)).transpose(1, 2)
    return y.transpose(1, 2)
