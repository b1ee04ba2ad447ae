"""Is one of two better, or is it chance? `python -m eval.compare --a RESULT_OR_RUN --b RESULT_OR_RUN`

Two generators by the same seeds, or two tokenizers on the same clips, from the features and measurements that
`eval.fvd` and `eval.reconstruction` kept: no pixel is needed. The same clips leave both sides at once, so what the two
have in common cancels, and the interval of the difference is often many times narrower than theirs suggest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError
from runtime.output import check_file

KINDS = ("fvd", "reconstruction")
# Whose numbers are compared; the others are controls.
SUBJECTS = ("generated", "reconstructed", "predicted")
HIGHER_IS_BETTER = ("PSNR", "SSIM", "IS", "accuracy", "change explained")
# Of what a set depends on, all that two sets of the same clips may differ in: who made them.
MADE_BY = ("decoder", "encoder", "predictor", "latents", "file", "dtype")


@dataclass(frozen=True, kw_only=True)
class CompareConfig(CommonFlags):
    """Flags of `python -m eval.compare`."""

    a: str = flag(help="results file of eval.fvd or eval.reconstruction, or a run, of which the newest counts")
    b: str = flag(help="the same of the other one")
    out: str | None = flag(
        None, "JSON file to write; default: comparison-….json beside the results of a", check=check_file
    )


def compare(config: CompareConfig) -> Path:
    """Compare every number that both results have, print the table and verdicts, write one JSON; returns its path.

    Raises:
        InputError: If results are absent, of different kinds, or not of the same clips, seeds and features.
    """
    from eval.results import read_results, table, write_results
    from runtime.run import is_main

    paths = [find_results(name, config.runs_dir) for name in (config.a, config.b)]
    kinds = [set(found) for found in paths]
    kind = next((kind for kind in KINDS if kind in kinds[0] & kinds[1]), None)
    if kind is None:
        said = " and ".join(
            f"{name}: {', '.join(sorted(k))}" for name, k in zip((config.a, config.b), kinds, strict=True)
        )
        raise InputError(f"nothing of the same kind was measured of both ({said})")
    path_a, path_b = paths[0][kind], paths[1][kind]
    if path_a.resolve() == path_b.resolve():
        raise InputError(f"--a and --b are the same results: {path_a}")
    rows_a, rows_b = ({(row.metric, row.subject): row for row in read_results(path)[1]} for path in (path_a, path_b))
    rows, verdicts = [], []
    for (metric, subject), row in rows_a.items():
        other = rows_b.get((metric, subject))
        if not subject.startswith(SUBJECTS) or other is None or None in (row.value, other.value):
            continue
        difference = difference_of(row, other, (path_a.parent, path_b.parent))
        if difference is not None:
            verdicts.append(verdict(metric, difference))
            rows += compared_rows(row, other, difference, verdicts[-1])
    if not rows:
        raise InputError(f"{path_a} and {path_b} have no number in common whose clips were kept; measure both again")
    out = Path(config.out) if config.out else path_a.parent / f"comparison-{kind}-with-{name_of(path_b)}.json"
    words = ["intervals cover fresh clips, not other training seeds; each of the verdicts errs in 5 % of cases"]
    write_results(out, kind="comparison", rows=rows, a=str(path_a), b=str(path_b), of=kind, differences=words)
    if is_main():
        print(f"a: {path_a}\nb: {path_b}")
        print(table(rows))
        for line in (*verdicts, *words):
            print(f"  {line}")
        print(f"eval.compare: wrote {out}")
    return out


def find_results(name: str, runs_dir: str) -> dict[str, Path]:
    """The results that a flag names, by kind: one file, or the newest of each kind of a run.

    Args:
        name: A JSON file, a run directory, or a shipped name.
        runs_dir: Where results of shipped weights lie.
    """
    from eval.results import read_results

    path = Path(name)
    if path.is_file():
        facts, _ = read_results(path)
        if facts["kind"] not in KINDS:
            raise InputError(
                f"{path}: results of kind {facts['kind']!r}; eval.fvd and eval.reconstruction can be compared"
            )
        return {facts["kind"]: path}
    folder = next((f for f in (path / "eval", Path(runs_dir) / f"shipped-{name}" / "eval") if f.is_dir()), None)
    newest: dict[str, tuple[str, Path]] = {}
    for file in sorted(folder.glob("*.json")) if folder else ():
        facts, _ = read_results(file)
        if facts["kind"] in KINDS:
            newest[facts["kind"]] = max(newest.get(facts["kind"], ("", file)), (facts["created"], file))
    if not newest:
        raise InputError(f"{name}: no results there; measure it with python -m eval.fvd or eval.reconstruction")
    return {kind: file for kind, (_, file) in newest.items()}


def name_of(path: Path) -> str:
    """What results belong to, in a file name: the run's name where they lie in one."""
    return path.parent.parent.name if path.parent.name == "eval" else path.stem


def difference_of(row, other, folders: tuple[Path, Path]):
    """The `Estimate` of a's number less b's; None where nothing was kept to make it from, or nothing here knows how.

    Args:
        row, other: The rows of a and of b.
        folders: Those of the two results files, which kept files are relative to.
    """
    from eval.feature_store import load_feature_set
    from eval.metrics.intervals import compare_paired
    from eval.set_rows import classes_of

    if not row.sources or len(row.sources) != len(other.sources):
        return None
    sets_a, sets_b = (
        [load_feature_set(folder / source) for source in found.sources]
        for folder, found in zip(folders, (row, other), strict=True)
    )
    for a, b in zip(sets_a, sets_b, strict=True):
        check_same_clips(a, b)
    if "layout" in sets_a[0].key:
        found = _of_columns(row)
        if found is None:
            return None
        names, metric = found
        (a1, b1), (a2, b2) = (_columns(sets[0], names) for sets in (sets_a, sets_b))
        labels = sets_a[0].labels if sets_a[0].key.get("stratified") else None
        return compare_paired(metric, a1, b1, a2, b2, labels=labels)
    if len(sets_a) == 2:
        metric = _distance(row.metric)
        if metric is None:
            return None
        arrays = [found.features for found in (*sets_a, *sets_b)]
        classes = {"labels": classes_of(sets_a[0]), "labels_b": classes_of(sets_a[1])}
        return compare_paired(metric, *arrays, paired=False, **classes)
    metric = _of_probabilities(row.metric)
    if metric is None:
        return None
    pairs = [(found.probabilities, found.labels) for found in (*sets_a, *sets_b)]
    return compare_paired(metric, *pairs[0], *pairs[1], labels=classes_of(sets_a[0]))


def check_same_clips(a, b) -> None:
    """Refuse two kept sets that are not of the same clips or seeds, row by row, seen by the same network."""
    import numpy as np

    if len(a.labels) != len(b.labels):
        raise InputError(
            f"{a.path} and {b.path} are of {len(a.labels)} and {len(b.labels)} clips; give both the same --samples"
        )
    for name in sorted({*a.key, *b.key} - {*MADE_BY}):
        if a.key.get(name) != b.key.get(name):
            raise InputError(
                f"{a.path} and {b.path} are not of the same clips and features: {name} is "
                f"{str(a.key.get(name))[:80]} and {str(b.key.get(name))[:80]}; measure both alike"
            )
    if not (np.array_equal(a.clips, b.clips) and np.array_equal(a.labels, b.labels)):
        raise InputError(f"{a.path} and {b.path} are not of the same clips; measure both on the same data and seed")


def _columns(found, names: tuple[str, str]) -> list:
    """Columns of measurements by name, float64 `[N]` or `[N, width]`."""
    from eval.measurements import columns_of

    columns = columns_of(found)
    if not set(names) <= columns.keys():
        raise InputError(f"{found.path}: it does not hold {' and '.join(names)}; measure it again")
    return [columns[name] for name in names]


def _of_columns(row) -> tuple[tuple[str, str], Callable] | None:
    """(two columns, metric of both) of a row of reconstruction."""
    from eval.metrics.frechet import frechet_distance

    def mean(x, _):
        return x.mean()

    def ratio(above, below):
        return above.sum() / below.sum()

    one = {"PSNR": "psnr", "SSIM": "ssim", "LPIPS (alex)": "lpips_alex", "LPIPS (vgg)": "lpips_vgg"}
    if row.metric in one:
        return ((one[row.metric],) * 2, mean) if row.subject == "reconstructed" else None
    if row.metric.startswith("rF"):
        return ("features", "real_features"), frechet_distance
    if row.metric == "error / repeat" and row.subject == "predicted":
        return ("predicted", "repeat"), ratio
    if row.metric == "change explained":
        prefix = "predicted_" if row.subject == "predicted" else ""
        return (f"{prefix}change_error", f"{prefix}change"), lambda above, below: 1.0 - ratio(above, below)
    return None


def _distance(metric: str) -> Callable | None:
    """The function behind a distance between two sets."""
    from eval.features import FRECHET_NAMES, KERNEL_NAMES
    from eval.metrics.frechet import frechet_distance
    from eval.metrics.kernel import kernel_distance
    from eval.set_rows import TO_RECONSTRUCTIONS

    name = metric.removesuffix(TO_RECONSTRUCTIONS)
    if name in FRECHET_NAMES.values():
        return frechet_distance
    return kernel_distance if name in KERNEL_NAMES.values() else None


def _of_probabilities(metric: str) -> Callable | None:
    """A function (probabilities, labels) -> Inception Score, or the share of clips that are seen as what was asked."""
    from eval.metrics.inception import inception_score
    from eval.set_rows import hits

    if metric in ("IS", "IS-shapes"):
        return lambda p, _: inception_score(p)
    if metric == "IS (10 splits)":
        return lambda p, _: inception_score(p, splits=10)
    if metric.startswith("accuracy-"):
        return lambda p, asked: hits(metric.removeprefix("accuracy-"), p.argmax(1), asked).mean()
    return None


def verdict(metric: str, difference) -> str:
    """Which of the two is better, in words."""
    from eval.results import format_number

    if not (difference.low > 0 or difference.high < 0):
        return f"{metric}: no difference can be told from {difference.n} clips"
    a_wins = (difference.value > 0) == metric.startswith(HIGHER_IS_BETTER)
    size = format_number(abs(difference.value))
    return f"{metric}: {'a' if a_wins else 'b'} is better, by {size}"


def compared_rows(row, other, difference, words: str) -> list:
    """The two numbers as they were, and their difference with its interval and verdict."""
    from dataclasses import replace

    from eval.results import row_from

    sides = [
        replace(found, subject=f"{found.subject}, {side}", sources=()) for side, found in (("a", row), ("b", other))
    ]
    return [
        *sides,
        row_from(
            difference,
            metric=row.metric,
            subject=f"{row.subject}, a - b",
            features=row.features,
            note=words.removeprefix(f"{row.metric}: "),
        ),
    ]


if __name__ == "__main__":
    run_command(compare, CompareConfig, example="python -m eval.compare --a runs/generator-a --b runs/generator-b")
