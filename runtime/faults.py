"""Named moments at which something is about to become durable, or just has.

Nothing happens at them; tests put a `listener` there that kills the process, or finds the disk full
(`tests/survival/crashes.py`).
"""

from __future__ import annotations

from collections.abc import Callable

listener: Callable[[str], None] | None = None


def reach(point: str) -> None:
    """Tell the listener, if there is one."""
    if listener is not None:
        listener(point)
