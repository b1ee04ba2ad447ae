"""The benchmark of evaluation: what it times is what evaluation does, and what it writes is complete."""

import json

import pytest
import torch

from benchmarks.eval import Counted, EvalConfig, evaluation, growth, untrained
from runtime.errors import InputError

SMALL = {"clips": 16, "batch_size": 8, "size": 32, "seconds": 0.0, "device": "cpu"}


@pytest.fixture
def small(monkeypatch):
    """The small network stands for the large ones."""
    monkeypatch.setattr("benchmarks.eval.untrained", lambda name, seed, device: untrained("shapes", seed, device))


def test_everything_is_measured_and_written(small, tmp_path, capsys):
    out = tmp_path / "eval.json"
    results = evaluation(EvalConfig(out=str(out), parts=("metrics", "features", "end-to-end"), **SMALL))
    assert {"end-to-end, 4 clips", "end-to-end, 16 clips", "memory", "features: i3d", "features: shapes"} <= set(
        results
    )
    assert any(name.startswith("frechet: ") for name in results)
    whole = results["end-to-end, 16 clips"]
    parts = [whole[f"seconds_{part}"] for part in ("features", "numbers")]
    assert min(parts) > 0 and sum(parts) == pytest.approx(whole["seconds"]) and whole["clips"] == 32
    assert whole["kept_mib"] == pytest.approx(32 * (128 + 12) * 4 / 2**20)
    written = json.loads(out.read_text())
    assert written["results"] == json.loads(json.dumps(results)) and written["clips"] == 16 and written["machine"]
    assert "memory for each clip more" in capsys.readouterr().out


@pytest.mark.parametrize("name, width", [("i3d", 400), ("shapes", 128)])
def test_random_weights_are_seeded_frozen_and_of_the_real_graph(name, width):
    network = untrained(name, 0, "cpu")
    assert network.dim == width and not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    again, other = untrained(name, 0, "cpu").state_dict(), untrained(name, 1, "cpu").state_dict()
    changed = [key for key, value in network.state_dict().items() if not torch.equal(value, other[key])]
    assert changed and all(torch.equal(value, again[key]) for key, value in network.state_dict().items())


def test_growth_is_memory_for_each_clip():
    few = {"clips": 100, "peak_memory_gib": 1.0, "kept_mib": 1.0}
    many = {"clips": 1124, "peak_memory_gib": 1.0 + 1 / 1024, "kept_mib": 1.5}
    assert growth(few, many)["memory"] == {"kib_each_clip": 1.0, "kib_each_clip_features": 0.5}


def test_judging_counts_what_is_read_decoded_and_seen():
    found = evaluation(EvalConfig(parts=("judging",), steps=1, **SMALL))
    first, again = found["eval.fvd, from nothing"], found["eval.fvd, with everything kept"]
    assert [first[name] for name in ("read", "encoded", "decoded", "seen")] == [32, 32, 64, 128]
    assert [again[name] for name in ("read", "encoded", "decoded", "seen")] == [0, 0, 0, 0] and again["seconds"] > 0


def test_counting_ends_with_the_block():
    class Network:
        def features(self, video):
            return video

    real = Network.features
    with Counted(Network, "features") as counted:
        assert Network().features([1, 2, 3]) == [1, 2, 3]
        Network().features([4])
    assert counted.clips == 4 and Network.features is real


def test_more_clips_than_the_data_set_has_are_refused(small):
    with pytest.raises(InputError, match=r"--clips \d+ needs \d+ clips"):
        evaluation(EvalConfig(parts=("end-to-end",), **SMALL | {"clips": 1_000_000}))
