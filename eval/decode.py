"""Turn sampled latents into clips: `python -m eval.decode --run RUN --count 16 --out DIR`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.entries import DecoderFlags
from generator.sample import SamplingFlags, sampling_of
from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError
from runtime.files import replacing
from runtime.output import check_folder

BATCH = 32  # clips that are yielded at once
# Of clips in one pass of a tokenizer: four of 17x256x256, 11 GiB of the paper's decoder in float32 as counted. A fixed
# number, so that rounding does not depend on the machine.
PIXELS = 4 * 17 * 256 * 256
LARGEST_GRID = 256  # clips


def weights_of(facts: dict, tokenizer: str | None, weights: str | None) -> str | None:
    """The weights that a tokenizer is loaded with: those that were asked for, else those that the facts of latents name
    for it, if it is theirs; None: its own."""
    return weights or (facts.get("weights") if tokenizer in (None, facts.get("tokenizer")) else None)


def fitting_tokenizer(
    facts: dict,
    source: object,
    tokenizer: str | None = None,
    weights: str | None = None,
    *,
    device: str = "auto",
    download: bool = False,
):
    """The tokenizer whose decoder fits latents.

    Args:
        facts: What is known of the latents: "tokenizer", "weights" where it was given others, and "encoder_hash".
        source: Where they come from, for the message.
        tokenizer: Run, folder or name; default: the one that the facts name.
        weights: Its weight file, or "random"; default: that of the facts, if they name this tokenizer.
        download: Fetch it from the Hugging Face Hub where it is not here.

    Raises:
        InputError: If its *encoder* is another one than theirs, or the facts name code that may have come with them.
            Another decoder of the same encoder is welcome.
    """
    from runtime.processes import resolve_device
    from tokenizer.zoo import check_named_by_file, load

    name = tokenizer or facts.get("tokenizer")
    if not name:
        raise InputError(f"{source}: it names no tokenizer; give --tokenizer")
    if not tokenizer:
        check_named_by_file(name, source)
    weights = weights_of(facts, tokenizer, weights)
    vae = load(name, weights, device=resolve_device(device), download=download)
    wanted = facts.get("encoder_hash")
    if wanted and vae.encoder_hash != wanted:
        raise InputError(
            f"{source}: the latents are of encoder {wanted}, tokenizer {name} has {vae.encoder_hash}; "
            "decode with the tokenizer that encoded them (a fine-tuned decoder of it will do)"
        )
    return vae


def sampled(config: CommonFlags, run: str, samples: int, **more) -> Path:
    """The file of so many samples of a generator; samples what is missing.

    Args:
        config: Of a command that needs them: gives the folder of runs, seed, device and dtype.
        more: Other fields of `SampleConfig`.
    """
    from generator.sample import SampleConfig, sample

    common = {name: getattr(config, name) for name in ("runs_dir", "seed", "device", "dtype")}
    return sample(SampleConfig(**common, run=run, samples=samples, **more))


def clips_at_once(frames: int, height: int, width: int) -> int:
    """How many clips of a size one pass of a tokenizer takes."""
    return max(1, PIXELS // (frames * height * width))


def decoded(reader, vae, blocks: Iterable[Sequence[int]], device, dtype) -> Iterator[tuple]:
    """Decode blocks of rows: yields (float `[b, 3, 1+T, H, W]` on `device`, in [-1, 1] or a little outside, int32
    labels `[b]`); `dtype` is the compute type."""
    import torch

    from runtime.processes import autocast

    for rows in blocks:
        batch = reader.batch(rows)
        latents = torch.from_numpy(batch["mean"].astype(np.float32)).to(device)
        size = clips_at_once(*vae.spec.video_shape(*latents.shape[2:])[1:])
        with torch.no_grad(), autocast(device, dtype):
            video = torch.cat([vae.decode(part) for part in latents.split(size)])
        yield video, batch["label"]


def decoded_clips(reader, vae, count: int, device: str = "cpu", dtype: str = "auto") -> Iterator[tuple]:
    """Decode the first `count` rows in batches: yields (uint8 `[b, 3, 1+T, H, W]`, int32 labels `[b]`)."""
    from runtime.processes import resolve_device, resolve_dtype
    from videos import to_uint8

    if count > len(reader):
        raise InputError(f"{reader.path}: {count} clips asked, it has {len(reader)}")
    place = resolve_device(device)
    blocks = [range(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]
    for video, labels in decoded(reader, vae, blocks, place, resolve_dtype(dtype, place)):
        yield to_uint8(video).cpu(), labels


def file_word(name: str) -> str:
    """A class's name as part of a file name: letters and digits, dashes for everything else."""
    return re.sub(r"[^\w]+", "-", name)[:40].strip("-") or "clip"


@dataclass(frozen=True, kw_only=True)
class DecodeConfig(SamplingFlags, DecoderFlags):
    """Flags of `python -m eval.decode`."""

    run: str | None = flag(None, "run of generator.train or shipped name; default: the newest run")
    step: int | None = flag(None, "which checkpoint; default: the newest", low=0)
    count: int = flag(16, "how many clips", low=1, high=100_000)
    guidance_scale: float = flag(1.0, "classifier-free guidance; 1 is off", low=0.0, high=1000.0)
    grid: bool = flag(False, f"also all clips in one: grid.mp4, and its middle frame as grid.png; up to {LARGEST_GRID}")
    fps: float = flag(8.0, "frames a second of the files", low=0.1, high=1000.0)
    out: str = flag("decoded", "folder to write mp4 files to", check=check_folder)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grid and self.count > LARGEST_GRID:
            raise InputError(f"--grid shows up to {LARGEST_GRID} clips, --count is {self.count}")


def decode(config: DecodeConfig) -> None:
    """Sample what is missing, decode, and write one mp4 a clip, named by index and class."""
    from generator.loading import load_generator
    from latents_cache import open_latents
    from runtime.run import is_main, newest_run
    from videos import write_video

    run = config.run or str(newest_run(config.runs_dir, "generator"))
    # Before anything is sampled: the wrong tokenizer should cost nothing.
    latents = load_generator(run, config.step).latents
    vae = fitting_tokenizer(
        latents, run, config.tokenizer, config.weights, device=config.device, download=config.download
    )
    how = sampling_of(config)
    path = sampled(config, run, config.count, step=config.step, guidance_scale=config.guidance_scale, **how)
    if not is_main():
        return  # sampling was shared, decoding a few clips is not worth it
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    with open_latents(path) as reader:
        names = json.loads(reader.attributes.get("class_names", "[]"))
        index, shown = 0, []
        for video, labels in decoded_clips(reader, vae, config.count, device=config.device, dtype=config.dtype):
            for clip, label in zip(video, labels, strict=True):
                word = file_word(names[label]) if 0 <= label < len(names) else "clip"
                frames = clip.permute(1, 2, 3, 0).numpy()
                write_video(out / f"{index:05d}-{word}.mp4", frames, config.fps)
                shown += [frames] if config.grid else []
                index += 1
    if shown:
        write_grid(out, side_by_side(shown), config.fps)
    print(f"eval.decode: {index} clips in {out}")


def side_by_side(clips: Sequence[np.ndarray], gap: int = 2) -> np.ndarray:
    """Clips uint8 `[N, H, W, 3]` of one size as one, in rows that make it about as wide as high, on white."""
    columns = math.ceil(math.sqrt(len(clips)))
    rows = math.ceil(len(clips) / columns)
    frames, height, width, _ = clips[0].shape
    out = np.full((frames, rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for place, clip in enumerate(clips):
        top, left = place // columns * (height + gap), place % columns * (width + gap)
        out[:, top : top + height, left : left + width] = clip
    return out


def write_grid(out: Path, clip: np.ndarray, fps: float) -> None:
    """Write grid.mp4, and its middle frame as grid.png."""
    from PIL import Image

    from videos import write_video

    write_video(out / "grid.mp4", clip, fps)
    with replacing(out / "grid.png", "video") as partial:
        Image.fromarray(clip[len(clip) // 2]).save(partial, "PNG")


if __name__ == "__main__":
    run_command(decode, DecodeConfig, example="python -m eval.decode --run runs/my-generator --count 16 --out clips")
