"""Checkpoints `checkpoints/step_00005000/`: written beside, fsynced, renamed, so that each one there is whole."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from runtime.errors import InputError
from runtime.faults import reach
from runtime.files import disk_errors, sync
from runtime.records import check_fields
from runtime.run import read_json
from runtime.weights import read_weights

_NAME = re.compile(r"step_(\d{8,})")
# What changed bytes inside a pickle end in.
_DAMAGED = (pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError, AttributeError)


@dataclass(frozen=True)
class Checkpoint:
    """What was read of one checkpoint: `tensors` by file ("model", "ema"), `optimizer` state or None, and small
    `state`."""

    step: int
    path: Path
    tensors: dict[str, dict[str, Tensor]]
    optimizer: dict | None
    state: dict


def save_checkpoint(
    run_dir: str | Path,
    step: int,
    *,
    tensors: Mapping[str, Mapping[str, Tensor]],
    optimizer: dict | None = None,
    state: dict | None = None,
    files: Mapping[str, dict] | None = None,
    keep_last: int = 2,
    keep: bool = False,
    passing: bool = False,
) -> Path:
    """Write one checkpoint and prune older ones.

    Args:
        tensors: State dicts by file name, e.g. {"model": …, "ema": …}.
        optimizer: Anything `torch.load(weights_only=True)` reads back.
        state: Small JSON values to go on from.
        files: More JSON files, by name.
        keep_last: How many of the newest unkept checkpoints stay.
        keep: Never prune this one.
        passing: It is there only because the command was stopped, and goes as soon as there is a newer one.

    Raises:
        OSError: When the disk is full or broken; nothing of the new checkpoint stays, the ones before are untouched.
    """
    folder = Path(run_dir) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step_{step:08d}"
    partial = folder / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
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
            with disk_errors(partial / "optimizer.pt"), open(partial / "optimizer.pt", "wb") as file:
                torch.save(optimizer, file)
        facts = {**(state or {}), "step": step, "keep": keep} | ({"passing": True} if passing else {})
        for name, value in {**(files or {}), "state.json": facts}.items():
            (partial / name).write_text(json.dumps(value, indent=2) + "\n")
        reach("checkpoint.written")
        for file in partial.iterdir():
            sync(file)
        sync(partial)
    except BaseException:
        # On a full disk the room goes back to what is there already.
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if final.exists():
        _remove(final)
    reach("checkpoint.replace")
    os.rename(partial, final)
    sync(folder)
    reach("checkpoint.renamed")
    _prune(run_dir, keep_last)
    return final


def _remove(checkpoint: Path) -> None:
    """Delete a checkpoint; it loses its name first, so that a kill half-way leaves none that only looks whole."""
    passing = checkpoint.with_name(f".{checkpoint.name}.removed.partial")
    shutil.rmtree(passing, ignore_errors=True)
    os.rename(checkpoint, passing)
    reach("checkpoint.prune")
    shutil.rmtree(passing)


def _prune(run_dir: str | Path, keep_last: int) -> None:
    for leftover in (Path(run_dir) / "checkpoints").glob(".step_*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)
    found = [(path, read_json(path / "state.json")) for _, path in list_checkpoints(run_dir)]
    old = [path for path, state in found[:-1] if state.get("passing")]
    unkept = [path for path, state in found if not state.get("keep") and path not in old]
    for path in (*old, *unkept[: max(0, len(unkept) - keep_last)]):
        _remove(path)


def list_checkpoints(run_dir: str | Path) -> list[tuple[int, Path]]:
    """All whole checkpoints of a run, (step, folder), oldest first."""
    found = []
    for path in (Path(run_dir) / "checkpoints").glob("step_*"):
        match = _NAME.fullmatch(path.name)
        if match and (path / "state.json").is_file():
            found.append((int(match.group(1)), path))
    return sorted(found)


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
    tensors = {}
    for name in names:
        try:
            tensors[name] = read_weights(path / f"{name}.safetensors", device)
        except InputError as error:
            raise InputError(f"{error}; or remove {path} to go on from the checkpoint before") from error
    loaded = None
    if optimizer:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about what damaged pickles say of themselves
                loaded = torch.load(path / "optimizer.pt", map_location=device, weights_only=True)
        except torch.OutOfMemoryError:
            raise
        except (*_DAMAGED, OSError, RuntimeError, ImportError, OverflowError, MemoryError, AssertionError) as error:
            raise InputError(
                f"{path / 'optimizer.pt'}: damaged or absent ({type(error).__name__}); "
                f"remove {path} to go on from the checkpoint before"
            ) from error
    return Checkpoint(state["step"], path, tensors, loaded, state)
