"""What is known of the tokenizers of a comparison before anything is run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from eval.decode import file_word
from eval.entries import Entry
from runtime.errors import InputError

if TYPE_CHECKING:
    from tokenizer.spec import TokenizerSpec

MEASURE = "measure"  # word of --speed


@dataclass(frozen=True)
class Speeds:
    """What eval.speed measured of one tokenizer: seconds to encode and decode a clip, and of a training step a clip."""

    clip: float
    step: float

    @property
    def sample_step(self) -> float:
        """Seconds of an Euler step of one sample: a third of training, which goes forward once and back at twice
        that."""
        return self.step / 3


@dataclass(frozen=True)
class Facts:
    """What the plan needs to know of a tokenizer before it is run.

    Attributes:
        entry: Label, name and weights.
        slug: The label in names of files and runs.
        spec: Of its latents.
        shape: Theirs for one clip, C, G, h, w.
        state: Which weights these are, in words that change when the files do.
        speeds: As measured before, or None.
    """

    entry: Entry
    slug: str
    spec: TokenizerSpec
    shape: tuple[int, int, int, int]
    state: str
    speeds: Speeds | None


def plan_folder(config) -> Path:
    """Where a comparison keeps what is not of one run."""
    return Path(config.runs_dir) / config.plan_name


def speed_file(config) -> Path | None:
    """The results of eval.speed that a comparison goes by, there or not; None where none were asked for."""
    return plan_folder(config) / "speed.json" if config.speed == MEASURE else config.speed and Path(config.speed)


def generator_run(config, facts: Facts) -> Path:
    """The run of the generator that learns a tokenizer's latents."""
    return Path(config.runs_dir) / f"{config.plan_name}-{facts.slug}"


def facts_of(config) -> list[Facts]:
    """Every tokenizer, checked.

    Raises:
        InputError: If one is not known, its weights are not here, or it cannot encode clips of this shape.
    """
    from tokenizer.baselines.registry import lies_in_bare_folder
    from tokenizer.zoo import check_known, state_of

    found: list[Facts] = []
    for entry in config.entries:
        check_known(entry.tokenizer, entry.weights)
        if lies_in_bare_folder(entry.tokenizer) and not config.card:  # said before hours of work, and not after them
            raise InputError(
                f"--tokenizers {entry.tokenizer}: its folder needs an __init__.py; code that a generator's run names "
                "is not imported from others, which may have come with the run"
            )
    for entry in config.entries:
        spec = cached_spec(entry)
        try:
            shape = spec.latent_shape(config.num_frames, config.size, config.size)
        except InputError as error:
            raise InputError(f"--tokenizers {entry.label} cannot take part: {error}") from error
        state, speeds = state_of(entry.tokenizer, entry.weights), speeds_of(config, entry.label)
        found.append(Facts(entry, file_word(entry.label), spec, shape, state, speeds))
    if len({facts.slug for facts in found}) < len(found):
        raise InputError(f"--tokenizers {','.join(config.tokenizers)}: labels differ in what no file name can hold")
    return found


@cache
def cached_spec(entry: Entry) -> TokenizerSpec:
    """Of some tokenizers it is known only after they were built, and once is enough."""
    from tokenizer.zoo import spec_of

    return spec_of(entry.tokenizer, entry.weights)


def speeds_of(config, label: str) -> Speeds | None:
    """The speeds of a tokenizer, where clips and generator were those of this comparison; None else.

    Raises:
        InputError: If `--speed` names what is no results file of eval.speed.
    """
    from eval.tables import measured_in

    path = speed_file(config)
    if path is None or (config.speed == MEASURE and not path.is_file()):
        return None
    measured = measured_in(path)
    if measured[0].facts["kind"] != "speed":
        raise InputError(f"--speed {path}: results of {measured[0].facts['kind']}, not of eval.speed")
    facts = measured[0].facts
    alike = {"num_frames": config.num_frames, "size": config.size, "generator": config.preset}
    if any(facts[name] != value for name, value in alike.items()):
        return None
    rows = {row.metric: row.value for each in measured if each.given == label for row in each.rows}
    clip, step = rows.get("ISpeed"), rows.get("TSpeed (from latents)")
    return Speeds(1 / (clip * facts["batch_size"]), 1 / (step * facts["batch_size"])) if clip and step else None


def elements(facts: Facts) -> int:
    """Numbers in the latents of a clip."""
    channels, groups, height, width = facts.shape
    return channels * groups * height * width


def parameters(preset: str, shape: tuple[int, int, int, int]) -> int:
    """Of a generator on latents of a shape; it is not built in memory."""
    from dataclasses import replace

    import torch

    from generator import Latte
    from generator.presets import PRESETS

    axes = dict(zip(("channels", "groups", "height", "width"), shape, strict=True))
    with torch.device("meta"):
        model = Latte(replace(PRESETS[preset].model, **axes))
    return sum(parameter.numel() for parameter in model.parameters())
