"""The adversary of the tokenizer: a discriminator with its optimiser, which learns from the batches of the trainer.

One training step is: decode, add `generator_loss(output)` to the tokenizer's loss, update the tokenizer, then
`discriminator_step(video, output)`. Both networks learn from the same batch, so no step is spent on one alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from runtime import seeds
from runtime.errors import InputError
from runtime.processes import World, autocast
from runtime.records import check_fields
from runtime.weights import load_strictly
from tokenizer.discriminator import Discriminator, DiscriminatorConfig
from tokenizer.losses import hinge_discriminator_loss, hinge_generator_loss

# The usual ones of adversarial training: little momentum, since the target moves.
BETAS = (0.5, 0.9)


def average_gradients(parameters: Sequence[nn.Parameter], world: World) -> None:
    """Replace every gradient by its mean over the processes, in one exchange."""
    if world.size == 1:
        return
    flat = torch.cat([parameter.grad.flatten() for parameter in parameters]) / world.size
    torch.distributed.all_reduce(flat)
    for parameter, mean in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad.copy_(mean.view_as(parameter))


class Adversary:
    """A discriminator, and what trains it.

    Many processes: all build the same weights from `seed`, and `average_gradients` keeps them equal. Do not wrap the
    discriminator in `DistributedDataParallel`; its step sees a loss that is not finite before the averaging, so that
    all processes skip together.

    Attributes:
        discriminator: Its parameters need gradients inside `discriminator_step` only.
        skipped: Updates left out because loss or gradient was not finite.
        skipped_in_a_row: The same, since the last update that was made.
    """

    def __init__(
        self,
        config: DiscriminatorConfig,
        *,
        seed: int,
        start: int = 5000,
        learning_rate: float = 5e-5,
        gradient_clip: float = 1.0,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        average_gradients: Callable[[Sequence[nn.Parameter]], None] | None = None,
    ):
        """Build the discriminator from `seed`.

        Args:
            config: Its size.
            seed: The run's seed.
            start: Steps of a stage before the adversary takes part (PV-VAE: 5,000).
            learning_rate: Of AdamW. There is no weight decay: under spectral norm the size of a weight says nothing.
            gradient_clip: Largest norm of its gradient; 0: no limit.
            device: Where it lives.
            dtype: Compute type of its convolutions; weights, logits and losses stay float32.
            average_gradients: Called with the parameters between backward and clipping; replaces each `.grad` by its
                mean over the processes. None: this process is alone.
        """
        self.start, self.gradient_clip, self.average_gradients = start, gradient_clip, average_gradients
        self.device, self.dtype = torch.device(device), dtype
        discriminator = seeds.seeded(lambda: Discriminator(config), seeds.key(seed, "discriminator"))
        self.discriminator = discriminator.to(self.device).requires_grad_(False)
        self.parameters = list(self.discriminator.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=learning_rate, betas=BETAS, weight_decay=0.0, fused=self.device.type == "cuda"
        )
        self.skipped = self.skipped_in_a_row = 0

    def is_active(self, step: int) -> bool:
        """Whether it takes part in the update after `step` updates of the stage."""
        return step >= self.start

    def generator_loss(self, output: Tensor) -> Tensor:
        """Hinge loss of decoded clips `[B, 3, 1+T, H, W]`, a float32 scalar, mean of frames and clips.

        Gradients flow to `output`; the discriminator neither gets any nor changes.
        """
        frames, clips = self._judge(output)
        return 0.5 * (hinge_generator_loss(frames) + hinge_generator_loss(clips))

    def discriminator_step(
        self, video: Tensor, output: Tensor, learning_rate: float | None = None, *, parts: int = 1
    ) -> dict[str, float]:
        """One update towards telling `video` from `output`, both `[B, 3, 1+T, H, W]` in [-1, 1].

        Args:
            video: Real clips.
            output: What was decoded of them before the tokenizer's update; no gradient goes into it.
            learning_rate: Of this and later steps; None: as before.
            parts: Clips are judged in so many parts, one after the other, to save memory; a divisor of B.

        Returns:
            discriminator_loss, real_logits and fake_logits (means), discriminator_grad_norm (before clipping) and
            discriminator_skipped (in a row), of this process's rows.
        """
        if learning_rate is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
        self.discriminator.requires_grad_(True)
        size, sums = len(video) // parts, torch.zeros(3, device=video.device)
        for real, fake in zip(video.split(size), output.split(size), strict=True):
            loss, *logits = self.discriminator_loss(real, fake)
            (loss / parts).backward()
            sums += torch.stack([loss.detach(), *logits]) / parts
        loss, real, fake = sums
        self.discriminator.requires_grad_(False)
        # Averaging hands a loss that is not finite to every process this way, also where relu would have hidden it.
        self.parameters[0].grad.add_(0.0 * loss)
        if self.average_gradients is not None:
            self.average_gradients(self.parameters)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.gradient_clip or float("inf"))
        if torch.isfinite(norm):
            self.optimizer.step()
            self.discriminator.iterate_spectral_norms()
            self.skipped_in_a_row = 0
        else:
            self.skipped += 1
            self.skipped_in_a_row += 1
        self.optimizer.zero_grad(set_to_none=True)
        return {
            "discriminator_loss": float(loss),
            "real_logits": float(real),
            "fake_logits": float(fake),
            "discriminator_grad_norm": float(norm),
            "discriminator_skipped": self.skipped_in_a_row,
        }

    def discriminator_loss(self, video: Tensor, output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Hinge loss of both networks over `video` and `output`, mean of frames and clips; the mean logits of each,
        detached. Float32 scalars; no gradient flows to `output`."""
        logits = self._judge(torch.cat([video, output.detach()]))
        (real_frames, fake_frames), (real_clips, fake_clips) = (part.chunk(2) for part in logits)
        loss = 0.5 * (
            hinge_discriminator_loss(real_frames, fake_frames) + hinge_discriminator_loss(real_clips, fake_clips)
        )
        real, fake = 0.5 * (real_frames.mean() + real_clips.mean()), 0.5 * (fake_frames.mean() + fake_clips.mean())
        return loss, real.detach(), fake.detach()

    def _judge(self, video: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(self.device, self.dtype):
            return self.discriminator(video)

    def state_dict(self) -> dict:
        """What a checkpoint needs to go on bit for bit.

        Returns:
            "tensors": weights and spectral norm buffers by name, for safetensors; "optimizer": AdamW's state and the
            counts, for `torch.save` and `torch.load(weights_only=True)`.
        """
        counts = {"skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row}
        return {
            "tensors": self.discriminator.state_dict(),
            "optimizer": {"adamw": self.optimizer.state_dict(), **counts},
        }

    def load_state_dict(self, state: dict) -> None:
        """Inverse of `state_dict`.

        Raises:
            InputError: When the state is of another config, or damaged.
        """
        load_strictly(self.discriminator, state["tensors"], "discriminator")
        kept = state["optimizer"]
        check_fields(kept, {"adamw": dict, "skipped": int, "skipped_in_a_row": int}, "discriminator's optimizer")
        try:
            self.optimizer.load_state_dict(kept["adamw"])
        except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            raise InputError(f"the discriminator's optimizer state is damaged ({type(error).__name__})") from error
        for parameter, values in self.optimizer.state.items():
            if any(torch.is_tensor(v) and v.ndim and v.shape != parameter.shape for v in values.values()):
                raise InputError("the discriminator's optimizer state is of another discriminator")
        self.skipped, self.skipped_in_a_row = kept["skipped"], kept["skipped_in_a_row"]
