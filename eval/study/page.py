"""The page of `eval.ablation`: what is said of its hypotheses, distances of all arms beside each other, their clips,
tables, curves over each other, and what was run."""

from __future__ import annotations

import html
from collections.abc import Container, Sequence
from pathlib import Path

from eval.arms.plan import Plan
from eval.comparison.page import run_section, table_section
from eval.fvd import FVDConfig
from eval.page.document import bullet_list, page, quiet, save_page, section
from eval.page.figures import curve, dots
from eval.page.side_by_side import Side, clip_sections
from eval.study.file import Study
from eval.study.hypotheses import AGAINST, FOR, OPEN
from eval.study.outcome import Numbers, Outcome, gathered, headline
from eval.study.plan import Line
from eval.study.seed_means import lost_differences, over_seeds
from generator.sample import SampleConfig, sampling_of
from runtime.command import parse


def write_page(study: Study, plan: Plan, lines: Sequence[Line], outcome: Outcome, out: Path, clips: int = 0) -> None:
    """Write one HTML file.

    Args:
        clips: Of each kind that are shown of each arm's first seed.
    """
    arms = [f"{arm.name}: {arm.title}" for arm in study.arms if arm.title]
    lost = [f"{name} does not count: {words}" for name, words in outcome.failed.items()]
    tables = {table.name: table_section(table) for table in outcome.tables}
    parts = [tables.pop("hypotheses")] if "hypotheses" in tables else []
    parts += distances_sections(study, outcome)
    parts += [section("Arms", bullet_list([*arms, *lost]))] if arms or lost else []
    parts += arms_clips(study, plan, lines, clips) if clips else []
    parts += tables.values()
    parts += [curves_section(outcome)] if outcome.curves else []
    parts.append(run_section(plan))
    save_page(out, page(f"Study {study.name}", html.escape(lead_of(study, plan, outcome)), parts))


def lead_of(study: Study, plan: Plan, outcome: Outcome) -> str:
    """What was found, and how much was run."""
    by_word = {
        word: [name for name, (_, verdict) in outcome.judgements.items() if verdict.word == word]
        for word in (FOR, AGAINST, OPEN)
    }
    words = [f"{'; '.join(names)}: {word.lower()}." for word, names in by_word.items() if names]
    done = sum(plan.done(stage) is not None for stage in plan.stages.values())
    words.append(f"Arms: {len(study.arms)}, with seeds {', '.join(map(str, study.seeds))} on {study.data}; {done} of")
    return " ".join([*words, f"{len(plan.stages)} stages are done. What was not run is empty."])


def distances_sections(study: Study, outcome: Outcome) -> list[str]:
    """The distance that arms are judged by: of each, and paired differences."""
    key = headline(outcome.rows)
    if key is None:
        return []
    failed = outcome.failed
    lost = lost_differences(study, outcome.apart, failed)
    level = ("no difference", 0.0)
    charts = [
        arms_chart(outcome.rows, failed, key, "Distance of generated clips to real ones"),
        arms_chart(outcome.apart, lost, key, "Less that of the arm it is compared with", level),
    ]
    words = (
        "Circles are seeds, diamonds their means with 95 % intervals by Student's t; of one seed, over its clips alone."
    )
    words += (
        " What is in brackets does not count: an arm of it fails the gate, or did not meet it yet." if failed else ""
    )
    return [section("Distances", quiet(words), f'<div class="charts">{"".join(charts)}</div>')]


def arms_chart(
    numbers: Numbers, failed: Container[str], key: tuple[str, str], title: str, level: tuple[str, float] | None = None
) -> str:
    """One number of every arm that has it, for each seed and as their mean."""
    rows, means = {}, {}
    for arm, by_seed in numbers.items():
        found = [seen[key] for seen in by_seed.values() if key in seen]
        if found:
            name, mean = f"({arm})" if arm in failed else arm, over_seeds(found)
            rows[name], means[name] = [row.value for row in found], (mean.value, mean.low, mean.high)
    return dots(rows, means, x_label=key[0], title=title, level=level)


def arms_clips(study: Study, plan: Plan, lines: Sequence[Line], clips: int) -> list[str]:
    """Clips of every arm whose generator was judged with its first seed, apart for each data set."""
    shown: dict[str, list[Side]] = {}
    for line in lines:
        judged = line.stages[f"fvd-{line.name}"]
        if line.seed == study.seeds[0] and plan.done(judged):
            shown.setdefault(study.data_of(line.arm), []).append(
                side_of(line, parse(judged.argv[1:], FVDConfig), clips)
            )
    return [
        part for data, sides in shown.items() for part in clip_sections(sides, f", {data}" if len(shown) > 1 else "")
    ]


def side_of(line: Line, judged: FVDConfig, clips: int) -> Side:
    """The row of an arm: the first of the clips that were judged."""
    alike = ("runs_dir", "seed", "device", "dtype", "run", "step", "batch_size")
    sampling = SampleConfig(
        **{name: getattr(judged, name) for name in alike},
        **sampling_of(judged),
        samples=min(clips, judged.samples),
        guidance_scale=judged.guidance_scales[0],
    )
    return Side(line.arm.name, str(line.tokenizer), None, sampling)


def curves_section(outcome: Outcome) -> str:
    """Means over seeds against the generator's step."""
    first = next(iter(next(iter(outcome.curves.values())).values()))
    charts = [
        curve(
            gathered(outcome.curves, name),
            log_y=True,
            x_label="generator step",
            y_label=f"{first['metric']} {words}, mean over seeds",
        )
        for name, words in (("curve", "to real clips"), ("curve_to_reconstructions", "to reconstructions"))
    ]
    return section("Curves", f'<div class="charts">{"".join(charts)}</div>')
