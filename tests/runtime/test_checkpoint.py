"""Checkpoints: whole or absent, pruned but for the kept ones, loaded strictly."""

import pytest
import torch

from runtime.checkpoint import find_checkpoint, list_checkpoints, load_checkpoint, save_checkpoint
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


def test_the_last_ones_and_the_kept_ones_stay(tmp_path):
    for step in range(1, 7):
        save(tmp_path, step, keep=step == 2, keep_last=2)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [2, 5, 6]


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


def test_an_optimizer_file_that_runs_code_is_refused(tmp_path):
    path = save(tmp_path, 1, optimizer={"a": 1})

    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    torch.save(Evil(), path / "optimizer.pt")
    with pytest.raises(InputError, match="optimizer"):
        load_checkpoint(path, names=("model",), optimizer=True)
