"""Checkpoints `checkpoints/step_00005000/`: written beside, fsynced, renamed, so that each one there is whole.

The newest can be gone on from. Of those before, the kept ones stay, as weights without the state of an optimizer.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from runtime.errors import InputError
from runtime.faults import reach
from runtime.files import disk_errors, sync
from runtime.records import as_text, check_fields, read_json
from runtime.resources import free_main_memory
from runtime.weights import read_weights, reading

OPTIMIZER = "optimizer.pt"
KEEP_LAST = 2  # of the newest unkept checkpoints stay; as many of all hold the optimizer's state
# Bytes of each parameter: weights and averaged weights, and the two moments of AdamW where training can go on from it.
BYTES_KEPT = 4 + 4
BYTES_WHOLE = BYTES_KEPT + 8
_NAME = re.compile(r"step_(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """What was read of one checkpoint: `tensors` by file ("model", "ema"), `optimizer` state or None, and small
    `state`."""

    step: int
    path: Path
    tensors: dict[str, dict[str, Tensor]]
    optimizer: dict | None
    state: dict


class Room(NamedTuple):
    """Bytes that the checkpoints of a run take: of a `whole` run, at most, and what is still `needed`; in `words`."""

    whole: int
    needed: int
    words: str


def checkpoint_room(parameters: int, run_dir: str | Path, *, steps: int, kept: int) -> Room:
    """What disk a run needs for its checkpoints; those that are there need no more.

    Args:
        parameters: Of the model.
        steps: Where the run ends: one that is there has nothing left to write.
        kept: How many checkpoints stay for good, of the whole run.
    """
    newest = KEEP_LAST + 1  # one of them is being written
    whole = parameters * (newest * BYTES_WHOLE + kept * BYTES_KEPT)
    found = list_checkpoints(run_dir)
    there = 0
    with contextlib.suppress(FileNotFoundError):  # another command writes to this run, which is found out later
        there = sum(file.stat().st_size for file in Path(run_dir, "checkpoints").rglob("*") if file.is_file())
    needed = 0 if found and found[-1][0] >= steps else max(0, whole - there)
    return Room(whole, needed, f"{newest} checkpoints with optimizer state and {kept} without")


def save_checkpoint(
    run_dir: str | Path,
    step: int,
    *,
    tensors: Mapping[str, Mapping[str, Tensor]],
    optimizer: dict | None = None,
    state: dict | None = None,
    files: Mapping[str, dict] | None = None,
    keep: bool = False,
    passing: bool = False,
) -> Path:
    """Write one checkpoint and prune older ones.

    Args:
        tensors: State dicts by file name, e.g. {"model": …, "ema": …}.
        optimizer: Anything `torch.load(weights_only=True)` reads back.
        state: Small JSON values to go on from.
        files: More JSON files, by name.
        keep: Never prune this one, but for its optimizer's state when newer ones have theirs.
        passing: It is there only because the command was stopped, and goes as soon as there is a newer one.

    Raises:
        OSError: When the disk is full or broken; nothing of the new checkpoint stays, the ones before are untouched.
    """
    folder = Path(run_dir) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step_{step:08d}"
    partial = folder / f".{final.name}.partial"
    _delete(partial)
    reach("checkpoint.begin")
    partial.mkdir()
    try:
        for name, values in tensors.items():
            file = partial / f"{name}.safetensors"
            with disk_errors(file):
                save_file({key: value.detach().cpu().contiguous() for key, value in values.items()}, file)
            reach("checkpoint.tensors")
        if optimizer is not None:
            # Given a path, torch would write the file itself and tell nobody why it could not.
            with disk_errors(partial / OPTIMIZER), open(partial / OPTIMIZER, "wb") as file:
                torch.save(optimizer, file)
        facts = {**(state or {}), "step": step, "keep": keep} | ({"passing": True} if passing else {})
        for name, value in {**(files or {}), "state.json": facts}.items():
            (partial / name).write_text(as_text(value))
        reach("checkpoint.written")
        for file in partial.iterdir():
            sync(file)
        sync(partial)
    except BaseException:
        # On a full disk the room goes back to what is there already.
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if os.path.lexists(final):
        _remove(final)
    reach("checkpoint.replace")
    os.rename(partial, final)
    sync(folder)
    reach("checkpoint.renamed")
    prune(run_dir)
    return final


class CheckpointWriter:
    """Writes the checkpoints of one process: at once, or in a with-block beside the training that goes on.

    Leaving the with-block waits for the last one. One is written at a time, from copies in main memory; where there is
    no room for those, everyone waits as outside of the with-block.

    Args:
        copy: Whether tensors in main memory that `save` is given still change, as those of a model on the CPU do.
    """

    def __init__(self, copy: bool = True):
        self._copy = copy
        self._pool: ThreadPoolExecutor | None = None
        self._pending: Future | None = None

    def save(
        self,
        run_dir: str | Path,
        step: int,
        *,
        tensors: Mapping[str, Mapping[str, Tensor]],
        optimizer: dict | None = None,
        **rest,
    ) -> None:
        """`save_checkpoint`; an error of the one before is raised here, if `check` has not."""
        self.wait()
        if self._pool is None or (self._copy and _no_room_for((tensors, optimizer))):
            save_checkpoint(run_dir, step, tensors=tensors, optimizer=optimizer, **rest)
            return
        tensors, optimizer = (_copied(value, self._copy) for value in (tensors, optimizer))
        self._pending = self._pool.submit(save_checkpoint, run_dir, step, tensors=tensors, optimizer=optimizer, **rest)

    def check(self) -> None:
        """Raise the error of a checkpoint that could not be written, as soon as that is known."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Return when nothing is being written; raises like `check`."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> CheckpointWriter:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        return self

    def __exit__(self, kind, error, trace) -> None:
        pool, self._pool = self._pool, None
        try:
            self.wait()
        finally:
            pool.shutdown()


def _copied(value, always: bool):
    """`value` with its tensors in main memory; `always`: also copies of those that are there."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=always)
    if isinstance(value, Mapping):
        return {name: _copied(part, always) for name, part in value.items()}
    return [_copied(part, always) for part in value] if isinstance(value, list) else value


def _no_room_for(values: object) -> bool:
    free = free_main_memory()
    return free is not None and _bytes_of(values) > free // 2


def _bytes_of(value) -> int:
    if isinstance(value, Tensor):
        return value.nbytes
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return sum(map(_bytes_of, parts))


def _remove(checkpoint: Path) -> None:
    """Delete a checkpoint; it loses its name first, so that a kill half-way leaves none that only looks whole."""
    passing = checkpoint.with_name(f".{checkpoint.name}.removed.partial")
    _delete(passing)
    os.rename(checkpoint, passing)
    reach("checkpoint.prune")
    _delete(passing, ignore_errors=False)


def _delete(folder: Path, ignore_errors: bool = True) -> None:
    """Delete a folder; of a link to one, which may be anybody's, the link alone."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=ignore_errors)


def prune(run_dir: str | Path) -> None:
    """Remove what `save_checkpoint` would after writing the newest one: a kill may have come before that."""
    for leftover in (Path(run_dir) / "checkpoints").glob(".step_*.partial"):
        _delete(leftover)
    found = [(path, read_json(path / "state.json")) for _, path in list_checkpoints(run_dir)]
    old = [path for path, state in found[:-1] if state.get("passing")]
    unkept = [path for path, state in found if not state.get("keep") and path not in old]
    gone = [*old, *unkept[: max(0, len(unkept) - KEEP_LAST)]]
    for path in gone:
        _remove(path)
    left = [path for path, _ in found if path not in gone]
    for path in left[:-KEEP_LAST]:
        if not path.is_symlink():
            (path / OPTIMIZER).unlink(missing_ok=True)


def list_checkpoints(run_dir: str | Path) -> list[tuple[int, Path]]:
    """All whole checkpoints of a run, (step, folder), oldest first."""
    found = []
    for path in (Path(run_dir) / "checkpoints").glob("step_*"):
        step = step_named(path)
        if step is not None and (path / "state.json").is_file():
            found.append((step, path))
    return sorted(found)


def step_named(path: Path) -> int | None:
    """The step that the name of a folder says, if it is that of a checkpoint."""
    found = _NAME.fullmatch(path.name)
    return int(found[1]) if found else None


def find_checkpoint(run_dir: str | Path, step: int | None = None) -> Path:
    """The newest checkpoint, or the one of `step`; InputError lists what there is."""
    found = dict(list_checkpoints(run_dir))
    if not found:
        raise InputError(f"{run_dir} has no checkpoint yet")
    if step is None:
        return found[max(found)]
    if step not in found:
        raise InputError(f"{run_dir} has no checkpoint of step {step}; it has {', '.join(map(str, found))}")
    return found[step]


def load_checkpoint(
    path: str | Path,
    *,
    names: tuple[str, ...] = ("model", "ema"),
    optimizer: bool = False,
    device: str | torch.device = "cpu",
) -> Checkpoint:
    """Read a checkpoint; InputError when a file is absent or damaged."""
    path = Path(path)
    state = read_json(path / "state.json")
    check_fields(state, {"step": int}, path / "state.json")
    tensors, before = {}, "to go on from the checkpoint before"
    for name in names:
        try:
            tensors[name] = read_weights(path / f"{name}.safetensors", device)
        except InputError as error:
            raise InputError(f"{error}; or remove {path} {before}") from error
    loaded = None
    file = path / OPTIMIZER
    if optimizer:
        if not file.is_file():
            raise InputError(
                f"{file} is absent: kept checkpoints that are not among the newest hold weights alone, from which "
                "nothing can go on"
            )
        with reading(file, "an optimizer's state", f"remove {path} {before}"):
            # Mapped, as safetensors files are: processes of one machine share the pages, and each copies its part.
            loaded = torch.load(str(file), map_location=device, weights_only=True, mmap=True)
    return Checkpoint(state["step"], path, tensors, loaded, state)
