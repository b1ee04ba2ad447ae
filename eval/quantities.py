"""Each number once: its name, which way is better, what of kept rows it is made of, and how.

Whoever writes a number, checks it again, compares two of them or lays out a table finds it here, by the name that it
has in results files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np
from scipy.stats import binomtest

from eval.analysis.quantities import SUBJECT as LATENTS
from eval.analysis.quantities import latent_number
from eval.analysis.temporal_fvd import TEMPORAL_SUBJECTS, is_temporal, temporal_features
from eval.features import FRECHET_NAMES, KERNEL_NAMES
from eval.features.store import FeatureSet
from eval.measurements import COLUMNS, columns_of, frames_in, horizons_of
from eval.metrics.extrapolation import compare_at_infinity, frechet_at_infinity
from eval.metrics.frechet import frechet_distance
from eval.metrics.inception import inception_score
from eval.metrics.intervals import Estimate, compare_paired, estimate
from eval.metrics.jackknife import BLOCKS, blocks_of
from eval.metrics.kernel import kernel_distance
from eval.protocols.distances import mean_distance
from eval.protocols.presets import NONE, PAPER, STRATIFIED, Protocol, protocol_hash
from eval.results.rows import Row, row_from
from runtime.errors import InputError
from videos.moving_shapes import MOTIONS, SHAPES

# The same distance, but to reference clips that went through the tokenizer too: what the generator alone is answerable
# for.
TO_RECONSTRUCTIONS = " to reconstructions"
AT_INFINITY = " at infinity"
# Ends the method of an interval whose blocks hold equal shares of every class; until they did, "class-stratified".
STRATIFIED_BY = "class-stratified in equal shares"
# Of fewer clips of one kind the jackknife of a share sees next to nothing: of none its interval has no width.
FEW = 5
# What the judge of synthetic clips is asked to see.
ASPECTS: dict[str, Callable] = {
    "shape": lambda classes: classes // len(MOTIONS),
    "motion": lambda classes: classes % len(MOTIONS),
    "class": lambda classes: classes,
}
# Whose numbers these are the networks of: an Inception Score has the name of its classifier, too.
SCORE_NAMES = {"c3d": "IS", "shapes": "IS-shapes"}
# Of `eval.probe`, which keeps sums of its own.
PROBES = {"EPE": "lower", "next-frame MSE": "lower"}
PROBES |= dict.fromkeys(("tracking AUC", "tracking delta", "tracking AUC, own pixels"), "higher")
_DISTANCES = dict.fromkeys(FRECHET_NAMES.values(), frechet_distance)
_DISTANCES |= {name + AT_INFINITY: frechet_at_infinity for name in FRECHET_NAMES.values()}
_DISTANCES |= dict.fromkeys(KERNEL_NAMES.values(), kernel_distance)


@dataclass(frozen=True, kw_only=True)
class Number:
    """How one number is made.

    Attributes:
        name: As in `Row.metric`.
        better: "lower", "higher", or "" where neither is.
        arrays: Kept sets (a number of two sets: the judged one and the reference) -> one or two arrays, a row a clip.
        metric: Those arrays -> float.
        paired: Whether row i of two arrays is the same clip.
        share: Whether it lies in [0, 1], which the jackknife does not know.
        hits: Whether it is the share of clips of which something is true, 1, and not false, 0.
        protocol: Whose settings it follows.
    """

    name: str
    better: str
    arrays: Callable[..., tuple[np.ndarray, ...]]
    metric: Callable[..., float]
    paired: bool = False
    share: bool = False
    hits: bool = False
    protocol: Protocol = PAPER

    @property
    def is_frechet(self) -> bool:
        """Whether it is the plain Fréchet distance, which has a bias that can be extrapolated away."""
        return self.metric is frechet_distance

    @property
    def is_extrapolated(self) -> bool:
        """Whether it is the Fréchet distance of infinitely many clips."""
        return self.metric is frechet_at_infinity


def number_named(metric: str, subject: str = "", protocol: Protocol = PAPER) -> Number | None:
    """The number that results files call so, or None.

    Args:
        metric: `Row.metric`.
        subject: `Row.subject`, by which numbers of measurements are told apart.
        protocol: Whose settings it follows.
    """
    name = metric.removesuffix(TO_RECONSTRUCTIONS)
    if name in _DISTANCES:
        return Number(name=metric, better="lower", arrays=_features, metric=_DISTANCES[name], protocol=protocol)
    if found := re.fullmatch(rf"({'|'.join(SCORE_NAMES.values())})(?: \((\d+) splits\))?", metric):
        settings = {"splits": int(found[2] or 1), "shuffle_seed": protocol.is_shuffle_seed}
        # Alone, inception_score is updated for what is left out, which costs less.
        plain = settings == {"splits": 1, "shuffle_seed": None}
        score = inception_score if plain else lambda p: inception_score(p, **settings)
        return Number(name=metric, better="higher", arrays=_probabilities, metric=score, protocol=protocol)
    if (aspect := ASPECTS.get(metric.removeprefix("accuracy-"))) and metric.startswith("accuracy-"):

        def hits(*kept: FeatureSet) -> tuple[np.ndarray]:
            (probabilities,) = _probabilities(*kept)
            return ((aspect(probabilities.argmax(1)) == aspect(kept[0].labels)).astype(float),)

        return Number(name=metric, better="higher", arrays=hits, metric=np.mean, share=True, hits=True)
    if subject == LATENTS and (of_latents := latent_number(metric)):
        found = {field.name: getattr(of_latents, field.name) for field in fields(of_latents)}
        return Number(**found | {"arrays": lambda *kept: of_latents.arrays(*_sets(kept, 1))})
    if subject in TEMPORAL_SUBJECTS and is_temporal(metric):
        arrays = partial(_temporal, subject)
        return Number(name=metric, better="lower", arrays=arrays, metric=frechet_distance, paired=True)
    return _number_of_columns(metric, subject)


def _temporal(subject: str, *kept: FeatureSet) -> tuple[np.ndarray, ...]:
    return temporal_features(*_sets(kept, 1), subject)


def better(metric: str) -> str:
    """ "lower" or "higher" of a metric by its name; "" where neither is, or the name is not known."""
    if metric in PROBES:
        return PROBES[metric]
    subjects = ("generated", LATENTS, *TEMPORAL_SUBJECTS, *dict.fromkeys(column.subject for column in COLUMNS))
    return next((found.better for subject in subjects if (found := number_named(metric, subject))), "")


def _sets(kept: Sequence[FeatureSet], count: int) -> Sequence[FeatureSet]:
    """The sets that a number is made of; InputError when there are more or fewer."""
    if len(kept) != count:
        raise InputError(f"the number is of {count} kept sets, {len(kept)} are named")
    return kept


def _features(*kept: FeatureSet) -> tuple[np.ndarray, ...]:
    return tuple(part.features for part in _sets(kept, 2))


def _probabilities(*kept: FeatureSet) -> tuple[np.ndarray]:
    (only,) = _sets(kept, 1)
    if only.probabilities is None:
        raise InputError(f"{only.path}: it holds no probabilities of classes")
    return (only.probabilities,)


def _number_of_columns(metric: str, subject: str) -> Number | None:
    """A number of `eval.measurements`."""
    horizon = re.fullmatch(r"(error / repeat), frame \+(\d+)", metric)
    kind = "rFVD" if metric.removeprefix("r") in FRECHET_NAMES.values() else horizon[1] if horizon else metric
    column = next((column for column in COLUMNS if (column.metric, column.subject) == (kind, subject)), None)
    if column is None:
        return None

    def arrays(*kept: FeatureSet) -> tuple[np.ndarray, ...]:
        (only,) = _sets(kept, 1)
        columns, ahead = columns_of(only, column.names), int(horizon[2]) - 1 if horizon else None
        if horizon and not column.is_in(columns, ahead):
            raise InputError(f"{only.path}: it holds no {metric}")
        return column.arrays(columns, ahead)

    return Number(name=metric, better=column.better, arrays=arrays, metric=column.function, paired=True)


# -- from kept rows to estimates ---------------------------------------------------------------------------------------


def classes_of(kept: FeatureSet) -> np.ndarray | None:
    """Classes of a set whose clips were asked for or drawn class by class, for a stratified jackknife; None without."""
    if "stratified" in (kept.key or {}):
        return kept.labels if kept.key["stratified"] else None
    return kept.labels if len(kept.labels) and kept.labels.min() >= 0 else None


def _labels(number: Number, sets: Sequence[FeatureSet]) -> dict[str, np.ndarray | None]:
    """Classes of both sets as `estimate` takes them. Real clips that are no class-stratified draw, but just any, have
    none."""
    labels = [classes_of(kept) for kept in sets] + [None]
    drawn = number.protocol.reference == STRATIFIED
    return {"labels": labels[0], "labels_b": labels[1] if drawn else None}


def estimate_of(number: Number, sets: Sequence[FeatureSet]) -> Estimate:
    """The number with its interval; class-stratified, and then its method says so, where classes were chosen."""
    arrays, labels = number.arrays(*sets), _labels(number, sets)
    if number.is_extrapolated:
        found = frechet_at_infinity(*arrays, **labels)
    elif number.is_frechet and number.protocol != PAPER:
        found = mean_distance(number.protocol, *arrays, **labels)
    else:
        found = estimate(number.metric, *arrays, paired=number.paired and len(arrays) > 1, **labels)
    if any(classes is not None and blocks_of(len(classes), classes) > 1 for classes in labels.values()):
        found = replace(found, method=f"{found.method}, {STRATIFIED_BY}")
    if number.share:
        found = replace(found, low=max(0.0, found.low), high=min(1.0, found.high))
    if number.hits and min(hits := int(arrays[0].sum()), found.n - hits) < FEW:
        ends = binomtest(hits, found.n).proportion_ci(method="wilson")
        low, high, method = min(found.low, ends.low), max(found.high, ends.high), f"{found.method}, at least Wilson's"
        found = replace(found, low=low, high=high, method=method)
    return found


def difference_of(number: Number, a: Sequence[FeatureSet], b: Sequence[FeatureSet]) -> Estimate:
    """The number of `a` less that of `b`, where row i of both is the same clip or seed, with its paired interval."""
    arrays, others, labels = number.arrays(*a), number.arrays(*b), _labels(number, a)
    if number.is_extrapolated:
        return compare_at_infinity(*arrays, *others, **labels)
    if len(arrays) == 1:
        return compare_paired(lambda x, _: number.metric(x), *arrays * 2, *others * 2, **labels)
    return compare_paired(number.metric, *arrays, *others, paired=number.paired, **labels)


def difference_at_infinity(number: Number, a: Sequence[FeatureSet], b: Sequence[FeatureSet]) -> Estimate | str:
    """As `difference_of`, of a Fréchet distance extrapolated to infinitely many clips; why there is none, where clips
    are too few."""
    arrays, others = number.arrays(*a), number.arrays(*b)
    return no_infinity(*arrays) or compare_at_infinity(*arrays, *others, number.paired, **_labels(number, a))


def no_infinity(*features: np.ndarray) -> str:
    """Why the distance of features, a row a clip, cannot be extrapolated to infinitely many clips; "" where it can."""
    clips, width = min(map(len, features)), features[0].shape[1]
    if clips >= 2 * width:
        return ""
    words = f"{width} features need {2 * width} clips in each set, here {clips}"
    return f"not extrapolated to infinitely many clips: {words}"


# -- from kept rows to rows of results ---------------------------------------------------------------------------------


def row_of(number: Number, sets: Sequence[FeatureSet], subject: str, *, features: str = "", note: str = "") -> Row:
    """The number as a row; without a value where it is no finite number."""
    if sets[0].is_constant and len(sets) > 1:
        note = "; ".join(filter(None, (note, "all these clips have the same features")))
    found = estimate_of(number, sets)
    row = row_from(found, metric=number.name, subject=subject, features=features, note=note, of=sets)
    if number.protocol != PAPER:
        row = replace(row, protocol=f"{number.protocol.name}@{protocol_hash(number.protocol)}")
    if np.isfinite(found.value):
        return row
    why = f"not a number by {number.protocol.root}" if number.is_frechet else "there is none: nothing varies"
    return Row(metric=row.metric, subject=subject, value=None, note=why)


def label_of(kept: FeatureSet) -> str:
    """Name and hash of the network whose features these are."""
    return f"{kept.key['network']}@{kept.key['weights']}"


def distance_rows(
    found: FeatureSet,
    reference: FeatureSet,
    subject: str,
    *,
    note: str = "",
    suffix: str = "",
    infinity: bool = False,
    protocol: Protocol = PAPER,
) -> list[Row]:
    """Fréchet and kernel distance of one set to the reference.

    Args:
        suffix: Ends the metrics' names.
        infinity: Also the Fréchet distance extrapolated to infinitely many clips, where clips suffice.
        protocol: Whose settings they follow.
    """
    network = found.key["network"]
    names = [FRECHET_NAMES[network] + suffix]
    names += [] if protocol.kvd == NONE else [KERNEL_NAMES[network] + suffix]
    if infinity and not no_infinity(found.features, reference.features):
        names.append(f"{FRECHET_NAMES[network]}{AT_INFINITY}{suffix}")
    return [
        row_of(number_named(name, subject, protocol), (found, reference), subject, features=label_of(found), note=note)
        for name in names
    ]


def score_rows(
    found: FeatureSet, subject: str, *, note: str = "", protocol: Protocol = PAPER, splits: Sequence[int] | None = None
) -> list[Row]:
    """Inception Scores of one set, a row for each number of splits; default: those of the protocol."""
    rows, name, count = [], SCORE_NAMES[found.key["network"]], len(found.probabilities)
    blocks = blocks_of(count, classes_of(found))
    blocks = min(BLOCKS, count) if blocks == 1 else blocks  # as `deal` does
    for parts in splits or protocol.is_splits:
        metric = name if parts == 1 else f"{name} ({parts} splits)"
        # The jackknife leaves out a block, and every part needs two clips.
        if count - -(-count // blocks) < 2 * parts:
            reason = f"not measured: {len(found.probabilities)} clips are too few for {parts} splits"
            rows.append(Row(metric=metric, subject=subject, value=None, note=reason))
            continue
        number = number_named(metric, subject, protocol)
        rows.append(row_of(number, (found,), subject, features=label_of(found), note=note))
    return rows


def judge_rows(found: FeatureSet, subject: str) -> list[Row]:
    """What the judge of synthetic clips says: IS-shapes, and how often it sees the shape, motion and class that were
    asked for; nothing by other networks, or of other clips."""
    if found.key["network"] != "shapes" or not found.key["data"].startswith("moving_shapes"):
        return []
    rows, classes = score_rows(found, subject, splits=(1,)), found.labels
    if not len(classes) or classes.min() < 0 or classes.max() >= len(SHAPES) * len(MOTIONS):
        return rows
    for what in ASPECTS:
        number = number_named(f"accuracy-{what}")
        rows.append(row_of(number, (found,), subject, features=label_of(found)))
    return rows


def prediction_rows(kept: FeatureSet) -> list[Row]:
    """The numbers of kept measurements that are about prediction, and the error by every frame ahead: of the prediction
    and of flat pictures, all over that of repeating the last observed frame."""
    columns, rows = columns_of(kept), []
    about = [column for column in COLUMNS if column.subject in ("predicted", "blank", "grey") and column.is_in(columns)]
    for column in about:
        rows.append(row_of(number_named(column.metric, column.subject), (kept,), column.subject, note=column.note))
    for column in (column for column in about if column.metric == "error / repeat"):
        for ahead in range(frames_in(columns["predicted"])):
            if column.is_in(columns, ahead):  # where nothing moves there is nothing to divide by
                number = number_named(f"{column.metric}, frame +{ahead + 1}", column.subject)
                rows.append(row_of(number, (kept,), column.subject))
    return [*rows, row_of(number_named("PSNR", "reconstructed"), (kept,), "reconstructed")]


def measurement_rows(kept: FeatureSet) -> list[Row]:
    """Every number that kept measurements of a tokenizer hold; the same from a file as from the measurement."""
    rows, columns = [], columns_of(kept)
    for column in COLUMNS:
        if not column.is_in(columns):
            continue
        is_distance = column.metric == "rFVD"
        name = f"r{FRECHET_NAMES[kept.key['network']]}" if is_distance else column.metric
        features = label_of(kept) if is_distance else ""
        for metric in (name, *(f"{name}, frame +{ahead + 1}" for ahead in horizons_of(columns, column))):
            number, note = number_named(metric, column.subject), column.note if metric == name else ""
            rows.append(row_of(number, (kept,), column.subject, features=features, note=note))
    return rows
