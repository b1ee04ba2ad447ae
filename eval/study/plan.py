"""The plan of a study: for every arm and seed the stages of a tokenizer, a generator on its latents, and judgement."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.arms.plan import Arm, Plan, Stage
from eval.decode import file_word
from eval.probe import TASKS, ProbeConfig, out_of
from eval.study.file import IMAGES, ArmSpec, Study, words_of
from runtime.command import parse
from runtime.errors import InputError
from runtime.records import is_number


@dataclass(frozen=True)
class Line:
    """One arm with one seed: its name in files, its stages by name, and where its tokenizer and generator are."""

    arm: ArmSpec
    seed: int
    name: str
    stages: dict[str, Stage]
    tokenizer: Path
    generator: Path


def plan_folder(config, study: Study) -> Path:
    """Where a study keeps what is not of one run."""
    return Path(config.runs_dir) / (config.name or study.name)


def lines_of(config, study: Study) -> list[Line]:
    """All arms with all seeds; seed by seed, so that a study that ends early has whole seeds."""
    return [Maker(config, study, seed).line(arm) for seed in study.seeds for arm in study.arms]


def plan_of(config, study: Study) -> Plan:
    """The plan, whose every command line has been checked.

    Raises:
        InputError: If a flag of the file is wrong: which arm, and what the command would say.
    """
    arms = []
    for line in lines_of(config, study):
        for stage in line.stages.values():
            flags_of(stage, f"arm {line.arm.name}, stage {stage.kind}")
        arms.append(Arm(f"{line.arm.name}, seed {line.seed}", line.seed, tuple(line.stages.values())))
    return Plan(plan_folder(config, study), tuple(arms))


def check_inputs(plan: Plan, lines: Sequence[Line], study: Study) -> None:
    """Open what stages that are left need and no stage makes: data sets, and the networks of judges.

    Raises:
        InputError: Which stage it is that could not work, and why; what its command would say after hours of others.
    """
    checked = set()
    for line in lines:
        for stage in line.stages.values():
            if plan.done(stage):
                continue
            for check, *what in inputs_of(stage, study.data_of(line.arm), study.root):
                if (check, *what) in checked:
                    continue
                checked.add((check, *what))
                try:
                    check(*what)
                except InputError as error:
                    raise InputError(f"arm {line.arm.name}, stage {stage.kind}: {error}") from error


def inputs_of(stage: Stage, data: str, root: str | None) -> list[tuple]:
    """Functions that open what a stage needs, each with what it takes.

    Args:
        data, root: What the arm's generator learns.
    """
    from eval.clip_sets import load_chosen
    from eval.probes.clips import open_split
    from eval.protocols.presets import PAPER
    from runtime.published_weights import find_weights
    from videos import ClipSpec, open_dataset

    def own_root(name: str) -> str | None:
        return root if name == data else None  # which commands find in the run of a tokenizer or generator

    config, one_frame = flags_of(stage, stage.kind), ClipSpec(num_frames=1)
    if stage.kind == "probe":
        asked = [(task, config.of_task("data", task) or data, config.of_task("root", task)) for task in config.task]
        return [(open_split, task, of, where or own_root(of), "test", one_frame) for task, of, where in asked]
    if stage.kind in ("fvd", "convergence"):
        plain = getattr(config, "protocols", (PAPER.name,)) == (PAPER.name,)  # others choose networks themselves
        return [(load_chosen, config.features, data, "cpu")] if plain else []
    found = []
    if getattr(config, "data", None):
        clip = ClipSpec(num_frames=getattr(config, "num_frames", None) or 1)
        split = getattr(config, "split", "train")
        found.append((open_dataset, config.data, config.root or own_root(config.data), split, clip))
    if getattr(config, "images", None):
        found.append((open_dataset, config.images, config.images_root, "train", one_frame))
    if getattr(config, "lpips_weight", 0.0):
        found += [(find_weights, "vgg16")]
    return found


def flags_of(stage: Stage, source: str):
    """The flags of a stage's command; what it would refuse of them is refused before anything is started."""
    command, *words = stage.argv
    module = importlib.import_module(command)
    (config_class,) = (c for name, c in vars(module).items() if name.endswith("Config") and c.__module__ == command)
    try:
        config = parse(words, config_class, getattr(module, "preset_defaults", None))
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    if config.dry_run:
        raise InputError(f"{source}: --dry-run is no flag of a study's file; give it to eval.ablation")
    return config


class Maker:
    """Makes the stages of one seed."""

    def __init__(self, config, study: Study, seed: int):
        self.config, self.study, self.seed = config, study, seed
        self.prefix = config.name or study.name

    def line(self, arm: ArmSpec) -> Line:
        """Everything of one arm."""
        folder = plan_folder(self.config, self.study)
        stages, tokenizer, last = self.tokenizer(arm)
        source, learner = self.source(arm), self.learner(arm)
        owner, learned, needed = self.name(source), self.name(learner), last
        _, encoder, wanted = self.tokenizer(source)
        latents = folder / "latents" / f"{owner}.h5"
        run = Path(self.config.runs_dir) / f"{self.prefix}-{learned}-generator"
        flags = learner.generator or {}
        found = {stage.name: stage for stage in stages}
        for stage in (
            self.made(
                "encode",
                owner,
                "tokenizer.encode",
                ["--tokenizer", encoder, *self.data(source), "--out", latents],
                needs=(wanted,),
                results=(latents,),
                work=self.flag("tokenizer.encode", "max-clips", 1),
            ),
            self.made(
                "generator",
                learned,
                "generator.train",
                ["--latents", latents, "--name", run.name],
                flags=flags,
                needs=(f"encode-{owner}",),
                results=(run / "checkpoints",),
                work=number_of(self.study.flags["generator.train"] | flags, "steps", 1),
            ),
        ):
            found[stage.name] = stage
        name = self.name(arm)
        out = folder / "results" / f"fvd-{name}.json"
        decoder = [] if tokenizer == encoder else ["--tokenizer", tokenizer]
        judged = self.made(
            "fvd",
            name,
            "eval.fvd",
            ["--run", run, *decoder, "--out", out],
            needs=tuple(dict.fromkeys((f"generator-{learned}", needed))),
            results=(out,),
            work=self.flag("eval.fvd", "samples", 2048),
        )
        found[judged.name] = judged
        for stage in self.measured(arm, tokenizer, run, needed, decoder):
            found[stage.name] = stage
        found |= {stage.name: stage for stage in self.differences(arm)}
        return Line(arm, self.seed, name, found, tokenizer, run)

    def source(self, arm: ArmSpec) -> ArmSpec:
        """The arm that an arm has its encoder of, and so its latents."""
        return self.first_with(arm, "video")

    def learner(self, arm: ArmSpec) -> ArmSpec:
        """The arm that an arm has its generator of."""
        return self.first_with(arm, "video", "generator")

    def owner(self, arm: ArmSpec) -> ArmSpec:
        """The arm that an arm has its tokenizer of."""
        return self.first_with(arm, "video", "decoder")

    def first_with(self, arm: ArmSpec, *parts: str) -> ArmSpec:
        """Of an arm and those that it goes on from, the last one that trained one of these for itself."""
        while arm.start != IMAGES and all(getattr(arm, part) is None for part in parts):
            arm = self.study.arm(arm.start)
        return arm

    def tokenizer(self, arm: ArmSpec) -> tuple[list[Stage], Path, str]:
        """Stages of an arm's tokenizer, the run that it ends in, and the name of its last stage."""
        if arm.start == IMAGES:
            # Arms with the same flags for pictures have the same ones.
            own = f"-{file_word(arm.name)}" if arm.train else ""
            stage, run = self.trained(IMAGES, f"{self.study.data_of(arm)}{own}-s{self.seed}", arm, arm.train, None, ())
            stages = [stage]
        else:
            stages, run, _ = self.tokenizer(self.study.arm(arm.start))
        for name, flags in (("video", arm.video), ("decoder", arm.decoder)):
            if flags is not None:
                more = arm.train | flags
                stage, run = self.trained(name, self.name(arm), arm, more, run, (stages[-1].name,))
                stages.append(stage)
        return stages, run, stages[-1].name

    def trained(self, kind: str, name: str, arm: ArmSpec, own: dict, start: Path | None, needs: tuple[str, ...]):
        """One stage of a tokenizer, and its run."""
        run = Path(self.config.runs_dir) / f"{self.prefix}-{name}-{kind}"
        flags = {**self.study.flags.get(f"tokenizer.{kind}", {}), **own}
        words = ["--stage", kind, "--name", run.name, *self.data(arm)]
        words += ["--init-from", start] if start else []
        stage = self.made(
            kind,
            name,
            "tokenizer.train",
            words,
            flags=flags,
            needs=needs,
            results=(run / "checkpoints",),
            work=number_of(flags, "steps", 1),
            begins=start and (run, start),
        )
        return stage, run

    def measured(self, arm: ArmSpec, tokenizer: Path, run: Path, last: str, decoder: list) -> list[Stage]:
        """What the file asks for beside the distance."""
        study, found, name = self.study, [], self.name(arm)
        results = plan_folder(self.config, study) / "results"
        if study.asks("eval.convergence", arm):
            out = results / f"convergence-{name}.json"
            words = ["--runs", run, *decoder, "--out", out]
            needs = (f"fvd-{name}",)
            found.append(self.made("convergence", name, "eval.convergence", words, needs=needs, results=(out,)))
        if "eval.reconstruction" in study.flags:
            whose = self.name(self.owner(arm))
            out = results / f"reconstruction-{whose}.json"
            words = ["--tokenizer", tokenizer, "--out", out]
            words += [] if "data" in study.flags["eval.reconstruction"] else self.data(arm)
            needs = (last,)
            found.append(self.made("reconstruction", whose, "eval.reconstruction", words, needs=needs, results=(out,)))
        if study.asks("eval.latents", arm) and self.source(arm) is arm:
            out = results / f"latents-{name}.html"
            words = ["--tokenizer", tokenizer, *self.data(arm), "--out", out]
            found.append(self.made("latents", name, "eval.latents", words, needs=(last,), results=(out,)))
        if study.asks("eval.probe", arm) and self.learner(arm) is arm:
            out, tasks = results / f"probe-{name}.json", self.tasks()
            outs = tuple(out_of(out, task, tasks) for task in tasks)
            words, needs = ["--run", run, "--out", out], (f"generator-{name}",)
            found.append(self.made("probe", name, "eval.probe", words, needs=needs, results=outs, work=len(tasks)))
        return found

    def tasks(self) -> tuple[str, ...]:
        """What probes are asked; all where a flag is wrong, which the command refuses."""
        try:
            return parse(words_of(self.study.flags["eval.probe"]), ProbeConfig).task
        except InputError:
            return TASKS

    def differences(self, arm: ArmSpec) -> list[Stage]:
        """To the arm that it is compared with, of this seed: the same clips and the same noise."""
        study, found, other = self.study, [], self.study.against(arm)
        if other is None:
            return found
        results = plan_folder(self.config, study) / "results"
        ours, both = self.name(arm), (arm, other)
        kinds = [("fvd", None, both)]
        if "eval.reconstruction" in study.flags and self.owner(arm) is not self.owner(other):
            kinds.append(("reconstruction", None, tuple(map(self.owner, both))))
        if all(study.asks("eval.probe", one) and self.learner(one) is one for one in both):
            kinds += [("probe", task, both) for task in self.tasks()]
        for stage, task, sides in kinds:
            needs = tuple(f"{stage}-{self.name(one)}" for one in sides)
            a, b = (results / f"{need}.json" for need in needs)
            a, b = (out_of(out, task, self.tasks()) if task else out for out in (a, b))
            kind = f"{stage}-{task}" if task else stage
            out = results / f"difference-{kind}-{ours}.json"
            words = ["--a", a, "--b", b, "--out", out]
            found.append(
                self.made("difference", f"{kind}-{ours}", "eval.difference", words, needs=needs, results=(out,))
            )
        return found

    def name(self, arm: ArmSpec) -> str:
        """Of an arm's files and stages."""
        return f"{file_word(arm.name)}-s{self.seed}"

    def data(self, arm: ArmSpec) -> list[str]:
        """The flags that name an arm's data set."""
        return ["--data", self.study.data_of(arm), *(["--root", self.study.root] if self.study.root else [])]

    def flag(self, command: str, name: str, default: float) -> float:
        """A number among a command's flags."""
        return number_of(self.study.flags.get(command, {}), name, default)

    def made(self, kind: str, name: str, command: str, words: list, *, flags: dict | None = None, **about) -> Stage:
        """A stage of a command with these words, its flags of the file, and those that all have in common."""
        config = self.config
        given = {**self.study.flags.get(command, {}), **(flags or {})}
        common = ["--runs-dir", config.runs_dir, "--seed", self.seed, "--device", config.device]
        common += [] if "dtype" in given else ["--dtype", config.dtype]
        argv = (command, *(str(word) for word in [*words, *words_of(given), *common]))
        rate, work = self.study.seconds.get(kind), about.pop("work", 1.0)
        seconds = None if rate is None else rate * work
        return Stage(name=f"{kind}-{name}", kind=kind, argv=argv, work=work, seconds=seconds, **about)


def number_of(flags: dict, name: str, default: float) -> float:
    """A number among flags; the default where it is absent, or no number, which the command will say."""
    value = flags.get(name, flags.get(name.replace("-", "_"), default))
    return float(value if is_number(value) and math.isfinite(value) else default)
