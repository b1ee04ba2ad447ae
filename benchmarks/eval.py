"""Speed and memory of evaluation: `python -m benchmarks.eval --clips 2048 --out benchmarks/results/eval-gpu.json`.

Set metrics beside torch-fidelity, SciPy and scikit-learn (`benchmarks.metrics`); clips a second through each feature
network, with random weights, which are as fast as the published ones; and a whole evaluation, from the data set to FVD,
KVD and IS with their intervals, at a quarter of the clips and at all of them, which shows what memory grows with; and
what `eval.fvd` of the shipped weights reads, decodes and looks at, from nothing and again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError
from runtime.output import check_file

PARTS = ("metrics", "features", "end-to-end", "judging")
NETWORKS = ("i3d", "c3d", "shapes")


@dataclass(frozen=True, kw_only=True)
class EvalConfig(CommonFlags):
    """Flags of `python -m benchmarks.eval`."""

    parts: tuple[str, ...] = flag(PARTS, "what to measure", choices=PARTS)
    networks: tuple[str, ...] = flag(NETWORKS, "feature networks to time", choices=NETWORKS)
    clips: int = flag(2048, "clips in each of the two sets, from data set to numbers", low=16, high=1_000_000)
    batch_size: int = flag(32, "clips in one forward pass", low=1, high=65_536)
    num_frames: int = flag(17, "frames of a clip", low=16, high=4097)
    size: int = flag(256, "height and width of a clip", low=32, high=8192)
    data: str = flag("moving_shapes_textured", "data set that the whole evaluation reads")
    root: str | None = flag(None, "its folder")
    steps: int = flag(8, "Euler steps of the samples that are judged", low=1, high=100_000)
    seconds: float = flag(3.0, "time for each measurement", low=0.0)
    out: str | None = flag(None, "JSON file to write, e.g. benchmarks/results/eval-gpu.json", check=check_file)


def evaluation(config: EvalConfig) -> dict:
    """Measure, print a line each, and write the JSON when `--out` is given."""
    from benchmarks.measuring import write_benchmark
    from benchmarks.metrics import MetricsConfig, metrics
    from runtime.processes import resolve_device

    device = resolve_device(config.device)
    results: dict[str, dict] = {}
    # Memory first: what was used before can only hide growth.
    if "end-to-end" in config.parts:
        for count in (config.clips // 4, config.clips):
            results[f"end-to-end, {count} clips"] = end_to_end(config, count, device)
        results |= growth(*results.values())
    if "judging" in config.parts:
        results |= judging(config)
    if "features" in config.parts:
        for name in config.networks:
            results[f"features: {name}"] = extraction(config, name, device)
    if "metrics" in config.parts:
        results |= metrics(MetricsConfig(samples=max(20, config.clips), seed=config.seed, seconds=config.seconds))
    if config.out:
        facts = {name: getattr(config, name) for name in ("clips", "batch_size", "num_frames", "size", "data", "seed")}
        write_benchmark(config.out, results, device=str(device), **facts)
    return results


def untrained(name: str, seed: int, device):
    """A feature network with random weights."""
    from eval.features.c3d import C3D
    from eval.features.i3d import I3D
    from eval.features.shapes import ShapesNet
    from runtime.seeds import seeded

    network = seeded({"i3d": I3D, "c3d": C3D, "shapes": ShapesNet}[name], seed)
    return network.eval().requires_grad_(False).to(device)


def extraction(config: EvalConfig, name: str, device) -> dict:
    """Clips a second from bytes on the CPU to features there, with the network's own resize."""
    import torch

    from benchmarks.measuring import timed
    from runtime.measuring import peak_memory_gib
    from videos import to_float

    network = untrained(name, config.seed, device)
    random = torch.Generator().manual_seed(config.seed)
    shape = (config.batch_size, 3, config.num_frames, config.size, config.size)
    clips = torch.randint(256, shape, dtype=torch.uint8, generator=random)

    def extract() -> None:
        with torch.no_grad():
            network.features(to_float(clips.to(device))).cpu()

    found = timed(extract, items=config.batch_size, unit="clips", seconds=config.seconds, device=device)
    label = f"features: {name}, {config.num_frames}x{config.size}x{config.size}"
    print(f"{label:52} {found['per_second']:10.2f} clips/s  ({found['low']:.2f} … {found['high']:.2f})")
    return found | {"peak_memory_gib": round(peak_memory_gib(device), 3)}


def end_to_end(config: EvalConfig, count: int, device) -> dict:
    """Two sets of clips from the data set to FVD, KVD and IS with intervals: seconds of each part, and memory."""
    from tempfile import TemporaryDirectory

    from eval.clip_sets import names_of
    from eval.extract import View, extract, read_items, record_of, seen_by
    from eval.features.store import FeatureStore
    from eval.metrics.frechet import frechet_distance
    from eval.metrics.inception import inception_score
    from eval.metrics.intervals import estimate
    from eval.metrics.kernel import kernel_distance
    from runtime.measuring import peak_memory_gib
    from runtime.processes import start_processes
    from videos import ClipSpec, open_dataset

    clip = ClipSpec(num_frames=config.num_frames, size=config.size)
    dataset = open_dataset(config.data, root=config.root, clip=clip)
    if len(dataset) < 2 * count:
        raise InputError(f"--clips {count} needs {2 * count} clips, data set {config.data!r} has {len(dataset)}")
    networks = {name: untrained(name, config.seed, device) for name in ("i3d", "c3d")}
    began = time.perf_counter()
    with TemporaryDirectory() as folder:
        views = {
            name: View(store=FeatureStore(folder, name, {"network": name}), see=seen_by(network, device))
            for name, network in networks.items()
        }
        sets = [
            extract(
                views,
                names_of(dataset, items),
                read_items(dataset, items, config.seed, device),
                world=start_processes(config.device),
                label=f"end to end, {count} clips",
                unreadable=record_of(Path(folder), dataset),
            )
            for items in (range(count), range(count, 2 * count))
        ]
    extracted = time.perf_counter()
    a, b = (found["i3d"].features for found in sets)
    numbers = {
        "FVD": estimate(frechet_distance, a, b),
        "KVD": estimate(kernel_distance, a, b),
        "IS": estimate(inception_score, sets[0]["c3d"].probabilities),
    }
    ended = time.perf_counter()
    found = {
        "clips": 2 * count,
        "seconds": ended - began,
        "seconds_features": extracted - began,
        "seconds_numbers": ended - extracted,
        "clips_per_second": 2 * count / (ended - began),
        "peak_memory_gib": peak_memory_gib(device),
        "kept_mib": sum(x["i3d"].features.nbytes + x["c3d"].probabilities.nbytes for x in sets) / 2**20,
        "random_weights": {name: value.value for name, value in numbers.items()},
    }
    print(
        f"{f'end to end: 2 x {count} clips':52} {found['clips_per_second']:10.2f} clips/s  "
        f"({found['seconds_features']:.1f} s reading, I3D and C3D, {found['seconds_numbers']:.1f} s numbers with "
        f"intervals), {found['peak_memory_gib']:.2f} GiB"
    )
    return found


def judging(config: EvalConfig) -> dict[str, dict]:
    """`eval.fvd` of the shipped weights with every control: clips read, encoded, decoded and seen, and seconds; from
    nothing, and again with everything kept. Sampling stands apart."""
    from tempfile import TemporaryDirectory

    from eval.clip_sets import Judge
    from eval.features.shapes import ShapesNet
    from eval.fvd import FVDConfig, fvd
    from tokenizer.pvvae import PVVAE
    from videos.moving_shapes import MovingShapes

    found = {}
    with TemporaryDirectory() as folder:
        common = {"runs_dir": folder, "seed": config.seed, "device": config.device, "dtype": config.dtype}
        flags = FVDConfig(run="moving-shapes", samples=config.clips, steps=config.steps, **common)
        began = time.perf_counter()
        judge = Judge("moving-shapes", flags)
        judge.samples()
        judge.samples(untrained=True)
        print(f"sampling took {time.perf_counter() - began:.1f} s", flush=True)
        for kept in ("from nothing", "with everything kept"):
            with (
                Counted(MovingShapes, "item", lambda *_: 1) as read,
                Counted(PVVAE, "encode") as encoded,
                Counted(PVVAE, "decode") as decoded,
                Counted(ShapesNet, "features") as seen,
            ):
                began = time.perf_counter()
                fvd(flags)
                counts = {"read": read.clips, "encoded": encoded.clips, "decoded": decoded.clips, "seen": seen.clips}
                found[f"eval.fvd, {kept}"] = counts | {"seconds": time.perf_counter() - began}
            print(f"{f'eval.fvd, {config.clips} clips, {kept}':52} {found[f'eval.fvd, {kept}']}")
    return found


class Counted:
    """Counts the clips that pass through a method, which takes them as its first argument, while a with-block lasts."""

    def __init__(self, owner: type, name: str, clips=lambda self, video, *_: len(video)):
        self._owner, self._name, self._real, self._of, self.clips = owner, name, getattr(owner, name), clips, 0

    def __enter__(self) -> Counted:
        def counted(*args, **more):
            self.clips += self._of(*args)
            return self._real(*args, **more)

        setattr(self._owner, self._name, counted)
        return self

    def __exit__(self, *_) -> None:
        setattr(self._owner, self._name, self._real)


def growth(few: dict, many: dict) -> dict[str, dict]:
    """How much more memory the longer of two evaluations needed, for each clip more."""
    more = 2**20 * (many["peak_memory_gib"] - few["peak_memory_gib"])
    each = more / (many["clips"] - few["clips"])
    kept = 1024 * (many["kept_mib"] - few["kept_mib"]) / (many["clips"] - few["clips"])
    print(f"{'memory for each clip more':52} {each:10.1f} KiB, of which features {kept:.1f} KiB")
    return {"memory": {"kib_each_clip": each, "kib_each_clip_features": kept}}


if __name__ == "__main__":
    run_command(
        evaluation, EvalConfig, example="python -m benchmarks.eval --clips 64 --out benchmarks/results/eval-cpu.json"
    )
