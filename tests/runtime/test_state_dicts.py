"""Weight files of others: every tensor is read, nothing in them is run, and only what fits is taken."""

from __future__ import annotations

import pickle

import pytest
import torch
from hostile import attack
from safetensors.torch import save_file
from torch import nn

from runtime.errors import InputError
from runtime.state_dicts import read_state_dict
from runtime.weights import load_strictly


def test_a_file_of_something_else_is_no_state_dict(tmp_path):
    for number, value in enumerate(([1, 2], {}, {"weights": {"a": torch.zeros(1)}}, torch.zeros(3))):
        path = tmp_path / f"{number}.pt"
        torch.save(value, path)
        with pytest.raises(InputError, match="holds no state dict"):
            read_state_dict(path)


def test_a_state_dict_is_taken_only_when_it_fits_exactly():
    module = nn.ModuleDict({"conv": nn.Conv3d(2, 3, 2, bias=False), "norm": nn.BatchNorm3d(3), "tied": nn.Linear(4, 5)})
    state = {name: value + 1 for name, value in module.state_dict().items()}
    conv, before = module["conv"], module["conv"].weight.clone()
    for changes, words in [
        (
            {"conv.weight": None, "tied.bias": None, "tied.weight": None},
            "conv.weight is missing; tied.weight is missing; tied.b",
        ),
        ({"other": torch.zeros(1)}, "file: the weights do not fit the network: other is unknown"),
        ({"conv.weight": torch.zeros(3, 2)}, r"conv.weight is \[3, 2\], not \[3, 2, 2, 2, 2\]"),
        ({"norm.bias": torch.tensor([0.0, 1.0, torch.inf])}, "norm.bias holds values that are no finite floats"),
    ]:
        bad = {name: value for name, value in {**state, **changes}.items() if value is not None}
        with pytest.raises(InputError, match=words):
            load_strictly(module, bad, "file")
        assert torch.equal(conv.weight, before)
    state.pop("norm.num_batches_tracked")  # older files do not have it
    load_strictly(module, state, "file")
    assert torch.equal(conv.weight, state["conv.weight"])


def test_tensors_are_found_beside_other_plain_values(tmp_path):
    path, state = tmp_path / "a.ckpt", {"a": torch.ones(2), "loss.b": torch.ones(1)}
    torch.save({"state_dict": state, "epoch": 3}, path)
    assert read_state_dict(path, ("state_dict", ""), dropped=("loss.",)).keys() == {"a"}
    torch.save({"averages": {}, "state_dict": {"model": state}}, path)
    assert read_state_dict(path, ("averages", "state_dict.model", "state_dict")).keys() == {"a", "loss.b"}
    torch.save(state, path)
    assert read_state_dict(path, ("state_dict", "")).keys() == {"a", "loss.b"}
    with pytest.raises(InputError, match="holds no state dict in state_dict; fetch it again"):
        read_state_dict(path, ("state_dict",))
    for held in ({"a": 1}, {3: torch.zeros(1)}):
        torch.save({"state_dict": held}, path)
        with pytest.raises(InputError, match="holds no state dict in state_dict"):
            read_state_dict(path, ("state_dict", ""))
    save_file(state, tmp_path / "a.safetensors")
    assert read_state_dict(tmp_path / "a.safetensors", dropped=("loss.",)).keys() == {"a"}


def test_a_pickle_that_calls_anything_is_refused_and_calls_nothing(tmp_path):
    torch.save({"weight": attack(tmp_path / "trace")}, tmp_path / "plain.pt")
    with pytest.raises(
        InputError, match=r"plain\.pt: not readable as weights \(it asks for \w+\.open, which no weights"
    ):
        read_state_dict(tmp_path / "plain.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps({"weight": attack(tmp_path / "trace")}, protocol=4))
    with pytest.raises(InputError, match=r"bare\.pt: not readable as weights \([^\n]+\); fetch it again$") as error:
        read_state_dict(tmp_path / "bare.pt")
    assert "trust" not in str(error.value) and not (tmp_path / "trace").exists()
