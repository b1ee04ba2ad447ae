"""Checkpoints: whole or absent, pruned but for the kept ones, loaded strictly."""

import os
import shutil
import threading
from pathlib import Path

import pytest
import torch
from hostile import Calls

from runtime import checkpoint
from runtime.checkpoint import CheckpointWriter, find_checkpoint, list_checkpoints, load_checkpoint, save_checkpoint
from runtime.errors import InputError


def save(folder, step, **rest):
    return save_checkpoint(folder, step, tensors={"model": {"w": torch.full((3,), float(step))}}, **rest)


def test_what_was_saved_comes_back(tmp_path):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))])
    path = save(tmp_path, 5, optimizer=optimizer.state_dict(), state={"a": 1}, files={"config.json": {"b": 2}})
    assert path.name == "step_00000005" and (path / "config.json").is_file()
    found = load_checkpoint(path, names=("model",), optimizer=True)
    assert torch.equal(found.tensors["model"]["w"], torch.full((3,), 5.0))
    assert found.step == 5 and found.state["a"] == 1 and found.optimizer["param_groups"][0]["lr"] == 1e-3


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name_and_then_the_name_is(tmp_path, monkeypatch):
    """A power cut leaves none that only looks whole."""
    done, rename = [], os.rename
    monkeypatch.setattr(os, "fsync", lambda file: done.append(os.fstat(file).st_ino))
    monkeypatch.setattr(os, "rename", lambda *paths: done.append("rename") or rename(*paths))
    path = save(tmp_path, 1, optimizer={"a": 1}, files={"config.json": {}})
    *files, folder, renamed, parent = done
    assert set(files) == {file.stat().st_ino for file in path.iterdir()} and len(files) == 4
    assert (folder, renamed, parent) == (path.stat().st_ino, "rename", path.parent.stat().st_ino)


def test_the_last_ones_and_the_kept_ones_stay(tmp_path):
    for step in range(1, 7):
        save(tmp_path, step, keep=step == 2)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [2, 5, 6]


def test_kept_ones_are_weights_alone_when_newer_ones_can_be_gone_on_from(tmp_path):
    for step in range(1, 7):
        save(tmp_path, step, keep=step in (1, 3, 5), optimizer={"a": torch.ones(4)})
        held = [n for n, path in list_checkpoints(tmp_path) if (path / "optimizer.pt").is_file()]
        assert held[-2:] == [n for n in (step - 1, step) if n] and not {1, 3}.intersection(held[:-2])
    assert [step for step, _ in list_checkpoints(tmp_path)] == [1, 3, 4, 5, 6]
    light = find_checkpoint(tmp_path, 3)
    assert torch.equal(load_checkpoint(light, names=("model",)).tensors["model"]["w"], torch.full((3,), 3.0))
    with pytest.raises(InputError, match="kept checkpoints .* hold weights alone"):
        load_checkpoint(light, names=("model",), optimizer=True)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux what is mapped")
def test_a_checkpoint_is_mapped_and_not_read_into_the_memory_of_each_process(tmp_path):
    path = save(tmp_path, 1, optimizer={"a": torch.ones(100_000)})
    found = load_checkpoint(path, names=("model",), optimizer=True)
    mapped = Path("/proc/self/maps").read_text()
    assert str(path / "optimizer.pt") in mapped and str(path / "model.safetensors") in mapped
    assert torch.equal(found.optimizer["a"], torch.ones(100_000))


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    """What is written is what was there when it was asked for, whatever training does to it meanwhile."""
    gate, weights, moments = threading.Event(), torch.ones(3), torch.ones(2)
    real = checkpoint.save_file
    monkeypatch.setattr(checkpoint, "save_file", lambda *args: (gate.wait(60), real(*args)))
    with CheckpointWriter() as writer:
        writer.save(tmp_path, 1, tensors={"model": {"w": weights}}, optimizer={"model": {"w": [moments]}})
        assert list_checkpoints(tmp_path) == []
        weights.zero_()
        moments.zero_()
        writer.check()
        gate.set()
    found = load_checkpoint(find_checkpoint(tmp_path, 1), names=("model",), optimizer=True)
    assert torch.equal(found.tensors["model"]["w"], torch.ones(3))
    assert torch.equal(found.optimizer["model"]["w"][0], torch.ones(2))


def test_one_checkpoint_is_written_at_a_time_and_leaving_waits_for_the_last(tmp_path):
    with CheckpointWriter() as writer:
        for step in range(1, 6):
            writer.save(tmp_path, step, tensors={"model": {"w": torch.full((3,), float(step))}})
    assert [step for step, _ in list_checkpoints(tmp_path)] == [4, 5]


def test_a_write_that_fails_is_told_at_the_next_look_and_at_the_end_at_the_latest(tmp_path, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    weights = {"model": {"w": torch.ones(3)}}
    with pytest.raises(OSError, match="No space"), CheckpointWriter() as writer:
        writer.save(tmp_path, 1, tensors=weights)
    with CheckpointWriter() as writer:
        writer.save(tmp_path, 1, tensors=weights)
        writer._pending.exception(timeout=60)
        with pytest.raises(OSError, match="No space"):
            writer.check()
    assert list(tmp_path.glob("checkpoints/*")) == []


def test_without_room_for_a_copy_the_checkpoint_is_written_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "free_main_memory", lambda: 20)
    with CheckpointWriter() as writer:
        writer.save(tmp_path, 1, tensors={"model": {"w": torch.ones(3)}})
        assert [step for step, _ in list_checkpoints(tmp_path)] == [1]


def test_links_among_checkpoints_go_and_what_they_lead_to_stays(tmp_path):
    run, light = tmp_path / "run", {"optimizer": {"a": torch.ones(4)}}
    theirs = save(tmp_path / "other", 1, **light)
    kept = save(tmp_path / "other", 2, keep=True, **light)
    (run / "checkpoints").mkdir(parents=True)
    for name in ("step_00000001", ".step_00000003.partial", ".step_00000009.partial", ".step_00000001.removed.partial"):
        (run / "checkpoints" / name).symlink_to(theirs)
    (run / "checkpoints" / "step_00000002").symlink_to(kept)
    (run / "checkpoints" / "step_00000004").symlink_to(tmp_path / "nowhere")
    for step in range(3, 7):
        save(run, step, **light)
    assert [step for step, _ in list_checkpoints(run)] == [2, 5, 6]
    assert len(list((run / "checkpoints").iterdir())) == 3
    assert {len(list(folder.iterdir())) for folder in (theirs, kept)} == {3}


def test_a_leftover_of_a_kill_is_not_a_checkpoint_and_is_cleaned_up(tmp_path):
    save(tmp_path, 1)
    leftover = tmp_path / "checkpoints" / ".step_00000002.partial"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    assert [step for step, _ in list_checkpoints(tmp_path)] == [1]
    save(tmp_path, 3)
    assert not leftover.exists()


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 1, state={"a": 1})
    save(tmp_path, 1, state={"a": 2})
    assert load_checkpoint(find_checkpoint(tmp_path), names=()).state["a"] == 2


def test_a_removal_that_is_killed_half_way_leaves_nothing_that_looks_whole(tmp_path, monkeypatch):
    """The folder has lost its name before its first file goes."""
    for step in (1, 2):
        save(tmp_path, step)
    seen = []
    real = shutil.rmtree

    def watch(path, **rest):
        seen.append((Path(path).name, [step for step, _ in list_checkpoints(tmp_path)]))
        real(path, **rest)

    monkeypatch.setattr(shutil, "rmtree", watch)
    save(tmp_path, 3)
    save(tmp_path, 3)
    names = [name for name, _ in seen]
    assert all(name.startswith(".") for name in names) and ".step_00000001.removed.partial" in names
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.startswith(".")] == []
    assert [step for step, _ in list_checkpoints(tmp_path)] == [2, 3]


def test_a_save_that_fails_leaves_the_checkpoint_before(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(TypeError):
        save(tmp_path, 2, state={"not json": object()})
    assert find_checkpoint(tmp_path).name == "step_00000001"


def test_damage_anywhere_in_the_optimizer_file_is_read_or_named(tmp_path):
    path = save(tmp_path, 1, optimizer={"a": torch.ones(100)})
    whole, refused = (path / "optimizer.pt").read_bytes(), 0
    for position in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[position] ^= 0xFF
        (path / "optimizer.pt").write_bytes(changed)
        try:
            assert load_checkpoint(path, names=(), optimizer=True).optimizer["a"].shape == (100,)
        except InputError as error:
            assert str(path / "optimizer.pt") in str(error)
            refused += 1
    assert refused > 50  # of 281; the others are in values and in what is not read


def test_missing_steps_are_refused_with_what_there_is(tmp_path):
    with pytest.raises(InputError, match="no checkpoint yet"):
        find_checkpoint(tmp_path)
    save(tmp_path, 1)
    save(tmp_path, 2)
    with pytest.raises(InputError, match="no checkpoint of step 7; it has 1, 2"):
        find_checkpoint(tmp_path, 7)


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt"])
def test_a_truncated_file_is_named(tmp_path, file):
    path = save(tmp_path, 1, optimizer={"a": torch.ones(100)})
    whole = (path / file).read_bytes()
    (path / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=file.replace(".", r"\.")):
        load_checkpoint(path, names=("model",), optimizer=True)


def test_a_checkpoint_of_a_stop_goes_when_there_is_a_newer_one_and_costs_no_other(tmp_path):
    for step in (2, 4):
        save(tmp_path, step)
    save(tmp_path, 5, passing=True)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [4, 5]
    save(tmp_path, 6)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [4, 6]


def test_an_optimizer_file_that_runs_code_is_refused(tmp_path):
    path = save(tmp_path, 1, optimizer={"a": 1})

    torch.save(Calls(print, "run"), path / "optimizer.pt")
    with pytest.raises(InputError, match="optimizer"):
        load_checkpoint(path, names=("model",), optimizer=True)
