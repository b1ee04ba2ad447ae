"""Which of these is the best space to generate in? `python -m eval.compare --tokenizers pvvae=RUN,wan2.2 --data ucf101`

Each tokenizer is taken through the same: encode the data set, train a generator of one size and recipe on the latents,
sample, judge. All of that are ordinary commands in ordinary run directories (`--dry-run` prints them), so the same line
again goes on after any kind of end, and several processes, also on other machines, may share the work: start the same
line once more. It ends with the paper's tables, ours beside the published rows, paired differences to the first
tokenizer, curves, and a page of their clips side by side; `--tables-only` shows at any time what is done.
`--card` alone measures what needs no generator.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from eval.arms.plan import PlanFlags
from eval.entries import OWN, Entry, entries_of, with_commits
from eval.features import FEATURE_CHOICES
from generator.presets import PRESETS
from runtime.command import NOT_IDENTITY, flag, run_command
from runtime.errors import InputError
from runtime.output import check_file
from tokenizer.hub import DownloadFlags

if TYPE_CHECKING:
    from eval.arms.plan import Plan

# What the flags that are left open are.
SYNTHETIC = {"size": 32, "preset": "demo", "train_steps": 1000}
OF_FILES = {"size": 256, "preset": "latte-xl", "train_steps": 250_000}
# Flags that may differ between two calls for the same plan: what they change is run again, or goes on.
_NOT_OF_THE_PLAN = NOT_IDENTITY | {"tokenizers", "weights", "train_steps", "samples", "curve_samples", "steps"}
_NOT_OF_THE_PLAN |= {"guidance_scales", "controls", "reconstruction", "reconstruction_data", "reconstruction_root"}
_NOT_OF_THE_PLAN |= {"reconstruction_sizes", "speed", "card", "processes", "tables_only", "clips", "out"}
_NOT_OF_THE_PLAN |= {"checkpoints", "download"}


@dataclass(frozen=True, kw_only=True)
class CompareConfig(PlanFlags, DownloadFlags):
    """Flags of `python -m eval.compare`."""

    tokenizers: tuple[str, ...] = flag(help="names, runs or folders, by commas; LABEL=NAME, or NAME=random or =FILE")
    weights: tuple[str, ...] = flag((OWN,), f"weight file, 'random' or '{OWN}': one for all tokenizers, or one each")
    data: str = flag("moving_shapes", "data set that generators learn, and are judged by")
    root: str | None = flag(None, "its folder")
    split: str = flag("train", "which part of it", choices=("all", "train", "test"))
    num_frames: int = flag(17, "frames of a clip", low=1, high=4097)
    size: int | None = flag(None, "height and width; default: 256, of moving_shapes 32", low=8, high=8192)
    frame_stride: int | None = flag(None, "source frames between two kept ones; default: 3 for ucf101, else 1", low=1)
    windows: int = flag(1, "random windows of each video", low=1, high=10_000)
    max_clips: int | None = flag(None, "encode only the first so many items; ucf101 is in order of classes", low=2)
    preset: str | None = flag(
        None,
        "of the generators; default: latte-xl, for moving_shapes demo",
        choices=tuple(PRESETS),
    )
    train_steps: int | None = flag(None, "of the generators; default: 250,000, for moving_shapes 1,000", low=1)
    batch_size: int | None = flag(None, "of the generators' training; default: the preset's", low=1, high=65_536)
    encode_batch_size: int = flag(16, "clips in one forward pass of a tokenizer", low=1, high=65_536)
    checkpoints: int = flag(10, "that stay of each generator, and make its curve", low=1, high=1000)
    samples: int = flag(2048, "generated clips, and as many real ones", low=2, high=1_000_000)
    curve_samples: int | None = flag(
        None, "the same at each checkpoint of the curves; 0: none; default: 800, at most --samples", low=0, high=10**6
    )
    steps: int = flag(100, "Euler steps of the sampler", low=1, high=100_000)
    guidance_scales: tuple[float, ...] = flag((1.0,), "guidance scales to judge", low=0.0, high=1000.0)
    features: str = flag("auto", "auto: shapes for moving_shapes, i3d for everything else", choices=FEATURE_CHOICES)
    controls: bool = flag(True, "also measure the controls of each")
    reconstruction: bool = flag(False, "also measure reconstruction: the paper's table 2")
    reconstruction_data: str | None = flag(None, "of these clips; default: --data")
    reconstruction_root: str | None = flag(None, "their folder; default: --root, for the same data")
    reconstruction_sizes: tuple[int, ...] = flag((), "at these sizes; default: --size", low=8, high=8192)
    speed: str | None = flag(
        None, "results of eval.speed, to foretell hours and fill columns; or 'measure': do so first"
    )
    card: bool = flag(False, "only the card of each tokenizer, side by side: no generator")
    clips: int = flag(8, "of each kind on the page", low=1, high=1000)
    out: str | None = flag(None, "page to write; default: compare.html in the plan's folder", check=check_file)

    def __post_init__(self) -> None:
        defaults = SYNTHETIC if self.data.startswith("moving_shapes") else OF_FILES
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.curve_samples is None:
            object.__setattr__(self, "curve_samples", min(800, self.samples))
        _ = self.entries
        if self.curve_samples == 1:
            raise InputError("--curve-samples 1 is too small: the least is 2, or 0 for no curves")

    @property
    def entries(self) -> list[Entry]:
        """The tokenizers, in order; the first is the one that others are compared with."""
        return entries_of(self.tokenizers, self.weights)

    @property
    def plan_name(self) -> str:
        """Of the plan's folder: the same for another choice of tokenizers, which then shares what is done."""
        from runtime.run import default_name

        if self.name:
            return self.name
        fields = {name: value for name, value in asdict(self).items() if name not in _NOT_OF_THE_PLAN}
        return default_name("cards" if self.card else f"compare-{self.preset}", self.data, fields)


def compare(config: CompareConfig) -> Path:
    """Do what is left of the plan, then write tables and page; returns the page's path.

    Raises:
        InputError: If a tokenizer is not known, or cannot encode clips of this shape; before any work.
        SystemExit: With code 1 when arms have failed; what could be done is done and shown.
    """
    from eval.arms.costs import say, summary
    from eval.comparison.outcome import cards_table, outcome_of, write_tables
    from eval.comparison.page import write_cards_page, write_page
    from eval.results.tables import markdown

    config = with_commits(config)
    plan = plan_of(config)
    failed = {} if config.tables_only else run_what_is_left(config, plan)
    out = Path(config.out) if config.out else plan.folder / "compare.html"
    if config.card:
        table = cards_table(config, plan)
        tables = [table]
        write_cards_page(config, plan, table, out)
    else:
        outcome = outcome_of(config, plan)
        tables = outcome.tables
        write_page(config, plan, outcome, out)
    write_tables(plan.folder, tables)
    print(markdown(tables))
    print(f"eval.compare: open {out}; tables: {plan.folder / 'tables.md'}")
    lines = summary(plan, failed)
    say("eval.compare", *lines)
    if lines:
        raise SystemExit(1)
    return out


def run_what_is_left(config: CompareConfig, plan: Plan) -> dict[str, str]:
    """Do what is left; by the name of a stage that failed here, why."""
    from eval.arms.costs import announce
    from eval.arms.engine import work_through
    from eval.arms.plan import Arm, Plan
    from runtime.resources import require_disk

    if "speed" in plan.stages and not plan.done(plan.stages["speed"]):  # by it, the rest can be foretold
        first = Plan(plan.folder, (Arm("speed", config.seed, (plan.stages["speed"],)),))
        if failed := work_through(first, "eval.compare", config.processes):
            return failed
        plan = plan_of(config)
    needed = sum(stage.bytes for stage in plan.stages.values() if not plan.done(stage))
    require_disk(plan.folder, needed, "what is left of this comparison")
    announce("eval.compare", plan)
    if config.card:
        (plan.folder / "cards").mkdir(parents=True, exist_ok=True)
    return work_through(plan, "eval.compare", config.processes)


def show(config: CompareConfig) -> None:
    """Print what would be run, and what it would cost."""
    from eval.arms.costs import show_plan

    show_plan(plan_of(with_commits(replace(config, download=False))), config.processes)


def plan_of(config: CompareConfig) -> Plan:
    """The plan, after every tokenizer was found to fit; nothing is written."""
    from eval.comparison.plan import card_plan, generator_plan

    return card_plan(config) if config.card else generator_plan(config)


if __name__ == "__main__":
    run_command(
        compare,
        CompareConfig,
        show=show,
        example="python -m eval.compare --tokenizers pvvae=runs/my-vae,wan2.2 --data ucf101 --root UCF-101",
    )
