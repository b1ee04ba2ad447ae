"""Recheck results: `python -m eval.verify runs/latte/eval` computes every number again that kept features allow.

Neither a pixel nor a GPU is needed. Numbers and intervals must come out as written to within `TOLERANCE`; kept
features, samples and tokenizers must still be the ones that the results name. What is not here any more is listed as
such.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.command import ReadingFlags, flag, printable, run_command
from runtime.errors import InputError

VERIFIED, DIFFERS, UNCHECKED = "verified", "differs", "cannot be rechecked"
# Of the number, or of its interval where that is wider: sums in another order, on another processor.
TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(ReadingFlags):
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
        print(printable(str(path)))
        for check in checks_of(path, weights=config.weights):
            about = printable(f"{check.what}{f': {check.words}' if check.words else ''}")
            print(f"  {check.state:19}  {about}", flush=True)
            checks.append(check)
    count = Counter(check.state for check in checks)
    print(", ".join(f"{count[state]} {state}" for state in (VERIFIED, DIFFERS, UNCHECKED)))
    wrong = [check for check in checks if check.state == DIFFERS]
    if wrong:
        raise InputError(f"{len(wrong)} of {len(checks)} differ, the first is {wrong[0].what}: {wrong[0].words}")
    return checks


def results_files(path: Path) -> list[Path]:
    """The file, or every results file below the folder, sorted; InputError when there is none."""
    from runtime.records import read_json

    if not path.is_dir():
        return [path]
    found = [file for file in sorted(path.rglob("*.json")) if {"kind", "created", "rows"} <= read_json(file).keys()]
    if not found:
        raise InputError(f"{path}: no results of an evaluation in this folder")
    return found


def checks_of(path: Path, *, weights: bool = True) -> Iterator[Check]:
    """Checks of one results file."""
    from eval.features.store import load_feature_set
    from eval.probes.units import read_unit
    from eval.results.rows import read_results
    from runtime.records import check_fields

    facts, rows = read_results(path)
    wanted = dict.fromkeys(("tokenizer", "weights", "encoder_hash", "decoder_hash"), str)
    check_fields(facts, wanted | {"videos": list[int]}, path, needed=False)
    samples = facts.get("samples_of", {})
    check_fields(samples, dict.fromkeys(samples, str), f"{path}: samples_of")
    videos = facts.get("videos")  # of each clip, by probes alone, which keep units and not features
    sets: dict[str, object] = {}
    for source in sorted({source for row in rows for source in row.sources}):
        file = path.parent / source
        if not file.is_file():
            yield Check(source, UNCHECKED, "the file is not here")
            continue
        try:
            sets[source] = load_feature_set(file) if videos is None else read_unit(file)
        except InputError as error:
            yield Check(source, DIFFERS, str(error))
            continue
        if videos is not None:
            continue  # a unit has no checksum, and its numbers are compared below
        yield Check(source, VERIFIED, f"{len(sets[source].features)} rows, checksums")
        yield from made_by(source, sets[source], facts, path.parent)
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
        elif videos is not None:
            yield check_probe(what, row, [sets[source] for source in row.sources], videos)
        else:
            yield check_row(what, row, [sets[source] for source in row.sources])


def made_by(source: str, kept, facts: dict, folder: Path) -> Iterator[Check]:
    """Whether kept features were made by what the results name, and from samples that are still the same."""
    for name in ("encoder", "decoder"):
        written = facts.get(f"{name}_hash")
        if written and kept.key.get(name) and kept.key[name] != written:
            yield Check(f"{source}, {name}", DIFFERS, f"of {kept.key[name]}, the results name {written}")
    samples = facts.get("samples_of", {}).get(source)
    if samples:
        yield check_samples(folder / samples, kept)


def check_samples(path: Path, kept) -> Check:
    """Whether the samples of a file are still those that were decoded, whose names hold their checksums."""
    from eval.clip_sets import sample_names
    from latents_cache import open_latents

    if not path.is_file():
        return Check(path.name, UNCHECKED, "the samples are not here")
    count = len(kept.clips)
    with open_latents(path) as reader:
        if len(reader) < count:
            return Check(path.name, DIFFERS, f"{len(reader)} samples, {count} were measured")
        same = sample_names(reader, count) == [clip.decode(errors="replace") for clip in kept.clips]
    return Check(path.name, VERIFIED, f"{count} samples") if same else Check(path.name, DIFFERS, "other samples now")


def networks(facts: dict, features: set[str]) -> Iterator[Check]:
    """Whether tokenizer and feature networks that can be found have the hashes that were written."""
    from eval.features import load_features
    from tokenizer.zoo import check_named_by_file, load

    name = facts.get("tokenizer")
    if name:
        try:
            check_named_by_file(name, "the results")
            vae = load(name, facts.get("weights"))
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
    """A number and its interval, computed again from what is kept."""
    from eval.metrics.frechet import frechet_distance
    from eval.protocols.presets import PAPER, PROTOCOLS, protocol_hash
    from eval.quantities import estimate_of, number_named

    _, _, version = row.features.partition("@")
    versions = {str(kept.key.get(name)) for kept in sets for name in ("weights", "classifier")}
    if version and version not in versions:
        return Check(what, DIFFERS, f"kept features are not of {row.features}")
    name, _, digest = row.protocol.partition("@")
    protocol = PROTOCOLS.get(name, PAPER)
    if digest and digest != protocol_hash(protocol):
        return Check(what, UNCHECKED, f"protocol {name} is another one now than {row.protocol}")
    number = number_named(row.metric, row.subject, protocol)
    if number is None:
        return Check(what, UNCHECKED, "no recipe for this number")
    try:
        again = estimate_of(number, sets)
    except InputError as error:
        return Check(what, DIFFERS, str(error))
    older = f"by an older method ({row.method})" if again.method != row.method else ""
    if older and number.is_extrapolated:
        return Check(what, UNCHECKED, f"it was made {older}")
    scale = 0.0
    if number.metric is frechet_distance:  # the small difference of sums as large as the features' variance
        scale = 0.1 * float(number.arrays(*sets)[0].var(0).sum())
    check = compared(what, row, again, ("value", "n") if older else ("value", "low", "high", "n"), scale)
    if older and check.state == VERIFIED:
        return Check(what, UNCHECKED, f"{check.words}; its interval was made {older}")
    return check


def check_probe(what: str, row, units: list, videos: list[int]) -> Check:
    """A number of a probe and its interval, computed again from the errors of each clip and head that are kept."""
    from eval.probes.rows import LESS, counted, estimate_again, row_of, told

    try:
        found = estimate_again(row.metric, row.subject, units, videos)
    except InputError as error:
        return Check(what, DIFFERS, str(error))
    note = told(row.metric, found) if LESS in row.subject else ""
    again = counted(row_of(row.metric, row.subject, found, (), note), len(videos))
    if note and again.note != row.note:
        return Check(what, DIFFERS, f"{row.note!r} is written, {again.note!r} follows from what is kept")
    return compared(what, row, again)


def compared(what: str, row, again, fields=("value", "low", "high", "n"), scale: float = 0.0) -> Check:
    """A row beside the same number made again.

    Args:
        scale: What differences count by, where that is more than the number and its interval.
    """
    worst = 0.0
    scale = max(scale, abs(row.value), (row.high or 0.0) - (row.low or 0.0))
    for field in fields:
        written, found = getattr(row, field), getattr(again, field)
        found = found if found is not None and math.isfinite(found) else None
        if written == found:
            continue
        if written is None or found is None or not abs(written - found) <= TOLERANCE * scale < math.inf:
            return Check(what, DIFFERS, f"{field} {written} is written, {found} follows from what is kept")
        worst = max(worst, abs(written - found) / scale)
    return Check(what, VERIFIED, f"{row.value:.6g}" + (f", to within {worst:.0e}" if worst else ""))


if __name__ == "__main__":
    run_command(verify, VerifyConfig, example="python -m eval.verify runs/latte/eval")
