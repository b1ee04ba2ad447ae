"""What a run began from (`tokenizer.train --init-from`): known by its hash, so that others under its path are noticed.

Every sitting of a run notes it in manifest.json. Runs of earlier versions noted nothing, and take what is there.
"""

from __future__ import annotations

from pathlib import Path

from runtime.checkpoint import step_named
from runtime.errors import InputError
from runtime.records import check_fields
from runtime.run import file_sha256, read_run
from tokenizer.zoo import find_folder

_NOTE = {"sha256": str, "size": int, "modified": int}


def check_source(run_dir: Path, init_from: str, *, begun: bool) -> dict:
    """What this sitting notes of the weights that the run begins, or began, from: {"source": …}, or nothing.

    Args:
        begun: Whether the run has checkpoints of its own. If not, it begins from what is there now; else it goes on
            also where nothing is there any longer.

    Raises:
        InputError: If a run has begun from other weights than those that are there now; their file is read only where
            its size is the same and its time is not.
    """
    note = source_changed(run_dir, init_from) if begun else None
    if begun and note is None:
        return {"source": kept} if (kept := _noted(run_dir)) else {}
    file = _weights_of(find_folder(init_from))
    if note is not None and (file.stat().st_size != note["size"] or file_sha256(file) != note["sha256"]):
        raise InputError(
            f"--init-from {init_from}: {run_dir} began from other weights (sha256 {note['sha256'][:8]}…) than are in "
            f"{file} now; remove that run, or give another --name, to begin from these"
        )
    return {"source": {"sha256": note["sha256"] if note else file_sha256(file), **_stamp(file)}}


def source_changed(run_dir: Path, init_from: str | Path) -> dict | None:
    """What a run noted of its beginning, if the file there seems another one by size and time, and is no later one of
    the same training; None if all is as it was, or nothing is noted or there any longer. No weights are read."""
    note = _noted(run_dir)
    try:
        found = note and _stamp(_weights_of(find_folder(init_from)))
    except (InputError, FileNotFoundError):  # it has gone
        return None
    if not found or found == {name: note[name] for name in found if name in note}:
        return None
    went_on = "started" in found and found["started"] == note.get("started") and found["step"] > note.get("step", 0)
    return None if went_on else note


def _weights_of(folder: Path) -> Path:
    """Of a folder of weights, the file that `tokenizer.load` reads."""
    averaged = folder / "ema.safetensors"
    return averaged if averaged.is_file() else folder / "model.safetensors"


def _stamp(file: Path) -> dict:
    """Size and time (nanoseconds) of a file; of a checkpoint's also its step, and when its run was begun."""
    stat, found = file.stat(), {}
    if file.parent.parent.name == "checkpoints" and (run := file.parents[2] / "manifest.json").is_file():
        found = {"step": step_named(file.parent), "started": read_run(run.parent).manifest["started"]}
    return {"size": stat.st_size, "modified": stat.st_mtime_ns, **found}


def _noted(run_dir: Path) -> dict | None:
    """What the last sitting of a run noted."""
    if not (run_dir / "manifest.json").is_file():
        return None
    sessions = read_run(run_dir).manifest["sessions"]
    note = next((session["source"] for session in reversed(sessions) if "source" in session), None)
    if note is not None:
        check_fields(note, _NOTE, run_dir / "manifest.json")
        check_fields(note, {"step": int, "started": str}, run_dir / "manifest.json", needed=False)
    return note
