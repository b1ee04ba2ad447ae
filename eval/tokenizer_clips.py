"""A tokenizer and the held-out clips that it is judged on, as every command opens them that judges one without a
generator; and the one look at clips that its encoder takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.command import flag
from runtime.errors import InputError
from tokenizer.hub import DownloadFlags

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from eval.extract import View
    from eval.features.store import FeatureSet
    from runtime.processes import World
    from tokenizer.spec import Posterior


@dataclass(frozen=True, kw_only=True)
class ClipFlags(DownloadFlags):
    """Which clips a tokenizer is judged on."""

    data: str | None = flag(None, "data set; default: the one that the tokenizer was trained on")
    root: str | None = flag(None, "its folder; default: likewise")
    split: str = flag(
        "test", "which part; of kinetics400, test is the validation set", choices=("all", "train", "test")
    )
    samples: int = flag(256, "clips; of a data set of files a seeded, class-stratified draw", low=2, high=1_000_000)
    num_frames: int | None = flag(None, "frames of a clip; default: as trained, else 17", low=1, high=4097)
    size: int | None = flag(None, "height and width; default: as trained, else 256", low=8, high=8192)
    batch_size: int | None = flag(
        None,
        "clips in one forward pass, at most 32; default: 4 of 17x256x256, as many pixels",
        low=1,
        high=65_536,
    )


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A tokenizer and its clips.

    Attributes:
        name: The tokenizer's, as `tokenizer.load` takes it.
        weights: Likewise.
        vae: It, on `device`.
        data: Name of the data set, opened as `dataset`.
        clip: Which frames of a video, at what size.
        items: Of the data set.
        stratified: Whether they were drawn class by class, which intervals then respect.
        folder: Where results of the tokenizer go.
        flags: That clips were chosen by.
    """

    name: str
    weights: str | None
    vae: torch.nn.Module
    device: torch.device
    data: str
    clip: object
    dataset: object
    items: Sequence[int]
    stratified: bool
    folder: Path
    flags: ClipFlags

    @property
    def run_folder(self) -> Path:
        """The run that its results lie in, or what stands for one."""
        return self.folder.parents[self.folder.name != "eval"]

    @property
    def clip_key(self) -> dict:
        """What kept rows depend on, of the clips."""
        return {
            "data": self.data,
            "fingerprint": self.dataset.fingerprint(),
            "split": self.flags.split,
            "seed": self.flags.seed,
        }

    @property
    def facts(self) -> dict:
        """What results say of tokenizer and clips."""
        return {
            "tokenizer": self.name,
            **({"weights": self.weights} if self.weights else {}),
            "encoder_hash": self.vae.encoder_hash,
            "decoder_hash": self.vae.decoder_hash,
            "spec": self.vae.spec.to_dict(),
            "data": self.data,
            "split": self.flags.split,
            "size": self.clip.height,
            "num_frames": self.clip.num_frames,
            "frame_stride": self.clip.frame_stride,
            "seed": self.flags.seed,
            "device": self.flags.device,
        }

    @property
    def kept_below(self) -> Path:
        """The folder of kept features."""
        return Path(self.flags.runs_dir) / "features"

    def seen(self, views: Mapping[str, View], world: World, label: str) -> dict[str, FeatureSet]:
        """What views make of the clips, each of which is read once (see `eval.extract`); one that cannot be decoded is
        left out, and recorded beside what is kept."""
        from eval.clip_sets import names_of
        from eval.extract import extract, read_items, record_of

        return extract(
            views,
            names_of(self.dataset, self.items),
            read_items(self.dataset, self.items, self.flags.seed, world.device),
            world=world,
            label=label,
            unreadable=record_of(self.kept_below, self.dataset),
        )

    def out(self, kind: str) -> Path:
        """Where results of a kind go, unless a flag says otherwise; the folder is made."""
        self.folder.mkdir(parents=True, exist_ok=True)
        words = [kind, self.data, self.flags.split, f"{self.clip.height}px", f"n{len(self.items)}"]
        words += [f"{self.clip.num_frames}frames"] if self.flags.num_frames else []
        words += [f"seed{self.flags.seed}"] if self.flags.seed else []
        return self.folder / f"{'-'.join(words)}.json"


def open_clips(flags: ClipFlags, name: str | None, weights: str | None, device: torch.device) -> Opened:
    """Load a tokenizer and choose its clips.

    Raises:
        InputError: Before any clip is read: on an unknown tokenizer or data set, or clips that do not fit.
    """
    from runtime.run import newest_run
    from tokenizer.zoo import load, pinned, trained_on
    from videos import open_dataset

    name = name or str(newest_run(flags.runs_dir, "tokenizer"))
    name = pinned(name, weights, download=flags.download)
    vae = load(name, weights, device=device)
    trained = trained_on(name)
    data = flags.data or trained.get("data")
    if data is None:
        raise InputError(f"--data is needed: {name!r} is no training run that could name a data set")
    clip = clip_of(flags, trained, data)
    vae.spec.latent_shape(clip.num_frames, clip.height, clip.width)  # refuse a clip that does not fit
    root = flags.root or (trained.get("root") if data == trained.get("data") else None)
    dataset = open_dataset(data, root=root, split=flags.split, clip=clip)
    items, stratified = drawn(dataset, data, flags)
    return Opened(
        name=name,
        weights=weights,
        vae=vae,
        device=device,
        data=data,
        clip=clip,
        dataset=dataset,
        items=items,
        stratified=stratified,
        folder=results_folder(name, vae, flags.runs_dir, weights),
        flags=flags,
    )


def run_results(run: Path, step: int | None = None) -> Path:
    """Where results of a run, or of its checkpoint of a step, lie."""
    return run / "eval" if step is None else run / "eval" / f"step_{step:08d}"


def results_folder(name: str, vae, runs_dir: str, weights: str | None = None) -> Path:
    """Where results of a tokenizer go: into its run, of one of its checkpoints into a folder of that; or below
    `--runs-dir` where it has no run, or other weights than the run's."""
    from eval.decode import file_word
    from tokenizer.baselines.registry import is_baseline
    from tokenizer.zoo import run_and_step

    run, step = run_and_step(name)
    if weights is None and (run / "manifest.json").is_file():
        return run_results(run, step)
    own = f"shipped-{run.name}"
    if is_baseline(name):  # two files of weights, or two folders of one class, are two tokenizers
        own = f"baseline-{file_word(vae.spec.name)}-{vae.decoder_hash[:8]}"
    elif weights is not None:
        own = f"{run.name}-weights-{vae.decoder_hash[:8]}"
    return Path(runs_dir) / own / "eval"


def clip_of(flags: ClipFlags, trained: dict, data: str):
    """The first frames of a video; what no flag says is as the tokenizer was trained, on its own data set also the
    frame stride."""
    from videos import ClipSpec
    from videos.clip import lowest_stride

    return ClipSpec(
        num_frames=flags.num_frames or trained.get("num_frames", 17),
        size=flags.size or trained.get("size", 256),
        frame_stride=lowest_stride(trained.get("frame_stride")) if data == trained.get("data") else 1,
        window="first",
    )


def drawn(dataset, data: str, flags: ClipFlags) -> tuple[list[int], bool]:
    """Which items, and whether they were drawn class by class.

    Files are sorted by class, so the first ones would be of a few classes; items of a synthetic data set are
    independent draws already.
    """
    from videos.datasets import FILE_DATASETS
    from videos.splits import stratified_order

    count = min(flags.samples, len(dataset))
    if count < 2:
        more = "" if flags.split == "all" else "; --split all takes every clip"
        raise InputError(f"data set {data!r} has {len(dataset)} clips in split {flags.split!r}, two are needed{more}")
    if data not in FILE_DATASETS:
        return list(range(count)), False
    labels = dataset.labels()
    return sorted(stratified_order(labels, flags.seed)[:count]), len(set(labels)) > 1


def predictor_of(name: str, weights: str | None, vae, device: torch.device):
    """What predicts with a tokenizer: the weights of its video stage; somebody's own class itself, which has one set of
    weights. None where there is nothing that does.

    Args:
        name, weights: What `tokenizer.load` made `vae` of.
    """
    from tokenizer.baselines.registry import is_baseline
    from tokenizer.zoo import load_predictor

    if is_baseline(name):
        return vae if hasattr(vae, "predict") else None
    # Weights other than a run's own are another tokenizer than the one whose video stage it has.
    return None if weights else load_predictor(name, device=device)


@dataclass(frozen=True)
class Encoded:
    """A batch of clips, a few at a time: uint8 `[b, 3, 1+T, H, W]` on the device, and what the encoder makes of it."""

    parts: tuple[tuple[Tensor, Posterior], ...]


def encoder_of(vae, device: torch.device, dtype: torch.dtype, batch_size: int | None) -> Callable[[Tensor], Encoded]:
    """A `View.change` of `eval.extract`: views that share it have every clip encoded once.

    Args:
        batch_size: Clips in one forward pass; None: by their size.
    """

    def encode(video: Tensor) -> Encoded:
        import torch

        from eval.decode import clips_at_once
        from runtime.processes import autocast
        from videos import to_float

        parts = []
        for part in video.split(batch_size or clips_at_once(*video.shape[2:])):
            clip = part.to(device)
            with torch.no_grad(), autocast(device, dtype):
                parts.append((clip, vae.encode(to_float(clip))))
        return Encoded(tuple(parts))

    return encode
