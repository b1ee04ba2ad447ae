"""The page of `eval.ablation`: tables, curves of all arms over each other, and what was run."""

from __future__ import annotations

import html
from pathlib import Path

from eval.arms.plan import Plan
from eval.comparison.page import run_section, table_section
from eval.page.document import bullet_list, page, section
from eval.page.figures import curve
from eval.study.file import Study
from eval.study.outcome import Outcome, gathered
from runtime.files import replacing


def write_page(study: Study, plan: Plan, outcome: Outcome, out: Path) -> None:
    """Write one HTML file."""
    done = sum(plan.done(stage) is not None for stage in plan.stages.values())
    arms = [f"{arm.name}: {arm.title}" for arm in study.arms if arm.title]
    parts = [section("Arms", bullet_list([*arms, *outcome.verdicts]))] if arms or outcome.verdicts else []
    parts += [table_section(table) for table in outcome.tables]
    parts += [curves_section(outcome)] if outcome.curves else []
    parts.append(run_section(plan))
    intro = (
        f"{len(study.arms)} arms with seeds {', '.join(map(str, study.seeds))} on {html.escape(study.data)}; {done} of "
        f"{len(plan.stages)} stages are done. What was not run is empty."
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out, "report") as partial:
        partial.write_text(page(f"Study {study.name}", intro, parts), "utf-8", "xmlcharrefreplace")


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
