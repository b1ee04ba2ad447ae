"""What a generator's tokens know of motion: `python -m eval.probe --run RUN --task flow,next-frame,tracking`.

PV-VAE's table 3 probes the tokens after block 14 of 28: optical flow of Sintel and the next frame of Kinetics-400, each
by a head of 3D convolutions and a pixel shuffle, and points of TAP-Vid-DAVIS by likeness alone. Noise level, resolution
and split of its probes are not published; here there are three levels, and the data set's own split.

Beside each number stand an answer that knows nothing (nothing moves; the last frame again) and the same probe on the
noisy latents and on the untrained generator, with paired differences to all three. `--runs with=RUN,without=RUN` is the
table: the same probes of several generators, and their paired differences, as `eval.difference` makes them of any two
results. `eval.verify` computes all of them again from what was kept of every head.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.command import flag, run_command
from runtime.errors import InputError
from runtime.output import check_file
from tokenizer.hub import DownloadFlags

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eval.probes.measure import Found

TASKS = ("flow", "next-frame", "tracking")
PUBLISHED_ON = {"flow": "sintel", "next-frame": "kinetics400", "tracking": "tapvid_davis"}


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(DownloadFlags):
    """Flags of `python -m eval.probe`."""

    run: str | None = flag(None, "run of generator.train or shipped name; default: the newest run")
    runs: tuple[str, ...] = flag((), "instead of --run, several by commas, as with=RUN,without=RUN: table 3")
    step: int | None = flag(None, "which checkpoint; default: the newest", low=0)
    task: tuple[str, ...] = flag(TASKS, "what is asked", choices=TASKS)
    data: tuple[str, ...] = flag((), "one data set, or one for each task; default: that of the generator")
    root: tuple[str, ...] = flag((), "its folder, or one for each task; default: that of the generator's data")
    tokenizer: str | None = flag(None, "tokenizer that encodes clips; default: the one that encoded the latents")
    weights: str | None = flag(None, "its weight file, or 'random'; default: as the latents were encoded")
    noise: tuple[float, ...] = flag((0.0, 10.0, 20.0), "per cent of noise in what the generator sees", low=0, high=99)
    seeds: tuple[int, ...] = flag((0, 1, 2), "of the heads' weights and order of clips", low=0)
    samples: int = flag(256, "clips to judge by, at most", low=2, high=1_000_000)
    train_clips: int = flag(512, "clips to train heads on, at most", low=2, high=1_000_000)
    head_steps: int = flag(500, "training steps of a head", low=1, high=1_000_000)
    head_width: int = flag(64, "channels inside of a head", low=1, high=4096)
    batch_size: int = flag(16, "clips in a batch of a head", low=1, high=65_536)
    block: int | None = flag(None, "whose tokens, counted from 1; default: the middle one, 14 of 28", low=1)
    out: str | None = flag(
        None,
        "JSON file, of several tasks -TASK is added to its name; default: eval/probe-….json in the run",
        check=check_file,
    )

    def __post_init__(self) -> None:
        if self.run and self.runs:
            raise InputError("--run and --runs are both given; one of them will do")
        for name in ("task", "noise", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise InputError(f"--{name} {','.join(map(str, values))}: expected one or more, each once")
        for name in ("data", "root"):
            count = len(getattr(self, name))
            if count not in (0, 1, len(self.task)):
                raise InputError(f"--{name} gives {count} to {len(self.task)} tasks; give 1, or each")
        if self.out and len(self.runs) > 1:
            raise InputError(f"--out {self.out}: one file cannot hold several runs; leave --out away")
        labels = [label for label, _ in self.labelled]
        if len(set(labels)) < len(labels):
            raise InputError(f"--runs {','.join(self.runs)}: a label is given twice; label=RUN gives another")
        if len({Path(run).resolve() for _, run in self.labelled}) < len(labels):
            raise InputError(f"--runs {','.join(self.runs)}: a run is named twice")
        if any("/" in label or "\0" in label for label in labels):  # labels are parts of file names
            raise InputError(f"--runs {','.join(self.runs)}: a label holds a slash")

    @property
    def labelled(self) -> list[tuple[str, str]]:
        """Label and run of each of `runs`."""
        parts = [text.rpartition("=") for text in self.runs]
        return [(label or Path(run).name, run) for label, _, run in parts]

    def of_task(self, name: str, task: str) -> str | None:
        """What `data` or `root` gives to a task; None where it is left open."""
        values = getattr(self, name)
        return None if not values else values[0] if len(values) == 1 else values[self.task.index(task)]


@dataclass(frozen=True)
class Probed:
    """One generator by one task."""

    out: Path
    facts: dict
    found: Found


def probe(config: ProbeConfig) -> list[Path]:
    """Probe every run by every task, print the tables, write a JSON each and one for each difference."""
    from eval.probes.rows import beside_published, rows_of
    from eval.results.rows import table, write_results
    from runtime.processes import start_processes
    from runtime.run import newest_run

    world = start_processes(config.device)
    runs = config.labelled or [("", config.run or str(newest_run(config.runs_dir, "generator")))]
    # All of them before hours go into the first.
    subjects = {label: Subject(config, run, world) for label, run in runs}
    plans = {(task, label): subject.plan(task) for task in config.task for label, subject in subjects.items()}
    for task in config.task:
        check_same_clips({label: plans[task, label][0] for label in subjects})
    written = []
    for task in config.task:
        probed = []
        for label, subject in subjects.items():
            one = subject.probe(task, plans[task, label])
            if one is None:
                continue
            rows = rows_of(task, one.found)
            print(f"eval.probe: {task} of {label or subject.name} on {one.facts['data']}\n{table(rows)}")
            write_results(one.out, kind="probe", rows=rows, **one.facts)
            print(f"eval.probe: wrote {one.out}")
            probed.append((label, one.out))
        written += probed
        written += [("", beside(config, probed[0][1], *other)) for other in probed[1:]]
    if world.is_main:
        print(beside_published(written))
    return [path for _, path in written]


class Subject:
    """A generator with its tokenizer, ready to be probed.

    Raises:
        InputError: If they do not fit together, or `--block` is none of its blocks.
    """

    def __init__(self, config: ProbeConfig, run: str, world):
        from eval.decode import fitting_tokenizer
        from eval.probes.features import maker, probed_block
        from generator.loading import chosen, load_generator
        from runtime.processes import resolve_dtype
        from tokenizer.spec import weights_hash

        # The main process chooses: a run that is being trained may get a newer checkpoint at any moment.
        run, step = world.agreed(lambda: chosen(run, config.step, config.runs_dir))
        self.config, self.name, self.world = config, run, world
        self.dtype = resolve_dtype(config.dtype, world.device)
        self.generator = load_generator(run, step)
        self.vae = fitting_tokenizer(
            self.generator.latents,
            run,
            config.tokenizer,
            config.weights,
            device=str(world.device),
            download=config.download,
        )
        depth = self.generator.config.depth
        self.block = config.block or probed_block(depth)
        if self.block > depth:
            raise InputError(f"--block {self.block}: {run} has {depth} blocks")
        model = self.generator.model
        self.make = maker(model, self.block, config.seed, world.device, self.dtype)
        about = {"block": self.block, "dtype": str(self.dtype).removeprefix("torch.")}
        latents = {name: self.generator.latents[name] for name in ("mean", "std")}
        self.identity = {
            "generator": about | latents | {"weights": weights_hash(asdict(model.config), model.state_dict())},
            "untrained generator": about | latents | {"config": asdict(model.config), "untrained_seed": config.seed},
            "latents": latents,
        }

    def plan(self, task: str) -> tuple:
        """Data sets to judge by and to train on (None), and frames that are encoded; nothing is read yet."""
        from eval.probes.clips import TRUTHS, check_apart, clip_of, observed_groups, open_split

        facts = self.generator.latents
        data = self.config.of_task("data", task) or facts.get("data")
        if not data:
            raise InputError(f"--data is needed: {self.name} does not say what it was trained on")
        root = self.config.of_task("root", task) or (facts.get("root") or None if data == facts.get("data") else None)
        clip, spec = clip_of(facts, data), self.vae.spec
        if spec.latent_shape(clip.num_frames, clip.height, clip.width) != self.generator.config.latent_shape:
            raise InputError(f"{self.name}: clips of {clip.num_frames}x{clip.height}x{clip.width} are not its latents")
        groups = observed_groups(task, self.generator.config.groups)
        observed = spec.frames(groups)
        spec.latent_shape(observed, clip.height, clip.width)  # refuse what the tokenizer cannot encode alone
        judged = open_split(task, data, root, "test", clip)
        learnt = open_split(task, data, root, "train", clip) if TRUTHS[task].is_trained else None
        if learnt is not None:
            check_apart(judged, learnt)
        return judged, learnt, observed

    def probe(self, task: str, plan: tuple) -> Probed | None:
        """All probes of a task; None on other processes than the main one."""
        from eval.probes.clips import drawn, load_clips
        from eval.probes.measure import Recipe, measure

        judged, learnt, observed = plan
        config, runs_dir = self.config, Path(self.config.runs_dir)
        settings = {"observed": observed, "folder": runs_dir / "features", "seed": config.seed, "world": self.world}
        loaded = [
            dataset
            and load_clips(
                task,
                dataset,
                drawn(dataset, dataset.name, count, config.seed),
                self.vae,
                **settings,
                dtype=self.dtype,
            )
            for dataset, count in ((judged, config.samples), (learnt, config.train_clips))
        ]
        recipe = Recipe(
            levels=tuple(level / 100 for level in config.noise),
            seeds=config.seeds,
            noise_seed=config.seed,
            head_steps=config.head_steps,
            head_width=config.head_width,
            batch_size=config.batch_size,
        )
        found = measure(
            task,
            *loaded,
            self.make,
            self.normalize,
            spatial=self.vae.spec.spatial,
            recipe=recipe,
            identity=self.identity,
            folder=runs_dir / "probes",
            world=self.world,
        )
        if found is None:
            return None
        return Probed(self.out(task, judged), self.facts(task, judged, loaded) | {"videos": found.videos}, found)

    def normalize(self, latents):
        """Raw latents to what the generator takes: the inverse of `LoadedGenerator.denormalize`."""
        import torch

        mean, std = (torch.tensor(self.generator.latents[name]).view(1, -1, 1, 1, 1) for name in ("mean", "std"))
        return (latents - mean) / std

    def out(self, task: str, dataset) -> Path:
        """The results file."""
        if self.config.out:
            return out_of(self.config.out, task, self.config.task)
        own = (Path(self.name) / "manifest.json").is_file()
        folder = Path(self.name) if own else Path(self.config.runs_dir) / f"shipped-{Path(self.name).name}"
        return folder / "eval" / f"probe-{task}-{dataset.name}-step{self.generator.step:08d}.json"

    def facts(self, task: str, dataset, loaded: list) -> dict:
        """What the results file says of itself."""
        from eval.decode import weights_of
        from tokenizer.zoo import pinned

        config = asdict(self.config)
        kept = ("noise", "seeds", "head_steps", "head_width", "batch_size", "seed")
        words = differences(task, dataset.name, dataset.clip)
        latents = self.generator.latents
        tokenizer = self.config.tokenizer or latents.get("tokenizer", "")
        weights = weights_of(latents, self.config.tokenizer, self.config.weights)
        about = {"run": self.name, "step": self.generator.step, "tokenizer": pinned(tokenizer, weights)}
        about |= {"weights": weights} if weights else {}
        about |= {"encoder_hash": self.vae.encoder_hash, "decoder_hash": self.vae.decoder_hash, "of": task}
        about |= {"data": dataset.name, "split": "test", "size": dataset.clip.height, "block": self.block}
        about |= {"depth": self.generator.config.depth, "num_frames": dataset.clip.num_frames}
        about |= {"samples": len(loaded[0].items), "train_clips": len(loaded[1].items) if loaded[1] else 0}
        about |= {"judged_on": loaded[0].same, "heads_trained_on": loaded[1].same if loaded[1] else ""}
        return about | {name: config[name] for name in kept} | {"device": str(self.world.device), "differences": words}


def check_same_clips(judged: dict[str, object]) -> None:
    """InputError when the data sets that runs are judged by, by label, give other clips."""
    kinds = {label: (dataset.name, dataset.clip, dataset.fingerprint()) for label, dataset in judged.items()}
    first = next(iter(kinds))
    for label, kind in kinds.items():
        if kind != kinds[first]:
            raise InputError(f"--runs: {first} and {label} would be judged on other clips, and cannot be compared")


def beside(config: ProbeConfig, first: Path, label: str, other: Path) -> Path:
    """Write how the first generator differs from another one; returns the file."""
    from eval.difference import DifferenceConfig, difference

    out = first.with_name(f"difference-{first.stem}-with-{label}.json")
    return difference(DifferenceConfig(runs_dir=config.runs_dir, a=str(first), b=str(other), out=str(out)))


def out_of(out: str | Path, task: str, tasks: Sequence[str]) -> Path:
    """The results file of one of several tasks that `--out` means."""
    return Path(out) if len(tasks) == 1 else Path(out).with_stem(f"{Path(out).stem}-{task}")


def differences(task: str, data: str, clip) -> list[str]:
    """In words, how these numbers differ from the paper's protocol."""
    words = []
    if data.removesuffix("_clean") != PUBLISHED_ON[task]:
        words.append(f"{task} on {data} instead of {PUBLISHED_ON[task]}")
    if (clip.num_frames, clip.height, clip.width) != (17, 256, 256):
        words.append(f"clips of {clip.num_frames}x{clip.height}x{clip.width} instead of 17x256x256")
    return words


if __name__ == "__main__":
    run_command(
        probe,
        ProbeConfig,
        example="python -m eval.probe --runs with=runs/a,without=runs/b --data sintel,kinetics400,tapvid_davis "
        "--root SINTEL,K400,TAPVID",
    )
