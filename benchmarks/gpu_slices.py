"""The slices of `benchmarks.gpu`: what each measures, the most wanted first; see there."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.generator import GeneratorSpeedConfig, generator_speed
from runtime.command import CommonFlags, flag

if TYPE_CHECKING:
    from benchmarks.measuring import Results

# Tokenizers whose sizes only diffusers knows.
PEERS = ("cogvideox", "iv-vae", "wf-vae-l", "hunyuanvideo", "wan2.1", "wan2.2", "ssvae")
# Slices, the most wanted first, and packages that each needs beside torch and numpy.
NEEDED = {
    "generator": ("torchdiffeq", "timm", "einops", "h5py"),
    "training": ("torchdiffeq", "timm", "einops", "h5py", "safetensors"),
    "tokenizer": ("timm", "einops"),
    "stages": ("torchdiffeq", "timm", "einops", "h5py", "scipy", "threadpoolctl"),
    "eval": ("h5py", "scipy", "threadpoolctl", "timm", "safetensors"),
    "demo": ("torchdiffeq", "timm", "einops", "h5py", "scipy", "threadpoolctl", "safetensors"),
    "tests": ("pytest", "torchdiffeq", "timm"),
    "speed": ("diffusers", "torchdiffeq", "timm", "h5py"),
}


@dataclass(frozen=True, kw_only=True)
class GpuConfig(CommonFlags):
    """Flags of `python -m benchmarks.gpu`."""

    slices: tuple[str, ...] = flag(tuple(NEEDED), "which slices, in this order", choices=tuple(NEEDED))
    out: str = flag("benchmarks/results", "folder of gpu-….json; it is made when absent")
    minutes: float = flag(9.0, "longest time of a slice", low=0.1, high=10_000.0)
    in_all: float | None = flag(None, "minutes of all slices together; default: no limit", low=0.1)
    smoke: bool = flag(False, "as small as it gets, on any device: does every slice run?")


def generator(config: GpuConfig, results: Results) -> None:
    """The network alone, beside the plain way and the bound (`benchmarks.generator`)."""
    common = {"device": config.device, "seed": config.seed, "smoke": config.smoke}
    if config.smoke:
        generator_speed(GeneratorSpeedConfig(presets=("latte-s",), dtypes=("float32",), **common), results)
        return
    ours = {**common, "dtypes": ("bfloat16",), "works": ("train",), "control": False}
    for changes in compiled_or_not(GeneratorSpeedConfig):
        for batch_size in (64, 32, 16):
            flags = {**ours, **changes, "batch_size": batch_size}
            generator_speed(GeneratorSpeedConfig(presets=("latte-xl",), **flags), results)
    sampling = {**common, "works": ("sample",), "dtypes": ("bfloat16",), "compile": "true", "batch_size": 32}
    for scale in (1.0, 2.0):
        generator_speed(GeneratorSpeedConfig(presets=("latte-xl",), guidance_scale=scale, **sampling), results)
    beside = {**common, "dtypes": ("bfloat16",), "compile": "true", "batch_size": 8}
    for presets in (("latte-xl",), ("latte-b", "latte-s"), ("latte-l", "demo")):
        generator_speed(GeneratorSpeedConfig(presets=presets, works=("train", "sample"), **beside), results)
    for batch_size in (64, 256):
        flags = {**ours, "batch_size": batch_size, "compile": "true"}
        generator_speed(GeneratorSpeedConfig(presets=("latte-b", "latte-s"), **flags), results)
    generator_speed(
        GeneratorSpeedConfig(presets=("latte-xl",), **common | {"works": ("loader",), "batch_size": 64}), results
    )


def compiled_or_not(flags: type) -> list[dict]:
    """What a command can do for speed and memory, the most wanted first, as far as it has the flags."""
    known = {field.name for field in fields(flags)}
    wanted = (
        {"compile": "true", "recompute": "cheap"},
        {"compile": "true", "recompute": "blocks"},
        {"compile": "true"},
        {"compile": "true", "checkpoint_blocks": True},
        {"compile": "false"},
    )
    return [each for each in wanted if each.keys() <= known] or [{}]


def training(config: GpuConfig, results: Results) -> None:
    """`generator.train` as users call it, on latents made of noise: seconds a step, and MFU."""
    from generator.train import TrainConfig

    cases = [("latte-xl", {**flags, "accumulate": 1}) for flags in compiled_or_not(TrainConfig)]
    cases += [("latte-xl", {**compiled_or_not(TrainConfig)[0], "accumulate": parts}) for parts in (2, 4)]
    cases += [("latte-s", compiled_or_not(TrainConfig)[0])]
    cases = [("demo", {})] if config.smoke else cases
    for preset, flags in cases:
        named = ", ".join(f"{name} {value}" for name, value in flags.items())
        results.measure(
            f"{preset}, batch {2 if config.smoke else 64}, {named}",
            lambda preset=preset, flags=flags: train_a_little(config, preset, flags),
        )


def train_a_little(config: GpuConfig, preset: str, flags: dict) -> dict:
    """Seconds of a step, the median of the second half of a short run, its share of what the GPU is made for, and peak
    memory."""
    import torch

    from benchmarks.measuring import noise_latents
    from generator.config import LatteConfig
    from generator.latte import forward_flops
    from generator.train import TrainConfig, train
    from runtime.checkpoint import find_checkpoint
    from runtime.measuring import peak_memory_gib, stated_peak
    from runtime.processes import resolve_dtype
    from runtime.records import from_record, read_json, read_lines

    device = torch.device(config.device)
    torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    steps = 4 if config.smoke else 40
    with tempfile.TemporaryDirectory() as folder:
        shape = (4, 2, 2, 2) if config.smoke else (64, 5, 16, 16)
        latents = noise_latents(Path(folder) / "latents.h5", 16 if config.smoke else 1024, shape, seed=config.seed)
        size = {"batch_size": 2 if config.smoke else 64, "steps": steps}
        size |= {"save_every": steps, "keep_every": steps}  # more would not fit a small disk
        common = {"runs_dir": folder, "name": "run", "device": config.device, "seed": config.seed}
        run = train(TrainConfig(latents=str(latents), preset=preset, **size, **common, **flags))
        lines = read_lines(run / "metrics.jsonl", {"step": int, "time": float})
        source = find_checkpoint(run) / "config.json"
        flops = 3 * forward_flops(from_record(LatteConfig, read_json(source), source)) * size["batch_size"]
    each = [after["time"] - before["time"] for before, after in itertools.pairwise(lines)][steps // 2 - 1 :]
    found = {"seconds": statistics.median(each), "slowest": max(each), "steps": len(each)}
    found |= {"tflops": flops / found["seconds"] / 1e12}
    if peak := stated_peak(device, resolve_dtype("auto", device)):
        found["mfu"] = flops / found["seconds"] / peak
    return found | {"peak_memory_gib": peak_memory_gib(device), "last_line": lines[-1]}


def tokenizer(config: GpuConfig, results: Results) -> None:
    """The paper's tokenizers and, where diffusers is there, Wan2.2's: encode, decode, train; then training steps."""
    from benchmarks.tokenizer import PEER, TokenizerSpeedConfig, tokenizer_speed

    peer = (PEER,) if importlib.util.find_spec("diffusers") else ()
    shape = {"size": 32, "frames": 5, "turns": 1} if config.smoke else {"size": 256, "frames": 17, "turns": 5}
    models = [("demo",)] if config.smoke else [("paper",), ("paper-transformer",), peer]
    for each in filter(None, models):
        flags = {"models": each, "dtypes": ("float32",) if config.smoke else ("bfloat16",), **shape}
        tokenizer_speed(TokenizerSpeedConfig(device=config.device, seed=config.seed, **flags), results)
    for batch in (1,) if config.smoke else (1, 2, 4):
        name = f"training step, batch {batch} of {shape['frames']}x{shape['size']}x{shape['size']}"
        results.measure(name, lambda batch=batch: tokenizer_step(config, batch, shape))


def tokenizer_step(config: GpuConfig, batch: int, shape: dict) -> dict:
    """A step of PV-VAE: predictive reconstruction with two groups dropped, AdamW; time and peak memory."""
    import torch

    from benchmarks.measuring import timed
    from runtime.measuring import peak_memory_gib
    from runtime.processes import autocast, resolve_dtype
    from tokenizer import PVVAE
    from tokenizer.losses import tokenizer_loss
    from tokenizer.presets import PRESETS

    device = torch.device(config.device)
    dtype, cuda = resolve_dtype(config.dtype, device), device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    with device:
        vae = PVVAE(PRESETS["demo" if config.smoke else "paper"].model).to(memory_format=torch.channels_last_3d)
        video = torch.rand(batch, 3, shape["frames"], shape["size"], shape["size"]) * 2 - 1
    video = video.contiguous(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=5e-5, fused=cuda)

    def step() -> None:
        with autocast(device, dtype):
            output, posterior = vae(video, dropped=1 if config.smoke else 2)
        tokenizer_loss(output, video, posterior, kl_weight=1e-6)[0].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    found = timed(step, items=batch, unit="clips", seconds=0.0 if config.smoke else 10.0, device=device)
    return found | {"peak_memory_gib": round(peak_memory_gib(device), 2)}


def stages(config: GpuConfig, results: Results) -> None:
    """Every stage of the demo (`benchmarks.stages`)."""
    from benchmarks.stages import StagesConfig
    from benchmarks.stages import stages as measure

    measure(StagesConfig(device=config.device, seed=config.seed, smoke=config.smoke), results)


def evaluation(config: GpuConfig, results: Results) -> None:
    """Feature networks, and a whole evaluation (`benchmarks.eval`)."""
    import torch

    from benchmarks.eval import NETWORKS, EvalConfig, end_to_end, extraction

    size = {"clips": 16, "batch_size": 2, "size": 32, "seconds": 0.0} if config.smoke else {"clips": 512}
    flags = EvalConfig(device=config.device, seed=config.seed, **size)
    device = torch.device(config.device)
    for network in ("shapes",) if config.smoke else NETWORKS:
        results.measure(f"features: {network}", lambda network=network: extraction(flags, network, device))
    if not config.smoke:
        results.measure(f"end to end, {flags.clips} clips", lambda: end_to_end(flags, flags.clips, device))


def demo(config: GpuConfig, results: Results) -> None:
    """The demo at 64 pixels with more steps, kept beside the results: every command resumes."""
    from eval.fvd import FVDConfig, fvd
    from generator import train as generator_train
    from tokenizer import encode as tokenizer_encode
    from tokenizer import train as tokenizer_train

    small, runs = config.smoke, str(Path(config.out) / ("gpu-runs-smoke" if config.smoke else "gpu-runs"))
    common = {"runs_dir": runs, "device": config.device, "seed": config.seed}
    latents = f"{runs}/latents.h5"

    def chain() -> dict:
        size = {"size": 32, "batch_size": 2, "steps": 3} if small else {"size": 64, "batch_size": 64, "steps": 6000}
        given = {"preset": "demo", "data": "moving_shapes", "name": "tokenizer", **size}
        given |= {"validation_clips": 2} if small else {}
        preset = tokenizer_train.preset_defaults(dict(given))
        tokenizer_train.train(tokenizer_train.TrainConfig(**{**preset, **given, **common}))
        flags = {"max_clips": 48, "batch_size": 16} if small else {"batch_size": 256}
        tokenizer_encode.encode(
            tokenizer_encode.EncodeConfig(
                tokenizer=f"{runs}/tokenizer", data="moving_shapes", out=latents, **flags, **common
            )
        )
        size = {"batch_size": 2, "steps": 1} if small else {"batch_size": 256, "steps": 10_000}
        given = {"preset": "demo", "latents": latents, "name": "generator", **size}
        preset = generator_train.preset_defaults(dict(given))
        run = generator_train.train(generator_train.TrainConfig(**{**preset, **given, **common}))
        size = {"samples": 4, "steps": 1, "batch_size": 4} if small else {"samples": 2048}
        return json.loads(Path(fvd(FVDConfig(run=str(run), features="shapes", **size, **common))).read_text())

    results.measure("moving_shapes", chain)


def tests(config: GpuConfig, results: Results) -> None:
    """The tests that need a GPU, of the files that name it."""
    root = Path(__file__).parents[1]
    named = [path for path in root.glob("tests/**/test_*.py") if "pytest.mark.gpu" in path.read_text()]
    files = sorted((str(path.relative_to(root)) for path in named), key=len)

    def run(file: str) -> dict:
        line = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", file]
        done = subprocess.run(line, cwd=root, capture_output=True, text=True)
        last = ([""] + done.stdout.strip().splitlines())[-1]
        counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)", last)}
        if done.returncode or not counts:
            raise RuntimeError(f"{last or done.stderr.strip().splitlines()[-1:]}")
        return counts

    for file in files[:1] if config.smoke else files:
        results.measure(file, lambda file=file: run(file))


def speed(config: GpuConfig, results: Results) -> None:
    """Each tokenizer of others in a process of its own (`eval.speed`)."""
    from eval.speed import SpeedConfig
    from eval.speed import speed as measure

    def one(name: str) -> dict:
        with tempfile.TemporaryDirectory() as folder:
            out = f"{folder}/speed.json"
            size = {"warmup": 1, "repeats": 1, "train_steps": 1} if config.smoke else {"warmup": 2, "repeats": 5}
            size |= {"size": 32, "num_frames": 5, "batch_size": 1} if config.smoke else {"train_steps": 3}
            flags = {"tokenizers": (name,), "weights": ("random",) if name in PEERS else ("own",)}
            measure(SpeedConfig(**flags, **size, rounds=1, device=config.device, seed=config.seed, out=out))
            return {"rows": json.loads(Path(out).read_text())["rows"]}

    for name in ("moving-shapes",) if config.smoke else PEERS:
        results.measure(name, lambda name=name: one(name))


SLICES: dict[str, Callable] = {
    "generator": generator,
    "training": training,
    "tokenizer": tokenizer,
    "stages": stages,
    "eval": evaluation,
    "demo": demo,
    "tests": tests,
    "speed": speed,
}
