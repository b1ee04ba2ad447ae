"""Exponential moving average of a model's weights, which may be sharded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from runtime.parallel import assign, local


def share_of_newest(updates: Tensor, decay: float, warmup: bool) -> Tensor:
    """The part that the newest weights have in the average of those after each of `updates` updates.

    Args:
        updates: Float64, at least 1.
        decay: Each weighs this times as much as the one that came after it, and all together one: before the first
            1 / (1 - decay) updates that is nearly the mean of all. The initial weights have no part.
        warmup: Where (1 + updates) / (10 + updates) is less, it takes the place of the decay: an average over about the
            last tenth of a run, which suits short ones.
    """
    if warmup:
        return 1.0 - ((1.0 + updates) / (10.0 + updates)).clamp(max=decay)
    return 1.0 / updates if decay == 1.0 else (1.0 - decay) / (1.0 - decay**updates)


class EMA:
    """Float32 average of the parameters of `model`; buffers are taken as they are. See `share_of_newest`."""

    def __init__(self, model: nn.Module, decay: float = 0.9999, warmup: bool = False):
        self.model, self.decay, self.warmup = model, decay, warmup
        self.average = {name: value.detach().clone().float() for name, value in model.named_parameters()}
        # Where the weights are, so that a step that is skipped there is not counted, and nobody waits to know.
        self._updates = torch.zeros((), dtype=torch.float64, device=next(model.parameters()).device)

    @property
    def updates(self) -> int:
        """How often it has moved, in all runs that it went through; asking waits for the device."""
        return int(self._updates)

    @updates.setter
    def updates(self, count: int) -> None:
        self._updates.fill_(count)

    @torch.no_grad()
    def update(self, applied: Tensor | None = None) -> None:
        """Move the average towards the weights that the model has after one more update.

        Args:
            applied: Whether there was one, a scalar on the device; None: yes.
        """
        moved = torch.ones_like(self._updates) if applied is None else applied.to(self._updates)
        self._updates += moved
        share = (moved * share_of_newest(self._updates.clamp(min=1.0), self.decay, self.warmup)).float()
        values = [local(value).float() for value in self.model.parameters()]
        averages = [local(value) for value in self.average.values()]
        torch._foreach_lerp_(averages, values, [share] * len(values))

    def state_dict(self) -> dict[str, Tensor]:
        """The model's state dict with averaged parameters."""
        return {**self.model.state_dict(), **self.average}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the average from what `state_dict` returned."""
        for name, value in self.average.items():
            assign(value, state[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averaged weights for the length of a with-block."""
        backup = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        self._put(self.average)
        try:
            yield
        finally:
            self._put(backup)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.model.named_parameters():
            parameter.copy_(values[name])
