"""The sets of clips that are compared, and their features: real reference, other real clips, controls, generated
ones."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from runtime.errors import InputError
from runtime.processes import resolve_device
from runtime.records import from_record
from runtime.seeds import numpy_generator
from videos import ClipSpec, open_dataset, to_float, to_uint8
from videos.batches import window_seed

# What a damaged npz file raises.
_DAMAGE = (OSError, ValueError, KeyError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class FeatureSet:
    """Features float32 `[N, d]`, class probabilities `[N, K]` (or None) and labels `[N]` of one set of clips."""

    features: np.ndarray
    probabilities: np.ndarray | None
    labels: np.ndarray


def open_training_clips(facts: dict, root: str | None = None):
    """The data set that a generator's latents were encoded from, with the same split and clip."""
    spec = from_record(ClipSpec, json.loads(facts["clip"]), "the clip of the latents")
    return open_dataset(facts["data"], root=root or facts.get("root") or None, split=facts["split"], clip=spec)


def stratified_halves(labels: Sequence[int], count: int, seed: int) -> tuple[list[int], list[int]]:
    """Two disjoint, seeded, class-stratified sets of up to `count` items each; when items are short, half of them each.

    Classes take turns, so every prefix is as balanced as the data allow, and the order mixes classes.
    """
    order = numpy_generator(seed, "reference").permutation(len(labels))
    by_class: dict[int, list[int]] = {}
    for index in order:
        by_class.setdefault(int(labels[index]), []).append(int(index))
    queues = [by_class[label] for label in sorted(by_class)]
    dealt = [queue[turn] for turn in range(max(map(len, queues))) for queue in queues if turn < len(queue)]
    # Whole rounds of classes go to one half or the other in turn, so that both are stratified.
    width = len(queues)
    first = [item for position, item in enumerate(dealt) if position // width % 2 == 0]
    second = [item for position, item in enumerate(dealt) if position // width % 2 == 1]
    return first[:count], second[:count]


def real_batches(
    dataset, indices: Sequence[int], seed: int, batch_size: int = 32
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
    """Frames in random order, another one for each clip: right pictures, wrong motion."""
    order = [
        torch.from_numpy(numpy_generator(seed, "shuffle", i).permutation(video.shape[2])) for i in range(len(video))
    ]
    return torch.stack([clip[:, places] for clip, places in zip(video, order, strict=True)])


def reconstructed(video: Tensor, vae, device: str = "auto") -> Tensor:
    """Each clip through encoder (the mean) and decoder, in float32: uint8 `[B, 3, 1+T, H, W]` like `video`."""
    place = resolve_device(device)
    with torch.no_grad():
        return to_uint8(vae.to(place).decode(vae.encode(to_float(video.to(place))).mode())).cpu()


def extract(
    network,
    batches: Iterator[tuple[Tensor, np.ndarray]],
    change: Callable[[Tensor], Tensor] | None = None,
    device: str = "auto",
) -> FeatureSet:
    """Features of uint8 batches, in float32 whatever the networks around use; `change` makes a control of each
    batch."""
    place = resolve_device(device)
    network = network.to(place)
    features, probabilities, labels = [], [], []
    with torch.no_grad():
        for video, label in batches:
            inputs = to_float((change(video) if change else video).to(place))
            found = network.features(inputs)
            features.append(found.float().cpu().numpy())
            if hasattr(network, "heads"):
                shape, motion = network.heads(found)
                joint = shape.softmax(1)[:, :, None] * motion.softmax(1)[:, None]
                probabilities.append(joint.flatten(1).float().cpu().numpy())
            labels.append(np.asarray(label))
    if not features:
        raise InputError("there are no clips to extract features of")
    joined = np.concatenate(features)
    if not np.isfinite(joined).all():
        raise InputError("some clips have features that are not finite")
    return FeatureSet(joined, np.concatenate(probabilities) if probabilities else None, np.concatenate(labels))


def kept_features(folder: Path, subject: str, key: dict, make: Callable[[], FeatureSet]) -> FeatureSet:
    """The features kept under `key`, or made now and kept; written beside and renamed."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:16]
    path = folder / f"{subject}-{digest}.npz"
    if path.is_file():
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as found:
                return FeatureSet(found["features"], found.get("probabilities"), found["labels"])
        except _DAMAGE as error:
            raise InputError(f"{path}: damaged feature file ({error}); remove it, and it is made again") from error
    made = make()
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        arrays = {"features": made.features, "labels": made.labels}
        np.savez(file, **arrays, **({} if made.probabilities is None else {"probabilities": made.probabilities}))
    os.replace(partial, path)
    return made
