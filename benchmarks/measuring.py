"""Time something in a way that can be quoted: warm-up, several repeats, median with range, device synchronised."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from runtime.run import command_line, git_commit, machine, now, versions, write_json


def timed(work: Callable[[], object], *, items: int, unit: str, seconds: float, device: torch.device) -> dict:
    """Repeat `work` for about `seconds` (at least three times, after one warm-up).

    Args:
        items: How many `unit` one call handles.

    Returns:
        {"unit", "per_second" (median), "low", "high" (slowest and fastest repeat), "repeats", "seconds_each"}.
    """
    work()
    _wait(device)
    each: list[float] = []
    began = time.perf_counter()
    while len(each) < 3 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        work()
        _wait(device)
        each.append(time.perf_counter() - start)
    return {
        "unit": f"{unit}/s",
        "per_second": items / statistics.median(each),
        "low": items / max(each),
        "high": items / min(each),
        "repeats": len(each),
        "seconds_each": statistics.median(each),
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory_gib(device: torch.device) -> float:
    """Largest memory so far: allocated on the GPU, resident on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def write_benchmark(path: str | Path, results: dict, **facts) -> None:
    """Write results with everything that is needed to repeat them."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    about = {
        "command": command_line(),
        "created": now(),
        "git_commit": git_commit(),
        "machine": machine(),
        "versions": versions(),
    }
    if torch.cuda.is_available():
        about["gpu"] = torch.cuda.get_device_name()
    write_json(path, {**about, **facts, "threads": torch.get_num_threads(), "results": results})
