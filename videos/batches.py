"""Batches whose content is a function of (seed, step, global row), however many processes and threads read them."""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from runtime.errors import InputError
from runtime.seeds import numpy_generator


class VideoDataset(Protocol):
    """What a loader needs of a data set."""

    def __len__(self) -> int: ...
    def item(self, index: int, seed: int) -> dict: ...


def to_float(video: Tensor) -> Tensor:
    """uint8 [0, 255] -> float32 [-1, 1]."""
    return video.float() / 127.5 - 1.0


def to_uint8(video: Tensor) -> Tensor:
    """float [-1, 1] -> uint8, rounded once; values outside are clamped."""
    return ((video.float().clamp(-1, 1) + 1.0) * 127.5).round().to(torch.uint8)


@lru_cache(maxsize=4)
def _permutation(num_items: int, epoch: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch, 2]).permutation(num_items)


def batch_indices(num_items: int, batch_size: int, step: int, seed: int) -> np.ndarray:
    """Items of the batch after `step` finished ones: int64 `[batch_size]`.

    Every epoch is a fresh permutation; a batch may span two epochs, so no item is ever left out.
    """
    positions = step * batch_size + np.arange(batch_size)
    return np.array(
        [_permutation(num_items, int(p // num_items), seed)[p % num_items] for p in positions], dtype=np.int64
    )


def window_seed(seed: int, step: int, row: int) -> int:
    """The seed that decides the window of global row `row` at `step`."""
    return int.from_bytes(hashlib.blake2b(f"{seed} window {step} {row}".encode(), digest_size=7).digest(), "little")


@dataclass(frozen=True)
class Bucket:
    """Clips of one resolution, and how many of them make a batch.

    Attributes:
        dataset: Where they come from.
        batch_size: Clips of a whole batch.
        rows: The global rows of it that this process reads.
    """

    dataset: VideoDataset
    batch_size: int
    rows: Sequence[int]


class BatchLoader:
    """Endless batches from `start_step` on, decoded ahead by threads.

    Yields `(step, batch)`, where batch holds "video" uint8 `[b, 3, 1+T, H, W]`, "label" int64 `[b]`, "names", and
    "rows", the global rows of these `b` clips in a batch of `batch_size` (`rows`; None: all of them). Content and order
    do not depend on `workers` (0: decode in the calling thread) or on `prefetch`, the number of batches decoded ahead.

    Raises:
        InputError: If there is nothing to make a batch of.
    """

    def __init__(
        self,
        dataset: VideoDataset,
        batch_size: int,
        *,
        seed: int,
        start_step: int = 0,
        rows: Sequence[int] | None = None,
        workers: int = 2,
        prefetch: int = 2,
    ):
        bucket = Bucket(dataset, batch_size, list(range(batch_size)) if rows is None else list(rows))
        self._set_up([bucket], seed, start_step, workers, prefetch)

    @classmethod
    def mixed(
        cls, buckets: Sequence[Bucket], *, seed: int, start_step: int = 0, workers: int = 2, prefetch: int = 2
    ) -> BatchLoader:
        """Batches of several resolutions: each step draws one bucket, the same on every process."""
        loader = cls.__new__(cls)
        loader._set_up(list(buckets), seed, start_step, workers, prefetch)
        return loader

    def _set_up(self, buckets: list[Bucket], seed: int, start_step: int, workers: int, prefetch: int) -> None:
        for bucket in buckets:
            if len(bucket.dataset) == 0 or bucket.batch_size < 1:
                raise InputError(
                    f"batches of {bucket.batch_size} from {len(bucket.dataset)} clips cannot be made; both must be at "
                    "least 1"
                )
        self.buckets, self.seed, self.start_step = buckets, seed, start_step
        self.workers, self.prefetch = workers, prefetch

    def bucket(self, step: int) -> Bucket:
        """The bucket of a step, each with equal probability; a function of (seed, step)."""
        return self.buckets[int(numpy_generator(self.seed, "bucket", step).integers(len(self.buckets)))]

    def __iter__(self) -> Iterator[tuple[int, dict]]:
        if self.workers == 0:
            for step in itertools.count(self.start_step):
                bucket = self.bucket(step)
                yield (
                    step,
                    _collate([bucket.dataset.item(*request) for request in self._requests(step, bucket)], bucket),
                )
        pool = ThreadPoolExecutor(max_workers=self.workers)
        ahead: deque[tuple[Bucket, list[Future]]] = deque()
        try:
            step = self.start_step
            while True:
                while len(ahead) <= self.prefetch:
                    bucket = self.bucket(step + len(ahead))
                    requests = self._requests(step + len(ahead), bucket)
                    ahead.append((bucket, [pool.submit(bucket.dataset.item, *request) for request in requests]))
                bucket, futures = ahead.popleft()
                yield step, _collate([future.result() for future in futures], bucket)
                step += 1
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _requests(self, step: int, bucket: Bucket) -> list[tuple[int, int]]:
        """Item and window seed of each of this process's rows."""
        indices = batch_indices(len(bucket.dataset), bucket.batch_size, step, self.seed)
        return [(int(indices[row]), window_seed(self.seed, step, row)) for row in bucket.rows]


def _collate(items: list[dict], bucket: Bucket) -> dict:
    return {
        "video": torch.from_numpy(np.stack([np.asarray(item["video"]) for item in items])),
        "label": torch.tensor([int(item["label"]) for item in items], dtype=torch.int64),
        "names": [item["name"] for item in items],
        "rows": list(bucket.rows),
    }
