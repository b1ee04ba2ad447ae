"""Each number of latents once: its name, which way is better, what of each clip it is made of, and how.

Intervals come from leaving clips out, so what a number needs of a clip is computed once, and is small. Means and
deviations of channels, by which some of them normalise, count as given.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from eval.analysis.arrays import blocks_of_clips
from eval.analysis.irreducible_variance import velocity_irreducible_variance
from eval.analysis.kept_latents import LatentSet, latent_set
from eval.analysis.spectra import energies, radial_bins, shares_of, spatial_power, temporal_power
from eval.analysis.temporal_distance import squared_distances
from eval.features.store import FeatureSet
from runtime.errors import InputError

SUBJECT = "latents"
# Share of the energy beyond these parts of all orders of the cosine transform.
THRESHOLDS = (0.25, 0.5)
# Groups apart, at most, that distances are measured at.
FARTHEST = 16
LTD, LTD_NORMALISED, LTD_RATIO = "LTD", "LTD normalised", "LTD / LTD 1"
RATE, VIV, VIV_BY_CLASS = "rate", "VIV", "VIV by class"
EFFECTIVE, THREE = "effective channels", "variance in 3 directions"
FAST, FINE = "high frequencies, time", "high frequencies, space"


@dataclass(frozen=True, kw_only=True)
class LatentNumber:
    """How a number is made; fields as of `eval.quantities.Number`, but that `arrays` takes one set."""

    name: str
    arrays: Callable[[FeatureSet], tuple[np.ndarray, ...]]
    metric: Callable[..., float]
    better: str = ""
    paired: bool = False
    share: bool = False


def intervals_of(groups: int) -> range:
    """The intervals at which distances are measured."""
    return range(1, min(groups - 1, FARTHEST) + 1)


class Summary:
    """What numbers need of each clip of a set; made when it is first asked for, and kept while the set is."""

    def __init__(self, kept: FeatureSet):
        self.set: LatentSet = latent_set(kept)
        self._made: dict[object, np.ndarray] = {}

    def of(self, what: str, interval: int = 0) -> np.ndarray:
        """float64 of each clip: "distances" or "normalised distances" at an interval `[N, G - interval]`, "channels"
        (mean and covariance) `[N, C, 1 + C]`, power by frequency in "time" and "space" `[N, bins]`, and "energy" in all
        and beyond `THRESHOLDS`, `[N, 3]`."""
        if what.endswith("distances") and interval not in intervals_of(self.set.latents.shape[2]):
            raise InputError(f"latents of {self.set.latents.shape[2]} groups are not {interval} groups apart")
        if (what, interval) not in self._made:
            self._make(what in ("channels", "distances"))
        return self._made[what, interval]

    def _make(self, raw: bool) -> None:
        intervals, parts = intervals_of(self.set.latents.shape[2]), {}

        def add(name: str, values: np.ndarray, interval: int = 0) -> None:
            parts.setdefault((name, interval), []).append(values)

        for block in blocks_of_clips(self.set.latents if raw else self.set.normalised()):
            for k, squares in zip(intervals, squared_distances(block, intervals), strict=True):
                add("distances" if raw else "normalised distances", np.sqrt(squares.sum(2)), k)
            if raw:
                rows = block.reshape(*block.shape[:2], -1)
                mean = rows.mean(2, keepdims=True)
                covariance = np.einsum("ncp,ndp->ncd", rows - mean, rows - mean, optimize=True) / rows.shape[2]
                add("channels", np.concatenate([mean, covariance], axis=2))
            else:
                add("time", temporal_power(block).mean(1))
                add("space", spatial_power(block).mean(1))
                add("energy", energies(block, THRESHOLDS).sum(1))
        self._made |= {name: np.concatenate(values) for name, values in parts.items()}


_latest: list = [lambda: None, None]


def summary_of(kept: FeatureSet) -> Summary:
    """The summary of a set; that of the latest one is kept."""
    if _latest[0]() is not kept.features:
        _latest[:] = weakref.ref(kept.features), Summary(kept)
    return _latest[1]


def latent_number(metric: str) -> LatentNumber | None:
    """The number of latents that results files call so, or None."""
    if found := re.fullmatch(rf"({re.escape(LTD_RATIO)}|{LTD_NORMALISED}|{LTD}), interval (\d{{1,2}})", metric):
        kind, interval = found[1], int(found[2])
        what = "normalised distances" if kind == LTD_NORMALISED else "distances"
        if kind == LTD_RATIO:
            return LatentNumber(name=metric, arrays=lambda kept: (_two(kept, interval),), metric=_ratio)
        return LatentNumber(name=metric, arrays=lambda kept: (summary_of(kept).of(what, interval),), metric=np.mean)
    return _NUMBERS.get(metric)


def latent_names(kept: FeatureSet) -> list[str]:
    """The numbers that a set of latents has, in order."""
    found = latent_set(kept)
    groups, height, width = found.latents.shape[2:]
    apart = [f"{kind}, interval {k}" for kind in (LTD, LTD_NORMALISED) for k in intervals_of(groups)]
    apart += [f"{LTD_RATIO}, interval {k}" for k in intervals_of(groups)[1:]]
    names = [VIV, *([VIV_BY_CLASS] if _has_classes(found.labels) else []), *(map(_energy_name, THRESHOLDS))]
    # Of fewer groups or cells, no frequency but 0 lies below a quarter of a cycle.
    names += [FAST] if groups > 3 else []
    names += [FINE] if min(height, width) > 3 else []
    return [
        *apart,
        EFFECTIVE,
        *([THREE] if found.latents.shape[1] > 3 else []),
        *names,
        *([] if found.rate is None else [RATE]),
    ]


def note_of(metric: str, kept: FeatureSet) -> str:
    """Words that belong to a number."""
    found = latent_set(kept)
    elements = found.latents[0].size
    words = {
        VIV: f"of {elements} elements, normalised by channel; covariance factored into channels, groups and places",
        VIV_BY_CLASS: f"likewise, the mean over {0 if found.labels is None else len(set(found.labels))} classes",
        RATE: "nats per pixel, of the posterior to the standard normal",
        EFFECTIVE: f"of {found.latents.shape[1]}: (sum of eigenvalues)² / sum of their squares",
        FAST: "share of the power above 1/4 cycle a group, each series' mean taken off, normalised by channel",
        FINE: "share of the power above 1/4 cycle a cell, each picture's mean taken off, normalised by channel",
    }
    words |= {_energy_name(rho): "share of the energy beyond this part of all orders, normalised" for rho in THRESHOLDS}
    return words.get(metric, "")


def _has_classes(labels: np.ndarray | None) -> bool:
    """Whether most clips have another one of their class, in each part that an interval looks at."""
    if labels is None or len(set(labels)) < 2:
        return False
    return np.unique(labels, return_counts=True)[1].min() >= 4


def _energy_name(rho: float) -> str:
    return f"SEC {rho:g}"


def _two(kept: FeatureSet, interval: int) -> np.ndarray:
    return np.stack([summary_of(kept).of("distances", k).mean(1) for k in (interval, 1)], axis=1)


def _ratio(pairs: np.ndarray) -> float:
    top, bottom = pairs.sum(0)
    return top / bottom if bottom > 0 else float("nan")


def _shares(channels: np.ndarray) -> np.ndarray:
    """Eigenvalues' shares from mean and covariance of every clip `[N, C, 1 + C]`, which have equal weight; nan without
    variance."""
    means, covariances = channels[:, :, 0], channels[:, :, 1:]
    covariance = covariances.mean(0) + np.cov(means, rowvar=False, bias=True).reshape(covariances.shape[1:])
    return shares_of(covariance) if covariance.any() else np.full(len(covariance), np.nan)


def _effective(channels: np.ndarray) -> float:
    return float(1.0 / np.square(_shares(channels)).sum())


def _three(channels: np.ndarray) -> float:
    return float(_shares(channels)[:3].sum())


def _high(kept: FeatureSet, what: str) -> np.ndarray:
    """Power beyond 1/4 cycle, and all of it, `[N, 2]`."""
    found = summary_of(kept)
    power, (groups, height, width) = found.of(what), found.set.latents.shape[2:]
    if what == "time":
        cycles = np.arange(power.shape[1]) / groups
        counts = np.where((cycles == 0) | (cycles == 0.5), 1, 2)
    else:
        place = radial_bins(height, width)
        cycles, counts = np.arange(power.shape[1]) / min(height, width), np.bincount(place.ravel())
    return np.stack([(power * counts)[:, cycles > 0.25].sum(1), (power * counts).sum(1)], axis=1)


def _rate(kept: FeatureSet) -> np.ndarray:
    rate = summary_of(kept).set.rate
    if rate is None:
        raise InputError(f"{kept.path}: latents without a posterior have no rate")
    return rate


def _for_classes(kept: FeatureSet) -> tuple[np.ndarray, np.ndarray]:
    found = summary_of(kept).set
    if not _has_classes(found.labels):
        raise InputError(f"{kept.path}: too few clips of each class, or no classes")
    return found.normalised(), found.labels


def _numbers() -> dict[str, LatentNumber]:
    def channels(kept: FeatureSet) -> tuple[np.ndarray]:
        return (summary_of(kept).of("channels"),)

    def energy(place: int) -> Callable:
        return lambda kept: (summary_of(kept).of("energy")[:, [place, 0]],)

    found = [
        LatentNumber(name=EFFECTIVE, arrays=channels, metric=_effective),
        LatentNumber(name=THREE, arrays=channels, metric=_three, share=True),
        LatentNumber(name=RATE, arrays=lambda kept: (_rate(kept),), metric=np.mean),
        LatentNumber(
            name=VIV,
            better="lower",
            arrays=lambda kept: (summary_of(kept).set.normalised(),),
            metric=velocity_irreducible_variance,
        ),
        LatentNumber(
            name=VIV_BY_CLASS, better="lower", arrays=_for_classes, metric=velocity_irreducible_variance, paired=True
        ),
    ]
    for name, what in ((FAST, "time"), (FINE, "space")):
        found.append(
            LatentNumber(
                name=name,
                better="lower",
                arrays=lambda kept, what=what: (_high(kept, what),),
                metric=_ratio,
                share=True,
            )
        )
    for place, rho in enumerate(THRESHOLDS, 1):
        found.append(
            LatentNumber(name=_energy_name(rho), better="lower", arrays=energy(place), metric=_ratio, share=True)
        )
    return {number.name: number for number in found}


_NUMBERS = _numbers()
