"""Which part of the method helps? `python -m eval.ablation --plan studies/small.toml`

A study is a file: arms, seeds, and the flags of every command (`eval/study/file.py` says what it holds). Every arm is
ordinary commands in ordinary run directories that share what they have in common, as the images stage of a seed.
`--dry-run` prints them. The same line again goes on after any kind of end, and several processes, also on other
machines, may share the work: start the same line once more. It ends with the paper's tables, ours below the published
lines, paired differences over seeds and clips, curves over each other, and a page. What was not run is empty;
`--tables-only` shows at any time what is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eval.arms.plan import PlanFlags
from runtime.command import flag, run_command
from runtime.errors import InputError
from runtime.output import check_file

if TYPE_CHECKING:
    from eval.study.file import Study


@dataclass(frozen=True, kw_only=True)
class AblationConfig(PlanFlags):
    """Flags of `python -m eval.ablation`."""

    plan: str = flag(help="file of the study (TOML)")
    arms: tuple[str, ...] = flag((), "only these arms, by commas, and those that they start from; default: all")
    seeds: tuple[int, ...] = flag((), "only these seeds; default: those of the file", low=0)
    clips: int = flag(6, "of each kind on the page, for each arm with its first seed; 0: none", low=0, high=1000)
    out: str | None = flag(None, "page to write; default: study.html in the plan's folder", check=check_file)


def ablation(config: AblationConfig) -> Path:
    """Do what is left of the study, then write tables and page; returns the page's path.

    Raises:
        InputError: If the file, or a flag in it, is wrong, or data or the judge are not here; before any work.
        SystemExit: With code 1 when arms have failed; what could be done is done and shown.
    """
    from eval.arms.costs import announce, say, summary
    from eval.arms.engine import work_through
    from eval.comparison.outcome import write_tables
    from eval.results.tables import markdown
    from eval.study.file import read_study
    from eval.study.outcome import outcome_of
    from eval.study.page import write_page
    from eval.study.plan import check_inputs, lines_of, plan_of

    whole = read_study(config.plan)
    study = chosen(config, whole)
    plan = plan_of(config, study)
    announce("eval.ablation", plan)
    # Of the whole study, also what another call has done of it; a flag that is wrong there is found before any work.
    whole_plan, lines = plan_of(config, whole), lines_of(config, whole)
    failed = {}
    if not config.tables_only:
        check_inputs(plan, lines_of(config, study), study)
        failed = work_through(plan, "eval.ablation", config.processes)
    outcome = outcome_of(whole, whole_plan, lines)
    write_tables(plan.folder, outcome.tables)
    out = Path(config.out) if config.out else plan.folder / "study.html"
    write_page(whole, whole_plan, lines, outcome, out, config.clips)
    print(markdown(outcome.tables))
    print(f"eval.ablation: open {out}; tables: {plan.folder / 'tables.md'}")
    words = summary(plan, failed)
    say("eval.ablation", *outcome.verdicts, *words)
    if words:
        raise SystemExit(1)
    return out


def show(config: AblationConfig) -> None:
    """Print what would be run, and what it would cost."""
    from eval.arms.costs import show_plan
    from eval.study.file import read_study
    from eval.study.plan import plan_of

    show_plan(plan_of(config, chosen(config, read_study(config.plan))), config.processes)


def chosen(config: AblationConfig, study: Study) -> Study:
    """The arms and seeds that were asked for, with the arms that these need.

    Raises:
        InputError: If there is no such arm or seed.
    """
    from dataclasses import replace

    names = [arm.name for arm in study.arms]
    for name, given, known in (("--arms", config.arms, names), ("--seeds", config.seeds, study.seeds)):
        if absent := [str(value) for value in given if value not in known]:
            raise InputError(f"{name} {absent[0]} is not in {config.plan}; it has {', '.join(map(str, known))}")
    wanted = set(config.arms or names)
    for arm in reversed(study.arms):  # arms come after those that they need
        if arm.name in wanted:
            against = study.against(arm)
            wanted |= {arm.start, *([against.name] if against else [])}
    arms = tuple(arm for arm in study.arms if arm.name in wanted)
    first = study.first if study.first in wanted else arms[0].name
    return replace(study, arms=arms, seeds=config.seeds or study.seeds, first=first)


if __name__ == "__main__":
    run_command(ablation, AblationConfig, show=show, example="python -m eval.ablation --plan studies/small.toml")
