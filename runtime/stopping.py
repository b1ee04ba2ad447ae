"""Stop in good order: on Ctrl-C, on SIGTERM or SIGUSR1 of a batch system, and at the end of `--max-hours`.

A loop that can save what it has enters `orderly()` and asks `stop_asked()` between two steps; in there a first signal
only leaves a mark. Everywhere else, and at the second Ctrl-C, a signal ends the process at once: nothing is lost by
that either, only repeated.
"""

from __future__ import annotations

import functools
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

# sysexits.h EX_TEMPFAIL, "try again later": batch systems requeue on it.
REQUEUE = 75
INTERRUPTED = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
# What gloo, NCCL and the store of a launch say when one of its processes is gone.
_GONE = ("closed by peer", "reset by peer", "Broken pipe", "Socket closed", "likely closed", "remote process exited")


class Stopped(BaseException):
    """The command ended early, with everything saved; the same command goes on from there.

    No Exception, as KeyboardInterrupt is none: libraries that catch all of those and go on must not catch this.

    Attributes:
        code: Exit status: `INTERRUPTED` after Ctrl-C, else `REQUEUE`.
    """

    def __init__(self, reason: str):
        super().__init__(reason)
        self.code = INTERRUPTED if reason == _words(signal.SIGINT) else REQUEUE


class ProcessLost(Exception):
    """Another process of the launch has ended, so that this one cannot go on."""


def _words(number: int) -> str:
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


class _State:
    deadline: float | None = None
    max_hours: float | None = None
    depth: int = 0
    reason: str | None = None
    number: int = 0  # of the signal that ended the command; 0: none


_state = _State()


@contextmanager
def listening(max_hours: float | None = None) -> Iterator[None]:
    """Handle signals and the time limit for the length of a command.

    Args:
        max_hours: Hours after which loops are asked to stop; None: no limit.

    Raises:
        ProcessLost: When another process of the launch ended while this one waited for it. Where both were asked to
            stop it is `Stopped`, whichever was faster.
    """
    began = time.monotonic()
    _state.deadline = None if max_hours is None else began + 3600.0 * max_hours
    _state.max_hours, _state.depth, _state.reason, _state.number = max_hours, 0, None, 0
    # Python delivers signals to the main thread only, and lets no other one set handlers.
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, _on_signal) for number in SIGNALS} if main else {}
    if main:
        before[signal.SIGALRM] = signal.signal(signal.SIGALRM, lambda _, frame: _on_signal(_state.number, frame))
    hook = sys.unraisablehook
    sys.unraisablehook = functools.partial(_on_unraisable, hook)
    try:
        yield
    except Exception as error:
        # C code that a signal's exception comes through may make another one of it.
        if _state.number:
            _raise(_state.number, error)
        if not (isinstance(error, RuntimeError) and any(words in str(error) for words in _GONE)):
            raise
        if _state.reason is not None:
            raise Stopped(_state.reason) from error
        raise ProcessLost from error
    finally:
        sys.unraisablehook = hook
        if main:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
        _state.deadline = _state.max_hours = _state.reason = None


def _on_signal(number: int, frame) -> None:
    if _state.depth and _state.reason is None:
        _state.reason = _words(number)
        return
    _state.number = number
    _raise(number)


def _raise(number: int, cause: Exception | None = None) -> NoReturn:
    """End the command because of a signal."""
    raise (KeyboardInterrupt() if number == signal.SIGINT else Stopped(_words(number))) from cause


def _on_unraisable(before: Callable, found) -> None:
    """A signal that came while Python freed an object, where exceptions end without effect, comes again a little
    later."""
    if isinstance(found.exc_value, Stopped | KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, 0.01)
    else:
        before(found)


@contextmanager
def orderly() -> Iterator[None]:
    """For loops that ask `stop_asked()` between two steps: a signal waits for that."""
    _state.depth += 1
    try:
        yield
    finally:
        _state.depth -= 1


def stop_asked() -> str | None:
    """Why this process should save and stop now ("SIGTERM", "Ctrl-C", "--max-hours 2"), or None."""
    if _state.reason is None and _state.deadline is not None and time.monotonic() >= _state.deadline:
        _state.reason = f"--max-hours {_state.max_hours:g}"
    return _state.reason


def check_stop() -> None:
    """End the command here, with what it has saved, if it was asked to stop: raises Stopped."""
    if reason := stop_asked():
        raise Stopped(reason)
