"""The benchmark of the set metrics: what is compared is the same number, and what is absent is said."""

import json

from benchmarks.metrics import MetricsConfig, metrics

SMALL = {"samples": 40, "dim": 6, "classes": 5, "seconds": 0.0}


def test_every_contender_finds_the_same_number(tmp_path, capsys):
    results = metrics(MetricsConfig(out=str(tmp_path / "metrics.json"), **SMALL))
    assert {label.split(":")[0] for label in results} == {"frechet", "kernel", "inception", "intervals"}
    assert all(found["relative_difference"] < 1e-8 for found in results.values())
    assert all(found["repeats"] >= 3 and found["peak_mib"] >= 0 < found["cpu_seconds"] for found in results.values())
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["results"] == results and written["samples"] == 40 and "threads" in written
    assert written["gflops"] > 0
    assert {"frechet: eval.frechet_distance, reference kept", "frechet: eigenvalues of the product"} < {*results}
    assert len(capsys.readouterr().out.splitlines()) == len(results)


def test_an_absent_package_is_skipped_with_words(monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.metrics.importlib.util.find_spec", lambda name: None)
    results = metrics(MetricsConfig(metrics=("kernel",), **SMALL))
    assert list(results) == ["kernel: eval.kernel_distance"]
    assert "not measured: torch_fidelity is not installed" in capsys.readouterr().out
