"""Whether the machine has what long work needs: asked before it begins, not found out in the middle of the night."""

from __future__ import annotations

import shutil
from pathlib import Path

from runtime.errors import InputError

CGROUP = Path("/sys/fs/cgroup")  # where the limits of containers and jobs are
OWN_GROUPS = Path("/proc/self/cgroup")


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
    # In a container, or a job of a batch system, the limit may be lower than what the machine has.
    for group in _groups():
        for limits in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):  # v2, v1
            limit, used = (_number(group / name) for name in limits)
            if limit is not None and used is not None:
                free = min(free, limit - used + _cached(group))
    return free


def _groups() -> list[Path]:
    """Folders of the control groups that this process is in: its own, and those around it."""
    found = {CGROUP, CGROUP / "memory"}
    try:
        lines = OWN_GROUPS.read_text().splitlines()
    except OSError:
        lines = []
    for _, kinds, path in (line.split(":", 2) for line in lines):
        if not kinds or "memory" in kinds.split(","):
            base = CGROUP / "memory" if kinds else CGROUP
            own = base / path.lstrip("/")
            found |= {group for group in (own, *own.parents) if group.is_relative_to(base)}
    return sorted(found)


def _cached(group: Path) -> int:
    """Of what a group uses, the files that are kept in memory until something needs it."""
    try:
        sizes = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        which = "total_" if "total_active_file" in sizes else ""  # v1, whose other numbers leave the groups below out
        return sum(int(sizes[f"{which}{kind}_file"]) for kind in ("inactive", "active"))
    except (OSError, ValueError, KeyError):
        return 0


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
