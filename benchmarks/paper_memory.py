"""Memory of one training step at the paper's scale, computed without a GPU: `python -m benchmarks.paper_memory`.

Nothing is measured. The step of each stage of the tokenizers, and that of the generators, runs on tensors that have a
shape, a type and a lifetime but no content (PyTorch's fake tensors), at the real size and in bfloat16, and the bytes
that live at once are counted; layers take the ways that they take on a GPU, uncompiled. Weights, gradients, optimizer
and averages are counted from the number of parameters. What a GPU needs besides (its context, convolution workspaces,
fragmentation) is not in the numbers: they are a lower bound that a reserve has to be added to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime.command import CommonFlags, flag, run_command
from runtime.output import check_file

GIB = 2**30
STAGES = ("images", "video", "decoder")
FLOAT = 4  # bytes: weights, gradients, both moments of AdamW, and averages are float32


@dataclass(frozen=True, kw_only=True)
class PaperMemoryConfig(CommonFlags):
    """Flags of `python -m benchmarks.paper_memory`."""

    presets: tuple[str, ...] = flag(("paper", "paper-transformer"), "presets of tokenizer.train")
    generators: tuple[str, ...] = flag(("latte-xl", "latte-l", "latte-b", "latte-s"), "presets of generator.train")
    batch_size: int = flag(64, "clips in a batch of the generators, on one GPU", low=1, high=65_536)
    num_frames: int = flag(17, "frames of a clip, 1 + 4k", low=1, high=4097)
    size: int = flag(256, "height and width in pixels", low=32, high=8192)
    images_per_clip: int = flag(4, "images that take the place of one clip in the images stage", low=1, high=1024)
    processes: int = flag(8, "GPUs that --parallel fsdp divides weights and optimizer over", low=2)
    gpu_gib: float = flag(80.0, "memory of a GPU", low=1.0)
    reserve_gib: float = flag(8.0, "what is left for context, workspaces and fragmentation", low=0.0)
    out: str = flag(
        "benchmarks/results/paper-memory.json", "JSON file to write; the table goes beside it as .md", check=check_file
    )


def paper_memory(config: PaperMemoryConfig) -> list[dict]:
    """Count, print the table, write JSON and Markdown."""
    from benchmarks.measuring import write_benchmark
    from generator.latte import RECOMPUTE
    from runtime.files import replacing

    rows = [
        row
        for preset in config.presets
        for stage in STAGES
        for recompute in (False, True)
        for row in stage_rows(config, preset, stage, recompute)
    ]
    growth = {preset: growth_of(config, preset) for preset in config.presets}
    generators = [
        generator_row(preset, config.batch_size, recompute) for preset in config.generators for recompute in RECOMPUTE
    ]
    text = table(config, rows, growth) + "\n\n" + generator_table(config, generators)
    print(text)
    facts = {"computed": True, "measured": False, "num_frames": config.num_frames, "size": config.size}
    write_benchmark(config.out, {"rows": rows, "saved_bytes_by_size": growth, "generators": generators}, **facts)
    with replacing(Path(config.out).with_suffix(".md"), "results") as partial:
        Path(partial).write_text(text + "\n")
    return rows


# -- counting ---------------------------------------------------------------------------------------------------------


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Let layers take the ways that they take on a GPU, though the tensors without content are a CPU's: PyTorch has no
    backward pass for those of a GPU that is not there."""
    from unittest.mock import patch

    from tokenizer import layers, winograd

    with patch.object(layers, "on_cpu", lambda x: False), patch.object(winograd, "pays", lambda *given: False):
        yield


def step_bytes(model_config, stage: str, shape: tuple[int, ...], *, recompute: bool) -> dict[str, int]:
    """Count one step of a stage: bfloat16, all losses, nothing dropped (which is the most).

    Args:
        model_config: A `PVVAEConfig`.
        stage: "images", "video" or "decoder".
        shape: Of the batch, `[B, 3, 1+T, H, W]`.
        recompute: As with `--checkpoint-blocks`.

    Returns:
        parameters, trained, discriminator (numbers of parameters), largest_block (likewise), and activations: the most
        bytes alive at once besides weights, gradients of weights, averages and optimizer.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from benchmarks.counting import counting_live_bytes
    from runtime.parallel import blocks_of
    from runtime.processes import autocast
    from tokenizer import PVVAE
    from tokenizer.adversarial import Adversary
    from tokenizer.discriminator import DiscriminatorConfig
    from tokenizer.losses import mixed_precision_lpips, tokenizer_loss
    from tokenizer.stages import freeze_for

    cpu, dtype = torch.device("cpu"), torch.bfloat16
    adversary, lpips_network = (
        Adversary(DiscriminatorConfig(), seed=0, dtype=dtype),
        mixed_precision_lpips(build_lpips()),
    )
    with FakeTensorMode(), as_on_a_gpu():
        vae = PVVAE(model_config).train()
        freeze_for(stage, vae)
        vae.encoder.checkpoint_blocks = vae.decoder.checkpoint_blocks = recompute
        empty(adversary.discriminator)
        empty(lpips_network)
        video = torch.empty(shape).contiguous(memory_format=torch.channels_last_3d)
        networks = (vae, adversary.discriminator, lpips_network)
        own = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
        trained = [parameter for parameter in vae.parameters() if parameter.requires_grad]
        judging = list(adversary.discriminator.parameters())
        drop_gradients([*trained, *judging])
        adversary.discriminator.requires_grad_(False)
        with counting_live_bytes(own) as live:
            with autocast(cpu, dtype):
                output, posterior = vae(video)
            loss, _ = tokenizer_loss(
                output, video, posterior, kl_weight=1e-6, lpips_weight=1.0, lpips_network=lpips_network
            )
            (loss + adversary.generator_loss(output)).backward()
            output = output.detach()
            del loss, posterior
            adversary.discriminator.requires_grad_(True)
            adversary.discriminator_loss(video, output)[0].backward()
        return {
            "parameters": sum(parameter.numel() for parameter in vae.parameters()),
            "trained": sum(parameter.numel() for parameter in trained),
            "discriminator": sum(parameter.numel() for parameter in judging),
            "largest_block": max(sum(p.numel() for p in block.parameters()) for block in blocks_of(vae)),
            "activations": live.peak,
        }


def generator_bytes(model_config, batch_size: int, recompute: str) -> dict[str, int]:
    """Count one step of a generator without classes (their table is small) in bfloat16.

    Args:
        model_config: A `LatteConfig`.
        recompute: "nothing", "cheap" (as on a GPU, from 100 M parameters) or "blocks" (`--checkpoint-blocks`).

    Returns:
        parameters, and activations as of `step_bytes`.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from benchmarks.counting import counting_live_bytes
    from generator import Latte, flow_loss
    from runtime.processes import autocast

    with FakeTensorMode():
        model = Latte(model_config).train()
        model.recompute = recompute
        drop_gradients(list(model.parameters()))
        latents, t = torch.empty(batch_size, *model_config.latent_shape), torch.empty(batch_size)
        with counting_live_bytes([*model.parameters(), *model.buffers()]) as live:
            with autocast(torch.device("cpu"), torch.bfloat16):
                loss = flow_loss(model, latents, None, noise=latents, t=t).mean()
            loss.backward()
        return {"parameters": sum(p.numel() for p in model.parameters()), "activations": live.peak}


def drop_gradients(parameters: list) -> None:
    """Let each gradient go as soon as it is whole: they are counted apart, since FSDP divides them."""
    for parameter in parameters:
        parameter.requires_grad_(True).register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))


def empty(network) -> None:
    """Give a network that was built for real parameters and buffers of the tensors at hand: fake ones in their mode."""
    import torch

    for module in network.modules():
        for name, value in module.named_parameters(recurse=False):
            module._parameters[name] = torch.nn.Parameter(
                torch.empty(value.shape, dtype=value.dtype), value.requires_grad
            )
        for name, value in module.named_buffers(recurse=False):
            module._buffers[name] = torch.empty(value.shape, dtype=value.dtype)


def build_lpips():
    """LPIPS (VGG) with random weights: only its size matters here."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's deprecation notes inside lpips
        import lpips

        network = lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
    return network.eval().requires_grad_(False)


# -- tables -----------------------------------------------------------------------------------------------------------


def stage_rows(config: PaperMemoryConfig, preset: str, stage: str, recompute: bool) -> list[dict]:
    """Rows of DDP and of FSDP2, of one clip a GPU and the most clips that fit; bytes."""
    from tokenizer.presets import PRESETS

    items, frames = (config.images_per_clip, 1) if stage == "images" else (1, config.num_frames)
    counts = {
        n: step_bytes(
            PRESETS[preset].model, stage, (n * items, 3, frames, config.size, config.size), recompute=recompute
        )
        for n in (1, 8, 16)
    }
    one, activations = counts[1], {n: count["activations"] for n, count in counts.items()}
    rows = []
    for mode, share in (("ddp", 1), ("fsdp", config.processes)):
        parts = {
            "weights": FLOAT * one["parameters"] // share,
            "gradients": FLOAT * one["trained"] // share,
            "adamw": 2 * FLOAT * one["trained"] // share,
            "averages": FLOAT * one["parameters"] // share,
            # Gathered weights of the block at work and of the one fetched ahead, and the gradient of one.
            "gathered": 3 * FLOAT * one["largest_block"] if mode == "fsdp" else 0,
            # A copy on each process under FSDP2 too: weights, gradients, both moments.
            "discriminator": 4 * FLOAT * one["discriminator"],
            "activations": one["activations"],
        }
        total = sum(parts.values())
        room = (config.gpu_gib - config.reserve_gib) * GIB - (total - parts["activations"])
        rows.append(
            {"preset": preset, "stage": stage, "mode": mode, "processes": share, "checkpoint_blocks": recompute}
            | {"items": items, "frames": frames, **parts, "total": total}
            | {"largest_batch": items * largest_batch(activations, room)}
        )
    return rows


def generator_row(preset: str, batch_size: int, recompute: str) -> dict:
    """What a generator takes on one GPU, or under DDP; bytes."""
    from generator.presets import PRESETS

    found = generator_bytes(PRESETS[preset].model, batch_size, recompute)
    count = found["parameters"]
    parts = {"weights": FLOAT * count, "gradients": FLOAT * count, "adamw": 2 * FLOAT * count}
    parts |= {"averages": FLOAT * count, "activations": found["activations"]}
    return {"preset": preset, "batch_size": batch_size, "recompute": recompute, **parts, "total": sum(parts.values())}


def largest_batch(activations: dict[int, int], room: float) -> int:
    """The most clips whose activations fit into `room` bytes, along the line between the counted batches around them.

    The peak is the largest of several that grow in proportion, so a line between two counts lies above it, and one
    beyond them below: the last two counts should be of batches large enough for one peak to lead.
    """
    known = sorted(activations)
    if activations[known[0]] > room:
        return 0
    below = max((n for n in known[:-1] if activations[n] <= room), default=known[0])
    above = known[known.index(below) + 1]
    each = (activations[above] - activations[below]) / (above - below)
    return below + int((room - activations[below]) // each)


def growth_of(config: PaperMemoryConfig, preset: str) -> dict[str, int]:
    """Bytes saved for the backward pass of one clip, by its size in pixels: a constant and a part for each pixel."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from benchmarks.counting import saved_bytes
    from runtime.processes import autocast
    from tokenizer import PVVAE
    from tokenizer.presets import PRESETS

    found = {}
    for size in (config.size // 4, config.size // 2, config.size):
        with FakeTensorMode(), as_on_a_gpu():
            vae = PVVAE(PRESETS[preset].model).train()
            video = torch.empty(1, 3, config.num_frames, size, size)
            with autocast(torch.device("cpu"), torch.bfloat16):
                found[str(size)] = saved_bytes(lambda vae=vae, video=video: vae(video), [*vae.parameters(), video])
    return found


def table(config: PaperMemoryConfig, rows: list[dict], growth: dict[str, dict[str, int]]) -> str:
    """Markdown, GiB."""
    names = ("weights", "gradients", "adamw", "averages", "discriminator", "activations", "total")
    lines = [
        "**Computed, not measured** (`python -m benchmarks.paper_memory`): GiB on a GPU with one clip of "
        f"{config.num_frames}x{config.size}x{config.size} (stage images: {config.images_per_clip} images), bfloat16, "
        "LPIPS and GAN on, no group dropped. The last column is the largest batch on a GPU that keeps "
        f"{config.reserve_gib:g} of its {config.gpu_gib:g} GiB free.",
        "",
        "| preset | stage | parallel | `--checkpoint-blocks` | " + " | ".join(names) + " | fits |",
        "|---" * (len(names) + 5) + "|",
    ]
    for row in rows:
        parts = {name: row[name] for name in names} | {"weights": row["weights"] + row["gathered"]}
        mode = "1 GPU, or ddp" if row["mode"] == "ddp" else f"fsdp, {row['processes']} GPUs"
        cells = [row["preset"], row["stage"], mode, "yes" if row["checkpoint_blocks"] else "no"]
        cells += [f"{value / GIB:.1f}" for value in parts.values()]
        lines.append("| " + " | ".join([*cells, str(row["largest_batch"])]) + " |")
    lines += ["", "Saved for the backward pass of one clip, without `--checkpoint-blocks`:", ""]
    for preset, sizes in growth.items():
        lines.append(f"* {preset}: " + ", ".join(f"{n / GIB:.2f} GiB at {size}" for size, n in sizes.items()))
    return "\n".join(lines)


def generator_table(config: PaperMemoryConfig, rows: list[dict]) -> str:
    """Markdown, GiB."""
    names = ("weights", "gradients", "adamw", "averages", "activations", "total")
    lines = [
        f"Generators, {config.batch_size} clips of 64x5x16x16 on one GPU, bfloat16. The backward pass computes nothing "
        "again; what is cheap (no matrix products: the default on a GPU from 100 M parameters, and wherever blocks are "
        "compiled); or whole blocks (`--checkpoint-blocks`).",
        "",
        "| preset | again | " + " | ".join(names) + " |",
        "|---" * (len(names) + 2) + "|",
    ]
    for row in rows:
        lines.append(
            f"| {row['preset']} | {row['recompute']} | " + " | ".join(f"{row[n] / GIB:.1f}" for n in names) + " |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(paper_memory, PaperMemoryConfig, example="python -m benchmarks.paper_memory")
