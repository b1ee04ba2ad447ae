"""What a step of training says of itself: summed over the processes on the device, and read without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor

from runtime.processes import World


def step_sums(losses: Tensor, t: Tensor, norm: Tensor, world: World, stop: object) -> Tensor:
    """What one step says of itself, summed over all processes in one exchange: float64 `[10]` on the device.

    Losses in each quarter of time (near noise the task is another one than near data) and how many there are, the norm
    of the gradient, and how many processes were asked to stop.
    """
    quarter = (t * 4).long().clamp(max=3) == torch.arange(4, device=t.device)[:, None]  # [4, b]
    sums = torch.where(quarter, losses.double(), 0.0).sum(1)
    asked = torch.full((1,), float(bool(stop)), device=t.device)
    # The norm is the same on every process already: each brings its part.
    return world.add(torch.cat([sums, quarter.sum(1), norm.view(1) / world.size, asked]).double())


def step_values(numbers: list[float]) -> tuple[dict[str, float], bool]:
    """What of `step_sums` is logged, and whether some process was asked to stop."""
    losses, counts, (norm, asked) = numbers[:4], numbers[4:8], numbers[8:]
    values = {"loss": sum(losses) / sum(counts), "grad_norm": norm}
    values |= {f"loss_t{q}": losses[q] / counts[q] for q in range(4) if counts[q]}
    return values, asked > 0


class Reading:
    """Numbers on their way from a device to the host, which goes on meanwhile."""

    def __init__(self, values: Tensor):
        on_gpu = values.device.type == "cuda"
        self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True) if on_gpu else values
        self._arrived = torch.cuda.Event() if on_gpu else None
        if on_gpu:
            self._values.copy_(values, non_blocking=True)
            self._arrived.record()

    def get(self) -> list[float]:
        """The numbers; waits until they have arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values.tolist()
