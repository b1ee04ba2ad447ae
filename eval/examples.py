"""Clips to look at: real, reconstructed and predicted side by side, and generated ones with the judge's word on each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eval.figures import animated_uri, framed
from runtime.errors import InputError
from runtime.processes import autocast, resolve_device, resolve_dtype
from videos import to_float, to_uint8

OBSERVED, PREDICTED = (46, 158, 143), (232, 132, 44)
# Clips of at most this many pixels a side are stored exactly.
LOSSLESS_SIZE = 64


@dataclass(frozen=True)
class Example:
    """One moving picture.

    Attributes:
        uri: WebP as a data URI.
        label: What it shows, or was asked to show.
        verdict: What the judge says, "" without one.
        right: Whether the judge agrees with the label; None without a judge.
    """

    uri: str
    label: str
    verdict: str = ""
    right: bool | None = None


def show_tokenizer(vae, predictor, clips: Tensor, names: Sequence[str], *, device: str = "auto", dtype: str = "auto") -> list[Example]:
    """Real, reconstructed and predicted versions of each clip, side by side in one picture so that they play in step.

    The predicted one has a border: in one colour while the frames were observed, in another while they are predicted. Of the latent
    groups the first half, rounded up, is observed (for 17 frames: 9 frames seen, 8 predicted).

    Args:
        vae: The tokenizer as used for decoding.
        predictor: Its weights from the predictive stage, or None for a tokenizer that cannot predict.
        clips: uint8 `[B, 3, 1+T, H, W]`.
        names: A label for each.
    """
    place = resolve_device(device)
    compute = resolve_dtype(dtype, place)
    video = to_float(clips.to(place))
    observed = observed_frames(vae.spec, clips.shape[2])
    with torch.no_grad(), autocast(place, compute):
        shown = [clips, to_uint8(vae.decode(vae.encode(video).mode())).cpu()]
        if predictor is not None and observed < clips.shape[2]:
            rest = predictor.spec.groups(clips.shape[2]) - predictor.spec.groups(observed)
            shown.append(to_uint8(predictor.predict(video[:, :, :observed], rest)).cpu())
    return [Example(triple([frames_last(part[i]) for part in shown], observed), name) for i, name in enumerate(names)]


def observed_frames(spec, num_frames: int) -> int:
    """Frames shown before the prediction: those of the first half of the groups, rounded up."""
    groups = spec.groups(num_frames)
    return spec.frames(groups - groups // 2)


def triple(parts: Sequence[np.ndarray], observed: int) -> str:
    """Up to three clips uint8 `[N, H, W, 3]` next to each other; the third gets the border of observed and predicted frames."""
    size = max(parts[0].shape[1:3])
    border = max(2, size // 24)
    columns = []
    for number, part in enumerate(parts):
        colours: list[tuple[int, int, int] | None] = [None] * len(part)
        if number == 2:
            colours = [OBSERVED if frame < observed else PREDICTED for frame in range(len(part))]
        columns.append(framed(part, colours, border))
    return animated_uri(np.concatenate(columns, axis=2), lossless=size <= LOSSLESS_SIZE)


def frames_last(clip: Tensor) -> np.ndarray:
    """uint8 `[3, N, H, W]` -> `[N, H, W, 3]`."""
    return clip.permute(1, 2, 3, 0).numpy()


def show_generated(clips: Tensor, labels: Sequence[int], class_names: Sequence[str], judge=None) -> list[Example]:
    """Generated clips, each with the class that was asked for and what the judge sees.

    Args:
        clips: uint8 `[B, 3, 1+T, H, W]`.
        labels: Class asked for; -1 for none.
        judge: A network with `probabilities`, or None.
    """
    seen: list[int | None] = [None] * len(clips)
    sure = [0.0] * len(clips)
    if judge is not None:
        with torch.no_grad():
            best = judge.probabilities(to_float(clips)).max(1)
        seen, sure = best.indices.tolist(), best.values.tolist()
    examples = []
    for i, clip in enumerate(clips):
        asked = int(labels[i])
        name = class_names[asked] if 0 <= asked < len(class_names) else "no class"
        verdict = "" if seen[i] is None else f"{class_names[seen[i]]}, {100 * sure[i]:.0f} %"
        right = None if seen[i] is None else seen[i] == asked
        size = max(clip.shape[-2:])
        examples.append(Example(animated_uri(frames_last(clip), lossless=size <= LOSSLESS_SIZE), name, verdict, right))
    return examples


def held_out_clips(facts: dict, count: int, seed: int, root: str | None = None) -> tuple[Tensor, list[str]]:
    """Clips of the test split, or, where there is none, of the split that the generator learned; classes take turns.

    Returns:
        uint8 `[B, 3, 1+T, H, W]`, B <= count, and a name for each.
    """
    from eval.sets import open_training_clips, stratified_halves

    dataset, which = None, "held out"
    if facts.get("split") == "train":
        try:
            dataset = open_training_clips(facts | {"split": "test"}, root)
        except InputError:
            dataset = None  # a data set without a test part
    if dataset is None:
        dataset, which = open_training_clips(facts, root), "training clip"
    items = [dataset.item(i, seed) for i in sorted_by_turn(stratified_halves(dataset.labels(), count, seed), count)]
    names = list(dataset.class_names)
    labels = [names[item["label"]] if 0 <= item["label"] < len(names) else str(item["name"]) for item in items]
    return torch.from_numpy(np.stack([np.asarray(item["video"]) for item in items])), [f"{label} ({which})" for label in labels]


def sorted_by_turn(halves: tuple[list[int], list[int]], count: int) -> list[int]:
    """The first half's items, filled up from the second."""
    return [*halves[0], *halves[1]][:count]


def generated_clips(path, tokenizer: str | None, count: int, *, device: str = "auto", dtype: str = "auto"):
    """Decode the first `count` samples of a file: uint8 `[B, 3, 1+T, H, W]`, labels, class names."""
    from eval.decode import decoded_clips, tokenizer_for
    from latents_cache import open_latents

    place = str(resolve_device(device))
    with open_latents(path) as reader:
        vae = tokenizer_for(reader, tokenizer, place)
        batches = list(decoded_clips(reader, vae, min(count, len(reader)), device=place, dtype=dtype))
        class_names = json.loads(reader.attributes.get("class_names", "[]"))
    return torch.cat([video for video, _ in batches]), np.concatenate([labels for _, labels in batches]), class_names
