"""A study as a TOML file: seeds, arms, and the flags of every command.

data = "moving_shapes"                  # root = "DIR" where it has one
seeds = [0, 1, 2]
first = "A"                             # the arm that others are compared with; default: the first one

[tokenizer.train]                       # flags of commands, for all arms alike; of training, for all stages
preset = "demo"
[tokenizer.images]                      # flags of one stage: images, video, decoder
steps = 700
[eval.probe]                            # eval.convergence, eval.latents and eval.probe may be for some arms only
arms = ["A", "C"]

[[arm]]
name = "A"
video = { max-drop-ratio = 0.0 }        # flags of its own; without `video` or `decoder`, it has no such stage
line = { components = "baseline" }      # where it stands in the published tables
[[arm]]
name = "D"
start = "C"                             # goes on from that arm's tokenizer; default: from the images of its seed
decoder = {}
[[arm]]
name = "A-longer"
start = "A"                             # that tokenizer, with a generator of its own
generator = { steps = 4000 }

[[hypothesis]]                          # what is claimed of the arms, judged by rules: eval/study/hypotheses.py
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from eval.study.hypotheses import Hypothesis, arms_of, read_hypothesis
from runtime.errors import InputError
from runtime.output import check_name
from runtime.records import check_fields, from_record, plain

IMAGES = "images"
STAGES = (IMAGES, "video", "decoder")
# Tables of flags: name in the file, and whether every study has it.
COMMANDS = {
    "tokenizer.train": True,
    **{f"tokenizer.{stage}": stage == IMAGES for stage in STAGES},
    "tokenizer.encode": False,
    "generator.train": True,
    "eval.fvd": True,
    "eval.convergence": False,
    "eval.reconstruction": False,
    "eval.latents": False,
    "eval.probe": False,
}
# Those that may be asked for of some arms only; reconstructions are what the gate looks at.
OF_SOME = ("eval.convergence", "eval.latents", "eval.probe")
_HEAD = {"data": str, "seeds": list[int]}
_MORE = {"root": str, "first": str, "gate": dict, "seconds": dict, "arm": list[dict], "hypothesis": list[dict]}
GATES = ("change explained", "accuracy-shape")
# Kinds of stages, as [seconds] names them.
KINDS = (*STAGES, "encode", "generator", "fvd", "convergence", "reconstruction", "latents", "probe", "difference")


@dataclass(frozen=True, kw_only=True)
class ArmSpec:
    """One arm, for every seed.

    Attributes:
        name: Unique.
        title: What it is, in words.
        data: Data set of it all; "": the study's.
        start: The arm whose tokenizer it goes on from; "images": the images stage of its seed.
        video, decoder: Flags of its own for these stages; None: it has no such stage.
        generator: Flags of its own for the generator; None: those of all arms, or, without a video stage, the generator
            of the arm that it starts from.
        train: Flags of its own for all stages, that of images too, which it then does not share with others.
        against: The arm that it is compared with; "": the study's first, where the data are the same.
        line: Name of a published table -> the line that it repeats.
    """

    name: str
    title: str = ""
    data: str = ""
    start: str = IMAGES
    video: dict | None = None
    decoder: dict | None = None
    generator: dict | None = None
    train: dict = field(default_factory=dict)
    against: str = ""
    line: dict = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Study:
    """A file's content.

    Attributes:
        flags: By command, or "tokenizer.<stage>", the flags of all arms.
        only: By command, the arms that it is asked for of, where it is not asked for of all.
        gate: By metric, what an arm must reach for its distances to count.
        seconds: By kind of stage, how long a unit of work takes, where that was measured.
        hypotheses: What is claimed of the arms.
    """

    name: str
    data: str
    root: str | None
    seeds: tuple[int, ...]
    first: str
    arms: tuple[ArmSpec, ...]
    flags: dict[str, dict]
    only: dict[str, tuple[str, ...]]
    gate: dict[str, float]
    seconds: dict[str, float]
    hypotheses: tuple[Hypothesis, ...]

    def arm(self, name: str) -> ArmSpec:
        """The arm of a name."""
        return next(arm for arm in self.arms if arm.name == name)

    def data_of(self, arm: ArmSpec) -> str:
        """The data set of an arm."""
        return arm.data or self.data

    def asks(self, command: str, arm: ArmSpec) -> bool:
        """Whether an arm is to be measured by a command."""
        return command in self.flags and arm.name in self.only.get(command, (arm.name,))

    def against(self, arm: ArmSpec) -> ArmSpec | None:
        """The arm that one is compared with; None for one that is the measure itself."""
        other = self.arm(arm.against or self.first)
        return None if other is arm or self.data_of(other) != self.data_of(arm) else other


def read_study(path: str | Path) -> Study:
    """Read and check a study.

    Raises:
        InputError: In one line that names the file and what is wrong in it.
    """
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--plan {path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    try:
        record = plain(tomllib.loads(text))
    except (ValueError, RecursionError) as error:  # among them numbers of thousands of digits
        raise InputError(f"--plan {path}: not readable as TOML ({error})") from error
    check_fields(record, _HEAD, path)
    check_fields(record, _MORE, path, needed=False)
    flags, only = _flags(record, path)
    known = {*_HEAD, *_MORE, *(name.partition(".")[0] for name in COMMANDS)}
    if unknown := sorted(set(record) - known):
        raise InputError(f"{path}: {unknown[0]} is not known; a study has {', '.join(sorted(known))}")
    arms = tuple(_arm(found, f"{path}, arm {number}") for number, found in enumerate(record.get("arm", []), 1))
    if not arms or not record["seeds"] or min(record["seeds"]) < 0 or len(set(record["seeds"])) < len(record["seeds"]):
        raise InputError(f"{path}: a study has one or more arms, and one or more different seeds")
    numbers = {name: _numbers(record.get(name, {}), f"{path}, {name}") for name in ("gate", "seconds")}
    for name, known in (("gate", GATES), ("seconds", KINDS)):
        if unknown := sorted(set(numbers[name]) - {*known}):
            raise InputError(f"{path}, {name}: {unknown[0]} is not known; known: {', '.join(known)}")
    study = Study(
        name=Path(path).stem,
        data=record["data"],
        root=record.get("root"),
        seeds=tuple(record["seeds"]),
        first=record.get("first", arms[0].name),
        arms=arms,
        flags=flags,
        only=only,
        gate=numbers["gate"],
        seconds=numbers["seconds"],
        hypotheses=tuple(
            read_hypothesis(found, f"{path}, hypothesis {number}")
            for number, found in enumerate(record.get("hypothesis", []), 1)
        ),
    )
    _check_arms(study, path)
    return study


def _flags(record: dict, path) -> tuple[dict[str, dict], dict[str, tuple[str, ...]]]:
    """The tables of flags, by command, and the arms of those that are for some arms only."""
    found, only = {}, {}
    for package in ("tokenizer", "generator", "eval"):
        check_fields(record, {package: dict}, path, needed=False)
        for verb, flags in record.get(package, {}).items():
            name = f"{package}.{verb}"
            if name not in COMMANDS or not isinstance(flags, dict):
                raise InputError(f"{path}: [{name}] is not known; known: {', '.join(COMMANDS)}")
            if name in OF_SOME and "arms" in flags:
                check_fields(flags, {"arms": list[str]}, f"{path}, {name}")
                only[name] = tuple(flags["arms"])
            found[name] = {key: value for key, value in flags.items() if name not in only or key != "arms"}
    absent = [name for name, is_needed in COMMANDS.items() if is_needed and name not in found]
    if absent:
        raise InputError(f"{path}: [{absent[0]}] is missing")
    return found, only


def _arm(record: dict, source: str) -> ArmSpec:
    arm = from_record(ArmSpec, record, source)
    check_name(f"{source}: name", arm.name)
    return arm


def _numbers(record: dict, source: str) -> dict[str, float]:
    check_fields(record, dict.fromkeys(record, float), source)
    for name, value in record.items():
        if not 0 <= value < math.inf:
            raise InputError(f"{source}: {name} is {value}, expected a number of at least 0")
    return {name: float(value) for name, value in record.items()}


def _check_arms(study: Study, path) -> None:
    """Names are there, once, and in an order in which arms come after those that they start from."""
    from eval.results.published import TABLES
    from videos.datasets import DATASETS

    seen: dict[str, ArmSpec] = {}
    for arm in study.arms:
        source = f"{path}, arm {arm.name}"
        if arm.name in seen or arm.name == IMAGES:
            raise InputError(f"{source}: another one is called so")
        if study.data_of(arm) not in DATASETS:
            raise InputError(f"{source}: data {study.data_of(arm)!r} is not known; known: {', '.join(DATASETS)}")
        if not study.root and not study.data_of(arm).startswith("moving_shapes"):
            raise InputError(f"{source}: data {study.data_of(arm)!r} needs root, the folder that holds it")
        if arm.start != IMAGES and arm.start not in seen:
            raise InputError(f"{source}: it starts from {arm.start!r}, which is no arm before it")
        if arm.start != IMAGES and study.data_of(seen[arm.start]) != study.data_of(arm):
            raise InputError(f"{source}: it starts from {arm.start!r}, which has other data")
        if arm.start != IMAGES and arm.train:
            raise InputError(f"{source}: flags of all stages are for arms that start from images")
        if arm.start != IMAGES and (arm.video, arm.decoder, arm.generator) == (None, None, None):
            raise InputError(f"{source}: it has no video, decoder or generator, so that it is {arm.start!r} itself")
        for table, line in arm.line.items():
            lines = [found.name for found in TABLES[table].lines] if table in TABLES else []
            if line not in lines:
                words = f"lines of {table}: {', '.join(lines)}" if lines else f"tables: {', '.join(TABLES)}"
                raise InputError(f"{source}: line {table} = {line!r} is not published; {words}")
        seen[arm.name] = arm
    for name in (study.first, *(arm.against for arm in study.arms if arm.against)):
        if name not in seen:
            raise InputError(f"{path}: there is no arm {name!r} to compare with")
    for command, names in study.only.items():
        if unknown := sorted(set(names) - seen.keys()):
            raise InputError(f"{path}, {command}: there is no arm {unknown[0]!r}")
    for hypothesis in study.hypotheses:
        if unknown := [name for name in arms_of(hypothesis) if name not in seen]:
            raise InputError(f"{path}, hypothesis {hypothesis.name}: there is no arm {unknown[0]!r}")
        for names in (hypothesis.nearer, hypothesis.order, hypothesis.faster, hypothesis.control):
            if len({study.data_of(seen[name]) for name in names}) > 1:
                raise InputError(f"{path}, hypothesis {hypothesis.name}: {', '.join(names)} have different data")
        if lost := [name for name in hypothesis.faster if not study.asks("eval.convergence", seen[name])]:
            raise InputError(f"{path}, hypothesis {hypothesis.name}: eval.convergence is not asked for of {lost[0]!r}")
    names = [hypothesis.name for hypothesis in study.hypotheses]
    if len(set(names)) < len(names):
        raise InputError(f"{path}: two hypotheses have the same name")
    for number, arm in enumerate(study.arms):
        other = study.against(arm)
        if arm.against and study.data_of(study.arm(arm.against)) != study.data_of(arm):
            raise InputError(f"{path}, arm {arm.name}: it is compared with {arm.against!r}, which has other data")
        if other is not None and other not in study.arms[:number]:
            raise InputError(f"{path}, arm {arm.name}: it is compared with {other.name!r}, which has to come before it")


def words_of(flags: dict) -> list[str]:
    """Flags of a file as words of a command line."""
    words = []
    for name, value in flags.items():
        dashed = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{'' if value else 'no-'}{dashed}")
        else:
            words += [f"--{dashed}", ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return words
