"""Work through a plan, alone or beside other processes, on this machine or on others that see the same folder.

Each takes the next stage that nobody holds and whose needs are met, and waits only where nothing else is left. A
signal, or the end of `--max-hours`, is passed on to the stage's command, which saves; exit codes are those of
`runtime.command`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import IO

from eval.arms.costs import left_words
from eval.arms.plan import Plan, Stage, last_words, needing
from runtime.errors import InputError
from runtime.files import no_link
from runtime.log import clock
from runtime.stopping import INTERRUPTED, REQUEUE, Stopped, check_stop, orderly, stop_asked

POLL = 0.1  # seconds between two looks at a command that runs
# Seconds that torchrun gives its processes to save after a signal; 30 without it, and always in PyTorch 2.11.
SAVING = 300
WAIT = 2.0  # seconds between two looks at what other processes hold


def start(stage: Stage, log: IO, lock: IO, processes: int = 1) -> subprocess.Popen:
    """Start a stage's command, which prints to `log` and holds `lock` as long as it lives.

    It leaves the terminal's group of processes, so that Ctrl-C comes to it through us alone, and once.
    """
    environment = dict(os.environ)
    if processes > 1:
        environment.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SAVING))
    return subprocess.Popen(
        [sys.executable, *stage.words(processes)],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
        pass_fds=(lock.fileno(),),
        process_group=0,
    )


def work_through(plan: Plan, label: str, processes: int = 1) -> dict[str, str]:
    """Run every stage that is not done; of a failed one, all that needs it is left out.

    Args:
        label: Begins what is printed.
        processes: On this machine for each stage, as torchrun starts them.

    Returns:
        By the name of a stage that failed here, why.

    Raises:
        Stopped: By a signal, `--max-hours`, or a command that was stopped itself; everything is saved.
        InputError: If this command was itself started by torchrun.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError(f"{label} starts other commands; start it once a machine, with --processes for its GPUs")
    failed: dict[str, str] = {}
    waiting = False
    while left := _left(plan, failed):
        taken = _take_one(plan, left, failed, label, processes)
        if not taken:
            if not waiting:
                print(f"{label}: waiting for what other processes hold", file=sys.stderr, flush=True)
            with orderly():
                _pause(WAIT)
        waiting = not taken
    return failed


def _left(plan: Plan, failed: dict[str, str]) -> list[Stage]:
    """Stages to run, in the order of the arms."""
    lost = needing(plan.stages, list(failed))
    return [stage for name, stage in plan.stages.items() if name not in lost and plan.done(stage) is None]


def _take_one(plan: Plan, left: Sequence[Stage], failed: dict[str, str], label: str, processes: int) -> bool:
    """Run the first stage that is free and whose needs are met, and note it where it failed; whether there was one."""
    names = {stage.name for stage in left}
    for stage in left:
        if names.intersection(stage.needs):
            continue
        with plan.locked(stage.name) as lock:
            if lock is None:
                continue
            if plan.done(stage) is None:  # or another process has just ended it
                failure = run_stage(plan, stage, lock, label, processes)
                if failure:
                    failed[stage.name] = failure
                    print(f"{label}: {stage.name} failed: {failure}", file=sys.stderr, flush=True)
            return True
    return False


def run_stage(plan: Plan, stage: Stage, lock: IO, label: str, processes: int = 1) -> str:
    """Run one stage to its end; why it failed, or "".

    Raises:
        Stopped: If it was asked to stop.
    """
    path = plan.log(stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    in_one_go = not path.exists()
    print(f"{label}: {left_words(plan)}; {stage.name}, see {path}\n  {stage.command}", file=sys.stderr, flush=True)
    with open(path, "ab", opener=no_link) as log:
        before, began = log.tell(), time.monotonic()
        with orderly():
            process = start(stage, log, lock, processes)
            code = _ended(process)
    if code == 0:
        if absent := [str(result) for result in stage.results if not result.exists()]:
            return f"it ended well, but there is no {', '.join(absent)}"
        plan.mark_done(stage, time.monotonic() - began, in_one_go)
        print(f"{label}: {stage.name} done in {clock(time.monotonic() - began)}", file=sys.stderr, flush=True)
        return ""
    check_stop()
    if code == REQUEUE:
        raise Stopped(f"a signal to {stage.name}")
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    words = last_words(path, before)
    if code < 0:
        memory = ", as when memory ends" if code == -signal.SIGKILL else ""
        words = f"its process was ended by {signal.Signals(-code).name}{memory}"
    return f"{words} (exit code {code}, {path})"


def _ended(process: subprocess.Popen) -> int:
    """The exit code of a process, to which a request to stop is passed on."""
    asked = None
    try:
        while process.poll() is None:
            if asked is None and (asked := stop_asked()):
                # Not SIGUSR1: a launcher of several processes dies of it and leaves them running.
                process.send_signal(signal.SIGINT if asked == "Ctrl-C" else signal.SIGTERM)
            time.sleep(POLL)
    except BaseException:  # a second Ctrl-C, which does not wait
        process.kill()
        process.wait()
        raise
    return process.returncode


def _pause(seconds: float) -> None:
    """Wait, unless asked to stop."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        check_stop()
        time.sleep(POLL)
