"""Training steps and sampling of the generator beside the plain way, and beside what the machine allows: `python -m
benchmarks.generator --presets latte-s,latte-b --clock cpu`.

Ours and the control (`benchmarks.plain_latte`) share weights and take turns in one process, so that other work on the
machine falls on both alike, and the fastest turn counts. The bound is the larger of two times: floating-point
operations over the rate of a large matrix product, and the fewest bytes over the rate of a large copy, both measured
just before. The control computes in float32 (TF32 on a GPU), as the reference does.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError
from runtime.output import check_file

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from benchmarks.measuring import Results
    from generator.config import LatteConfig
    from generator.latte import Latte

PRESETS = ("demo", "latte-s", "latte-b", "latte-l", "latte-xl")
WORKS = ("train", "sample", "loader")
DTYPES = ("float32", "bfloat16")
CLASSES = 101
# Passes of AdamW, averaging, forward and backward over each parameter, read or written: weights 2, gradient written 1,
# AdamW reads 4 and writes 3, the average reads 2 and writes 1.
TOUCHES = 13
LOGGED = ("loss", "grad_norm", "loss_t0", "loss_t1", "loss_t2", "loss_t3", "learning_rate", "skipped")


@dataclass(frozen=True, kw_only=True)
class GeneratorSpeedConfig(CommonFlags):
    """Flags of `python -m benchmarks.generator`."""

    presets: tuple[str, ...] = flag(PRESETS, "sizes, on latents 64x5x16x16 (demo: 5x4x4)", choices=PRESETS)
    works: tuple[str, ...] = flag(WORKS, "what to measure", choices=WORKS)
    dtypes: tuple[str, ...] = flag(
        (), "compute types of ours; default: float32, and bfloat16 where the device multiplies it", choices=DTYPES
    )
    batch_size: int = flag(1, "clips in a batch", low=1, high=65_536)
    guidance_scale: float = flag(2.0, "of sampling; 1 is off", low=0.0, high=1000.0)
    compile: str = flag("false", "compile ours block by block", choices=("auto", "true", "false"))
    recompute: str = flag(
        "nothing", "what the backward pass of ours computes again", choices=("nothing", "cheap", "blocks")
    )
    control: bool = flag(True, "measure the control too")
    turns: int = flag(3, "turns of each, after one that does not count", low=1)
    clock: str = flag("wall", "wall, or cpu: processor time, for a busy machine", choices=("wall", "cpu"))
    smoke: bool = flag(False, "networks of two blocks, one turn: does it run?")
    out: str | None = flag(None, "JSON file to write, e.g. benchmarks/results/generator-cpu.json", check=check_file)


def generator_speed(config: GeneratorSpeedConfig, results: Results | None = None) -> dict:
    """Measure, print a line each, and write the JSON when `--out` is given.

    Args:
        results: Where to put them; default: the `Results` of `--out`.
    """
    import torch

    from benchmarks.measuring import Results, clock_of, copy_bandwidth, native_dtypes
    from runtime.measuring import matmul_flops
    from runtime.processes import resolve_device

    device = resolve_device(config.device)
    read = clock_of(config.clock, device)
    if config.smoke:
        config = replace(config, turns=1)
    config = replace(config, dtypes=config.dtypes or native_dtypes(device))
    peaks = {name: matmul_flops(device, getattr(torch, name), config.clock) for name in config.dtypes}
    peaks["bytes"] = copy_bandwidth(device, read)
    facts = {name: getattr(config, name) for name in ("batch_size", "guidance_scale", "compile", "clock", "seed")}
    facts |= {"device": str(device), "peak_per_second": peaks}
    results = Results(config.out) if results is None else results
    results.facts |= facts
    for preset in config.presets:
        for work in config.works:
            for dtype in config.dtypes if work != "loader" else ("float32",):
                name = f"{preset}, {work}, {dtype}, batch {config.batch_size}"
                name += f", guidance {config.guidance_scale:g}" if work == "sample" else ""
                name += ", compiled" if config.compile == "true" and work != "loader" else ""
                name += f", recompute {config.recompute}" if config.recompute != "nothing" and work == "train" else ""
                found = results.measure(name, lambda a=(preset, work, dtype): measure(config, *a, device, peaks))
                if found is not None:
                    print(f"{name:44} {describe(found)}", flush=True)
    return results


def measure(config: GeneratorSpeedConfig, preset: str, work: str, dtype: str, device, peaks: dict) -> dict:
    """One measurement."""
    import torch

    from generator import Latte

    model_config = size_of(preset, config.smoke)
    if work == "loader":
        return loader(config, model_config)
    torch.manual_seed(config.seed)
    torch.compiler.reset()  # what was compiled for another size takes memory, and counts against a limit
    with device:
        model = Latte(model_config)
        awake(model)
        batch = Batch.drawn(config.batch_size, model_config)
    return {"train": train_steps, "sample": samples}[work](config, model, batch, getattr(torch, dtype), peaks)


def size_of(preset: str, smoke: bool = False) -> LatteConfig:
    """The preset's network, conditional on 101 classes."""
    from generator.presets import PRESETS as KNOWN

    size = replace(KNOWN[preset].model, num_classes=CLASSES)
    size = replace(size, height=4, width=4) if preset == "demo" else size
    return replace(size, depth=2, hidden_size=32, num_heads=2, channels=4, height=4, width=4) if smoke else size


def awake(model: Latte) -> None:
    """Weights away from zero, as in the midst of training: at first every block is the identity."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)


@dataclass(frozen=True)
class Batch:
    """One step's input, on the device; see `generator.flow_loss`."""

    latents: Tensor
    noise: Tensor
    t: Tensor
    labels: Tensor

    @classmethod
    def drawn(cls, rows: int, size: LatteConfig) -> Batch:
        import torch

        latents, noise = torch.randn(2, rows, *size.latent_shape)
        return cls(latents, noise, torch.rand(rows), torch.randint(size.num_classes, (rows,)))

    def head(self, count: int) -> Batch:
        """Its first clips."""
        return Batch(*(getattr(self, each.name)[:count] for each in fields(self)))


def train_steps(config: GeneratorSpeedConfig, model: Latte, batch: Batch, dtype: torch.dtype, peaks: dict) -> dict:
    """A whole optimizer update of each: forward, backward, norm of the gradient, AdamW, averaged weights, a line in the
    log; and ours alone in its parts. "overhead" is the share of norm, average and log."""
    import torch

    from benchmarks.measuring import clock_of, take_turns
    from benchmarks.plain_latte import PlainLatte, move_average
    from generator import flow_loss
    from generator.latte import forward_flops
    from runtime import parallel
    from runtime.ema import EMA
    from runtime.log import MetricsLog
    from runtime.measuring import stated_peak, wait
    from runtime.muon import build_optimizers
    from runtime.processes import autocast

    device = batch.latents.device
    require_memory(model, device)
    plain, ema = PlainLatte(model), EMA(model)
    model.recompute = config.recompute
    flops, saved = forward_flops(model.config) * len(batch.t), saved_of_all(model, batch, dtype)
    (ours,) = build_optimizers(model, "adamw", learning_rate=1e-6, betas=(0.9, 0.999), weight_decay=0.0)
    theirs = torch.optim.AdamW(model.parameters(), lr=1e-6)
    agreement = difference(model, plain, batch.head(1))
    parallel.compile_as_asked(model, config.compile, device)
    parts: dict[str, list[float]] = {}
    read = clock_of(config.clock, device)

    def part(name: str, work: Callable[[], object]) -> object:
        start = read()
        found = work()
        wait(device)
        parts.setdefault(name, []).append(read() - start)
        return found

    def forward_backward() -> None:
        with autocast(device, dtype):
            loss = flow_loss(model, batch.latents, batch.labels, noise=batch.noise, t=batch.t).mean()
        loss.backward()

    def step() -> None:
        part("forward and backward", forward_backward)
        part("clip", lambda: torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
        part("optimizer", ours.step)
        part("average", ema.update)
        part("log", lambda: log.write(1, dict.fromkeys(LOGGED, 1.0)))
        model.zero_grad(set_to_none=True)

    def plain_step() -> None:
        loss = flow_loss(plain, batch.latents, batch.labels, noise=batch.noise, t=batch.t).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        theirs.step()
        move_average(ema.average, model, 0.9999)
        theirs.zero_grad()
        loss.item()

    if device.type == "cpu":
        theirs.state = ours.state  # half the memory; on a GPU the two keep their count of steps in different places
    calls = {"ours": step} | ({"control": plain_step} if config.control else {})
    with tempfile.TemporaryDirectory() as folder, tensor_float32(device):
        log = MetricsLog(folder)
        take_turns(calls, 1, read, device)
        parts.clear()
        seconds = take_turns(calls, config.turns, read, device)
        log.close()
    parameters = sum(p.numel() for p in model.parameters())
    moved = 4 * TOUCHES * parameters + 2 * saved
    fastest = {name: min(each) for name, each in parts.items()}
    stated = stated_peak(device, dtype)
    return compared(seconds, 3 * flops, moved, str(dtype).removeprefix("torch."), peaks) | {
        "of_stated_peak": stated and 3 * flops / stated / min(seconds["ours"]),
        "clips_per_second": len(batch.t) / min(seconds["ours"]),
        "parts": fastest,
        "overhead": sum(fastest[name] for name in ("clip", "average", "log")) / min(seconds["ours"]),
        "saved_for_backward_gib": saved / 2**30,
        "parameters": parameters,
        "largest_difference": agreement,
    }


def samples(config: GeneratorSpeedConfig, model: Latte, batch: Batch, dtype: torch.dtype, peaks: dict) -> dict:
    """Two Euler steps of each, from the same noise; seconds are those of one network evaluation."""
    import torch

    from benchmarks.measuring import clock_of, take_turns
    from benchmarks.plain_latte import PlainLatte, sample_plainly
    from generator import integrate
    from generator.latte import forward_flops
    from generator.sample import convert_weights
    from runtime import parallel
    from runtime.processes import autocast

    device, scale, steps = batch.latents.device, config.guidance_scale, 2
    model.eval().requires_grad_(False)
    plain = PlainLatte(model)
    if dtype != torch.float32:  # as `generator.sample` does, and without the control
        model = copy.deepcopy(model)
        convert_weights(model, dtype)

    def draw() -> Tensor:
        with autocast(device, dtype):
            return integrate(model, batch.noise, batch.labels, steps=steps, guidance_scale=scale)

    def draw_plainly() -> Tensor:
        return sample_plainly(plain, batch.noise, batch.labels, steps, scale)[-1]

    agreement = None
    if dtype == torch.float32:
        agreement = float((draw() - draw_plainly()).abs().max())
    parallel.compile_as_asked(model, config.compile, device)
    calls = {"ours": draw} | ({"control": draw_plainly} if config.control else {})
    read = clock_of(config.clock, device)
    with tensor_float32(device):  # compiled code is made anew where that changes, which the first turn is for
        take_turns(calls, 1, read, device)
        seconds = take_turns(calls, config.turns, read, device)
    seconds = {name: [each / steps for each in times] for name, times in seconds.items()}
    rows = len(batch.t) * (1 if scale == 1.0 else 2)
    weights = sum(p.numel() for p in model.parameters()) * dtype.itemsize
    return compared(seconds, forward_flops(model.config) * rows, weights, str(dtype).removeprefix("torch."), peaks) | {
        "rows": rows,
        "seconds_for_2048_clips_of_100_steps": 2048 / len(batch.t) * 100 * min(seconds["ours"]),
        "largest_difference": agreement,
    }


def loader(config: GeneratorSpeedConfig, size: LatteConfig) -> dict:
    """Processor time for one batch as training draws it: rows of a latents file, posterior, noise, times, labels."""
    import torch

    from benchmarks.measuring import clock_of, noise_latents, take_turns
    from generator.batches import LatentBatches
    from latents_cache import open_latents

    device, rows = torch.device("cpu"), range(config.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        path = noise_latents(Path(folder) / "latents.h5", 64, size.latent_shape, seed=config.seed)
        with open_latents(path) as reader:
            batches = LatentBatches(reader, len(rows), rows=rows, seed=config.seed, num_classes=size.num_classes)
            calls = {"ours": lambda: batches.at(0)}
            take_turns(calls, 1, clock_of("cpu", device), device)
            (each,) = take_turns(calls, max(5, config.turns), clock_of("cpu", device), device).values()
    stored = 2 * 2 * math.prod(size.latent_shape) * len(rows)
    return {"seconds": min(each), "slowest": max(each), "turns": len(each), "bytes_read": stored, "rows": len(rows)}


def compared(seconds: dict[str, list[float]], flops: float, moved: float, dtype: str, peaks: dict) -> dict:
    """What the seconds mean: rates, the bound and its share, and how many times faster than the control."""
    best = {name: min(each) for name, each in seconds.items()}
    bound = {"operations": flops / peaks[dtype], "bytes": moved / peaks["bytes"]}
    found = {
        "seconds": best["ours"],
        "slowest": max(seconds["ours"]),
        "turns": len(seconds["ours"]),
        "flops": flops,
        "flops_per_second": flops / best["ours"],
        "of_matmul_peak": bound["operations"] / best["ours"],
        "bytes": moved,
        "bound_seconds": bound,
        "of_bound": max(bound.values()) / best["ours"],
    }
    if "control" in best:
        found |= {"control_seconds": best["control"], "faster": best["control"] / best["ours"]}
    return found


def saved_bytes(model: Latte, batch: Batch, dtype: torch.dtype) -> int:
    """Bytes that one eager forward pass keeps for the backward pass, beside the weights: each is written once and read
    once at least. They are counted as what lives when it has ended: what is kept by a checkpoint's policy passes no
    hook of saved tensors."""
    from benchmarks.counting import counting_live_bytes
    from generator import flow_loss
    from runtime.processes import autocast

    own = [*model.parameters(), *model.buffers(), *(getattr(batch, each.name) for each in fields(batch))]
    with counting_live_bytes(own) as live, autocast(batch.t.device, dtype):
        loss = flow_loss(model, batch.latents, batch.labels, noise=batch.noise, t=batch.t)
    kept = live.now
    del loss
    return kept


def saved_of_all(model: Latte, batch: Batch, dtype: torch.dtype) -> int:
    """`saved_bytes` of a batch, told from two clips of it: eager, a whole batch of a large size need not fit. Weights
    that autocast converts are kept once, however many clips there are."""
    one = saved_bytes(model, batch.head(1), dtype)
    more = len(batch.t) - 1
    return one + (more * (saved_bytes(model, batch.head(2), dtype) - one) if more else 0)


def difference(model: Latte, plain: torch.nn.Module, batch: Batch) -> float:
    """Largest difference of the velocities in float32, over the largest velocity."""
    import torch

    from eval.features.clips import exact_float32

    with torch.no_grad(), exact_float32(batch.t.device):
        ours, theirs = (net(batch.latents, batch.t, batch.labels) for net in (model, plain))
    return float((ours - theirs).abs().max() / theirs.abs().max())


def tensor_float32(device: torch.device):
    """TF32 products for what is left in float32, on both sides; nothing on a CPU."""
    from contextlib import contextmanager

    import torch

    @contextmanager
    def allowed():
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = device.type == "cuda"
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before

    return allowed()


def require_memory(model: Latte, device: torch.device) -> None:
    """InputError unless gradients, moments and averages of the model, and half as much again, are free."""
    from runtime.resources import free_memory, readable

    needed = int(1.5 * 16 * sum(p.numel() for p in model.parameters()))
    free = free_memory(device)
    if free is not None and free < needed:
        raise InputError(f"a training step of this size needs {readable(needed)}, {device} has {readable(free)} free")


def describe(found: dict) -> str:
    """One line."""
    line = f"{found['seconds']:9.4f} s"
    if "flops" in found:
        line += f"  {found['flops_per_second'] / 1e9:9.1f} GFLOP/s ({100 * found['of_matmul_peak']:.0f} % of matmul)"
    return line + (f"  {found['faster']:.2f}x the plain way" if "faster" in found else "")


if __name__ == "__main__":
    run_command(
        generator_speed, GeneratorSpeedConfig, example="python -m benchmarks.generator --presets latte-s --clock cpu"
    )
