"""Encode, decode and one training step of the paper's tokenizers beside Wan2.2's in diffusers: `python -m
benchmarks.tokenizer --size 128`.

Random weights, the same clip, device and dtype, in one process; the networks take turns, so that other work on the
machine falls on all of them alike, and the fastest turn counts. Multiply-adds are those of the plain formulas: a
shortcut that skips some counts as speed. The GPU path has not been measured yet.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from benchmarks.measuring import Results

PEER = "wan2.2"
MODELS = ("paper", "paper-transformer", "demo", PEER)
WORKS = ("encode", "decode", "train")
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class TokenizerSpeedConfig(CommonFlags):
    """Flags of `python -m benchmarks.tokenizer`."""

    models: tuple[str, ...] = flag(("paper", PEER), "presets of ours, and wan2.2 of diffusers", choices=MODELS)
    works: tuple[str, ...] = flag(WORKS, "what to time; train is forward and backward", choices=WORKS)
    dtypes: tuple[str, ...] = flag(
        (), "compute types; default: float32, and bfloat16 where the device multiplies it", choices=DTYPES
    )
    size: int = flag(256, "height and width of the clip in pixels", low=16)
    frames: int = flag(17, "frames of the clip", low=1)
    turns: int = flag(3, "turns of each network, after one that does not count", low=1)
    clock: str = flag("wall", "wall, or cpu: processor time, for a busy machine", choices=("wall", "cpu"))
    out: str | None = flag(None, "JSON file to write, e.g. benchmarks/results/tokenizer-cpu.json")


@dataclass(frozen=True)
class Network:
    """A tokenizer to time, float32, and how its users call it.

    Attributes:
        memory_format: Of weights and clips.
        cast: Whether its users cast the weights for inference in bfloat16; the others run autocast.
        loss: Of a training step, from the network and a clip.
    """

    module: nn.Module
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    loss: Callable[[Tensor], Tensor]
    memory_format: torch.memory_format
    cast: bool = False


def ours(preset: str) -> Network:
    """A PV-VAE as training and encoding run it."""
    import torch

    from tokenizer import PVVAE
    from tokenizer.losses import tokenizer_loss
    from tokenizer.presets import PRESETS

    vae = PVVAE(PRESETS[preset].model)

    def loss(video: Tensor) -> Tensor:
        output, posterior = vae(video)
        return tokenizer_loss(output, video, posterior, kl_weight=1e-6)[0]

    return Network(vae, lambda video: vae.encode(video).mean, vae.decode, loss, torch.channels_last_3d)


def wan22() -> Network:
    """diffusers' AutoencoderKLWan with the config of Wan-AI/Wan2.2-TI2V-5B-Diffusers."""
    import torch

    from tokenizer.baselines.registry import BASELINES

    vae = BASELINES[PEER].build()

    def loss(video: Tensor) -> Tensor:
        posterior = vae.encode(video).latent_dist
        error = vae.decode(posterior.sample()).sample.float() - video.float()
        return error.square().mean() + 1e-6 * posterior.kl().mean()

    return Network(
        vae,
        lambda video: vae.encode(video).latent_dist.mode(),
        lambda latents: vae.decode(latents).sample,
        loss,
        torch.contiguous_format,
        cast=True,
    )


def build(model: str, device: torch.device) -> Network:
    """The network on `device`, in evaluation mode."""
    import torch

    with torch.device(device):
        network = wan22() if model == PEER else ours(model)
    network.module.to(memory_format=network.memory_format).eval()
    return network


def multiply_adds(model: str, frames: int, size: int) -> dict[str, float]:
    """Of the plain formulas, for one clip; a training step takes twice the forward pass more."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    network, counts = build(model, torch.device("meta")), {}
    value = torch.empty(1, 3, frames, size, size, device="meta")
    with torch.no_grad():
        for work, call in (("encode", network.encode), ("decode", network.decode)):
            with FlopCounterMode(display=False) as counter:
                value = call(value)
            counts[work] = counter.get_total_flops() / 2
    return counts | {"train": 3 * (counts["encode"] + counts["decode"])}


def tokenizer_speed(config: TokenizerSpeedConfig, results: Results | None = None) -> dict:
    """Measure, print a line each, and write the JSON when `--out` is given.

    Args:
        results: Where to put them; default: the `Results` of `--out`.
    """
    import torch

    from benchmarks.measuring import Results, clock_of, native_dtypes
    from runtime.measuring import matmul_flops
    from runtime.processes import resolve_device

    if PEER in config.models and importlib.util.find_spec("diffusers") is None:
        raise InputError(
            f"--models {PEER} needs diffusers, which is not installed; leave it out or pip install diffusers"
        )
    device = resolve_device(config.device)
    clock_of(config.clock, device)
    config = replace(config, dtypes=config.dtypes or native_dtypes(device))
    torch.manual_seed(config.seed)
    networks = {model: build(model, device) for model in config.models}
    counts = {model: multiply_adds(model, config.frames, config.size) for model in config.models}
    video = torch.rand(1, 3, config.frames, config.size, config.size, device=device) * 2 - 1
    peaks = {name: matmul_flops(device, getattr(torch, name), config.clock) for name in config.dtypes}
    results = Results(config.out) if results is None else results
    results.facts |= {"device": str(device)} | {
        name: getattr(config, name) for name in ("frames", "size", "clock", "seed")
    }
    results.facts |= {
        "matmul_flops_per_second": peaks,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    for name in config.dtypes:
        for work in config.works:
            labels = [f"{model}, {work}, {name}" for model in networks]

            def group(work: str = work, name: str = name) -> dict[str, dict]:
                found = measure(config, networks, counts, work, name, video, peaks[name])
                compare({**results, **found})
                return found

            found = results.together(labels, group)
            for label in found:
                print(describe(label, results[label]), flush=True)
    return results


def measure(
    config: TokenizerSpeedConfig,
    networks: dict[str, Network],
    counts: dict[str, dict],
    work: str,
    dtype: str,
    video: Tensor,
    peak: float,
) -> dict[str, dict]:
    """One work of every network in one compute type, by label."""
    import torch

    from benchmarks.measuring import clock_of, take_turns
    from runtime.measuring import extra_memory_gib

    device, found = video.device, {}
    calls = {model: prepared(network, work, video, getattr(torch, dtype)) for model, network in networks.items()}
    memory = {model: extra_memory_gib(call, device) for model, call in calls.items()}
    for model, each in take_turns(calls, config.turns, clock_of(config.clock, device), device).items():
        flops = 2 * counts[model][work] / min(each)
        found[f"{model}, {work}, {dtype}"] = {
            "seconds": min(each),
            "slowest": max(each),
            "turns": len(each),
            "multiply_adds": counts[model][work],
            "flops_per_second": flops,
            "of_matmul_peak": flops / peak,
            "weights_gib": sum(p.nbytes for p in networks[model].module.parameters()) / 2**30,
            "extra_memory_gib": memory[model],
        }
    for network in networks.values():
        network.module.float().zero_grad(set_to_none=True)
    return found


def prepared(network: Network, work: str, video: Tensor, dtype: torch.dtype) -> Callable[[], None]:
    """One call of `work` in `dtype`, on inputs made beforehand; casts the weights where users do."""
    import torch

    from runtime.processes import autocast

    mixed = autocast(video.device, dtype)
    video = video.contiguous(memory_format=network.memory_format)
    if work == "train":

        def step() -> None:
            with mixed:
                loss = network.loss(video)
            loss.backward()

        return step
    if network.cast:
        mixed, video = autocast(video.device, torch.float32), video.to(dtype)
        network.module.to(dtype)
    call, value = network.encode, video
    if work == "decode":
        with torch.no_grad(), mixed:
            call, value = network.decode, network.encode(video)

    def infer() -> None:
        with torch.no_grad(), mixed:
            call(value)

    return infer


def compare(results: dict[str, dict]) -> None:
    """Add how many times faster each network of ours is than the peer: for the clip, and for each multiply-add."""
    for label, found in results.items():
        parts = label.split(", ")
        if len(parts) != 3:  # measured by others, into the same file
            continue
        model, work, name = parts
        for key, peer_label in (
            ("faster", f"{PEER}, {work}, {name}"),
            ("faster_than_float32", f"{PEER}, {work}, float32"),
        ):
            peer = results.get(peer_label)
            if model != PEER and "seconds" in (peer or ()) and "seconds" in found:
                found[key] = peer["seconds"] / found["seconds"]
                found[f"{key}_per_multiply_add"] = found["flops_per_second"] / peer["flops_per_second"]


def describe(label: str, found: dict) -> str:
    """One line."""
    memory = "" if found["extra_memory_gib"] is None else f"  +{found['extra_memory_gib']:.2f} GiB"
    ratio = (
        f"  {found['faster']:.2f}x of {PEER}, {found['faster_per_multiply_add']:.2f}x a multiply-add"
        if "faster" in found
        else ""
    )
    return (
        f"{label:36} {found['seconds']:8.3f} s  {found['flops_per_second'] / 1e9:9.1f} GFLOP/s"
        f" ({100 * found['of_matmul_peak']:.0f} % of matmul){memory}{ratio}"
    )


if __name__ == "__main__":
    run_command(tokenizer_speed, TokenizerSpeedConfig, example="python -m benchmarks.tokenizer --size 128")
