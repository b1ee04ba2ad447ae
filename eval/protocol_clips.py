"""The clips that a protocol sees: how many, which real ones, which frames of them, at what size, and in what storage.

Everything starts from one file of sampled latents and one data set, those of the generator that is judged.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eval import protocols as words
from eval.protocols import Protocol
from runtime.errors import InputError
from runtime.seeds import numpy_generator
from videos import ClipSpec, open_dataset, to_uint8
from videos.clip import resize_and_crop
from videos.splits import split_folder

# What the draws and windows below know.
REFERENCES = (words.STRATIFIED, words.FIRST_SORTED, words.FOLDERS_DRAWN, words.ONE_BATCH, words.WINDOWS_SHUFFLED)
REFERENCES += (words.EVERY_VIDEO,)
SPLITS = (words.GENERATORS_SPLIT, words.FOLDER_GIVEN, words.ALL_OF_IT, words.TEST_SPLIT, words.TRAIN_SPLIT)
WINDOWS = (words.GENERATORS_WINDOW, words.RANDOM_FRAME, words.EVERY_FRAME)
# Fewer than every feature network here can see.
FEWEST_FRAMES = 9
# The seed of cd-fvd's shuffle.
CD_FVD_SEED = 42
JPEG_QUALITY = 75


@dataclass(frozen=True)
class ClipPlan:
    """What of a protocol's clips can be had of a generator, and in words what cannot.

    Attributes:
        generated: Generated clips in each of the `repeats` pairs of sets.
        real: Real clips in each, at most; None: all there are.
        frames: Of every clip.
        size: Height and width of every clip in pixels.
        unmet: What differs from the protocol, one line each.
    """

    generated: int
    real: int | None
    repeats: int
    frames: int
    size: int
    unmet: tuple[str, ...]


def plan_clips(protocol: Protocol, clip: ClipSpec, samples: int) -> ClipPlan:
    """Follow a protocol as far as `samples` generated clips like `clip` allow.

    Raises:
        InputError: Where it cannot be followed at all: clips too short, or too few for its pairs of sets.
    """
    unmet = []
    generated = min(protocol.generated, samples // protocol.repeats)
    if generated < 2:
        raise InputError(f"{samples} generated clips are too few for {protocol.repeats} sets of at least 2 clips")
    if generated < protocol.generated:
        unmet.append(f"{generated:,} generated clips in a set ({protocol.name}: {protocol.generated:,})")
    # Fewer generated clips than asked mean a smaller measurement on both sides.
    real = generated if generated < protocol.generated else protocol.real
    available = (clip.num_frames - 1) // protocol.generated_stride + 1
    frames = min(protocol.num_frames, available)
    if frames < FEWEST_FRAMES:
        raise InputError(f"generated clips have {available} frames at stride {protocol.generated_stride}, too few")
    if frames < protocol.num_frames:
        unmet.append(f"{frames} frames ({protocol.name}: {protocol.num_frames})")
    size = min(protocol.resolution, clip.height, clip.width)
    if size < protocol.resolution:
        unmet.append(f"clips of {size} pixels, not enlarged ({protocol.name}: {protocol.resolution})")
    if clip.height != clip.width:
        unmet.append(f"clips of {clip.width}x{clip.height} pixels, of which the centre is taken")
    return ClipPlan(generated, real, protocol.repeats, frames, size, tuple(unmet))


class EveryWindow:
    """Every window of every video of a data set as an item of its own; what is drawn, not filmed, has one window each.

    Item numbers run through the windows of the first video, then those of the second, and so on.
    """

    def __init__(self, dataset):
        self.dataset, clip = dataset, dataset.clip
        lengths = getattr(dataset, "lengths", None)
        self._strides = getattr(dataset, "strides", None)
        spans = [1] * len(dataset)
        if lengths is not None:
            pairs = zip(lengths, self._strides, strict=True)
            spans = [length - (clip.num_frames - 1) * stride for length, stride in pairs]
        self._ends = np.cumsum(spans)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def item(self, index: int, seed: int) -> dict:
        """{"video": uint8 `[3, 1+T, H, W]`, "label"}; the number alone decides, so `seed` is not used."""
        video = int(np.searchsorted(self._ends, index, side="right"))
        if self._strides is None:
            return self.dataset.item(video, 0)
        start = index - (int(self._ends[video - 1]) if video else 0)
        frames = start + self._strides[video] * np.arange(self.dataset.clip.num_frames)
        source = self.dataset.sources[video]
        pictures = resize_and_crop(self.dataset.read(source, frames), self.dataset.clip.size)
        return {"video": np.ascontiguousarray(pictures.transpose(3, 0, 1, 2)), "label": self.dataset.label(source)}


@dataclass(frozen=True)
class RealClips:
    """Which real clips a protocol compares with: `dataset.item(i, …)` for i in `items`, `repeats` sets in a row.

    Attributes:
        split: The part of the data set that they are of.
        fingerprint: Of the data set.
        unmet: What differs from the protocol, one line each.
    """

    dataset: object
    items: list[int]
    split: str
    fingerprint: str
    unmet: tuple[str, ...]


def choose_real(protocol: Protocol, plan: ClipPlan, judge, root: str | None, seed: int) -> RealClips:
    """The real clips of a protocol, out of the data set of the generator that `judge` judges.

    Raises:
        InputError: If the data set has no such part, or too few clips in it.
    """
    facts, clip = judge.facts, judge.dataset.clip
    split = {words.TEST_SPLIT: "test", words.TRAIN_SPLIT: "train"}.get(protocol.split, facts["split"])
    window = clip.window if protocol.window == words.GENERATORS_WINDOW else "random"
    stride = protocol.real_stride or clip.frame_stride
    spec = ClipSpec(num_frames=plan.frames, size=plan.size, frame_stride=stride, window=window)
    root = root or facts.get("root") or None
    dataset = open_dataset(facts["data"], root=root, split=split, clip=spec)
    unmet = []
    if split != facts["split"] and facts["data"] == "videos" and split_folder(Path(root), split) == Path(root):
        unmet.append(f"real clips of part {split!r}, which file names decide here ({protocol.name}: {protocol.split})")
    short = sum(found < stride for found in getattr(dataset, "strides", ()))
    if short:
        unmet.append(f"{short} of {len(dataset)} real videos are too short for stride {stride}: the largest that fits")
    candidates = EveryWindow(dataset) if protocol.window == words.EVERY_FRAME else dataset
    wanted = len(candidates) if plan.real is None else plan.real * plan.repeats
    items = _draw(protocol, candidates, judge, seed)[:wanted]
    share = len(items) // plan.repeats
    if share < 2:
        raise InputError(f"{len(items)} real clips ({split}) are too few for {plan.repeats} sets of at least 2 clips")
    if share != (protocol.real or len(candidates)):
        asked = "all" if protocol.real is None else f"{protocol.real:,}"
        unmet.append(f"{share:,} real clips in a set ({protocol.name}: {asked})")
    if "without a seed" in protocol.reference:
        unmet.append(
            f"real clips drawn with seed {seed}, so that the number can be had again ({protocol.name}: no seed)"
        )
    return RealClips(candidates, items[: share * plan.repeats], split, dataset.fingerprint(), tuple(unmet))


def _draw(protocol: Protocol, candidates, judge, seed: int) -> list[int]:
    """Numbers of real clips in the order in which the protocol takes them."""
    if protocol.reference == words.STRATIFIED:
        return _same_videos(judge.reference_items, judge.dataset, candidates)
    if protocol.reference == words.FIRST_SORTED:
        return list(range(len(candidates)))
    seed = CD_FVD_SEED if protocol.reference == words.EVERY_VIDEO else seed
    return numpy_generator(seed, "reference of", protocol.name).permutation(len(candidates)).tolist()


def _same_videos(items: Sequence[int], before, after) -> list[int]:
    """Items of one opening of a data set in another, which may have let in shorter videos."""
    if not hasattr(after, "sources"):
        return list(items)
    places = {source: place for place, source in enumerate(after.sources)}
    return [places[before.sources[item]] for item in items]


def truncate_to_uint8(video: Tensor) -> Tensor:
    """float [-1, 1] -> uint8, cut off instead of rounded; values outside are clamped."""
    return ((video.float().clamp(-1, 1) + 1.0) * 127.5).to(torch.uint8)


BYTES = {words.ROUNDING: to_uint8, words.TRUNCATING: truncate_to_uint8}


def cut(video: Tensor, frames: int, stride: int, size: int) -> Tensor:
    """The first `frames` frames at `stride`, shrunk and cropped: uint8 `[B, 3, T, H, W]` -> `[B, 3, frames, size,
    size]`."""
    video = video[:, :, : (frames - 1) * stride + 1 : stride]
    if tuple(video.shape[3:]) == (size, size):
        return video
    pictures = video.permute(0, 2, 3, 4, 1).flatten(0, 1).numpy()
    shrunk = torch.from_numpy(resize_and_crop(pictures, size))
    return shrunk.unflatten(0, (len(video), frames)).permute(0, 4, 1, 2, 3).contiguous()


def through_jpeg(video: Tensor) -> Tensor:
    """Every frame written as JPEG and read again: uint8 `[B, 3, T, H, W]` like `video`."""
    from PIL import Image

    pictures = video.permute(0, 2, 3, 4, 1).flatten(0, 1).contiguous().numpy()
    read = []
    for picture in pictures:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=JPEG_QUALITY)
        read.append(np.asarray(Image.open(file)))
    return torch.from_numpy(np.stack(read)).unflatten(0, (len(video), -1)).permute(0, 4, 1, 2, 3).contiguous()


STORAGES = {words.DECODED: None, words.JPEG_75: through_jpeg}


def stored(batches: Iterator, protocol: Protocol, plan: ClipPlan, stride: int = 1) -> Iterator:
    """Batches (uint8 clips, labels) as the protocol's network meets them: cut, shrunk, and through its storage."""
    storage = STORAGES[protocol.storage]
    for video, labels in batches:
        video = cut(video, plan.frames, stride, plan.size)
        yield (storage(video) if storage else video), labels


def crop_to(video: Tensor, size: int) -> Tensor:
    """float `[B, 3, T, H, W]` -> `[B, 3, T, size, size]`: the shorter side resized, bilinear, then the centre cropped
    (VideoGPT)."""
    height, width = video.shape[3:]
    scale = size / min(height, width)
    target = [size if side == min(height, width) else int(np.ceil(side * scale)) for side in (height, width)]
    pictures = video.transpose(1, 2).flatten(0, 1)
    pictures = torch.nn.functional.interpolate(pictures, size=target, mode="bilinear", align_corners=False)
    top, left = (pictures.shape[2] - size) // 2, (pictures.shape[3] - size) // 2
    pictures = pictures[:, :, top : top + size, left : left + size]
    return pictures.unflatten(0, (len(video), -1)).transpose(1, 2)
