"""One contract over every baseline: the published class has as many parameters as is written, and small networks of the
same classes keep to `tokenizer.spec.VideoTokenizer`."""

import copy
import functools
import importlib
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile import Calls

from runtime.errors import InputError
from runtime.published_weights import PublishedFile
from runtime.records import write_json
from runtime.run import file_sha256
from runtime.seeds import seeded
from runtime.weights import write_weights
from tokenizer import TOKENIZER_NAMES, VideoTokenizer, load
from tokenizer.baselines.base import BaselineTokenizer, load_baseline
from tokenizer.baselines.registry import BASELINES, is_baseline
from tokenizer.encode import has_no_logvar
from tokenizer.spec import TokenizerSpec
from tokenizer.zoo import spec_of, state_of

NAMES = tuple(BASELINES)
# What the authors publish of the first channel: normalised = (latents - mean) / std.
NORMALISED = {
    "cogvideox": (0, 1 / 1.15258426),
    "hunyuanvideo": (0, 1 / 0.476986),
    "hunyuanvideo1.5": (0, 1 / 1.03682),
    "wan2.1": (-0.7571, 2.8184),
    "wan2.2": (-0.2289, 0.4765),
    "ltx": (0, 1),  # in the weight file; of a random network these
    "sd1.5": (0, 1 / 0.18215),
    "iv-vae": (-0.0483, 1 / 0.7619),
    "ssvae": (-0.1962890625, 0.69140625),
    "leanvae": (0, 1),
}
MEASURED = ("vidtok", "vidtok-s16", "cosmos", "wf-vae-l")  # nothing usable is published


@functools.cache
def small(name: str) -> BaselineTokenizer:
    baseline = BASELINES[name]
    return BaselineTokenizer(baseline, seeded(baseline.tiny)).eval().requires_grad_(False)


def clips(spec: TokenizerSpec, num_frames: int, count: int = 1, seed: int = 0) -> torch.Tensor:
    """Clips of one latent cell by two, in [-1, 1]."""
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, num_frames, 2 * spec.spatial, spec.spatial, generator=rng) * 2 - 1


def kept_tensors(network: torch.nn.Module) -> list[str]:
    """Tensors that modules hold beside their parameters and buffers, in lists too."""
    found = []
    for name, module in network.named_modules():
        for key, value in vars(module).items():
            if key in ("_parameters", "_buffers", "_modules"):
                continue
            values = (
                value if isinstance(value, (list, tuple)) else value.values() if isinstance(value, dict) else [value]
            )
            found += [f"{name}.{key}" for each in values if isinstance(each, torch.Tensor)]
    return found


def test_all_of_them_have_a_name_and_a_licence():
    assert set(NORMALISED) | set(MEASURED) == set(NAMES) <= set(TOKENIZER_NAMES)
    assert all(baseline.licence and baseline.name == name for name, baseline in BASELINES.items())
    assert [name for name in NAMES if BASELINES[name].spec.step > BASELINES[name].spec.temporal] == ["cogvideox"]
    assert all(file.address.startswith("https://") for each in BASELINES.values() for file in each.files)


@pytest.mark.parametrize("name", NAMES)
def test_the_published_network_has_as_many_parameters_as_is_written(name):
    with torch.device("meta"):
        network = BASELINES[name].build()
    assert sum(parameter.numel() for parameter in network.parameters()) == BASELINES[name].parameters


@pytest.mark.parametrize("name", NAMES)
def test_clips_come_back_as_long_as_they_were_and_shapes_are_those_of_the_spec(name):
    vae = small(name)
    assert isinstance(vae, VideoTokenizer) and vae.spec.name == name
    for num_frames in (1, 17, 33):
        video = clips(vae.spec, num_frames)
        posterior = vae.encode(video, chunk_groups=1)
        assert posterior.mean.shape == (1, *vae.spec.latent_shape(num_frames, *video.shape[3:]))
        assert posterior.mean.dtype == torch.float32 and posterior.mean.isfinite().all()
        assert (posterior.logvar is None) is has_no_logvar(vae, "cpu") is (name == "cosmos")
        if posterior.logvar is not None:
            assert posterior.logvar.shape == posterior.mean.shape and posterior.logvar.abs().max() <= 30
        decoded = vae.decode(posterior.mean, chunk_groups=1)
        assert decoded.shape == video.shape and decoded.dtype == torch.float32
    assert kept_tensors(vae.network) == kept_tensors(seeded(BASELINES[name].tiny))


@pytest.mark.parametrize("name", NAMES)
def test_clips_of_a_batch_and_calls_after_each_other_do_not_touch(name):
    vae = small(name)
    video = clips(vae.spec, 9, count=2)
    both = vae.encode(video)
    alone = [vae.encode(clip[None]) for clip in video]
    # Sums of another batch are of another order: float32, after dozens of layers.
    torch.testing.assert_close(torch.cat([each.mean for each in alone]), both.mean, rtol=0, atol=5e-5)
    if both.logvar is not None:
        torch.testing.assert_close(torch.cat([each.logvar for each in alone]), both.logvar, rtol=0, atol=5e-5)
    decoded = vae.decode(both.mean)
    single = torch.cat([vae.decode(latents[None]) for latents in both.mean])
    torch.testing.assert_close(single, decoded, rtol=0, atol=5e-5)
    assert decoded.std() > 0
    # What came between changes nothing: neither a picture nor a decoded clip leaves anything behind.
    vae.decode(vae.encode(clips(vae.spec, 1, seed=1)).mean)
    again = vae.encode(video)
    assert torch.equal(again.mean, both.mean) and torch.equal(vae.decode(again.mean), decoded)
    if BASELINES[name].clamps:
        assert vae.decode(both.mean * 1e3).abs().max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_weights_may_be_held_in_another_type_and_the_hashes_stay(name):
    vae = BaselineTokenizer(BASELINES[name], seeded(BASELINES[name].tiny)).eval().requires_grad_(False)
    video, hashes = clips(vae.spec, 9), (vae.encoder_hash, vae.decoder_hash)
    mean = vae.encode(video).mean
    decoded = vae.decode(mean)
    vae.cast(torch.float64)
    assert (vae.encoder_hash, vae.decoder_hash) == hashes and hashes[0] != hashes[1]
    found = vae.encode(video).mean
    assert found.dtype == vae.latents_mean.dtype == torch.float32
    torch.testing.assert_close(found, mean, rtol=1e-3, atol=1e-3 * float(mean.std()))
    torch.testing.assert_close(vae.decode(mean), decoded, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_normalising_is_as_published_and_can_be_undone(name):
    vae = small(name)
    mean, std = NORMALISED.get(name, (0, 1))
    assert vae.latents_mean[0].item() == pytest.approx(mean) and vae.latents_std[0].item() == pytest.approx(std)
    latents = torch.randn(2, vae.spec.channels, 3, 2, 1, generator=torch.Generator().manual_seed(0))
    normalised = vae.normalize(latents)
    torch.testing.assert_close(normalised[:, 0], (latents[:, 0] - mean) / std)
    torch.testing.assert_close(vae.denormalize(normalised), latents)


@pytest.mark.parametrize("name", NAMES)
def test_what_does_not_fit_is_refused_before_the_class_is_called(name):
    def called(network, inputs):
        raise AssertionError("called")

    vae = BaselineTokenizer(replace(BASELINES[name], encode=called, decode=called), small(name).network).eval()
    spec, video = vae.spec, clips(vae.spec, 9)
    wrong = [
        (video[0], r"is \[B, 3, 1\+T, H, W\]"),
        (video[:, :2], r"is \[B, 3, 1\+T, H, W\]"),
        (video[..., 1:], "must be a multiple of"),
        (video[..., 1:, :], "must be a multiple of"),
        (video.mul(127).to(torch.uint8), "videos.to_float"),
        (video * 255, r"finite and in \[-1, 1\]"),
        (torch.full_like(video, torch.nan), r"finite and in \[-1, 1\]"),
        (video[:, :, :0], "0 frames do not fit"),
    ]
    if spec.step > 1:
        wrong.append((video[:, :, : spec.step], rf"{spec.step} frames do not fit {name}: .* 1 and {spec.step + 1}$"))
    for inputs, words in wrong:
        with pytest.raises(InputError, match=words):
            vae.encode(inputs)
    latents = torch.zeros(1, spec.channels, 1, 1, 1)
    for inputs in (latents[0], latents.repeat(1, 2, 1, 1, 1), latents[:, :, :0]):
        with pytest.raises(InputError, match=f"{name} decodes latents"):
            vae.decode(inputs)
    with pytest.raises(AssertionError, match="called"):
        vae.encode(video)


def test_cogvideox_takes_no_clips_that_it_would_give_back_longer():
    vae = small("cogvideox")
    for num_frames, nearest in ((5, "1 and 9"), (13, "9 and 17"), (21, "17 and 25")):
        with pytest.raises(InputError, match=rf"{num_frames} frames do not fit .* 1 \+ 8k .* {nearest}$"):
            vae.encode(clips(vae.spec, num_frames))
    with pytest.raises(InputError, match="5 frames do not fit"):
        vae.decode(torch.zeros(1, 16, 2, 1, 1))
    assert vae.encode(vae.spec.pad_to_valid(clips(vae.spec, 13))[0]).mean.shape[2] == 5


def test_what_a_class_returns_is_held_against_the_spec():
    wrong = replace(BASELINES["wan2.1"], spec=replace(BASELINES["wan2.1"].spec, spatial=4))
    vae = BaselineTokenizer(wrong, small("wan2.1").network).eval()
    with pytest.raises(InputError, match=r"returned latents \[1, 16, 1, 2, 2\] instead of \[1, 16, 1, 4, 4\]"):
        vae.encode(torch.zeros(1, 3, 1, 16, 16))
    with pytest.raises(InputError, match=r"returned a video \[1, 3, 5, 16, 16\] instead of \[1, 3, 5, 8, 8\]"):
        vae.decode(torch.zeros(1, 16, 2, 2, 2))


def test_hashes_tell_encoder_and_decoder_apart():
    for name in ("hunyuanvideo", "leanvae", "iv-vae"):
        network = seeded(BASELINES[name].tiny)

        def hashes(network=network, name=name) -> tuple[str, str]:
            vae = BaselineTokenizer(BASELINES[name], network)
            return vae.encoder_hash, vae.decoder_hash

        before = hashes()
        with torch.no_grad():
            next(network.decoder.parameters()).add_(1)
        changed = hashes()
        assert changed[0] == before[0] and changed[1] != before[1]
        with torch.no_grad():
            next(network.encoder.parameters()).add_(1)
        assert hashes()[0] != changed[0] and hashes()[1] == changed[1]


def test_settings_of_a_class_are_part_of_its_hashes():
    causal, other = (seeded(BASELINES["ltx"].tiny) for _ in range(2))
    other.register_to_config(decoder_causal=True)
    found = [BaselineTokenizer(BASELINES["ltx"], network) for network in (causal, other)]
    assert found[0].decoder_hash != found[1].decoder_hash and found[0].encoder_hash != found[1].encoder_hash


# -- weights ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_wan(monkeypatch, tmp_path):
    """A small network of Wan's class as the baseline "tiny-wan", and the folder where its file is looked for."""
    file = PublishedFile("tiny-wan/wan.safetensors", 0, "", "https://example.org/wan.safetensors", "tests")
    row = BASELINES["wan2.1"]
    tiny = replace(row, spec=replace(row.spec, name="tiny-wan"), build=row.tiny, files=(file,))
    monkeypatch.setitem(BASELINES, "tiny-wan", tiny)
    monkeypatch.setenv("PVVAE_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "weights" / "tiny-wan" / "wan.safetensors"


def test_random_weights_are_seeded_and_the_name_says_so(tiny_wan):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    vae = load("tiny-wan", weights="random")
    assert torch.equal(torch.get_rng_state(), state)
    assert vae.spec.name == "tiny-wan (random weights)" and not vae.training
    assert not any(parameter.requires_grad for parameter in vae.parameters())
    torch.manual_seed(6)
    assert load("tiny-wan", weights="random").encoder_hash == vae.encoder_hash
    assert load("tiny-wan", weights="random", dtype=torch.bfloat16).encoder_hash == vae.encoder_hash


def test_a_file_that_is_nowhere_is_described_and_one_that_is_found_is_checked(tiny_wan, monkeypatch, tmp_path):
    with pytest.raises(InputError, match=r"^tiny-wan: .* \(size not published, sha256 not published\); .*example.org"):
        load("tiny-wan")
    with pytest.raises(InputError, match=r"862,388,596 bytes, sha256 a410e48d.*huggingface.co/THUDM.*--weights FILE"):
        load("cogvideox")
    tiny_wan.parent.mkdir(parents=True)
    write_weights(tiny_wan, seeded(BASELINES["tiny-wan"].build).state_dict())
    vae = load("tiny-wan")
    assert vae.spec.name == "tiny-wan" and vae.encoder_hash == load("tiny-wan", weights="random").encoder_hash
    assert load("tiny-wan", weights=tiny_wan).decoder_hash == vae.decoder_hash
    file = replace(BASELINES["tiny-wan"].files[0], sha256="0" * 64)
    monkeypatch.setitem(BASELINES, "tiny-wan", replace(BASELINES["tiny-wan"], files=(file,)))
    with pytest.raises(InputError, match="is not that of the published"):
        load("tiny-wan")
    file = replace(file, sha256=file_sha256(tiny_wan), bytes=tiny_wan.stat().st_size)
    monkeypatch.setitem(BASELINES, "tiny-wan", replace(BASELINES["tiny-wan"], files=(file,)))
    assert load("tiny-wan").encoder_hash == vae.encoder_hash
    with pytest.raises(InputError, match="no such weight file of tiny-wan"):
        load("tiny-wan", weights=tmp_path / "none.safetensors")
    (tmp_path / "wan.pth").write_bytes(b"")
    with pytest.raises(InputError, match=r"is read from a safetensors file, [\w./-]+ of \S+"):
        load("tiny-wan", weights=tmp_path / "wan.pth")
    state = seeded(BASELINES["tiny-wan"].build).state_dict()
    write_weights(tmp_path / "more.safetensors", state | {"more": torch.zeros(1)})
    with pytest.raises(InputError, match="more is unknown"):
        load("tiny-wan", weights=tmp_path / "more.safetensors")


def tiny_of(name: str):
    return replace(BASELINES[name], build=BASELINES[name].tiny)


AUTHORS = {
    "vidtok": lambda state: {
        "state_dict": {**state, "loss.logvar": torch.zeros(1), "regularization.a": torch.zeros(1)},
        "global_step": 7,
    },
    "iv-vae": lambda state: state,
    "wf-vae-l": lambda state: {"ema_state_dict": {f"module.{name}": value for name, value in state.items()}},
    "ssvae": lambda state: {"state_dict": {**state, "mask_token": torch.zeros(1, 48, 1, 1, 1)}, "epoch": 3},
    "leanvae": lambda state: {"args": {"latent_dim": 16}, "state_dict": state},
}


@pytest.mark.parametrize("name", AUTHORS)
def test_files_of_the_authors_load_and_hostile_ones_do_not(name, tmp_path):
    network, path = seeded(tiny_of(name).build), tmp_path / "weights.ckpt"
    torch.save(AUTHORS[name](network.state_dict()), path)
    vae = load_baseline(tiny_of(name), path)
    assert vae.spec == BASELINES[name].spec
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in vae.network.state_dict().items())
    torch.save(AUTHORS[name](dict(list(network.state_dict().items())[1:])), path)
    with pytest.raises(InputError, match="is missing"):
        load_baseline(tiny_of(name), path)
    torch.save({**AUTHORS[name](network.state_dict()), "more": Calls(os.mkdir, str(tmp_path / "trace"))}, path)
    with pytest.raises(InputError) as caught:
        load_baseline(tiny_of(name), path)
    assert not (tmp_path / "trace").exists() and "\n" not in str(caught.value)


def test_a_picture_autoencoder_of_old_names_loads(tmp_path):
    network = seeded(BASELINES["sd1.5"].tiny)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, value in network.state_dict().items():
        for new, word in old.items():
            name = name.replace(f".{new}.", f".{word}.")
        state[name] = value
    assert sum(".proj_attn." in name for name in state) == 4
    write_weights(tmp_path / "old.safetensors", state)
    vae = load_baseline(tiny_of("sd1.5"), tmp_path / "old.safetensors")
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in vae.network.state_dict().items())


def test_without_diffusers_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    words = r"not installed: pip install diffusers, or here pip install -e '.\[baselines\]'$"
    with pytest.raises(InputError, match=words):
        load("wan2.2", weights="random")


# -- from folders, and one's own --------------------------------------------------------------------------------------


def saved(folder, name: str, **config):
    """A folder as diffusers writes it, with the small network of a baseline."""
    network = seeded(BASELINES[name].tiny)
    folder.mkdir()
    write_json(folder / "config.json", {**network.config, "_class_name": type(network).__name__, **config})
    write_weights(folder / "diffusion_pytorch_model.safetensors", network.state_dict())
    return network


@pytest.mark.parametrize("name", ["cogvideox", "wan2.2", "vidtok", "cosmos", "sd1.5", "ltx"])
def test_shapes_of_an_autoencoder_in_a_folder_are_found_out(name, tmp_path):
    network, own = saved(tmp_path / "vae", name), small(name)
    vae = load(f"diffusers:{tmp_path / 'vae'}")
    assert replace(vae.spec, name=name) == own.spec
    assert vae.spec.name == f"{type(network).__name__}-t{own.spec.temporal}s{own.spec.spatial}c{own.spec.channels}"
    video = clips(own.spec, 9)
    assert torch.equal(vae.encode(video).mean, own.encode(video).mean)
    assert torch.equal(vae.latents_mean, own.latents_mean) and torch.equal(vae.latents_std, own.latents_std)


def test_folders_that_hold_no_tokenizer_are_refused_in_one_line(tmp_path):
    saved(tmp_path / "vae", "wan2.1")
    folder, name = tmp_path / "vae", f"diffusers:{tmp_path / 'vae'}"
    assert load(name, weights="random").spec.name == "AutoencoderKLWan-t4s8c16 (random weights)"
    (folder / "first.safetensors").write_bytes((folder / "diffusion_pytorch_model.safetensors").read_bytes())
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / "second.safetensors")
    with pytest.raises(InputError, match="it holds 2; name one with --weights"):
        load(name)
    assert load(name, weights=folder / "second.safetensors").spec.name == "AutoencoderKLWan-t4s8c16"
    config = {"_class_name": "AutoencoderKLWan"}
    for change, words in (
        ({"_class_name": "UNet2DModel"}, "'UNet2DModel' is no autoencoder of diffusers"),
        ({"_class_name": "AutoencoderWish"}, "'AutoencoderWish' is no autoencoder of diffusers"),
        ({"_class_name": 3}, "names no class"),
        ({"timestep_conditioning": True}, "draws noise"),
        ({"base_dim": "many"}, "AutoencoderKLWan refuses it"),
        ({"base_dim": 10**400}, "base_dim is 1000"),
        ({"num_res_blocks": 65}, "num_res_blocks is 65, more than any"),
        ({"dim_mult": [1] * 65}, r"dim_mult is \[1, 1, "),
    ):
        write_json(folder / "config.json", config | change)
        with pytest.raises(InputError, match=words) as caught:
            load(name, weights="random")
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="config.json"):
        load(f"diffusers:{tmp_path / 'nowhere'}")


def test_a_folder_of_diffusers_is_taken_whole_and_named_when_its_prefix_is_forgotten(tmp_path):
    saved(tmp_path / "vae", "wan2.1")
    (tmp_path / "model_index.json").write_text("{}")  # a pipeline
    assert load(f"diffusers:{tmp_path}").spec.name == "AutoencoderKLWan-t4s8c16"
    with pytest.raises(InputError, match=f"is a folder of diffusers; give diffusers:{tmp_path / 'vae'}$"):
        load(tmp_path / "vae")


OWN = """
import torch
from tokenizer import Posterior, TokenizerSpec


class Halves(torch.nn.Module):
    spec = TokenizerSpec(name="halves", temporal=1, spatial=2, channels=3)
    encoder_hash = decoder_hash = "0" * 16

    def __init__(self, weights=None):
        super().__init__()
        self.weights = weights

    def encode(self, video, chunk_groups=None):
        return Posterior(torch.nn.functional.avg_pool3d(video, (1, 2, 2)))

    def decode(self, latents, chunk_groups=None):
        return torch.nn.functional.interpolate(latents, scale_factor=(1, 2, 2))

    def normalize(self, latents):
        return latents

    denormalize = normalize


class Nothing(torch.nn.Module):
    spec = encode = decode = None


class Failing(torch.nn.Module):
    def __init__(self):
        raise OSError("no\\nluck")


def function():
    pass


class Fixed(Halves):
    spec = property(lambda self: Halves.spec)


class Method(Halves):
    def encoder_hash(self):
        return "0" * 16
"""


def test_a_class_of_ones_own_is_a_tokenizer(tmp_path, monkeypatch):
    (tmp_path / "own_tokenizers.py").write_text(OWN)
    (tmp_path / "broken_tokenizers.py").write_text("import nothing_of_that_name")
    monkeypatch.syspath_prepend(tmp_path)
    vae = load("own_tokenizers:Halves")
    video = clips(vae.spec, 3)
    assert vae.decode(vae.encode(video).mode()).shape == video.shape and vae.weights is None
    assert load("own_tokenizers:Halves", weights="a.pth").weights == "a.pth"
    assert load("own_tokenizers:Halves", weights="random").spec.name == "halves (random weights)"
    assert vae.spec.name == load("own_tokenizers:Fixed").spec.name == "halves"
    assert load("own_tokenizers:Fixed", weights="random").spec.name == "halves (random weights)"
    for name, words in (
        ("own_tokenizers:Nothing", "it lacks normalize, denormalize, encoder_hash, decoder_hash"),
        ("own_tokenizers:Failing", r"cannot be made without arguments \(OSError: no\)"),
        ("own_tokenizers:Method", "its encoder_hash is a method, not a text; is @property missing?"),
        ("own_tokenizers:function", "has no torch.nn.Module 'function'"),
        ("own_tokenizers:Missing", "has no torch.nn.Module 'Missing'"),
        ("broken_tokenizers:Any", "cannot be imported .*nothing_of_that_name"),
        ("no.such.module:Any", "cannot be imported"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            load(name)
        assert "\n" not in str(caught.value)


def own_class(folder, name: str, text: str, monkeypatch):
    """A class of the user's own in a module of that name, read anew."""
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()
    sys.modules.pop(name, None)
    return load(f"{name}:Halves")


def test_an_edit_of_a_class_makes_another_tokenizer(tmp_path, monkeypatch):
    """What is kept is found by these hashes; numbers of code that is no more must not be."""
    before = own_class(tmp_path, "edited_tokenizer", OWN, monkeypatch)
    state = state_of("edited_tokenizer:Halves"), state_of("edited_tokenizer:Halves", "random")
    again = own_class(tmp_path, "edited_tokenizer", OWN, monkeypatch)
    assert (again.encoder_hash, again.decoder_hash) == (before.encoder_hash, before.decoder_hash)
    after = own_class(tmp_path, "edited_tokenizer", OWN.replace("(1, 2, 2))\n", "(1, 2, 2)) * 0\n"), monkeypatch)
    assert after.encoder_hash != before.encoder_hash and after.decoder_hash != before.decoder_hash
    assert state_of("edited_tokenizer:Halves") != state[0] and state_of("edited_tokenizer:Halves", "random") != state[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("Posterior(", "("), "encode returned a Tensor, not a tokenizer.Posterior"),
        (("(1, 2, 2)))", "(1, 2, 2)), (1,))"), "returned log-variances as a tuple, not as a tensor"),
        (("(1, 2, 2)))", "(2, 2, 2)))"), r"returned latents \[1, 3, 1, 1, 1\] instead of \[1, 3, 2, 1, 1\]"),
        (("(1, 2, 2))\n", "(1, 2, 2)),\n"), "returned a video as a tuple, not as a tensor"),
        (("r=(1, ", "r=(2, "), r"returned a video \[1, 3, 4, 2, 2\] instead of \[1, 3, 2, 2, 2\]"),
    ],
)
def test_what_a_class_of_ones_own_returns_is_held_against_its_spec(tmp_path, monkeypatch, change, words):
    assert OWN.count(change[0]) == 1
    vae = own_class(tmp_path, "wrong_tokenizer", OWN.replace(*change), monkeypatch)
    with pytest.raises(InputError, match=words):
        vae.decode(vae.encode(torch.zeros(1, 3, 2, 2, 2)).mean)
    with pytest.raises(InputError, match=words):  # as a plan does before it begins
        spec_of("wrong_tokenizer:Halves")


def test_a_class_may_call_itself_by_its_own_names_and_have_more_than_the_interface(tmp_path, monkeypatch):
    more = """
    def set_latent_statistics(self, mean, std):
        self.mean = mean

    def encode(self, clip, features=False):
        found = torch.nn.functional.avg_pool3d(clip, (1, 2, 2))
        return found if features else Posterior(found)

    def predict(self, clip, groups):
        return self.decode(self.encode(clip=clip, features=True)[:, :, -1:].repeat(1, 1, groups, 1, 1))


class Nothing("""
    vae = own_class(tmp_path, "rich_tokenizer", OWN.replace("\n\nclass Nothing(", more, 1), monkeypatch)
    video, before = clips(vae.spec, 2), torch.get_rng_state()
    assert vae.decode(vae.encode(video).mean).shape == video.shape and spec_of("rich_tokenizer:Halves") == vae.spec
    assert vae.predict(video, 3).shape == (*video.shape[:2], 3, *video.shape[3:])
    vae.set_latent_statistics(1, 2)
    assert vae.own.mean == 1 and copy.deepcopy(vae).predict(video, 1).shape[2] == 1
    assert torch.equal(torch.get_rng_state(), before) and not hasattr(vae, "cast")


# -- in commands ------------------------------------------------------------------------------------------------------


def test_commands_of_pvvae_alone_refuse_baselines(tiny_wan, tmp_path):
    from tokenizer.encode import EncodeConfig, resolve
    from tokenizer.train import TrainConfig, find_predecessor
    from tokenizer.zoo import find_folder, load_predictor

    for call in (
        lambda: load("tiny-wan", "random", stage="video"),
        lambda: load("tiny-wan", "random", compile=True),
        lambda: find_folder("tiny-wan"),
        lambda: find_folder("tiny-wan", "video"),
        lambda: find_predecessor(TrainConfig(data="moving_shapes", init_from="tiny-wan")),
    ):
        with pytest.raises(InputError, match="'tiny-wan' is no PV-VAE"):
            call()
    assert load_predictor("tiny-wan") is None
    with pytest.raises(InputError, match="wan.safetensors is not here"):
        resolve(EncodeConfig(tokenizer="tiny-wan", data="moving_shapes", runs_dir=str(tmp_path)))
    with pytest.raises(InputError, match="wan2.2"):  # the known names are said
        load("wan2")


def test_latents_of_a_baseline_train_a_generator_whose_samples_are_decoded(tiny_wan, tmp_path, monkeypatch, capsys):
    from eval.decode import DecodeConfig, decode
    from generator import train as generator_train
    from generator.config import LatteConfig
    from generator.presets import PRESETS, GeneratorPreset
    from latents_cache import open_latents
    from tokenizer.encode import EncodeConfig, encode

    common = {"runs_dir": str(tmp_path / "runs"), "device": "cpu", "dtype": "float32"}
    flags = {"tokenizer": "tiny-wan", "weights": "random", "data": "moving_shapes", "num_frames": 5, "size": 16}
    flags |= {"max_clips": 8, "batch_size": 4, "out": str(tmp_path / "latents.h5"), **common}
    path = encode(EncodeConfig(**flags))
    vae = load("tiny-wan", "random")
    with open_latents(path) as reader:
        found = {name: reader.attributes[name] for name in ("tokenizer", "weights", "tokenizer_name", "encoder_hash")}
        assert reader.shape == (16, 2, 2, 2) and np.isfinite(reader.batch([0])["mean"]).all()
    assert found == {
        **{"tokenizer": "tiny-wan", "weights": "random", "tokenizer_name": "tiny-wan (random weights)"},
        "encoder_hash": vae.encoder_hash,
    }
    encode(EncodeConfig(**flags))
    assert "is complete (8 rows)" in capsys.readouterr().out
    model = GeneratorPreset(model=LatteConfig(hidden_size=16, depth=2, num_heads=2), training={})
    monkeypatch.setitem(PRESETS, "demo", model)
    run = generator_train.train(
        generator_train.TrainConfig(name="gen", latents=str(path), preset="demo", steps=2, batch_size=2, **common)
    )
    decode(DecodeConfig(run=str(run), count=2, steps=2, out=str(tmp_path / "clips"), **common))
    assert len(list((tmp_path / "clips").glob("*.mp4"))) == 2
    tiny_wan.parent.mkdir(parents=True)
    torch.manual_seed(1)
    write_weights(tiny_wan, BASELINES["tiny-wan"].build().state_dict())
    with pytest.raises(InputError, match="decode with the tokenizer that encoded them"):
        decode(DecodeConfig(run=str(run), weights=str(tiny_wan), count=2, out=str(tmp_path / "clips"), **common))


def test_a_video_file_goes_through_a_baseline_part_by_part(tiny_wan, tmp_path):
    from tokenizer.reconstruct import ReconstructConfig, reconstruct
    from videos import read_video, write_video

    pixels = np.random.default_rng(0).integers(0, 255, (11, 20, 28, 3)).astype(np.uint8)
    write_video(tmp_path / "in.mp4", pixels, 8)
    reconstruct(
        ReconstructConfig(
            **{"tokenizer": "tiny-wan", "weights": "random", "video": str(tmp_path / "in.mp4"), "chunk_groups": 2},
            **{"out": str(tmp_path / "out.mp4"), "device": "cpu", "dtype": "float32"},
        )
    )
    assert read_video(tmp_path / "out.mp4").shape == (11, 20, 56, 3)


def test_results_of_random_weights_name_them_and_are_verified_with_them(tiny_wan, tmp_path):
    from eval.reconstruction import ReconstructionConfig, reconstruction
    from eval.results.rows import read_results
    from eval.verify import VERIFIED, networks

    flags = {"tokenizer": "tiny-wan", "weights": "random", "data": "moving_shapes", "num_frames": 5, "size": 16}
    flags |= {"samples": 4, "features": "none", "runs_dir": str(tmp_path / "runs"), "device": "cpu", "dtype": "float32"}
    path = reconstruction(ReconstructionConfig(**flags))
    assert path.relative_to(tmp_path / "runs").parts[0].startswith("baseline-tiny-wan-random-weights-")
    facts, rows = read_results(path)
    assert (facts["tokenizer"], facts["weights"]) == ("tiny-wan", "random")
    assert any(row.metric == "PSNR" and row.value is not None for row in rows)
    assert [check.state for check in networks(facts, set())] == [VERIFIED, VERIFIED]


def test_names_are_told_from_paths():
    assert all(map(is_baseline, ("wan2.2", "diffusers:vae", "package.module:Class")))
    assert not any(map(is_baseline, ("runs/wan2.2", "moving-shapes", "a/b:c", "a:b/c", "wan")))


DOCS = (Path(__file__).parents[2] / "docs" / "baselines.md").read_text()


def test_the_table_in_the_docs_is_that_of_the_code():
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in DOCS.splitlines() if line.startswith("| `")]
    assert [row[0] for row in rows] == [f"`{name}`" for name in NAMES]
    for (_, shape, lengths, parameters, normalised, licence), baseline in zip(rows, BASELINES.values(), strict=True):
        spec = baseline.spec
        assert shape == f"{spec.temporal}x{spec.spatial}, {spec.channels}"
        assert lengths == ("any" if spec.step == 1 else f"1 + {spec.step}k")
        assert (int(parameters.replace(",", "")), licence) == (baseline.parameters, baseline.licence)
        assert (normalised == "measured") is (baseline.normalisation is None) is (baseline.name in MEASURED)
