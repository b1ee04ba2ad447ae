"""Train the judge of synthetic clips: `python -m benchmarks.train_judge`. Writes weights, recipe and test accuracy into
one file."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from runtime.command import CommonFlags, flag, run_command
from runtime.output import check_file


@dataclass(frozen=True, kw_only=True)
class TrainJudgeConfig(CommonFlags):
    """Flags of `python -m benchmarks.train_judge`."""

    steps: int = flag(4000, "optimizer updates", low=1, high=1_000_000_000)
    batch_size: int = flag(48, "clips in a batch", low=2, high=65_536)
    learning_rate: float = flag(2e-3, "peak rate of AdamW; cosine decay to 1 %", low=0.0)
    test_clips: int = flag(2000, "test clips of each level", low=12)
    out: str = flag("eval/features/shapes.safetensors", "file to write", check=partial(check_file, folder_exists=True))


def train_judge(config: TrainJudgeConfig) -> None:
    """Train on both levels mixed, then measure on the test split and write the file."""
    import torch
    import torch.nn.functional as F
    from safetensors.torch import save_file

    from eval.features.shapes import ShapesNet
    from runtime.files import replacing
    from runtime.log import Progress
    from runtime.processes import autocast, resolve_device, resolve_dtype
    from runtime.run import command_line, machine, versions
    from runtime.schedule import learning_rate
    from runtime.seeds import key, seed_everything
    from videos import BatchLoader, Bucket, ClipSpec, open_dataset, to_float

    seed_everything(config.seed)
    device = resolve_device(config.device)
    dtype = resolve_dtype(config.dtype, device)
    network = ShapesNet().to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=0.01)
    levels = ("moving_shapes", "moving_shapes_textured")
    clip = ClipSpec(num_frames=17, size=32)
    share = config.batch_size // 2
    loaders = [
        iter(BatchLoader([Bucket(open_dataset(level, split="train", clip=clip), share)], seed=config.seed))
        for level in levels
    ]
    progress, began = Progress(config.steps, label="train_judge"), time.monotonic()
    for step in range(config.steps):
        with progress.wait():
            batches = [next(loader)[1] for loader in loaders]
        video = to_float(torch.cat([batch["video"] for batch in batches]).to(device))
        label = torch.cat([batch["label"] for batch in batches]).to(device)
        video = degrade(video, torch.Generator().manual_seed(key(config.seed, "degrade", step)))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(
                step, base=config.learning_rate, total=config.steps, warmup=100, kind="cosine", final_ratio=0.01
            )
        with autocast(device, dtype):
            shape, motion = network.heads(network.features(video))
        loss = F.cross_entropy(shape.float(), label // 4) + F.cross_entropy(motion.float(), label % 4)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        right = [
            float((head.argmax(1) == target).float().mean())
            for head, target in ((shape, label // 4), (motion, label % 4))
        ]
        progress.update(step + 1, {"loss": float(loss.detach()), "shape": right[0], "motion": right[1]})
    progress.close()
    network.eval()
    accuracy = {
        level: measure(network, open_dataset(level, split="test", clip=clip), config.test_clips, device)
        for level in levels
    }
    recipe = {
        "command": command_line(),
        "flags": asdict(config),
        "dtype": str(dtype),
        "minutes": round((time.monotonic() - began) / 60, 1),
        "machine": machine(),
        "versions": versions(),
        "test_accuracy": accuracy,
    }
    out = Path(config.out)
    # float16 halves the file; the accuracy above is of the float32 weights, and differs by less than its own error.
    with replacing(out, "results") as partial:
        save_file(
            {name: value.cpu().half() for name, value in network.state_dict().items()},
            partial,
            {"recipe": json.dumps(recipe)},
        )
    print(json.dumps(accuracy, indent=2))


def degrade(video, generator):
    """Blur a quarter of the clips and add noise to another, so that a judge of generated clips does not fail on small
    faults."""
    import torch
    import torch.nn.functional as F

    kind = torch.randint(4, (len(video),), generator=generator)
    soft = F.avg_pool3d(video, (1, 3, 3), stride=1, padding=(0, 1, 1), count_include_pad=False)
    noisy = (video + 0.1 * torch.randn(video.shape, generator=generator).to(video)).clamp(-1, 1)
    kind = kind.to(video.device)[:, None, None, None, None]
    return torch.where(kind == 0, soft, torch.where(kind == 1, noisy, video))


def measure(network, dataset, count: int, device) -> dict[str, float | int]:
    """Accuracy by shape, motion and both on the first `count` clips."""
    import torch

    from videos import to_float

    right = torch.zeros(3, dtype=torch.int64)
    count = min(count, len(dataset))
    with torch.no_grad():
        for start in range(0, count, 100):
            items = [dataset[i] for i in range(start, min(start + 100, count))]
            video = to_float(torch.stack([torch.as_tensor(item["video"]) for item in items]).to(device))
            guess = network.probabilities(video).argmax(1).cpu()
            label = torch.tensor([item["label"] for item in items])
            shape, motion = guess // 4 == label // 4, guess % 4 == label % 4
            right += torch.stack([shape.sum(), motion.sum(), (shape & motion).sum()])
    return {
        "shape": right[0].item() / count,
        "motion": right[1].item() / count,
        "class": right[2].item() / count,
        "clips": count,
    }


if __name__ == "__main__":
    run_command(train_judge, TrainJudgeConfig, example="python -m benchmarks.train_judge --steps 4000")
