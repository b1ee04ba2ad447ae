"""Training batches from a latents file: what a step sees is a function of (seed, step, global row), whoever asks.

So a resumed run repeats an undisturbed one, and any number of processes share the same global batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from latents_cache import LatentsReader
from runtime.seeds import normal_rows, numpy_generator, uniform_rows

# A channel that never changes would be divided by zero; divided by this it stays a constant that is easy to learn.
SMALLEST_STD = 1e-6


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

    def to(self, device: torch.device) -> Batch:
        """The batch on a device; the copy from pinned memory does not wait."""
        return Batch(*(None if value is None else value.to(device, non_blocking=True) for value in self))


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


class LatentBatches:
    """Batches for training, gathered one ahead by a thread.

    Args:
        reader: The latents file.
        batch_size: Rows of the global batch.
        rows: Which of them are this process's.
        seed: Of order, posterior, noise, time and label dropping.
        class_dropout: Probability of the null class in [0, 1].
        num_classes: 0 for an unconditional generator.
        pin: Keep batches in pinned memory, for a GPU.
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
        pin: bool = False,
    ):
        self.reader, self.batch_size, self.rows, self.seed = reader, batch_size, list(rows), seed
        self.class_dropout, self.num_classes, self.pin = class_dropout, num_classes, pin
        mean, std = channel_statistics(reader)
        self._mean, self._scale = (
            torch.from_numpy(v.astype(np.float32)).view(1, -1, 1, 1, 1) for v in (mean, 1.0 / std)
        )

    def at(self, step: int) -> Batch:
        """The batch that follows after `step` finished updates."""
        stored = self.reader.batch(batch_indices(len(self.reader), self.batch_size, step, self.seed, self.rows))
        latents = torch.from_numpy(stored["mean"]).float()
        if stored["logvar"] is not None:
            # Drawn anew at each step: a posterior frozen into one sample would be learnt with its noise.
            std = torch.from_numpy(stored["logvar"]).float().mul_(0.5).exp_()
            latents.addcmul_(std, normal_rows(self.seed, "posterior", step, self.rows, latents.shape[1:]))
        latents.sub_(self._mean).mul_(self._scale)
        labels = None
        if self.num_classes:
            dropped = uniform_rows(self.seed, "label", step, self.rows) < self.class_dropout
            labels = torch.from_numpy(stored["label"]).long().masked_fill_(dropped, self.num_classes)
        noise = normal_rows(self.seed, "noise", step, self.rows, latents.shape[1:])
        batch = Batch(latents, noise, uniform_rows(self.seed, "time", step, self.rows), labels)
        if self.pin:
            batch = Batch(*(None if value is None else value.pin_memory() for value in batch))
        return batch

    def stream(self, start: int, stop: int) -> Iterator[Batch]:
        """Batches of steps `start` to `stop - 1`; close it early with `contextlib.closing`."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="latents") as pool:
            ahead = pool.submit(self.at, start) if start < stop else None
            for step in range(start, stop):
                batch = ahead.result()
                if step + 1 < stop:
                    ahead = pool.submit(self.at, step + 1)
                yield batch
