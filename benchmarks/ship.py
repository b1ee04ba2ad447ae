"""Make the weights that ship with the project from two runs.

`python -m benchmarks.ship --tokenizer RUN --run GENERATOR_RUN`.

The averaged weights are rounded to bfloat16 and written with their config, the commands that trained them, hashes, and
the numbers of the rounded weights themselves.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError
from runtime.records import check_fields

# A pause between two logged steps that is longer than this was not training.
LONGEST_STEP_SECONDS = 60.0
# What the shipped manifest repeats of the runs'.
_REPEATED = {"command": str, "git_commit": str, "machine": dict, "versions": dict}


@dataclass(frozen=True, kw_only=True)
class ShipConfig(CommonFlags):
    """Flags of `python -m benchmarks.ship`."""

    tokenizer: str = flag(help="run of tokenizer.train")
    run: str = flag(help="run of generator.train on that tokenizer's latents")
    samples: int = flag(2048, "generated clips for the numbers that ship with the weights", low=2, high=1_000_000)
    steps: int = flag(100, "Euler steps", low=1, high=100_000)
    guidance_scales: tuple[float, ...] = flag((1.0, 2.0), "guidance scales to judge", low=0.0)
    out_name: str = flag("moving-shapes", "name to ship under")


def ship(config: ShipConfig) -> None:
    """Write both folders, judge what was written, and add the numbers."""
    from eval.fvd import FVDConfig, fvd
    from eval.reconstruction import ReconstructionConfig, reconstruction
    from eval.results.rows import read_results
    from generator.loading import SHIPPED as GENERATORS
    from generator.loading import load_generator
    from runtime.run import file_sha256, now, read_run, write_json
    from tokenizer.hub import VIDEO_FOLDER
    from tokenizer.zoo import SHIPPED as TOKENIZERS
    from tokenizer.zoo import load

    tokenizer_run, generator_run = read_run(config.tokenizer, "tokenizer"), read_run(config.run, "generator")
    if config.out_name not in TOKENIZERS:
        raise InputError(f"--out-name {config.out_name!r} is not known; known: {', '.join(TOKENIZERS)}")
    vae, predictor = load(config.tokenizer), load(config.tokenizer, stage="video")
    generator = load_generator(config.run)
    if vae.encoder_hash != generator.latents.get("encoder_hash"):
        raise InputError(f"{config.run} was trained on latents of another encoder than {config.tokenizer} has")
    for info in (tokenizer_run, generator_run):
        check_fields(info.manifest, _REPEATED, info.dir / "manifest.json")
        check_fields(info.config, {"seed": int}, info.dir / "config.json")
    check_fields(tokenizer_run.manifest, {"plan": list}, tokenizer_run.dir / "manifest.json")
    check_fields(generator.latents, {"path": str}, f"{config.run}: facts of its latents")
    commands = [tokenizer_run.manifest["command"], generator_run.manifest["command"]]
    hours = (training_seconds(tokenizer_run.dir) + training_seconds(generator_run.dir)) / 3600

    folder = TOKENIZERS[config.out_name]
    for place, model in ((folder, vae), (folder / VIDEO_FOLDER, predictor)):
        place.mkdir(parents=True, exist_ok=True)
        write_rounded(place / "model.safetensors", model.state_dict())
        write_json(place / "config.json", model.config.to_dict())
    rounded = load(config.out_name)

    target = GENERATORS[config.out_name]
    target.mkdir(parents=True, exist_ok=True)
    write_rounded(target / "model.safetensors", generator.model.state_dict())
    write_json(target / "config.json", asdict(generator.config))
    facts = generator.latents | {
        "tokenizer": config.out_name,
        "encoder_hash": rounded.encoder_hash,
        "decoder_hash": rounded.decoder_hash,
        "path": Path(generator.latents["path"]).name,
    }
    write_json(target / "state.json", {"step": generator.step, "latents": facts})
    common = {"runs_dir": config.runs_dir, "seed": config.seed, "device": config.device, "dtype": config.dtype}
    found = [
        reconstruction(ReconstructionConfig(tokenizer=config.out_name, samples=256, **common)),
        fvd(
            FVDConfig(
                run=config.out_name,
                samples=config.samples,
                steps=config.steps,
                guidance_scales=config.guidance_scales,
                **common,
            )
        ),
    ]
    rows = [row for path in found for row in read_results(path)[1]]
    write_json(
        target / "manifest.json",
        {
            "name": config.out_name,
            "created": now(),
            "hours": round(hours, 2),
            "commands": commands,
            "rounded_to": "bfloat16",
            "tokenizer_plan": tokenizer_run.manifest["plan"],
            "git_commits": [info.manifest["git_commit"] for info in (tokenizer_run, generator_run)],
            "sha256": {
                name: file_sha256(place / "model.safetensors")
                for name, place in (("tokenizer", folder), ("video", folder / VIDEO_FOLDER), ("generator", target))
            },
            "machine": generator_run.manifest["machine"],
            "versions": generator_run.manifest["versions"],
            "seeds": {"tokenizer": tokenizer_run.config["seed"], "generator": generator_run.config["seed"]},
            "rows": [asdict(replace(row, sources=())) for row in rows],  # kept features do not ship
        },
    )
    print(f"benchmarks.ship: wrote {folder} and {target}, {hours:.2f} hours of training")


def write_rounded(path: Path, tensors: dict) -> None:
    """Floating tensors as bfloat16, replaced at once."""
    import torch
    from safetensors.torch import save_file

    from runtime.files import replacing

    with replacing(path, "results") as partial:
        save_file({name: value.cpu().to(torch.bfloat16).contiguous() for name, value in tensors.items()}, partial)
        os.chmod(partial, 0o644)


def training_seconds(run_dir: Path) -> float:
    """Time spent in steps, from the log: pauses between sessions do not count."""
    from runtime.log import read_lines

    times = [line["time"] for line in read_lines(run_dir / "metrics.jsonl", {"time": float})]
    gaps = (b - a for a, b in zip(times, times[1:], strict=False))
    return sum(gap for gap in gaps if 0 <= gap <= LONGEST_STEP_SECONDS)


if __name__ == "__main__":
    run_command(ship, ShipConfig, example="python -m benchmarks.ship --tokenizer runs/my-vae --run runs/my-generator")
