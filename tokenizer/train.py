"""Train PV-VAE: `python -m tokenizer.train --data videos --root DIR --images images --images-root DIR`.

Three stages in a row (PV-VAE section 4.1), or one of them: images; clips whose last groups of latents are dropped, and
that are decoded whole all the same; the decoder alone. A run is a folder in `--runs-dir`, and the same command goes on
from its newest checkpoint. Without `--data` the preset `demo` learns synthetic clips.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from runtime.command import NOT_IDENTITY, CommonFlags, flag, run_command
from runtime.errors import InputError
from runtime.stopping import orderly
from tokenizer.config import DROP_SCHEDULES, PADDINGS

# Fields that do not change what is learnt, beyond the rounding of sums.
_NOT_IDENTITY = NOT_IDENTITY | {"save_every", "keep_every", "validate_every", "validation_clips", "workers"}
_NOT_IDENTITY |= {"parallel", "accumulate", "checkpoint_blocks", "compile"}

# What earlier versions did, who had no such flags; their runs go on with these.
_AS_BEFORE = {"ema_warmup": True}

# In a run: the files that it was begun with.
LISTING = "files.json"


@dataclass(frozen=True, kw_only=True)
class TrainConfig(CommonFlags):
    """Flags of `python -m tokenizer.train`."""

    data: str | None = flag(None, "data set; without it, the demo preset on synthetic clips (moving_shapes)")
    root: str | None = flag(None, "folder of the data set")
    images: str | None = flag(None, "data set of the images stage; default: single frames of --data")
    images_root: str | None = flag(None, "folder of --images")
    preset: str = flag(
        "paper",
        "size and recipe: paper (default with --data), paper-transformer, small (real clips at 64 pixels), or demo "
        "(default without --data)",
    )
    stage: str = flag("all", "which stage to train", choices=("all", "images", "video", "decoder"))
    steps: int | None = flag(None, "optimizer updates in total; default: the preset's", low=1, high=1_000_000_000)
    batch_size: int = flag(8, "clips in a batch, over all processes", low=1, high=65_536)
    images_per_clip: int = flag(
        4,
        "the images stage takes this many times --batch-size; without --images, of each video so many frames "
        "(of several --image-sizes: one)",
        low=1,
        high=1024,
    )
    init_from: str | None = flag(
        None,
        "start from this tokenizer: a run, with its discriminator, as the next stage of one run does; or the weights "
        "of a folder or a shipped name",
    )
    save_every: int = flag(5000, "steps between checkpoints", low=1)
    keep_every: int | None = flag(
        None, "steps between checkpoints that all stay; default: only that of the video stage's end", low=1
    )
    validate_every: int = flag(5000, "steps between validations on held-out clips", low=1)
    validation_clips: int = flag(64, "how many of them", low=1, high=65_536)
    parallel: str = flag(
        "ddp", "under torchrun: a copy of the model on each process, or its parameters spread", choices=("ddp", "fsdp")
    )
    accumulate: int = flag(1, "parts that a process computes its share of a batch in, to save memory", low=1, high=4096)
    num_frames: int = flag(17, "frames of a clip, 1 + 4k", low=1, high=4097)
    size: int = flag(256, "height and width in pixels", low=8, high=8192)
    frame_stride: tuple[int, ...] | int = flag(
        1, "source frames between two kept ones; of two numbers, as 1,3: drawn for each clip from these to those", low=1
    )
    optimizer: str = flag("adamw", "adamw, as published, or muon for the weights of layers", choices=("adamw", "muon"))
    learning_rate: float = flag(5e-5, "peak rate; cosine decay to a tenth", low=0.0)
    warmup: int = flag(1000, "steps of linear warm-up in every stage", low=0)
    weight_decay: float = flag(0.01, "of the optimizer", low=0.0)
    gradient_clip: float = flag(1.0, "largest norm of the gradient", low=0.0)
    ema_decay: float = flag(0.999, "of the averaged weights, which are the ones used", low=0.0, high=1.0)
    ema_warmup: bool = flag(
        True, "average over about the last tenth of the steps while that is a shorter time than the decay's"
    )
    kl_weight: float = flag(1e-6, "weight of KL, in nats per latent element", low=0.0)
    lpips_weight: float = flag(1.0, "weight of LPIPS (VGG); 0 switches it off and needs no weight file", low=0.0)
    temporal_weight: float = flag(1.0, "weight of the squared error of frame differences", low=0.0)
    spatial_weight: float = flag(0.0, "weight of the squared error of differences between neighbouring pixels", low=0.0)
    max_drop_ratio: float = flag(1.0, "maximum dropping ratio of predictive reconstruction; 0: none", low=0.0, high=1.0)
    reverse: float = flag(0.5, "probability of playing a clip backwards in the video stage", low=0.0, high=1.0)
    drop_schedule: str = flag("suffix", "which groups are dropped: the last, or inside", choices=DROP_SCHEDULES)
    padding: str = flag("learnable", "what replaces dropped latents", choices=PADDINGS)
    gan_weight: float = flag(0.05, "weight of the adversarial loss; 0: none", low=0.0)
    gan_start: int = flag(5000, "steps of the stages images and video before it begins", low=0)
    adaptive_gan: bool = flag(False, "scale it so that it pulls at the last layer as hard as the other losses")
    discriminator_layers: int = flag(3, "halvings of the discriminators: 3 for 256 pixels, 2 for 32", low=1)
    image_sizes: tuple[int, ...] = flag(
        (), "sizes of the images stage, one at each step; default: the preset's, or --size alone", low=8
    )
    clip_sizes: tuple[int, ...] = flag((), "sizes of the other stages, likewise; batches shrink as pixels grow", low=8)
    checkpoint_blocks: bool = flag(False, "recompute activations in the backward pass, to save memory")
    workers: int | None = flag(
        None, "threads of each process that decode clips; default: one a core, at most 8", low=1, high=1024
    )
    compile: str = flag(
        "auto",
        "compile every block (torch.compile); auto: models of the paper's size, on a GPU",
        choices=("auto", "true", "false"),
    )

    def __post_init__(self) -> None:
        if self.data is None:
            raise InputError("--data is needed with --root or a preset of the paper; moving_shapes are synthetic clips")
        if isinstance(self.frame_stride, tuple):
            if len(self.frame_stride) > 2 or list(self.frame_stride) != sorted(self.frame_stride):
                given = ",".join(map(str, self.frame_stride))
                raise InputError(f"--frame-stride {given}: expected a number, or the lowest and the highest, as in 1,3")
            if len(set(self.frame_stride)) == 1:
                object.__setattr__(self, "frame_stride", self.frame_stride[0])
        if self.adaptive_gan and self.parallel == "fsdp":
            raise InputError("--adaptive-gan needs the whole last layer on every process; use it with --parallel ddp")


def preset_defaults(given: dict) -> dict:
    """Flag defaults that follow from `--data` and `--preset`."""
    from tokenizer.presets import PRESETS

    name = given.get("preset") or ("paper" if given.get("data") else "demo")
    if name not in PRESETS:
        raise InputError(f"--preset {name!r} is not known; known: {', '.join(PRESETS)}")
    training = dict(PRESETS[name].training)
    if "size" in given:  # for all stages; several are asked for by name
        training |= {"image_sizes": (), "clip_sizes": ()}
    # Nobody waits weeks for the paper's network to have learned synthetic clips because a flag was forgotten.
    synthetic = not (name.startswith("paper") or given.get("root"))
    return {**({"data": "moving_shapes"} if synthetic else {}), "preset": name, **training}


def train(config: TrainConfig) -> Path:
    """Train, or resume, one tokenizer run; returns its directory."""
    import torch

    from runtime import processes, seeds
    from runtime.checkpoint import list_checkpoints, prune
    from runtime.log import MetricsLog, Progress
    from runtime.run import Run, default_name, departing
    from runtime.trainer import require_training
    from tokenizer.losses import mixed_precision_lpips
    from tokenizer.presets import PRESETS
    from tokenizer.source import check_source
    from tokenizer.stages import StageTraining, stage_plan
    from tokenizer.validation import find_lpips_networks
    from videos.listing import write_listing

    plan = stage_plan(config.stage, config.steps, PRESETS[config.preset].stage_steps)
    world = processes.start_processes(config.device)
    dtype = processes.resolve_dtype(config.dtype, world.device)
    model_config = network_size(config)
    identity = {field.name: getattr(config, field.name) for field in fields(config) if field.name not in _NOT_IDENTITY}
    identity = departing(identity, _AS_BEFORE)
    identity |= {"steps": plan[-1].stop, "dtype": str(dtype), "model": model_config.to_dict()}
    name = config.name or default_name(config.preset, config.data, identity)
    run_dir = Path(config.runs_dir) / name
    # A run that has checkpoints goes on from these, and does not need what it began from; which main process knows.
    begun = bool(world.same(bool(list_checkpoints(run_dir))))
    beginning = replace(config, init_from=None) if begun else config
    predecessor = find_predecessor(beginning)
    lpips_network = build_lpips(config, world.device)
    validation_lpips = find_lpips_networks(world.device, lpips_network)
    if world.device.type == "cuda":
        if lpips_network is not None and dtype != torch.float32:
            lpips_network = mixed_precision_lpips(lpips_network)
        # Try the ways of each convolution where its sizes come again at every step.
        torch.backends.cudnn.benchmark = max(len(config.image_sizes), len(config.clip_sizes)) < 2
    clips = open_clips(config, run_dir)
    identity["data_fingerprint"] = next(iter(clips.video.values())).fingerprint()
    for stage in plan:
        clips.loader(config, stage.name, world, 0)  # refuse batches that do not divide before any work
    Run.check(config, kind="tokenizer", name=name, identity=identity)
    source = (config.init_from and world.first(lambda: check_source(run_dir, config.init_from, begun=begun))) or {}
    # Late, since the paper's takes a while to build.
    parameters = sum(p.numel() for p in build_model(beginning, model_config).parameters())
    every = config.keep_every
    kept = len({*range(every, plan[-1].stop, every), *(stage.stop for stage in plan)}) if every else 1
    estimate = require_training(parameters, world, run_dir, mode=config.parallel, steps=plan[-1].stop, kept=kept)
    extra = {"plan": [asdict(stage) for stage in plan], "parameters": parameters}
    session = {"processes": world.size, "parallel": config.parallel, "accumulate": config.accumulate, **source}
    run = world.first(
        lambda: Run.open(config, kind="tokenizer", name=name, identity=identity, extra_manifest=extra, session=session)
    )
    with run or nullcontext(), orderly():
        if world.is_main and clips.listing and not (run_dir / LISTING).exists():
            write_listing(run_dir / LISTING, clips.listing)
        if world.is_main and config.preset == "demo" and config.data == "moving_shapes":
            print("tokenizer.train: demo preset on synthetic clips (moving_shapes); --data and --root train on yours")
        seeds.seed_everything(config.seed)
        if world.is_main:
            prune(run_dir)
        found = list_checkpoints(run_dir)
        step = world.same(found[-1][0] if found else 0)  # as the main process sees the disk: see `Trainer.newest`
        if step >= plan[-1].stop:
            if world.is_main:
                print(f"tokenizer.train: {run_dir} is complete ({step} steps)")
            return run_dir
        log = MetricsLog(run_dir, resume_step=step) if world.is_main else None
        if world.is_main:
            where = f"on {world.device} in {str(dtype).removeprefix('torch.')}"  # a GPU that is not seen is no error
            print(f"tokenizer.train: {where}; {estimate}", file=sys.stderr)
        progress = Progress(plan[-1].stop, start=step, label=name)
        layout = torch.channels_last_3d  # what convolutions like best
        for stage in plan:
            if step < stage.stop:
                training = StageTraining(
                    config,
                    stage,
                    build_model(beginning, model_config).to(world.device, memory_format=layout).train(),
                    clips=clips,
                    run_dir=run_dir,
                    world=world,
                    dtype=dtype,
                    lpips_network=lpips_network,
                    validation_lpips=validation_lpips,
                    predecessor=predecessor,
                )
                with training.trainer.checkpoints:
                    step = training.run(log, progress)
                del training  # its weights make room for those of the next stage
                gc.collect()  # also where compiled blocks, which are in cycles, hold them
                beginning = replace(config, init_from=None)  # which goes on from this one's last checkpoint
        if world.is_main:
            progress.close()
            log.close()
            print(f"tokenizer.train: wrote {run_dir}")
    return run_dir


def network_size(config: TrainConfig):
    """The preset's config with the flags' padding; InputError unless the clips fit it."""
    from tokenizer.discriminator import DiscriminatorConfig
    from tokenizer.presets import PRESETS

    model_config = replace(PRESETS[config.preset].model, padding=config.padding)
    for size in {config.size, *config.image_sizes, *config.clip_sizes}:
        model_config.spec.latent_shape(config.num_frames, size, size)
        if config.gan_weight:
            DiscriminatorConfig(layers=config.discriminator_layers).check_size(size, size)
    return model_config


def find_predecessor(config: TrainConfig) -> Path | None:
    """The checkpoint of the run that `--init-from` names; None where there is none, as in a folder of weights alone.

    Raises:
        InputError: If there is no such tokenizer, or its discriminator is of another size or cannot go on.
    """
    from runtime.checkpoint import OPTIMIZER
    from runtime.weights import read_weights
    from tokenizer.discriminator import layers_of
    from tokenizer.stages import has_discriminator
    from tokenizer.zoo import find_folder

    if config.init_from is None:
        return None
    folder = find_folder(config.init_from)
    if config.gan_weight and has_discriminator(folder):
        if not (folder / OPTIMIZER).is_file():
            raise InputError(
                f"--init-from {config.init_from}: {folder} is no longer among the newest of its run and holds weights "
                "alone, with which its discriminator cannot go on; give a newer one, or --gan-weight 0"
            )
        layers = layers_of(read_weights(folder / "discriminator.safetensors"))
        if layers != config.discriminator_layers:
            raise InputError(
                f"--init-from {config.init_from}: its discriminator has {layers} layers, not "
                f"{config.discriminator_layers}; give --discriminator-layers {layers}"
            )
    return folder if (folder / "state.json").is_file() else None


def build_model(config: TrainConfig, model_config):
    """The network with seeded weights, or the weights of `--init-from`."""
    from runtime.seeds import seeded
    from tokenizer.pvvae import PVVAE
    from tokenizer.zoo import load

    if config.init_from is None:
        return seeded(lambda: PVVAE(model_config), config.seed)
    vae = load(config.init_from).requires_grad_(True)
    if vae.config == model_config:
        return vae
    if config.stage != "video" or replace(vae.config, padding=config.padding) != model_config:
        raise InputError(
            f"--init-from {config.init_from}: its model differs from preset {config.preset!r} with --padding "
            f"{config.padding}; choose the preset that it was trained with"
        )
    # No stage before has trained a padding, so that stages of several can begin from the same pictures.
    other = seeded(lambda: PVVAE(model_config), config.seed)
    for part in ("encoder", "decoder"):
        getattr(other, part).load_state_dict(getattr(vae, part).state_dict())
    return other


def open_clips(config: TrainConfig, run_dir: Path):
    """The `tokenizer.stages.Clips` of a run: of the files that it was begun with, where it has begun.

    Pictures are enlarged to the smallest size of a stage alone; larger sizes leave smaller files out, and a size that
    no file has is left out itself. All of that is said.

    Raises:
        InputError: If there is no such data set, files are new or have changed since the run began, or more than one in
            a hundred is gone or unreadable.
    """
    from tokenizer.stages import Clips
    from videos import ClipSpec, open_dataset
    from videos.clip import lowest_stride
    from videos.datasets import FILE_DATASETS, left_out_words
    from videos.listing import read_listing
    from videos.unreadable import UnreadableFiles

    kept, listing = read_listing(run_dir / LISTING), {}

    def spec(num_frames: int, size: int, window: str = "random") -> ClipSpec:
        stride = config.frame_stride if window == "random" else 1
        return ClipSpec(num_frames=num_frames, size=size, frame_stride=stride, window=window)

    def opened(word: str, data: str, root: str | None, clip: ClipSpec):
        dataset = open_dataset(data, root=root, split="train", clip=clip)
        if word in kept and hasattr(dataset, "as_listed"):
            dataset = dataset.as_listed(kept[word])
        elif words := left_out_words(dataset, root):
            _say(words)
        listing.update({word: dataset.files} if hasattr(dataset, "files") else {})
        if getattr(dataset, "gone", ()):
            _say(f"{len(dataset.gone)} of {len(dataset.files)} files of {root} are gone; their rows are drawn again")
        return dataset

    def by_size(dataset, num_frames: int, sizes: tuple[int, ...], window: str) -> dict:
        smallest = dataset.with_clip(spec(num_frames, min(sizes), window))
        if smallest.num_enlarged:
            _say(f"{smallest.num_enlarged} of {len(smallest)} files are smaller than {min(sizes)} pixels, and enlarged")
        found = {}
        for size in sizes:
            if size == min(sizes):
                found[size] = smallest
                continue
            try:
                found[size] = dataset.with_clip(spec(num_frames, size, window), enlarge=False)
            except InputError:
                _say(f"no file has {size} pixels: that size is left out")
                continue
            if len(found[size]) < len(smallest):
                _say(f"{len(smallest) - len(found[size])} files are smaller than {size} pixels, and left out there")
        return found

    image_sizes, clip_sizes = config.image_sizes or (config.size,), config.clip_sizes or (config.size,)
    films = opened("video", config.data, config.root, spec(config.num_frames, min(clip_sizes)))
    pictures = films
    if config.images:
        pictures = opened("images", config.images, config.images_root, spec(1, min(image_sizes)))
    # A frame of a video costs the decoding of all before it, so as many are taken as make the images of one clip; not
    # of several sizes, whose batches would divide less well.
    of_videos = not config.images and config.data in FILE_DATASETS and config.data != "images"
    frames = config.images_per_clip if of_videos and len(image_sizes) == 1 else 1
    center = ClipSpec(config.num_frames, config.size, lowest_stride(config.frame_stride), window="center")
    held_out = open_dataset(config.data, root=config.root, split="test", clip=center)
    return Clips(
        by_size(pictures, frames, image_sizes, "scattered"),
        by_size(films, config.num_frames, clip_sizes, "random"),
        validation_batches(held_out, config.validation_clips, config.seed),
        listing,
        UnreadableFiles(run_dir / "unreadable.jsonl", sum(map(len, listing.values()))),
        frames,
    )


def _say(words: str) -> None:
    from runtime.run import is_main

    if is_main():
        print(f"tokenizer.train: {words}", file=sys.stderr)


def validation_batches(dataset, count: int, seed: int) -> list:
    """At most `count` clips in batches of 16, uint8 `[B, 3, 1+T, H, W]`.

    They are drawn class by class, or folder by folder where there are no classes; of synthetic data, whose items are
    independent draws already, they are the first ones.

    A clip that cannot be decoded is left out, and said.

    Raises:
        InputError: If none can be decoded.
    """
    import torch

    from videos.splits import stratified_order
    from videos.unreadable import UnreadableClip

    order = stratified_order(dataset.classes(), seed) if hasattr(dataset, "classes") else range(len(dataset))
    items = []
    for index in order:
        if len(items) == count:
            break
        try:
            items.append(torch.as_tensor(dataset[index]["video"]))
        except UnreadableClip as error:
            _say(f"left out of validation: {error}")
    if not items:
        raise InputError("none of the held-out clips (split test) can be decoded; repair them, or remove them")
    return [torch.stack(items[i : i + 16]) for i in range(0, len(items), 16)]


def build_lpips(config: TrainConfig, device) -> Callable | None:
    """The VGG LPIPS network, or None when its weight is 0."""
    if config.lpips_weight == 0.0:
        return None
    from videos.quality import lpips_network

    try:
        return lpips_network("vgg").to(device)
    except InputError as error:
        raise InputError(f"{error}; or train without it: --lpips-weight 0") from error


if __name__ == "__main__":
    run_command(train, TrainConfig, presets=preset_defaults, example="python -m tokenizer.train --steps 300")
