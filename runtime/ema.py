"""Exponential moving average of a model's weights, which may be sharded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from runtime.parallel import assign, local


def decay_at(update: int, decay: float) -> float:
    """The decay of update `update`, counted from 1: min(decay, (1 + update) / (10 + update)).

    Early updates forget the initial weights, so that 0.9999 also works in short runs.
    """
    return min(decay, (1 + update) / (10 + update))


class EMA:
    """Float32 average of the parameters of `model`; buffers are taken as they are.

    Attributes:
        updates: How often it has moved, in all runs that it went through: what the warm-up of its decay goes by.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999):
        self.model, self.decay, self.updates = model, decay, 0
        self.average = {name: value.detach().clone().float() for name, value in model.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights that the model has after one more update."""
        self.updates += 1
        values = [local(value).float() for value in self.model.parameters()]
        averages = [local(value) for value in self.average.values()]
        torch._foreach_lerp_(averages, values, 1.0 - decay_at(self.updates, self.decay))

    def state_dict(self) -> dict[str, Tensor]:
        """The model's state dict with averaged parameters."""
        return {**self.model.state_dict(), **self.average}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the average from what `state_dict` returned."""
        for name, value in self.average.items():
            assign(value, state[name])

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[nn.Module]:
        """Give `model` the averaged weights for the length of a with-block."""
        backup = {name: value.detach().clone() for name, value in model.named_parameters()}
        self._copy_to(model, self.average)
        try:
            yield model
        finally:
            self._copy_to(model, backup)

    @staticmethod
    @torch.no_grad()
    def _copy_to(model: nn.Module, values: Mapping[str, Tensor]) -> None:
        for name, parameter in model.named_parameters():
            parameter.copy_(values[name])
