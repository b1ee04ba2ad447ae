"""The stages of a comparison: what they cost by measured speeds, and that they are alike for all."""

from dataclasses import replace
from pathlib import Path

import pytest

from eval.compare import CompareConfig
from eval.comparison.facts import Facts, Speeds
from eval.comparison.plan import curve, encoding, judging, kept_steps, training
from eval.convergence import ConvergenceConfig
from eval.entries import Entry
from eval.fvd import FVDConfig
from runtime.command import parse
from tokenizer.encode import EncodeConfig
from tokenizer.spec import TokenizerSpec

SPEC = TokenizerSpec(name="x", temporal=4, spatial=8, channels=12)


@pytest.fixture
def facts() -> Facts:
    """Of a tokenizer whose clip takes no time, and a step of its generator 3 seconds a clip."""
    return Facts(Entry("x", "x", None), "x", SPEC, (12, 5, 4, 4), "", Speeds(clip=0.0, step=3.0))


def test_clips_of_an_untrained_generator_cost_as_much_as_others(facts):
    config = CompareConfig(tokenizers=("x",), samples=10, steps=100, guidance_scales=(1.0, 4.0))
    assert judging(config, facts).seconds == 10 * 100 * (1 + 2 + 1)
    assert judging(replace(config, controls=False), facts).seconds == 10 * 100 * (1 + 2)
    config = replace(config, curve_samples=7)
    assert curve(config, facts).seconds == 7 * 100 * (len(kept_steps(config)) + 1)


def test_numbers_of_a_comparison_are_its_own_and_not_those_of_a_call_by_hand(facts):
    config = CompareConfig(tokenizers=("x",))
    for stage, config_class in ((judging(config, facts), FVDConfig), (curve(config, facts), ConvergenceConfig)):
        out = parse(stage.argv[1:], config_class).out
        assert (Path(out),) == stage.results and "step" not in out and f"n{config.samples}" not in out


def test_hours_are_shared_by_processes(facts):
    config = CompareConfig(tokenizers=("x",), train_steps=50, batch_size=8)
    assert training(config, facts).seconds == 50 * 8 * 3
    assert training(replace(config, processes=4), facts).seconds == 50 * 8 * 3 / 4


@pytest.mark.parametrize(
    ("given", "stride"),
    [({"data": "ucf101"}, 3), ({"data": "realestate10k"}, 1), ({"data": "ucf101", "frame_stride": 2}, 2)],
)
def test_all_tokenizers_see_the_same_frames(facts, given, stride):
    """Left open, a run that was trained on UCF101 at one stride would be encoded at that, and others at 3."""
    config = CompareConfig(tokenizers=("x",), **given)
    assert parse(encoding(config, facts, 10).argv[1:], EncodeConfig).frame_stride == stride
