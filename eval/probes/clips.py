"""The clips of a probe: which, their latents, and what is known of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eval.clip_sets import names_of
from eval.decode import clips_at_once
from eval.extract import View, extract, read_items, record_of
from eval.features.store import FeatureStore, digest
from eval.probes.flow import FlowTruth
from eval.probes.next_frame import NextFrame
from eval.probes.tracking import Tracks
from runtime.errors import InputError
from runtime.processes import World, autocast
from runtime.records import from_record
from videos import ClipSpec, open_dataset, to_float
from videos.clip import lowest_stride
from videos.datasets import FILE_DATASETS, WITH_FLOW, WITH_TRACKS
from videos.splits import stratified_order

# What is known of clips, by task. Of each: the `metrics` of an answer, what the answer that knows nothing is called
# (`trivial_answer`), and whether a head is trained to answer (`is_trained`).
TRUTHS = {"flow": FlowTruth, "next-frame": NextFrame, "tracking": Tracks}
# Data sets that know what a task asks for; any will do for the next frame.
KNOWN = {"flow": WITH_FLOW, "tracking": WITH_TRACKS}


@dataclass(frozen=True)
class ProbeClips:
    """Clips of one split.

    Attributes:
        latents: Raw latents float32 `[N, C, G, h, w]`; of the next-frame task only of the frames before it.
        truth: One of `TRUTHS`.
        items: Which they are in the data set.
        videos: The video of each, since windows of one video are no independent draws.
        key: What tells these clips apart from others; JSON values.
    """

    latents: Tensor
    truth: object
    items: list[int]
    videos: list
    key: dict

    @property
    def same(self) -> str:
        """Equal for two generators that see the same clips, and of which the same is known; 16 hex digits."""
        return digest({name: self.key[name] for name in ("data", "clip", "fingerprint", "names", "truth")})


def clip_of(facts: dict, data: str) -> ClipSpec:
    """Frames and size as the generator was trained; the first frames where a video is longer, at stride 1 on other data
    than its own."""
    trained = from_record(ClipSpec, json.loads(facts["clip"]), "the clip of the latents")
    stride = lowest_stride(trained.frame_stride) if data == facts.get("data") else 1
    return replace(trained, frame_stride=stride, window="first")


def observed_groups(task: str, groups: int) -> int:
    """Groups that features are made of: all, and all but the last to tell the next frame."""
    if task == "next-frame" and groups < 2:
        raise InputError("the generator's clips are of one group, after which there is no next frame")
    return groups - 1 if task == "next-frame" else groups


def open_split(task: str, data: str, root: str | None, split: str, clip: ClipSpec):
    """A data set with what the task asks for; InputError when it does not know that."""
    if data not in KNOWN.get(task, (data,)):
        raise InputError(f"--data {data}: it does not know what --task {task} asks for; {', '.join(KNOWN[task])} do")
    return open_dataset(data, root, split, clip, truth=task in KNOWN)


def check_apart(judged, learnt) -> None:
    """InputError when two splits share videos: a head would be judged on what it was trained on."""
    same = judged.fingerprint() == learnt.fingerprint()
    if same or {*getattr(judged, "sources", ())} & {*getattr(learnt, "sources", ())}:
        raise InputError(
            f"--data {judged.name}: its splits train and test share videos, so that a head would be judged on what it "
            "was trained on"
        )


def drawn(dataset, data: str, count: int, seed: int) -> list[int]:
    """Which clips: of files a seeded draw in which classes, or videos that are cut into windows, take turns."""
    if data in FILE_DATASETS or getattr(dataset, "in_windows", False):
        classes = dataset.classes() if getattr(dataset, "in_windows", False) else dataset.labels()
        return sorted(stratified_order(classes, seed)[:count])
    return list(range(min(count, len(dataset))))


def load_clips(
    task: str,
    dataset,
    items: Sequence[int],
    vae,
    *,
    observed: int,
    folder: Path,
    seed: int,
    world: World,
    dtype: torch.dtype,
) -> ProbeClips:
    """Encode what is not kept yet, and read what is known.

    Args:
        observed: Frames that are encoded. A later frame is not even shown to the tokenizer.
        folder: Of kept latents, as of features.

    Raises:
        InputError: If no clip is left that can be read.
    """
    names, shape = names_of(dataset, items), vae.spec.latent_shape(observed, dataset.clip.height, dataset.clip.width)

    def see(video: Tensor) -> tuple[Tensor, None]:
        parts = video[:, :, :observed].split(clips_at_once(observed, *video.shape[3:]))
        with torch.no_grad(), autocast(world.device, dtype):
            seen = [vae.encode(to_float(part.to(world.device))).mode() for part in parts]
            return torch.cat(seen).float().flatten(1), None

    key = {"network": "encoder", "weights": vae.encoder_hash, "data": dataset.name, "clip": asdict(dataset.clip)}
    key |= {"fingerprint": dataset.fingerprint(), "frames": observed, "dtype": str(dtype).removeprefix("torch.")}
    kept = extract(
        {"": View(store=FeatureStore(folder, f"{dataset.name}-latents", key), see=see)},
        names,
        read_items(dataset, items, seed, world.device),
        world=world,
        label=f"encode {dataset.name}",
        unreadable=record_of(folder, dataset),
    )[""]
    left = {clip.decode("utf-8", "surrogatepass") for clip in kept.clips.tolist()}
    readable = [(item, name) for item, name in zip(items, names, strict=True) if name in left]
    truth = TRUTHS[task]
    parts = [truth.part(dataset.item(item, seed), observed) for item, _ in readable]
    known = hashlib.sha256()  # flow and marked points lie in files of their own, of which the data set's hash is not
    for part in parts:
        for name in sorted(part):
            known.update(np.ascontiguousarray(part[name]))
    windows = dataset.classes() if getattr(dataset, "in_windows", False) else None
    return ProbeClips(
        torch.from_numpy(kept.features).view(-1, *shape),
        truth(parts, vae.spec.temporal),
        [item for item, _ in readable],
        [windows[item] if windows else name for item, name in readable],
        json.loads(json.dumps(key)) | {"names": [name for _, name in readable], "truth": known.hexdigest()[:16]},
    )
