"""Speed and memory of tokenizers side by side: `python -m eval.speed --tokenizers pv-vae=RUN,wan2.2
--weights own,random`.

These are four columns of PV-VAE's tables 1 and 2. What one iteration is, it does not say; here that of ISpeed and IMem
is to encode and decode a batch, and that of TSpeed and TMem a whole training step of the generator (AdamW, averaged
weights): with the tokenizer encoding the batch inside of it, and once more from latents that are there already.

Every tokenizer gets a process of its own, so that none inherits another's memory; they take turns, and the best run
counts, so that other work on the machine falls on all of them alike; what the machine itself does in a product of large
matrices stands beside them. Weights are held in the compute type, nothing is compiled. Memory is what is held between
two runs (weights; in training also the generator's, its moments and averages) and the most that one takes beyond it.
"""

from __future__ import annotations

import itertools
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from eval.entries import OWN, Entry, entries_of, with_commits
from generator.presets import PRESETS
from runtime.command import NOT_IDENTITY, flag, run_command
from runtime.errors import InputError
from runtime.output import check_file
from tokenizer.hub import DownloadFlags

if TYPE_CHECKING:
    from torch import Tensor

    from eval.results.rows import Row

PEER = "wan2.2"  # what ratios are to, where it takes part
INFERENCE = ("ISpeed", "IMem")
INSIDE = ("TSpeed (tokenizer inside)", "TMem (tokenizer inside)")
CACHED = ("TSpeed (from latents)", "TMem (from latents)")
# Unit of every metric, in the order of the table.
UNITS = dict(zip((*INFERENCE, *INSIDE, *CACHED), ("it/s", "GiB") * 3, strict=True))
UNITS |= {"parameters": "M", "multiply-adds": "G a clip", "tokens": "a clip", "matrix products": "GFLOP/s"}
NUM_CLASSES = 101  # of UCF101, which the paper's generators are trained on
LEARNING_RATE = 1e-4


@dataclass(frozen=True, kw_only=True)
class SpeedConfig(DownloadFlags):
    """Flags of `python -m eval.speed`."""

    tokenizers: tuple[str, ...] = flag(
        help="names, runs or folders, by commas; LABEL=NAME gives another label, NAME=random weights"
    )
    weights: tuple[str, ...] = flag((OWN,), f"weight file, 'random' or '{OWN}': one for all tokenizers, or one each")
    batch_size: int = flag(4, "clips in a batch", low=1, high=65_536)
    num_frames: int = flag(17, "frames of a clip", low=1, high=4097)
    size: int | None = flag(None, "height and width in pixels; default: 256 on a GPU, 64 on the CPU", low=8, high=8192)
    warmup: int | None = flag(None, "runs before any that counts; default: 50 on a GPU, 1 on the CPU", low=1)
    repeats: int | None = flag(None, "timed runs of encode and decode; default: 100 on a GPU, 3 on the CPU", low=1)
    train_steps: int | None = flag(
        None, "timed training steps of each kind; default: 100 on a GPU, 2 on the CPU", low=1
    )
    generator: str | None = flag(
        None,
        "preset of the generator that is trained; default: latte-xl on a GPU, demo on the CPU",
        choices=tuple(PRESETS),
    )
    rounds: int = flag(2, "turns of every tokenizer, each in a new process", low=1)
    out: str | None = flag(None, "JSON file to write; default: speed-….json in --runs-dir", check=check_file)

    def __post_init__(self) -> None:
        _ = self.entries

    @property
    def entries(self) -> list[Entry]:
        """The tokenizers, in order."""
        return entries_of(self.tokenizers, self.weights)


# What the flags that are left open are, by device.
DEFAULTS = {
    "cuda": {"size": 256, "warmup": 50, "repeats": 100, "train_steps": 100, "generator": "latte-xl"},
    "cpu": {"size": 64, "warmup": 1, "repeats": 3, "train_steps": 2, "generator": "demo"},
}


@dataclass(frozen=True)
class Reading:
    """What a tokenizer's process reports of one metric: the value of every run, in the metric's unit."""

    metric: str
    values: tuple[float, ...]


def speed(config: SpeedConfig) -> Path | None:
    """Measure, print the table, write the JSON; returns its path (None on other processes than the first)."""
    from eval.results.rows import write_results
    from runtime.processes import resolve_device, resolve_dtype
    from runtime.run import is_main
    from tokenizer.zoo import check_known

    config = with_commits(config)
    for entry in config.entries:
        check_known(entry.tokenizer, entry.weights)
    if not is_main():  # of a launch; the others would only take the machine from it
        return None
    device = resolve_device(config.device)
    dtype = str(resolve_dtype(config.dtype, device)).removeprefix("torch.")
    config = filled_in(config, device, dtype)
    readings: dict[str, list[Reading]] = {entry.label: [] for entry in config.entries}
    failures: dict[str, str] = {}
    for number, entry in itertools.product(range(config.rounds), config.entries):
        if entry.label in failures:
            continue
        print(f"eval.speed: round {number + 1} of {config.rounds}, {entry.label}", file=sys.stderr, flush=True)
        for found in in_a_process(config, entry):
            if isinstance(found, Reading):
                readings[entry.label].append(found)
            else:
                failures[entry.label] = found
                print(f"eval.speed: {entry.label}: {found}", file=sys.stderr, flush=True)
    if not any(readings.values()):
        raise InputError(f"none of the tokenizers could be measured: {next(iter(failures.values()))}")
    place = place_of(config, device)
    rows = [row for label, found in readings.items() for row in rows_of(label, found, failures.get(label, ""), place)]
    out = Path(config.out or Path(config.runs_dir) / f"speed-{device.type}-{config.num_frames}x{config.size}.json")
    facts = asdict(config) | {"tokenizers": [asdict(entry) for entry in config.entries]}
    facts = {name: value for name, value in facts.items() if name not in NOT_IDENTITY | {"weights", "out", "download"}}
    write_results(out, kind="speed", rows=rows, device=device_words(device), **facts)
    print(table(rows, place, config.generator))
    print(f"eval.speed: wrote {out}")
    return out


def measured(config: SpeedConfig, entry: Entry) -> list[Row]:
    """Rows of one tokenizer, from one process; of what could not be measured they say why."""
    from runtime.processes import resolve_device, resolve_dtype

    device = resolve_device(config.device)
    config = filled_in(config, device, str(resolve_dtype(config.dtype, device)).removeprefix("torch."))
    found = list(in_a_process(config, entry))
    failure = next((one for one in found if isinstance(one, str)), "")
    readings = [one for one in found if isinstance(one, Reading)]
    return rows_of(entry.label, readings, failure, place_of(config, device))


def filled_in(config: SpeedConfig, device, dtype: str) -> SpeedConfig:
    """The flags, those that were left open as the device wants them."""
    chosen = {name: value for name, value in DEFAULTS[device.type].items() if getattr(config, name) is None}
    return replace(config, **chosen, dtype=dtype)


def place_of(config: SpeedConfig, device) -> str:
    """On what was measured, in words."""
    shape = f"batch {config.batch_size} of {config.num_frames}x{config.size}x{config.size}"
    return f"{shape}, {config.dtype}, {device_words(device)}"


def device_words(device) -> str:
    """The GPU's name, or the processor's with the number of threads."""
    import torch

    from runtime.run import machine

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{machine()['processor']}, threads: {torch.get_num_threads()}"


def in_a_process(config: SpeedConfig, entry: Entry) -> Iterator[Reading | str]:
    """What `measure` yields in a new process; last, in words, why that ended early, if it did."""
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(send, config, entry), daemon=True)
    process.start()
    send.close()  # so that the pipe ends with the process
    try:
        while True:
            try:
                yield receive.recv()
            except EOFError:
                break
        process.join()
        if process.exitcode:
            why = ", as when memory ends" if process.exitcode == -signal.SIGKILL else ""
            yield f"its process ended with exit code {process.exitcode}{why}"
    finally:
        process.kill()
        process.join()


def _report(send, config: SpeedConfig, entry: Entry) -> None:
    """Main function of a tokenizer's process."""
    import traceback

    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of Ctrl-C the first process takes care
    try:
        for found in measure(config, entry):
            send.send(found)
    except InputError as error:
        send.send(str(error))
    except torch.OutOfMemoryError:
        send.send("out of memory")
    except Exception as error:  # a class of somebody may raise anything; the other tokenizers go on
        traceback.print_exc()
        send.send(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")


def measure(config: SpeedConfig, entry: Entry) -> Iterator[Reading]:
    """Everything about one tokenizer; the flags left open must be filled in.

    Raises:
        InputError: If it cannot be loaded, or clips of this shape do not fit it.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from runtime.measuring import matmul_flops
    from runtime.processes import resolve_device, resolve_dtype
    from tokenizer.zoo import load

    torch.manual_seed(config.seed)
    device = resolve_device(config.device)
    dtype = resolve_dtype(config.dtype, device)
    vae = load(entry.tokenizer, entry.weights, device=device, dtype=dtype)
    clip = (config.num_frames, config.size, config.size)
    shape = vae.spec.latent_shape(*clip)
    yield Reading("parameters", (sum(parameter.numel() for parameter in vae.parameters()) / 1e6,))
    yield Reading("tokens", (shape[1] * shape[2] * shape[3],))
    yield Reading("matrix products", (matmul_flops(device, dtype) / 1e9,))
    train, states = yield from with_tokenizer(config, vae, shape, device, dtype)
    vae = vae.to("meta").float()  # which frees its memory
    latents = torch.randn(config.batch_size, *shape, device=device)
    yield from time_and_memory(CACHED, lambda: train(latents), states, config.train_steps, config.warmup, device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        vae.decode(vae.encode(torch.empty(1, 3, *clip, device="meta")).mean)
    yield Reading("multiply-adds", (counter.get_total_flops() / 2e9,))


def with_tokenizer(config: SpeedConfig, vae, shape: tuple[int, ...], device, dtype) -> Iterator[Reading]:
    """Encoding, decoding, and training with the tokenizer inside; returns what `training` returns."""
    import torch

    from runtime.processes import autocast

    # A class that cannot be cast as a whole may mix types.
    inference = autocast(device, torch.float32 if hasattr(vae, "cast") else dtype)
    video = torch.rand(config.batch_size, 3, config.num_frames, config.size, config.size, device=device) * 2 - 1
    weights = [*vae.parameters(), *vae.buffers()]

    def infer() -> None:
        with torch.no_grad(), inference:
            vae.decode(vae.encode(video).mean)

    def train_inside() -> None:
        with torch.no_grad(), inference:
            latents = vae.normalize(vae.encode(video).sample())
        train(latents.float())

    def held() -> list[Tensor]:
        return [*weights, *states()]

    yield from time_and_memory(INFERENCE, infer, lambda: weights, config.repeats, config.warmup, device)
    train, states = training(config.generator, shape, device, dtype)
    yield from time_and_memory(INSIDE, train_inside, held, config.train_steps, config.warmup, device)
    return train, states


def training(preset: str, shape: tuple[int, ...], device, dtype) -> tuple[Callable, Callable]:
    """A function that takes a training step of a new generator on latents `[B, C, G, h, w]`, and one that lists what it
    holds between two steps."""
    import torch

    from generator import Latte, flow_loss
    from runtime.processes import World, autocast
    from runtime.trainer import Trainer

    axes = dict(zip(("channels", "groups", "height", "width"), shape, strict=True))
    model = Latte(replace(PRESETS[preset].model, **axes, num_classes=NUM_CLASSES)).to(device).train()
    trainer = Trainer(model, World(0, 1, device), learning_rate=LEARNING_RATE)

    def step(latents: Tensor) -> None:
        noise, t = torch.randn_like(latents), torch.rand(len(latents), device=device)
        labels = torch.randint(NUM_CLASSES, (len(latents),), device=device)
        with autocast(device, dtype):
            loss = flow_loss(trainer.network, latents, labels, noise=noise, t=t).mean()
        loss.backward()
        trainer.clip()
        trainer.update(0, LEARNING_RATE, True, Path())  # what it learns of random weights is of no interest

    def states() -> list[Tensor]:
        moments = (state.values() for optimizer in trainer.optimizers for state in optimizer.state.values())
        tensors = (value for values in moments for value in values if torch.is_tensor(value))
        return [*model.parameters(), *model.buffers(), *trainer.ema.average.values(), *tensors]

    return step, states


def time_and_memory(
    metrics: tuple[str, str], work: Callable, held: Callable, runs: int, warmup: int, device
) -> Iterator[Reading]:
    """Runs a second, of each of `runs`, and memory in GiB at the peak of one: `held()` and what the run takes more."""
    import torch

    from runtime.measuring import extra_memory_gib, wait

    for _ in range(warmup):
        work()
    wait(device)
    base = torch.cuda.memory_allocated(device) if device.type == "cuda" else sum(tensor.nbytes for tensor in held())
    extra = extra_memory_gib(work, device)
    speeds = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        wait(device)
        speeds.append(1 / (time.perf_counter() - began))
    yield Reading(metrics[0], tuple(speeds))
    yield Reading(metrics[1], () if extra is None else (base / 2**30 + extra,))


def rows_of(label: str, readings: list[Reading], failure: str, place: str) -> list[Row]:
    """A row of every metric: the best run of a speed, the most memory of all rounds; empty where there is none."""
    from eval.results.rows import Row, format_number

    rows = []
    for metric, unit in UNITS.items():
        values = [value for found in readings if found.metric == metric for value in found.values]
        note = f"{unit}, {place}"
        if not values:
            told = any(found.metric == metric for found in readings)
            note = "not measured: " + ("this system does not tell a process's peak" if told else failure)
        elif unit == "it/s":
            spread = f"median {format_number(statistics.median(values))}, slowest {format_number(min(values))}"
            note = f"{unit}, fastest run; {spread}; {place}"
        rows.append(Row(metric=metric, subject=label, value=max(values, default=None), n=len(values), note=note))
    return rows


def table(rows: list[Row], place: str, generator: str) -> str:
    """One line a tokenizer, with ratios to the peer or the first, and the paper's where it has both."""
    from eval.results.published import TABLES
    from eval.results.rows import format_number

    values = {(row.subject, row.metric): row.value for row in rows}
    subjects = list(dict.fromkeys(row.subject for row in rows))
    peer = next((subject for subject in subjects if plain(subject) == plain(PEER)), subjects[0])

    def published(subject: str, metric: str) -> float | None:
        places = (
            line.cells[column.title].value
            for found in (TABLES["generation"], TABLES["reconstruction"])
            for line in found.lines
            for column in found.columns
            if column.metric == metric and plain(line.name) == plain(subject)
        )
        return next(places, None)

    def cell(subject: str, metric: str) -> str:
        value, base = values[subject, metric], values[peer, metric]
        if value is None or subject == peer or not base:
            return format_number(value)
        theirs = published(subject, metric), published(peer, metric)
        paper = f"; paper {theirs[0] / theirs[1]:.2f}" if all(theirs) else ""
        return f"{format_number(value)} ({value / base:.2f}{paper})"

    lines = [["tokenizer", *(f"{metric} {unit}".strip() for metric, unit in UNITS.items())]]
    lines += [[subject, *(cell(subject, metric) for metric in UNITS)] for subject in subjects]
    lines.insert(1, ["---"] * len(lines[0]))
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    failed = {row.subject: row.note for row in rows if row.value is None}
    words = "".join(f"\n{subject}: {note}" for subject, note in failed.items())
    return f"{text}\n\n{place}; generator {generator}. In parentheses: ratios to {peer}.{words}"


def plain(name: str) -> str:
    """A tokenizer's name as it is compared: without capitals, hyphens and what is said of its weights."""
    return name.partition(" (")[0].lower().replace("-", "")


if __name__ == "__main__":
    run_command(
        speed,
        SpeedConfig,
        example="python -m eval.speed --tokenizers pv-vae=runs/vae,wan2.2 --weights own,random",
    )
