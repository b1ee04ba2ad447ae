"""Batches whose content is a function of (seed, step, global row), however many processes and threads read them."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from runtime.errors import InputError
from runtime.seeds import numpy_generator
from videos.unreadable import UnreadableClip, UnreadableFiles

Request, Found = TypeVar("Request"), TypeVar("Found")


class VideoDataset(Protocol):
    """What a loader needs of a data set."""

    def __len__(self) -> int: ...
    def item(self, index: int, seed: int) -> dict: ...


def to_float(video: Tensor) -> Tensor:
    """uint8 [0, 255] -> float32 [-1, 1].

    Raises:
        InputError: On floats, which are in [-1, 1] already.
    """
    if video.is_floating_point():
        raise InputError(f"to_float takes uint8 in [0, 255], got {video.dtype}, which is converted already")
    return video.float() / 127.5 - 1.0


def to_uint8(video: Tensor) -> Tensor:
    """float [-1, 1] -> uint8, rounded once; values outside are clamped.

    Raises:
        InputError: On whole numbers, which are converted already.
    """
    if not video.is_floating_point():
        raise InputError(f"to_uint8 takes floats in [-1, 1], got {video.dtype}, which is converted already")
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
        rows: The global rows of it that this process reads; None: all of them.
    """

    dataset: VideoDataset
    batch_size: int
    rows: Sequence[int] | None = None


class BatchLoader:
    """Endless batches from `start_step` on, decoded ahead by threads.

    Yields `(step, batch)`, where batch holds "video" uint8 `[b, 3, 1+T, H, W]`, "label" int64 `[b]`, "names", "rows",
    the global rows of these `b` clips in a batch of the step's bucket, and "redrawn", how many of the `b` stand in for
    a clip that cannot be decoded.

    Args:
        buckets: Each step draws one, the same on every process.
        seed: With step and row it decides every item and window, and what is drawn in place of an undecodable clip.
        start_step: Finished steps.
        workers: Threads that decode; 0: the calling thread does. The content of batches does not depend on it.
        prefetch: Batches decoded ahead.
        pin_memory: Whether "video" lies in page-locked memory, from which a GPU copies while it computes.
        unreadable: Where clips that cannot be decoded are recorded, whose rows are then drawn again; None: such a clip
            ends the loop.

    Raises:
        InputError: If there is nothing to make a batch of.
        UnreadableClip: While iterating, without `unreadable`.
    """

    def __init__(
        self,
        buckets: Sequence[Bucket],
        *,
        seed: int,
        start_step: int = 0,
        workers: int = 2,
        prefetch: int = 2,
        pin_memory: bool = False,
        unreadable: UnreadableFiles | None = None,
    ):
        for bucket in buckets:
            if len(bucket.dataset) == 0 or bucket.batch_size < 1:
                raise InputError(
                    f"batches of {bucket.batch_size} from {len(bucket.dataset)} clips cannot be made; both must be at "
                    "least 1"
                )
        self.buckets, self.seed, self.start_step = list(buckets), seed, start_step
        self.workers, self.prefetch, self.pin_memory = workers, prefetch, pin_memory
        self.unreadable = unreadable

    def bucket(self, step: int) -> Bucket:
        """The bucket of a step, each with equal probability; a function of (seed, step)."""
        return self.buckets[int(numpy_generator(self.seed, "bucket", step).integers(len(self.buckets)))]

    def __iter__(self) -> Iterator[tuple[int, dict]]:
        requests = map(self._requests, itertools.count(self.start_step))
        found = read_ahead(self._read, requests, self.workers, self.prefetch)
        for step, items in enumerate(found, self.start_step):
            yield step, self._collate(items, self.bucket(step))

    def _requests(self, step: int) -> list[tuple[Bucket, int, int, int]]:
        """Bucket, step, row and item of each of this process's rows."""
        bucket = self.bucket(step)
        indices = batch_indices(len(bucket.dataset), bucket.batch_size, step, self.seed)
        return [(bucket, step, row, int(indices[row])) for row in _rows(bucket)]

    def _read(self, request: tuple[Bucket, int, int, int]) -> tuple[dict, bool]:
        """The clip of a row, and whether it is another than the first that was drawn for it."""
        bucket, step, row, index = request
        redraws = 0
        while True:
            try:
                return bucket.dataset.item(index, window_seed(self.seed, step, row)), redraws > 0
            except UnreadableClip as error:
                if self.unreadable is None:
                    raise
                self.unreadable.record(error)  # ends the loop when there are too many
            redraws += 1
            index = int(numpy_generator(self.seed, "redraw", step, row, redraws).integers(len(bucket.dataset)))

    def _collate(self, found: list[tuple[dict, bool]], bucket: Bucket) -> dict:
        items = [item for item, _ in found]
        video = torch.from_numpy(np.stack([np.asarray(item["video"]) for item in items]))
        return {
            "video": video.pin_memory() if self.pin_memory else video,
            "label": torch.tensor([int(item["label"]) for item in items], dtype=torch.int64),
            "names": [item["name"] for item in items],
            "rows": list(_rows(bucket)),
            "redrawn": sum(redrawn for _, redrawn in found),
        }


def _rows(bucket: Bucket) -> Sequence[int]:
    return range(bucket.batch_size) if bucket.rows is None else bucket.rows


def read_ahead(
    read: Callable[[Request], Found], batches: Iterable[Sequence[Request]], workers: int, ahead: int
) -> Iterator[list[Found]]:
    """For each batch of requests what `read` makes of them, in order, while threads read the next `ahead` batches.

    Args:
        workers: Threads; 0: each batch is read when it is asked for.
    """
    if workers == 0:
        for requests in batches:
            yield [read(request) for request in requests]
        return
    pool = ThreadPoolExecutor(max_workers=workers)
    waiting: deque[list[Future]] = deque()
    try:
        for requests in batches:
            waiting.append([pool.submit(read, request) for request in requests])
            if len(waiting) > ahead:
                yield [future.result() for future in waiting.popleft()]
        while waiting:
            yield [future.result() for future in waiting.popleft()]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def default_workers() -> int:
    """Threads that read clips unless a flag says how many: one for each core that this process may use, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores)
