"""One model in training: what both train commands do between a loss and a checkpoint."""

from __future__ import annotations

import math
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

from runtime import parallel
from runtime.checkpoint import OPTIMIZER, Checkpoint, CheckpointWriter, checkpoint_room, list_checkpoints
from runtime.ema import EMA
from runtime.errors import InputError
from runtime.muon import build_optimizers
from runtime.processes import World
from runtime.records import check_fields
from runtime.resources import free_memory, readable, require_disk
from runtime.stopping import Stopped, stop_asked
from runtime.weights import check_weights

MAX_SKIPPED_IN_A_ROW = 10
# Float32 weights, gradients, the two moments of AdamW, and the averaged weights: bytes for each parameter.
BYTES_TRAINED = 4 + 4 + 8 + 4


def require_training(parameters: int, world: World, run_dir: str | Path, *, mode: str, steps: int, kept: int) -> str:
    """Check that a training run can hold its state in memory and its checkpoints on disk.

    Args:
        parameters: Number of parameters.
        world: The launch's `World`.
        run_dir: Where checkpoints will be written.
        mode: "ddp" or "fsdp", which divides the state over the processes.
        steps, kept: See `checkpoint_room`.

    Returns:
        The estimate in words; activations come on top of it.

    Raises:
        InputError: If weights, gradients and optimizer state alone do not fit, or the checkpoints do not.
    """
    share = world.size if mode == "fsdp" else 1
    # Processes on one machine share its main memory; each has a GPU of its own.
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if world.device.type == "cpu" else 1
    state = BYTES_TRAINED * parameters // share
    free = free_memory(world.device)
    if free is not None and state * here > free:
        raise InputError(
            f"training {parameters / 1e6:.1f} M parameters needs {readable(state * here)} of memory before any "
            f"activation, {world.device} has {readable(free)} free; use --parallel fsdp on more processes, or a "
            "smaller --preset"
        )
    room = checkpoint_room(parameters, run_dir, steps=steps, kept=kept)
    if world.is_main:
        rest = "" if room.needed == room.whole else f"what is left of {readable(room.whole)} for "
        require_disk(run_dir, room.needed, f"{rest}{room.words}, of {parameters / 1e6:.1f} M parameters,")
    return (
        f"{parameters / 1e6:.1f} M parameters: {readable(state)} of memory for weights and optimizer, up to "
        f"{readable(room.whole)} on disk for {room.words}"
    )


class Trainer:
    """A model, its optimizers and the average of its weights, on one process or several.

    Attributes:
        model: The model; under FSDP2 its parameters are sharded.
        network: What to call for a loss.
        ema: The averaged weights.
        checkpoints: What writes them; in its with-block, beside the training.
        skips: int64 `[2]` on the device: steps whose loss or gradient was not finite, so that they changed nothing, in
            all and in a row up to now.
    """

    def __init__(
        self,
        model: nn.Module,
        world: World,
        *,
        mode: str = "ddp",
        optimizer: str = "adamw",
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        gradient_clip: float = 0.0,
        ema_decay: float = 0.9999,
        ema_warmup: bool = False,
        gather_dtype: torch.dtype = torch.float32,
    ):
        """Args:
        model: On the world's device; parameters that do not require gradients stay as they are.
        mode: "ddp" or "fsdp".
        optimizer: "adamw", or "muon" (which leaves biases, norms and embeddings to AdamW), at the same learning rate.
        gradient_clip: Largest norm of the gradient; 0: no limit.
        ema_decay, ema_warmup: See `runtime.ema.share_of_newest`.
        gather_dtype: See `parallel.distribute`.
        """
        self.model, self.world, self.gradient_clip = model, world, gradient_clip
        self.network = parallel.distribute(model, world, mode, gather_dtype)
        self.ema = EMA(model, ema_decay, ema_warmup)
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizers = build_optimizers(
            model, optimizer, learning_rate=learning_rate, betas=betas, weight_decay=weight_decay
        )
        self.checkpoints = CheckpointWriter(copy=world.device.type == "cpu")
        self.skips = torch.zeros(2, dtype=torch.int64, device=world.device)

    @property
    def skipped(self) -> int:
        """Skipped steps in all; asking waits for the device."""
        return int(self.skips[0])

    @skipped.setter
    def skipped(self, count: int) -> None:
        self.skips[0] = count

    def part(self, number: int, of: int) -> AbstractContextManager:
        """Around forward and backward pass of one of the parts that a batch is divided into (gradient accumulation)."""
        return parallel.synchronising(self.network, number == of - 1)

    def clip(self) -> Tensor:
        """Limit the gradient's norm; returns what it was, the same on every process."""
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.gradient_clip or math.inf)
        return parallel.whole(norm)

    def update(self, step: int, rate: float, finite: bool | Tensor, run_dir: Path) -> int:
        """Apply the gradient at learning rate `rate`, or skip it; returns the number of finished steps.

        Args:
            step: Finished steps so far.
            finite: Whether loss and gradient were finite; every process must say the same. A scalar on the device is
                not waited for: `check` has to be called when `skips` is known.
            run_dir: For the message.

        Raises:
            OSError: When the last checkpoint could not be written.
            InputError: See `check`.
        """
        self.checkpoints.check()
        step += 1
        applied = torch.as_tensor(finite, device=self.world.device)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.found_inf = 1.0 - applied.float()
            optimizer.step()
        self.ema.update(applied)
        self.skips = torch.stack([self.skips[0] + ~applied, torch.where(applied, 0, self.skips[1] + 1)])
        for parameter in self.trained:
            parameter.grad = None
        if finite is False:
            self.check(step, int(self.skips[1]), run_dir)
        return step

    def check(self, step: int, skipped_in_a_row: int, run_dir: Path) -> None:
        """InputError after `MAX_SKIPPED_IN_A_ROW` skipped steps in a row, up to `step`; it names the last good
        checkpoint."""
        if skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise InputError(
                f"{run_dir}: loss or gradient was not finite in {skipped_in_a_row} steps in a row, up to step "
                f"{step}; {self.last_good(run_dir)}; lower --learning-rate under another --name"
            )

    def last_good(self, run_dir: Path) -> str:
        """Words for the newest checkpoint of a run that went wrong since; waits for the one that is being written."""
        self.checkpoints.wait()
        found = list_checkpoints(run_dir)
        return f"the last good checkpoint is {found[-1][1]}" if found else "there is no checkpoint yet"

    def save(
        self,
        run_dir: Path,
        step: int,
        *,
        state: dict,
        files: dict,
        keep: bool,
        passing: bool = False,
        others: dict[str, dict] | None = None,
    ) -> None:
        """Write a checkpoint; every process must call it, the main one writes.

        Args:
            state: Small JSON values to go on from.
            files: More JSON files by name.
            keep: Never prune it.
            passing: It is there only because the command was stopped; see `save_checkpoint`.
            others: Other networks by name: {"tensors": state dict, "optimizer": state of theirs}.
        """
        tensors = {
            "model": parallel.state_of(self.model, self.world),
            "ema": parallel.state_of(self.model, self.world, self.ema.average),
            **{name: other["tensors"] for name, other in (others or {}).items()},
        }
        states = [parallel.optimizer_state_of(optimizer, self.model, self.world) for optimizer in self.optimizers]
        optimizer = {
            "model": {name: values for state in states for name, values in state.items()},
            **{name: other["optimizer"] for name, other in (others or {}).items()},
        }
        if self.world.is_main:
            self.checkpoints.save(
                run_dir,
                step,
                tensors=tensors,
                optimizer=optimizer,
                state={**state, "skipped": self.skipped, "ema_updates": self.ema.updates},
                files=files,
                keep=keep,
                passing=passing,
            )

    def stop(self) -> NoReturn:
        """End the command as asked, when its last checkpoint is on the disk; every process must call it.

        None may end before that: torchrun ends the others 30 seconds after the first.
        """
        self.checkpoints.wait()
        self.world.barrier()
        raise Stopped(stop_asked() or "another process")

    def newest(self, run_dir: Path) -> Path | None:
        """A run's newest checkpoint, the same on every process, which all must ask.

        The main one chooses: it has written them, and on a file system of several machines others may not see all yet.
        """
        found = list_checkpoints(run_dir)
        path = self.world.same(str(found[-1][1]) if found else None)
        return None if path is None else Path(path)

    def load(self, checkpoint: Checkpoint, *, optimizer: bool = True) -> None:
        """Go on from a checkpoint; every process reads it.

        Args:
            optimizer: Also take the optimizer's state, where the checkpoint has any: without updates there is none.
        """
        # Earlier versions did not write ema_updates, and counted skipped steps too.
        state, file = {"ema_updates": checkpoint.step} | checkpoint.state, checkpoint.path / "state.json"
        for name in ("skipped", "ema_updates"):
            check_fields(state, {name: int}, file)
            if not 0 <= state[name] < 2**63:
                raise InputError(f"{file}: {name} is {state[name]}, expected a count")
        self.skipped, self.ema.updates = state["skipped"], state["ema_updates"]
        weights, averages = (checkpoint.path / f"{name}.safetensors" for name in ("model", "ema"))
        parallel.load_state(self.model, checkpoint.tensors["model"], weights)
        check_weights(self.model.state_dict(), checkpoint.tensors["ema"], averages)
        self.ema.load_state_dict(checkpoint.tensors["ema"])
        if not optimizer:
            return
        source = checkpoint.path / OPTIMIZER
        check_fields(checkpoint.optimizer, {"model": dict}, source)
        if checkpoint.optimizer["model"]:
            for own in self.optimizers:
                parallel.load_optimizer_state(own, self.model, checkpoint.optimizer["model"], source)
