"""Whether the machine has what long work needs: asked before it begins, not found out in the middle of the night."""

from __future__ import annotations

import shutil
from pathlib import Path

from runtime.errors import InputError

CGROUP = Path("/sys/fs/cgroup")  # where a container's limits are


def readable(size: float) -> str:
    """1536 -> "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"


def require_disk(folder: str | Path, needed: int, what: str) -> None:
    """InputError unless the disk of `folder` (which need not exist yet) has `needed` bytes free."""
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise InputError(f"{folder}: {what} needs {readable(needed)}, the disk has {readable(free)} free; make room")


def free_memory(device) -> int | None:
    """Bytes that this process can still take on a torch device; None where that cannot be told."""
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    return free_main_memory()


def free_main_memory() -> int | None:
    """Likewise of the main memory."""
    try:
        with open("/proc/meminfo") as info:
            free = next(int(line.split()[1]) * 1024 for line in info if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    # In a container the limit may be lower than what the machine has.
    limit, used = (_number(CGROUP / f"memory.{name}") for name in ("max", "current"))
    return free if limit is None or used is None else min(free, limit - used + _cached())


def _cached() -> int:
    """Of what a container uses, the files that are kept in memory until something needs it."""
    try:
        lines = (CGROUP / "memory.stat").read_text().splitlines()
        return sum(int(size) for name, size in map(str.split, lines) if name in ("inactive_file", "active_file"))
    except (OSError, ValueError):
        return 0


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
