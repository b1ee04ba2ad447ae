"""What one wants to know from a GPU that is lent by the minute: `python -m benchmarks.gpu` (`bash benchmarks/gpu.sh`).

Work comes in slices, the most wanted first, each in a process of its own with a limit. Each measurement is in its file
(`gpu-<slice>.json`) as soon as it is made; one that fails or is cut off is noted there, and the next begins. Called
again, only what is missing or has failed is measured; what `benchmarks/results` holds already is never measured again.
A slice whose packages are not installed is named and left out. Nothing here needs fire when flags are written as
`--name=value`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.gpu_slices import NEEDED, SLICES, GpuConfig
from runtime.command import run_command
from runtime.errors import InputError

COMMITTED = Path(__file__).parent / "results"
SHORTEST = 30.0  # seconds under which no slice is begun


def gpu(config: GpuConfig) -> None:
    """Run the slices, each in a process that is ended when its time is up; a line about each.

    Raises:
        InputError: Without a GPU, or when results cannot be written.
    """
    from runtime.processes import resolve_device

    if resolve_device(config.device).type != "cuda" and not config.smoke:
        raise InputError("there is no GPU here; --smoke tries every slice on any device")
    out = Path(config.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {config.out}: {error.strerror}") from error
    end = time.monotonic() + 60 * config.in_all if config.in_all else None
    for name in config.slices:
        absent = [package for package in NEEDED[name] if importlib.util.find_spec(package) is None]
        if absent:
            print(f"{name}: left out, not installed: {', '.join(absent)}", flush=True)
            continue
        path = file_of(config, name)
        if is_complete(path):
            print(f"{name}: {path} is there", flush=True)
            continue
        seconds = 60 * config.minutes if end is None else min(60 * config.minutes, end - time.monotonic())
        if seconds < SHORTEST and not config.smoke:
            print(f"{name}: no time left; the same command goes on here", flush=True)
            break
        print(f"{name}: at most {seconds / 60:.1f} minutes", flush=True)
        print(f"{name}: {attend(run_slice, (config, name), seconds)}; see {path}", flush=True)


def file_of(config: GpuConfig, name: str) -> Path:
    """Where a slice's results go; what is committed of them is copied there first."""
    name = f"{name}-smoke" if config.smoke else name  # numbers without meaning, which stand for no measurement
    path, before = Path(config.out) / f"gpu-{name}.json", COMMITTED / f"gpu-{name}.json"
    if before.is_file() and not path.is_file() and not config.smoke:
        shutil.copyfile(before, path)
    return path


def is_complete(path: Path) -> bool:
    """Whether every measurement of a slice is there."""
    from runtime.records import read_json

    return path.is_file() and read_json(path).get("complete") is True


def attend(work: Callable, arguments: tuple, seconds: float) -> str:
    """Do `work` in a new process; how it ended, in words. What it has started ends with it: on the GPU it would keep
    memory, and slow what is measured next."""
    import multiprocessing

    process = multiprocessing.get_context("spawn").Process(target=_alone, args=(work, arguments))
    process.start()
    try:
        process.join(seconds)
        is_late = process.is_alive()
    finally:  # Ctrl-C, too, does not reach it by itself
        process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
    if is_late:
        return f"cut off after {seconds:.0f} s"
    return "done" if process.exitcode == 0 else f"ended with {process.exitcode}"


def _alone(work: Callable, arguments: tuple) -> None:
    os.setsid()
    work(*arguments)


def run_slice(config: GpuConfig, name: str) -> None:
    """Measure what is missing of a slice, and note when nothing is."""
    from benchmarks.measuring import Results
    from runtime.processes import resolve_device

    device = str(resolve_device(config.device))
    results = Results(file_of(config, name), unattended=True, device=device, smoke=config.smoke)
    SLICES[name](replace(config, device=device), results)
    results.facts["complete"] = not any("failed" in found for found in results.values())
    results.write()


if __name__ == "__main__":
    run_command(gpu, GpuConfig, example="python -m benchmarks.gpu --in-all=9 --out=benchmarks/results")
