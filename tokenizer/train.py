"""Train PV-VAE: `python -m tokenizer.train` (three stages; PV-VAE section 3.3 and 4.1).

    images   single frames, reconstruction
    video    clips, predictive reconstruction and random reverse; its last checkpoint is kept, since only it can predict
    decoder  clips, encoder and padding frozen, nothing dropped

Every action is a function of the step: data order, noise, dropped groups and learning rate, so a resumed run repeats an
    undisturbed one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields

from runtime.command import CommonFlags, flag, run_command
from runtime.errors import InputError

STAGES = ("images", "video", "decoder")
MAX_SKIPPED_IN_A_ROW = 10
VALIDATION_CLIPS = 64
_NOT_IDENTITY = {"runs_dir", "name", "device", "dry_run", "save_every", "validate_every", "keep_last"}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(CommonFlags):
    """Flags of `python -m tokenizer.train`."""

    data: str | None = flag(None, "data set; without it, the demo preset on synthetic clips (moving_shapes)")
    root: str | None = flag(None, "folder of the data set")
    images: str | None = flag(None, "data set of the images stage; default: single frames of --data")
    images_root: str | None = flag(None, "folder of --images")
    preset: str = flag("paper", "size and recipe: paper (default with --data) or demo (default without)")
    stage: str = flag("all", "which stage to train", choices=("all", *STAGES))
    steps: int | None = flag(None, "optimizer updates in total; default: the preset's", low=1, high=1_000_000_000)
    batch_size: int = flag(8, "clips in a batch, over all processes", low=1, high=65_536)
    images_per_clip: int = flag(4, "the images stage takes this many times --batch-size", low=1, high=1024)
    init_from: str | None = flag(None, "start from the weights of this tokenizer (a run, a folder, or a shipped name)")
    save_every: int = flag(5000, "steps between checkpoints", low=1)
    validate_every: int = flag(5000, "steps between validations on held-out clips", low=1)
    num_frames: int = flag(17, "frames of a clip, 1 + 4k", low=1, high=4097)
    size: int = flag(256, "height and width in pixels", low=8, high=8192)
    frame_stride: int = flag(1, "source frames between two kept ones", low=1)
    learning_rate: float = flag(5e-5, "peak rate of AdamW; cosine decay to a tenth", low=0.0)
    warmup: int = flag(1000, "steps of linear warm-up in every stage", low=0)
    weight_decay: float = flag(0.01, "of AdamW", low=0.0)
    gradient_clip: float = flag(1.0, "largest norm of the gradient", low=0.0)
    ema_decay: float = flag(0.999, "of the averaged weights, which are the ones used", low=0.0, high=1.0)
    kl_weight: float = flag(1e-6, "weight of KL, in nats per latent element", low=0.0)
    lpips_weight: float = flag(1.0, "weight of LPIPS (VGG); 0 switches it off and needs no weight file", low=0.0)
    temporal_weight: float = flag(1.0, "weight of the squared error of frame differences", low=0.0)
    max_drop_ratio: float = flag(1.0, "maximum dropping ratio of predictive reconstruction; 0: none", low=0.0, high=1.0)
    reverse: float = flag(0.5, "probability of playing a clip backwards in the video stage", low=0.0, high=1.0)
    padding: str = flag("learnable", "what replaces dropped latents", choices=("learnable", "gaussian"))


@dataclass(frozen=True)
class Stage:
    """Steps `start` (exclusive) to `stop` (inclusive) of a run belong to stage `name`."""

    name: str
    start: int
    stop: int


def preset_defaults(given: dict) -> dict:
    """Flag defaults that follow from `--data` and `--preset`."""
    from tokenizer.presets import PRESETS

    name = given.get("preset") or ("paper" if given.get("data") else "demo")
    if name not in PRESETS:
        raise InputError(f"--preset {name!r} is not known; known: {', '.join(PRESETS)}")
    return {"data": "moving_shapes", "preset": name, **PRESETS[name].training}


def stage_plan(stage: str, steps: int | None, stage_steps: dict[str, int]) -> list[Stage]:
    """Divide a run into stages, in the preset's proportions when `steps` changes their sum."""
    if stage != "all":
        return [Stage(stage, 0, steps or stage_steps[stage])]
    total = sum(stage_steps.values())
    steps = steps or total
    if steps < len(STAGES):
        raise InputError(f"--steps {steps} is too few for the three stages of --stage all; give at least {len(STAGES)}")
    plan, start, share = [], 0, 0
    for left, name in enumerate(STAGES):
        share += stage_steps[name]
        stop = min(max(start + 1, round(steps * share / total)), steps - (len(STAGES) - 1 - left))
        plan.append(Stage(name, start, stop))
        start = stop
    return plan


def train(config: TrainConfig):
    """Train, or resume, one tokenizer run; returns its directory."""
    from runtime import processes, seeds
    from runtime.ema import EMA
    from runtime.log import MetricsLog, Progress
    from runtime.run import Run, default_name
    from tokenizer.presets import PRESETS

    plan = stage_plan(config.stage, config.steps, PRESETS[config.preset].stage_steps)
    world = processes.start_processes(config.device)
    dtype = processes.resolve_dtype(config.dtype, world.device)
    model_config = network_size(config)
    clips = open_clips(config)
    lpips_network = build_lpips(config, world.device)
    identity = {field.name: getattr(config, field.name) for field in fields(config) if field.name not in _NOT_IDENTITY}
    identity |= {"steps": plan[-1].stop, "dtype": str(dtype), "data_fingerprint": clips["video"].fingerprint()}
    identity["model"] = asdict(model_config)
    name = config.name or default_name(config.preset, config.data, identity)
    Run.check(config, kind="tokenizer", name=name, identity=identity)
    vae = build_model(config, model_config)  # late: the paper's takes a while
    if world.is_main and config.preset == "demo" and config.data == "moving_shapes":
        print("tokenizer.train: demo preset on synthetic clips (moving_shapes); --data and --root train on yours")

    import torch

    vae = vae.to(world.device, memory_format=torch.channels_last_3d).train()
    ema = EMA(vae, config.ema_decay)
    extra = {"plan": [asdict(stage) for stage in plan], "parameters": sum(p.numel() for p in vae.parameters())}
    with Run.open(config, kind="tokenizer", name=name, identity=identity, extra_manifest=extra) as run:
        seeds.seed_everything(config.seed)
        step, optimizer_state = restore(run.dir, vae, ema)
        log, progress = MetricsLog(run.dir, resume_step=step), Progress(plan[-1].stop, start=step, label=name)
        for stage in plan:
            if step < stage.stop:
                state = optimizer_state if step > stage.start else None
                step = train_stage(
                    config,
                    stage,
                    step,
                    vae=vae,
                    ema=ema,
                    optimizer_state=state,
                    clips=clips,
                    run=run,
                    world=world,
                    dtype=dtype,
                    lpips_network=lpips_network,
                    log=log,
                    progress=progress,
                )
                optimizer_state = None
        progress.close()
    return run.dir


def train_stage(
    config: TrainConfig,
    stage: Stage,
    step: int,
    *,
    vae,
    ema,
    optimizer_state,
    clips,
    run,
    world,
    dtype,
    lpips_network: Callable | None,
    log,
    progress,
) -> int:
    """Train from `step` to the stage's end; returns the step reached."""
    import torch

    from runtime.checkpoint import load_optimizer
    from runtime.processes import autocast
    from runtime.schedule import is_due, learning_rate
    from runtime.seeds import normal_rows
    from tokenizer.losses import tokenizer_loss
    from tokenizer.predictive import SuffixDrop, reverse_time
    from tokenizer.validation import validate
    from videos import BatchLoader, to_float

    images, predictive = stage.name == "images", stage.name == "video"
    data = clips["images" if images else "video"]
    batch_size = config.batch_size * (config.images_per_clip if images else 1)
    rows = list(world.rows(batch_size))
    drop = SuffixDrop(config.max_drop_ratio if predictive else 0.0)
    if stage.name == "decoder" and step == stage.start:
        # The averaged encoder is the one that will be used: freeze it as it is, and fit the decoder to its latents.
        vae.load_state_dict(ema.state_dict())
    trained = freeze_for(stage.name, vae)
    optimizer = torch.optim.AdamW(
        trained, lr=config.learning_rate, weight_decay=config.weight_decay, fused=world.device.type == "cuda"
    )
    if optimizer_state is not None:
        load_optimizer(optimizer, optimizer_state, run.dir)
    loader = iter(BatchLoader(data, batch_size, seed=config.seed, start_step=step, rows=rows))
    skipped = 0
    while step < stage.stop:
        with progress.wait():
            _, batch = next(loader)
        video = to_float(batch["video"].to(world.device, non_blocking=True))
        if predictive:
            video = reverse_time(video, config.seed, step, rows, config.reverse)
        video = video.contiguous(memory_format=torch.channels_last_3d)
        shape = vae.spec.latent_shape(*video.shape[2:])
        k = drop.num_dropped(shape[1], config.seed, step)
        noise = normal_rows(config.seed, "posterior", step, rows, shape).to(world.device)
        gaussian = None
        if config.padding == "gaussian" and k:
            gaussian = normal_rows(config.seed, "padding", step, rows, (shape[0], k, *shape[2:])).to(world.device)
        rate = learning_rate(
            step - stage.start,
            base=config.learning_rate,
            total=stage.stop - stage.start,
            warmup=min(config.warmup, (stage.stop - stage.start) // 2),
            kind="cosine",
            final_ratio=0.1,
        )
        for group in optimizer.param_groups:
            group["lr"] = rate

        with autocast(world.device, dtype):
            output, posterior = vae(video, num_dropped=k, noise=noise, padding_noise=gaussian)
        loss, terms = tokenizer_loss(
            output,
            video,
            posterior,
            kl_weight=config.kl_weight,
            temporal_weight=config.temporal_weight,
            lpips_weight=config.lpips_weight,
            lpips_network=lpips_network,
        )
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, config.gradient_clip or float("inf"))
        if torch.isfinite(loss) and torch.isfinite(norm):
            optimizer.step()
            skipped = 0
        else:
            skipped += 1
            if skipped >= MAX_SKIPPED_IN_A_ROW:
                raise InputError(
                    f"{run.dir}: loss or gradient was not finite in {skipped} steps in a row, up to step {step + 1}; "
                    "lower --learning-rate; the newest checkpoint is from before"
                )
        optimizer.zero_grad(set_to_none=True)
        step += 1
        ema.update(step)
        values = {name: float(value) for name, value in terms.items()}
        values |= {
            "loss": float(loss.detach()),
            "grad_norm": float(norm),
            "learning_rate": rate,
            "dropped": k,
            "stage": STAGES.index(stage.name),
            "skipped": skipped,
        }
        if is_due(step, config.validate_every, stage.stop):
            with ema.applied(vae):
                values |= validate(vae, clips["validation"], world.device, dtype)
        log.write(step, values)
        progress.update(
            step, {"stage": stage.name, **{n: values[n] for n in ("loss", "mse", "val_psnr") if n in values}}
        )
        if is_due(step, config.save_every, stage.stop):
            save(run.dir, step, vae, ema, optimizer, stage_end=stage.name if step == stage.stop else None)
    return step


def freeze_for(stage: str, vae) -> list:
    """Set which parameters the stage trains, and return them: decoder fine-tuning leaves encoder and padding alone."""
    vae.requires_grad_(True)
    if stage == "decoder":
        vae.encoder.requires_grad_(False)
    if stage != "video":
        vae.padding.requires_grad_(False)  # nothing is dropped outside the predictive stage
    return [parameter for parameter in vae.parameters() if parameter.requires_grad]


def network_size(config: TrainConfig):
    """The preset's config with the flags' padding; InputError unless the clips fit it, and `--init-from` exists."""
    from dataclasses import replace

    from tokenizer.presets import PRESETS
    from tokenizer.zoo import find_folder

    model_config = replace(PRESETS[config.preset].model, padding=config.padding)
    model_config.spec.latent_shape(config.num_frames, config.size, config.size)
    if config.init_from is not None:
        find_folder(config.init_from)
    return model_config


def build_model(config: TrainConfig, model_config):
    """The network with seeded weights, or the weights of `--init-from`."""
    import torch

    from tokenizer.pvvae import PVVAE
    from tokenizer.zoo import load

    if config.init_from is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return PVVAE(model_config)
    vae = load(config.init_from).requires_grad_(True)
    if vae.config != model_config:
        raise InputError(
            f"--init-from {config.init_from}: its model differs from preset {config.preset!r} with --padding "
            f"{config.padding}; choose the preset that it was trained with"
        )
    return vae


def open_clips(config: TrainConfig) -> dict:
    """The data sets of the stages, and fixed held-out batches for validation."""
    import torch

    from videos import ClipSpec, open_dataset

    def spec(num_frames: int, window: str = "random") -> ClipSpec:
        return ClipSpec(num_frames=num_frames, size=config.size, frame_stride=config.frame_stride, window=window)

    clips = {"video": open_dataset(config.data, root=config.root, split="train", clip=spec(config.num_frames))}
    image_data, image_root = (config.images, config.images_root) if config.images else (config.data, config.root)
    clips["images"] = open_dataset(image_data, root=image_root, split="train", clip=spec(1))
    held_out = open_dataset(config.data, root=config.root, split="test", clip=spec(config.num_frames, "center"))
    items = [torch.as_tensor(held_out[i]["video"]) for i in range(min(VALIDATION_CLIPS, len(held_out)))]
    clips["validation"] = [torch.stack(items[i : i + 16]) for i in range(0, len(items), 16)]
    return clips


def build_lpips(config: TrainConfig, device) -> Callable | None:
    """The VGG LPIPS network, or None when its weight is 0."""
    if config.lpips_weight == 0.0:
        return None
    from videos.quality import lpips_network

    try:
        return lpips_network("vgg").to(device)
    except InputError as error:
        raise InputError(f"{error}; or train without it: --lpips-weight 0") from error


def restore(run_dir, vae, ema) -> tuple[int, dict | None]:
    """Load the newest checkpoint of the run into model and EMA; (0, None) when there is none."""
    from runtime.checkpoint import find_checkpoint, list_checkpoints, load_checkpoint
    from runtime.weights import load_strictly

    if not list_checkpoints(run_dir):
        return 0, None
    checkpoint = load_checkpoint(find_checkpoint(run_dir), names=("model", "ema"), optimizer=True)
    load_strictly(vae, checkpoint.tensors["ema"], checkpoint.path / "ema.safetensors")
    ema.load_state_dict(checkpoint.tensors["ema"])
    load_strictly(vae, checkpoint.tensors["model"], checkpoint.path / "model.safetensors")
    return checkpoint.step, checkpoint.optimizer


def save(run_dir, step: int, vae, ema, optimizer, *, stage_end: str | None) -> None:
    """One checkpoint; the end of the video stage is kept for good, since decoder fine-tuning unlearns prediction."""
    from runtime.checkpoint import save_checkpoint

    save_checkpoint(
        run_dir,
        step,
        tensors={"model": vae.state_dict(), "ema": ema.state_dict()},
        optimizer=optimizer.state_dict(),
        state={"stage_end": stage_end},
        files={"config.json": asdict(vae.config)},
        keep=stage_end == "video",
    )


if __name__ == "__main__":
    run_command(train, TrainConfig, presets=preset_defaults, example="python -m tokenizer.train --steps 300")
