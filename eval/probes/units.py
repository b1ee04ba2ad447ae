"""What one probe found, clip by clip, kept in a file as soon as it is known; and numbers with intervals out of many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from eval.features.store import digest
from eval.metrics.intervals import Estimate
from eval.metrics.jackknife import ROUNDS, jackknife
from runtime.errors import InputError
from runtime.records import check_fields, read_json, write_json

# Sums `[S, V, 2]` of seeds and videos: what is averaged, and over how many.
Sums = dict[str, np.ndarray]


@dataclass(frozen=True)
class Unit:
    """What one probe found: its key, and sums of clips `[N, 2]` by metric."""

    key: dict
    sums: Sums


def make_unit(folder: Path, key: dict, make: Callable[[], Sums]) -> None:
    """Keep the sums of one probe, `[N, 2]` by metric, unless they are kept already.

    Args:
        key: Everything that they depend on; JSON values.

    Raises:
        InputError: When they are not finite; nothing is kept then.
    """
    if is_kept(folder, key):
        return
    made = make()
    if not all(np.isfinite(rows).all() for rows in made.values()):
        raise InputError(
            f"errors of {key.get('source', 'a probe')} are not finite: its features are not, or the head diverged"
        )
    found = {metric: rows.tolist() for metric, rows in made.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(unit_path(folder, key), {"key": key, "sums": found}, "features")


def read_unit(path: Path) -> Unit:
    """What `make_unit` kept; InputError if it is not there, damaged, or of another key than its name says."""
    record = read_json(path)
    check_fields(record, {"key": dict, "sums": dict}, path)
    check_fields(record["sums"], dict.fromkeys(record["sums"], list[list[float]]), path)
    if not all(len(row) == 2 and np.isfinite(row).all() for rows in record["sums"].values() for row in rows):
        raise InputError(f"{path}: damaged; remove it, and it is made again")
    if unit_path(path.parent, record["key"]).name != path.name:
        raise InputError(f"{path}: its key is not the one that it is named by; remove it, and it is made again")
    sums = {metric: np.array(rows, np.float64).reshape(-1, 2) for metric, rows in record["sums"].items()}
    return Unit(record["key"], sums)


def is_kept(folder: Path, key: dict) -> bool:
    """Whether there is such a unit."""
    return unit_path(folder, key).is_file()


def unit_path(folder: Path, key: dict) -> Path:
    """The file of a unit."""
    return folder / f"unit-{digest(key)}.json"


def by_video(rows: np.ndarray, videos: Sequence[object]) -> np.ndarray:
    """Sums of clips `[N, 2]` added up over the clips of one video: `[V, 2]`, videos in order of appearance."""
    places = {video: place for place, video in enumerate(dict.fromkeys(videos))}
    found = np.zeros((len(places), 2))
    np.add.at(found, [places[video] for video in videos], rows)
    return found


def sums_of(units: Sequence[Unit], videos: Sequence[int]) -> Sums:
    """Sums `[S, V, 2]` by metric of the units of several seeds.

    Args:
        videos: Of each clip the place of its video.

    Raises:
        InputError: If a unit is of other clips.
    """
    metrics = units[0].sums.keys()
    if any(unit.sums.keys() != metrics or {*map(len, unit.sums.values())} != {len(videos)} for unit in units):
        raise InputError(f"kept units of a probe are not of the same {len(videos)} clips and numbers")
    return {metric: np.stack([by_video(unit.sums[metric], videos) for unit in units]) for metric in metrics}


def mean_of(metric: str, rows: np.ndarray) -> float:
    """The number of sums `[V, 2]`: pooled over pixels and points; the tracking delta is averaged over videos, as
    TAP-Vid does. Tracking is in per cent."""
    if metric == "tracking delta":
        return float(100.0 * np.mean(rows[:, 0] / rows[:, 1]))
    return float((100.0 if metric.startswith("tracking") else 1.0) * rows[:, 0].sum() / rows[:, 1].sum())


def estimate_of(metric: str, sums: np.ndarray, less: np.ndarray | None = None) -> Estimate:
    """The mean over seeds, or its difference to that of other probes of the same videos and seeds, with a 95 % interval
    over fresh videos and fresh seeds of the heads.

    Args:
        sums: `[S, V, 2]`; one seed where nothing is trained.
        less: Likewise; one seed goes with each of the others.

    Raises:
        InputError: If no video has anything to judge.
    """
    seeds = len(sums) if less is None else max(len(sums), len(less))
    sides = [np.broadcast_to(side, (seeds, *side.shape[1:])) for side in (sums, less) if side is not None]
    judged = np.all([side[0, :, 1] > 0 for side in sides], axis=0)
    sides = [side[:, judged] for side in sides]
    count = int(judged.sum())
    if not count:
        raise InputError(f"no clip has anything to measure the {metric} by")

    def values(rows: np.ndarray) -> np.ndarray:
        left = [[mean_of(metric, np.delete(one, rows, axis=0)) for one in side] for side in sides]
        return np.array(left[0]) - (np.array(left[1]) if less is not None else 0.0)

    own = values(np.empty(0, int))
    spread = jackknife(lambda rows: float(values(rows).mean()), count, None, ROUNDS, 0)
    parts = [(spread.variance, spread.freedom)]
    words = f"delete-d jackknife over videos, {spread.blocks} blocks dealt {spread.rounds} times"
    if seeds > 1:
        parts.append((float(own.var(ddof=1)) / seeds, seeds - 1))
        words += f", and {seeds} seeds of the head"
    variance = sum(part for part, _ in parts)
    # Welch and Satterthwaite: three seeds alone would allow no more than two degrees of freedom.
    below = sum(part**2 / freedom for part, freedom in parts)
    freedom = variance**2 / below if 0 < below < np.inf else 1.0
    reach = float(stats.t.ppf(0.975, freedom) * np.sqrt(variance))
    value = float(own.mean())
    return Estimate(value, value - reach, value + reach, count, words)
