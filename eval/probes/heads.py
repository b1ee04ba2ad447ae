"""The head of the trained probes: 3D convolutions on features, and a pixel shuffle back to frames.

PV-VAE says "3D convolutions and pixel shuffle" and no more. Ours has a linear map to `width` channels, two residual
3x3x3 convolutions, and a linear map to all pixels of a group, which start at zero.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from runtime.seeds import key, numpy_generator, seeded
from runtime.stopping import check_stop

LEARNING_RATE = 5e-3


class Head(nn.Module):
    """Features `[B, D, G, h, w]` -> pictures `[B, G, frames, channels, h * spatial, w * spatial]`."""

    def __init__(self, features: Tensor, *, channels: int, frames: int, spatial: int, width: int):
        """Args:
        features: Those that it will be trained on; it keeps the mean and deviation of their channels.
        channels: Of a pixel.
        frames: That it gives for each group.
        spatial: Pixels of a latent cell along height and width.
        width: Channels inside.
        """
        super().__init__()
        self.shape = {"c": channels, "f": frames, "a": spatial, "b": spatial}
        std, mean = torch.std_mean(features.double(), dim=(0, 2, 3, 4), keepdim=True)
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", torch.where(std > 1e-6, std, 1.0).float())  # a constant channel is only centred
        self.enter = nn.Conv3d(features.shape[1], width, 1)
        self.inner = nn.ModuleList([nn.Conv3d(width, width, 3, padding=1) for _ in range(2)])
        self.leave = nn.Conv3d(width, channels * frames * spatial * spatial, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        x = self.enter((features - self.mean) / self.std)
        for convolution in self.inner:
            x = x + convolution(F.silu(x))
        return rearrange(self.leave(F.silu(x)), "n (c f a b) g h w -> n g f c (h a) (w b)", **self.shape)


def train_head(
    features: Tensor,
    loss: Callable[[Tensor, list[int]], Tensor],
    *,
    seed: int,
    steps: int,
    batch_size: int,
    device: torch.device,
    **shape: int,
) -> Head:
    """Train a head with Adam, its rate falling to zero along a cosine; the seed decides its weights and the order of
    clips.

    Args:
        features: Of the training clips.
        loss: (pictures of a batch, places of its clips) -> scalar.
        shape: Of `Head`.

    Raises:
        Stopped: When a signal or the time limit asks for it.
    """
    head = seeded(lambda: Head(features, **shape), key(seed, "head")).to(device)
    optimizer = torch.optim.Adam(head.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    count, order = len(features), numpy_generator(seed, "head order")
    places: list[int] = []
    for _ in range(steps):
        check_stop()
        while len(places) < batch_size:
            places += order.permutation(count).tolist()
        batch, places = places[:batch_size], places[batch_size:]
        found = loss(head(features[batch].to(device)), batch)
        optimizer.zero_grad()
        found.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return head.eval().requires_grad_(False)


def answers(head: Head, features: Tensor, batch_size: int, device: torch.device):
    """Yields (places, pictures of a batch on `device`) for all clips in order."""
    for start in range(0, len(features), batch_size):
        places = list(range(start, min(start + batch_size, len(features))))
        with torch.no_grad():
            yield places, head(features[places].to(device))
