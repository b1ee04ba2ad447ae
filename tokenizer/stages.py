"""The three stages of training a PV-VAE, and the loop that each of them runs (PV-VAE sections 3.3 and 4.1).

    images   single frames, reconstruction
    video    clips, predictive reconstruction and random reverse; its last checkpoint is kept, since only it can predict
    decoder  clips, encoder and padding frozen, nothing dropped

A stage begins from the checkpoint of the one before, in the same process or another. Every action is a function of the
step: data order, noise, dropped groups and learning rate, so a resumed run repeats an undisturbed one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from runtime import parallel
from runtime.checkpoint import find_checkpoint, list_checkpoints, load_checkpoint
from runtime.errors import InputError
from runtime.log import MetricsLog, Progress
from runtime.processes import World, autocast
from runtime.schedule import is_due, learning_rate
from runtime.seeds import normal_rows
from runtime.stopping import Stopped, stop_asked
from runtime.trainer import Trainer
from tokenizer.losses import tokenizer_loss
from tokenizer.predictive import SuffixDrop, reverse_time
from tokenizer.pvvae import PVVAE
from tokenizer.validation import Validation, validate
from videos import BatchLoader, to_float

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


@dataclass(frozen=True)
class Clips:
    """Data sets of the stages, and fixed held-out batches, uint8 `[B, 3, 1+T, H, W]`."""

    images: object
    video: object
    validation: list[Tensor]

    def of(self, stage: str):
        """The data set that a stage trains on."""
        return self.images if stage == "images" else self.video


class StageTraining:
    """One stage in training.

    Args:
        config: The command's flags; see `tokenizer.train.TrainConfig`.
        model: A PV-VAE with the weights that the run started from, on the world's device.
        run_dir: Where checkpoints are; the newest is loaded.
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
    ):
        self.config, self.stage, self.clips, self.run_dir = config, stage, clips, run_dir
        self.world, self.dtype, self.lpips_network = world, dtype, lpips_network
        self.validation_lpips = validation_lpips
        freeze_for(stage.name, model)
        self.trainer = Trainer(
            model,
            world,
            mode=config.parallel,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            gradient_clip=config.gradient_clip,
            ema_decay=config.ema_decay,
        )
        self.step = self._restore()
        self.drop = SuffixDrop(config.max_drop_ratio if stage.name == "video" else 0.0)
        self.batch_size = config.batch_size * (config.images_per_clip if stage.name == "images" else 1)
        self.rows = list(world.rows(self.batch_size, config.accumulate))

    def _restore(self) -> int:
        if not list_checkpoints(self.run_dir):
            return 0
        checkpoint = load_checkpoint(find_checkpoint(self.run_dir), optimizer=True)
        begun = checkpoint.step > self.stage.start
        self.trainer.load(checkpoint, optimizer=begun)
        if self.stage.name == "decoder" and not begun:
            # The averaged encoder is the one that will be used: freeze it as it is, and fit the decoder to its latents.
            parallel.load_state(self.trainer.model, checkpoint.tensors["ema"])
        return checkpoint.step

    def run(self, log: MetricsLog | None, progress: Progress) -> int:
        """Train to the stage's end; returns the step reached.

        Raises:
            Stopped: When a signal or the time limit asks for it; a checkpoint is written first.
            InputError: When loss or gradient stay non-finite.
        """
        config, stage = self.config, self.stage
        loader = BatchLoader(
            self.clips.of(stage.name), self.batch_size, seed=config.seed, start_step=self.step, rows=self.rows
        )
        batches = iter(loader)
        try:
            while self.step < stage.stop:
                with progress.wait():
                    _, batch = next(batches)
                values, stop = self._update(batch["video"])
                if is_due(self.step, config.validate_every, stage.stop):
                    found = self._validate()
                    values |= found.values
                    if self.world.is_main:
                        log.write_pictures(self.step, found.pictures)
                if self.world.is_main:
                    log.write(self.step, values)
                    shown = {name: values[name] for name in ("loss", "mse", "val_psnr") if name in values}
                    progress.update(self.step, {"stage": stage.name, **shown})
                if stop or is_due(self.step, config.save_every, stage.stop):
                    self._save()
                if stop:
                    raise Stopped(stop_asked() or "another process")
        finally:
            batches.close()
        return self.step

    def _update(self, clips: Tensor) -> tuple[dict[str, float], bool]:
        """One optimizer update; what it logs, and whether some process was asked to stop."""
        config, stage, parts = self.config, self.stage, self.config.accumulate
        video = to_float(clips.to(self.world.device, non_blocking=True))
        if stage.name == "video":
            video = reverse_time(video, config.seed, self.step, self.rows, config.reverse)
        video = video.contiguous(memory_format=torch.channels_last_3d)
        shape = self.trainer.model.spec.latent_shape(*video.shape[2:])
        dropped = self.drop.num_dropped(shape[1], config.seed, self.step)
        sums: dict[str, Tensor] = {}
        size = len(self.rows) // parts
        for number in range(parts):
            here = slice(number * size, (number + 1) * size)
            with self.trainer.part(number, parts):
                loss, terms = self._loss(video[here], self.rows[here], shape, dropped)
                (loss / parts).backward()
            for name, value in {**terms, "loss": loss.detach()}.items():
                sums[name] = sums.get(name, 0.0) + value.double() / (parts * self.world.size)
        norm = self.trainer.clip()
        asked = torch.tensor(float(bool(stop_asked())))
        # Terms are means over equal parts, so their sum over processes is the mean; the norm is the same on each.
        exchanged = torch.stack([*sums.values(), norm.double() / self.world.size, asked.to(norm.device).double()])
        *means, norm, asked = self.world.sum(exchanged)
        values = dict(zip(sums, means, strict=True)) | {"grad_norm": norm}
        rate = self._learning_rate()
        finite = math.isfinite(values["loss"]) and math.isfinite(norm)
        self.step = self.trainer.update(self.step, rate, finite, self.run_dir)
        values |= {"learning_rate": rate, "dropped": dropped, "stage": STAGES.index(stage.name)}
        return values | {"skipped": self.trainer.skipped}, asked > 0

    def _loss(self, video: Tensor, rows: list[int], shape: tuple[int, ...], dropped: int):
        config, device = self.config, self.world.device
        noise = normal_rows(config.seed, "posterior", self.step, rows, shape).to(device)
        padding_noise = None
        if config.padding == "gaussian" and dropped:
            hidden = (shape[0], dropped, *shape[2:])
            padding_noise = normal_rows(config.seed, "padding", self.step, rows, hidden).to(device)
        with autocast(device, self.dtype):
            output, posterior = self.trainer.network(
                video, num_dropped=dropped, noise=noise, padding_noise=padding_noise
            )
        return tokenizer_loss(
            output,
            video,
            posterior,
            kl_weight=config.kl_weight,
            temporal_weight=config.temporal_weight,
            lpips_weight=config.lpips_weight,
            lpips_network=self.lpips_network,
        )

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
        with self.trainer.ema.applied(self.trainer.model):
            return validate(
                self.trainer.model, self.clips.validation, self.world.device, self.dtype, self.validation_lpips
            )

    def _save(self) -> None:
        """The end of the video stage is kept for good, since decoder fine-tuning unlearns prediction."""
        ended = self.stage.name if self.step == self.stage.stop else None
        self.trainer.save(
            self.run_dir,
            self.step,
            state={"stage_end": ended},
            files={"config.json": self.trainer.model.config.to_dict()},
            keep=ended == "video",
        )
