"""Folders of weights and the Hub: what is written comes back bit for bit, what does not belong together is refused, and
the network is used only when asked for (here never: the Hub is a fake)."""

import json
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import tokenizer
from runtime.errors import InputError
from tokenizer import PVVAE, PVVAEConfig

TINY = PVVAEConfig(latent_channels=4, channels=(8, 8, 8), blocks=1, middle_blocks=1, patch=4, norm="layer")


class FakeHub:
    """Repositories in memory, behind the calls of HfApi that are used."""

    def __init__(self):
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.tokens: list[str | None] = []

    def __call__(self, token=None):
        self.tokens.append(token)
        return self

    def create_repo(self, repo_id, *, private, exist_ok):
        assert exist_ok
        self.private.setdefault(repo_id, private)
        self.files.setdefault(repo_id, {})
        return f"https://hub.invalid/{repo_id}"

    def repo_info(self, repo_id):
        return SimpleNamespace(private=self.private[repo_id])

    def upload_folder(self, *, repo_id, folder_path, allow_patterns, delete_patterns, commit_message):
        assert commit_message
        folder, files = Path(folder_path), self.files[repo_id]
        for name in set(files).intersection(delete_patterns):
            del files[name]
        found = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        files |= {name: (folder / name).read_bytes() for name in found if name in allow_patterns}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test reaches the network, whatever the code tries."""

    def refuse(*_):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def hub(monkeypatch) -> FakeHub:
    fake = FakeHub()
    monkeypatch.setattr(huggingface_hub, "HfApi", fake)
    return fake


def tiny(seed: int = 0, **changes) -> PVVAE:
    torch.manual_seed(seed)
    return PVVAE(PVVAEConfig.from_dict({**TINY.to_dict(), **changes})).eval()


def same(ours: PVVAE, theirs: PVVAE) -> bool:
    """Whether two tokenizers agree in every bit of weights and latent statistics."""
    pairs = [(ours.state_dict(), theirs.state_dict()), (dict(ours.named_buffers()), dict(theirs.named_buffers()))]
    return all(a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in pairs)


def test_weights_statistics_and_config_come_back_bit_for_bit(tmp_path):
    vae = tiny()
    vae.set_latent_statistics(torch.arange(4.0), torch.arange(1.0, 5.0))
    vae.save_pretrained(tmp_path / "a")
    again = PVVAE.from_pretrained(tmp_path / "a")
    assert same(again, vae) and again.config == vae.config and not again.training
    video = torch.rand(1, 3, 9, 32, 32) * 2 - 1
    with torch.no_grad():
        ours, theirs = vae.encode(video), again.encode(video)
        assert torch.equal(ours.mean, theirs.mean) and torch.equal(ours.logvar, theirs.logvar)
        assert torch.equal(vae.decode(ours.mean), again.decode(ours.mean))
    again.save_pretrained(tmp_path / "b")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_half_precision_comes_back_as_its_rounded_values(tmp_path):
    vae = tiny()
    vae.bfloat16().save_pretrained(tmp_path)
    assert vae.encoder.conv_out.weight.dtype == torch.bfloat16  # saving changes nothing
    assert load_file(tmp_path / "model.safetensors")["encoder.conv_out.weight"].dtype == torch.bfloat16
    again = PVVAE.from_pretrained(tmp_path)
    assert same(again, vae.float())


def test_weights_loaded_in_another_type_keep_their_name_and_their_statistics(tmp_path):
    vae = tiny()
    vae.set_latent_statistics(torch.rand(4), torch.rand(4) + 1.0)
    vae.save_pretrained(tmp_path / "a")
    loaded = tokenizer.load(tmp_path / "a", dtype=torch.bfloat16)
    assert {value.dtype for value in loaded.parameters()} == {torch.bfloat16}
    assert torch.equal(loaded.latents_mean, vae.latents_mean)
    assert (loaded.encoder_hash, loaded.decoder_hash) == (vae.encoder_hash, vae.decoder_hash)
    weights = [value for value in loaded.parameters() if value.ndim == 5]
    assert all(value.is_contiguous(memory_format=torch.channels_last_3d) for value in weights)
    loaded.save_pretrained(tmp_path / "b")  # rounded weights are others, and get a name of their own
    assert PVVAE.from_pretrained(tmp_path / "b").encoder_hash != vae.encoder_hash


@pytest.mark.bf16
def test_weights_loaded_in_bfloat16_encode_and_decode_nearly_as_in_float32(tmp_path):
    vae = tiny()
    vae.save_pretrained(tmp_path)
    loaded = tokenizer.load(tmp_path, dtype=torch.bfloat16)
    video = torch.rand(1, 3, 9, 32, 32) * 2 - 1
    with torch.no_grad():
        mean = vae.encode(video).mean
        assert (loaded.encode(video).mean - mean).norm() < 0.05 * mean.norm()
        decoded = vae.decode(mean)
        assert (loaded.decode(mean) - decoded).norm() < 0.05 * decoded.norm()


def test_the_header_holds_the_hashes(tmp_path):
    vae = tiny()
    vae.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata == {"hashes": f"encoder {vae.encoder_hash}, decoder {vae.decoder_hash}"}


def test_files_without_hashes_are_read(tmp_path):
    vae = tiny()
    vae.save_pretrained(tmp_path)
    save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "model.safetensors")
    assert same(PVVAE.from_pretrained(tmp_path), vae)


def test_a_config_that_fits_the_shapes_but_is_another_is_refused(tmp_path):
    tiny().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"norm": "rms"}))
    with pytest.raises(InputError, match="do not belong together, or are damaged"):
        PVVAE.from_pretrained(tmp_path)


def test_a_config_of_other_shapes_is_refused(tmp_path):
    tiny().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(tiny(latent_channels=5).config.to_dict()))
    with pytest.raises(InputError, match="do not fit the network"):
        PVVAE.from_pretrained(tmp_path)


def test_a_changed_bit_and_a_missing_end_are_refused(tmp_path):
    tiny().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1  # among the weights; statistics have no part in the hashes
    path.write_bytes(changed)
    with pytest.raises(InputError, match="do not belong together, or are damaged"):
        PVVAE.from_pretrained(tmp_path)
    for size in (len(whole) - 1, 100, 0):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match="not readable as safetensors"):
            PVVAE.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("mean", "std"), [(3, 3), (4, 3), ([0.0, 0.0, 0.0, float("nan")], 4), (4, [1.0, 1.0, 1.0, 0.0])]
)
def test_latent_statistics_that_do_not_fit_are_refused(mean, std):
    values = [torch.ones(value) if isinstance(value, int) else torch.tensor(value) for value in (mean, std)]
    vae = tiny()
    with pytest.raises(InputError, match="statistics"):
        vae.set_latent_statistics(*values)
    assert vae.latents_mean.tolist() == [0.0] * 4 and vae.latents_std.tolist() == [1.0] * 4


def test_a_file_with_half_of_the_statistics_is_refused(tmp_path):
    tiny().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["latents_std"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="one of latents_mean and latents_std"):
        PVVAE.from_pretrained(tmp_path)


def test_a_failed_write_leaves_the_files_as_they_were(tmp_path, monkeypatch):
    import runtime.weights as weights

    vae = tiny()
    vae.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"the beginning")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        tiny(seed=1).save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_hub_is_asked_only_with_download_and_for_config_and_weights_alone(tmp_path, monkeypatch):
    vae = tiny()
    vae.save_pretrained(tmp_path)
    vae.save_pretrained(tmp_path / "video")
    asked = []

    def fetched(repo_id, *, revision, allow_patterns):
        asked.append((repo_id, revision, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    with pytest.raises(InputError, match="give download=True"):
        PVVAE.from_pretrained("someone/vae")
    assert asked == []
    assert same(PVVAE.from_pretrained("someone/vae", download=True), vae)
    PVVAE.from_pretrained("someone/vae", download=True, subfolder="video", revision="v2")
    assert asked == [
        ("someone/vae", None, ["config.json", "model.safetensors"]),
        ("someone/vae", "v2", ["video/config.json", "video/model.safetensors"]),
    ]


def test_a_folder_comes_before_the_hub_and_a_path_never_goes_there(tmp_path, monkeypatch):
    tiny().save_pretrained(tmp_path / "someone" / "vae")
    monkeypatch.chdir(tmp_path)
    PVVAE.from_pretrained("someone/vae", download=True)
    with pytest.raises(InputError, match="no such file"):
        PVVAE.from_pretrained("./someone/nobody", download=True)


def test_a_failing_hub_is_one_line(monkeypatch, hub):
    def fail(*_, **__):
        raise ConnectionError("cannot connect\nand pages of details")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(InputError, match=r"^Hub repository someone/vae: download failed \(cannot connect\)$"):
        PVVAE.from_pretrained("someone/vae", download=True)
    monkeypatch.setattr(hub, "create_repo", fail)
    with pytest.raises(InputError, match=r"^Hub repository someone/vae: upload failed \(cannot connect\)$"):
        tiny().push_to_hub("someone/vae")


def test_without_huggingface_hub_folders_work_and_the_hub_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    vae = tiny()
    vae.save_pretrained(tmp_path)
    assert same(PVVAE.from_pretrained(tmp_path), vae)
    for call in (
        lambda: vae.push_to_hub("someone/vae"),
        lambda: PVVAE.from_pretrained("someone/vae", download=True),
    ):
        with pytest.raises(InputError, match="pip install huggingface_hub"):
            call()


def test_push_sends_weights_that_load_and_a_card_that_claims_nothing(tmp_path, hub):
    vae = tiny()
    assert vae.push_to_hub("someone/my-vae", token="secret") == "https://hub.invalid/someone/my-vae"
    sent = hub.files["someone/my-vae"]
    assert hub.tokens == ["secret"] and sorted(sent) == ["README.md", "config.json", "model.safetensors"]
    for name, data in sent.items():
        (tmp_path / name).write_bytes(data)
    assert same(PVVAE.from_pretrained(tmp_path), vae)
    card = sent["README.md"].decode()
    assert "# my-vae" in card and vae.encoder_hash in card and "not the weights of the paper" in " ".join(card.split())
    assert "Nothing is known here of how these weights were trained" in card
    assert "Nothing was measured of these weights yet" in card and "PSNR" not in card and "license:" not in card
    assert b"secret" not in b"".join(sent.values())


def test_statistics_are_sent_too_and_the_card_does_not_deny_them(tmp_path, hub):
    vae = tiny()
    vae.push_to_hub("someone/vae")
    assert b"`normalize` changes nothing" in hub.files["someone/vae"]["README.md"]
    vae.set_latent_statistics(torch.zeros(4), torch.full((4,), 2.0))
    vae.push_to_hub("someone/vae")
    assert b"latents that are not known here; `normalize` uses them" in hub.files["someone/vae"]["README.md"]
    (tmp_path / "model.safetensors").write_bytes(hub.files["someone/vae"]["model.safetensors"])
    assert load_file(tmp_path / "model.safetensors")["latents_std"].tolist() == [2.0] * 4


def test_push_again_removes_what_the_new_tokenizer_does_not_have(hub):
    tiny().push_to_hub("someone/vae")
    hub.files["someone/vae"] |= {"video/model.safetensors": b"old", "picture.png": b"theirs"}
    tiny(seed=1).push_to_hub("someone/vae")
    assert sorted(hub.files["someone/vae"]) == ["README.md", "config.json", "model.safetensors", "picture.png"]


def test_what_is_to_be_private_is_not_sent_to_a_public_repository(hub):
    tiny().push_to_hub("someone/new", private=True)
    assert hub.private["someone/new"] and hub.files["someone/new"]
    hub.create_repo("someone/old", private=False, exist_ok=True)
    with pytest.raises(InputError, match="public already"):
        tiny().push_to_hub("someone/old", private=True)
    assert hub.files["someone/old"] == {}


@pytest.mark.parametrize("name", ["my-vae", "a/b/c", "/tmp/x", "someone/", "some one/vae", "öde/vae"])
def test_names_that_are_no_repository_are_refused_before_any_work(name, hub):
    with pytest.raises(InputError, match="give user/name"):
        tiny().push_to_hub(name)
    assert hub.tokens == []
