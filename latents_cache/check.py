"""What a latents file holds, and whether it is sound: `python -m latents_cache.check ucf101.h5 [--full]`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from runtime.command import ReadingFlags, flag, printable, run_command
from runtime.errors import InputError
from runtime.log import Progress

BARS, BLOCKS = 32, " ▁▂▃▄▅▆▇█"
MOMENT = 2.0  # seconds


@dataclass(frozen=True, kw_only=True)
class CheckConfig(ReadingFlags):
    """Show what a latents file holds and whether it is sound."""

    file: str = flag(help="the latents file", positional=True)
    full: bool = flag(False, "read every row; compare checksums and statistics")
    histogram: bool = flag(False, "read every row; show how the numbers of each channel are spread")


def check(config: CheckConfig) -> None:
    """Print header, counts and statistics.

    Raises:
        InputError: If the file is not sound; with `full` also if a row or the statistics do not match what was written.
    """
    from latents_cache.reader import open_latents

    with open_latents(config.file) as reader:
        describe(reader)
        if not (reader.std > 0).all():
            constant = [channel for channel, std in enumerate(reader.std) if std == 0]
            raise InputError(f"{config.file}: channels {constant} are constant, so they cannot be normalized")
        check_labels(reader)
        if config.full:
            statistics = check_rows(reader)
            print(f"  all {len(reader)} rows read: checksums and statistics match")
        elif config.histogram:
            statistics = counted(reader)
        if config.histogram:
            print(histogram(reader, statistics))


def describe(reader) -> None:
    """Print what the header says."""
    import numpy as np

    parts = "mean and logvar" if reader.has_logvar else "mean only"
    print(f"{reader.path}: {len(reader)} rows of (C, G, h, w) = {reader.shape}, {parts}")
    for name, value in sorted(reader.attributes.items()):
        text = printable(str(value))
        print(f"  {printable(name)}: {text if len(text) <= 100 else text[:97] + '...'}")
    labels, counts = np.unique(reader.labels, return_counts=True)
    if labels.tolist() == [-1]:
        print("  labels: none")
    else:
        print(f"  labels: {len(labels)} different, {counts.min()} to {counts.max()} rows each")
    print(f"  mean by channel: {reader.mean.min():.4g} to {reader.mean.max():.4g}")
    print(f"  std by channel: {reader.std.min():.4g} to {reader.std.max():.4g}")


def check_labels(reader) -> None:
    """Labels must be classes of the data set; InputError names the first that is not."""
    classes = int(reader.attributes.get("num_classes", 0))
    for row, label in enumerate(reader.labels.tolist()):
        if classes and not -1 <= label < classes:
            raise InputError(f"{reader.path}: row {row} has label {label}, outside 0…{classes - 1}; write it again")


@contextmanager
def shown(rows: int, label: str) -> Iterator[Callable[[int], None]]:
    """A function that shows on a terminal how many of the rows are read, of work that takes longer than a moment. In a
    file an error is the only line."""
    progress, began = Progress(rows, label=label), time.monotonic()
    late = False

    def seen(row: int) -> None:
        nonlocal late
        late = late or (time.monotonic() - began > MOMENT and sys.stderr.isatty())
        if late:
            progress.update(row, {})

    try:
        yield seen
    finally:
        if late:
            progress.close()


def check_rows(reader):
    """Read everything; InputError names the damaged rows. Returns the `CountedStatistics`."""
    import numpy as np

    with shown(len(reader), "checksums") as seen:
        damaged = reader.damaged_rows(seen)
    if damaged:
        first = ", ".join(map(str, damaged[:8])) + (", …" if len(damaged) > 8 else "")
        raise InputError(f"{reader.path}: {len(damaged)} of {len(reader)} rows are damaged ({first}); write it again")
    statistics = counted(reader)
    # Of other floats, as other programs write them, the rounded numbers were counted.
    exact = all(source is None or source.dtype == np.float16 for source in reader.sources())
    bound = (1e-9 if exact else 1e-3) * np.maximum(1.0, reader.std)
    same = (np.abs(statistics.mean - reader.mean) <= bound) & (np.abs(statistics.std - reader.std) <= bound)
    if not same.all():
        raise InputError(f"{reader.path}: the stored statistics do not fit the rows; write it again")
    return statistics


def counted(reader):
    """The `CountedStatistics` of all rows; reads everything. InputError when there are too many channels for that."""
    from latents_cache.counts import CountedStatistics, bytes_of_counts, count_values
    from runtime.resources import free_main_memory, readable

    needed, free = bytes_of_counts(reader.shape[0], reader.has_logvar), free_main_memory()
    if free is not None and needed > free:
        what = f"counting the numbers of {reader.shape[0]} channels"
        raise InputError(f"{reader.path}: {what} needs {readable(needed)} of memory, {readable(free)} are free")
    try:
        with shown(len(reader), "numbers") as seen:
            counts = count_values(*reader.sources(), seen=seen)
    except OSError as error:
        raise InputError(f"{reader.path}: damaged rows ({error}); write it again") from error
    return CountedStatistics(counts)


def histogram(reader, statistics) -> str:
    """A line a channel: quantiles of the posterior means, and bars from four deviations below their mean to four
    above."""
    import numpy as np

    levels = [0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0]
    edges = np.stack([reader.mean - 4 * reader.std, reader.mean + 4 * reader.std], axis=1)
    edges = np.array([np.linspace(low, high, BARS + 1) for low, high in edges])
    lines = ["  channel    min     1 %    25 %    50 %    75 %    99 %     max   mean - 4 std … mean + 4 std"]
    rows = zip(statistics.quantiles(levels), statistics.histogram(edges), strict=True)
    for channel, (values, found) in enumerate(rows):
        heights = np.ceil(found / max(1, found.max()) * (len(BLOCKS) - 1)).astype(int)
        bars = "".join(BLOCKS[height] for height in heights)
        lines.append(f"  {channel:7d} " + " ".join(f"{value:7.3g}" for value in values) + f"   {bars}")
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(check, CheckConfig, example="python -m latents_cache.check ucf101.h5 --full")
