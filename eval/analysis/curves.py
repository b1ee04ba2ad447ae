"""The curves behind the numbers of latents, small enough for a results file."""

from __future__ import annotations

import numpy as np

from eval.analysis.quantities import intervals_of, summary_of
from eval.analysis.spectra import channel_eigenspectrum
from eval.features.store import FeatureSet

BINS = 30  # of the histogram
HISTOGRAM, DISTANCE, EIGENSPECTRUM, TIME, SPACE = "histogram", "distance", "eigenspectrum", "time", "space"
Points = list[list[float]]


def curves_of(kept: FeatureSet) -> dict[str, Points]:
    """Points (x, y) by name.

    "histogram" and "histogram normalised": distances of neighbouring groups over their mean, density (figure 5c).
    "distance" and "distance normalised": LTD by interval, over that of interval 1 (figure 5d). "eigenspectrum": shares
    of the channels' variance, falling. "time" and "space": mean power by cycles a group or cell, normalised by channel.
    """
    summary = summary_of(kept)
    groups, height, width = summary.set.latents.shape[2:]
    found: dict[str, Points] = {}
    for raw in (True, False) if groups > 1 else ():
        what, end = ("distances", "") if raw else ("normalised distances", " normalised")
        apart = {k: summary.of(what, k) for k in intervals_of(groups)}
        first = apart[1].mean()
        if not first > 0:
            continue
        density, edges = np.histogram(apart[1] / first, BINS, density=True)
        found[f"{HISTOGRAM}{end}"] = _points((edges[1:] + edges[:-1]) / 2, density)
        found[f"{DISTANCE}{end}"] = _points(apart, [values.mean() / first for values in apart.values()])
    if summary.of("channels")[..., 1:].any():
        shares = channel_eigenspectrum(summary.set.latents)
        found[EIGENSPECTRUM] = _points(range(1, len(shares) + 1), shares)
    time, space = summary.of("time").mean(0), summary.of("space").mean(0)
    if len(time) > 1:
        found[TIME] = _points(np.arange(1, len(time)) / groups, time[1:])
    if len(space) > 1:
        found[SPACE] = _points(np.arange(1, len(space)) / min(height, width), space[1:])
    return found


def _points(x, y) -> Points:
    return [[float(a), float(b)] for a, b in zip(x, y, strict=True)]
