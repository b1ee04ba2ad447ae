"""What a run needs is asked before it begins, and only what is not there yet."""

from collections import namedtuple

import pytest
import torch

from runtime import resources
from runtime.checkpoint import checkpoint_room, save_checkpoint
from runtime.errors import InputError
from runtime.processes import World
from runtime.trainer import require_training

ALONE = World(0, 1, torch.device("cpu"))
PARAMETERS = 1000
WHOLE, LIGHT = 16 * PARAMETERS, 8 * PARAMETERS  # with the moments of AdamW, and without


def save(folder, step, keep=False):
    weights = torch.zeros(PARAMETERS)
    moments = {"model": {"w": {"exp_avg": weights, "exp_avg_sq": weights.clone()}}}
    tensors = {name: {"w": weights} for name in ("model", "ema")}
    save_checkpoint(folder, step, tensors=tensors, optimizer=moments, keep=keep)


def require(folder, free, monkeypatch, steps=10, kept=10):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda place: usage(0, 0, free))
    return require_training(PARAMETERS, ALONE, folder, mode="ddp", steps=steps, kept=kept)


def test_a_new_run_needs_room_for_three_whole_checkpoints_and_the_kept_ones_weights(tmp_path, monkeypatch):
    needed = 3 * WHOLE + 10 * LIGHT
    assert "3 checkpoints with optimizer state and 10 without" in require(tmp_path, needed, monkeypatch)
    with pytest.raises(InputError, match="make room"):
        require(tmp_path, needed - 1, monkeypatch)


def test_what_a_resumed_run_has_written_needs_no_room_again(tmp_path, monkeypatch):
    for step in range(1, 7):
        save(tmp_path, step, keep=True)
    there = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert there > 2 * WHOLE + 4 * LIGHT  # the headers come on top of the numbers
    rest = 3 * WHOLE + 10 * LIGHT - there
    require(tmp_path, rest, monkeypatch)
    with pytest.raises(InputError, match="what is left of"):
        require(tmp_path, rest - 1, monkeypatch)


def test_the_estimate_covers_what_a_run_leaves(tmp_path, monkeypatch):
    """Each step is kept, the worst case, and all of it fits into the room that was asked for, but for the headers."""
    whole, *_ = checkpoint_room(PARAMETERS, tmp_path, steps=10, kept=10)
    largest, headers = 0, 10 * 8192
    for step in range(1, 11):
        save(tmp_path, step, keep=True)
        largest = max(largest, sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()))
    assert whole - 3 * WHOLE <= largest + WHOLE <= whole + headers


def test_a_finished_run_needs_none(tmp_path, monkeypatch):
    save(tmp_path, 10)
    require(tmp_path, 0, monkeypatch)
    with pytest.raises(InputError, match="make room"):
        require(tmp_path, 0, monkeypatch, steps=11)


def test_files_that_a_container_keeps_in_memory_are_free_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "CGROUP", tmp_path)
    machine = resources.free_main_memory()
    limit, used, cached = 2**20, 2**20 - 2**12, 2**19
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text(f"{used}\n")
    assert resources.free_main_memory() == 2**12 < machine
    (tmp_path / "memory.stat").write_text(f"anon 77\ninactive_file {cached - 5}\nactive_file 5\nslab 3\n")
    assert resources.free_main_memory() == 2**12 + cached
    (tmp_path / "memory.max").write_text("max\n")
    assert resources.free_main_memory() > limit


@pytest.mark.parametrize(
    ("line", "folder", "names", "cached"),
    [
        ("0::/job/step", "job", ("memory.max", "memory.current"), ""),
        ("0::/job/step", "job/step", ("memory.max", "memory.current"), ""),
        ("4:cpu,memory:/job", "memory/job", ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_"),
        ("4:cpu,memory:/elsewhere", "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_"),
    ],
)
def test_the_limit_of_a_job_holds_wherever_it_stands(line, folder, names, cached, tmp_path, monkeypatch):
    """Of batch systems and containers, in control groups of both versions."""
    (tmp_path / "own").write_text(f"{line}\n")
    monkeypatch.setattr(resources, "CGROUP", tmp_path)
    monkeypatch.setattr(resources, "OWN_GROUPS", tmp_path / "own")
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for name, size in zip(names, (2**20, 2**19), strict=True):
        (tmp_path / folder / name).write_text(f"{size}\n")
    sizes = {"inactive_file": 2, "active_file": 3} | (
        {"total_inactive_file": 20, "total_active_file": 30} if cached else {}
    )
    (tmp_path / folder / "memory.stat").write_text("\n".join(f"{name} {size}" for name, size in sizes.items()))
    assert resources.free_main_memory() == 2**19 + (50 if cached else 5)
