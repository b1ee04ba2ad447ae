"""What a plan will cost in hours and bytes, as far as anything was measured, and what of it is left."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence

from eval.arms.plan import Done, Plan, Stage, needing
from runtime.log import clock
from runtime.resources import readable


def expected(stage: Stage, finished: Iterable[tuple[Stage, Done]]) -> float | None:
    """Seconds that a stage should take: by speeds measured before, corrected by how those held for finished stages of
    its kind; else as these took for their work; None where neither is known."""
    same = [(other, done) for other, done in finished if other.kind == stage.kind and done.in_one_go]
    if stage.seconds is not None:
        told = [(other.seconds, done.seconds) for other, done in same if other.seconds]
        return stage.seconds * (sum(took for _, took in told) / sum(said for said, _ in told) if told else 1.0)
    work = sum(done.work for _, done in same)
    return stage.work * sum(done.seconds for _, done in same) / work if work else None


def left_words(plan: Plan) -> str:
    """How much of a plan is done, and how long the rest should take by as many processes as are at work on it now."""
    finished = [(stage, done) for stage in plan.stages.values() if (done := plan.done(stage))]
    over = {stage.name for stage, _ in finished}
    left = [stage for name, stage in plan.stages.items() if name not in over]
    times = [expected(stage, finished) for stage in left]
    known = [seconds for seconds in times if seconds is not None]
    workers = max(1, sum(map(plan.held, left)))
    words = f"{len(finished)} of {len(plan.stages)} stages done"
    if known:
        words += f", {'at least ' if len(known) < len(times) else 'about '}{clock(sum(known) / workers)} left"
        words += f" with {workers} at work" if workers > 1 else ""
    if len(known) < len(times):
        words += f", {len(times) - len(known)} of kinds that were not measured yet"
    return words


def cost_lines(plan: Plan) -> list[str]:
    """One line an arm, and one for all: hours and room that what is left of it will take. What arms share counts for
    the first."""
    finished = [(stage, done) for stage in plan.stages.values() if (done := plan.done(stage))]
    over = {stage.name for stage, _ in finished}
    seen, lines, every = set(over), [], []
    for arm in plan.arms:
        left = [stage for stage in arm.stages if stage.name not in seen]
        seen |= {stage.name for stage in left}
        every += left
        number = sum(stage.name in over for stage in arm.stages)
        lines.append(f"{arm.name}: {_cost(left, finished)}; {number} of {len(arm.stages)} stages done")
    return [*lines, f"in all: {_cost(every, finished)}"]


def _cost(stages: Sequence[Stage], finished: Sequence[tuple[Stage, Done]]) -> str:
    times = {stage.name: expected(stage, finished) for stage in stages}
    known = [seconds for seconds in times.values() if seconds is not None]
    unknown = sorted({stage.kind for stage in stages if times[stage.name] is None})
    hours = f"{sum(known) / 3600:.3g} hours" if known else ""
    if unknown:
        hours = f"{hours} and what {', '.join(unknown)} take, which is unknown" if known else "hours unknown"
    room = sum(stage.bytes for stage in stages)
    return (hours or "0 hours") + (f", {readable(room)} on disk" if room else "")


def show_plan(plan: Plan, processes: int) -> None:
    """Print what would be run, each on so many processes, and what it would cost."""
    for arm in plan.arms:
        print(f"# {arm.name}")
        for stage in arm.stages:
            print(shlex.join(["python", *stage.words(processes)]))
    print("\n".join(f"# {line}" for line in cost_lines(plan)))


def announce(label: str, plan: Plan) -> None:
    """Tell on stderr how large a plan is, and what is left of it."""
    say(label, f"{len(plan.arms)} arms, {len(plan.stages)} stages, in {plan.folder}", *cost_lines(plan))


def say(label: str, *lines: str) -> None:
    """Tell on stderr; `label` is the command that speaks."""
    for line in lines:
        print(f"{label}: {line}", file=sys.stderr, flush=True)


def summary(plan: Plan, failed: Mapping[str, str]) -> list[str]:
    """One line for each arm that could not be finished: which of its stages failed, and why."""
    lost, lines = needing(plan.stages, list(failed)), []
    for arm in plan.arms:
        own = [stage.name for stage in arm.stages if stage.name in failed]
        if own:
            lines.append(f"arm {arm.name} ended early: {'; '.join(f'{name}: {failed[name]}' for name in own)}")
        elif any(stage.name in lost for stage in arm.stages):
            needed = next(name for stage in arm.stages for name in stage.needs if name in lost)
            lines.append(f"arm {arm.name} ended early: it needs {needed}")
    return lines
