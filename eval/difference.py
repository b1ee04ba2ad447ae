"""Is one of two better, or is it chance? `python -m eval.difference --a RESULT_OR_RUN --b RESULT_OR_RUN`

Two generators by the same seeds, or two tokenizers on the same clips, from the features and measurements that
`eval.fvd` and `eval.reconstruction` kept, or the errors by clip and head that `eval.probe` did: no pixel is needed. The
same clips leave both sides at once, so what the two have in common cancels, and the interval of the difference is often
many times narrower than theirs suggest.

The bias of a Fréchet distance at finitely many clips differs between two generators, or tokenizers, and can be larger
than what they differ by. So its verdict follows from the distances extrapolated to infinitely many clips, and where
clips are too few for that, there is none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError
from runtime.output import check_file
from runtime.records import check_fields

PROBES = ("probe flow", "probe next-frame", "probe tracking")
KINDS = ("fvd", "reconstruction", *PROBES)
# Of two probes, what has to be the same.
PROBED = ("judged_on", "heads_trained_on", "seed", "seeds", "head_steps", "head_width", "batch_size")
# Whose numbers are compared; the others are controls.
SUBJECTS = ("generated", "reconstructed", "predicted")
# Of what kept rows depend on, all that two sets of the same clips may differ in: who made them, and which columns of
# measurements there are. Networks are compared where both have one.
MADE_BY = ("decoder", "encoder", "predictor", "dtype", "layout", "observed", "network", "weights")
MADE_BY += ("latents", "file")  # in files of earlier versions


@dataclass(frozen=True, kw_only=True)
class DifferenceConfig(CommonFlags):
    """Flags of `python -m eval.difference`."""

    a: str = flag(help="results of eval.fvd, eval.reconstruction or eval.probe, or a run, of which the newest count")
    b: str = flag(help="the same of the other one")
    out: str | None = flag(
        None, "JSON file to write; default: difference-….json beside the results of a", check=check_file
    )


def difference(config: DifferenceConfig) -> Path:
    """Compare every number that both results have, print the table and verdicts, write one JSON; returns its path.

    Raises:
        InputError: If results are absent, of different kinds, or not of the same clips, seeds and features.
    """
    from eval.results.rows import read_results, table, write_results
    from runtime.run import is_main

    paths = [find_results(name, config.runs_dir) for name in (config.a, config.b)]
    kind = next((kind for kind in KINDS if all(kind in found for found in paths)), None)
    if kind is None:
        both = zip((config.a, config.b), paths, strict=True)
        said = " and ".join(f"{name}: {', '.join(sorted(found))}" for name, found in both)
        raise InputError(f"nothing of the same kind was measured of both ({said})")
    path_a, path_b = paths[0][kind], paths[1][kind]
    if path_a.resolve() == path_b.resolve():
        raise InputError(f"--a and --b are the same results: {path_a}")
    (facts_a, all_a), (facts_b, all_b) = read_results(path_a), read_results(path_b)
    check_fields(facts_a, {"data": str}, path_a)
    check_alike(kind, (path_a, facts_a), (path_b, facts_b))
    rows_a, rows_b = ({(row.metric, row.subject): row for row in found} for found in (all_a, all_b))
    rows, verdicts = [], []
    for (metric, subject), row in rows_a.items():
        other = rows_b.get((metric, subject))
        if other is None or None in (row.value, other.value):
            continue
        folders = path_a.parent, path_b.parent
        if kind in PROBES:
            found = probes_compared(row, other, folders, facts_a.get("videos", []))
        else:
            found = compared(row, other, folders) if subject.startswith(SUBJECTS) else []
        if found:
            verdicts.append(f"{metric}, {subject}: {found[-1].note}")
            rows += found
    if not rows:
        raise InputError(f"{path_a} and {path_b} have no number in common whose clips were kept; measure both again")
    out = Path(config.out) if config.out else path_a.parent / f"difference-{kind}-with-{name_of(path_b)}.json"
    words = ["intervals cover fresh clips, not other training seeds; each of the verdicts errs in 5 % of cases"]
    words += drawn_differently(facts_a, facts_b) if kind == "fvd" else []
    facts = {"a": str(path_a), "b": str(path_b), "of": kind, "data": facts_a["data"], "differences": words}
    facts |= {"videos": facts_a.get("videos", [])} if kind in PROBES else {}
    write_results(out, kind="difference", rows=rows, **facts)
    if is_main():
        print(f"a: {path_a}\nb: {path_b}")
        print(table(rows))
        for line in (*verdicts, *words):
            print(f"  {line}")
        print(f"eval.difference: wrote {out}")
    return out


def check_alike(kind: str, a: tuple[Path, dict], b: tuple[Path, dict]) -> None:
    """Refuse two results, each (path, facts), that say themselves that they are of other clips, seeds or heads."""
    (path_a, facts_a), (path_b, facts_b) = a, b
    if facts_a.get("seed") != facts_b.get("seed"):
        raise InputError(
            f"{path_a} and {path_b} are not of the same clips: seed is {facts_a.get('seed')} and {facts_b.get('seed')}"
        )
    if kind in PROBES and (other := [n for n in PROBED if facts_a.get(n) is None or facts_a[n] != facts_b.get(n)]):
        raise InputError(
            f"{path_a} and {path_b} are not of the same clips and heads: {other[0]} is {facts_a.get(other[0])} and "
            f"{facts_b.get(other[0])}; measure both alike"
        )


def drawn_differently(*facts: dict) -> list[str]:
    """In words, in what the ways differ in which the clips of two results of eval.fvd were drawn."""
    from generator.sample import OPTIONS

    # Of "generated", the headline, the first scale of guidance.
    ways = [{**each, "guidance scale": (each.get("guidance_scales") or [1.0])[0]} for each in facts]
    pairs = {name: [way.get(name, "as by default") for way in ways] for name in ("steps", "guidance scale", *OPTIONS)}
    return [
        f"drawn in different ways: {name} is {ours} of a, {theirs} of b"
        for name, (ours, theirs) in pairs.items()
        if ours != theirs
    ]


def find_results(name: str, runs_dir: str) -> dict[str, Path]:
    """The results that a flag names, by kind: one file, or the newest of each kind of a run.

    Args:
        name: A JSON file, a run directory, RUN@STEP, or a shipped name.
        runs_dir: Where results of shipped weights lie.
    """
    from eval.results.rows import read_results
    from eval.tokenizer_clips import run_results
    from tokenizer.zoo import run_and_step

    path, step = run_and_step(name)
    if path.is_file():
        kind = kind_of(path, read_results(path)[0])
        if kind not in KINDS:
            raise InputError(
                f"{path}: results of kind {kind!r}; eval.fvd, eval.reconstruction and eval.probe can be compared"
            )
        return {kind: path}
    folder = next(
        (f for f in (run_results(path, step), Path(runs_dir) / f"shipped-{name}" / "eval") if f.is_dir()), None
    )
    newest: dict[str, tuple[str, Path]] = {}
    for file in sorted(folder.glob("*.json")) if folder else ():
        facts, _ = read_results(file)
        kind = kind_of(file, facts)
        if kind in KINDS:
            newest[kind] = max(newest.get(kind, ("", file)), (facts["created"], file))
    if not newest:
        raise InputError(f"{name}: no results there; measure it with python -m eval.fvd or eval.reconstruction")
    return {kind: file for kind, (_, file) in newest.items()}


def kind_of(path: Path, facts: dict) -> str:
    """The kind of results as `KINDS` has it."""
    if facts["kind"] != "probe":
        return facts["kind"]
    check_fields(facts, {"of": str}, path)
    check_fields(facts, {"videos": list[int]}, path, needed=False)
    return f"probe {facts['of']}"


def name_of(path: Path) -> str:
    """What results belong to, in a file name: the run's name where they lie in one, with the checkpoint's."""
    above = [folder.name for folder in path.parents]
    if "eval" not in above[:2]:
        return path.stem
    return above[1] if above[0] == "eval" else f"{above[2]}-{above[0]}"


def compared(row, other, folders: tuple[Path, Path]) -> list:
    """Rows of the two numbers, and of a's less b's with interval and verdict; none where nothing was kept.

    Args:
        row, other: The rows of a and of b.
        folders: Those of the two results files, which kept files are relative to.
    """
    from eval.features.store import load_feature_set
    from eval.quantities import difference_at_infinity, difference_of, number_named
    from eval.results.rows import row_from

    number = number_named(row.metric, row.subject)
    if number is None or row.protocol or not row.sources or len(row.sources) != len(other.sources):
        return []
    sets_a, sets_b = (
        [load_feature_set(folder / source) for source in found.sources]
        for folder, found in zip(folders, (row, other), strict=True)
    )
    for a, b in zip(sets_a, sets_b, strict=True):
        check_same_clips(a, b)
        if row.subject == "predicted" and a.key["observed"] != b.key["observed"]:
            return []
    found = difference_of(number, sets_a, sets_b)
    words = verdict(number.better, found)
    if number.is_frechet:
        beyond = difference_at_infinity(number, sets_a, sets_b)
        is_none = isinstance(beyond, str)
        words = f"no verdict: {beyond}" if is_none else f"at infinity, {verdict(number.better, beyond)}"
    subject = f"{row.subject}, a - b"
    return [
        *sides_of(row, other),
        row_from(found, metric=row.metric, subject=subject, features=row.features, note=words),
    ]


def probes_compared(row, other, folders: tuple[Path, Path], videos: list[int]) -> list:
    """As `compared`, of what a probe found in two generators.

    Args:
        videos: Of each clip the place of its video.
    """
    from eval.probes.features import GENERATOR
    from eval.probes.rows import A_LESS_B, LESS, counted, estimate_again, row_of
    from eval.probes.units import read_unit
    from eval.quantities import better

    if not row.subject.startswith(GENERATOR) or LESS in row.subject or not row.sources:
        return []
    if len(row.sources) != len(other.sources):
        raise InputError(f"{row.metric}, {row.subject}: of {len(row.sources)} and {len(other.sources)} heads")
    paths = [folder / source for folder, found in zip(folders, (row, other), strict=True) for source in found.sources]
    about = row.metric, row.subject + A_LESS_B
    found = estimate_again(*about, [read_unit(path) for path in paths], videos)
    apart = row_of(*about, found, paths, verdict(better(row.metric), found))
    return [*sides_of(row, other), counted(apart, len(videos))]


def sides_of(row, other) -> list:
    """The numbers of a and b, as they stand beside their difference."""
    sides = (("a", row), ("b", other))
    return [replace(one, subject=f"{one.subject}, {side}", sources=()) for side, one in sides]


def check_same_clips(a, b) -> None:
    """Refuse two kept sets that are not of the same clips or seeds, row by row, seen by the same network."""
    import numpy as np

    if len(a.labels) != len(b.labels):
        raise InputError(
            f"{a.path} and {b.path} are of {len(a.labels)} and {len(b.labels)} clips; give both the same --samples"
        )
    networks = [name for name in ("network", "weights") if a.key.get(name) and b.key.get(name)]
    for name in (*networks, *sorted({*a.key, *b.key} - {*MADE_BY})):
        if a.key.get(name) != b.key.get(name):
            raise InputError(
                f"{a.path} and {b.path} are not of the same clips and features: {name} is "
                f"{str(a.key.get(name))[:80]} and {str(b.key.get(name))[:80]}; measure both alike"
            )
    generated = a.key.get("picture") == "generated"  # by the same seeds, but by two generators
    if not ((generated or np.array_equal(a.clips, b.clips)) and np.array_equal(a.labels, b.labels)):
        raise InputError(f"{a.path} and {b.path} are not of the same clips; measure both on the same data and seed")


def verdict(better: str, difference) -> str:
    """Which of the two is better, in words, of an estimate of a's number less b's."""
    from eval.results.rows import format_number

    if not (difference.low > 0 or difference.high < 0):
        return f"no difference can be told from {difference.n} clips"
    a_wins = (difference.value > 0) == (better == "higher")
    return f"{'a' if a_wins else 'b'} is better, by {format_number(abs(difference.value))}"


if __name__ == "__main__":
    run_command(
        difference, DifferenceConfig, example="python -m eval.difference --a runs/generator-a --b runs/generator-b"
    )
