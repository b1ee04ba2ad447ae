"""Deterministic crashes: at a named moment of `runtime.faults` a command is killed or told to stop, or the disk is full
or broken.

A fault is written `point[:time[:action]]`: `checkpoint.renamed` kills (SIGKILL) when the point is first reached,
`checkpoint.renamed:3:ENOSPC` makes the third time fail with "no space left on device". Actions are KILL, the signals
TERM, INT and USR1, and the errors ENOSPC, EDQUOT and EIO.
"""

from __future__ import annotations

import errno
import os
import signal

from runtime import faults

VARIABLE = "PVVAE_FAULT"  # of processes that tests start
SIGNALS = ("TERM", "INT", "USR1")
ERRORS = ("ENOSPC", "EDQUOT", "EIO")
ACTIONS = ("KILL", *SIGNALS, *ERRORS)
# Every place where something becomes durable, in the order of the chain. `test_faults.py` visits them all.
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
    "stage.begin",
    "stage.written",
    "stage.renamed",
    "report.begin",
    "report.written",
    "report.renamed",
    "video.begin",
    "video.written",
    "video.renamed",
)


def install() -> None:
    """Make this process fail as `PVVAE_FAULT` asks, counting from now."""
    faults.listener, asked = None, os.environ.get(VARIABLE)
    if not asked:
        return
    name, _, rest = asked.partition(":")
    time, _, action = rest.partition(":")
    time, action, reached = int(time or 1), action or "KILL", 0
    if name not in POINTS or action not in ACTIONS:
        raise ValueError(f"{asked}: no such fault")

    def fail(point: str) -> None:
        nonlocal reached
        reached += point == name
        if point != name or reached != time:
            return
        if action == "KILL":
            os.kill(os.getpid(), signal.SIGKILL)
        if action in SIGNALS:
            signal.raise_signal(getattr(signal, f"SIG{action}"))
            return
        number = getattr(errno, action)
        raise OSError(number, f"{os.strerror(number)} (asked for by {asked})")

    faults.listener = fail
