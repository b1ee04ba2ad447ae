"""docs/tokenizer.md: its examples run, its commands have their flags, its table is the computed one."""

import dataclasses
import importlib
import re
import shlex
from pathlib import Path

import pytest

from runtime.command import CommonFlags, help_text, parse
from tokenizer.presets import PRESETS
from tokenizer.stages import bucket_batches
from tokenizer.train import TrainConfig

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "tokenizer.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines()]


def parsed(line: str) -> CommonFlags:
    """The flags of a line `… -m package.verb --flag value`."""
    name, *words = shlex.split(line.split(" -m ", 1)[1])
    module = importlib.import_module(name)
    (config,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, CommonFlags)
        and value.__module__ == name
        and value.__name__.endswith("Config")
    )
    return parse(words, config, getattr(module, "preset_defaults", None))


def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    assert len(blocks("python")) > 4
    for block in blocks("python"):
        exec(compile(block, "docs/tokenizer.md", "exec"), names)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_has_its_flags(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = parsed(line)
    if isinstance(config, TrainConfig):
        processes = int(re.search(r"--nproc-per-node (\d+)", line).group(1))
        assert config.preset == "paper" and config.gan_weight > 0
        sizes, per_clip = config.clip_sizes, 1
        if config.stage == "images":
            sizes, per_clip = config.image_sizes, config.images_per_clip
        assert bucket_batches(config.batch_size, sizes, per_clip=per_clip, parts=processes)


def test_every_flag_of_training_is_named():
    named = set(re.findall(r"--([a-z][a-z-]+)", TEXT))
    flags = {field.name.replace("_", "-") for field in dataclasses.fields(TrainConfig)}
    assert flags - named - {"device", "dry-run"} == set()


def test_every_preset_is_named_by_help_and_spatial_weights_by_the_page():
    words = help_text(TrainConfig, "")
    assert [name for name in PRESETS if not re.search(rf"\b{name}\b[^-]", words)] == []
    weights = {name: PRESETS[name].training["spatial_weight"] for name in ("demo", "small")}
    assert f"(preset demo: {weights['demo']:g}, small: {weights['small']:g})" in TEXT


def test_the_memory_tables_are_the_computed_ones():
    tokenizers, _, generators = (ROOT / "benchmarks/results/paper-memory.md").read_text().partition("\nGenerators, ")
    assert tokenizers.strip() in TEXT
    scaling = (ROOT / "docs" / "scaling.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in generators.splitlines() if line.startswith("| latte-")]
    assert len(rows) == 12
    for preset, _, weights, gradients, adamw, averages, activations, total in rows:
        (line,) = (line for line in scaling.splitlines() if line.startswith(f"| {preset} | "))
        state = sum(map(float, (weights, gradients, adamw, averages)))
        assert re.search(rf"{activations} \+ [0-9.]+ = (\*\*)?{total}", line), (preset, activations, total)
        assert abs(float(line.split(" | ")[1]) - state) < 0.2, (preset, state)
