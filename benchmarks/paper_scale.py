"""Memory and speed of one training step of the paper's networks at 17x256x256, on a GPU: `python -m
benchmarks.paper_scale`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError
from runtime.output import check_file


@dataclass(frozen=True, kw_only=True)
class PaperScaleConfig(CommonFlags):
    """Flags of `python -m benchmarks.paper_scale`."""

    tokenizer_batches: tuple[int, ...] = flag(
        (1, 2, 4), "batch sizes of tokenizer preset paper; larger ones are skipped once memory ends", low=1
    )
    generator_batches: tuple[int, ...] = flag((16, 32, 64), "batch sizes of latte-xl; likewise", low=1)
    seconds: float = flag(10.0, "time for each measurement", low=0.0)
    out: str = flag("benchmarks/results/paper-scale.json", "JSON file to write", check=check_file)


def paper_scale(config: PaperScaleConfig) -> None:
    """Measure both networks and write the JSON."""
    import torch

    from benchmarks.measuring import write_benchmark
    from runtime.processes import resolve_device, resolve_dtype

    device = resolve_device(config.device)
    if device.type != "cuda":
        raise InputError("the paper's networks at 17x256x256 are measured on a GPU, and there is none here")
    dtype = resolve_dtype(config.dtype, device)
    results = {}
    for name, batches, build in (
        ("tokenizer-paper", config.tokenizer_batches, tokenizer_work),
        ("latte-xl", config.generator_batches, generator_work),
    ):
        for batch in batches:
            try:
                results[f"{name}, batch {batch}"] = measure(build, batch, device, dtype, config.seconds)
            except torch.cuda.OutOfMemoryError:
                results[f"{name}, batch {batch}"] = {"out_of_memory": True}
                torch.cuda.empty_cache()
                break
            print(f"{name}, batch {batch}: {results[f'{name}, batch {batch}']}")
    write_benchmark(config.out, results, device=str(device), dtype=str(dtype), seed=config.seed)


def measure(build, batch: int, device, dtype, seconds: float) -> dict:
    """Time and peak memory of one training step."""
    import torch

    from runtime.measuring import peak_memory_gib, timed

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    result = timed(build(batch, device, dtype), items=batch, unit="clips", seconds=seconds, device=device)
    return result | {"peak_memory_gib": round(peak_memory_gib(device), 2)}


def tokenizer_work(batch: int, device, dtype):
    """A step of PV-VAE: predictive reconstruction with two groups dropped, AdamW."""
    import torch

    from runtime.processes import autocast
    from tokenizer import PVVAE
    from tokenizer.losses import tokenizer_loss
    from tokenizer.presets import PRESETS

    with device:
        vae = PVVAE(PRESETS["paper"].model).to(memory_format=torch.channels_last_3d)
        video = (torch.rand(batch, 3, 17, 256, 256) * 2 - 1).contiguous(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=5e-5, fused=True)

    def step() -> None:
        with autocast(device, dtype):
            output, posterior = vae(video, num_dropped=2)
        tokenizer_loss(output, video, posterior, kl_weight=1e-6)[0].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def generator_work(batch: int, device, dtype):
    """A step of Latte-XL on 64x5x16x16 latents with 101 classes, AdamW."""
    import torch

    from generator import Latte, flow_loss
    from generator.presets import PRESETS
    from runtime.processes import autocast

    with device:
        model = Latte(replace(PRESETS["latte-xl"].model, num_classes=101))
        latents, noise = torch.randn(2, batch, 64, 5, 16, 16)
        labels, t = torch.randint(101, (batch,)), torch.rand(batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        with autocast(device, dtype):
            loss = flow_loss(model, latents, labels, noise=noise, t=t).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


if __name__ == "__main__":
    run_command(paper_scale, PaperScaleConfig, example="python -m benchmarks.paper_scale")
