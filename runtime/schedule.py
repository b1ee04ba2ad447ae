"""What the step alone decides: the learning rate, and whether something is due."""

from __future__ import annotations

import math


def learning_rate(
    step: int, *, base: float, total: int, warmup: int = 0, kind: str = "constant", final_ratio: float = 0.1
) -> float:
    """The rate for the update after `step` finished ones.

    Args:
        base: The peak, reached after `warmup` updates that rise linearly (the first one is base / warmup).
        total: Updates in all; used by "cosine", which falls to base * final_ratio at the end.
        kind: "constant" or "cosine".
    """
    if step < warmup:
        return base * (step + 1) / warmup
    if kind == "constant":
        return base
    if kind != "cosine":
        raise ValueError(f"schedule {kind!r} is not known; known: constant, cosine")
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    return base * (final_ratio + (1.0 - final_ratio) * 0.5 * (1.0 + math.cos(math.pi * done)))


def is_due(step: int, every: int, total: int) -> bool:
    """Whether something that happens each `every` steps, and at the end, happens after `step` finished ones."""
    return step > 0 and (step % every == 0 or step == total)
