"""The sets of clips that are compared, and their features: real reference, other real clips, controls, generated
ones."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eval.feature_store import FeatureSet, FeatureStore, join, key_text, load_feature_set
from runtime.errors import InputError
from runtime.processes import World, resolve_device
from runtime.records import from_record
from runtime.seeds import numpy_generator
from runtime.stopping import orderly
from videos import ClipSpec, open_dataset, to_float, to_uint8
from videos.batches import window_seed
from videos.splits import stratified_order

# Clips that go through a network at once.
BATCH = 32


def open_training_clips(facts: dict, root: str | None = None):
    """The data set that a generator's latents were encoded from, with the same split and clip."""
    spec = from_record(ClipSpec, json.loads(facts["clip"]), "the clip of the latents")
    return open_dataset(facts["data"], root=root or facts.get("root") or None, split=facts["split"], clip=spec)


def stratified_halves(labels: Sequence[int], count: int, seed: int) -> tuple[list[int], list[int]]:
    """Two disjoint, seeded, class-stratified sets of up to `count` items each; when items are short, half of them each.

    Both mix classes as `stratified_order` does.
    """
    dealt = stratified_order(labels, seed)
    # Whole rounds of classes go to one half or the other in turn, so that both are stratified.
    width = len(set(labels))
    first = [item for position, item in enumerate(dealt) if position // width % 2 == 0]
    second = [item for position, item in enumerate(dealt) if position // width % 2 == 1]
    return first[:count], second[:count]


def real_batches(
    dataset, indices: Sequence[int], seed: int, batch_size: int = BATCH
) -> Iterator[tuple[Tensor, np.ndarray]]:
    """(uint8 `[b, 3, 1+T, H, W]`, labels) of the given items, each with its own seeded window."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        for start in range(0, len(indices), batch_size):
            part = indices[start : start + batch_size]
            items = list(pool.map(lambda i: dataset.item(i, window_seed(seed, 0, i)), part))
            yield (
                torch.from_numpy(np.stack([item["video"] for item in items])),
                np.array([item["label"] for item in items]),
            )


def frozen(video: Tensor) -> Tensor:
    """Every frame replaced by the first: right pictures, no motion."""
    return video[:, :, :1].expand_as(video).contiguous()


def shuffled(video: Tensor, seed: int = 0) -> Tensor:
    """Frames in random order, drawn from the clip itself and so in any batch the same: right pictures, wrong motion."""
    seeds = [zlib.crc32(clip.numpy().tobytes()) for clip in video]
    order = [torch.from_numpy(numpy_generator(seed, "shuffle", s).permutation(video.shape[2])) for s in seeds]
    return torch.stack([clip[:, places] for clip, places in zip(video, order, strict=True)])


def reconstructed(video: Tensor, vae, device: str = "auto") -> Tensor:
    """Each clip through encoder (the mean) and decoder, in float32: uint8 `[B, 3, 1+T, H, W]` like `video`."""
    place = resolve_device(device)
    with torch.no_grad():
        return to_uint8(vae.to(place).decode(vae.encode(to_float(video.to(place))).mode())).cpu()


def feature_batches(
    network,
    batches: Iterator[tuple[Tensor, np.ndarray]],
    change: Callable[[Tensor], Tensor] | None = None,
    device: str = "auto",
    classifier=None,
) -> Iterator[FeatureSet]:
    """Features of uint8 batches, in float32 whatever the networks around use; `change` makes a control of each
    batch.

    Probabilities are those of `classifier`, seeing the same clips, else of `network` itself where it names classes.
    """
    place = resolve_device(device)
    network = network.to(place)
    classifier = classifier and classifier.to(place)
    for video, label in batches:
        with torch.no_grad():
            inputs = to_float((change(video) if change else video).to(place))
            features = network.features(inputs)
            probabilities = None
            if classifier is not None:
                probabilities = classifier.probabilities(inputs).cpu().numpy()
            elif hasattr(network, "classify"):
                probabilities = network.classify(features).cpu().numpy()
        yield FeatureSet(features.float().cpu().numpy(), probabilities, np.asarray(label))


def extract(
    network,
    batches: Iterator[tuple[Tensor, np.ndarray]],
    change: Callable[[Tensor], Tensor] | None = None,
    device: str = "auto",
    classifier=None,
) -> FeatureSet:
    """`feature_batches` as one set, in memory."""
    found = join(list(feature_batches(network, batches, change, device, classifier)))
    if not np.isfinite(found.features).all():
        raise InputError("some clips have features that are not finite")
    return found


def kept_features(
    folder: Path,
    subject: str,
    key: dict,
    clips: Sequence[object],
    make: Callable[[list[int]], Iterator[FeatureSet]],
    world: World,
) -> FeatureSet:
    """The features kept under `key`, or made now and kept; what a killed process had made is not made again.

    The processes of a launch take turns by batches of `BATCH` clips, and the main one writes. A batch is made whole
    even for one missing clip, so that rounding does not depend on interruptions.

    Args:
        folder: Where they are kept, one file a subject and key.
        subject: Begins the file's name.
        key: Everything that the features depend on.
        clips: Which clip each row is of, N words or numbers.
        make: From rows (of 0 … N - 1) to their features, in batches of `BATCH`.
        world: The launch; every process gets all features.

    Raises:
        Stopped: When a signal or the time limit asks for it; what is made stays.
    """
    digest = hashlib.sha256(key_text(key).encode()).hexdigest()[:16]
    path = folder / f"{subject}-{digest}.h5"
    if world.same(path.is_file()):
        return load_feature_set(path, key)
    store = world.first(lambda: FeatureStore(path, key, clips))
    with store or nullcontext(), orderly():
        missing = set(world.same(store.missing() if store else None))
        blocks = [range(start, min(start + BATCH, len(clips))) for start in range(0, len(clips), BATCH)]
        blocks = [block for block in blocks if missing.intersection(block)]
        own = make([row for block in blocks[world.rank :: world.size] for row in block])
        # In this order zip exhausts the turns, which every process has to.
        for batch, block in zip(world.in_turn(own, len(blocks)), blocks, strict=False):
            store.write(block, batch)
        if store:
            store.finish()
    world.barrier()
    return load_feature_set(path, key)
