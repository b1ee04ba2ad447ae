"""Training batches from a latents file: what a step sees is a function of (seed, step, global row), whoever asks.

So a resumed run repeats an undisturbed one, and any number of processes share the same global batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from latents_cache import LatentsReader
from runtime.errors import InputError
from runtime.records import check_fields, read_json
from runtime.seeds import key, normal_rows, numpy_generator, uniform_rows

# A channel that never changes would be divided by zero; divided by this it stays a constant that is easy to learn.
SMALLEST_STD = 1e-6


READ_AHEAD = 8  # steps whose rows the system is asked to read while the steps before are trained
DRAWS = ("host", "device")


class Batch(NamedTuple):
    """One step's rows of this process.

    Attributes:
        latents: Data `[b, C, G, h, w]` float32, drawn from the posteriors and normalised.
        noise: Standard normal like `latents`.
        t: `[b]` float32, uniform in [0, 1).
        labels: int64 `[b]`, some replaced by the null class; None for an unconditional generator.
    """

    latents: Tensor
    noise: Tensor
    t: Tensor
    labels: Tensor | None

    def split(self, parts: int) -> Iterator[Batch]:
        """The batch in `parts` equal parts."""
        size = len(self.t) // parts
        for start in range(0, len(self.t), size):
            yield Batch(*(None if value is None else value[start : start + size] for value in self))


def channel_statistics(reader: LatentsReader) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation `[C]`, float64, that normalise the file's latents."""
    return reader.mean, np.maximum(reader.std, SMALLEST_STD)


@lru_cache(maxsize=4)
def epoch_order(count: int, epoch: int, seed: int) -> np.ndarray:
    """The permutation in which one epoch visits `count` rows."""
    return numpy_generator(seed, "order", epoch).permutation(count)


def batch_indices(count: int, batch_size: int, step: int, seed: int, rows: Sequence[int]) -> np.ndarray:
    """Rows of the file, int64, at the places `rows` of the global batch of `step`; each epoch visits every row once."""
    positions = step * batch_size + np.asarray(rows, dtype=np.int64)
    return np.array(
        [epoch_order(count, int(place // count), seed)[place % count] for place in positions], dtype=np.int64
    )


def draws_of(run_dir: Path, device: torch.device) -> str:
    """Where a run draws its noise, which decides what noise it is: "host" or "device".

    A new one draws where it trains; one that is there goes on as it began, as its manifest says. (Those of earlier
    versions drew on the host.)

    Raises:
        InputError: If it began on a GPU, whose numbers another device cannot draw.
    """
    manifest = Path(run_dir) / "manifest.json"
    if not manifest.is_file():
        return "device" if device.type == "cuda" else "host"
    values = read_json(manifest)
    check_fields(values, {"draws": str}, manifest, needed=False)
    draws = values.get("draws", "host")
    if draws not in DRAWS:
        raise InputError(f"{manifest}: draws is {draws[:60]!r}, expected {' or '.join(DRAWS)}")
    if draws == "device" and device.type != "cuda":
        raise InputError(f"{run_dir} draws its noise on a GPU: go on with --device cuda, or begin under another --name")
    return draws


def normal_rows_on(device: torch.device, seed: int, stream: str, step: int, rows: Sequence[int], shape: Sequence[int]):
    """Like `normal_rows`, drawn by torch on `device`: other numbers, and other ones on the CPU than on a GPU.

    On a GPU, whose generator has no state to fill, a row costs a launch. (The CPU's goes by 32 bits of a seed alone.)
    """
    generator = torch.Generator(device)
    out = torch.empty((len(rows), *shape), device=device)
    for place, row in zip(out, rows, strict=True):
        place.normal_(generator=generator.manual_seed(key(seed, stream, step, int(row))))
    return out


def hashed_rows(seed: int, stream: str, step: int, rows: Sequence[int]) -> np.ndarray:
    """Uniform float32 `[len(rows)]` in [0, 1), keyed like `normal_rows`: the first 24 bits of each key itself."""
    return np.array([(key(seed, stream, step, int(row)) >> 39) * 2.0**-24 for row in rows], dtype=np.float32)


class LatentBatches:
    """Batches for training, made one ahead by a thread; on a GPU beside the step that runs there.

    Args:
        reader: The latents file.
        batch_size: Rows of the global batch.
        rows: Which of them are this process's.
        seed: Of order, posterior, noise, time and label dropping.
        class_dropout: Probability of the null class in [0, 1].
        num_classes: 0 for an unconditional generator.
        device: Where batches are wanted.
        draws: See `draws_of`.
    """

    def __init__(
        self,
        reader: LatentsReader,
        batch_size: int,
        *,
        rows: Sequence[int],
        seed: int,
        class_dropout: float = 0.1,
        num_classes: int = 0,
        device: torch.device | str = "cpu",
        draws: str = "host",
    ):
        self.reader, self.batch_size, self.rows, self.seed = reader, batch_size, list(rows), seed
        self.class_dropout, self.num_classes = class_dropout, num_classes
        self.device, self.draws = torch.device(device), draws
        mean, std = channel_statistics(reader)
        self._mean, self._scale = (
            torch.from_numpy(v.astype(np.float32)).view(1, -1, 1, 1, 1).to(self.device) for v in (mean, 1.0 / std)
        )
        self._queue = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def at(self, step: int) -> Batch:
        """The batch that follows after `step` finished updates."""
        stored = self.reader.batch(self._indices(step))
        latents = self._moved(stored["mean"]).float()
        if stored["logvar"] is not None:
            # Drawn anew at each step: a posterior frozen into one sample would be learnt with its noise.
            std = self._moved(stored["logvar"]).float().mul_(0.5).exp_()
            latents.addcmul_(std, self._normal("posterior", step))
        latents.sub_(self._mean).mul_(self._scale)
        labels = None
        if self.num_classes:
            dropped = self._uniform("label", step) < self.class_dropout
            labels = self._moved(np.where(dropped, self.num_classes, stored["label"]).astype(np.int64))
        return Batch(latents, self._normal("noise", step), self._moved(self._uniform("time", step)), labels)

    def stream(self, start: int, stop: int) -> Iterator[Batch]:
        """Batches of steps `start` to `stop - 1`; close it early with `contextlib.closing`."""
        for step in range(start, min(start + READ_AHEAD, stop)):
            self.reader.prefetch(self._indices(step))
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="latents") as pool:
            ahead = pool.submit(self._made, start, stop) if start < stop else None
            for step in range(start, stop):
                batch, ready = ahead.result()
                if step + 1 < stop:
                    ahead = pool.submit(self._made, step + 1, stop)
                if ready is not None:
                    ready.wait()
                    for value in batch:
                        if value is not None:  # its memory is free again when this stream is done with it
                            value.record_stream(torch.cuda.current_stream(self.device))
                yield batch

    def _made(self, step: int, stop: int) -> tuple[Batch, torch.cuda.Event | None]:
        """A batch, and what to wait for before it may be used."""
        if step + READ_AHEAD < stop:
            self.reader.prefetch(self._indices(step + READ_AHEAD))
        if self._queue is None:
            return self.at(step), None
        with torch.cuda.stream(self._queue):
            return self.at(step), self._queue.record_event()

    def _indices(self, step: int) -> np.ndarray:
        return batch_indices(len(self.reader), self.batch_size, step, self.seed, self.rows)

    def _moved(self, values: np.ndarray | Tensor) -> Tensor:
        """On the device; nothing waits for the copy."""
        values = torch.as_tensor(values)
        return values if self._queue is None else values.pin_memory().to(self.device, non_blocking=True)

    def _normal(self, stream: str, step: int) -> Tensor:
        if self.draws == "host":
            return self._moved(normal_rows(self.seed, stream, step, self.rows, self.reader.shape))
        return normal_rows_on(self.device, self.seed, stream, step, self.rows, self.reader.shape)

    def _uniform(self, stream: str, step: int) -> np.ndarray:
        if self.draws == "host":
            return uniform_rows(self.seed, stream, step, self.rows).numpy()
        return hashed_rows(self.seed, stream, step, self.rows)
