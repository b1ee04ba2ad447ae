"""Is memory flat? `python -m benchmarks.memory` (half an hour on two cores): long work, its resident memory watched.

Each part is a command of its own at the size of the demo: 2,000 steps of tokenizer training, 2,000 of generator
training, the reconstruction of 5,000 clips with all its measurements. Memory is read from /proc twice a second. After
the first quarter, in which allocators and caches fill, a straight line is fitted: its slope is what a longer run would
pay for.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError

PARTS = ("tokenizer", "generator", "evaluation")
WARM_UP = 0.25
SECONDS_BETWEEN = 0.5


@dataclass(frozen=True, kw_only=True)
class MemoryConfig(CommonFlags):
    """Flags of `python -m benchmarks.memory`."""

    parts: tuple[str, ...] = flag(PARTS, "which work to watch", choices=PARTS)
    steps: int = flag(2000, "training steps of a part", low=100)
    clips: int = flag(5000, "clips of the evaluation", low=100)
    out: str = flag("benchmarks/results/memory.json", "JSON file to write")


def memory(config: MemoryConfig) -> dict:
    """Run the parts, print a table, write JSON."""
    from benchmarks.measuring import write_benchmark

    if not Path("/proc/self/statm").is_file():
        raise InputError("resident memory is read from /proc, which this system does not have")
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        common = ["--runs-dir", folder, "--device", config.device, "--dtype", config.dtype, "--seed", str(config.seed)]
        latents = str(Path(folder) / "latents.h5")
        clips = ["--data", "moving_shapes", "--size", "32", "--num-frames", "17", "--max-clips", "2000"]
        encode = ["tokenizer.encode", "--tokenizer", "moving-shapes", *clips, "--out", latents]
        train = ["--preset", "demo", "--steps", str(config.steps)]
        commands = {
            "tokenizer": ["tokenizer.train", *train],
            "generator": ["generator.train", *train, "--latents", latents],
            "evaluation": [
                *("eval.reconstruction", "--tokenizer", "moving-shapes", "--samples", str(config.clips)),
                *("--features", "shapes"),
            ],
        }
        if "generator" in config.parts:
            watch(_line([*encode, *common]))
        for part in config.parts:
            count, unit = (config.clips, "clips") if part == "evaluation" else (config.steps, "steps")
            results[part] = {"unit": unit, "count": count, **slope_of(watch(_line([*commands[part], *common])), count)}
    print(f"{'part':12}{'count':>14}{'start MiB':>11}{'end MiB':>9}{'peak MiB':>10}{'MiB per 1,000':>15}")
    for part, found in results.items():
        counted = f"{found['count']} {found['unit']}"
        sizes = f"{found['start']:11.0f}{found['end']:9.0f}{found['peak']:10.0f}{found['per_1000']:15.2f}"
        print(f"{part:12}{counted:>14}{sizes}")
    write_benchmark(config.out, results, warm_up=WARM_UP, seed=config.seed)
    return results


def _line(words: list[str]) -> list[str]:
    return [sys.executable, "-m", *words]


def watch(line: list[str]) -> list[float]:
    """Run a command; its resident memory in MiB, every half second.

    Raises:
        InputError: If the command fails.
    """
    page, found = os.sysconf("SC_PAGE_SIZE") / 2**20, []
    process = subprocess.Popen(line)
    try:
        while process.poll() is None:
            resident = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            if resident:  # none: it has just ended
                found.append(resident * page)
            time.sleep(SECONDS_BETWEEN)
    finally:
        process.kill()
    if process.returncode:
        raise InputError(f"{' '.join(line[1:])} ended with {process.returncode}")
    return found


def slope_of(resident: list[float], count: int) -> dict[str, float]:
    """What a line through the memory after the warm-up says.

    Args:
        resident: MiB at equal distances in time.
        count: Steps or clips of the whole.

    Returns:
        "start", "end" (the line's, MiB), "peak", and "per_1000": MiB for each 1,000 steps or clips.
    """
    import numpy as np

    kept = np.array(resident[int(len(resident) * WARM_UP) :])
    if len(kept) < 8:
        raise InputError(f"only {len(kept)} readings after the warm-up; more --steps or --clips are needed")
    share = np.linspace(WARM_UP, 1.0, len(kept))
    slope, offset = np.polyfit(share, kept, 1)
    return {
        "start": float(offset + WARM_UP * slope),
        "end": float(offset + slope),
        "peak": float(max(resident)),
        "per_1000": float(slope / count * 1000),
    }


if __name__ == "__main__":
    run_command(memory, MemoryConfig, example="python -m benchmarks.memory --parts generator")
