"""What benchmarks have in common: the file that each leaves, clocks and turns, and what they measure on."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from runtime.command import CommonFlags
from runtime.errors import InputError
from runtime.measuring import wait
from runtime.records import read_json, write_json
from runtime.run import command_line, git_commit, machine, now, versions


def write_benchmark(path: str | Path, results: dict, **facts) -> None:
    """Write results with everything that is needed to repeat them."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    about = {
        "command": command_line(),
        "created": now(),
        "git_commit": git_commit(),
        "machine": machine(),
        "versions": versions(),
    }
    if torch.cuda.is_available():
        about["gpu"] = torch.cuda.get_device_name()
    write_json(path, {**about, **facts, "threads": torch.get_num_threads(), "results": results})


class Results(dict):
    """Measurements by name, written to their file after each of them.

    Unattended, a measurement that stands in the file already is not made again, and one that fails is noted there with
    its error, so that the next can begin; one that was killed finds itself noted as such.
    """

    def __init__(self, path: str | Path | None, *, unattended: bool = False, **facts):
        super().__init__()
        self.path, self.unattended, self.facts = path, unattended, facts
        if unattended and path and Path(path).is_file():
            self.update(read_json(path).get("results", {}))

    def missing(self, name: str) -> bool:
        """Whether it has still to be measured; a failure counts as measured by no more than its note."""
        return not self.unattended or name not in self or "failed" in self[name]

    def measure(self, name: str, work: Callable[[], dict]) -> dict | None:
        """Make one measurement and write the file; None where it stands there already, or failed."""
        return self.together((name,), lambda: {name: work()}).get(name)

    def together(self, names: Sequence[str], work: Callable[[], dict[str, dict]]) -> dict[str, dict]:
        """Measurements that one call makes, by name; empty where they stand in the file already, or failed."""
        if not any(map(self.missing, names)):
            return {}
        if self.unattended:
            self._keep(dict.fromkeys(names, {"failed": "ended from outside while it ran"}))
        gc.collect()  # compiled blocks are in cycles, which keep their weights until then
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        try:
            found = work()
        except (torch.OutOfMemoryError, MemoryError):
            found = dict.fromkeys(names, {"out_of_memory": True})
        except Exception as error:
            if not self.unattended:
                raise
            told = {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
            print(f"{', '.join(names)}: {told['failed']}", flush=True)
            self._keep(dict.fromkeys(names, told))
            return {}
        finally:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        stamp = {"git_commit": git_commit()} if self.unattended else {}  # they may come from several commits
        self._keep({name: each | stamp for name, each in found.items()})
        return found

    def _keep(self, found: dict[str, dict]) -> None:
        self.update(found)
        self.write()

    def write(self) -> None:
        """Write the file; `measure` does it by itself."""
        if self.path:
            write_benchmark(self.path, dict(self), **self.facts)


def timed(work: Callable[[], object], *, items: int, unit: str, seconds: float, device: torch.device) -> dict:
    """Repeat `work` for about `seconds` (at least three times, after one warm-up).

    Args:
        items: How many `unit` one call handles.

    Returns:
        {"unit", "per_second" (median), "low", "high" (slowest and fastest repeat), "repeats", "seconds_each"}.
    """
    work()
    wait(device)
    each: list[float] = []
    began = time.perf_counter()
    while len(each) < 3 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        work()
        wait(device)
        each.append(time.perf_counter() - start)
    return {
        "unit": f"{unit}/s",
        "per_second": items / statistics.median(each),
        "low": items / max(each),
        "high": items / min(each),
        "repeats": len(each),
        "seconds_each": statistics.median(each),
    }


def clock_of(name: str, device: torch.device) -> Callable[[], float]:
    """The clock of a `--clock` flag, in seconds; "cpu", processor time, is for a busy machine and sees no GPU."""
    if name == "cpu" and device.type != "cpu":
        raise InputError(f"--clock cpu does not see the work of {device}; leave it out")
    return time.process_time if name == "cpu" else time.perf_counter


def take_turns(
    calls: dict[str, Callable[[], object]], turns: int, read: Callable[[], float], device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each call, one after the other, `turns` times: other work on the machine falls on all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            start = read()
            call()
            wait(device)
            seconds[name].append(read() - start)
    return seconds


def copy_bandwidth(device: torch.device, read: Callable[[], float] = time.perf_counter) -> float:
    """Bytes a second, read and written, of a large copy within the device's memory; the fastest of five."""
    source = torch.ones(2**30 if device.type == "cuda" else 2**26, device=device)
    target, each = torch.empty_like(source), []
    for _ in range(6):
        start = read()
        target.copy_(source)
        wait(device)
        each.append(read() - start)
    return 2 * source.nbytes / min(each)


def noise_latents(path: str | Path, rows: int, shape: tuple[int, int, int, int], *, classes: int = 101, seed: int = 0):
    """A latents file for speed alone, `[rows, C, G, h, w]` of one random row; returns its path."""
    import numpy as np

    from latents_cache import create_latents

    mean, logvar = np.random.default_rng(seed).standard_normal((2, *shape))
    attributes = {"num_classes": classes, "kind": "latents", "encoder_hash": "noise"}
    writer = create_latents(path, rows, shape, attributes)
    for row in range(rows):
        writer.write(row, mean, logvar - 6, label=row % classes)
    writer.finish()
    return path


def demo_tokenizer(config: CommonFlags, **flags: object) -> Path:
    """The run of `tokenizer.train` by the preset of the demo with these flags, trained or found; folder, device and
    compute type are the benchmark's, and the seed where no flag says otherwise."""
    from tokenizer.train import TrainConfig, preset_defaults, train

    common = {name: getattr(config, name) for name in ("runs_dir", "device", "dtype", "seed", "max_hours")}
    return train(TrainConfig(**preset_defaults({}) | common | flags))


def native_dtypes(device: torch.device) -> tuple[str, ...]:
    """Compute types that the device multiplies itself; emulated, one large bfloat16 product takes minutes."""
    from runtime.processes import resolve_dtype

    return ("float32", "bfloat16") if resolve_dtype("auto", device) == torch.bfloat16 else ("float32",)
