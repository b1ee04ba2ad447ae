"""WF-VAE: its state dict is the published one, and its numbers are those of the authors' code."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
from hostile import attack

from runtime.errors import InputError
from runtime.weights import load_strictly, write_weights
from tokenizer.baselines.wf_vae import FACTOR_3D, HAAR_2D, HAAR_3D, WFVAE, Haar, read_state_dict

# Of the lines "key shape" of the published state dict, sorted, shapes as 1x2x3.
KEYS_SHA256 = "fd11eeb9c1da37761560855b6704b67ad4dabd41230272cf3a9b1947e0f27a42"
FIXED = "wavelet_transform"


def tiny(seed: int = 0) -> WFVAE:
    torch.manual_seed(seed)
    return WFVAE(base_channels=8, latent_channels=4, connect_channels=4).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def vae() -> WFVAE:
    return tiny().double()


@pytest.fixture(scope="module")
def published() -> WFVAE:
    """The large model without memory."""
    with torch.device("meta"):
        return WFVAE()


def clip(frames: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, frames, 32, 16, generator=generator, dtype=torch.float64) * 2 - 1


def test_state_dict_is_the_published_one(published):
    shapes = {name: "x".join(map(str, tensor.shape)) for name, tensor in published.state_dict().items()}
    lines = "\n".join(sorted(f"{name} {shape}" for name, shape in shapes.items()))
    assert len(shapes) == 244
    assert hashlib.sha256(lines.encode()).hexdigest() == KEYS_SHA256
    assert sum(parameter.numel() for parameter in published.parameters()) == 317_081_372
    assert sum(p.numel() for p in published.parameters() if not p.requires_grad) == 128


# What the authors' code gives in float64 for the weights of `fill`: mean and standard deviation, numbers at 8 places,
# mean absolute value of each frame. Printed to 6 digits.
GOLDEN = {
    "encoder": (
        (-0.0251213, 0.551227),
        (0.202046, 1.52124, 0.0355839, -0.774991, -0.269336, -0.681094, 1.09695, -0.325898),
        (0.42924, 0.427478, 0.444853),
    ),
    "decoder": (
        (-0.108928, 0.711248),
        (-0.63496, -0.00419995, 0.669328, 0.41206, -0.199922, -0.952395, -0.526436, 0.41431),
        (0.603715, 0.545154, 0.585012, 0.555048, 0.592694, 0.534724, 0.568976, 0.550678, 0.580432),
    ),
}
INPUTS = {"encoder": (10**6, (1, 3, 9, 64, 32)), "decoder": (10**6 + 1, (1, 16, 3, 8, 4))}


def splitmix64(stream: int, size: int) -> torch.Tensor:
    """Numbers in [-0.5, 0.5) from a counter, the same everywhere."""
    out = np.empty(size)
    for start in range(0, size, 2**15):  # in the processor's cache
        stop = min(size, start + 2**15)
        z = np.arange(start + stream * 2**32 + 1, stop + stream * 2**32 + 1, dtype=np.uint64)
        z *= np.uint64(0x9E3779B97F4A7C15)
        z ^= z >> np.uint64(30)
        z *= np.uint64(0xBF58476D1CE4E5B9)
        z ^= z >> np.uint64(27)
        z *= np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
        np.multiply(z >> np.uint64(11), 2.0**-53, out=out[start:stop])
    out -= 0.5
    return torch.from_numpy(out)


def fill(model: WFVAE, half: str) -> torch.nn.Module:
    """One half of a model on the meta device, its weights a function of their names alone."""
    state = {name: tensor for name, tensor in tiny().double().state_dict().items() if FIXED in name}
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items() if FIXED not in name}
    assert len(shapes) == 204
    for stream, name in enumerate(sorted(shapes)):
        if name.startswith(half):
            shape = shapes[name]
            values = splitmix64(stream, shape.numel())
            if name.endswith("bias"):
                values *= 0.1
            elif len(shape) == 1:
                values *= 0.2
                values += 1
            else:
                values *= (12 / (shape.numel() // shape[0])) ** 0.5
            state[name] = values.reshape(shape)
    network = getattr(model, half)
    own = {name.removeprefix(f"{half}."): value for name, value in state.items() if name.startswith(half)}
    network.load_state_dict(own, assign=True)
    return network.requires_grad_(False)


def test_the_golden_fill_is_the_agreed_one():
    weights = [0.383310808214, -0.068472002951, -0.473566228407, 0.470881978154]
    inputs = [-0.347228843548, 0.345089634721, -0.486631021661]
    assert splitmix64(0, 4).tolist() == pytest.approx(weights, rel=0, abs=1e-12)
    assert splitmix64(10**6, 3).tolist() == pytest.approx(inputs, rel=0, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_numbers_are_those_of_the_authors_code(half):
    with torch.device("meta"):
        model = WFVAE()
    stream, shape = INPUTS[half]
    found = fill(model, half)(2 * splitmix64(stream, np.prod(shape).item()).reshape(shape))
    flat = found.flatten()
    places = [(len(flat) - 1) * k // 7 for k in range(8)]
    moments, values, frames = GOLDEN[half]
    assert (flat.mean().item(), flat.std(correction=0).item()) == pytest.approx(moments, rel=1e-5)
    assert flat[places].tolist() == pytest.approx(values, rel=1e-5)
    assert found.abs().mean((0, 1, 3, 4)).tolist() == pytest.approx(frames, rel=1e-5)


@pytest.mark.parametrize("frames", [1, 5, 9])
def test_clips_of_1_plus_4k_frames_come_back_at_their_size(vae, frames):
    video = clip(frames)
    mean, logvar = vae.encode(video)
    assert mean.shape == logvar.shape == (1, 4, 1 + (frames - 1) // 4, 4, 2)
    decoded = vae.decode(mean)
    assert decoded.shape == video.shape and torch.isfinite(decoded).all()


def test_clips_of_a_batch_do_not_touch_each_other(vae):
    video = clip(5, batch=2)
    mean, logvar = vae.encode(video)
    # Other batch sizes sum in another order.
    alike = {"rtol": 0, "atol": 1e-12}
    decoded = vae.decode(mean)
    for i in range(2):
        one = vae.encode(video[i : i + 1])
        torch.testing.assert_close((mean[i : i + 1], logvar[i : i + 1]), one, **alike)
        torch.testing.assert_close(decoded[i : i + 1], vae.decode(one[0]), **alike)
    assert not torch.allclose(mean[0], mean[1])


def test_nothing_is_kept_between_calls(vae):
    first = vae.encode(clip(9))[0]
    vae.encode(clip(5, seed=1))
    decoded = vae.decode(first)
    vae.decode(first[:, :, :2])
    assert torch.equal(vae.encode(clip(9))[0], first) and torch.equal(vae.decode(first), decoded)


def test_encoding_sees_no_later_groups_and_decoding_sees_one(vae):
    video = clip(13)
    changed = torch.cat([video[:, :, :9], -video[:, :, 9:]], dim=2)
    mean, other = vae.encode(video)[0], vae.encode(changed)[0]
    torch.testing.assert_close(mean[:, :, :3], other[:, :, :3], rtol=0, atol=1e-12)
    assert not torch.allclose(mean[:, :, 3], other[:, :, 3])
    # The last group enters by the interpolation over time, from the second frame of the group before it on.
    ends = [vae.decode(latents) for latents in (mean, torch.cat([mean[:, :, :3], -mean[:, :, 3:]], dim=2))]
    same = [torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(*(end.unbind(2) for end in ends), strict=True)]
    assert all(same[:5]) and not all(same[5:9])


@pytest.mark.parametrize("as_convolutions", [False, True])
def test_haar_over_time_returns_the_video_times_1_00026(as_convolutions):
    haar = Haar(HAAR_3D, FACTOR_3D, as_convolutions).double()
    video = clip(5, batch=2)
    bands = haar(video)
    assert bands.shape == (2, 24, 3, 16, 8)
    torch.testing.assert_close(haar.inverse(bands), video * 1.00026, rtol=5e-6, atol=0)
    # Band-major: the first three channels are the colours of the lowest band.
    blocks = torch.cat([video[:, :, :1], video], dim=2).unflatten(4, (8, 2)).unflatten(3, (16, 2)).unflatten(2, (3, 2))
    torch.testing.assert_close(bands[:, :3], 0.3536 * blocks.sum((3, 5, 7)), rtol=1e-6, atol=1e-7)


def test_haar_of_frames_returns_the_video():
    haar = Haar(HAAR_2D, 0.5).double()
    bands = haar(clip(5))
    assert bands.shape == (1, 12, 5, 16, 8)
    torch.testing.assert_close(haar.inverse(bands), clip(5))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((3, 5, 32, 16), r"a video is \[B, 3, 1\+T, H, W\]"),
        ((1, 1, 5, 32, 16), r"a video is \[B, 3, 1\+T, H, W\]"),
        ((1, 3, 16, 32, 16), "16 frames do not fit .* nearest are 13 and 17"),
        ((1, 3, 0, 32, 16), "0 frames"),
        ((1, 3, 5, 36, 16), "height 36 does not fit"),
        ((1, 3, 5, 32, 0), "width 0 does not fit"),
    ],
)
def test_videos_that_do_not_fit_are_refused(vae, shape, words):
    with pytest.raises(InputError, match=words):
        vae.encode(torch.zeros(shape))


def test_videos_of_other_numbers_are_refused(vae):
    with pytest.raises(InputError, match="float in"):
        vae.encode(torch.zeros(1, 3, 5, 32, 16, dtype=torch.uint8))
    with pytest.raises(InputError, match="values from 255 to 255"):
        vae.encode(torch.full((1, 3, 5, 32, 16), 255.0))


@pytest.mark.parametrize("shape", [(4, 2, 4, 2), (1, 16, 2, 4, 2), (1, 4, 0, 4, 2), (1, 4, 2, 4, 0)])
def test_latents_that_do_not_fit_are_refused(vae, shape):
    with pytest.raises(InputError, match=r"wf-vae decodes latents \[B, 4, G, h, w\]"):
        vae.decode(torch.zeros(shape))


def test_latents_of_whole_numbers_are_refused(vae):
    with pytest.raises(InputError, match=r"latents are float, got torch\.int64"):
        vae.decode(torch.zeros(1, 4, 2, 4, 2, dtype=torch.int64))


@pytest.mark.parametrize("layout", ["safetensors", "averages", "plain"])
def test_every_layout_of_the_authors_gives_the_same_weights(tmp_path, layout):
    state, others = tiny().state_dict(), tiny(1).state_dict()
    path = tmp_path / ("model.safetensors" if layout == "safetensors" else "checkpoint.ckpt")
    if layout == "safetensors":
        write_weights(path, state)
    elif layout == "averages":
        averages = {f"module.{name}": value for name, value in state.items()}
        torch.save({"ema_state_dict": averages, "state_dict": {"gen_model": others}, "current_step": 7}, path)
    else:
        torch.save({"ema_state_dict": {}, "state_dict": {"gen_model": state, "optimizer": {"lr": 0.1}}}, path)
    fresh = tiny(2)
    load_strictly(fresh, read_state_dict(path), path)
    for name, value in fresh.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize(
    "held",
    [
        {},
        [],
        {"state_dict": 3},
        {"state_dict": {"gen_model": {}}},
        {"ema_state_dict": {"a": 1}},
        {"ema_state_dict": {3: torch.zeros(1)}},
    ],
)
def test_other_checkpoints_are_refused(tmp_path, held):
    torch.save(held, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match=r"other\.ckpt: holds no state dict in ema_state_dict or state_dict"):
        read_state_dict(tmp_path / "other.ckpt")


def test_a_pickle_that_calls_anything_is_refused_and_calls_nothing(tmp_path):
    trace = tmp_path / "trace"
    torch.save({"ema_state_dict": {"a": attack(trace)}}, tmp_path / "zipped.ckpt")
    (tmp_path / "bare.ckpt").write_bytes(pickle.dumps({"ema_state_dict": {"a": attack(trace)}}, protocol=2))
    for name in ("zipped.ckpt", "bare.ckpt"):
        with pytest.raises(InputError, match=rf"{name}: not readable as weights \([^\n]*\); fetch it again"):
            read_state_dict(tmp_path / name)
    assert not trace.exists()


def test_absent_and_cut_files_are_refused_in_one_line(tmp_path):
    write_weights(tmp_path / "whole.safetensors", tiny().state_dict())
    torch.save({"ema_state_dict": tiny().state_dict()}, tmp_path / "whole.ckpt")
    for suffix in (".safetensors", ".ckpt"):
        with pytest.raises(InputError, match=rf"absent\{suffix}: no such weight file$"):
            read_state_dict(tmp_path / f"absent{suffix}")
        cut = tmp_path / f"cut{suffix}"
        cut.write_bytes((tmp_path / f"whole{suffix}").read_bytes()[:5000])
        with pytest.raises(InputError, match=rf"cut\{suffix}: [^\n]+; fetch"):
            read_state_dict(cut)


def test_weights_with_other_wavelets_are_refused():
    state = tiny().state_dict()
    low, high = "encoder.wavelet_transform_l1.aa", "encoder.wavelet_transform_l1.ad"
    with pytest.raises(InputError, match=r"wavelet_transform_l1\.aa is not the Haar kernel"):
        load_strictly(tiny(), state | {low: state[high], high: state[low]}, "file")
    halved = {name: value.bfloat16() for name, value in state.items()}
    load_strictly(tiny(), halved, "file")
