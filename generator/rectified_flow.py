"""Rectified flow: the only file that knows which end of time is noise.

t = 0 is noise, t = 1 is data; x_t = (1 - t) * noise + t * data; the velocity d x_t / d t is data - noise.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torchdiffeq import odeint

from runtime.errors import InputError


def interpolate(data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t for `[B, …]` data and noise and t `[B]` in [0, 1]; at least float32, as t would be another in less."""
    t = t.to(torch.promote_types(data.dtype, torch.float32)).view(-1, *[1] * (data.ndim - 1))
    return (1.0 - t) * noise + t * data


def shaped_time(uniform: Tensor, density: str = "uniform", shift: float = 1.0) -> Tensor:
    """Times of training `[B]` in [0, 1] from uniform numbers.

    Args:
        density: "uniform", or "logit-normal": the logistic function of a standard normal, which prefers the middle
            (arXiv 2403.03206, section 3.1).
        shift: t / (t + shift (1 - t)): above 1 more of the times are near noise, as latents of more numbers need
            (likewise, section 5.3.2, with its time turned round).
    """
    t = torch.sigmoid(torch.special.ndtri(uniform)) if density == "logit-normal" else uniform
    return t if shift == 1.0 else t / (t + shift * (1.0 - t))


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
    model: Callable,
    noise: Tensor,
    labels: Tensor | None,
    *,
    steps: int = 100,
    guidance_scale: float = 1.0,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """Follow the velocity from noise to data with exactly `steps` Euler steps, one model call each.

    Nothing on the way reads a number back from the device.

    Args:
        model: (x, t `[B]`, labels) -> velocity like x.
        noise: Standard normal `[B, C, G, h, w]`; the state is float32, whatever the model computes in.
        labels: int64 `[B]` or None.
        steps: Number of model calls, >= 1.
        guidance_scale: 1 is off; otherwise a call has 2B rows.
        guidance_interval: Steps that begin at a time t in [low, high) are guided; the calls of the others have B rows.
            (arXiv 2404.07724, in our time: 0 is noise.)

    Returns:
        Normalised latents `[B, C, G, h, w]`, float32 (float64 for float64 noise).

    Raises:
        InputError: If `steps` is below 1, or guidance is asked of a generator without classes.
    """
    if steps < 1:
        raise InputError(f"sampling needs at least 1 step, got {steps}")
    start = noise.to(torch.promote_types(noise.dtype, torch.float32))
    low, high = guidance_interval

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        now = float(t)
        # In float32 0.7 is a little less than 0.7, and would fall on the other side of an end.
        scale = guidance_scale if low <= round(now * steps) / steps < high else 1.0
        times = torch.full(x.shape[:1], now, dtype=t.dtype, device=x.device)
        return guided_velocity(model, x, times, labels, scale).to(x.dtype)

    def grid(func, y0, t: Tensor) -> Tensor:
        # An explicit grid: the solver's step_size=1/steps evaluates once too often for some step counts.
        return torch.linspace(0.0, 1.0, steps + 1, dtype=t.dtype)

    ends = torch.tensor([0.0, 1.0], dtype=start.dtype).as_subclass(_times_for(start.device))
    return odeint(velocity, start, ends, method="euler", options={"grid_constructor": grid})[-1]


@cache
def _times_for(device: torch.device) -> type[Tensor]:
    """Tensors of times in main memory that call `device` theirs.

    odeint moves times to the state's device, and then reads one of them back at every step, which waits for all that
    the device has to do. What it computes with them, it computes as well with numbers from main memory.
    """
    return type("Times", (Tensor,), {"device": device})
