"""The three stages of training a PV-VAE, and the loop that each of them runs (PV-VAE sections 3.3 and 4.1).

    images   single frames, reconstruction
    video    clips, predictive reconstruction and random reverse; its last checkpoint is kept, since only it can predict
    decoder  clips, encoder and padding frozen, nothing dropped

A stage begins from the checkpoint of the one before, in the same process or another: three runs in a chain end with the
weights of one run of all stages. Every action is a function of the step: data order, noise, dropped groups and learning
rate, so a resumed run repeats an undisturbed one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from runtime import parallel
from runtime.checkpoint import load_checkpoint
from runtime.errors import InputError
from runtime.log import MetricsLog, Progress
from runtime.measuring import peak_memory_gib
from runtime.processes import World, autocast
from runtime.records import check_fields
from runtime.schedule import is_due, learning_rate
from runtime.seeds import normal_rows
from runtime.stopping import stop_asked
from runtime.trainer import MAX_SKIPPED_IN_A_ROW, Trainer
from tokenizer.adversarial import Adversary, average_gradients
from tokenizer.discriminator import DiscriminatorConfig
from tokenizer.losses import adaptive_weight, tokenizer_loss
from tokenizer.predictive import SCHEDULES, reverse_time
from tokenizer.pvvae import PVVAE
from tokenizer.validation import Validation, validate
from videos import BatchLoader, to_float
from videos.batches import Bucket, default_workers
from videos.unreadable import UnreadableFiles

STAGES = ("images", "video", "decoder")


@dataclass(frozen=True)
class Stage:
    """Steps `start` (exclusive) to `stop` (inclusive) of a run belong to stage `name`."""

    name: str
    start: int
    stop: int


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


def freeze_for(stage: str, vae: PVVAE) -> None:
    """Set which parameters the stage trains: decoder fine-tuning leaves encoder and padding alone, and images leave
    alone what only clips can teach."""
    vae.requires_grad_(True)
    if stage == "images":
        for parameter in vae.decoder.clip_parameters():
            parameter.requires_grad_(False)
    if stage == "decoder":
        vae.encoder.requires_grad_(False)
    if stage != "video":
        vae.padding.requires_grad_(False)  # nothing is dropped outside the predictive stage


PADDING = "padding."  # begins the names of a padding's tensors in a checkpoint

# A batch of larger pictures is smaller, so that every step sees about as many pixels: of 16 at the first size.
_SHARES = 16


def bucket_batches(batch_size: int, sizes: Sequence[int], *, per_clip: int = 1, parts: int = 1) -> list[int]:
    """Items of a batch at each of `sizes` that cost what those at the first cost (PV-VAE: 16:7:4 at 256, 384, 512).

    Args:
        batch_size: `--batch-size`.
        sizes: In pixels.
        per_clip: Items that stand for one of `batch_size` at the first size.
        parts: What every batch must divide into: processes times parts of each.

    Raises:
        InputError: If a batch is no whole number of items, or does not divide.
    """
    shares = [int(_SHARES * (sizes[0] / size) ** 2) for size in sizes]
    if min(shares) < 1:
        raise InputError(f"{max(sizes)} pixels are too many beside {sizes[0]}: at most {_SHARES**0.5:g} times as wide")
    of = _SHARES * parts
    multiple = math.lcm(*(of // math.gcd(of, per_clip * share) for share in shares))
    if batch_size % multiple:
        found = ", ".join(
            f"{batch_size * per_clip * share / _SHARES:g} at {size}" for share, size in zip(shares, sizes, strict=True)
        )
        raise InputError(
            f"--batch-size {batch_size} makes batches of {found} pixels, which do not all divide over "
            f"{parts} (processes times --accumulate); give a multiple of {multiple}"
        )
    return [batch_size * per_clip * share // _SHARES for share in shares]


@dataclass(frozen=True)
class Clips:
    """What a run sees.

    Attributes:
        images, video: Data sets of the stages, by size in pixels.
        validation: Fixed held-out batches, uint8 `[B, 3, 1+T, H, W]`.
        listing: All files of the run's data sets, by "video" and "images".
        unreadable: Where files that cannot be decoded are recorded; None: one of them ends the run.
        frames: Single frames that an item of `images` holds.
    """

    images: dict[int, object]
    video: dict[int, object]
    validation: list[Tensor]
    listing: dict[str, Sequence] = field(default_factory=dict)
    unreadable: UnreadableFiles | None = None
    frames: int = 1

    def loader(self, config, stage: str, world: World, step: int) -> BatchLoader:
        """Batches of a stage from draw `step` on."""
        by_size = self.images if stage == "images" else self.video
        sizes = bucket_batches(
            config.batch_size,
            list(by_size),
            per_clip=config.images_per_clip // self.frames if stage == "images" else 1,
            parts=world.size * config.accumulate,
        )
        buckets = [
            Bucket(dataset, size, list(world.rows(size, config.accumulate)))
            for dataset, size in zip(by_size.values(), sizes, strict=True)
        ]
        return BatchLoader(
            buckets,
            seed=config.seed,
            start_step=step,
            workers=config.workers or default_workers(),
            pin_memory=world.device.type == "cuda",
            unreadable=self.unreadable,
        )


class StageTraining:
    """One stage in training.

    Args:
        config: The command's flags; see `tokenizer.train.TrainConfig`.
        model: A PV-VAE with the weights that the run started from, on the world's device.
        run_dir: Where checkpoints are; the newest is loaded.
        predecessor: A checkpoint of another run to begin from, as from that of the stage before, while there is none.

    Attributes:
        step: Finished steps of this run.
        origin: Those of the runs that this one goes on from. Random draws are keyed by the sum, so that no stage of a
            chain repeats the draws of the one before.
    """

    def __init__(
        self,
        config,
        stage: Stage,
        model: PVVAE,
        *,
        clips: Clips,
        run_dir: Path,
        world: World,
        dtype: torch.dtype,
        lpips_network: Callable | None,
        validation_lpips: Mapping[str, Callable],
        predecessor: Path | None = None,
    ):
        self.config, self.stage, self.validation, self.run_dir = config, stage, clips.validation, run_dir
        self.world, self.dtype, self.lpips_network = world, dtype, lpips_network
        self.validation_lpips = validation_lpips
        freeze_for(stage.name, model)
        padding = {f"{PADDING}{name}": value.clone() for name, value in model.padding.state_dict().items()}
        model.encoder.checkpoint_blocks = model.decoder.checkpoint_blocks = config.checkpoint_blocks
        parallel.compile_as_asked(model, config.compile, world.device)
        self.trainer = Trainer(
            model,
            world,
            mode=config.parallel,
            optimizer=config.optimizer,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            gradient_clip=config.gradient_clip,
            ema_decay=config.ema_decay,
            ema_warmup=config.ema_warmup,
        )
        self.adversary = build_adversary(config, stage, world, dtype)
        self.step, self.origin = self._restore(predecessor, padding)
        self.drop = SCHEDULES[config.drop_schedule](config.max_drop_ratio if stage.name == "video" else 0.0)
        self.loader = clips.loader(config, stage.name, world, self._draw)

    @property
    def _draw(self) -> int:
        return self.origin + self.step

    def _restore(self, predecessor: Path | None, padding: dict[str, Tensor]) -> tuple[int, int]:
        """Go on from this run's newest checkpoint, or begin from another run's, with this new padding where that has
        one of another kind; returns the finished steps of this run and of those before it."""
        newest = self.trainer.newest(self.run_dir)
        own, path = newest is not None, newest or predecessor
        if path is None:
            return 0, 0
        others = ("discriminator",) if self.adversary and (own or has_discriminator(path)) else ()
        checkpoint = load_checkpoint(
            path, names=("model", "ema", *others), optimizer=own or bool(others), device=self.world.device
        )
        for tensors in (checkpoint.tensors["model"], checkpoint.tensors["ema"]) if not own else ():
            theirs = {name for name in tensors if name.startswith(PADDING)}
            if theirs != padding.keys():
                for name in theirs:
                    del tensors[name]
                tensors.update({name: value.clone() for name, value in padding.items()})
        begun = own and checkpoint.step > self.stage.start
        self.trainer.load(checkpoint, optimizer=begun)
        if others:
            # It goes on from stage to stage, with its momentum: what it looks at does not change at once.
            check_fields(checkpoint.optimizer, {"discriminator": dict}, checkpoint.path / "optimizer.pt")
            tensors, optimizer = (part["discriminator"] for part in (checkpoint.tensors, checkpoint.optimizer))
            self.adversary.load_state_dict({"tensors": tensors, "optimizer": optimizer})
        if self.stage.name == "decoder" and not begun:
            # The averaged encoder is the one that will be used: freeze it as it is, and fit the decoder to its latents.
            parallel.load_state(self.trainer.model, checkpoint.tensors["ema"], checkpoint.path / "ema.safetensors")
        check_fields(checkpoint.state, {"origin": int}, checkpoint.path / "state.json", needed=False)
        origin = checkpoint.state.get("origin", 0)  # earlier versions began every run at 0
        if own:
            return checkpoint.step, origin
        self.trainer.skipped = 0  # the other run's
        return 0, origin + checkpoint.step

    def run(self, log: MetricsLog | None, progress: Progress) -> int:
        """Train to the stage's end; returns the step reached.

        Raises:
            Stopped: When a signal or the time limit asks for it; a checkpoint is written first.
            InputError: When loss or gradient stay non-finite.
        """
        config, stage = self.config, self.stage
        batches = iter(self.loader)
        try:
            while self.step < stage.stop:
                with progress.wait():
                    _, batch = next(batches)
                values, stop = self._update(*self._read(batch), batch["redrawn"])
                if is_due(self.step, config.validate_every, stage.stop):
                    found = self._validate()
                    values |= found.values
                    if self.world.is_main:
                        log.write_pictures(self.step, found.pictures)
                if self.world.is_main:
                    log.write(self.step, values | progress.measured(self.step, peak_memory_gib(self.world.device)))
                    shown = {name: values[name] for name in ("loss", "mse", "val_psnr") if name in values}
                    progress.update(self.step, {"stage": stage.name, **shown})
                keep = config.keep_every is not None and is_due(self.step, config.keep_every, stage.stop)
                due = keep or is_due(self.step, config.save_every, stage.stop)
                if stop or due:
                    self._save(log, keep=keep, passing=not due)
                if stop:
                    self.trainer.stop()
        finally:
            batches.close()
        return self.step

    def _read(self, batch: dict) -> tuple[Tensor, list[int]]:
        """The clips of a batch as this step sees them, `[b, 3, 1+T, H, W]` on the device, and their global rows."""
        clips, rows = batch["video"], batch["rows"]
        if self.stage.name == "images":
            clips, rows = as_images(clips, rows)
        video = to_float(clips.to(self.world.device, non_blocking=True))
        if self.stage.name == "video":
            video = reverse_time(video, self.config.seed, self._draw, rows, self.config.reverse)
        return video.contiguous(memory_format=torch.channels_last_3d), rows

    def _update(self, video: Tensor, rows: list[int], redrawn: int) -> tuple[dict[str, float], bool]:
        """One update of all networks from a batch; what it logs, and whether some process was asked to stop."""
        dropped = self.drop.dropped(self.trainer.model.spec.groups(video.shape[2]), self.config.seed, self._draw)
        active = self.adversary is not None and self.adversary.is_active(self.step - self.stage.start)
        adversary = self.adversary if active else None
        outputs, terms = self._backward(video, rows, dropped, adversary)
        norm = self.trainer.clip()
        terms["redrawn"] = torch.tensor(float(redrawn), device=norm.device).double()
        values, stop = self._exchange(terms, norm)
        finite, rate = math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"]), self._learning_rate()
        self.step = self.trainer.update(self.step, rate, finite, self.run_dir)
        if adversary:
            values |= self._update_adversary(adversary, video, outputs, rate)
        values |= {"learning_rate": rate, "dropped": len(dropped), "stage": STAGES.index(self.stage.name)}
        return values | {"size": video.shape[-1], "skipped": self.trainer.skipped}, stop

    def _backward(
        self, video: Tensor, rows: list[int], dropped: tuple[int, ...], adversary: Adversary | None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Gradients of the mean loss, `--accumulate` parts of the rows at a time; the decoded clips of each part,
        detached, and the loss and its terms, each divided by the number of processes."""
        parts, size = self.config.accumulate, len(rows) // self.config.accumulate
        outputs, sums = [], {}
        for number in range(parts):
            here = slice(number * size, (number + 1) * size)
            with self.trainer.part(number, parts):
                output, loss, terms = self._loss(video[here], rows[here], dropped, adversary)
                (loss / parts).backward()
            outputs.append(output.detach())
            for name, value in {**terms, "loss": loss.detach()}.items():
                sums[name] = sums.get(name, 0.0) + value.double() / (parts * self.world.size)
        return outputs, sums

    def _exchange(self, terms: dict[str, Tensor], norm: Tensor) -> tuple[dict[str, float], bool]:
        """The sums of terms over all processes, with `grad_norm`, and whether one was asked to stop: one exchange."""
        asked = torch.tensor(float(bool(stop_asked())))
        # Every process brings its share of a mean; the norm is the same on each.
        exchanged = torch.stack([*terms.values(), norm.double() / self.world.size, asked.to(norm.device).double()])
        *sums, norm, asked = self.world.sum(exchanged)
        return dict(zip(terms, sums, strict=True)) | {"grad_norm": norm}, asked > 0

    def _update_adversary(
        self, adversary: Adversary, video: Tensor, outputs: list[Tensor], rate: float
    ) -> dict[str, float]:
        """One update of the discriminator from the same batch; means over all processes of what it logs.

        Raises:
            InputError: When its loss or gradient stay non-finite.
        """
        found = adversary.discriminator_step(video, torch.cat(outputs), rate, parts=len(outputs))
        if adversary.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise InputError(
                f"{self.run_dir}: the discriminator's loss or gradient was not finite in {adversary.skipped_in_a_row} "
                f"steps in a row, up to step {self.step}; {self.trainer.last_good(self.run_dir)}; lower "
                "--learning-rate or --gan-weight under another --name"
            )
        means = self.world.sum(torch.tensor(list(found.values()), device=self.world.device).double())
        return {name: mean / self.world.size for name, mean in zip(found, means, strict=True)}

    def _loss(self, video: Tensor, rows: list[int], dropped: tuple[int, ...], adversary: Adversary | None):
        """Decoded clips, weighted loss, and its terms."""
        config, device = self.config, self.world.device
        shape = self.trainer.model.spec.latent_shape(*video.shape[2:])
        noise = normal_rows(config.seed, "posterior", self._draw, rows, shape).to(device)
        padding_noise = None
        if getattr(self.trainer.model.padding, "takes_noise", False) and dropped:
            hidden = (shape[0], len(dropped), *shape[2:])
            padding_noise = normal_rows(config.seed, "padding", self._draw, rows, hidden).to(device)
        with autocast(device, self.dtype):
            output, posterior = self.trainer.network(video, dropped=dropped, noise=noise, padding_noise=padding_noise)
        loss, terms = tokenizer_loss(
            output,
            video,
            posterior,
            kl_weight=config.kl_weight,
            temporal_weight=config.temporal_weight,
            spatial_weight=config.spatial_weight,
            lpips_weight=config.lpips_weight,
            lpips_network=self.lpips_network,
        )
        if adversary:
            terms["gan"] = adversary.generator_loss(output)
            weight = torch.tensor(config.gan_weight, device=device)
            if config.adaptive_gan:
                weight = weight * adaptive_weight(loss, terms["gan"], self.trainer.model.decoder.last_layer.weight)
            loss = loss + weight * terms["gan"]
            terms |= {"gan": terms["gan"].detach(), "gan_weight": weight}
        return output, loss, terms

    def _learning_rate(self) -> float:
        steps = self.stage.stop - self.stage.start
        return learning_rate(
            self.step - self.stage.start,
            base=self.config.learning_rate,
            total=steps,
            warmup=min(self.config.warmup, steps // 2),
            kind="cosine",
            final_ratio=0.1,
        )

    def _validate(self) -> Validation:
        """Every process measures the same few clips: cheap, and sharded weights need everyone."""
        with self.trainer.ema.applied():
            return validate(self.trainer.model, self.validation, self.world.device, self.dtype, self.validation_lpips)

    def _save(self, log: MetricsLog | None, keep: bool, passing: bool) -> None:
        """The end of the video stage is kept in any case, since decoder fine-tuning unlearns prediction."""
        ended = self.stage.name if self.step == self.stage.stop else None
        if log is not None:
            log.sync()
        self.trainer.save(
            self.run_dir,
            self.step,
            state={"stage": self.stage.name, "stage_end": ended, "origin": self.origin},
            files={"config.json": self.trainer.model.config.to_dict()},
            keep=keep or ended == "video",
            passing=passing,
            others={"discriminator": self.adversary.state_dict()} if self.adversary else None,
        )


def as_images(frames: Tensor, rows: Sequence[int]) -> tuple[Tensor, list[int]]:
    """Frames that were read from one video `[b, 3, n, H, W]` as images `[b * n, 3, 1, H, W]`, and their global rows."""
    count = frames.shape[2]
    return rearrange(frames, "b c n h w -> (b n) c 1 h w"), [row * count + n for row in rows for n in range(count)]


def has_discriminator(checkpoint: Path) -> bool:
    """Whether a checkpoint was written by training with an adversarial loss."""
    return (checkpoint / "discriminator.safetensors").is_file()


def build_adversary(config, stage: Stage, world: World, dtype: torch.dtype) -> Adversary | None:
    """The discriminator of a stage, from the seed; None without a GAN loss. Fine-tuning the decoder uses it at once."""
    if not config.gan_weight:
        return None
    return Adversary(
        DiscriminatorConfig(layers=config.discriminator_layers),
        seed=config.seed,
        start=0 if stage.name == "decoder" else config.gan_start,
        learning_rate=config.learning_rate,
        gradient_clip=config.gradient_clip,
        device=world.device,
        dtype=dtype,
        average_gradients=lambda parameters: average_gradients(parameters, world),
    )
