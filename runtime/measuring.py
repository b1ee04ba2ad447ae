"""What a device did, and could do: memory at its peak, and products a second."""

from __future__ import annotations

import ctypes
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch


def wait(device: torch.device) -> None:
    """Until the device has done all work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory_gib(device: torch.device) -> float:
    """Largest memory so far: allocated on the GPU, resident on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # bytes that ru_maxrss counts in
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def extra_memory_gib(work: Callable[[], object], device: torch.device) -> float | None:
    """What one call of `work` needs at its peak beyond what is held before it; None where the system does not tell."""
    if device.type == "cuda":
        wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        wait(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**30
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        work()
        return None
    if hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)  # else the memory that is kept for reuse would hide what the call takes
    reset.write_text("5")
    before = _kib(status, "VmRSS")
    work()
    return (_kib(status, "VmHWM") - before) / 2**20


def _kib(status: Path, field: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(f"{field}:"))


# Dense bfloat16 products a second on tensor cores, as the makers state them.
_STATED = {"H200": 989e12, "H100": 989e12, "GH200": 989e12, "A100": 312e12, "L40S": 362e12, "B200": 2250e12}


def stated_peak(device: torch.device, dtype: torch.dtype) -> float | None:
    """FLOP/s that a GPU is made for, as its maker states it, or measured where that is not known; None on a CPU."""
    if device.type != "cuda":
        return None
    words = torch.cuda.get_device_name(device).upper().replace("-", " ").split()
    # Cards of the same chip with less power than the module do not reach what is stated of that.
    stated = None if {"PCIE", "NVL"} & {*words} else next((_STATED[name] for name in _STATED if name in words), None)
    return stated if stated and dtype == torch.bfloat16 else matmul_flops(device, dtype)


def matmul_flops(device: torch.device, dtype: torch.dtype, clock: str = "wall") -> float:
    """FLOP/s of a large square matrix product, the fastest of five: the device's peak as far as PyTorch reaches it.

    Args:
        clock: "wall", or "cpu" for processor time.
    """
    side = 8192 if device.type == "cuda" else 2048
    read = time.process_time if clock == "cpu" else time.perf_counter
    matrix, each = torch.randn(side, side, device=device).to(dtype), []
    for _ in range(6):
        start = read()
        matrix @ matrix
        wait(device)
        each.append(read() - start)
    return 2 * side**3 / min(each)
