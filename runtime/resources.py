"""Whether the machine has what long work needs: asked before it begins, not found out in the middle of the night."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from runtime.errors import InputError

# Float32 weights, gradients, the two moments of AdamW, and the averaged weights: bytes for each parameter.
BYTES_TRAINED = 4 + 4 + 8 + 4


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
    limit, used = (_number(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    return free if limit is None or used is None else min(free, limit - used)


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return None


def require_training(parameters: int, world, run_dir: str | Path, *, mode: str, room) -> str:
    """Check that a training run can hold its state in memory and its checkpoints on disk.

    Args:
        parameters: Number of parameters.
        world: The launch's `World`.
        run_dir: Where checkpoints will be written.
        mode: "ddp" or "fsdp", which divides the state over the processes.
        room: What they need: `runtime.checkpoint.checkpoint_room`.

    Returns:
        The estimate in words; activations come on top of it.

    Raises:
        InputError: If weights, gradients and optimizer state alone do not fit, or the checkpoints do not.
    """
    share = world.size if mode == "fsdp" else 1
    # Processes on one machine share its main memory; each has a GPU of its own.
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if world.device.type == "cpu" else 1
    state = BYTES_TRAINED * parameters // share
    free = free_memory(world.device)
    if free is not None and state * here > free:
        raise InputError(
            f"training {parameters / 1e6:.1f} M parameters needs {readable(state * here)} of memory before any "
            f"activation, {world.device} has {readable(free)} free; use --parallel fsdp on more processes, or a "
            "smaller --preset"
        )
    if world.is_main:
        rest = "" if room.needed == room.whole else f"what is left of {readable(room.whole)} for "
        require_disk(run_dir, room.needed, f"{rest}{room.words}, of {parameters / 1e6:.1f} M parameters,")
    return (
        f"{parameters / 1e6:.1f} M parameters: {readable(state)} of memory for weights and optimizer, up to "
        f"{readable(room.whole)} on disk for {room.words}"
    )
