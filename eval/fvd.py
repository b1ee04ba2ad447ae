"""Judge a generator: `python -m eval.fvd --samples 2048`. gFVD, KVD and IS with published features; under other names
without.

Protocol `paper` (PV-VAE section 4.1; what is not published is our default): as many generated as real clips, the
reference a seeded, class-stratified set of the generator's training clips, set-level distances in float64. Controls
stand beside every number: other real clips (the floor at this sample size), real clips frozen or shuffled in time, and
the untrained generator.

`--protocol all`, or several names, takes the same samples and the same data set through each of
`eval.protocols.presets` instead, and says under every number how it differs from the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eval.entries import DecoderFlags
from eval.features import FEATURE_CHOICES
from eval.protocols.presets import PAPER, PROTOCOLS
from generator.sample import SamplingFlags
from runtime.command import flag, run_command
from runtime.errors import InputError
from runtime.output import check_file


@dataclass(frozen=True, kw_only=True)
class FVDConfig(SamplingFlags, DecoderFlags):
    """Flags of `python -m eval.fvd`."""

    run: str | None = flag(None, "run of generator.train or shipped name; default: the newest run")
    step: int | None = flag(None, "which checkpoint; default: the newest", low=0)
    samples: int = flag(2048, "generated clips, and as many real ones", low=2, high=1_000_000)
    root: str | None = flag(None, "folder of the real clips; default: where the latents were encoded from")
    protocol: tuple[str, ...] = flag(
        (PAPER.name,), "how the numbers are made: names, comma-separated, or all", choices=(*PROTOCOLS, "all")
    )
    features: str = flag("auto", "auto: shapes for moving_shapes, i3d for everything else", choices=FEATURE_CHOICES)
    guidance_scales: tuple[float, ...] = flag(
        (1.0,), "guidance scales to judge, the first is the headline", low=0.0, high=1000.0
    )
    controls: bool = flag(True, "also measure the controls, and distances to reconstructions")
    batch_size: int = flag(64, "samples in one forward pass", low=1, high=65_536)
    out: str | None = flag(None, "JSON file to write; default: eval/fvd-….json in the run", check=check_file)

    def __post_init__(self) -> None:
        super().__post_init__()
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
    import time
    from dataclasses import asdict

    from eval.clip_sets import Judge, choose_features
    from eval.decode import weights_of
    from eval.protocols.follow import follow
    from eval.results.rows import table, write_results
    from generator.loading import chosen
    from runtime.processes import start_processes
    from runtime.run import timed_part

    began = time.monotonic()
    # The main process chooses: a run that is being trained may get a newer checkpoint at any moment.
    world = start_processes(config.device)
    run, step = world.agreed(lambda: chosen(config.run, config.step, config.runs_dir))
    alone = config.protocols == (PAPER.name,)
    where = {name: getattr(config, name) for name in ("root", "tokenizer", "weights")}
    judge = Judge(run, config, step=step, features=config.features if alone else None, **where)
    network = judge.network
    facts = {
        "run": run,
        "step": judge.step,
        "samples": config.samples,
        "seed": config.seed,
        "device": config.device,
        "data": judge.facts["data"],
        "steps": config.steps,
        "guidance_scales": list(config.guidance_scales),
        "decoder_hash": judge.hashes["decoder"],
        "encoder_hash": judge.hashes["encoder"],
    }
    facts |= judge.options
    weights = weights_of(judge.facts, config.tokenizer, config.weights)
    facts |= {"weights": weights} if weights else {}
    with timed_part(judge.run_folder, "eval.fvd"):
        if alone:
            kind, name = "fvd", network.name
            rows, more = judge_generator(judge, config)
            said = {PAPER.name: more["differences"]}
            facts |= {"features": f"{network.name}@{network.version_hash}", "protocol": PAPER.name, **more}
            tables = {PAPER.name: rows}
        else:
            kind, name = "protocols", f"{'-'.join(config.protocol)}-{choose_features(config.features, facts['data'])}"
            tables, said = follow(judge, config)
            rows = [row for part in tables.values() for row in part]
            protocols = {word: asdict(PROTOCOLS[word]) | {"differences": lines} for word, lines in said.items()}
            facts |= {"features": choose_features(config.features, facts["data"]), "protocols": protocols}
    name = f"{kind}-{name}-step{judge.step:08d}-n{config.samples}{judge.way}.json"
    out = Path(config.out) if config.out else judge.results_folder / name
    facts["samples_of"] = judge.samples_as_seen_from(out.parent)
    write_results(out, kind=kind, rows=rows, **facts, seconds=round(time.monotonic() - began, 1))
    for word, part in tables.items():
        if not alone:
            print(f"protocol {word}, of {PROTOCOLS[word].source}")
        print(table(part))
        for line in said[word]:
            print(f"  differs from the paper: {line}")
    for line in facts.get("notes", ()):
        print(f"  {line}")
    print(f"eval.fvd: wrote {out}")
    return out


def judge_generator(judge, config: FVDConfig) -> tuple[list, dict]:
    """(rows, facts) of the paper's protocol, with every control that was asked for."""
    from eval.clip_sets import CONTROLS, Watcher, load_classifier
    from eval.protocols.follow import differences
    from eval.quantities import TO_RECONSTRUCTIONS, distance_rows, judge_rows, no_infinity, score_rows
    from eval.results.rows import Row

    classifier, no_classifier = load_classifier(judge.facts, judge.device)
    watchers = {"features": Watcher(network=judge.network)}
    watchers |= {"scores": Watcher(network=classifier)} if classifier else {}

    def scores(seen: dict, subject: str, note: str = "") -> list[Row]:
        if no_classifier:
            return [Row(metric="IS", subject=subject, value=None, note=f"not measured: {no_classifier}")]
        note = ", ".join(filter(None, (note, "first 16 frames")))
        return score_rows(seen["scores"], subject, note=note) if classifier else []

    def real(items: list[int], *pictures: str) -> dict[str, dict]:
        found = judge.real(items, pictures, watchers)
        return {picture: {name: found[picture, name] for name in watchers} for picture in pictures}

    references = real(judge.reference_items, "real", *(["reconstructed"] if config.controls else []))
    reference = references["real"]["features"]
    targets = {"": reference}
    targets |= {TO_RECONSTRUCTIONS: references["reconstructed"]["features"]} if config.controls else {}
    rows = []
    for scale in config.guidance_scales:
        headline = scale == config.guidance_scales[0]
        seen = judge.generated(watchers, guidance_scale=scale, label=f"generated clips, guidance {scale:g}")
        found, subject = seen["features"], "generated" if headline else f"generated (guidance {scale:g})"
        note = f"guidance {scale:g}" if headline else ""
        for suffix, target in targets.items():
            rows += distance_rows(found, target, subject, note=note, suffix=suffix, infinity=True)
        rows += scores(seen, subject, note) + judge_rows(found, subject)
    notes = [words for words in [no_infinity(found.features, reference.features)] if words]
    if config.controls:
        others = real(judge.other_items, *CONTROLS)
        if (count := len(others["real"]["features"].features)) < len(found.features):
            words = "fewer have a larger distance by bias alone"
            notes.append(f"controls of real clips are {count}, generated clips {len(found.features)}: {words}")
        for subject in ("real", "reconstructed", "frozen", "shuffled"):
            found = others[subject]["features"]
            rows += distance_rows(found, reference, subject, infinity=subject == "real")
            if subject in ("real", "reconstructed"):
                rows += scores(others[subject], subject) if classifier else []
                rows += judge_rows(found, subject)
        untrained = judge.generated(watchers, untrained=True, label="untrained generator's clips")["features"]
        rows += distance_rows(untrained, reference, "untrained")
        for subject, found in (("reconstructed", others["reconstructed"]["features"]), ("untrained", untrained)):
            rows += distance_rows(found, targets[TO_RECONSTRUCTIONS], subject, suffix=TO_RECONSTRUCTIONS)
    words = differences(judge.network.name, len(reference.features), judge)
    return rows, {"reference_clips": len(reference.features), "differences": words, "notes": notes}


if __name__ == "__main__":
    run_command(fvd, FVDConfig, example="python -m eval.fvd --samples 2048")
