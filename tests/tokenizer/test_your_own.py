"""docs/your-own.md, tried as a new user would: its code runs, its class goes through its commands."""

import os
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch

from eval.card import CardConfig, card
from eval.compare import CompareConfig, compare
from eval.latents import LatentsConfig, latents
from eval.results.rows import read_results
from runtime.command import parse
from runtime.errors import InputError
from tokenizer import load
from tokenizer.spec import VideoTokenizer

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "your-own.md").read_text()
CODE = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a user has written both files and run the second one, with fewer steps."""
    path = tmp_path_factory.mktemp("own")
    own, training = CODE
    (path / "toy.py").write_text(own)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.syspath_prepend(str(path))
        (path / "train_toy.py").write_text(training.replace("range(200)", "range(30)"))
        runpy.run_path("train_toy.py")
        yield path
    sys.modules.pop("toy", None)


def flags_of(command: str) -> list[str]:
    (line,) = (line for line in COMMANDS if command in line)
    return shlex.split(line.split(f"-m {command} ", 1)[1].replace("--samples 256", "--samples 6"))


def test_the_class_is_short_and_a_tokenizer(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert len(CODE[0].splitlines()) < 45
    trained, random = load("toy:Toy", "toy.pt"), load("toy:Toy", "random")
    assert isinstance(trained, VideoTokenizer) and trained.encoder_hash != random.encoder_hash
    for num_frames in (1, 9):
        video = torch.rand(2, 3, num_frames, 16, 8)
        latents = trained.encode(video).mode()
        assert latents.shape == (2, *trained.spec.latent_shape(num_frames, 16, 8))
        assert trained.decode(latents).shape == video.shape


def test_its_cards_are_made_and_training_shows(folder, monkeypatch):
    monkeypatch.chdir(folder)
    common = ["--device", "cpu", "--dtype", "float32", "--no-speed", "--clips", "1"]
    found = {}
    for line in (line for line in COMMANDS if "eval.card" in line):
        words = shlex.split(line.split("-m eval.card ", 1)[1].replace("--samples 256", "--samples 6"))
        facts, rows = read_results(card(parse([*words, *common], CardConfig)))
        found[facts["label"]] = {(row.metric, row.subject): row.value for row in rows}
    trained, random = found["toy-t4s8c12"], found["toy-t4s8c12 (random weights)"]
    assert trained["PSNR", "reconstructed"] > random["PSNR", "reconstructed"] + 3
    assert (folder / "toy.html").is_file() and (folder / "untrained.json").is_file() and trained["rate", "latents"] > 0


def test_its_latents_stand_beside_those_of_the_shipped_tokenizer(folder, monkeypatch):
    monkeypatch.chdir(folder)
    more = ["--samples", "6", "--clips", "1", "--device", "cpu", "--dtype", "float32"]
    page = latents(parse([*flags_of("eval.latents"), *more], LatentsConfig)).read_text()
    assert "shipped" in page and "principal directions of" in page


@pytest.mark.slow
def test_it_is_compared(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(folder)]))
    words = flags_of("eval.compare")
    config = parse(words, CompareConfig)
    assert [entry.label for entry in config.entries] == ["toy", "shipped"]
    short = {"--tokenizers": "toy=toy:Toy", "--weights": "toy.pt", "--samples": "8", "--train-steps": "2"}
    line = [word for flag, word in short.items() for word in (flag, word)] + ["--data", "moving_shapes"]
    line += ["--max-clips", "48", "--curve-samples", "0", "--steps", "1", "--no-controls", "--clips", "1"]
    compare(parse([*line, "--device", "cpu", "--dtype", "float32", "--out", "compare.html"], CompareConfig))
    assert "toy" in (folder / "compare.html").read_text()


def test_in_a_folder_without_init_it_is_refused_before_hours_of_work(folder, monkeypatch):
    """Runs that name such code are refused later, as it may have come with them."""
    monkeypatch.chdir(folder)
    (folder / "mine").mkdir()
    (folder / "mine" / "model.py").write_text(CODE[0])
    words = ["--tokenizers", "mine.model:Toy", "--weights", "random", "--data", "moving_shapes"]
    with pytest.raises(InputError, match=r"--tokenizers mine\.model:Toy: its folder needs an __init__\.py"):
        compare(parse(words, CompareConfig))
    (folder / "mine" / "__init__.py").touch()
    assert load("mine.model:Toy", "random").spec.channels == 12
