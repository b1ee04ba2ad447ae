"""Latents and motion as pictures (PV-VAE, figure 4): three principal directions and optical flow as colours."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.errors import InputError
from runtime.published_weights import find_weights
from videos import to_float

RAFT = "raft_large"
# RAFT looks at an eighth of the size, at several scales: smaller pictures leave it nothing.
RAFT_SMALLEST, RAFT_STEP = 128, 8
# Of each component, what becomes black and full colour.
PERCENTILES = (1.0, 99.0)
_HUES = np.array([colorsys.hsv_to_rgb(hue / 360, 1.0, 1.0) for hue in range(360)])


def latents_as_rgb(latents: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Three directions of the channels as colours, every component stretched over all that is given.

    Args:
        latents: `[n, C, G, h, w]`.
        directions: `[3, C]`, or fewer: the last one then stands for those that are missing.

    Returns:
        uint8 `[n, G, h, w, 3]`.
    """
    directions = directions[[min(row, len(directions) - 1) for row in range(3)]]
    components = np.einsum("kc,ncghw->nghwk", directions, latents.astype(np.float64))
    low, high = np.percentile(components, PERCENTILES, axis=(0, 1, 2, 3))
    scaled = (components - low) / np.where(high > low, high - low, 1.0)
    return np.rint(scaled.clip(0, 1) * 255).astype(np.uint8)


def groups_as_frames(pictures: np.ndarray, num_frames: int, height: int, width: int, temporal: int) -> np.ndarray:
    """Pictures of groups `[G, h, w, 3]` as the frames that they stand for, cells as squares: `[1+T, H, W, 3]`."""
    group = -(-np.arange(num_frames) // temporal)
    rows = np.arange(height) * pictures.shape[1] // height
    columns = np.arange(width) * pictures.shape[2] // width
    return pictures[group.clip(max=len(pictures) - 1)][:, rows][:, :, columns]


def flow_as_rgb(flow: np.ndarray, largest: float | None = None) -> np.ndarray:
    """Direction as hue (right is red, down is yellow-green), speed as strength of colour on white.

    Args:
        flow: `[T, 2, H, W]`, (u, v) in pixels.
        largest: Speed of full colour; default: the 99th percentile.

    Returns:
        uint8 `[T, H, W, 3]`.
    """
    u, v = flow[:, 0].astype(np.float64), flow[:, 1].astype(np.float64)
    speed = np.hypot(u, v)
    largest = largest or float(np.percentile(speed, 99)) or 1.0
    hue = _HUES[np.rint(np.degrees(np.arctan2(v, u))).astype(int) % 360]
    strength = (speed / largest).clip(0, 1)[..., None]
    return np.rint((1 - strength * (1 - hue)) * 255).astype(np.uint8)


def raft_network() -> Callable[[Tensor, Tensor], list[Tensor]]:
    """RAFT (large) of torchvision with its published weights; InputError where they are not here."""
    path = find_weights(RAFT)
    from torchvision.models.optical_flow import raft_large

    network = raft_large(weights=None)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False)


@torch.no_grad()
def estimated_flow(clip: Tensor, network: Callable[[Tensor, Tensor], list[Tensor]]) -> np.ndarray:
    """Flow from each frame to the next, of a uint8 clip `[3, 1+T, H, W]`: float32 `[T, 2, H, W]` in its pixels.

    Args:
        network: Two batches of pictures in [-1, 1] -> flows, the best one last, as torchvision's RAFT.
    """
    frames = to_float(clip.transpose(0, 1))
    height, width = frames.shape[2:]
    scale = max(1.0, RAFT_SMALLEST / min(height, width))
    size = [max(RAFT_SMALLEST, round(side * scale / RAFT_STEP) * RAFT_STEP) for side in (height, width)]
    large = F.interpolate(frames, size=size, mode="bilinear", antialias=True, align_corners=False)
    flow = torch.cat([network(a, b)[-1] for a, b in zip(large[:-1, None], large[1:, None], strict=True)])
    small = F.interpolate(flow, size=(height, width), mode="bilinear", antialias=True, align_corners=False)
    return (small * torch.tensor([width / size[1], height / size[0]]).view(1, 2, 1, 1)).numpy()


def flow_of(dataset, items, clips: Tensor) -> tuple[list[np.ndarray], str]:
    """Flow of some clips, and where it is from; none, and why, where there is neither truth nor RAFT.

    Args:
        dataset: They are items of it.
        items: Which.
        clips: uint8 `[n, 3, 1+T, H, W]`, for RAFT.
    """
    if clips.shape[2] < 2:
        return [], "pictures have no flow"
    if hasattr(dataset, "truth"):
        exact = dataset.with_clip(dataset.clip)
        exact.truth = True
        return [exact[item]["flow"] for item in items], "exact flow"
    try:
        network = raft_network()
    except InputError as error:
        return [], f"no flow: {str(error).split(';')[0]}"
    return [estimated_flow(clip, network) for clip in clips], "flow by RAFT (large)"
