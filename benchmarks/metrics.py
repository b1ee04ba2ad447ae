"""Set metrics beside torch-fidelity, SciPy and scikit-learn, on the same features: time, memory, and how far the values
are apart: `python -m benchmarks.metrics --samples 2048 --dim 400`.

Set OMP_NUM_THREADS to the threads that the figures are meant for.
"""

from __future__ import annotations

import importlib.util
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

from runtime.command import CommonFlags, flag, run_command

CPU_REPEATS = 4
METRICS = ("frechet", "kernel", "inception", "intervals")


@dataclass(frozen=True, kw_only=True)
class MetricsConfig(CommonFlags):
    """Flags of `python -m benchmarks.metrics`."""

    metrics: tuple[str, ...] = flag(METRICS, "which metrics", choices=METRICS)
    samples: int = flag(2048, "clips in each of the two sets", low=20)
    dim: int = flag(400, "features of a clip; 400 is I3D's", low=1)
    classes: int = flag(101, "classes of the Inception Score; 101 is UCF101's", low=2)
    seconds: float = flag(3.0, "time for each measurement", low=0.0)
    out: str | None = flag(None, "JSON file to write, e.g. benchmarks/results/metrics-cpu.json")


@dataclass(frozen=True)
class Contender:
    """One way to compute a number; `needs` is a package that may be absent."""

    name: str
    work: Callable[[], float]
    needs: str | None = None


def metrics(config: MetricsConfig) -> dict:
    """Measure, print a line each, and write the JSON when `--out` is given."""
    import numpy as np
    import torch

    from benchmarks.measuring import timed, write_benchmark

    random = np.random.default_rng(config.seed)
    # As of real features: a few strong directions, many weak ones.
    scale = (np.arange(config.dim) + 1.0) ** -0.5
    a, b = (random.standard_normal((config.samples, config.dim)) * scale for _ in range(2))
    b = 1.2 * b + 0.2 * scale
    logits = 3.0 * random.standard_normal((config.samples, config.classes))
    makers = {"frechet": frechet, "kernel": kernel, "inception": inception, "intervals": intervals}
    results: dict[str, dict] = {}
    for metric in config.metrics:
        contenders = makers[metric](a, b, logits)
        for contender in contenders:
            label = f"{metric}: {contender.name}"
            if contender.needs and importlib.util.find_spec(contender.needs) is None:
                print(f"{label:52} not measured: {contender.needs} is not installed (pip install -e '.[dev]')")
                continue
            value, peak = _value_and_memory(contender.work)
            reference = results.get(f"{metric}: {contenders[0].name}", {"value": value})["value"]
            found = timed(contender.work, items=1, unit="calls", seconds=config.seconds, device=torch.device("cpu"))
            cpu = min(_cpu_seconds(contender.work) for _ in range(CPU_REPEATS))
            results[label] = found | {
                "value": value,
                "cpu_seconds": cpu,
                "relative_difference": abs(value - reference) / max(abs(reference), 1e-300),
                "peak_mib": round(peak / 2**20, 1),
            }
            print(
                f"{label:52} {1e3 * cpu:10.2f} ms of CPU, {1e3 * found['seconds_each']:.2f} ms "
                f"({1e3 / found['high']:.2f} … {1e3 / found['low']:.2f})  {peak / 2**20:7.1f} MiB  "
                f"differs by {results[label]['relative_difference']:.1e}"
            )
    if config.out:
        write_benchmark(
            config.out,
            results,
            samples=config.samples,
            dim=config.dim,
            classes=config.classes,
            seed=config.seed,
            gflops=gflops(),
        )
    return results


def gflops() -> float:
    """What this machine does of float64 products of matrices, in GFLOP a second of CPU."""
    import numpy as np

    matrix = np.ones((1024, 1024))
    return round(2 * 1024**3 / min(_cpu_seconds(lambda: matrix @ matrix) for _ in range(CPU_REPEATS)) / 1e9, 1)


def _cpu_seconds(work: Callable[[], object]) -> float:
    """Of all threads of this process: unlike seconds, hardly longer where others use the machine too."""
    began = time.process_time()
    work()
    return time.process_time() - began


def _value_and_memory(work: Callable[[], float]) -> tuple[float, int]:
    """The result, and the most bytes that NumPy and Python held at a time beyond what was there before."""
    tracemalloc.start()
    value = float(work())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return value, peak


def frechet(a, b, logits) -> list[Contender]:
    """The Fréchet distance from features."""
    import numpy as np

    from eval.metrics.frechet import Gaussian, frechet_distance

    reference = Gaussian(b)
    kept = np.cov(b.T)

    def eigenvalues(second: np.ndarray | None = None) -> float:
        """As torch-fidelity does it, in NumPy: the roots of the eigenvalues of the product of both covariances."""
        first, second = np.cov(a.T), np.cov(b.T) if second is None else second
        shift = a.mean(0) - b.mean(0)
        roots = np.sqrt(np.linalg.eigvals(first @ second).astype(complex)).real.sum()
        return shift @ shift + np.trace(first) + np.trace(second) - 2 * roots

    def scipy_root() -> float:
        import scipy.linalg

        first, second, shift = np.cov(a.T), np.cov(b.T), a.mean(0) - b.mean(0)
        root = scipy.linalg.sqrtm(first @ second).real
        return shift @ shift + np.trace(first) + np.trace(second) - 2 * np.trace(root)

    def torch_fidelity() -> float:
        import torch
        from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

        statistics = [fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)]
        return fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]

    return [
        Contender("eval.frechet_distance", lambda: frechet_distance(a, b)),
        Contender("eval.frechet_distance, reference kept", lambda: reference.distance(Gaussian(a))),
        Contender("eigenvalues of the product", eigenvalues),
        Contender("eigenvalues of the product, reference kept", lambda: eigenvalues(kept)),
        Contender("scipy.linalg.sqrtm", scipy_root),
        Contender("torch-fidelity", torch_fidelity, "torch_fidelity"),
    ]


def kernel(a, b, logits) -> list[Contender]:
    """The kernel distance on all clips."""
    import numpy as np

    from eval.metrics.kernel import kernel_distance

    count = len(a)

    def scikit_learn() -> float:
        from sklearn.metrics.pairwise import polynomial_kernel

        xx, yy, xy = (polynomial_kernel(x, y, degree=3, coef0=1) for x, y in ((a, a), (b, b), (a, b)))
        return (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (count * (count - 1)) - 2 * xy.mean()

    def torch_fidelity() -> float:
        import torch
        from torch_fidelity.metric_kid import kid_features_to_metric

        options = {"kid_degree": 3, "kid_gamma": None, "kid_coef0": 1, "kid_kernel": "poly", "rng_seed": 0}
        found = kid_features_to_metric(
            torch.from_numpy(a), torch.from_numpy(b), kid_subsets=1, kid_subset_size=count, verbose=False, **options
        )
        return found["kernel_inception_distance_mean"]

    return [
        Contender("eval.kernel_distance", lambda: kernel_distance(a, b)),
        Contender("scikit-learn polynomial_kernel", scikit_learn, "sklearn"),
        Contender("torch-fidelity, one subset of all", torch_fidelity, "torch_fidelity"),
    ]


def inception(a, b, logits) -> list[Contender]:
    """The Inception Score in one part."""
    import scipy.special

    from eval.metrics.inception import inception_score

    def torch_fidelity() -> float:
        import torch
        from torch_fidelity.metric_isc import isc_features_to_metric

        return isc_features_to_metric(torch.from_numpy(logits), splits=1, shuffle=False)["inception_score_mean"]

    return [
        Contender("eval.inception_score", lambda: inception_score(scipy.special.softmax(logits, 1))),
        Contender("torch-fidelity", torch_fidelity, "torch_fidelity"),
    ]


def intervals(a, b, logits) -> list[Contender]:
    """The Fréchet distance with its interval: 80 distances with a tenth left out; by updates, and each anew."""
    from eval.metrics.frechet import frechet_distance
    from eval.metrics.intervals import estimate

    return [
        Contender("eval.estimate, updated moments", lambda: estimate(frechet_distance, a, b).high),
        Contender("eval.estimate, computed anew", lambda: estimate(lambda x, y: frechet_distance(x, y), a, b).high),
    ]


if __name__ == "__main__":
    run_command(
        metrics, MetricsConfig, example="python -m benchmarks.metrics --out benchmarks/results/metrics-cpu.json"
    )
