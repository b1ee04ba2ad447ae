"""What any command of this project needs: command line, run directory, checkpoints, EMA, schedules, seeds, logging."""

import importlib

_EXPORTS = {
    "CommonFlags": "command",
    "EMA": "ema",
    "InputError": "errors",
    "MetricsLog": "log",
    "Progress": "log",
    "Run": "run",
    "flag": "command",
    "run_command": "command",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str):
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
