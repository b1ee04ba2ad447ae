"""Weight files of others: every tensor is read, nothing in them is run, and only what fits is taken."""

from __future__ import annotations

import pickle
import warnings
import zipfile

import pytest
import torch
from torch import nn

from runtime.errors import InputError
from runtime.state_dicts import read_checkpoint, read_state_dict
from runtime.torchscript import is_torchscript
from runtime.weights import load_strictly


class Block(nn.Module):
    """Parts of every kind that an archive can hold beside tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 3, (1, 2, 2), bias=False)
        self.norm = nn.BatchNorm3d(3)
        self.parts = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 4).half())
        self.tied = nn.Linear(4, 5)
        self.tied.weight = self.parts[0].weight
        self.register_buffer("turned", torch.arange(6).reshape(2, 3).T)
        self.pads, self.names, self.scale = [1, 2], ["a", "b"], 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x)) * self.scale


@pytest.fixture
def archive(tmp_path):
    """(path of a TorchScript archive, its module)"""
    torch.manual_seed(0)
    module = Block()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated in torch, and still what the published file is
        torch.jit.script(module).save(str(tmp_path / "net.pt"))
    return tmp_path / "net.pt", module


def rewritten(path, changes: dict[str, bytes]):
    """The archive again, with some members' bytes replaced."""
    other = path.with_name("changed.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
        for name in old.namelist():
            new.writestr(name, changes.get(name.split("/", 1)[1], old.read(name)))
    return other


def test_a_torchscript_archive_gives_the_modules_state_dict(archive, monkeypatch):
    path, module = archive
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("the script was loaded"))
    found, expected = read_state_dict(path), module.state_dict()
    assert is_torchscript(path) and found.keys() == expected.keys()
    for name, value in found.items():
        assert value.dtype == expected[name].dtype and torch.equal(value, expected[name]), name


def test_code_in_the_archive_is_never_compiled(archive):
    path, module = archive
    with zipfile.ZipFile(path) as file:
        code = [name.split("/", 1)[1] for name in file.namelist() if name.endswith(".py")]
    assert code
    found = read_state_dict(rewritten(path, dict.fromkeys(code, b"this is no Python at all (")))
    assert found.keys() == module.state_dict().keys()


class Attack:
    """Unpickled, it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_that_calls_anything_is_refused_and_calls_nothing(archive, tmp_path):
    path, _ = archive
    trace = tmp_path / "trace"
    bad = rewritten(path, {"data.pkl": pickle.dumps({"weight": Attack(trace)}, protocol=2)})
    with pytest.raises(InputError, match=r"changed\.pt: not readable as weights \(it asks for (_?io|builtins)\.open"):
        read_state_dict(bad)
    torch.save({"weight": Attack(trace)}, tmp_path / "plain.pt")
    with pytest.raises(InputError, match=r"plain\.pt: not readable as weights"):
        read_state_dict(tmp_path / "plain.pt")
    assert not trace.exists()


def test_tensors_that_reach_beyond_their_bytes_are_refused(archive):
    path, _ = archive
    with zipfile.ZipFile(path) as file:
        tree = file.read("net/data.pkl")
        storage = file.read("net/data/0")
    with pytest.raises(InputError, match=r"tensor storage 0 has \d+ bytes instead of"):
        read_state_dict(rewritten(path, {"data/0": storage[:-4]}))
    # The first tensor is [3, 2, 1, 2, 2]: claim a first side of 200.
    sides = b"(K\x03K\x02K\x01K\x02K\x02t"
    assert tree.count(sides) == 1
    bad = rewritten(path, {"data.pkl": tree.replace(sides, b"(K\xc8K\x02K\x01K\x02K\x02t")})
    with pytest.raises(InputError, match="not readable as weights .*out of bounds"):
        read_state_dict(bad)


@pytest.mark.parametrize("kept", [0, 10, 0.3, 0.9, -1])
@pytest.mark.parametrize("kind", ["script", "plain", "old"])
def test_cut_files_are_refused_in_one_line(kind, kept, archive, tmp_path):
    path, module = archive
    if kind != "script":
        path = tmp_path / "plain.pt"
        torch.save(module.state_dict(), path, _use_new_zipfile_serialization=kind == "plain")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(InputError, match="not readable as weights") as error:
        read_state_dict(path)
    assert "\n" not in str(error.value)


def test_a_file_of_something_else_is_no_state_dict(tmp_path):
    for number, value in enumerate(([1, 2], {}, {"weights": {"a": torch.zeros(1)}})):
        path = tmp_path / f"{number}.pt"
        torch.save(value, path)
        with pytest.raises(InputError, match="holds no state dict"):
            read_state_dict(path)


def test_a_state_dict_is_taken_only_when_it_fits_exactly():
    module, state = Block(), {name: value + 1 for name, value in Block().state_dict().items()}
    before = module.conv.weight.clone()
    for changes, words in [
        (
            {"conv.weight": None, "tied.bias": None, "tied.weight": None},
            "conv.weight is missing; tied.weight is missing; tied.b",
        ),
        ({"other": torch.zeros(1)}, "file: the weights do not fit the network: other is unknown"),
        ({"conv.weight": torch.zeros(3, 2)}, r"conv.weight is \[3, 2\], not \[3, 2, 1, 2, 2\]"),
        ({"norm.bias": torch.tensor([0.0, 1.0, torch.inf])}, "norm.bias holds values that are no finite floats"),
    ]:
        bad = {name: value for name, value in {**state, **changes}.items() if value is not None}
        with pytest.raises(InputError, match=words):
            load_strictly(module, bad, "file")
        assert torch.equal(module.conv.weight, before)
    state.pop("norm.num_batches_tracked")  # older files do not have it
    load_strictly(module, state, "file")
    assert torch.equal(module.conv.weight, state["conv.weight"])


def test_tensors_are_found_beside_other_plain_values(tmp_path):
    path, state = tmp_path / "a.ckpt", {"a": torch.ones(2), "loss.b": torch.ones(1)}
    torch.save({"state_dict": state, "epoch": 3}, path)
    assert read_checkpoint(path, "state_dict", dropped=("loss.",)).keys() == {"a"}
    torch.save(state, path)
    assert read_checkpoint(path, "state_dict").keys() == {"a", "loss.b"}
    torch.save({"state_dict": {"a": 1}}, path)
    with pytest.raises(InputError, match="holds no state dict"):
        read_checkpoint(path, "state_dict")
