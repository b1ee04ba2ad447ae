"""Clips a second of every stage, and how long training waits for data: `python -m benchmarks.stages`."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.command import CommonFlags, flag, run_command
from runtime.output import check_file

STAGES = ("reading", "reading-files", "tokenizer-step", "encoding", "encoding-files", "generator-step", "sampling")
STAGES += ("features", "distances")


@dataclass(frozen=True, kw_only=True)
class StagesConfig(CommonFlags):
    """Flags of `python -m benchmarks.stages`."""

    stages: tuple[str, ...] = flag(STAGES, "which stages", choices=STAGES)
    seconds: float = flag(5.0, "time for each stage", low=0.0)
    batch_size: int = flag(
        16, "clips in a batch of the tokenizer; the generator takes four times as many", low=1, high=65_536
    )
    preset: str = flag("demo", "size of the tokenizer that encodes files", choices=("demo", "paper"))
    size: int = flag(128, "pixels of the clips that it encodes", low=8, high=8192)
    workers: int | None = flag(None, "threads that decode them; default: one a core, at most 8", low=1, high=1024)
    root: str | None = flag(None, "folder of real videos to read; default: $PVVAE_TEST_DATA/ucf101 where it exists")
    smoke: bool = flag(False, "each stage once, as small as it gets: does it run?")
    out: str | None = flag(None, "JSON file to write, e.g. benchmarks/results/stages-cpu.json", check=check_file)


@dataclass(frozen=True)
class Sizes:
    """How much one repeat of a stage handles that has no flag of its own."""

    clips: int = 64
    judged: int = 32
    latents: int = 64
    euler: int = 100
    features: tuple[int, int] = (2048, 400)


SMOKE = Sizes(clips=2, judged=2, latents=2, euler=2, features=(16, 4))


def stages(config: StagesConfig, results: dict | None = None) -> dict:
    """Measure, print a line a stage, and write the JSON when `--out` is given.

    Args:
        results: Where to put them; default: the `Results` of `--out`.
    """
    from benchmarks.measuring import Results
    from runtime.measuring import peak_memory_gib
    from runtime.processes import resolve_device, resolve_dtype

    device = resolve_device(config.device)
    dtype = resolve_dtype(config.dtype, device)
    measures: dict[str, Callable] = {
        "reading": reading,
        "reading-files": reading_files,
        "tokenizer-step": tokenizer_step,
        "encoding": encoding,
        "encoding-files": encoding_files,
        "generator-step": generator_step,
        "sampling": sampling,
        "features": features,
        "distances": distances,
    }
    if config.smoke:
        config = replace(config, batch_size=2, size=32, seconds=0.0)
    facts = {"device": str(device), "dtype": str(dtype), "seed": config.seed, "batch_size": config.batch_size}
    results = Results(config.out, **facts) if results is None else results
    for name in config.stages:
        if name.endswith("-files") and _films(config, config.size) is None:
            print(f"{name:16} not measured: no real videos (give --root), or no PyAV to read them")
            continue
        found = results.measure(
            name,
            lambda name=name: (
                measures[name](config, device, dtype) | {"peak_memory_gib": round(peak_memory_gib(device), 3)}
            ),
        )
        if found is None or "per_second" not in found:
            continue
        more = f"  data wait {100 * found['data_wait']:.1f} %" if "data_wait" in found else ""
        if "in_model" in found:
            more = f"  in the model {100 * found['in_model']:.1f} % of the time"
        print(
            f"{name:16} {found['per_second']:10.2f} {found['unit']}  ({found['low']:.2f} … {found['high']:.2f}, "
            f"{found['repeats']} repeats){more}"
        )
    return results


def _sizes(config: StagesConfig) -> Sizes:
    return SMOKE if config.smoke else Sizes()


def _demo_models(device):
    """The demo's networks as they start, in training mode."""
    import torch

    from generator import Latte
    from generator.presets import PRESETS as GENERATORS
    from tokenizer import PVVAE
    from tokenizer.presets import PRESETS as TOKENIZERS

    torch.manual_seed(0)
    vae = PVVAE(TOKENIZERS["demo"].model).to(device, memory_format=torch.channels_last_3d)
    size = vae.spec.latent_shape(17, 32, 32)
    config = replace(
        GENERATORS["demo"].model, channels=size[0], groups=size[1], height=size[2], width=size[3], num_classes=12
    )
    return vae, Latte(config).to(device)


def _clips(count: int, device):
    """float32 `[count, 3, 17, 32, 32]` in [-1, 1]."""
    import torch

    from videos import ClipSpec, open_dataset, to_float

    dataset = open_dataset("moving_shapes", split="train", clip=ClipSpec(num_frames=17, size=32))
    video = torch.stack([torch.as_tensor(dataset[i]["video"]) for i in range(count)])
    return to_float(video.to(device)).contiguous(memory_format=torch.channels_last_3d)


def reading(config: StagesConfig, device, dtype) -> dict:
    """Synthetic clips, one thread."""
    from benchmarks.measuring import timed
    from videos import ClipSpec, open_dataset

    dataset = open_dataset("moving_shapes", split="train", clip=ClipSpec(num_frames=17, size=32))
    count = _sizes(config).clips
    return timed(
        lambda: [dataset[i] for i in range(count)], items=count, unit="clips", seconds=config.seconds, device=device
    )


def reading_files(config: StagesConfig, device, dtype) -> dict:
    """Real videos: 17 frames, resized and cropped to 256, one thread."""
    from benchmarks.measuring import timed

    dataset = _films(config, 256)
    count = min(8, len(dataset))
    return timed(
        lambda: [dataset.item(i, i) for i in range(count)],
        items=count,
        unit="clips",
        seconds=config.seconds,
        device=device,
    )


def _films(config: StagesConfig, size: int):
    """Real videos as clips of 17 frames; None where there are none, or nothing that reads them."""
    import importlib.util

    from videos import ClipSpec, open_dataset

    root = config.root or (f"{os.environ['PVVAE_TEST_DATA']}/ucf101" if os.environ.get("PVVAE_TEST_DATA") else None)
    if root is None or not Path(root).is_dir() or importlib.util.find_spec("av") is None:
        return None
    return open_dataset("videos", root=root, clip=ClipSpec(num_frames=17, size=size))


def encoding_files(config: StagesConfig, device, dtype) -> dict:
    """Real videos to latents as `tokenizer.encode` makes them, reading and decoding included, without writing; also the
    share of the time that the model has work."""
    import statistics
    import time
    from contextlib import closing

    import torch

    from runtime.log import Progress
    from tokenizer import PVVAE
    from tokenizer.encode import EncodeConfig, encode_block, read_blocks
    from tokenizer.presets import PRESETS

    dataset = _films(config, config.size)
    torch.manual_seed(0)
    vae = PVVAE(PRESETS[config.preset].model).to(device, memory_format=torch.channels_last_3d).eval()
    flags = EncodeConfig(batch_size=config.batch_size, windows=10_000, workers=config.workers)
    rows = len(dataset) * flags.windows
    blocks = [
        range(start, start + config.batch_size) for start in range(0, rows - config.batch_size, config.batch_size)
    ]
    each, inside = [], 0.0
    with closing(read_blocks(dataset, blocks, flags, Progress(rows), device.type == "cuda")) as batches:
        encode_block(vae, next(batches)[1], device, dtype)  # warm-up
        began = last = time.perf_counter()
        while len(each) < 3 or last - began < config.seconds:
            _, video, _ = next(batches)
            start = time.perf_counter()
            encode_block(vae, video, device, dtype)  # ends with a copy to the CPU
            now = time.perf_counter()
            inside += now - start
            each.append(now - last)
            last = now
    return {
        "unit": "clips/s",
        "per_second": config.batch_size * len(each) / (last - began),
        "low": config.batch_size / max(each),
        "high": config.batch_size / min(each),
        "repeats": len(each),
        "seconds_each": statistics.median(each),
        "in_model": inside / (last - began),
    }


def tokenizer_step(config: StagesConfig, device, dtype) -> dict:
    """One whole training step of the demo's video stage, fed by the real loader; also its share of time waiting for
    data."""
    import itertools
    import time

    import torch

    from benchmarks.measuring import timed
    from runtime.processes import autocast
    from tokenizer.losses import tokenizer_loss
    from videos import BatchLoader, Bucket, ClipSpec, open_dataset, to_float

    vae, _ = _demo_models(device)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-4)
    dataset = open_dataset("moving_shapes", split="train", clip=ClipSpec(num_frames=17, size=32))
    batches, counter = iter(BatchLoader([Bucket(dataset, config.batch_size)], seed=config.seed)), itertools.count()
    waited, began = 0.0, time.perf_counter()

    def step() -> None:
        nonlocal waited
        start = time.perf_counter()
        _, batch = next(batches)
        waited += time.perf_counter() - start
        video = to_float(batch["video"].to(device)).contiguous(memory_format=torch.channels_last_3d)
        with autocast(device, dtype):
            output, posterior = vae(video, dropped=next(counter) % 5)
        loss, _ = tokenizer_loss(output, video, posterior, kl_weight=1e-5)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    result = timed(step, items=config.batch_size, unit="clips", seconds=config.seconds, device=device)
    batches.close()
    return result | {"data_wait": waited / (time.perf_counter() - began)}


def encoding(config: StagesConfig, device, dtype) -> dict:
    """Clips to latents, without reading and writing."""
    import torch

    from benchmarks.measuring import timed
    from runtime.processes import autocast

    vae, video = _demo_models(device)[0].eval(), _clips(config.batch_size, device)

    def encode() -> None:
        with torch.no_grad(), autocast(device, dtype):
            vae.encode(video)

    return timed(encode, items=config.batch_size, unit="clips", seconds=config.seconds, device=device)


def generator_step(config: StagesConfig, device, dtype) -> dict:
    """One training step of the demo's generator at four times the batch size, latents read from a file."""
    import torch

    from benchmarks.measuring import noise_latents, timed
    from generator import flow_loss
    from generator.batches import LatentBatches
    from latents_cache import open_latents
    from runtime.processes import autocast

    _, model = _demo_models(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    rows = list(range(4 * config.batch_size))
    with tempfile.TemporaryDirectory() as folder:
        path = noise_latents(Path(folder) / "latents.h5", 256, model.config.latent_shape, classes=12, seed=config.seed)
        reader = open_latents(path)
        batches = LatentBatches(reader, len(rows), rows=rows, seed=config.seed, num_classes=12).stream(0, sys.maxsize)

        def step() -> None:
            latents, noise, t, labels = (value.to(device) for value in next(batches))
            with autocast(device, dtype):
                loss = flow_loss(model, latents, labels, noise=noise, t=t)
            loss.mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        result = timed(step, items=len(rows), unit="clips", seconds=config.seconds, device=device)
        batches.close()
    return result


def sampling(config: StagesConfig, device, dtype) -> dict:
    """Latents from noise in 100 Euler steps, guidance off."""
    import torch

    from benchmarks.measuring import timed
    from generator import integrate
    from runtime.processes import autocast

    model = _demo_models(device)[1].eval()
    sizes = _sizes(config)
    noise = torch.randn(sizes.latents, *model.config.latent_shape, device=device)
    labels = torch.arange(sizes.latents, device=device) % 12

    def draw() -> None:
        with autocast(device, dtype):
            integrate(model, noise, labels, steps=sizes.euler)

    return timed(draw, items=sizes.latents, unit="latents", seconds=config.seconds, device=device)


def features(config: StagesConfig, device, dtype) -> dict:
    """The judge of synthetic clips, float32 as in every evaluation."""
    import torch

    from benchmarks.measuring import timed
    from eval.features.shapes import ShapesNet

    count = _sizes(config).judged
    network, video = ShapesNet().to(device).eval(), _clips(count, device)

    def extract() -> None:
        with torch.no_grad():
            network.features(video)

    return timed(extract, items=count, unit="clips", seconds=config.seconds, device=device)


def distances(config: StagesConfig, device, dtype) -> dict:
    """Fréchet and kernel distance of two sets of 2,048 x 400 features (always on the CPU, float64)."""
    import numpy as np
    import torch

    from benchmarks.measuring import timed
    from eval import frechet_distance, kernel_distance

    random = np.random.default_rng(config.seed)
    a, b = random.standard_normal((2, *_sizes(config).features))
    return timed(
        lambda: (frechet_distance(a, b), kernel_distance(a, b)),
        items=1,
        unit="pairs",
        seconds=config.seconds,
        device=torch.device("cpu"),
    )


if __name__ == "__main__":
    run_command(stages, StagesConfig, example="python -m benchmarks.stages --out benchmarks/results/stages-cpu.json")
