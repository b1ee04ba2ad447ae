"""The benchmark of the tokenizers: every network does every work, and the ratios are those of the seconds."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks import tokenizer as benchmark
from benchmarks.measuring import Results
from benchmarks.tokenizer import PEER, TokenizerSpeedConfig, multiply_adds, tokenizer_speed
from runtime.errors import InputError
from runtime.measuring import extra_memory_gib
from tokenizer.baselines.registry import BASELINES


@pytest.fixture(scope="module")
def small_peer():
    pytest.importorskip("diffusers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BASELINES, PEER, replace(BASELINES[PEER], build=BASELINES[PEER].tiny))
        yield


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.bf16)])
def test_networks_take_turns_at_the_same_works(dtype, small_peer, tmp_path, capsys):
    out = tmp_path / "tokenizer.json"
    config = TokenizerSpeedConfig(models=("demo", "wan2.2"), dtypes=(dtype,), size=32, frames=5, turns=2, out=str(out))
    results = tokenizer_speed(config)
    assert len(results) == 2 * 3 and len(capsys.readouterr().out.splitlines()) == len(results)
    assert all(found["turns"] == 2 and found["slowest"] >= found["seconds"] > 0 for found in results.values())
    mine, peer = results[f"demo, encode, {dtype}"], results[f"wan2.2, encode, {dtype}"]
    assert mine["faster"] == pytest.approx(peer["seconds"] / mine["seconds"])
    less = peer["multiply_adds"] / mine["multiply_adds"]
    assert mine["faster_per_multiply_add"] == pytest.approx(mine["faster"] / less)
    assert "faster" not in peer
    written = json.loads(out.read_text())
    assert written["results"] == results and written["cpu_capability"]
    peak = written["matmul_flops_per_second"][dtype]
    assert all(found["of_matmul_peak"] == found["flops_per_second"] / peak for found in results.values())


def test_a_measurement_that_failed_is_made_again_beside_others_of_the_file(small_peer, tmp_path):
    results = Results(tmp_path / "tokenizer.json", unattended=True)
    results.measure("training step, batch 1 of 5x32x32", lambda: {"seconds_each": 1.0})
    results.update({"demo, encode, float32": {"failed": "broken"}})
    config = TokenizerSpeedConfig(models=("demo",), dtypes=("float32",), size=32, frames=5, turns=1)
    tokenizer_speed(config, results)
    assert results["demo, encode, float32"]["seconds"] > 0 and "training step, batch 1 of 5x32x32" in results


def test_multiply_adds_are_those_of_the_plain_formulas():
    counts = multiply_adds("paper", 17, 256)
    assert counts["encode"] + counts["decode"] == pytest.approx(6.375e12, rel=0.01)
    assert counts["train"] == 3 * (counts["encode"] + counts["decode"])


def test_extra_memory_counts_what_a_call_holds_at_once():
    def work() -> None:
        torch.ones(64, 2**20)

    found = extra_memory_gib(work, torch.device("cpu"))
    assert found is None or 0.2 < found < 0.4


def test_without_diffusers_the_peer_is_refused(monkeypatch):
    monkeypatch.setattr(benchmark.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs diffusers"):
        tokenizer_speed(TokenizerSpeedConfig())
