"""Rectified flow: the only file that knows which end of time is noise.

t = 0 is noise, t = 1 is data; x_t = (1 - t) * noise + t * data; the velocity d x_t / d t is data - noise.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchdiffeq import odeint

from runtime.errors import InputError


def _spread(t: Tensor, like: Tensor) -> Tensor:
    return t.to(like.dtype).view(-1, *[1] * (like.ndim - 1))


def interpolate(data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t for `[B, …]` data and noise and t `[B]` in [0, 1]."""
    t = _spread(t, data)
    return (1.0 - t) * noise + t * data


def target_velocity(data: Tensor, noise: Tensor) -> Tensor:
    """d x_t / d t, which is the same all along the straight path."""
    return data - noise


def flow_loss(model: Callable, latents: Tensor, labels: Tensor | None, *, noise: Tensor, t: Tensor) -> Tensor:
    """Squared error of the velocity, averaged over each sample: `[B]` float32.

    Args:
        model: (x `[B, C, G, h, w]`, t `[B]`, labels) -> velocity like x.
        latents: Data, normalised, `[B, C, G, h, w]`.
        labels: int64 `[B]`, or None for an unconditional model.
        noise: Standard normal like `latents`.
        t: `[B]` in [0, 1].
    """
    velocity = model(interpolate(latents, noise, t), t, labels)
    return (velocity.float() - target_velocity(latents, noise).float()).square().flatten(1).mean(1)


def guided_velocity(model: Callable, x: Tensor, t: Tensor, labels: Tensor | None, guidance_scale: float) -> Tensor:
    """uncond + scale * (cond - uncond) over all channels, in one call of 2B rows; scale 1 is one call of B rows.

    The unconditional half uses the model's null class, `model.config.num_classes`.
    """
    if guidance_scale == 1.0:
        return model(x, t, labels)
    if labels is None:
        raise InputError(
            f"guidance_scale {guidance_scale:g} needs a class-conditional generator; this one has no classes: use 1"
        )
    null = torch.full_like(labels, model.config.num_classes)
    conditional, unconditional = model(torch.cat([x, x]), torch.cat([t, t]), torch.cat([labels, null])).chunk(2)
    return unconditional + guidance_scale * (conditional - unconditional)


@torch.no_grad()
def integrate(
    model: Callable, noise: Tensor, labels: Tensor | None, *, steps: int = 100, guidance_scale: float = 1.0
) -> Tensor:
    """Follow the velocity from noise to data with exactly `steps` Euler steps, one model call each.

    Args:
        model: (x, t `[B]`, labels) -> velocity like x.
        noise: Standard normal `[B, C, G, h, w]`; the state is float32, whatever the model computes in.
        labels: int64 `[B]` or None.
        steps: Number of model calls, >= 1.
        guidance_scale: 1 is off; otherwise each call has 2B rows.

    Returns:
        Normalised latents `[B, C, G, h, w]`, float32 (float64 for float64 noise).

    Raises:
        InputError: If `steps` is below 1, or guidance is asked of a generator without classes.
    """
    if steps < 1:
        raise InputError(f"sampling needs at least 1 step, got {steps}")

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        return guided_velocity(model, x, t.expand(len(x)), labels, guidance_scale).to(x.dtype)

    def grid(func, y0, t: Tensor) -> Tensor:
        # An explicit grid: the solver's step_size=1/steps evaluates once too often for some step counts.
        return torch.linspace(0.0, 1.0, steps + 1, dtype=t.dtype, device=t.device)

    start = noise.to(torch.promote_types(noise.dtype, torch.float32))
    ends = torch.tensor([0.0, 1.0], dtype=start.dtype, device=start.device)
    return odeint(velocity, start, ends, method="euler", options={"grid_constructor": grid})[-1]
