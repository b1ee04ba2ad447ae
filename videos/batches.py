"""Batches whose content is a function of (seed, step, global row), however many processes and threads read them."""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from runtime.errors import InputError


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


class BatchLoader:
    """Endless batches from `start_step` on, decoded ahead by threads.

    Yields `(step, batch)`, where batch holds "video" uint8 `[b, 3, 1+T, H, W]`, "label" int64 `[b]` and "names", for
    the global rows `rows` of a batch of `batch_size` (None: all of them). Content and order do not depend on `workers`
    (0: decode in the calling thread) or on `prefetch`, the number of batches decoded ahead.

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
        self.dataset, self.batch_size, self.seed, self.start_step = dataset, batch_size, seed, start_step
        if len(dataset) == 0 or batch_size < 1:
            raise InputError(
                f"batches of {batch_size} from {len(dataset)} clips cannot be made; both must be at least 1"
            )
        self.rows = list(range(batch_size)) if rows is None else list(rows)
        self.workers, self.prefetch = workers, prefetch

    def __iter__(self) -> Iterator[tuple[int, dict]]:
        if self.workers == 0:
            for step in itertools.count(self.start_step):
                yield step, _collate([self.dataset.item(*request) for request in self._requests(step)])
        pool = ThreadPoolExecutor(max_workers=self.workers)
        ahead: deque[list[Future]] = deque()
        try:
            step = self.start_step
            while True:
                while len(ahead) <= self.prefetch:
                    requests = self._requests(step + len(ahead))
                    ahead.append([pool.submit(self.dataset.item, *request) for request in requests])
                yield step, _collate([future.result() for future in ahead.popleft()])
                step += 1
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _requests(self, step: int) -> list[tuple[int, int]]:
        """Item and window seed of each of this process's rows."""
        indices = batch_indices(len(self.dataset), self.batch_size, step, self.seed)
        return [(int(indices[row]), window_seed(self.seed, step, row)) for row in self.rows]


def _collate(items: list[dict]) -> dict:
    return {
        "video": torch.from_numpy(np.stack([np.asarray(item["video"]) for item in items])),
        "label": torch.tensor([int(item["label"]) for item in items], dtype=torch.int64),
        "names": [item["name"] for item in items],
    }
