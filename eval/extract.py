"""One pass over clips: each is read, or decoded, once, and shown to every network that has not seen it; what they make
of it is kept.

What is kept is shared by all runs below one folder: a row belongs to a clip, to the network that saw it, and to what
was done to the clip before. So nothing is made twice, whichever command asked first, and for however many clips.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eval.features.store import FeatureSet, FeatureStore, Segment
from latents_cache.row_file import Taken
from runtime.errors import InputError
from runtime.log import Progress
from runtime.processes import World
from runtime.stopping import orderly
from videos import to_float
from videos.batches import default_workers, read_ahead, window_seed
from videos.unreadable import UnreadableClip, UnreadableFiles

# Clips that go through a network at once.
BATCH = 32
BLOCKS_AHEAD = 2  # read while one is looked at
WAIT_SECONDS = 3.0  # between two looks at what another process makes


@dataclass(frozen=True, kw_only=True)
class View:
    """One way to look at clips.

    Attributes:
        store: Where what is seen is kept.
        see: uint8 clips `[B, 3, T, H, W]` -> (features `[B, d]`, probabilities `[B, K]` or None).
        change: What is done to a batch of the pass first; views that share the function share its result.
        count: Only the first so many clips of the pass are looked at; None: all.
    """

    store: FeatureStore
    see: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    change: Callable[[Tensor], Tensor] | None = None
    count: int | None = None


@dataclass(frozen=True)
class Batch:
    """Clips of a pass: `video` `[B, 3, T, H, W]`, `labels` `[B]`, and by place those that could not be decoded."""

    video: Tensor
    labels: np.ndarray
    unreadable: Mapping[int, UnreadableClip]


def seen_by(network, device: torch.device) -> Callable[[Tensor], tuple[Tensor, Tensor | None]]:
    """`View.see` of a feature network, in float32 whatever the networks around use."""
    network = network.to(device)

    def see(video: Tensor) -> tuple[Tensor, Tensor | None]:
        with torch.no_grad():
            features = network.features(to_float(video.to(device, non_blocking=True)))
            return features, network.classify(features) if hasattr(network, "classify") else None

    return see


def extract(
    views: Mapping[Hashable, View],
    clips: Sequence[str],
    read: Callable[[Sequence[range], Progress], Iterator[Batch]],
    *,
    world: World,
    label: str,
    unreadable: UnreadableFiles | None = None,
) -> dict[Hashable, FeatureSet]:
    """What every view sees of every clip, in the order of `clips`; only what is not kept yet is looked at.

    The processes of a launch take turns by blocks of `BATCH` clips, and the main one writes. A block is made whole even
    for one missing clip, so that rounding does not depend on interruptions.

    Args:
        views: By any name.
        clips: One name each, by which rows are kept.
        read: Blocks of places in `clips` -> their batches, in order.
        label: Begins the line that shows progress.
        unreadable: Where clips are recorded that cannot be decoded. They are missing from what is returned.

    Raises:
        InputError: If features are not finite, or too many clips cannot be decoded.
        Stopped: When a signal or the time limit asks for it; what is made stays.
    """
    with ExitStack() as stack, orderly():
        segments, rows = _opened(views, clips, stack, world)
        rows = world.same(rows)
        unwritten = {name: set(segment.missing()) for name, segment in segments.items()}
        todo = {name: {p for p, row in rows[name].items() if row in left} for name, left in unwritten.items()}
        todo = world.same(todo)
        blocks = [range(start, min(start + BATCH, len(clips))) for start in range(0, len(clips), BATCH)]
        blocks = [block for block in blocks if any(places.intersection(block) for places in todo.values())]
        progress = Progress(sum(map(len, blocks)), label=label)
        own = _look(views, rows, todo, blocks[world.rank :: world.size], read, progress)
        # In this order zip exhausts the turns, which every process has to.
        for (found, failed), block in zip(in_turn(world, own, len(blocks)), blocks, strict=False):
            for error in failed.values():
                unreadable.record(error)
            for name, (places, batch) in found.items():
                segments[name].write([rows[name][place] for place in places], batch)
            progress.update(progress.step + len(block), {})
        for segment in segments.values():
            lost = segment.missing()  # those that cannot be decoded
            if len(lost) == segment.rows:
                segment.discard()
                continue
            for row in lost:
                segment.leave_out(row)
            segment.finish()
        if blocks and world.is_main:
            progress.close()

    def gathered() -> dict[Hashable, FeatureSet]:
        found = {}
        for name, view in views.items():
            wanted = list(clips[: view.count])
            lost = set(view.store.missing(wanted))
            found[name] = view.store.gather([clip for place, clip in enumerate(wanted) if place not in lost])
        return found

    # The main process comes first, since it also writes down what a set is.
    return world.first(gathered) or gathered()


def _opened(views: Mapping[Hashable, View], clips: Sequence[str], stack: ExitStack, world: World) -> tuple[dict, dict]:
    """What `_open_segments` gives, on the main process, once no other launch fills one of them; the processes look at
    the clock together, since none of them waits for another for as long as that may take."""
    for look in itertools.count():
        found = world.first(lambda: _open_segments(views, clips, stack))
        if not world.same(isinstance(found, Taken)):
            return found or ({}, {})
        if world.is_main and look == 0:
            print(f"waiting for another process that makes the same features ({found})", file=sys.stderr)
        world.check_stop()
        time.sleep(WAIT_SECONDS)


def _open_segments(views: Mapping[Hashable, View], clips: Sequence[str], stack: ExitStack) -> tuple[dict, dict] | Taken:
    """Segments for what no view has kept yet, and their rows by place; or that another launch fills one."""
    missing = {name: view.store.missing(clips[: view.count]) for name, view in views.items()}
    rows = {name: {place: row for row, place in enumerate(found)} for name, found in missing.items() if found}
    segments: dict[Hashable, Segment] = {}
    with ExitStack() as opened:  # closed again where one cannot be, so that nobody waits for us meanwhile
        try:
            for name, places in rows.items():
                segments[name] = opened.enter_context(views[name].store.segment([clips[place] for place in places]))
        except Taken as error:
            return error
        stack.enter_context(opened.pop_all())
    return segments, rows


def in_turn(world: World, own: Iterator, total: int) -> Iterator:
    """Results that the processes make in turn, in order.

    Args:
        own: This process's results; number i of all is made by process i % size.
        total: How many there are on all processes.

    Yields:
        All results on the main process, none on the others, where it must be exhausted too.

    Raises:
        Stopped: On all processes, between two rounds, when one of them was asked to stop.
    """
    for start in range(0, total, world.size):
        mine = next(own) if start + world.rank < total else None
        found = [mine]
        if world.size > 1:
            found = [None] * world.size if world.is_main else None
            torch.distributed.gather_object(mine, found)
        if world.is_main:
            yield from found[: total - start]
        world.check_stop()


def _look(views, rows, todo, blocks: Sequence[range], read, progress) -> Iterator[tuple[dict, dict]]:
    """For each block: by view (places, their FeatureSet), and by place what could not be decoded."""
    if not blocks:
        return
    with closing(read(blocks, progress)) as batches:
        for block, batch in zip(blocks, batches, strict=True):
            failed = {block[place]: error for place, error in batch.unreadable.items()}
            found, changed = {}, {}
            for name, view in views.items() if len(failed) < len(block) else ():
                if not todo.get(name, set()).intersection(block):
                    continue
                places = [place for place in block if place in rows[name] and place not in failed]
                if view.change not in changed:
                    changed[view.change] = view.change(batch.video) if view.change else batch.video
                features, probabilities = view.see(changed[view.change])
                chosen = [place - block.start for place in places]
                kept = FeatureSet(
                    features.float().cpu().numpy()[chosen],
                    None if probabilities is None else probabilities.float().cpu().numpy()[chosen],
                    np.asarray(batch.labels)[chosen],
                )
                if not np.isfinite(kept.features).all():
                    raise InputError("some clips have features that are not finite")
                found[name] = places, kept
            yield found, failed


def read_items(dataset, items: Sequence[int], seed: int, device: torch.device | None = None):
    """`read` of `extract` for items of a data set, each with its own seeded window, read ahead by threads."""

    def read_one(place: int):
        try:
            return dataset.item(items[place], window_seed(seed, 0, items[place]))
        except UnreadableClip as error:
            return error

    def read(blocks: Sequence[range], progress: Progress) -> Iterator[Batch]:
        with closing(read_ahead(read_one, blocks, default_workers(), BLOCKS_AHEAD)) as found:
            for _ in blocks:
                with progress.wait():
                    clips = next(found)
                failed = {place: clip for place, clip in enumerate(clips) if isinstance(clip, UnreadableClip)}
                if len(failed) == len(clips):
                    yield Batch(torch.empty(0), np.empty(0), failed)
                    continue
                # In the place of one that failed any other stands, whose features nobody keeps.
                spare = next(clip for place, clip in enumerate(clips) if place not in failed)
                good = [spare if place in failed else clip for place, clip in enumerate(clips)]
                video = torch.from_numpy(np.stack([clip["video"] for clip in good]))
                pinned = video.pin_memory() if device is not None and device.type == "cuda" else video
                yield Batch(pinned, np.array([clip["label"] for clip in good]), failed)

    return read


def record_of(folder: Path, dataset) -> UnreadableFiles:
    """Where clips of a data set are recorded that cannot be decoded, below the folder of kept features."""
    folder.mkdir(parents=True, exist_ok=True)
    return UnreadableFiles(folder / f"unreadable-{dataset.fingerprint()[:16]}.jsonl", len(dataset))
