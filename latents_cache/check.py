"""What a latents file holds, and whether it is sound: `python -m latents_cache.check ucf101.h5 [--full]`."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError


@dataclass(frozen=True, kw_only=True)
class CheckConfig(CommonFlags):
    """Show what a latents file holds and whether it is sound."""

    file: str = flag(help="the latents file", positional=True)
    full: bool = flag(False, "read every row; compare checksums and statistics")


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
            check_rows(reader)
            print(f"  all {len(reader)} rows read: checksums and statistics match")


def describe(reader) -> None:
    """Print what the header says."""
    import numpy as np

    parts = "mean and logvar" if reader.has_logvar else "mean only"
    print(f"{reader.path}: {len(reader)} rows of (C, G, h, w) = {reader.shape}, {parts}")
    for name, value in sorted(reader.attributes.items()):
        text = str(value)
        print(f"  {name}: {text if len(text) <= 100 else text[:97] + '...'}")
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


def check_rows(reader) -> None:
    """Read everything; InputError names the damaged rows."""
    import numpy as np

    from latents_cache.moments import latents_statistics

    damaged = reader.damaged_rows()
    if damaged:
        first = ", ".join(map(str, damaged[:8])) + (", …" if len(damaged) > 8 else "")
        raise InputError(f"{reader.path}: {len(damaged)} of {len(reader)} rows are damaged ({first}); write it again")
    try:
        statistics = latents_statistics(*reader.sources())
    except OSError as error:
        raise InputError(f"{reader.path}: damaged rows ({error}); write it again") from error
    same = np.allclose(statistics.mean, reader.mean, atol=1e-9) and np.allclose(statistics.std, reader.std, rtol=1e-9)
    if not same:
        raise InputError(f"{reader.path}: the stored statistics do not fit the rows; write it again")


if __name__ == "__main__":
    run_command(check, CheckConfig, example="python -m latents_cache.check ucf101.h5 --full")
