"""Deterministic crashes, to prove that nothing is lost or half-written.

`PVVAE_FAULT=checkpoint.renamed` makes the process kill itself (SIGKILL) when it first reaches that point;
`PVVAE_FAULT=checkpoint.renamed:3:ENOSPC` makes the third time fail with "no space left on device" instead. Actions are
KILL, the signals TERM, INT and USR1, and the errors ENOSPC, EDQUOT and EIO. Without the variable a point costs one
comparison.
"""

from __future__ import annotations

import errno
import os
import signal

from runtime.errors import InputError

VARIABLE = "PVVAE_FAULT"
SIGNALS = ("TERM", "INT", "USR1")
ERRORS = ("ENOSPC", "EDQUOT", "EIO")
ACTIONS = ("KILL", *SIGNALS, *ERRORS)
# Every place where something becomes durable, in the order of the chain. tests/survival visits them all.
POINTS = (
    "manifest.begin",
    "manifest.written",
    "manifest.renamed",
    "log.append",
    "log.cut.begin",
    "log.cut.written",
    "log.cut.renamed",
    "checkpoint.begin",
    "checkpoint.tensors",
    "checkpoint.written",
    "checkpoint.replace",
    "checkpoint.renamed",
    "checkpoint.prune",
    "latents.draft",
    "latents.created",
    "latents.row",
    "latents.synced",
    "latents.marked",
    "latents.statistics",
    "latents.finished",
    "statistics.begin",
    "statistics.written",
    "statistics.renamed",
    "samples.copied",
    "samples.grown",
    "features.begin",
    "features.batch",
    "features.written",
    "features.renamed",
    "weights.begin",
    "weights.written",
    "weights.renamed",
    "results.begin",
    "results.written",
    "results.renamed",
    "report.begin",
    "report.written",
    "report.renamed",
    "video.begin",
    "video.written",
    "video.renamed",
)

_reached: dict[str, int] = {}


def reach(point: str) -> None:
    """Fail here if the environment asks for it.

    Raises:
        OSError: ENOSPC, EDQUOT or EIO, when that is the action asked for.
        InputError: If the environment names no known point or action.
    """
    asked = os.environ.get(VARIABLE)
    if not asked:
        return
    name, time, action = parse(asked)
    if name != point:
        return
    _reached[point] = _reached.get(point, 0) + 1
    if _reached[point] != time:
        return
    if action == "KILL":
        os.kill(os.getpid(), signal.SIGKILL)
    if action in SIGNALS:
        signal.raise_signal(getattr(signal, f"SIG{action}"))
        return
    number = getattr(errno, action)
    raise OSError(number, f"{os.strerror(number)} (asked for by {VARIABLE}={asked})")


def parse(asked: str) -> tuple[str, int, str]:
    """(point, which time, action) of `point[:time[:action]]`."""
    name, _, rest = asked.partition(":")
    time, _, action = rest.partition(":")
    action = action or "KILL"
    if name not in POINTS or action not in ACTIONS or not (time or "1").isdigit():
        raise InputError(f"{VARIABLE}={asked}: expected point[:time[:{'|'.join(ACTIONS)}]], point one of {POINTS}")
    return name, int(time or 1), action
