"""Metrics to metrics.jsonl and TensorBoard, and the live progress line."""

from __future__ import annotations

import io
import math
import os
import sys
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from runtime.files import append_to, flush, open_end, replacing
from runtime.records import as_line, read_lines

FRAMES_A_SECOND = 8  # of pictures that play
# What a log says of the machine, once in so many steps; like "time" it differs from one run to the next.
MEASURED = ("steps_per_second", "data_wait", "peak_memory_gib", "tflops", "mfu")
MEASURED_EVERY = 100


class MetricsLog:
    """One JSON line a step: {"step", "time", name: value, …}.

    On resume, lines after the checkpoint's step are cut off.
    """

    def __init__(self, run_dir: str | Path, resume_step: int = 0):
        self.path = Path(run_dir) / "metrics.jsonl"
        self._cut_back(resume_step)
        self._end = open_end(self.path)
        self._close = weakref.finalize(self, os.close, self._end)
        self._events = self._tensorboard(Path(run_dir) / "tensorboard", resume_step)

    def _cut_back(self, step: int) -> None:
        if not self.path.is_file():
            return
        values = read_lines(self.path, {"step": int})
        stop = next((i for i, value in enumerate(values) if value["step"] > step), len(values))
        kept = self.path.read_bytes().splitlines(keepends=True)[:stop]
        with replacing(self.path, "log.cut") as partial:
            partial.write_bytes(b"".join(kept))

    @staticmethod
    def _tensorboard(folder: Path, step: int):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return None
        return SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values of one step. A non-finite number is stored as null, which JSON can hold."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line = as_line({"step": step, "time": round(time.time(), 3), **finite})
        append_to(self._end, self.path, line, "log.append")
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def sync(self) -> None:
        """Bring what was written to the disk, as before a checkpoint, which is: else a power cut may leave a checkpoint
        of steps that the log has no lines of."""
        flush(self._end)

    def write_pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Show the pictures of one step in TensorBoard, where it is installed; metrics.jsonl holds numbers alone.

        Args:
            pictures: uint8 `[N, H, W, 3]` by name; those with N > 1 play in a loop.
        """
        if self._events is None:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        for name, frames in pictures.items():
            height, width = frames.shape[1:3]
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=_encoded(frames))
            self._events.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)

    def close(self) -> None:
        """Close the file, and flush TensorBoard's events."""
        self._close()
        if self._events is not None:
            self._events.close()


def _encoded(frames: np.ndarray) -> bytes:
    """PNG, or a looping GIF of several frames: what TensorBoard shows without further packages."""
    from PIL import Image

    first, *more = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    if more:
        first.save(buffer, "GIF", save_all=True, append_images=more, duration=1000 // FRAMES_A_SECOND, loop=0)
    else:
        first.save(buffer, "PNG")
    return buffer.getvalue()


class Progress:
    """A live line: steps, values, speed, share of time spent waiting for data, time left.

    Args:
        flops: Floating-point operations that a step asks of one device, a multiply-add being two; 0: not counted.
        peak: How many a second the device is made for; None: not known.
    """

    def __init__(self, total: int, start: int = 0, label: str = "", *, flops: float = 0.0, peak: float | None = None):
        self.total, self.step, self.label, self.flops, self.peak = total, start, label, flops, peak
        self._start, self._began = start, time.monotonic()
        self._waited, self._printed = 0.0, 0.0
        self._live = sys.stderr.isatty()
        self._measured = (start, self._began, 0.0)  # step, time and waiting when `measured` last answered

    @contextmanager
    def wait(self) -> Iterator[None]:
        """Count the time of a with-block as waiting for data."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    def measured(self, step: int, peak_memory_gib: float) -> dict[str, float]:
        """What the steps since the last answer say of the machine, each `MEASURED_EVERY` steps; otherwise nothing.

        Returns:
            Some of `MEASURED`: steps a second; the share of time spent waiting for data; the memory at its peak so far;
            10^12 floating-point operations a second of one device, and their share of what it is made for (MFU;
            activations that are computed twice count once).
        """
        if step % MEASURED_EVERY:
            return {}
        (since, began, waited), now = self._measured, time.monotonic()
        self._measured = (step, now, self._waited)
        seconds = max(1e-9, now - began)
        speed = (step - since) / seconds
        found = {"steps_per_second": speed, "data_wait": (self._waited - waited) / seconds}
        found["peak_memory_gib"] = peak_memory_gib
        if self.flops:
            found["tflops"] = speed * self.flops / 1e12
            if self.peak:
                found["mfu"] = speed * self.flops / self.peak
        return {name: round(value, 4) for name, value in found.items()}

    def update(self, step: int, values: Mapping[str, float | str]) -> None:
        """Show that `step` steps are done; a terminal gets one live line, a log file a line every ten seconds."""
        self.step = step
        now = time.monotonic()
        if now - self._printed < (0.2 if self._live else 10.0) and step < self.total:
            return
        self._printed = now
        seconds = max(1e-9, now - self._began)
        speed, waited = (step - self._start) / seconds, self._waited / seconds
        left = (self.total - step) / speed if speed > 0 else math.inf
        shown = " ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
        )
        line = (
            f"{self.label} {step}/{self.total}  {shown}  {speed:.2f}/s  data wait {100 * waited:.0f} %  "
            f"left {clock(left)}"
        )
        print(f"\r\033[K{line}" if self._live else line, end="" if self._live else "\n", file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the live line."""
        if self._live:
            print(file=sys.stderr)


def clock(seconds: float) -> str:
    """3725 -> "1:02:05"; "?" for what has no end."""
    if not math.isfinite(seconds):
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
