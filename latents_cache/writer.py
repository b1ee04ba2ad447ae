"""Create a latents file and fill its rows, in any order, surviving a kill at any moment (see `row_file`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from latents_cache.counts import CountedStatistics, count_values
from latents_cache.layout import FORMAT_VERSION, LATENTS, STATISTICS, encode_name, row_checksum, row_types
from latents_cache.row_file import DONE, RowFile, Types
from runtime.errors import InputError
from runtime.faults import reach

FLUSH_ROWS = 64


def create_latents(
    path: str | Path,
    rows: int,
    shape: tuple[int, ...],
    attributes: dict,
    *,
    has_logvar: bool | None = None,
    launch: str | None = None,
) -> LatentsWriter:
    """Create `<path>.partial`, or go on filling the one that is there.

    Args:
        path: Final name of the file; its folder is made.
        rows: Number of clips, N.
        shape: (C, G, h, w) of one row.
        attributes: Small facts (str, int, float, list); a file to resume must carry the same.
        has_logvar: False for a deterministic tokenizer. Without it the first row decides, and lays the file out.
        launch: Processes that give the same text fill the file together: one creates it, then the others join, and when
            all have flushed, one finishes. Without it the file has one writer.

    Raises:
        InputError: If the final file exists, another launch fills it, the disk is full, or the partial file holds
            something else.
    """
    shape = tuple(int(size) for size in shape)
    if rows < 1 or len(shape) != 4 or min(shape) < 1:
        raise InputError(f"{path}: a latents file needs 1 row of (C, G, h, w) or more, got {rows} rows of {shape}")
    return LatentsWriter(Path(path), int(rows), shape, dict(attributes), has_logvar, launch)


class LatentsWriter(RowFile):
    """Fills one latents file; see `create_latents`. Also a context manager that flushes and closes, without finishing.

    Attributes: `path` and `partial` (its name until it is whole), `rows` N, `shape` (C, G, h, w) of a row.
    """

    POINTS = {"draft": "latents.draft", "created": "latents.created", "synced": "latents.synced",
              "marked": "latents.marked", "whole": "latents.statistics", "named": "latents.finished"}  # fmt: skip

    def __init__(
        self, path: Path, rows: int, shape: tuple, attributes: dict, has_logvar: bool | None, launch: str | None
    ):
        self.shape, self._has_logvar = shape, has_logvar
        statistics = dict.fromkeys(STATISTICS, np.full(shape[0], np.nan, "<f8"))
        super().__init__(path, rows, attributes | {"format_version": FORMAT_VERSION}, statistics, launch)

    def _row_types(self, attributes: dict, datasets: Types) -> Types | None:
        if self._has_logvar is None and datasets:
            self._has_logvar = "logvar" in datasets
        return None if self._has_logvar is None else row_types(self.shape, self._has_logvar)

    def write(
        self, row: int, mean: np.ndarray, logvar: np.ndarray | None = None, *, label: int = -1, name: str = ""
    ) -> None:
        """Write one row; it counts as done after the next flush.

        Args:
            row: 0 … N - 1, not done yet.
            mean: Raw latents (C, G, h, w), any float type; stored as float16.
            logvar: Likewise, in every row or in none.
            label: Class, or -1.
            name: Of the clip.

        Raises:
            InputError: If shapes do not fit, the row is done, or a value is not finite in float16.
        """
        if self._has_logvar is None:
            self._has_logvar = logvar is not None
        if (logvar is not None) != self._has_logvar:
            raise InputError(f"{self.path}: row {row} must come {'with' if self._has_logvar else 'without'} logvar")
        values = {"mean": self._half(row, "mean", mean)}
        if logvar is not None:
            values["logvar"] = self._half(row, "logvar", logvar)
        if self._descriptor < 0:
            self._lay_out(row_types(self.shape, self._has_logvar))
        encoded = encode_name(name)
        checksum = row_checksum(values["mean"], values.get("logvar"), label, encoded)
        self._put(row, values | {"label": label, "name": encoded, "crc32": checksum})
        reach("latents.row")
        if len(self._unmarked) >= FLUSH_ROWS:
            self.flush()

    def _half(self, row: int, what: str, value: np.ndarray) -> np.ndarray:
        value = np.asarray(value)
        if value.shape != self.shape:
            raise InputError(f"{self.path}: {what} of row {row} is {value.shape}, expected {self.shape}")
        with np.errstate(over="ignore"):
            half = np.ascontiguousarray(value, LATENTS)
        if not np.isfinite(half).all():
            largest = np.abs(value).max()
            raise InputError(
                f"{self.path}: {what} of row {row} does not fit float16 (largest magnitude {largest:g}, limit 65504); "
                "check the tokenizer's weights"
            )
        return half

    def counts(self, rows: range, seen: Callable[[int], None] | None = None) -> np.ndarray:
        """`count_values` of those of `rows` that are done, for `finish`; the counts of all parts add up.

        So that the processes of a launch can share the work, when all have flushed.
        """
        done = np.flatnonzero(self._done()[rows.start : rows.stop] == DONE[0]) + rows.start
        places = [(name, *self._types[name]) for name in (("mean", "logvar") if self._has_logvar else ("mean",))]
        sources = [
            np.memmap(self.partial, dtype, "r", self._offsets[name], (self.rows, *shape))
            for name, dtype, shape in places
        ]
        return count_values(*sources, rows=done, seen=seen)

    def finish(self, counts: np.ndarray | None = None) -> Path:
        """Give the file its statistics and its final name; returns it.

        Args:
            counts: Sum of `counts` over parts that together are all rows; None: count them here.

        Raises:
            InputError: If rows are missing, or the statistics are not finite.
        """
        self._counts = counts
        return super().finish()

    def _complete(self) -> dict[str, np.ndarray]:
        """The statistics of the sampled latents; InputError if they are not finite."""
        counts = self.counts(range(self.rows)) if self._counts is None else self._counts
        statistics = CountedStatistics(counts)
        found = dict(zip(STATISTICS, (statistics.mean.astype("<f8"), statistics.std.astype("<f8")), strict=True))
        for name, value in found.items():
            if not np.isfinite(value).all():
                raise InputError(f"{self.partial}: {name} is not finite; the tokenizer's log-variances are too large")
        return found
