"""Make the weights that ship with the project from two runs, or a new generator for the tokenizer that ships.

`python -m benchmarks.ship --tokenizer RUN --run GENERATOR_RUN`; without `--tokenizer`, that one stays.

The averaged weights are rounded to bfloat16 and written with their config, the commands that trained them, hashes, and
the numbers of the rounded weights themselves.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError
from runtime.records import check_fields

if TYPE_CHECKING:
    from runtime.run import RunInfo

# A pause between two logged steps that is longer than this was not training.
LONGEST_STEP_SECONDS = 60.0
# What the shipped manifest repeats of the runs'.
_REPEATED = {"command": str, "git_commit": str, "machine": dict, "versions": dict}


@dataclass(frozen=True, kw_only=True)
class ShipConfig(CommonFlags):
    """Flags of `python -m benchmarks.ship`."""

    tokenizer: str | None = flag(None, "run of tokenizer.train; default: the tokenizer that ships stays")
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
    from runtime.records import read_json, write_json
    from runtime.run import file_sha256, now, read_run
    from tokenizer.hub import VIDEO_FOLDER
    from tokenizer.zoo import SHIPPED as TOKENIZERS
    from tokenizer.zoo import load

    generator_run = read_run(config.run, "generator")
    tokenizer_run = read_run(config.tokenizer, "tokenizer") if config.tokenizer else None
    if config.out_name not in TOKENIZERS:
        raise InputError(f"--out-name {config.out_name!r} is not known; known: {', '.join(TOKENIZERS)}")
    folder, target = TOKENIZERS[config.out_name], GENERATORS[config.out_name]
    vae, generator = load(config.tokenizer or config.out_name), load_generator(config.run)
    if vae.encoder_hash != generator.latents.get("encoder_hash"):
        of = config.tokenizer or f"{config.out_name}, which ships,"
        raise InputError(f"{config.run} was trained on latents of another encoder than {of} has")
    for info in filter(None, (tokenizer_run, generator_run)):
        check_fields(info.manifest, _REPEATED, info.dir / "manifest.json")
        check_fields(info.config, {"seed": int}, info.dir / "config.json")
    check_fields(generator.latents, {"path": str}, f"{config.run}: facts of its latents")
    if tokenizer_run:
        check_fields(tokenizer_run.manifest, {"plan": list}, tokenizer_run.dir / "manifest.json")
        trained = {"tokenizer": facts_of(tokenizer_run), "tokenizer_plan": tokenizer_run.manifest["plan"]}
        for place, model in ((folder, vae), (folder / VIDEO_FOLDER, load(config.tokenizer, stage="video"))):
            place.mkdir(parents=True, exist_ok=True)
            write_rounded(place / "model.safetensors", model.state_dict())
            write_json(place / "config.json", model.config.to_dict())
    else:
        shipped = read_json(target / "manifest.json")
        trained = {name: shipped[name] for name in ("tokenizer", "tokenizer_plan")}
    trained["generator"] = facts_of(generator_run)
    rounded = load(config.out_name)

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
            "rounded_to": "bfloat16",
            **trained,
            "sha256": {
                name: file_sha256(place / "model.safetensors")
                for name, place in (("tokenizer", folder), ("video", folder / VIDEO_FOLDER), ("generator", target))
            },
            "rows": [asdict(replace(row, sources=())) for row in rows],  # kept features do not ship
        },
    )
    hours = " + ".join(str(trained[name]["hours"]) for name in ("tokenizer", "generator"))
    print(f"benchmarks.ship: wrote {folder} and {target}, {hours} hours of training")


def facts_of(info: RunInfo) -> dict:
    """How a run was made: command, commit, machine, versions, seed, hours of training."""
    made = {name: info.manifest[name] for name in _REPEATED}
    return {**made, "seed": info.config["seed"], "hours": round(training_seconds(info.dir) / 3600, 2)}


def write_rounded(path: Path, tensors: dict) -> None:
    """Floating tensors as bfloat16, replaced at once."""
    import torch

    from runtime.weights import write_weights

    write_weights(path, {name: value.to(torch.bfloat16) for name, value in tensors.items()})
    path.chmod(0o644)


def training_seconds(run_dir: Path) -> float:
    """Time spent in steps, from the log: pauses between sessions do not count."""
    from runtime.records import read_lines

    times = [line["time"] for line in read_lines(run_dir / "metrics.jsonl", {"time": float})]
    gaps = (b - a for a, b in zip(times, times[1:], strict=False))
    return sum(gap for gap in gaps if 0 <= gap <= LONGEST_STEP_SECONDS)


if __name__ == "__main__":
    run_command(ship, ShipConfig, example="python -m benchmarks.ship --tokenizer runs/my-vae --run runs/my-generator")
