"""Judge a generator: `python -m eval.fvd --samples 2048`. gFVD, KVD and IS with published features; under other names
without.

Protocol `paper` (PV-VAE section 4.1; what is not published is our default): as many generated as real clips, the
reference a seeded, class-stratified set of the generator's training clips, set-level distances in float64. Controls
stand beside every number: other real clips (the floor at this sample size), real clips frozen or shuffled in time, and
    the untrained generator.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError
from runtime.output import check_file
from runtime.records import check_fields

# The same distance, but to reference clips that went through the tokenizer too: what the generator alone is answerable
# for.
TO_RECONSTRUCTIONS = " to reconstructions"


@dataclass(frozen=True, kw_only=True)
class FVDConfig(CommonFlags):
    """Flags of `python -m eval.fvd`."""

    run: str | None = flag(None, "run of generator.train or shipped name; default: the newest run")
    step: int | None = flag(None, "which checkpoint; default: the newest", low=0)
    samples: int = flag(2048, "generated clips, and as many real ones", low=2, high=1_000_000)
    tokenizer: str | None = flag(None, "tokenizer to decode with; default: the one that encoded the latents")
    root: str | None = flag(None, "folder of the real clips; default: where the latents were encoded from")
    protocol: str = flag("paper", "how the numbers are made", choices=("paper",))
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


def choose_features(features: str, data: str) -> str:
    """The feature network that `--features` means for a data set."""
    return ("shapes" if data.startswith("moving_shapes") else "i3d") if features == "auto" else features


def load_chosen(features: str, data: str, device: str):
    """The feature network; when published weights are absent, the error also names the way without them."""
    from eval.features import load_features
    from runtime.processes import resolve_device

    name = choose_features(features, data)
    try:
        return load_features(name, device=str(resolve_device(device)))
    except InputError as error:
        hint = "; --features shapes gives a distance under another name (FD-shapes) without it" if name == "i3d" else ""
        raise InputError(f"{error}{hint}") from error


# C3D names the classes of UCF101; on other clips its Inception Score says nothing.
IS_DATA_SETS = ("ucf101",)


def load_classifier(facts: dict, device: str):
    """(C3D for the Inception Score or None, why there is none); nothing to say where the score is not asked for."""
    from eval.features import load_features
    from runtime.processes import resolve_device

    if facts["data"] not in IS_DATA_SETS:
        return None, ""
    if json.loads(facts["clip"])["num_frames"] < 16:
        return None, "C3D sees 16 frames, and these clips have fewer"
    try:
        return load_features("c3d", device=str(resolve_device(device))), ""
    except InputError as error:
        return None, str(error).split(";")[0]


class Judge:
    """Everything that judging one generator shares: its facts, the real sets, the feature network, and kept
    features."""

    def __init__(
        self,
        run: str,
        *,
        features: str,
        root: str | None,
        samples: int,
        seed: int,
        device: str,
        step: int | None = None,
        tokenizer: str | None = None,
    ):
        from eval.decode import fitting_tokenizer
        from eval.sets import open_training_clips, stratified_halves
        from generator.loading import SHIPPED, load_generator
        from runtime.processes import start_processes

        self.world = start_processes(device)
        generator = load_generator(run, step)
        self.facts, self.step, self.seed, self.device, self.samples = (
            generator.latents,
            generator.step,
            seed,
            str(self.world.device),
            samples,
        )
        self.run, self.shipped = run, run in SHIPPED
        check_fields(self.facts, {"data": str, "split": str, "clip": str, "rows": int}, f"{run}: facts of its latents")
        self.network = load_chosen(features, self.facts["data"], self.device)
        self.classifier, self.no_classifier = load_classifier(self.facts, self.device)
        # Before anything is sampled: the wrong tokenizer should cost nothing.
        self.vae = fitting_tokenizer(self.facts, run, tokenizer, self.device)
        self.dataset = open_training_clips(self.facts, root)
        # Only what was encoded: --max-clips may have left out the rest of the data set.
        copies = int(self.facts.get("windows", 1)) * (2 if self.facts.get("flip") else 1)
        labels = self.dataset.labels()[: int(self.facts["rows"]) // copies]
        self.reference_items, self.other_items = stratified_halves(labels, samples, seed)
        self.dir = generator.dir

    def folder(self, runs_dir: str) -> Path:
        """Where results of this generator go."""
        return (Path(runs_dir) / f"shipped-{self.run}" if self.shipped else self.dir) / "eval"

    def _key(self, **more) -> dict:
        return {
            "features": self.network.name,
            "weights": self.network.version_hash,
            "data": self.dataset.fingerprint(),
            "clip": self.facts["clip"],
            "seed": self.seed,
            "samples": self.samples,
            **({"classifier": self.classifier.version_hash} if self.classifier else {}),
            **more,
        }

    def real(self, folder: Path, subject: str):
        """Features of real clips: the "reference"; and of the other half "real", "frozen", "shuffled", "reconstructed".

        "reconstructed-reference" is the reference through the tokenizer: what a perfect generator of latents would
        reach.
        """
        from eval.sets import feature_batches, frozen, kept_features, real_batches, reconstructed, shuffled

        items = self.reference_items if subject.endswith("reference") else self.other_items
        through_tokenizer = subject.startswith("reconstructed")
        change = {"frozen": frozen, "shuffled": partial(shuffled, seed=self.seed)}.get(subject)
        if through_tokenizer:
            change = partial(reconstructed, vae=self.vae, device=self.device)
        key = {"decoder": self.vae.decoder_hash, "encoder": self.vae.encoder_hash} if through_tokenizer else {}
        return kept_features(
            folder / "features",
            subject,
            self._key(subject=subject, **key),
            items,
            lambda rows: feature_batches(
                self.network,
                real_batches(self.dataset, [items[row] for row in rows], self.seed),
                change,
                self.device,
                self.classifier,
            ),
            self.world,
        )

    def generated(
        self, folder: Path, config, *, guidance_scale: float = 1.0, step: int | None = None, untrained: bool = False
    ):
        """Features of generated clips; samples what is missing."""
        from eval.decode import decoded_clips
        from eval.sets import feature_batches, kept_features
        from generator.sample import SampleConfig, sample
        from latents_cache import open_latents

        # An untrained network's velocity is exactly zero, so one step ends where a hundred would.
        steps = 1 if untrained else config.steps
        path = sample(
            SampleConfig(
                runs_dir=config.runs_dir,
                seed=config.seed,
                device=config.device,
                dtype=config.dtype,
                run=self.run,
                step=step,
                samples=self.samples,
                steps=steps,
                guidance_scale=guidance_scale,
                batch_size=config.batch_size,
                untrained=untrained,
            )
        )
        with open_latents(path) as reader:
            latents = zlib.crc32(reader.batch(range(self.samples))["mean"].tobytes())
            key = self._key(
                subject="generated", file=path.name, latents=latents, decoder=self.vae.decoder_hash, dtype=config.dtype
            )
            return kept_features(
                folder / "features",
                path.stem,
                key,
                range(self.samples),
                lambda rows: feature_batches(
                    self.network,
                    decoded_clips(reader, self.vae, rows, device=self.device, dtype=config.dtype),
                    None,
                    self.device,
                    self.classifier,
                ),
                self.world,
            )


def distance_rows(found, reference, subject: str, network, note: str = "", suffix: str = "") -> list:
    """Fréchet and kernel distance of one set to the reference, with intervals; `suffix` ends the metrics' names."""
    from eval.features import FRECHET_NAMES, KERNEL_NAMES
    from eval.metrics.frechet import frechet_distance
    from eval.metrics.intervals import estimate
    from eval.metrics.kernel import kernel_distance
    from eval.results import row_from

    label = f"{network.name}@{network.version_hash}"
    return [
        row_from(
            estimate(metric, found.features, reference.features),
            metric=names[network.name] + suffix,
            subject=subject,
            features=label,
            note=note,
            of=(found, reference),
        )
        for names, metric in ((FRECHET_NAMES, frechet_distance), (KERNEL_NAMES, kernel_distance))
    ]


def inception_rows(found, subject: str, judge: Judge, note: str = "") -> list:
    """IS of one set by C3D, in one split and in ten, or one row that says why it was not measured."""
    from eval.metrics.inception import inception_score
    from eval.metrics.intervals import estimate
    from eval.results import Row, row_from

    if judge.no_classifier:
        return [Row(metric="IS", subject=subject, value=None, note=f"not measured: {judge.no_classifier}")]
    if judge.classifier is None:
        return []
    rows, label = [], f"{judge.classifier.name}@{judge.classifier.version_hash}"
    for splits, metric in ((1, "IS"), (10, "IS (10 splits)")):
        # The jackknife leaves out a tenth, and every part needs two clips.
        if len(found.probabilities) * 9 // 10 < 2 * splits:
            reason = f"not measured: {len(found.probabilities)} clips are too few for {splits} splits"
            rows.append(Row(metric=metric, subject=subject, value=None, note=reason))
            continue
        score = estimate(partial(inception_score, splits=splits), found.probabilities)
        words = note or "first 16 frames"
        rows.append(row_from(score, metric=metric, subject=subject, features=label, note=words, of=(found,)))
    return rows


def judge_rows(found, subject: str, network, note: str = "") -> list:
    """What the judge of synthetic clips says: IS-shapes, and how often it sees the shape, motion and class that were
    asked for."""
    from eval.metrics.inception import inception_score
    from eval.metrics.intervals import estimate
    from eval.results import row_from
    from videos.moving_shapes import MOTIONS, SHAPES

    if found.probabilities is None:
        return []
    label = f"{network.name}@{network.version_hash}"
    rows = [
        row_from(
            estimate(inception_score, found.probabilities),
            metric="IS-shapes",
            subject=subject,
            features=label,
            note=note,
            of=(found,),
        )
    ]
    asked, seen, motions = found.labels, found.probabilities.argmax(1), len(MOTIONS)
    if asked.min() < 0 or asked.max() >= len(SHAPES) * motions:
        return rows
    right = {
        "shape": seen // motions == asked // motions,
        "motion": seen % motions == asked % motions,
        "class": seen == asked,
    }
    for what, hits in right.items():
        found_row = row_from(
            estimate(lambda x: x.mean(), hits.astype(float)),
            metric=f"accuracy-{what}",
            subject=subject,
            features=label,
            note=note,
            of=(found,),
        )
        # The jackknife knows no bounds; a share has two.
        low, high = (None if edge is None else min(1.0, max(0.0, edge)) for edge in (found_row.low, found_row.high))
        rows.append(replace(found_row, low=low, high=high))
    return rows


def differences(features: str, samples: int, reference: int, steps: int, facts: dict) -> list[str]:
    """In words, how these numbers differ from the paper's protocol."""
    words = []
    if features != "i3d":
        words.append(
            "features are those of the project's own judge of synthetic clips: a Fréchet distance on them is no FVD"
        )
    if samples != 2048:
        words.append(f"{samples} generated clips instead of 2,048")
    if reference != samples:
        words.append(f"only {reference} real clips in the reference")
    if steps != 100:
        words.append(f"{steps} Euler steps instead of 100")
    if facts.get("data") not in ("ucf101", "realestate10k"):
        words.append(f"data set {facts.get('data')} instead of UCF101 or RealEstate10K")
    clip = json.loads(facts["clip"])
    if clip["size"] != 256 or clip["num_frames"] != 17:
        words.append(f"clips of {clip['num_frames']} frames at {clip['size']} pixels instead of 17 at 256")
    return words


def fvd(config: FVDConfig) -> Path:
    """Measure, print the table, write the JSON; returns its path."""
    import time

    from eval.results import table, write_results
    from runtime.run import newest_run, timed_part

    began = time.monotonic()
    run = config.run or str(newest_run(config.runs_dir, "generator"))
    judge = Judge(
        run,
        features=config.features,
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
    synthetic = judge.facts["data"].startswith("moving_shapes")  # what the judge has learned to name
    with timed_part(folder.parent, "eval.fvd"):
        reference = judge.real(folder, "reference")
        through = judge.real(folder, "reconstructed-reference")
        rows = []
        for scale in config.guidance_scales:
            found = judge.generated(folder, config, guidance_scale=scale, step=config.step)
            subject = "generated" if scale == config.guidance_scales[0] else f"generated (guidance {scale:g})"
            note = f"guidance {scale:g}" if subject == "generated" else ""
            rows += distance_rows(found, reference, subject, judge.network, note)
            rows += distance_rows(found, through, subject, judge.network, note, TO_RECONSTRUCTIONS)
            rows += inception_rows(found, subject, judge, note and f"{note}, first 16 frames")
            rows += judge_rows(found, subject, judge.network) if synthetic else []
        if config.controls:
            for subject in ("real", "reconstructed", "frozen", "shuffled"):
                found = judge.real(folder, subject)
                rows += distance_rows(found, reference, subject, judge.network)
                if judge.classifier and subject in ("real", "reconstructed"):
                    rows += inception_rows(found, subject, judge)
                rows += judge_rows(found, subject, judge.network) if synthetic and subject == "real" else []
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
        run=str(run),
        step=judge.step,
        samples=config.samples,
        seed=config.seed,
        device=config.device,
        data=judge.facts["data"],
        features=f"{judge.network.name}@{judge.network.version_hash}",
        protocol=config.protocol,
        steps=config.steps,
        guidance_scales=list(config.guidance_scales),
        decoder_hash=judge.vae.decoder_hash,
        reference_clips=len(reference.features),
        differences=words,
        seconds=round(time.monotonic() - began, 1),
    )
    print(table(rows))
    for word in words:
        print(f"  differs from the paper: {word}")
    print(f"eval.fvd: wrote {out}")
    return out


if __name__ == "__main__":
    run_command(fvd, FVDConfig, example="python -m eval.fvd --samples 2048")
