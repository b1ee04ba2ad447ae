"""TorchScript archives: every tensor is read, and nothing in them is run."""

from __future__ import annotations

import pickle
import warnings
import zipfile

import pytest
import torch
from hostile import attack
from torch import nn

from eval.features.torchscript import is_torchscript, read_torch_file
from runtime.errors import InputError


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
    found, expected = read_torch_file(path), module.state_dict()
    assert is_torchscript(path) and found.keys() == expected.keys()
    for name, value in found.items():
        assert value.dtype == expected[name].dtype and torch.equal(value, expected[name]), name


def test_code_in_the_archive_is_never_compiled(archive):
    path, module = archive
    with zipfile.ZipFile(path) as file:
        code = [name.split("/", 1)[1] for name in file.namelist() if name.endswith(".py")]
    assert code
    found = read_torch_file(rewritten(path, dict.fromkeys(code, b"this is no Python at all (")))
    assert found.keys() == module.state_dict().keys()


def test_a_pickle_that_calls_anything_is_refused_and_calls_nothing(archive, tmp_path):
    path, _ = archive
    trace = tmp_path / "trace"
    bad = rewritten(path, {"data.pkl": pickle.dumps({"weight": attack(trace)}, protocol=2)})
    with pytest.raises(InputError, match=r"changed\.pt: not readable as weights \(it asks for (_?io|builtins)\.open"):
        read_torch_file(bad)
    torch.save({"weight": attack(trace)}, tmp_path / "plain.pt")
    with pytest.raises(InputError, match=r"plain\.pt: not readable as weights"):
        read_torch_file(tmp_path / "plain.pt")
    assert not trace.exists()


def test_tensors_that_reach_beyond_their_bytes_are_refused(archive):
    path, _ = archive
    with zipfile.ZipFile(path) as file:
        tree = file.read("net/data.pkl")
        storage = file.read("net/data/0")
    with pytest.raises(InputError, match=r"tensor storage 0 has \d+ bytes instead of"):
        read_torch_file(rewritten(path, {"data/0": storage[:-4]}))
    # The first tensor is [3, 2, 1, 2, 2]: claim a first side of 200.
    sides = b"(K\x03K\x02K\x01K\x02K\x02t"
    assert tree.count(sides) == 1
    bad = rewritten(path, {"data.pkl": tree.replace(sides, b"(K\xc8K\x02K\x01K\x02K\x02t")})
    with pytest.raises(InputError, match="not readable as weights .*out of bounds"):
        read_torch_file(bad)


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
        read_torch_file(path)
    assert "\n" not in str(error.value)
