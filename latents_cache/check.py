"""What a latents file holds, and whether it is sound: `python -m latents_cache.check ucf101.h5 [--full]`."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError


@dataclass(frozen=True, kw_only=True)
class CheckConfig(CommonFlags):
    """Flags of `python -m latents_cache.check FILE`."""

    file: str = flag(help="the latents file", positional=True)
    full: bool = flag(False, "read every row and compare its checksum and the stored statistics")


def check(config: CheckConfig) -> None:
    """Print header, counts and statistics; InputError when something does not hold."""
    import numpy as np

    from latents_cache.reader import open_latents
    from latents_cache.statistics import ChannelStatistics

    with open_latents(config.file) as reader:
        print(f"{config.file}: {len(reader)} rows of (C, G, h, w) = {reader.shape}, "
              f"{'mean and logvar' if reader.has_logvar else 'mean only'}, {len(set(reader.labels.tolist()))} labels")
        for name, value in sorted(reader.attributes.items()):
            print(f"  {name}: {str(value)[:120]}")
        print(f"  per-channel mean {reader.mean.min():.3f} … {reader.mean.max():.3f}, std {reader.std.min():.3f} … {reader.std.max():.3f}")
        if not (np.isfinite(reader.mean).all() and (reader.std > 0).all()):
            raise InputError(f"{config.file}: the statistics are not finite and positive; encode it again")
        if not config.full:
            return
        bad = reader.damaged_rows()
        if bad:
            raise InputError(f"{config.file}: {len(bad)} damaged rows, the first is {bad[0]}; encode it again")
        statistics = ChannelStatistics(reader.shape[0])
        for start in range(0, len(reader), 256):
            rows = reader.batch(np.arange(start, min(start + 256, len(reader))))
            statistics.add(rows["mean"], rows["logvar"])
        if not (np.allclose(statistics.mean, reader.mean, atol=1e-9) and np.allclose(statistics.std, reader.std, rtol=1e-9)):
            raise InputError(f"{config.file}: the stored statistics do not fit the rows; encode it again")
        print(f"  every row read: {len(reader)} checksums match, and the statistics")


if __name__ == "__main__":
    run_command(check, CheckConfig, example="python -m latents_cache.check ucf101.h5 --full")
