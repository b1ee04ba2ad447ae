"""LeanVAE against the authors' own: names and shapes of the weights, and numbers that their code gave."""

import hashlib
import math
import pickle

import numpy as np
import pytest
import torch
from hostile import attack
from safetensors.torch import save_file

from runtime.errors import InputError
from runtime.weights import load_strictly
from tokenizer.baselines.lean_vae import (
    IMAGE_AXES,
    LATENT_FACTORS,
    VIDEO_AXES,
    FromPatches,
    LeanVAE,
    ToPatches,
    haar,
    inverse_haar,
)
from tokenizer.baselines.ports import ROWS
from tokenizer.spec import LOGVAR_RANGE

read_state_dict = next(row.read for row in ROWS if row.spec.name == "leanvae")

# SHA-256 of the sorted lines "key shape" of the authors' 16 channel model, such as "std_layer.weight 16x512".
KEYS_HASH = "1dc128250c08b2f2cf3a697604f7977b1b43935dbf7460c80419f7f8ecc20671"

# What the authors' code gave in float64 for the weights, the video and the latents of `numbers` below: mean, deviation,
# the values at eight evenly spaced places, and the mean absolute value of each frame.
GOLDEN = {
    "mean": (
        (0.210003, 3.50716),
        (-2.33469, 0.948787, -5.48344, -10.041, 1.1454, 1.56848, 6.1945, -0.724478),
        (1.91266, 2.70382, 3.58404),
    ),
    "logvar": (
        (0.187619, 3.50308),
        (2.37381, -1.91342, 2.0686, 2.63508, -4.78016, 1.94094, -4.72471, 0.642502),
        (1.98422, 2.7927, 3.38844),
    ),
    "video": (
        (-0.00629819, 1.8046),
        (0.735531, 2.01772, -1.57964, -1.19291, 1.08659, -0.693379, 0.802661, 0.780387),
        (1.238, 1.2322, 1.22193, 1.20455, 1.22734, 1.64631, 1.64117, 1.64993, 1.66062),
    ),
    "image mean": (
        (-0.0461873, 2.40365),
        (-2.33469, -2.41609, -5.1888, -2.08599, -0.46589, -0.302822, 3.13146, 1.96204),
        (),
    ),
    "image": (
        (0.000347235, 1.59738),
        (-0.920713, -0.936233, 1.92953, -1.23564, 0.0992274, 2.91182, 2.34749, -0.0591843),
        (),
    ),
}
VIDEO, LATENTS = 10**6, 10**6 + 1


def numbers(stream: int, *shape: int) -> np.ndarray:
    """splitmix64, counted from stream * 2**32, as float64 in [-0.5, 0.5)."""
    z = np.arange(math.prod(shape), dtype=np.uint64) + np.uint64(stream * 2**32 + 1)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return ((z >> np.uint64(11)) / 2.0**53 - 0.5).reshape(shape)


def known_weight(stream: int, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    if "threshold" in name:
        return torch.full(shape, 0.01, dtype=torch.float64)
    u = torch.from_numpy(np.asarray(numbers(stream, *shape)))
    if not shape or (len(shape) == 1 and name.endswith("weight")):
        return 1 + 0.2 * u
    return 0.1 * u if name.endswith("bias") else u * math.sqrt(12 * shape[0] / math.prod(shape))


@pytest.fixture(scope="module")
def known_model():
    """The full model in float64, with the weights that the golden numbers are for."""
    with torch.device("meta"):
        model = LeanVAE()
    shapes = {name: tuple(value.shape) for name, value in sorted(model.state_dict().items())}
    state = {name: known_weight(j, name, shape) for j, (name, shape) in enumerate(shapes.items())}
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def tiny():
    """A small model in float64 whose posterior reacts to every part."""
    torch.manual_seed(0)
    return LeanVAE(4, low_width=8, high_width=24).double().requires_grad_(False)


def random_video(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1


def golden_video() -> torch.Tensor:
    return torch.from_numpy(numbers(VIDEO, 1, 3, 9, 64, 32))


def golden_latents(groups: int) -> torch.Tensor:
    return torch.from_numpy(2 * numbers(LATENTS, 1, 16, groups, 8, 4))


def assert_golden(name: str, found: torch.Tensor) -> None:
    moments, values, frames = GOLDEN[name]
    flat = found.flatten()
    places = [(flat.numel() - 1) * k // 7 for k in range(8)]
    # Six digits are known: half a unit of the last is at most 5e-6 of the number.
    assert [flat.mean().item(), flat.std(correction=0).item()] == pytest.approx(moments, rel=1e-5)
    assert flat[places].tolist() == pytest.approx(values, rel=1e-5)
    if frames:
        assert found.abs().mean((0, 1, 3, 4)).tolist() == pytest.approx(frames, rel=1e-5)


def test_the_weights_have_the_authors_names_and_shapes():
    with torch.device("meta"):
        models = {channels: LeanVAE(channels) for channels in LATENT_FACTORS}
    lines = sorted(f"{name} {'x'.join(map(str, value.shape))}" for name, value in models[16].state_dict().items())
    assert len(lines) == 168
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == KEYS_HASH
    counts = {channels: sum(p.numel() for p in model.parameters()) for channels, model in models.items()}
    assert counts == {16: 39_785_940, 4: 39_767_496}
    assert models[4].state_dict().keys() == models[16].state_dict().keys()


def test_the_fill_is_the_one_that_the_golden_numbers_are_for():
    first = [0.383310808214, -0.068472002951, -0.473566228407, 0.470881978154]
    assert numbers(0, 4).tolist() == pytest.approx(first, abs=1e-12)
    assert numbers(VIDEO, 3).tolist() == pytest.approx([-0.347228843548, 0.345089634721, -0.486631021661], abs=1e-12)


def test_encoding_gives_the_golden_numbers(known_model):
    mean, logvar = known_model.moments(golden_video())
    assert mean.shape == logvar.shape == (1, 16, 3, 8, 4)
    assert_golden("mean", mean)
    assert_golden("logvar", logvar)


def test_encoding_an_image_gives_the_golden_numbers(known_model):
    mean, _ = known_model.moments(golden_video()[:, :, :1])
    assert mean.shape == (1, 16, 1, 8, 4)
    assert_golden("image mean", mean)


def test_decoding_gives_the_golden_numbers(known_model):
    video = known_model.pixels(golden_latents(3))
    assert video.shape == (1, 3, 9, 64, 32)
    assert_golden("video", video)


def test_decoding_one_group_gives_the_golden_image(known_model):
    image = known_model.pixels(golden_latents(1))
    assert image.shape == (1, 3, 1, 64, 32)
    assert_golden("image", image)


def test_videos_outside_are_in_minus_one_to_one_and_logvar_is_bounded(known_model):
    video, latents = 2 * golden_video(), golden_latents(3)
    mean, logvar = known_model.encode(video)
    inner_mean, inner_logvar = known_model.moments(golden_video())
    assert torch.equal(mean, inner_mean) and torch.equal(logvar, inner_logvar.clamp(*LOGVAR_RANGE))
    assert torch.equal(known_model.decode(latents), 2 * known_model.pixels(latents))
    _, extreme = known_model.encode(1e3 * video)
    assert (extreme.min().item(), extreme.max().item()) == LOGVAR_RANGE


@pytest.mark.parametrize(("frames", "groups"), [(1, 1), (5, 2), (9, 3)])
def test_shapes_are_those_of_the_spec(tiny, frames, groups):
    video = random_video(2, 3, frames, 16, 24)
    mean, logvar = tiny.encode(video)
    assert mean.shape == logvar.shape == (2, *tiny.spec.latent_shape(frames, 16, 24)) == (2, 4, groups, 2, 3)
    assert tiny.decode(mean).shape == video.shape


def test_later_frames_do_not_change_earlier_latents_nor_later_latents_earlier_frames(tiny):
    video = random_video(1, 3, 9, 16, 16)
    changed = video.clone()
    changed[:, :, 5:] = changed[:, :, 5:].flip(2)
    mean, logvar = tiny.encode(video)
    other_mean, other_logvar = tiny.encode(changed)
    # The same sums over a longer clip may be added in another order.
    same = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(other_mean[:, :, :2], mean[:, :, :2], **same)
    torch.testing.assert_close(other_logvar[:, :, :2], logvar[:, :, :2], **same)
    assert (other_mean[:, :, 2] - mean[:, :, 2]).abs().max() > 1e-3
    for groups in (1, 2):
        frames = tiny.spec.frames(groups)
        torch.testing.assert_close(tiny.encode(video[:, :, :frames])[0], mean[:, :, :groups], **same)
        torch.testing.assert_close(tiny.decode(mean[:, :, :groups]), tiny.decode(mean)[:, :, :frames], **same)
    assert (tiny.decode(other_mean) - tiny.decode(mean))[:, :, 5:].abs().max() > 1e-3


def test_the_first_frame_reaches_every_later_group(tiny):
    video = random_video(1, 3, 9, 16, 16)
    changed = video.clone()
    changed[:, :, 0] *= -1
    moved = (tiny.encode(changed)[0] - tiny.encode(video)[0]).abs().amax((0, 1, 3, 4))
    assert (moved > 1e-4).all()


def test_clips_of_a_batch_do_not_touch_each_other(tiny):
    video = random_video(3, 3, 5, 16, 16)
    mean, logvar = tiny.encode(video)
    decoded = tiny.decode(mean)
    for row in range(3):
        one = slice(row, row + 1)
        alone = tiny.encode(video[one])
        for found, expected in [(alone[0], mean), (alone[1], logvar), (tiny.decode(mean[one]), decoded)]:
            torch.testing.assert_close(found, expected[one], rtol=0, atol=1e-12)


def test_nothing_is_kept_between_calls(tiny):
    video = random_video(1, 3, 5, 16, 16)
    before = tiny.encode(video)[0]
    tiny.decode(before)
    tiny.encode(random_video(2, 3, 9, 24, 8))
    assert torch.equal(tiny.encode(video)[0], before)


@pytest.mark.parametrize(
    ("axes", "band", "expected"),
    [
        # Bands are named by the axes along which neighbours are subtracted.
        (IMAGE_AXES, 1, "h"),
        (IMAGE_AXES, 2, "w"),
        (IMAGE_AXES, 3, "hw"),
        (VIDEO_AXES, 1, "w"),
        (VIDEO_AXES, 2, "h"),
        (VIDEO_AXES, 3, "hw"),
        (VIDEO_AXES, 4, "t"),
        (VIDEO_AXES, 5, "tw"),
        (VIDEO_AXES, 6, "th"),
        (VIDEO_AXES, 7, "thw"),
    ],
)
def test_wavelet_bands_have_the_authors_order_and_scale(axes, band, expected):
    signs = {axis: torch.tensor([1.0, -1.0] if axis in expected else [1.0, 1.0]) for axis in "thw"}
    block = signs["t"][:, None, None] * signs["h"][:, None] * signs["w"]
    video = torch.stack([block, 2 * block, 3 * block])[None]
    if axes == IMAGE_AXES:
        video = video[:, :, :1]
    maps = haar(video, axes).flatten()
    size = 2 ** len(axes)
    wanted = torch.zeros(size * 3)
    wanted[band * 3 : band * 3 + 3] = size * torch.tensor([1.0, 2.0, 3.0])
    assert torch.equal(maps, wanted)


def test_the_wavelet_and_patches_can_be_undone():
    video = random_video(2, 3, 4, 16, 24)
    for axes in (IMAGE_AXES, VIDEO_AXES):
        torch.testing.assert_close(inverse_haar(haar(video, axes), axes), video, rtol=0, atol=1e-12)
    for patch in ((1, 4, 4), (2, 4, 4)):
        tokens = ToPatches(patch)(video)
        assert torch.equal(FromPatches(patch)(tokens), video)
        corner = video[0, :, : patch[0], :4, 4:8]
        assert torch.equal(tokens[0, 0, 0, 1], corner.flatten())


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 3, 16, 16, 16), "16 frames do not fit leanvae.*13 and 17"),
        ((1, 3, 3, 16, 16), "3 frames do not fit leanvae.*1 and 5"),
        ((1, 3, 0, 16, 16), "0 frames do not fit"),
        ((1, 3, 5, 20, 16), "height 20 does not fit"),
        ((1, 3, 5, 16, 4), "width 4 does not fit"),
        ((1, 1, 5, 16, 16), r"a video is \[B, 3, 1\+T, H, W\], got \[1, 1, 5, 16, 16\]"),
        ((3, 5, 16, 16), r"a video is \[B, 3, 1\+T, H, W\]"),
    ],
)
def test_a_video_of_another_shape_is_refused(tiny, shape, words):
    with pytest.raises(InputError, match=words):
        tiny.encode(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(1, 5, 2, 2, 2), (4, 2, 2, 2), (1, 4, 0, 2, 2), (1, 4, 2, 0, 2)])
def test_latents_of_another_shape_are_refused(tiny, shape):
    with pytest.raises(InputError, match=r"leanvae decodes latents \[B, 4, G, h, w\]"):
        tiny.decode(torch.zeros(shape))


def test_integers_are_refused(tiny):
    with pytest.raises(InputError, match=r"float in \[-1, 1\], got torch.uint8"):
        tiny.encode(torch.zeros(1, 3, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(InputError, match="latents are float, got torch.int64"):
        tiny.decode(torch.zeros(1, 4, 1, 1, 1, dtype=torch.int64))


def test_random_weights_follow_torchs_seed_alone():
    def build(numpy_seed: int) -> dict[str, torch.Tensor]:
        np.random.seed(numpy_seed)
        torch.manual_seed(5)
        return LeanVAE(4, low_width=8, high_width=24).state_dict()

    kept = np.random.get_state()
    one, two = build(1), build(2)
    np.random.set_state(kept)
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert all(torch.isfinite(value).all() for value in one.values())
    phi = one["latent_bottleneck.phi"]
    torch.testing.assert_close(phi @ phi.T, torch.eye(4), rtol=0, atol=1e-5)
    assert torch.equal(one["latent_bottleneck.Q"], phi.T)


def test_any_float_is_computed_in_the_dtype_of_the_weights(tiny):
    video = random_video(1, 3, 5, 8, 8)
    mean, _ = tiny.encode(video.float())
    assert mean.dtype == torch.float64 and tiny.decode(mean.float()).dtype == torch.float64


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_a_file_of_the_authors_layout_gives_the_same_model(tiny, tmp_path, suffix):
    state = {name: value + 1 for name, value in tiny.state_dict().items()}
    path = tmp_path / f"LeanVAE-dim4.{suffix}"
    if suffix == "ckpt":
        torch.save({"args": {"latent_dim": 4, "lr": 1e-4, "name": "any", "tile": None}, "state_dict": state}, path)
    else:
        save_file(state, path)
    other = LeanVAE(4, low_width=8, high_width=24).double()
    load_strictly(other, read_state_dict(str(path)), path)
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())


def test_weights_of_another_size_do_not_load(tiny, tmp_path):
    torch.save({"args": {}, "state_dict": tiny.state_dict()}, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"latent_bottleneck\.phi is \[4, 32\], not \[16, 32\]"):
        load_strictly(LeanVAE(16, low_width=8, high_width=24), read_state_dict(tmp_path / "a.ckpt"), "a.ckpt")


def test_a_pickle_that_calls_anything_is_refused_and_calls_nothing(tmp_path):
    trace = tmp_path / "trace"
    for number, content in enumerate(
        [{"args": attack(trace), "state_dict": {"a": torch.zeros(1)}}, {"args": {}, "state_dict": {"a": attack(trace)}}]
    ):
        path = tmp_path / f"{number}.ckpt"
        torch.save(content, path)
        with pytest.raises(InputError, match=r"\.ckpt: not readable as weights \(") as error:
            read_state_dict(path)
        assert "\n" not in str(error.value)
    plain = tmp_path / "plain.ckpt"
    plain.write_bytes(pickle.dumps(attack(trace), protocol=2))
    with pytest.raises(InputError, match="not readable as weights"):
        read_state_dict(plain)
    assert not trace.exists()


@pytest.mark.parametrize("content", [[1], {}, {"args": {}}, {"state_dict": {}}, {"state_dict": {"a": 1}}])
def test_a_file_of_something_else_is_no_state_dict(content, tmp_path):
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match="holds no state dict in state_dict"):
        read_state_dict(tmp_path / "a.ckpt")


@pytest.mark.parametrize("kept", [0, 10, 500, -1])
@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_cut_and_absent_files_are_refused_in_one_line(suffix, kept, tmp_path):
    path = tmp_path / f"a.{suffix}"
    with pytest.raises(InputError, match="no such weight file"):
        read_state_dict(path)
    state = {"a": torch.zeros(300)}
    save_file(state, path) if suffix == "safetensors" else torch.save({"args": {}, "state_dict": state}, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"not readable as weights|as safetensors") as error:
        read_state_dict(path)
    assert "\n" not in str(error.value)
