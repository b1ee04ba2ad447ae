"""Which cheap number orders tokenizers as gFVD does: `python -m eval.correlate RESULTS…`, files or folders.

Cheap numbers are those of `eval.card`, `eval.latents`, `eval.prediction` and `eval.reconstruction`, gFVD is that of
`eval.fvd`; a tokenizer is known by the hashes of its encoder and decoder. Of a generator the latest checkpoint counts,
of several generators of one tokenizer the mean. Numbers of other data or counts of clips, and distances of other
features or sampling, are never put together: they are biased differently. The word "published" adds the eight
tokenizers of PV-VAE's tables 1 and 2.

Spearman's rank correlation needs many tokenizers: with n below 4 there is no interval, and with 8 a wide one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from generator.sample import OPTIONS
from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError
from runtime.output import check_file

PUBLISHED_WORD = "published"
CHEAP = ("card", "latents", "reconstruction", "prediction")
GENERATED = "generated"
# Of the published tables: what stands for which tokenizer, and what it is to be compared with.
_PUBLISHED_TARGET = {"FVD": "UCF101 FVD"}
# What distances of generated clips must share to be compared.
_SETTING = {"data": str, "features": str, "samples": int, "steps": int, "guidance_scales": list[float]}


@dataclass(frozen=True, kw_only=True)
class CorrelateConfig(CommonFlags):
    """Flags of `python -m eval.correlate`."""

    results: tuple[str, ...] = flag(help=f"results files or folders of them; or {PUBLISHED_WORD!r}", positional=True)
    target: str | None = flag(None, "metric of generated clips to compare with; default: FVD, else FD-shapes, if there")
    out: str | None = flag(None, "JSON file to write", check=check_file)


@dataclass
class Known:
    """What results say of one tokenizer.

    Attributes:
        name: For people.
        cheap: Numbers by (metric, of what, measured on what).
        targets: By (metric, measured on what), of each generator the step and the number.
    """

    name: str = ""
    cheap: dict[tuple[str, str, str], float] = field(default_factory=dict)
    targets: dict[tuple[str, str], dict[str, tuple[int, float]]] = field(default_factory=dict)


def correlate(config: CorrelateConfig) -> list:
    """Print the table, write the JSON; returns the rows, strongest first."""
    from eval.results.rows import table, write_results

    tokenizers = known_tokenizers(config.results)
    target = config.target or next((name for name in ("FVD", "FD-shapes") if targets(tokenizers, name)), "FVD")
    found = targets(tokenizers, target)
    rows = correlation_rows(tokenizers, found, target)
    if not rows:
        measured = sum(bool(known.cheap) for known in tokenizers.values())
        having = len({key for values in found.values() for key in values})
        raise InputError(
            f"no number to correlate: {measured} tokenizers have cheap numbers, {having} have {target} of "
            "generated clips, and two at least must have both, measured alike"
        )
    print(table(rows))
    if len(rows) > 1:
        words = f"about {0.05 * len(rows):.1g} of them would be among 5 % of all orders by chance alone"
        print(f"  {len(rows)} numbers were tried: {words}")
    for setting, values in found.items():
        for key, value in values.items():
            known, steps = tokenizers[key], [step for step, _ in tokenizers[key].targets[target, setting].values()]
            trained = f", after {' and '.join(map(str, sorted(set(steps))))} steps" if any(steps) else ""
            print(f"  {known.name}: {target} {value:.4g}, of {len(steps)} generators{trained}")
        words = f"{len(values)} tokenizers have {target} ({setting})"
        print(f"{words}; a rank correlation of so few says little, see the intervals")
    if config.out:
        named = {
            setting: {tokenizers[key].name: one for key, one in values.items()} for setting, values in found.items()
        }
        facts = {"target": target, "tokenizers": named}
        write_results(config.out, kind="correlation", rows=rows, **facts)
        print(f"eval.correlate: wrote {config.out}")
    return rows


def known_tokenizers(results: Sequence[str]) -> dict[str, Known]:
    """What results say, by tokenizer; of a number that was measured twice the newest.

    Raises:
        InputError: On a file that is no result of an evaluation.
    """
    from eval.results.rows import read_results
    from eval.verify import results_files
    from runtime.records import check_fields

    names = [name for name in results if name != PUBLISHED_WORD]
    files = {path.resolve(): path for name in names for path in results_files(Path(name))}
    found: dict[str, Known] = published() if PUBLISHED_WORD in results else {}
    read = sorted(((path, *read_results(path)) for path in files.values()), key=lambda one: one[1]["created"])
    for path, facts, rows in read:
        hashes = [facts.get(f"{half}_hash") for half in ("encoder", "decoder")]
        if not all(isinstance(half, str) for half in hashes):
            continue
        known = found.setdefault(" ".join(hashes), Known())
        if facts["kind"] in CHEAP:
            known.name = str(facts.get("label") or facts.get("tokenizer") or known.name)
            known.cheap |= {
                (row.metric, row.subject, clips_of(facts, row.subject)): row.value
                for row in rows
                if row.value is not None
            }
        elif facts["kind"] == "fvd":
            known.name = known.name or str(facts.get("run", ""))
            check_fields(facts, _SETTING | {"step": int}, path, needed=False)
            run, step, setting = str(facts.get("run", "")), facts.get("step", 0), setting_of(facts)
            for row in rows:
                if row.subject != GENERATED or row.value is None or row.other_protocol:
                    continue
                of_runs = known.targets.setdefault((row.metric, setting), {})
                if step >= of_runs.get(run, (0, 0.0))[0]:
                    of_runs[run] = step, row.value
    return found


def clips_of(facts: dict, subject: str) -> str:
    """What cheap numbers must share to be put together, in words: clips, and of predictions the frames observed."""
    parts = [str(facts[name]) for name in ("data", "split", "size", "num_frames") if name in facts]
    named = [("frame_stride", "stride {}"), ("samples", "{} clips")]
    named += [] if subject == "reconstructed" else [("observed_frames", "{} frames observed")]
    return ", ".join([*parts, *(words.format(facts[name]) for name, words in named if facts.get(name) is not None)])


def setting_of(facts: dict) -> str:
    """What distances must share to be compared, in words: data, features, clips, sampling."""
    parts = [str(facts[name]) for name in ("data", "features") if name in facts]
    parts += [f"{facts['samples']} clips"] if "samples" in facts else []
    parts += [f"{facts['steps']} steps"] if "steps" in facts else []
    parts += [f"guidance {scale}" for scale in facts.get("guidance_scales", ())[:1]]
    return ", ".join([*parts, *(f"{name} {facts[name]}" for name in OPTIONS if name in facts)])


def published() -> dict[str, Known]:
    """The tokenizers of PV-VAE's tables 1 and 2."""
    from eval.results.published import SOURCE, TABLES

    found: dict[str, Known] = {}
    judged = {line.name: line for line in TABLES["reconstruction"].lines}
    for line in TABLES["generation"].lines:
        known = found[line.name] = Known(f"{line.name} ({SOURCE})")
        known.targets = {
            (metric, SOURCE): {line.name: (0, line.cells[title].value)} for metric, title in _PUBLISHED_TARGET.items()
        }
        cells = {"params M": line.cells["params M"]} | judged[line.name].cells
        known.cheap = {
            (title, "published", SOURCE): cell.value for title, cell in cells.items() if cell.value is not None
        }
    return found


def targets(tokenizers: dict[str, Known], metric: str) -> dict[str, dict[str, float]]:
    """By setting and tokenizer the mean over its generators; of those that have any."""
    found: dict[str, dict[str, float]] = {}
    for key, known in tokenizers.items():
        for (name, setting), of_runs in known.targets.items():
            if name == metric:
                found.setdefault(setting, {})[key] = sum(value for _, value in of_runs.values()) / len(of_runs)
    return found


def correlation_rows(tokenizers: dict[str, Known], found: dict[str, dict[str, float]], target: str) -> list:
    """A row for every cheap number that two tokenizers or more have with a distance measured alike, strongest first,
    those without a value last."""
    rows = [
        row
        for setting, values in found.items()
        for row in _rows_of(tokenizers, values, target, f"; {target} on {setting}" if len(found) > 1 else "")
    ]
    return sorted(rows, key=lambda row: -1.0 if row.value is None else -2.0 - abs(row.value))


def _rows_of(tokenizers: dict[str, Known], values: dict[str, float], target: str, end: str) -> list:
    from eval.analysis.rank_correlation import FEWEST, chance_of, rank_correlation
    from eval.results.rows import Row, row_from

    rows = []
    for number in dict.fromkeys(name for key in values for name in tokenizers[key].cheap):
        both = [
            (tokenizers[key].cheap[number], value) for key, value in values.items() if number in tokenizers[key].cheap
        ]
        if len(both) < 2:
            continue
        metric, subject, where = number
        name, x, y = f"{metric} ~ {target}", *zip(*both, strict=True)
        try:
            found = rank_correlation(x, y)
        except InputError as error:
            rows.append(Row(metric=name, subject=subject, value=None, n=len(both), note=f"{error}; on {where}{end}"))
            continue
        few = "" if len(both) >= FEWEST else f"; of {len(both)} tokenizers alone, which shows nothing"
        note = f"in {chance_of(x, y):.1%} of all orders as strong; on {where}{end}{few}"
        rows.append(row_from(found, metric=name, subject=subject, note=note))
    return rows


if __name__ == "__main__":
    run_command(correlate, CorrelateConfig, example="python -m eval.correlate published runs")
