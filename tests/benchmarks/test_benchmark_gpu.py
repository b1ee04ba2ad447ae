"""A borrowed GPU is not wasted: every slice runs, limits hold, failures are noted, what is there is not made again."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import gpu as module
from benchmarks.gpu import attend, gpu, run_slice
from benchmarks.gpu_slices import NEEDED, SLICES, GpuConfig, compiled_or_not, train_a_little
from runtime.command import CommonFlags
from tokenizer.train import TrainConfig

ROOT = Path(__file__).parents[2]
ABSENT = ("fire", "av", "decord", "lpips", "diffusers", "rich", "torch_fidelity")  # on the machine that was lent


def test_every_slice_has_its_needs():
    assert SLICES.keys() == NEEDED.keys() and len(SLICES) <= 8  # no more files come back from some machines


@pytest.mark.parametrize("name", [name for name in SLICES if name not in ("speed", "tests")])
def test_a_slice_runs_where_packages_are_absent(name, tmp_path, monkeypatch):
    for package in ABSENT:
        monkeypatch.setitem(sys.modules, package, None)
    run_slice(GpuConfig(smoke=True, device="cpu", out=str(tmp_path)), name)
    written = json.loads((tmp_path / f"gpu-{name}-smoke.json").read_text())
    assert written["complete"] is True and written["smoke"] is True and written["results"]
    assert not [found for found in written["results"].values() if "failed" in found]


def test_the_slice_of_tests_runs_those_that_name_a_gpu(tmp_path):
    run_slice(GpuConfig(smoke=True, device="cpu", out=str(tmp_path)), "tests")
    results = json.loads((tmp_path / "gpu-tests-smoke.json").read_text())["results"]
    assert "tests/test_gpu.py" in results
    assert all(found.get("skipped") or found.get("passed") for found in results.values())


def test_others_tokenizers_are_measured_one_by_one(tmp_path):
    pytest.importorskip("diffusers")
    run_slice(GpuConfig(smoke=True, device="cpu", dtype="float32", out=str(tmp_path)), "speed")
    written = json.loads((tmp_path / "gpu-speed-smoke.json").read_text())
    assert written["complete"] is True and written["results"]["moving-shapes"]["rows"]


def test_a_slice_that_hangs_or_dies_is_ended_and_said():
    assert attend(time.sleep, (600,), 0.5) == "cut off after 0 s"
    assert attend(sys.exit, (3,), 60) == "ended with 3"
    assert attend(abs, (1,), 60) == "done"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux which processes live")
def test_nothing_that_a_slice_started_outlives_it(tmp_path):
    """As pytest's own process in the slice of tests."""
    note = tmp_path / "pid"
    work = f"""import pathlib, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path({str(note)!r}).write_text(str(child.pid))
sys.exit(3)"""
    assert attend(exec, (work,), 600) == "ended with 3"
    state = Path(f"/proc/{note.read_text()}/stat")
    for _ in range(100):
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("it lives on")


def test_a_smoke_run_is_not_taken_for_a_measurement(tmp_path, monkeypatch):
    run_slice(GpuConfig(smoke=True, device="cpu", out=str(tmp_path)), "training")
    started = []
    monkeypatch.setattr(module, "attend", lambda work, arguments, seconds: started.append(arguments[1]))
    monkeypatch.setattr(module, "COMMITTED", tmp_path / "committed")
    monkeypatch.setattr("runtime.processes.resolve_device", lambda name: type("Device", (), {"type": "cuda"}))
    gpu(GpuConfig(slices=("training",), out=str(tmp_path), minutes=2.0))
    assert started == ["training"]


def test_a_short_training_says_its_share_of_what_the_gpu_is_made_for(monkeypatch):
    monkeypatch.setattr("runtime.measuring.stated_peak", lambda device, dtype: 1e12)
    found = train_a_little(GpuConfig(smoke=True, device="cpu"), "demo", {})
    assert found["mfu"] == pytest.approx(found["tflops"]) and found["mfu"] > 0


def test_what_cannot_run_is_named_and_what_is_there_is_left(tmp_path, monkeypatch, capsys):
    started = []
    monkeypatch.setattr(module, "attend", lambda work, arguments, seconds: started.append((arguments[1], seconds)))
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.setattr(module, "COMMITTED", tmp_path / "committed")
    (tmp_path / "committed").mkdir()
    (tmp_path / "committed" / "gpu-stages.json").write_text('{"complete": true, "results": {"reading": {}}}')
    (tmp_path / "committed" / "gpu-eval.json").write_text('{"complete": false, "results": {"features: i3d": {}}}')
    monkeypatch.setattr("runtime.processes.resolve_device", lambda name: type("Device", (), {"type": "cuda"}))
    gpu(GpuConfig(slices=("speed", "stages", "eval", "demo"), out=str(tmp_path / "out"), minutes=2.0))
    said = capsys.readouterr().out
    assert "speed: left out, not installed: diffusers\n" in said and "gpu-stages.json is there" in said
    assert [name for name, _ in started] == ["eval", "demo"] and started[0][1] == 120.0
    assert "features: i3d" in (tmp_path / "out" / "gpu-eval.json").read_text()
    gpu(GpuConfig(slices=("demo",), out=str(tmp_path / "out"), in_all=0.2))
    assert "demo: no time left" in capsys.readouterr().out and len(started) == 2


def test_only_flags_that_a_command_has_are_tried():
    assert compiled_or_not(CommonFlags) == [{}]
    assert {"compile": "true"} in compiled_or_not(TrainConfig)


def test_the_script_says_in_one_line_what_it_cannot_do(tmp_path):
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    for words, said in {
        "--slices=generatr": "did you mean generator",
        f"--device=cpu --out={tmp_path / 'x'}": "there is no GPU here",
    }.items():
        line = ["bash", "benchmarks/gpu.sh", *words.split()]
        done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
