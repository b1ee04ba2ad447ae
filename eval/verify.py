"""Recheck results: `python -m eval.verify runs/latte/eval` computes every number again that kept features allow.

Neither a pixel nor a GPU is needed. Numbers and intervals must come out as written to within `TOLERANCE`; kept
features, samples and tokenizers must still be the ones that the results name. What is not here any more is listed as
such.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError

VERIFIED, DIFFERS, UNCHECKED = "verified", "differs", "cannot be rechecked"
# Of the number, or of its interval where that is wider: sums in another order, on another processor.
TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(CommonFlags):
    """Flags of `python -m eval.verify`."""

    results: str = flag(help="results file, or a folder of them", positional=True)
    weights: bool = flag(True, "also read the tokenizers and feature networks that results name, and compare hashes")


@dataclass(frozen=True)
class Check:
    """One thing that was rechecked: `what`, its `state` (VERIFIED, DIFFERS, UNCHECKED), and `words` about it."""

    what: str
    state: str
    words: str = ""


def verify(config: VerifyConfig) -> list[Check]:
    """Recheck, and print a line for everything.

    Raises:
        InputError: After the last line, when something differs from what was written.
    """
    checks: list[Check] = []
    for path in results_files(Path(config.results)):
        print(path)
        for check in checks_of(path, weights=config.weights):
            print(f"  {check.state:19}  {check.what}{f': {check.words}' if check.words else ''}", flush=True)
            checks.append(check)
    count = Counter(check.state for check in checks)
    print(", ".join(f"{count[state]} {state}" for state in (VERIFIED, DIFFERS, UNCHECKED)))
    wrong = [check for check in checks if check.state == DIFFERS]
    if wrong:
        raise InputError(f"{len(wrong)} of {len(checks)} differ, the first is {wrong[0].what}: {wrong[0].words}")
    return checks


def results_files(path: Path) -> list[Path]:
    """The file, or every results file below the folder, sorted; InputError when there is none."""
    from runtime.run import read_json

    if not path.is_dir():
        return [path]
    found = [file for file in sorted(path.rglob("*.json")) if {"kind", "created", "rows"} <= read_json(file).keys()]
    if not found:
        raise InputError(f"{path}: no results of an evaluation in this folder")
    return found


def checks_of(path: Path, *, weights: bool = True) -> Iterator[Check]:
    """Checks of one results file."""
    from eval.feature_store import load_feature_set
    from eval.results import read_results
    from runtime.records import check_fields

    facts, rows = read_results(path)
    check_fields(facts, dict.fromkeys(("tokenizer", "encoder_hash", "decoder_hash"), str), path, needed=False)
    sets: dict[str, object] = {}
    for source in sorted({source for row in rows for source in row.sources}):
        file = path.parent / source
        if not file.is_file():
            yield Check(source, UNCHECKED, "the file is not here")
            continue
        try:
            sets[source] = load_feature_set(file)
        except InputError as error:
            yield Check(source, DIFFERS, str(error))
            continue
        yield Check(source, VERIFIED, f"{len(sets[source].features)} rows, checksums")
        yield from made_by(source, sets[source], facts)
    if weights:
        yield from networks(facts, {row.features for row in rows if row.features})
    for row in rows:
        what = f"{row.metric}, {row.subject}"
        if row.value is None:
            yield Check(what, UNCHECKED, row.note)
        elif not row.sources:
            yield Check(what, UNCHECKED, "it names no kept features")
        elif not set(row.sources) <= sets.keys():
            yield Check(what, UNCHECKED, "kept features are absent or damaged")
        else:
            yield check_row(what, row, [sets[source] for source in row.sources])


def made_by(source: str, kept, facts: dict) -> Iterator[Check]:
    """Whether kept features were made by what the results name, and from samples that are still the same."""
    key = kept.key
    for name in ("encoder", "decoder"):
        written = facts.get(f"{name}_hash")
        if written and key.get(name) and key[name] != written:
            yield Check(f"{source}, {name}", DIFFERS, f"of {key[name]}, the results name {written}")
    if all(isinstance(key.get(name), kind) for name, kind in (("file", str), ("latents", int), ("samples", int))):
        yield check_samples(kept.path.parents[2] / "samples" / Path(key["file"]).name, key)


def check_samples(path: Path, key: dict) -> Check:
    """Whether the samples that were decoded are still those of a file: their checksum is in the key."""
    import zlib

    from latents_cache import open_latents

    if not path.is_file():
        return Check(path.name, UNCHECKED, "the samples are not here")
    with open_latents(path) as reader:
        count = key["samples"]
        if len(reader) < count:
            return Check(path.name, DIFFERS, f"{len(reader)} samples, {count} were measured")
        same = zlib.crc32(reader.batch(range(count))["mean"].tobytes()) == key["latents"]
    return Check(path.name, VERIFIED, f"{count} samples") if same else Check(path.name, DIFFERS, "other samples now")


def networks(facts: dict, features: set[str]) -> Iterator[Check]:
    """Whether tokenizer and feature networks that can be found have the hashes that were written."""
    from eval.features import load_features
    from tokenizer.zoo import load

    name = facts.get("tokenizer")
    if name:
        try:
            vae = load(name)
        except InputError as error:
            yield Check(f"tokenizer {name}", UNCHECKED, str(error))
        else:
            for part in ("encoder", "decoder"):
                written, found = facts.get(f"{part}_hash"), getattr(vae, f"{part}_hash")
                words = found if found == written else f"now {found}, {written} was measured"
                yield Check(f"{part} of {name}", VERIFIED if found == written else DIFFERS, words)
    for label in sorted(features):
        network, _, written = label.partition("@")
        try:
            found = load_features(network).version_hash
        except InputError as error:
            yield Check(f"features {label}", UNCHECKED, str(error).split(";")[0])
        else:
            state = VERIFIED if found == written else DIFFERS
            yield Check(f"features {label}", state, "" if found == written else f"the network here is {found}")


def check_row(what: str, row, sets: list) -> Check:
    """A number and its interval, computed again."""
    network, _, version = row.features.partition("@")
    versions = {str(kept.key.get(name)) for kept in sets for name in ("weights", "classifier")}
    if version and version not in versions:
        return Check(what, DIFFERS, f"kept features are not of {row.features}")
    try:
        again = recomputed(row, sets, network)
    except InputError as error:
        return Check(what, DIFFERS, str(error))
    if again is None:
        return Check(what, UNCHECKED, "no recipe for this number")
    worst = 0.0
    scale = max(abs(row.value), (row.high or 0.0) - (row.low or 0.0))
    for field in ("value", "low", "high", "n"):
        written, found = getattr(row, field), getattr(again, field)
        if written == found:
            continue
        if written is None or found is None or not abs(written - found) <= TOLERANCE * scale < math.inf:
            return Check(what, DIFFERS, f"{field} {written} is written, {found} follows from what is kept")
        worst = max(worst, abs(written - found) / scale)
    return Check(what, VERIFIED, f"{row.value:.6g}" + (f", to within {worst:.0e}" if worst else ""))


def recomputed(row, sets: list, network: str):
    """The row again (value, low, high, n) from kept features alone; None where its name is not known.

    The interval is class-stratified where the row says so.
    """
    from functools import partial

    import numpy as np

    from eval.features import FRECHET_NAMES, KERNEL_NAMES
    from eval.metrics.extrapolation import frechet_at_infinity
    from eval.metrics.frechet import frechet_distance
    from eval.metrics.inception import inception_score
    from eval.metrics.intervals import estimate
    from eval.metrics.kernel import kernel_distance
    from eval.results import row_from
    from eval.set_rows import ASPECTS, hits, share_row

    first = sets[0]
    if "layout" in first.key:
        from eval.measurements import rows_from

        return next((r for r in rows_from(first) if (r.metric, r.subject) == (row.metric, row.subject)), None)
    metric = row.metric.partition(" to ")[0]  # … to reconstructions: another second set, the same distance
    stratified = "class-stratified" in row.method
    labels = [kept.labels if stratified else None for kept in sets]
    made: dict[str, Callable] = {}
    if len(sets) == 2:
        classes = {"labels": labels[0], "labels_b": labels[1]}
        for names, distance in ((FRECHET_NAMES, frechet_distance), (KERNEL_NAMES, kernel_distance)):
            made[names.get(network, "")] = partial(estimate, distance, **classes)
        made[f"{FRECHET_NAMES.get(network, '')} at infinity"] = partial(frechet_at_infinity, **classes)
        arrays = [kept.features for kept in sets]
    elif first.probabilities is not None:
        for name in ("IS", "IS-shapes"):
            made[name] = partial(estimate, inception_score, labels=labels[0])
        made["IS (10 splits)"] = partial(estimate, partial(inception_score, splits=10), labels=labels[0])
        arrays = [first.probabilities]
        what = metric.removeprefix("accuracy-")
        if metric.startswith("accuracy-") and what in ASPECTS:
            made[metric] = partial(estimate, np.mean, labels=labels[0])
            arrays = [hits(what, first.probabilities.argmax(1), first.labels).astype(float)]
    if metric not in made or not metric:
        return None
    again = row_from(made[metric](*arrays), metric=row.metric, subject=row.subject)
    return share_row(again) if metric.startswith("accuracy-") else again


if __name__ == "__main__":
    run_command(verify, VerifyConfig, example="python -m eval.verify runs/latte/eval")
