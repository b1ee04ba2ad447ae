"""From sets of features to rows of numbers, each with its interval."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np

# The same distance, but to reference clips that went through the tokenizer too: what the generator alone is answerable
# for.
TO_RECONSTRUCTIONS = " to reconstructions"


def classes_of(found) -> np.ndarray | None:
    """Classes of a set whose clips were asked for or drawn class by class, for a stratified jackknife; None without."""
    return found.labels if len(found.labels) and found.labels.min() >= 0 else None


def distance_rows(found, reference, subject: str, network, note: str = "", suffix: str = "") -> list:
    """Fréchet and kernel distance of one set to the reference, with intervals; `suffix` ends the metrics' names.

    Both sets have as many clips of each class as was chosen, so that intervals are class-stratified.
    """
    from eval.features import FRECHET_NAMES, KERNEL_NAMES
    from eval.metrics.frechet import frechet_distance
    from eval.metrics.intervals import estimate
    from eval.metrics.kernel import kernel_distance
    from eval.results import row_from

    label, classes = f"{network.name}@{network.version_hash}", (classes_of(found), classes_of(reference))
    if found.is_constant:
        note = "; ".join(filter(None, (note, "all these clips have the same features")))
    return [
        row_from(
            stratified(
                estimate(metric, found.features, reference.features, labels=classes[0], labels_b=classes[1]), classes
            ),
            metric=names[network.name] + suffix,
            subject=subject,
            features=label,
            note=note,
            of=(found, reference),
        )
        for names, metric in ((FRECHET_NAMES, frechet_distance), (KERNEL_NAMES, kernel_distance))
    ]


def stratified(found, classes: tuple):
    """An estimate whose method also says that blocks hold every class in proportion, where they do."""
    if all(labels is None for labels in classes):
        return found
    return replace(found, method=f"{found.method}, class-stratified")


def infinity_rows(found, reference, subject: str, network, note: str = "", suffix: str = "") -> list:
    """The Fréchet distance extrapolated to infinitely many clips; nothing where `no_infinity` says why not."""
    from eval.features import FRECHET_NAMES
    from eval.metrics.extrapolation import frechet_at_infinity
    from eval.results import row_from

    if no_infinity(found, reference):
        return []
    classes = classes_of(found), classes_of(reference)
    distance = frechet_at_infinity(found.features, reference.features, labels=classes[0], labels_b=classes[1])
    return [
        row_from(
            stratified(distance, classes),
            metric=f"{FRECHET_NAMES[network.name]} at infinity{suffix}",
            subject=subject,
            features=f"{network.name}@{network.version_hash}",
            note=note,
            of=(found, reference),
        )
    ]


def no_infinity(found, reference) -> str:
    """Why the distance cannot be extrapolated to infinitely many clips; "" where it can."""
    clips, width = min(len(found.features), len(reference.features)), found.features.shape[1]
    if clips >= 2 * width:
        return ""
    return (
        f"not extrapolated to infinitely many clips: {width} features need {2 * width} clips in each set, here {clips}"
    )


def score_rows(
    found, subject: str, label: str, *, name: str = "IS", splits=(1,), shuffle_seed: int | None = None, note: str = ""
) -> list:
    """Inception Scores of one set with intervals, one row for each number of splits; `label` names the classifier."""
    from eval.metrics.inception import inception_score
    from eval.metrics.intervals import estimate
    from eval.results import Row, row_from

    rows, classes = [], classes_of(found)
    for parts in splits:
        metric = name if parts == 1 else f"{name} ({parts} splits)"
        # The jackknife leaves out a tenth, and every part needs two clips.
        if len(found.probabilities) * 9 // 10 < 2 * parts:
            reason = f"not measured: {len(found.probabilities)} clips are too few for {parts} splits"
            rows.append(Row(metric=metric, subject=subject, value=None, note=reason))
            continue
        # Alone, inception_score is updated for what is left out, which costs less.
        plain = parts == 1 and shuffle_seed is None
        score = inception_score if plain else partial(inception_score, splits=parts, shuffle_seed=shuffle_seed)
        found_score = stratified(estimate(score, found.probabilities, labels=classes), (classes,))
        kept = (found,) if shuffle_seed is None else ()  # the shuffle is not kept
        rows.append(row_from(found_score, metric=metric, subject=subject, features=label, note=note, of=kept))
    return rows


def inception_rows(found, subject: str, judge, note: str = "") -> list:
    """IS of one set by C3D, in one split and in ten, or one row that says why it was not measured."""
    from eval.results import Row

    if judge.no_classifier:
        return [Row(metric="IS", subject=subject, value=None, note=f"not measured: {judge.no_classifier}")]
    if judge.classifier is None:
        return []
    label = f"{judge.classifier.name}@{judge.classifier.version_hash}"
    return score_rows(found, subject, label, splits=(1, 10), note=note or "first 16 frames")


# What the judge of synthetic clips is asked to see.
ASPECTS = ("shape", "motion", "class")


def hits(what: str, seen: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Whether each clip is seen as asked in one of `ASPECTS`: bool `[N]` of classes `[N]`."""
    from videos.moving_shapes import MOTIONS

    parts = {"shape": lambda c: c // len(MOTIONS), "motion": lambda c: c % len(MOTIONS), "class": lambda c: c}
    return parts[what](seen) == parts[what](asked)


def share_row(row):
    """The row of a share: its interval ends at 0 and 1, which the jackknife does not know."""
    low, high = (None if edge is None else min(1.0, max(0.0, edge)) for edge in (row.low, row.high))
    return replace(row, low=low, high=high)


def judge_rows(found, subject: str, network, note: str = "") -> list:
    """What the judge of synthetic clips says: IS-shapes, and how often it sees the shape, motion and class that were
    asked for."""
    from eval.metrics.intervals import estimate
    from eval.results import row_from
    from videos.moving_shapes import MOTIONS, SHAPES

    if found.probabilities is None:
        return []
    label, classes = f"{network.name}@{network.version_hash}", classes_of(found)
    rows = score_rows(found, subject, label, name="IS-shapes", note=note)
    if classes is None or found.labels.max() >= len(SHAPES) * len(MOTIONS):
        return rows
    for what in ASPECTS:
        right = hits(what, found.probabilities.argmax(1), found.labels).astype(float)
        found_row = row_from(
            stratified(estimate(np.mean, right, labels=classes), (classes,)),
            metric=f"accuracy-{what}",
            subject=subject,
            features=label,
            note=note,
            of=(found,),
        )
        rows.append(share_row(found_row))
    return rows


JUDGES_FEATURES = (
    "features are those of the project's own judge of synthetic clips: a Fréchet distance on them is no FVD"
)


def sampling_differences(steps: int, facts: dict) -> list[str]:
    """In words, how sampler and data set differ from the paper's."""
    words = [] if steps == 100 else [f"{steps} Euler steps instead of 100"]
    if facts.get("data") not in ("ucf101", "realestate10k"):
        words.append(f"data set {facts.get('data')} instead of UCF101 or RealEstate10K")
    return words


def differences(features: str, samples: int, reference: int, steps: int, facts: dict) -> list[str]:
    """In words, how these numbers differ from the paper's protocol."""
    words = [] if features == "i3d" else [JUDGES_FEATURES]
    if samples != 2048:
        words.append(f"{samples} generated clips instead of 2,048")
    if reference != samples:
        words.append(f"only {reference} real clips in the reference")
    words += sampling_differences(steps, facts)
    clip = json.loads(facts["clip"])
    if clip["size"] != 256 or clip["num_frames"] != 17:
        words.append(f"clips of {clip['num_frames']} frames at {clip['size']} pixels instead of 17 at 256")
    return words
