"""Judge a generator: `python -m eval.fvd --samples 2048`. gFVD, KVD and IS with published features; under other names
without.

Protocol `paper` (PV-VAE section 4.1; what is not published is our default): as many generated as real clips, the
reference a seeded, class-stratified set of the generator's training clips, set-level distances in float64. Controls
stand beside every number: other real clips (the floor at this sample size), real clips frozen or shuffled in time, and
the untrained generator.

`--protocol all`, or several names, takes the same samples and the same data set through each of `eval.protocols`
instead, and says under every number how it differs from the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eval.judge import Judge, choose_features, load_chosen, load_classifier
from eval.protocols import PAPER, PROTOCOLS
from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError
from runtime.output import check_file

__all__ = ["FVDConfig", "Judge", "choose_features", "fvd", "load_chosen", "load_classifier"]


@dataclass(frozen=True, kw_only=True)
class FVDConfig(CommonFlags):
    """Flags of `python -m eval.fvd`."""

    run: str | None = flag(None, "run of generator.train or shipped name; default: the newest run")
    step: int | None = flag(None, "which checkpoint; default: the newest", low=0)
    samples: int = flag(2048, "generated clips, and as many real ones", low=2, high=1_000_000)
    tokenizer: str | None = flag(None, "tokenizer to decode with; default: the one that encoded the latents")
    root: str | None = flag(None, "folder of the real clips; default: where the latents were encoded from")
    protocol: tuple[str, ...] = flag(
        (PAPER.name,), "how the numbers are made: names, comma-separated, or all", choices=(*PROTOCOLS, "all")
    )
    features: str = flag(
        "auto", "auto: shapes for moving_shapes, i3d for everything else", choices=("auto", "shapes", "i3d")
    )
    steps: int = flag(100, "Euler steps of the sampler", low=1, high=100_000)
    guidance_scales: tuple[float, ...] = flag(
        (1.0,), "guidance scales to judge, the first is the headline", low=0.0, high=1000.0
    )
    controls: bool = flag(True, "also measure the controls")
    batch_size: int = flag(64, "samples in one forward pass", low=1, high=65_536)
    out: str | None = flag(None, "JSON file to write; default: eval/fvd-….json in the run", check=check_file)

    def __post_init__(self) -> None:
        if not self.guidance_scales or len(set(self.guidance_scales)) < len(self.guidance_scales):
            raise InputError(f"--guidance-scales {self.guidance_scales}: expected one or more different numbers")
        if not self.protocol or len(set(self.protocol)) < len(self.protocol):
            raise InputError(f"--protocol {','.join(self.protocol)}: expected one or more different names")

    @property
    def protocols(self) -> tuple[str, ...]:
        """Names of the protocols to follow."""
        return tuple(PROTOCOLS) if "all" in self.protocol else self.protocol


def fvd(config: FVDConfig) -> Path:
    """Measure, print the table, write the JSON; returns its path."""
    from eval.measure_protocol import measure_protocols
    from runtime.run import newest_run

    alone = config.protocols == (PAPER.name,)
    judge = Judge(
        config.run or str(newest_run(config.runs_dir, "generator")),
        features=config.features if alone else None,
        root=config.root,
        samples=config.samples,
        seed=config.seed,
        device=config.device,
        step=config.step,
        tokenizer=config.tokenizer,
    )
    folder = judge.folder(config.runs_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if min(len(judge.reference_items), len(judge.other_items)) < 2:
        found = f"{len(judge.reference_items)} and {len(judge.other_items)}"
        raise InputError(
            f"the clips that the latents were encoded from are too few for two sets to compare with ({found}, at least "
            "2 each): every class needs two; encode more of them"
        )
    return (judge_generator if alone else measure_protocols)(judge, folder, config)


def judge_generator(judge: Judge, folder: Path, config: FVDConfig) -> Path:
    """The paper's protocol, with every control."""
    import time

    from eval.results import table, write_results
    from eval.set_rows import (
        TO_RECONSTRUCTIONS,
        differences,
        distance_rows,
        inception_rows,
        infinity_rows,
        judge_rows,
        no_infinity,
    )
    from runtime.run import timed_part

    began = time.monotonic()
    synthetic = judge.facts["data"].startswith("moving_shapes")  # what the judge has learned to name
    with timed_part(folder.parent, "eval.fvd"):
        reference = judge.real(folder, "reference")
        through = judge.real(folder, "reconstructed-reference")
        rows = []
        for scale in config.guidance_scales:
            found = judge.generated(folder, config, guidance_scale=scale, step=config.step)
            subject = "generated" if scale == config.guidance_scales[0] else f"generated (guidance {scale:g})"
            note = f"guidance {scale:g}" if subject == "generated" else ""
            for to, suffix in ((reference, ""), (through, TO_RECONSTRUCTIONS)):
                rows += distance_rows(found, to, subject, judge.network, note, suffix)
                rows += infinity_rows(found, to, subject, judge.network, note, suffix)
            rows += inception_rows(found, subject, judge, note and f"{note}, first 16 frames")
            rows += judge_rows(found, subject, judge.network) if synthetic else []
        notes = [words for words in [no_infinity(found, reference)] if words]
        if config.controls:
            for subject in ("real", "reconstructed", "frozen", "shuffled"):
                found = judge.real(folder, subject)
                rows += distance_rows(found, reference, subject, judge.network)
                if subject == "real":
                    rows += infinity_rows(found, reference, subject, judge.network)
                if subject in ("real", "reconstructed"):
                    rows += inception_rows(found, subject, judge) if judge.classifier else []
                    rows += judge_rows(found, subject, judge.network) if synthetic else []
            untrained = judge.generated(folder, config, untrained=True, step=config.step)
            rows += distance_rows(untrained, reference, "untrained", judge.network)
            for subject, found in (("reconstructed", judge.real(folder, "reconstructed")), ("untrained", untrained)):
                rows += distance_rows(found, through, subject, judge.network, suffix=TO_RECONSTRUCTIONS)
    out = (
        Path(config.out)
        if config.out
        else folder / f"fvd-{judge.network.name}-step{judge.step:08d}-n{config.samples}.json"
    )
    words = differences(judge.network.name, config.samples, len(reference.features), config.steps, judge.facts)
    write_results(
        out,
        kind="fvd",
        rows=rows,
        **run_facts(judge, config),
        features=f"{judge.network.name}@{judge.network.version_hash}",
        protocol=PAPER.name,
        reference_clips=len(reference.features),
        differences=words,
        notes=notes,
        seconds=round(time.monotonic() - began, 1),
    )
    print(table(rows))
    for word in words:
        print(f"  differs from the paper: {word}")
    for word in notes:
        print(f"  {word}")
    print(f"eval.fvd: wrote {out}")
    return out


def run_facts(judge: Judge, config: FVDConfig) -> dict:
    """What a results file says of generator, samples and seeds."""
    return {
        "run": str(judge.run),
        "step": judge.step,
        "samples": config.samples,
        "seed": config.seed,
        "device": config.device,
        "data": judge.facts["data"],
        "steps": config.steps,
        "guidance_scales": list(config.guidance_scales),
        "decoder_hash": judge.vae.decoder_hash,
        "encoder_hash": judge.vae.encoder_hash,
    }


if __name__ == "__main__":
    run_command(fvd, FVDConfig, example="python -m eval.fvd --samples 2048")
