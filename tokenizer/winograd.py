"""Causal convolution over time with a third fewer multiplications, forward and backward, for the CPU.

Winograd's F(2, 3) (S. Winograd, Arithmetic Complexity of Computations, 1980; for networks: arXiv 1509.09308), along
time only: two neighbouring output frames share the sums that three taps need, so that they take four convolutions over
height and width where the plain formula takes six. For frames d0 … d3 and taps g0, g1, g2:

    plus = (d1 + d2) * (g0 + g1 + g2) / 2    minus = (d2 - d1) * (g0 - g1 + g2) / 2
    d0 * g0 + d1 * g1 + d2 * g2 = (d0 - d2) * g0 + plus + minus
    d1 * g0 + d2 * g1 + d3 * g2 = (d3 - d1) * g2 + plus - minus

The first frame of a clip has no past: one tap is enough for it, so 1 + 2m frames take 1 + 4m convolutions, not 3 + 6m.
The first output of a pair is never touched by d3, so that causality holds bit for bit. The backward pass takes the same
steps in reverse, and as few convolutions for each of its two gradients; it keeps the frames alone, not their sums.

A GPU multiplies so fast that the extra sums would cost more than they save.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Pairs are taken together up to so many numbers, so that what is computed of them stays in the processor's cache.
CACHED = 2**21
# Channels and pixels, over all pairs, below which the extra sums and transforming the weights cost more than is saved.
FEW_CHANNELS, FEW_PIXELS = 24, 512


def pays(seen: Tensor, weight: Tensor, start: bool) -> bool:
    """Whether `convolve_in_pairs` may be called here and is faster than the plain formula."""
    batch, _, frames, height, width = seen.shape
    return (
        seen.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and min(weight.shape[:2]) >= FEW_CHANNELS
        and batch * ((frames - 2 - start) // 2) * height * width >= FEW_PIXELS
    )


def convolve_in_pairs(seen: Tensor, weight: Tensor, bias: Tensor, start: bool) -> Tensor:
    """Three taps over time, stride 1, height and width kept: `F.conv3d` over `seen`.

    Args:
        seen: `[B, C, 2+T, H, W]`, the frames and the two before them.
        weight: `[D, C, 3, kh, kw]`, kh and kw odd; transformed in its own dtype, multiplied in that of `seen`.
        bias: `[D]`.
        start: Whether the first two frames are zeros, before a clip begins.

    Returns:
        `[B, D, T, H, W]` in channels-last memory; in float32 within 1e-5 of the plain formula, as are its gradients.
    """
    return _Pairs.apply(seen, weight, bias, start)


class _Pairs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, seen: Tensor, weight: Tensor, bias: Tensor, start: bool) -> Tensor:
        ctx.save_for_backward(seen, weight)
        ctx.start = start
        frames, bias = _frames_first(seen), bias.to(seen.dtype)
        batch, count, _, height, width = frames.shape
        padding = weight.shape[3] // 2, weight.shape[4] // 2
        first, plus, minus, last = _transform(weight, seen.dtype)
        shape = batch, len(weight), count - 2, height, width
        result = torch.empty(shape, dtype=seen.dtype, memory_format=torch.channels_last_3d)
        y = _frames_first(result)

        def convolve(images: Tensor, tap: Tensor, bias: Tensor | None = None) -> Tensor:
            return F.conv2d(images.flatten(0, 1), tap, bias, padding=padding).unflatten(0, (batch, -1))

        if start:
            y[:, :1] = convolve(frames[:, 2:3], last, bias)
        for begin, end in _spans(frames, start):
            d0, d1, d2, d3 = (frames[:, begin + number : end + number : 2] for number in range(4))
            with_plus, with_minus = convolve(d1 + d2, plus), convolve(d2 - d1, minus)
            torch.add(convolve(d0 - d2, first, bias), with_plus + with_minus, out=y[:, begin:end:2])
            torch.add(convolve(d3 - d1, last, bias), with_plus.sub_(with_minus), out=y[:, begin + 1 : end : 2])
        if (count - start) % 2:  # a frame without a partner
            single = F.conv3d(_frames_first(frames[:, -3:]), weight.to(seen.dtype), bias, padding=(0, *padding))
            y[:, -1:] = _frames_first(single)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, of_y: Tensor) -> tuple[Tensor | None, ...]:
        seen, weight = ctx.saved_tensors
        frames, of_y = _frames_first(seen), _frames_first(of_y)
        padding = weight.shape[3] // 2, weight.shape[4] // 2
        first, plus, minus, last = _transform(weight, seen.dtype)
        of_frames = torch.empty_like(frames)
        of_frames[:, : 2 + ctx.start] = 0.0
        # Of first, plus, minus, last and the bias.
        sums = [torch.zeros_like(weight[:, :, 0]) for _ in range(4)] + [weight.new_zeros(len(weight))]

        def gradients(of_images: Tensor, images: Tensor, tap: Tensor, number: int) -> Tensor | None:
            """Of the images; those of the tap and, where both outputs of a pair come by once, the bias are summed."""
            mask = [*ctx.needs_input_grad[:2], ctx.needs_input_grad[2] and number in (0, 3)]
            found = _gradients(of_images.flatten(0, 1), images.flatten(0, 1), tap, padding, mask)
            for index, part in ((number, found[1]), (4, found[2])):
                if part is not None:
                    sums[index] += part
            return None if found[0] is None else found[0].unflatten(0, (len(frames), -1))

        if ctx.start:
            found = gradients(of_y[:, :1], frames[:, 2:3], last, 3)
            if found is not None:
                of_frames[:, 2:3] = found
        for begin, end in _spans(frames, ctx.start):
            d0, d1, d2, d3 = (frames[:, begin + number : end + number : 2] for number in range(4))
            earlier, later = of_y[:, begin:end:2], of_y[:, begin + 1 : end : 2]
            of_first = gradients(earlier, d0 - d2, first, 0)
            of_plus = gradients(earlier + later, d1 + d2, plus, 1)
            of_minus = gradients(earlier - later, d2 - d1, minus, 2)
            of_last = gradients(later, d3 - d1, last, 3)
            if ctx.needs_input_grad[0]:
                # A pair's last two frames are the next one's first two: written, then added to.
                of_d0, of_d1, of_d2, of_d3 = (of_frames[:, begin + number : end + number : 2] for number in range(4))
                torch.sub(of_plus + of_minus, of_first, out=of_d2)
                of_d3.copy_(of_last)
                of_d0.add_(of_first)
                of_d1.add_(of_plus.sub_(of_minus).sub_(of_last))
        of_first, of_plus, of_minus, of_last, of_bias = sums
        outer, middle = (of_plus + of_minus) / 2, (of_plus - of_minus) / 2
        of_weight = torch.stack([of_first + outer, middle, of_last + outer], dim=2)
        if (frames.shape[1] - ctx.start) % 2:
            images = _frames_first(frames[:, -3:]), weight.to(seen.dtype), (0, *padding)
            found = _gradients(_frames_first(of_y[:, -1:]), *images, ctx.needs_input_grad[:3])
            if found[0] is not None:
                found = [_frames_first(found[0]), *found[1:]]
                of_frames[:, -1] = found[0][:, -1]
                of_frames[:, -3:-1] += found[0][:, :-1]
            for total, part in ((of_weight, found[1]), (of_bias, found[2])):
                if part is not None:
                    total += part
        results = _frames_first(of_frames), of_weight, of_bias
        return *(value if ctx.needs_input_grad[number] else None for number, value in enumerate(results)), None


def _frames_first(video: Tensor) -> Tensor:
    """`[B, C, T, H, W]` as `[B, T, C, H, W]` and back: the frames are images of a 2D convolution."""
    return video.transpose(1, 2)


def _transform(weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """What the four sums of a pair are multiplied with, for `weight` `[D, C, 3, kh, kw]`."""
    first, middle, last = weight.unbind(2)
    outer, middle = (first + last) / 2, middle / 2
    taps = first, outer + middle, outer - middle, last
    return tuple(tap.to(dtype, memory_format=torch.channels_last) for tap in taps)


def _spans(frames: Tensor, start: bool) -> Iterator[tuple[int, int]]:
    """First and last output, exclusive, of the pairs that are taken together."""
    stop = start + (frames.shape[1] - 2 - start) // 2 * 2
    step = 2 * max(1, CACHED // frames[:, :1].numel())
    for begin in range(start, stop, step):
        yield begin, min(begin + step, stop)


def _gradients(of_y: Tensor, x: Tensor, weight: Tensor, padding: tuple[int, ...], needed: list[bool]) -> list:
    """Of a convolution's inputs x, weight and bias, those that are needed."""
    ones, zeros = [1] * len(padding), [0] * len(padding)
    return list(
        torch.ops.aten.convolution_backward(
            of_y, x, weight, [len(weight)], ones, padding, ones, False, zeros, 1, list(needed)
        )
    )
