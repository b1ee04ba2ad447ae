"""A latents file of a real data set's size: `python -m benchmarks.cache` (ten minutes, 4.4 GB of disk meanwhile).

Rows of noise, as many and as large as UCF101's at 17 frames of 256x256, are written, finished, checked, and read back
as training reads them: at random, from a cold page cache and from a warm one. The file goes afterwards.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError
from runtime.output import check_folder

DIFFERENT = 61  # rows of noise that are drawn, and written again and again


@dataclass(frozen=True, kw_only=True)
class CacheConfig(CommonFlags):
    """Flags of `python -m benchmarks.cache`."""

    rows: int = flag(13_320, "rows of the file; UCF101 has as many clips", low=64, high=10_000_000)
    shape: tuple[int, ...] = flag((64, 5, 16, 16), "C, G, h, w of a row", low=1)
    batch_size: int = flag(64, "rows of a batch", low=1, high=65_536)
    batches: int = flag(100, "batches that are timed", low=2)
    folder: str | None = flag(None, "where the file is made; default: where temporary files are", check=check_folder)
    out: str = flag("benchmarks/results/cache.json", "JSON file to write")

    def __post_init__(self) -> None:
        if len(self.shape) != 4:
            raise InputError(f"--shape {','.join(map(str, self.shape))}: expected C,G,h,w, as in 64,5,16,16")


def cache(config: CacheConfig) -> dict:
    """Write the file, measure, print a table, write JSON; the file is removed whatever happens."""
    if not hasattr(os, "posix_fadvise"):
        raise InputError("a file is dropped from memory by posix_fadvise, which this system does not have")
    from benchmarks.measuring import write_benchmark
    from latents_cache import open_latents
    from latents_cache.check import CheckConfig, check
    from runtime.processes import resolve_device
    from runtime.resources import readable, require_disk

    size = 2 * 2 * config.rows * math.prod(config.shape)
    folder = config.folder or tempfile.gettempdir()
    require_disk(folder, size + 2**20, "the latents file")
    results = {"file": {"rows": config.rows, "shape": list(config.shape), "bytes": size}}
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "latents.h5"
        results |= write(path, config)
        with contextlib.redirect_stdout(io.StringIO()):
            results["check --full"] = timed(lambda: check(CheckConfig(file=str(path), full=True)), config.rows, size)
        with open_latents(path) as reader:
            results |= read(path, reader, config)
            results |= load(reader, config, resolve_device(config.device))
    print(f"{config.rows} rows of {list(config.shape)}, {readable(size)}")
    for name, values in results.items():
        print(f"  {name}: " + ", ".join(f"{what} {value:.4g}" for what, value in values.items() if what != "shape"))
    write_benchmark(config.out, results, batch_size=config.batch_size)
    return results


def timed(work: Callable[[], object], rows: int, size: int) -> dict[str, float]:
    """Seconds by the clock, and of this process's processor time, for work on so many rows and bytes."""
    began, busy = time.perf_counter(), time.process_time()
    work()
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    return {"seconds": seconds, "cpu_seconds": busy, "rows/s": rows / seconds, "MB/s": size / seconds / 1e6}


def write(path: Path, config: CacheConfig) -> dict[str, dict]:
    """Make the file: its rows, and what is done when they are there."""
    import numpy as np

    from latents_cache import create_latents

    rows = np.random.default_rng(config.seed).standard_normal((DIFFERENT, 2, *config.shape), dtype=np.float32)
    size = config.rows * rows[0].size * 2
    with create_latents(path, config.rows, config.shape, {"num_classes": 101}, has_logvar=True) as writer:

        def fill() -> None:
            for row in range(config.rows):
                mean, logvar = rows[row % DIFFERENT]
                writer.write(row, mean, logvar - 6, label=row % 101)
            writer.flush()

        filled = timed(fill, config.rows, size)
        counts: list = []
        counted = timed(lambda: counts.append(writer.counts(range(config.rows))), config.rows, size)
        finished = timed(lambda: writer.finish(*counts), config.rows, size)
    return {"write": filled, "count": counted, "finish": finished}


def read(path: Path, reader, config: CacheConfig) -> dict[str, dict]:
    """Random batches from a page cache that holds nothing of the file, asked for ahead or not, and from a warm one."""
    import numpy as np

    generator = np.random.default_rng(config.seed)
    rows = generator.permutation(np.resize(np.arange(config.rows), config.batches * config.batch_size))
    batches = np.split(rows, config.batches)
    size = sum(source.nbytes for source in reader.sources() if source is not None) // config.rows

    def gather(ahead: int) -> None:
        for batch in batches[:ahead]:
            reader.prefetch(batch)
        for number, batch in enumerate(batches):
            if ahead and number + ahead < len(batches):
                reader.prefetch(batches[number + ahead])
            reader.batch(batch)

    found = {}
    for name, ahead in (("gather cold", 0), ("gather cold, asked for ahead", 8), ("gather warm", 0)):
        if "cold" in name:
            forget(path)
        found[name] = timed(lambda ahead=ahead: gather(ahead), len(rows), len(rows) * size)
    return found


def forget(path: Path) -> None:
    """Let the system drop what it holds of a file in memory."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def load(reader, config: CacheConfig, device) -> dict[str, dict]:
    """Batches of training, whole and what is left of them for the host where a GPU draws the noise."""
    import torch

    from generator.batches import LatentBatches, hashed_rows

    rows = range(config.batch_size)
    common = {"rows": rows, "seed": config.seed, "num_classes": 101, "device": device}
    size = sum(source.nbytes for source in reader.sources() if source is not None) // config.rows * len(rows)

    def of(draws: str) -> None:
        batches = LatentBatches(reader, len(rows), **common, draws=draws)
        for step in range(config.batches // 2):
            batches.at(step)
        if device.type == "cuda":
            torch.cuda.synchronize()

    def host() -> None:
        batches = LatentBatches(reader, len(rows), **common)
        for step in range(config.batches // 2):
            reader.prefetch(batches._indices(step + 8))
            reader.batch(batches._indices(step))
            for stream in ("label", "time"):
                hashed_rows(config.seed, stream, step, rows)

    found, steps = {}, config.batches // 2
    works = {"drawn by numpy": lambda: of("host"), "drawn by torch": lambda: of("device"), "noise left out": host}
    for name, work in works.items():
        values = timed(work, steps * len(rows), steps * size)
        found[f"batch, {name}"] = {"ms": 1e3 * values["seconds"] / steps, "cpu_ms": 1e3 * values["cpu_seconds"] / steps}
    return found


if __name__ == "__main__":
    run_command(cache, CacheConfig, example="python -m benchmarks.cache --rows 13320")
