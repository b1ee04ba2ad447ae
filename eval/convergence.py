"""How fast a generator learns: distance against training step over the kept checkpoints (PV-VAE figure 1a).

`python -m eval.convergence --runs runs/a,runs/b --samples 512`: every checkpoint of every run starts from the same
noise, and all are measured on one device in one command. `--tokenizer` draws the curve through another decoder of the
same encoder, as one that was fine-tuned while the generator learned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from eval.entries import DecoderFlags
from eval.features import FEATURE_CHOICES
from generator.sample import SamplingFlags
from runtime.command import flag, run_command
from runtime.errors import InputError
from runtime.output import check_file

# Of a distance, what the end of its interval counts for where it lies at or below zero.
SMALLEST_END = 1e-3


@dataclass(frozen=True, kw_only=True)
class ConvergenceConfig(SamplingFlags, DecoderFlags):
    """Flags of `python -m eval.convergence`."""

    runs: tuple[str, ...] = flag((), "runs of generator.train; default: the newest")
    samples: int = flag(
        800, "generated clips at each checkpoint, and as many real ones; FVD has 400 features", low=2, high=1_000_000
    )
    guidance_scale: float = flag(1.0, "classifier-free guidance; 1 is off", low=0.0, high=1000.0)
    root: str | None = flag(None, "folder of the real clips; default: where the latents were encoded from")
    features: str = flag("auto", "auto: shapes for moving_shapes, i3d for everything else", choices=FEATURE_CHOICES)
    batch_size: int = flag(64, "samples in one forward pass", low=1, high=65_536)
    out: str | None = flag(
        None, "JSON file to write, of one run; default: eval/convergence-….json in each", check=check_file
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.out and len(self.runs) > 1:
            raise InputError(f"--out {self.out}: one file cannot hold several runs; leave --out away")
        if len({Path(run).resolve() for run in self.runs}) < len(self.runs):
            raise InputError(f"--runs {','.join(self.runs)}: a run is named twice")


def step_reaching(steps: Sequence[int], values: Sequence[float], target: float) -> float | None:
    """The first step at which a falling curve reaches `target`, interpolating log(value) linearly in the step; None if
    it never does."""
    if len(steps) != len(values) or len(steps) < 1 or min(values) <= 0 or target <= 0:
        raise InputError("a convergence curve needs as many positive values as steps, and a positive target")
    for i, (step, value) in enumerate(zip(steps, values, strict=True)):
        if value <= target:
            if i == 0:
                return float(step)
            before, was = steps[i - 1], values[i - 1]
            return before + (step - before) * (math.log(was) - math.log(target)) / (math.log(was) - math.log(value))
    return None


@dataclass(frozen=True)
class Faster:
    """ "x % faster" than another run, with the ends that it takes when both curves are at the ends of their intervals.

    Both at their worst ends at once is rarer than 5 %, so the interval is wider than one of 95 %. It covers fresh
    clips, not other training seeds.

    Attributes:
        percent: PV-VAE figure 1a: 100 * (1 - S / total), S the step at which this curve reaches the other's final
            value; negative when it is slower; None: it never gets there.
        low: With this curve at its upper and the other's final value at its lower ends; None: then it never gets there.
        high: The other way round.
        at_least: Whether the first kept checkpoint is there already, so that S may be smaller still.
    """

    percent: float | None
    low: float | None
    high: float | None
    at_least: bool

    def words(self, run: str, other: str) -> str:
        """As a sentence."""
        if self.percent is None:
            return f"{run} never reaches the final value of {other}"
        ends = " … ".join("–" if end is None else f"{end:.1f}" for end in (self.low, self.high))
        least = "at least " if self.at_least else ""
        return f"{run} is {least}{self.percent:.1f} % faster to reach the final value of {other} ({ends})"


def faster_than(curve: Sequence[dict], rival: Sequence[dict]) -> Faster:
    """How much faster one curve is at the final value of another.

    Args:
        curve, rival: Points {"step", "value", "low", "high"} with rising steps; ends None where there is no interval.
    """
    steps, final = [point["step"] for point in curve], rival[-1]

    def percent(ours: str, theirs: str) -> float | None:
        values, target = [_end(point, ours) for point in curve], _end(final, theirs)
        reached = step_reaching(steps, values, target) if min(*values, target) > 0 else None
        return None if reached is None else 100.0 * (1.0 - reached / final["step"])

    found = percent("value", "value")
    at_least = found is not None and curve[0]["value"] < final["value"]
    return Faster(found, percent("high", "low"), percent("low", "high"), at_least)


@dataclass(frozen=True)
class Lead:
    """How far one curve is ahead of another; of the two in turned order, each number has the other sign.

    Attributes:
        percent: Of training. Where it ends at least as low, how much faster it is at the other's final value; else,
            less how much faster the other is at its own: of two curves that fall and rise by chance each may reach
            the other's final value. None where one is not above 0.
        end: Logarithm of its final value over the other's: below 0 where it ends lower. None likewise.
    """

    percent: float | None
    end: float | None


def lead(curve: Sequence[dict], rival: Sequence[dict]) -> Lead:
    """How far one curve is ahead of another; points as `faster_than` takes them."""
    last, other = curve[-1]["value"], rival[-1]["value"]
    end = math.log(last) - math.log(other) if min(last, other) > 0 else None
    if last <= other:
        return Lead(faster_than(curve, rival).percent, end)
    behind = faster_than(rival, curve).percent
    return Lead(None if behind is None else -behind, end)


def _end(point: dict, end: str) -> float:
    """An end of a point's interval, kept above zero, where ends of small distances may lie and logarithms may not."""
    if end == "value" or point[end] is None:
        return point["value"]
    return max(point[end], SMALLEST_END * abs(point["value"]))


def convergence(config: ConvergenceConfig) -> list[Path]:
    """Measure every kept checkpoint of every run, print the curves, write one JSON a run."""
    from eval.results.rows import table, write_results
    from runtime.processes import start_processes
    from runtime.run import newest_run

    def chosen() -> dict[str, list[int]]:
        runs = config.runs or (str(newest_run(config.runs_dir, "generator")),)
        return {run: kept_checkpoints(run) for run in runs}

    # All of them before hours go into the first, and the main process for all: runs may be in training.
    world = start_processes(config.device)
    kept_steps = world.agreed(chosen)
    found = {}
    for run, steps in kept_steps.items():
        found[run] = measure_run(run, steps, config)
        _, facts, rows = found[run]
        print(table([row for row in rows if row.metric.startswith(facts["metric"])]))
    notes = comparability({run: facts for run, (_, facts, _) in found.items()})
    for run, (out, facts, rows) in found.items():
        faster = {}
        for other, (_, rival, _) in found.items():
            if run != other and same_clips(facts, rival):
                faster[other] = faster_than(facts["curve"], rival["curve"])
                print(faster[other].words(run, other))
        compared = {other: asdict(found) for other, found in faster.items()}
        write_results(out, kind="convergence", rows=rows, **facts, faster_than=compared, notes=notes)
        print(f"eval.convergence: wrote {out}")
    for words in dict.fromkeys(word for _, facts, _ in found.values() for word in facts["differences"]):
        print(f"  differs from the paper: {words}")
    for words in notes:
        print(f"  {words}")
    return [out for out, _, _ in found.values()]


def measure_run(run: str, steps: Sequence[int], config: ConvergenceConfig) -> tuple[Path, dict, list]:
    """(where it is written, facts, rows) of one run; what was measured before is taken from the kept features."""
    import time

    from eval.clip_sets import Judge, Watcher
    from eval.decode import weights_of
    from eval.features import FRECHET_NAMES
    from eval.protocols.follow import differences
    from eval.quantities import TO_RECONSTRUCTIONS, distance_rows, no_infinity
    from runtime.run import timed_part
    from tokenizer.zoo import pinned

    began = time.monotonic()
    where = {name: getattr(config, name) for name in ("root", "tokenizer", "weights")}
    judge = Judge(run, config, features=config.features, **where)
    network = judge.network
    watchers = {"features": Watcher(network=network)}
    with timed_part(judge.run_folder, "eval.convergence"):
        reference = judge.real(judge.reference_items, ["real", "reconstructed"], watchers)
        others = judge.real(judge.other_items, ["real"], watchers)["real", "features"]
        targets = {"": reference["real", "features"], TO_RECONSTRUCTIONS: reference["reconstructed", "features"]}
        rows, curves = [], {suffix: [] for suffix in targets}
        for step in steps:
            label, scale = f"{judge.run_folder.name}, step {step}", config.guidance_scale
            found = judge.generated(watchers, step=step, guidance_scale=scale, label=label)["features"]
            for suffix, target in targets.items():
                at_step = distance_rows(found, target, f"generated, step {step}", suffix=suffix)
                rows += at_step
                first = at_step[0]
                curves[suffix].append({"step": step, "value": first.value, "low": first.low, "high": first.high})
        floor = distance_rows(others, targets[""], "real")
        noise = judge.generated(watchers, untrained=True, label="untrained generator's clips")["features"]
        untrained = {
            suffix: distance_rows(noise, target, "untrained", suffix=suffix) for suffix, target in targets.items()
        }
        rows += floor + untrained[""] + untrained[TO_RECONSTRUCTIONS]
    words = differences(network.name, len(targets[""].features), judge)
    too_few = no_infinity(noise.features, targets[""].features)
    weights = weights_of(judge.facts, config.tokenizer, config.weights) if config.tokenizer else config.weights
    facts = {
        "run": str(run),
        "metric": FRECHET_NAMES[network.name],
        "curve": curves[""],
        "curve_to_reconstructions": curves[TO_RECONSTRUCTIONS],
        "untrained_to_reconstructions": untrained[TO_RECONSTRUCTIONS][0].value,
        "floor": floor[0].value,
        "untrained": untrained[""][0].value,
        "samples": config.samples,
        "steps": config.steps,
        "seed": config.seed,
        "device": str(judge.world.device),
        "data": judge.facts["data"],
        "clip": judge.facts["clip"],
        "fingerprint": judge.dataset.fingerprint(),
        "features": f"{network.name}@{network.version_hash}",
        "trained_on": trained_on(run),
        "encoder_hash": judge.hashes["encoder"],
        "decoder_hash": judge.hashes["decoder"],
        **({"tokenizer": pinned(config.tokenizer, config.weights)} if config.tokenizer else {}),
        **({"weights": weights} if weights else {}),
        **judge.options,
        **({"guidance_scale": config.guidance_scale} if config.guidance_scale != 1.0 else {}),
        "differences": [*words, *([f"curves are biased by their few clips: {too_few}"] if too_few else [])],
        "seconds": round(time.monotonic() - began, 1),
    }
    name = f"convergence-{network.name}-n{config.samples}{judge.way}.json"
    out = Path(config.out) if config.out else judge.results_folder / name
    facts["samples_of"] = judge.samples_as_seen_from(out.parent)
    return out, facts, rows


def trained_on(run: str) -> dict:
    """The machine that a run was started on and its batch size; empty for shipped weights."""
    from runtime.run import read_run

    if not (Path(run) / "manifest.json").is_file():
        return {}
    info = read_run(run, "generator")
    return {"machine": info.manifest.get("machine"), "batch_size": info.config.get("batch_size")}


def same_clips(facts: dict, rival: dict) -> bool:
    """Whether two curves are distances to the same real clips, by the same features."""
    return all(facts[name] == rival[name] for name in ("data", "fingerprint", "clip", "features", "seed", "samples"))


def comparability(runs: dict[str, dict]) -> list[str]:
    """In words, what to know before curves are compared, beside what each of them says of itself."""
    first, *others = runs.values()
    if not others:
        return []
    devices = sorted({facts["device"] for facts in runs.values()})
    notes = [f"all curves were measured on {' and '.join(devices)}; a step is an optimizer update, not a time"]
    for facts in others:
        pair = f"{first['run']} and {facts['run']}"
        if not same_clips(first, facts):
            notes.append(f"{pair}: distances to different clips, which do not compare")
        for name, words in (("machine", "trained on different machines"), ("batch_size", "trained with batches of")):
            ours, theirs = first["trained_on"].get(name), facts["trained_on"].get(name)
            if ours != theirs:
                detail = f" {ours} and {theirs}" if name == "batch_size" else ": steps compare, hours do not"
                notes.append(f"{pair}: {words}{detail}")
    return notes


def kept_checkpoints(run: str) -> list[int]:
    """Steps of the checkpoints that stayed, oldest first; InputError when there are none."""
    from generator.loading import load_generator
    from runtime.checkpoint import list_checkpoints
    from runtime.records import read_json

    directory = load_generator(run).dir
    kept = [step for step, path in list_checkpoints(directory) if read_json(path / "state.json").get("keep")]
    if not kept:
        raise InputError(f"{run} has no kept checkpoints to draw a curve of")
    return kept


if __name__ == "__main__":
    run_command(convergence, ConvergenceConfig, example="python -m eval.convergence --runs runs/a,runs/b --samples 512")
