"""Published weights: what is here, what is missing and where it comes from: `python -m runtime.check`.

Nothing is downloaded unless `--download` names it.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.command import ReadingFlags, flag, run_command
from runtime.errors import InputError
from runtime.published_weights import PUBLISHED, cache_folder, fault_of, fetch, locate, published_file


@dataclass(frozen=True, kw_only=True)
class WeightsConfig(ReadingFlags):
    """Flags of `python -m runtime.check`."""

    download: tuple[str, ...] = flag((), "names to fetch into the cache, comma-separated, or all")


def weights(config: WeightsConfig) -> None:
    """Fetch what was asked for and is not here yet, then print the table.

    Raises:
        InputError: On an unknown name before anything is fetched; after the table, if a download failed.
    """
    names = list(PUBLISHED) if "all" in config.download else list(config.download)
    for name in names:
        published_file(name)
    failures = [failure for failure in map(_download, names) if failure]
    print(_table())
    print(f"looked in $PVVAE_WEIGHTS and {cache_folder()}")
    if failures:
        raise InputError("; ".join(failures))


def _download(name: str) -> str | None:
    """Fetch unless the right file is here; what went wrong, or None."""
    published, here = PUBLISHED[name], locate(name)
    if here is not None:
        fault = fault_of(here, published)
        if fault is None:
            return None
        if here.parent != cache_folder():  # found before the cache, so a fetched file would stay unused
            return f"{here}: {fault}; remove it"
    print(f"{name}: fetching {published.filename} ({published.known}) from {published.address}", flush=True)
    try:
        fetch(published)
    except InputError as error:
        return str(error)
    return None


def state_of(name: str) -> tuple[str, str]:
    """("ok" | "missing" | "wrong" | "unchecked", words about it); unchecked: here, but no hash was ever published."""
    published, here = PUBLISHED[name], locate(name)
    if here is None:
        return "missing", ""
    fault = fault_of(here, published)
    if fault:
        return "wrong", f"{here}: {fault}"
    return "ok" if published.sha256 else "unchecked", str(here)


def _table() -> str:
    cells = [["name", "file", "bytes", "sha256", "state", "for", "address"]]
    words = []
    for name, published in PUBLISHED.items():
        state, about = state_of(name)
        size = f"{published.bytes:,}" if published.bytes else "–"
        digest = f"{published.sha256[:8]}…" if published.sha256 else "–"
        cells.append([name, published.filename, size, digest, state, published.purpose, published.address])
        words += [f"{name} is {state}: {about}"] if about else []
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join(lines + words)


if __name__ == "__main__":
    run_command(weights, WeightsConfig, example="python -m runtime.check --download i3d_torchscript")
