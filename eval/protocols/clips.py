"""The clips that a protocol sees: how many, which real ones, which frames of them, and how they become bytes of its
size.

Everything starts from one file of sampled latents and one data set, those of the generator that is judged.
"""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eval.clip_sets import names_of
from eval.protocols import presets as words
from eval.protocols.presets import Protocol
from runtime.errors import InputError
from runtime.seeds import numpy_generator
from videos import ClipSpec, open_dataset
from videos.clip import resize_and_crop
from videos.splits import split_folder

# Fewer than every feature network here can see.
FEWEST_FRAMES = 9
# The seeds of cd-fvd's shuffle and of V-RAE's draw.
CD_FVD_SEED, V_RAE_SEED = 42, 3407
JPEG_QUALITY, MP4_CRF, MP4_FPS = 75, 5, 8
# References that are the first of all clips in random order.
SHUFFLED = (words.FOLDERS_DRAWN, words.ONE_BATCH, words.WINDOWS_SHUFFLED, words.EVERY_VIDEO)


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
    if protocol.generated_resize == words.AS_MADE and size < min(clip.height, clip.width):
        unmet.append(f"generated clips shrunk to {size} pixels, antialiased ({protocol.name}: made at this size)")
    return ClipPlan(generated, real, protocol.repeats, frames, size, tuple(unmet))


class OneWindow:
    """One clip of every video of a data set that a protocol takes, read at the video's size and resized its way.

    Item numbers are those of the videos, without the ones that are too short for it.
    """

    def __init__(self, dataset, protocol: Protocol, plan: ClipPlan):
        self.dataset, self._protocol, self._plan = dataset, protocol, plan
        self._filmed = hasattr(dataset, "lengths")  # what is drawn, not filmed, is drawn at any size and has one window
        least = 0
        if self._filmed and protocol.short_videos == words.DISCARDED:
            least = plan.frames * dataset.clip.strides[1]
        self.videos = [i for i in range(len(dataset)) if not self._filmed or dataset.lengths[i] >= least]

    def __len__(self) -> int:
        return len(self.videos)

    def item(self, index: int, seed: int) -> dict:
        """{"video": uint8 `[3, frames, size, size]`, "label"}; `seed` decides a random window."""
        if self._filmed:
            video, frames = self.window(index, seed)
            source = self.dataset.sources[video]
            pictures, label = self.dataset.read(source, frames).transpose(3, 0, 1, 2), self.dataset.label(source)
        else:
            found = self.dataset.item(self.videos[index], seed)
            pictures, label = found["video"], found["label"]
        # Resized and made bytes as the protocol does it.
        unit = torch.from_numpy(np.ascontiguousarray(pictures))[None].float() / 255.0
        resized = _to_size(unit, self._plan.size, self._protocol.real_resize)
        return {"video": BYTES[self._protocol.real_bytes](resized)[0].contiguous().numpy(), "label": label}

    def names(self, items: Sequence[int]) -> list[str]:
        """What tells items apart."""
        return names_of(self.dataset, [self.videos[item] for item in items])

    def window(self, index: int, seed: int) -> tuple[int, np.ndarray]:
        """The video of an item, and which frames of it: int64 `[frames]`."""
        video, clip = self.videos[index], self.dataset.clip
        if self._protocol.window != words.SHA256_FRAME:
            return video, clip.frame_indices(self.dataset.lengths[video], seed)
        frames = self.dataset.strides[video] * np.arange(clip.num_frames)
        digest = hashlib.sha256(f"{V_RAE_SEED}:{index}:consecutive".encode()).digest()
        return video, frames + int.from_bytes(digest[:8], "little") % (self.dataset.lengths[video] - int(frames[-1]))


class EveryWindow(OneWindow):
    """Every window of every video as an item of its own.

    Item numbers run through the windows of the first video, then those of the second, and so on.
    """

    def __init__(self, dataset, protocol: Protocol, plan: ClipPlan):
        super().__init__(dataset, protocol, plan)
        last = dataset.clip.num_frames - 1
        spans = [dataset.lengths[i] - last * dataset.strides[i] if self._filmed else 1 for i in self.videos]
        self._ends = np.cumsum(spans)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.videos else 0

    def names(self, items: Sequence[int]) -> list[str]:
        """What tells items apart: the video, and the frame that they start at."""
        if not self._filmed:
            return super().names(items)
        found = [self.window(item, 0) for item in items]
        names = names_of(self.dataset, [video for video, _ in found])
        return [f"{name}:{frames[0]}" for name, (_, frames) in zip(names, found, strict=True)]

    def window(self, index: int, seed: int) -> tuple[int, np.ndarray]:
        """As of `OneWindow`; the number alone decides, so `seed` is not used."""
        place = int(np.searchsorted(self._ends, index, side="right"))
        video, start = self.videos[place], index - (int(self._ends[place - 1]) if place else 0)
        return video, start + self.dataset.strides[video] * np.arange(self.dataset.clip.num_frames)


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
    kind = EveryWindow if protocol.window == words.EVERY_FRAME else OneWindow
    candidates = kind(dataset, protocol, plan)
    short = sum(found < dataset.clip.strides[1] for found in getattr(dataset, "strides", ()))
    if short and protocol.short_videos != words.DISCARDED:
        unmet.append(f"{short} of {len(dataset)} real videos are too short for stride {stride}: the largest that fits")
    left_out = sum(file.frames < plan.frames for file in getattr(dataset, "files", ()))
    if left_out and protocol.short_videos == words.NEXT_VIDEO:
        unmet.append(f"{left_out} real videos of fewer than {plan.frames} frames left out ({protocol.name}: the next)")
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
        return _same_videos(judge.reference_items, judge.dataset, candidates.dataset)
    if protocol.reference == words.FIRST_SORTED:
        return list(range(len(candidates)))
    if protocol.reference == words.SAMPLED:
        return random.Random(V_RAE_SEED).sample(range(len(candidates)), min(protocol.real, len(candidates)))
    seed = CD_FVD_SEED if protocol.reference == words.EVERY_VIDEO else seed
    return numpy_generator(seed, "reference of", protocol.name).permutation(len(candidates)).tolist()


def _same_videos(items: Sequence[int], before, after) -> list[int]:
    """Items of one opening of a data set in another, which may have let in shorter videos."""
    if not hasattr(after, "sources"):
        return list(items)
    places = {source: place for place, source in enumerate(after.sources)}
    return [places[before.sources[item]] for item in items]


# -- from pictures to what the network meets ---------------------------------------------------------------------------


def crop_to(pictures: Tensor, size: int, antialias: bool = False) -> Tensor:
    """float `[N, 3, H, W]` -> `[N, 3, size, size]`: the shorter side resized, bilinear, the longer in proportion and
    rounded up, then the centre cropped (VideoGPT, TATS, cd-fvd)."""
    height, width = pictures.shape[2:]
    if (height, width) == (size, size):
        return pictures
    target = [int(np.ceil(side * (size / min(height, width)))) for side in (height, width)]
    target[int(width <= height)] = size
    resized = torch.nn.functional.interpolate(
        pictures, size=target, mode="bilinear", align_corners=False, antialias=antialias
    )
    top, left = (target[0] - size) // 2, (target[1] - size) // 2
    return resized[:, :, top : top + size, left : left + size]


def _by_lanczos(pictures: Tensor, size: int, crop_first: bool) -> Tensor:
    """As `crop_to` by PIL, whose pictures are bytes; cropped before (Latte, V-RAE) or after (StyleGAN-V)."""
    from PIL import Image

    def resize(picture: Image.Image) -> Image.Image:
        if crop_first:
            picture = _centre(picture, min(picture.size))
        short = min(picture.size)
        target = [size if side == short else int(size * side / short) for side in picture.size]
        return _centre(picture.resize(target, Image.Resampling.LANCZOS), size)

    found = [np.asarray(resize(Image.fromarray(picture))) for picture in _frames(BYTES[words.ROUNDING](pictures))]
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).float() / 255.0


def _centre(picture, size: int):
    """The square in the centre of a PIL image; half a pixel is rounded to even, as by torchvision (V-RAE: down)."""
    left, top = (round((side - size) / 2.0) for side in picture.size)
    return picture.crop((left, top, left + size, top + size))


def _by_bytes(pictures: Tensor, size: int) -> Tensor:
    """As the data sets here do it."""
    shrunk = resize_and_crop(_frames(BYTES[words.ROUNDING](pictures)), size)
    return torch.from_numpy(shrunk).permute(0, 3, 1, 2).float() / 255.0


def _frames(pictures: Tensor) -> np.ndarray:
    """uint8 `[N, 3, H, W]` -> `[N, H, W, 3]`."""
    return np.ascontiguousarray(pictures.permute(0, 2, 3, 1).cpu().numpy())


# Floats in [0, 1] -> floats in [0, 1] of another size -> uint8.
RESIZES: dict[str, Callable[[Tensor, int], Tensor]] = {
    words.ANTIALIASED: _by_bytes,
    words.SMOOTH: partial(crop_to, antialias=True),
    words.CROP: crop_to,
    words.LANCZOS: partial(_by_lanczos, crop_first=False),
    words.CROP_LANCZOS: partial(_by_lanczos, crop_first=True),
}
BYTES: dict[str, Callable[[Tensor], Tensor]] = {
    words.ROUNDING: lambda unit: (unit * 255.0).round().clamp(0, 255).to(torch.uint8),
    words.TRUNCATING: lambda unit: (unit * 255.0).clamp(0, 255).to(torch.uint8),
    # In float32 what is left of a dark level is a little less than there was.
    words.CENTRED: lambda unit: ((unit - 0.5 + 0.5) * 255.0).clamp(0, 255).to(torch.uint8),
}


def through_jpeg(video: Tensor) -> Tensor:
    """Every frame written as JPEG and read again: uint8 `[B, 3, T, H, W]` like `video`."""
    from PIL import Image

    read = []
    for picture in _frames(video.transpose(1, 2).flatten(0, 1)):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=JPEG_QUALITY)
        read.append(np.asarray(Image.open(file)))
    return torch.from_numpy(np.stack(read)).unflatten(0, (len(video), -1)).permute(0, 4, 1, 2, 3).contiguous()


def through_mp4(video: Tensor) -> Tensor:
    """Every clip written as H.264 in yuv420p and read again: uint8 `[B, 3, T, H, W]` like `video`.

    With one thread, since the encoder's choices depend on their number, and with the bicubic conversion of colours that
    ffmpeg's own command uses.
    """
    import av

    height, width = video.shape[3:]
    read = []
    for clip in video:
        # Four pixels share a colour: an odd side is padded.
        clip = np.pad(_frames(clip.transpose(0, 1)), ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), "edge")
        file = io.BytesIO()
        with av.open(file, "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=MP4_FPS, options={"crf": str(MP4_CRF)})
            stream.height, stream.width, stream.pix_fmt = *clip.shape[1:3], "yuv420p"
            stream.codec_context.thread_count = 1
            for picture in clip:
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                container.mux(stream.encode(frame.reformat(format="yuv420p", interpolation="BICUBIC")))
            container.mux(stream.encode())
        file.seek(0)
        with av.open(file) as container:
            frames = [f.reformat(format="rgb24", interpolation="BICUBIC") for f in container.decode(video=0)]
        read.append(np.stack([frame.to_ndarray() for frame in frames])[:, :height, :width])
    return torch.from_numpy(np.stack(read)).permute(0, 4, 1, 2, 3).contiguous()


STORAGES: dict[str, Callable[[Tensor], Tensor]] = {
    words.DECODED: lambda video: video,
    words.JPEG_75: through_jpeg,
    words.MP4: through_mp4,
    words.MP4_JPEG: lambda video: through_jpeg(through_mp4(video)),
}
# What each setting may be, where code here follows it; numbers speak for themselves.
FOLLOWED_IN_CLIPS: dict[str, tuple[str, ...]] = {
    "reference": (words.STRATIFIED, words.FIRST_SORTED, words.SAMPLED, *SHUFFLED),
    "split": (words.GENERATORS_SPLIT, words.FOLDER_GIVEN, words.ALL_OF_IT, words.TEST_SPLIT, words.TRAIN_SPLIT),
    "window": (words.GENERATORS_WINDOW, words.RANDOM_FRAME, words.EVERY_FRAME, words.SHA256_FRAME),
    "short_videos": (words.SHRUNK, words.DISCARDED, words.NEXT_VIDEO),
    "real_resize": tuple(RESIZES),
    "generated_resize": (words.AS_MADE, *RESIZES),
    "real_bytes": tuple(BYTES),
    "generated_bytes": tuple(BYTES),
    "real_storage": tuple(STORAGES),
    "generated_storage": tuple(STORAGES),
}


def _to_size(unit: Tensor, size: int, resize: str) -> Tensor:
    """float `[B, 3, T, H, W]` in [0, 1] -> `[B, 3, T, size, size]`."""
    if tuple(unit.shape[3:]) == (size, size):
        return unit
    pictures = RESIZES[words.SMOOTH if resize == words.AS_MADE else resize](unit.transpose(1, 2).flatten(0, 1), size)
    return pictures.to(unit.device).unflatten(0, (len(unit), -1)).transpose(1, 2)


def generated_change(protocol: Protocol, plan: ClipPlan) -> Callable[[Tensor], Tensor]:
    """From decoded clips, float `[B, 3, T, H, W]` in [-1, 1] on any device (values outside are clamped), to what the
    protocol's network meets: every stride-th frame, resized, made bytes, through its storage; uint8 `[B, 3, frames,
    size, size]` on the CPU."""
    stride = protocol.generated_stride
    storage, to_bytes = STORAGES[protocol.generated_storage], BYTES[protocol.generated_bytes]

    def change(video: Tensor) -> Tensor:
        video = video[:, :, : (plan.frames - 1) * stride + 1 : stride]
        unit = _to_size((video.float().clamp(-1, 1) + 1.0) / 2.0, plan.size, protocol.generated_resize)
        return storage(to_bytes(unit).cpu())

    return change
