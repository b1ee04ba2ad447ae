"""One set of clips through published protocols: the same samples and the same data set, each time as that code does it.

`python -m eval.fvd --protocol all` shows how far numbers move that all go by the name of FVD. What of a protocol cannot
be followed here stands in words under its numbers, and a protocol without its network is a row that says so.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from eval import protocols as words
from eval.feature_store import FeatureSet
from eval.features import FRECHET_NAMES, KERNEL_NAMES
from eval.judge import IS_DATA_SETS, Judge, choose_features, load_classifier
from eval.metrics.frechet import frechet_distance, frechet_left_out
from eval.metrics.intervals import Estimate, estimate, interval, spread_of
from eval.metrics.jackknife import ROUNDS
from eval.metrics.kernel import kernel_distance
from eval.metrics.published_roots import frechet_by_sqrtm, frechet_by_tfgan
from eval.protocol_clips import (
    BYTES,
    REFERENCES,
    SPLITS,
    STORAGES,
    WINDOWS,
    ClipPlan,
    RealClips,
    choose_real,
    plan_clips,
    stored,
)
from eval.protocol_networks import FOLLOWED_BY_I3D, load_network
from eval.protocols import PAPER, PROTOCOLS, Protocol
from eval.results import Row, row_from, table, write_results
from eval.set_rows import (
    JUDGES_FEATURES,
    classes_of,
    infinity_rows,
    no_infinity,
    sampling_differences,
    score_rows,
    stratified,
)
from runtime.errors import InputError

ROOTS: dict[str, Callable] = {
    words.NUCLEAR: frechet_distance,
    words.SQRTM: frechet_by_sqrtm,
    words.TFGAN: frechet_by_tfgan,
}
# What each setting may be, where code here follows it; numbers speak for themselves.
FOLLOWED = {
    "reference": REFERENCES,
    "split": SPLITS,
    "window": WINDOWS,
    "storage": tuple(STORAGES),
    "to_uint8": tuple(BYTES),
    "root": tuple(ROOTS),
    "kvd": (words.CUBIC, words.NONE),
}


@dataclass(frozen=True)
class Prepared:
    """A protocol that can be followed: its clips, its networks, and in words what differs.

    Attributes:
        no_score: Why the Inception Score is not measured, "" where it is or is not asked for.
        differences: From the paper's protocol, and from the protocol itself.
    """

    protocol: Protocol
    plan: ClipPlan
    real: RealClips
    network: object
    classifier: object | None
    no_score: str
    differences: list[str]


def measure_protocols(judge: Judge, folder: Path, config) -> Path:
    """Measure by every protocol that was asked for, print a table each, write one JSON; returns its path.

    Raises:
        InputError: When a protocol that was asked for by name cannot be followed; under "all" it becomes a row.
    """
    import time

    from eval.fvd import run_facts
    from runtime.run import timed_part

    began = time.monotonic()
    # All of them before hours go into the first.
    prepared: dict[str, Prepared | str] = {}
    for name in config.protocols:
        try:
            prepared[name] = prepare(PROTOCOLS[name], judge, config)
        except InputError as error:
            if "all" not in config.protocol:
                raise InputError(f"protocol {name}: {error}") from error
            prepared[name] = str(error)
    rows: dict[str, list[Row]] = {}
    with timed_part(folder.parent, "eval.fvd"):
        for name, found in prepared.items():
            if isinstance(found, str):
                reason = f"not measured: {found}"
                rows[name] = [Row(metric="FVD", subject=f"generated, {name}", value=None, note=reason)]
            else:
                rows[name] = measure(found, judge, folder, config)
    feature = choose_features(config.features, judge.facts["data"])
    named = "-".join(config.protocol)
    out = folder / f"protocols-{named}-{feature}-step{judge.step:08d}-n{config.samples}.json"
    out = Path(config.out) if config.out else out
    said = {name: differences_of(name, found) for name, found in prepared.items()}
    write_results(
        out,
        kind="protocols",
        rows=[row for part in rows.values() for row in part],
        **run_facts(judge, config),
        features=feature,
        protocols={name: asdict(PROTOCOLS[name]) | {"differences": said[name]} for name in prepared},
        seconds=round(time.monotonic() - began, 1),
    )
    for name, part in rows.items():
        print(f"protocol {name}, of {PROTOCOLS[name].source}")
        print(table(part))
        for line in said[name]:
            print(f"  differs from the paper: {line}")
    print(f"eval.fvd: wrote {out}")
    return out


def differences_of(name: str, found: Prepared | str) -> list[str]:
    """In words, how a protocol's numbers differ from the paper's protocol."""
    return PROTOCOLS[name].differs_from(PAPER) if isinstance(found, str) else found.differences


def prepare(protocol: Protocol, judge: Judge, config) -> Prepared:
    """Find out, before anything is sampled, whether and how a protocol can be followed.

    Raises:
        InputError: If weights are absent, clips too few or too short, or nothing here follows one of its settings.
    """
    data = judge.facts["data"]
    shapes = choose_features(config.features, data) == "shapes"
    for name, values in FOLLOWED.items() if shapes else {**FOLLOWED, **FOLLOWED_BY_I3D}.items():
        if getattr(protocol, name) not in values:
            raise InputError(f"{getattr(protocol, name)} (weights {protocol.weights}): not built here")
    plan = plan_clips(protocol, judge.dataset.clip, config.samples)
    network = load_network(protocol, shapes, judge.device)
    real = choose_real(protocol, plan, judge, config.root, config.seed)
    classifier, no_score = None, ""
    if not shapes and protocol.is_network == words.TORCHSCRIPT_C3D and data in IS_DATA_SETS:
        no_score = "StyleGAN-V's port of C3D, c3d_ucf101.pt, is not built here"
    elif not shapes and protocol.is_network == words.TGAN2_C3D:
        classifier, no_score = load_classifier(judge.facts, judge.device)
    stand_in = f"{JUDGES_FEATURES}; weights, eps, resize, range and classifier that stand below do not apply"
    lines = [*([stand_in] if shapes else []), *protocol.differs_from(PAPER), *plan.unmet, *real.unmet]
    lines += sampling_differences(config.steps, judge.facts)
    return Prepared(protocol, plan, real, network, classifier, no_score, lines)


def measure(prepared: Prepared, judge: Judge, folder: Path, config) -> list[Row]:
    """The numbers of one protocol, for every guidance scale."""
    protocol, network = prepared.protocol, prepared.network
    reference = real_features(prepared, judge, folder, config)
    label = f"{network.name}@{network.version_hash}"
    # Where real clips are a class-stratified draw, and not just any, their classes bear on the interval.
    of_reference = classes_of(reference) if protocol.reference == words.STRATIFIED else None
    rows = []
    for scale in config.guidance_scales:
        found = generated_features(prepared, judge, folder, config, scale)
        subject = f"generated, {protocol.name}"
        subject += "" if scale == config.guidance_scales[0] else f" (guidance {scale:g})"
        note = f"guidance {scale:g}" if scale == config.guidance_scales[0] else ""
        # Numbers that follow from kept features by the metrics as they are; the others have settings of their own.
        kept = (found, reference) if protocol == PAPER else ()
        more = {"subject": subject, "features": label, "note": note, "of": kept}
        distance = mean_distance(protocol, found, reference, (classes_of(found), of_reference), prepared.plan.repeats)
        name = FRECHET_NAMES[network.name]
        if np.isfinite(distance.value):
            rows.append(row_from(distance, metric=name, **more))
        else:
            rows.append(Row(metric=name, subject=subject, value=None, note=f"not a number by {protocol.root}"))
        if protocol.root == words.NUCLEAR and not no_infinity(found, reference):
            rows += infinity_rows(found, reference, subject, network, note)
        if protocol.kvd == words.CUBIC:
            classes = classes_of(found), of_reference
            kernel = estimate(
                kernel_distance, found.features, reference.features, labels=classes[0], labels_b=classes[1]
            )
            rows.append(row_from(stratified(kernel, classes), metric=KERNEL_NAMES[network.name], **more))
        rows += score_of(prepared, judge, found, subject, note)
    return rows


def score_of(prepared: Prepared, judge: Judge, found: FeatureSet, subject: str, note: str) -> list[Row]:
    """Inception Score by the protocol's splits and shuffle, or a row that says why it is not measured."""
    protocol = prepared.protocol
    if prepared.no_score:
        return [Row(metric="IS", subject=subject, value=None, note=f"not measured: {prepared.no_score}")]
    synthetic = judge.facts["data"].startswith("moving_shapes") and prepared.network.name == "shapes"
    if protocol.is_network == words.NONE or not (prepared.classifier or synthetic):
        return []
    network = prepared.classifier or prepared.network
    return score_rows(
        found,
        subject,
        f"{network.name}@{network.version_hash}",
        name="IS" if prepared.classifier else "IS-shapes",
        splits=protocol.is_splits,
        shuffle_seed=protocol.is_shuffle_seed,
        note=note,
    )


def mean_distance(
    protocol: Protocol, found: FeatureSet, reference: FeatureSet, classes: tuple, repeats: int
) -> Estimate:
    """Fréchet distance by the protocol's own divisor and root, the mean over its disjoint pairs of sets.

    The interval is that of the exact root with N - 1, which the others differ from by rounding and by 1/N; pairs are
    independent, so their variances add.
    """
    root, values, spread = ROOTS[protocol.root], [], 0.0
    parts = zip(*(_parts(x, len(x), repeats) for x in (found.features, reference.features)), strict=True)
    labels = zip(*(_parts(x, 0 if x is None else len(x), repeats) for x in classes), strict=True)
    for (a, b), (of_a, of_b) in zip(parts, labels, strict=True):
        values.append(root(a, b, protocol.ddof))
        spread += spread_of(frechet_left_out(a, b), (len(a), len(b)), False, (of_a, of_b), ROUNDS, 0)
    made = f"mean of {repeats} pairs of sets; " if repeats > 1 else ""
    sizes = len(found.features) // repeats, len(reference.features) // repeats
    distance = interval(float(np.mean(values)), spread / repeats**2, sizes, ROUNDS, made)
    return stratified(replace(distance, n=len(found.features)), classes)


def _parts(rows: np.ndarray | None, count: int, repeats: int) -> Sequence[np.ndarray | None]:
    """Rows cut into consecutive sets of equal size."""
    if rows is None:
        return [None] * repeats
    return [rows[part * (count // repeats) : (part + 1) * (count // repeats)] for part in range(repeats)]


def _key(prepared: Prepared, **more) -> dict:
    """Everything that a protocol's features depend on."""
    protocol, plan, classifier = prepared.protocol, prepared.plan, prepared.classifier
    return {
        "features": prepared.network.name,
        "weights": prepared.network.version_hash,
        "resize": protocol.resize,
        "storage": protocol.storage,
        "frames": plan.frames,
        "size": plan.size,
        **({"classifier": classifier.version_hash} if classifier else {}),
        **more,
    }


def real_features(prepared: Prepared, judge: Judge, folder: Path, config) -> FeatureSet:
    """Features of the protocol's real clips, kept."""
    from eval.sets import feature_batches, kept_features, real_batches

    protocol, plan, real = prepared.protocol, prepared.plan, prepared.real
    key = _key(
        prepared,
        subject="real",
        data=real.fingerprint,
        split=real.split,
        window=protocol.window,
        stride=protocol.real_stride or judge.dataset.clip.frame_stride,
        items=zlib.crc32(np.asarray(real.items).tobytes()),
        seed=config.seed,
    )
    subject = "protocol-real"
    return kept_features(
        folder / "features",
        subject,
        key,
        real.items,
        lambda rows: feature_batches(
            prepared.network,
            stored(real_batches(real.dataset, [real.items[row] for row in rows], config.seed), protocol, plan),
            None,
            judge.device,
            prepared.classifier,
        ),
        judge.world,
    )


def generated_features(prepared: Prepared, judge: Judge, folder: Path, config, scale: float) -> FeatureSet:
    """Features of as many generated clips as the protocol takes, kept; samples what is missing."""
    from eval.decode import decoded_clips
    from eval.sets import feature_batches, kept_features
    from latents_cache import open_latents

    protocol, plan = prepared.protocol, prepared.plan
    count = plan.generated * plan.repeats
    path = judge.samples(config, guidance_scale=scale, step=config.step)
    with open_latents(path) as reader:
        key = _key(
            prepared,
            subject="generated",
            file=path.name,
            samples=count,
            latents=zlib.crc32(reader.batch(range(count))["mean"].tobytes()),
            decoder=judge.vae.decoder_hash,
            dtype=config.dtype,
            stride=protocol.generated_stride,
            to_uint8=protocol.to_uint8,
        )
        subject = f"protocol-{path.stem}"

        def batches(rows: list[int]):
            decoded = decoded_clips(
                reader,
                judge.vae,
                rows,
                device=judge.device,
                dtype=config.dtype,
                to_bytes=BYTES[protocol.to_uint8],
            )
            clips = stored(decoded, protocol, plan, protocol.generated_stride)
            return feature_batches(prepared.network, clips, None, judge.device, prepared.classifier)

        return kept_features(folder / "features", subject, key, range(count), batches, judge.world)
