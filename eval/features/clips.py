"""What every feature network asks of the clips it is given, and of the device that it runs on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from runtime.errors import InputError


def check_clips(video: Tensor, network: str, min_frames: int, size: tuple[int, int] | None = None) -> None:
    """Refuse what is no `[B, 3, T >= min_frames, H, W]` of finite floats.

    Args:
        network: Its name, for the error.
        size: The only height and width allowed.
    """
    fits = video.ndim == 5 and video.shape[1] == 3 and video.shape[2] >= min_frames
    if not fits or (size is not None and tuple(video.shape[3:]) != size):
        picture = "H, W" if size is None else f"{size[0]}, {size[1]}"
        raise InputError(f"{network} takes [B, 3, T >= {min_frames}, {picture}], got {list(video.shape)}")
    if not video.is_floating_point():
        raise InputError(f"{network} takes floats in [-1, 1], got {video.dtype}; videos.to_float converts bytes")
    if not video.is_meta and not torch.isfinite(video).all():
        raise InputError(f"{network} was given pixels that are not finite (NaN or infinity)")


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """float32 convolutions and products as such, whatever was asked for outside: no TF32, no bfloat16, no mixed
    precision."""
    cuda, cudnn, mkldnn = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    # Not `allow_tf32`, which fails where the caller has used these, nor the one setting for all, which these override.
    parts = cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv
    before = [part.fp32_precision for part in parts]
    mixed = torch.amp.is_autocast_available(device.type)  # not so on "meta"
    try:
        for part in parts:
            part.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False) if mixed else nullcontext():
            yield
    finally:
        for part, precision in zip(parts, before, strict=True):
            part.fp32_precision = precision
