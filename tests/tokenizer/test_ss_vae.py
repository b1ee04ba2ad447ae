"""SSVAE: its parameters are those of the published file, and with known numbers in them it computes what the authors'
code computes. The golden numbers below are of the authors' code in float64, filled by the same rule."""

from __future__ import annotations

import hashlib
import os
import pickle

import numpy as np
import pytest
import torch
from hostile import Calls
from safetensors.torch import save_file

from runtime.errors import InputError
from runtime.weights import load_strictly
from tokenizer.baselines.ports import ROWS
from tokenizer.baselines.ss_vae import LATENTS_MEAN, LATENTS_STD, SSVAE, RMSNorm

read_state_dict = next(row.read for row in ROWS if row.spec.name == "ssvae")

# Of the sorted lines "name 64x32x3x3x3" of the published file's encoder.* and decoder.*, joined by newlines.
KEYS_SHA256 = "5c05582c7d3304529b4ad82c677501b3f0a9697a2a506e9abf99869e64622fbc"
# The streams of `uniform` that are not a parameter's.
VIDEO, LATENTS = 10**6, 10**6 + 1
BLOCK = 2**20  # numbers that are made at a time: what stays in the processor's cache is several times faster


def uniform(shape: tuple[int, ...], stream: int) -> torch.Tensor:
    """float64 in [-0.5, 0.5), by splitmix64 from the position of each number (row-major) and `stream`."""
    total = int(np.prod(shape))
    out = np.empty(total)
    for start in range(0, total, BLOCK):
        z = np.arange(start, min(start + BLOCK, total), dtype=np.uint64)
        z += np.uint64(stream * 2**32 + 1)
        z *= np.uint64(0x9E3779B97F4A7C15)
        z ^= z >> np.uint64(30)
        z *= np.uint64(0xBF58476D1CE4E5B9)
        z ^= z >> np.uint64(27)
        z *= np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
        z >>= np.uint64(11)
        np.multiply(z, 2.0**-53, out=out[start : start + len(z)])
    out -= 0.5
    return torch.from_numpy(out.reshape(shape))


def filled(model: SSVAE, part: str = "") -> SSVAE:
    """The model with known float64 numbers in the parameters whose names begin with `part`; the others stay."""
    numbers = {}
    for stream, (name, value) in enumerate(sorted(model.state_dict().items())):
        if name.startswith(part):
            u = uniform(tuple(value.shape), stream)
            if name.endswith("bias"):
                numbers[name] = u.mul_(0.1)
            elif name.endswith("gamma"):
                numbers[name] = u.mul_(0.2).add_(1.0)
            else:
                numbers[name] = u.mul_((12 / value[0].numel()) ** 0.5)
    model.load_state_dict(numbers, strict=not part, assign=True)
    return model.eval().requires_grad_(False)


def published() -> SSVAE:
    """The model of the published sizes, which takes no memory until its numbers are filled in."""
    with torch.device("meta"):
        return SSVAE()


def small() -> SSVAE:
    """A model with all the parts of the published one: every kind of stage widens, and one keeps its width."""
    return SSVAE(4, (4, 8, 16, 32, 32), stem_channels=2, encoder_blocks=1, decoder_blocks=2)


def summary(x: torch.Tensor) -> list[float]:
    """Mean, standard deviation, eight numbers at even distances, and the mean absolute value of each frame."""
    flat = x.flatten()
    picked = [flat[(flat.numel() - 1) * k // 7] for k in range(8)]
    frames = x.abs().mean(dim=(0, 1, 3, 4))
    return [float(value) for value in (flat.mean(), flat.std(correction=0), *picked, *frames)]


@pytest.fixture(scope="module")
def tiny() -> SSVAE:
    return filled(small())


def test_numbers_of_the_filling_rule():
    first = [0.383310808214, -0.068472002951, -0.473566228407, 0.470881978154]
    assert uniform((4,), 0).tolist() == pytest.approx(first, abs=1e-12)
    assert uniform((3,), VIDEO).tolist() == pytest.approx([-0.347228843548, 0.345089634721, -0.486631021661], abs=1e-12)


def test_names_and_shapes_are_those_of_the_published_file():
    state = published().state_dict()
    assert len(state) == 277 and sum(value.numel() for value in state.values()) == 315_177_859
    lines = sorted(f"{name} {'x'.join(str(size) for size in value.shape)}" for name, value in state.items())
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == KEYS_SHA256


def test_published_statistics_are_48_exact_bfloat16_numbers_each():
    for numbers, total in ((LATENTS_MEAN, -3.8111572265625), (LATENTS_STD, 55.76953125)):
        values = torch.tensor(numbers, dtype=torch.float64)
        assert values.shape == (48,) and torch.equal(values.bfloat16().double(), values)
        assert values.sum().item() == total  # exact: these have few digits
    assert min(LATENTS_STD) > 0


@pytest.mark.slow
def test_encoder_gives_the_numbers_of_the_authors_code():
    mean, logvar = filled(published(), "encoder").encode(2 * uniform((1, 3, 9, 64, 32), VIDEO))
    assert mean.shape == logvar.shape == (1, 48, 3, 4, 2)
    golden = [0.0531285, 0.461585, 0.0695088, -0.139767, 1.1374, 0.400707, 0.127089, 1.22532, 0.259311, -0.643425]
    golden += [0.365607, 0.368201, 0.370236]
    # Six digits were written down.
    assert summary(torch.cat([mean, logvar], dim=1)) == pytest.approx(golden, rel=1e-5)


@pytest.mark.slow
def test_decoder_gives_the_numbers_of_the_authors_code():
    video = filled(published(), "decoder").decode(2 * uniform((1, 48, 3, 4, 2), LATENTS))
    assert video.shape == (1, 3, 9, 64, 32)
    golden = [-0.037529, 0.584423, -0.413871, 0.568832, -0.272499, -0.523011, -0.480861, -0.505774, 0.23384, -0.516498]
    golden += [0.490025, 0.511795, 0.493294, 0.466111, 0.463314, 0.454013, 0.428785, 0.46203, 0.437505]
    assert summary(video) == pytest.approx(golden, rel=1e-5)


@pytest.mark.parametrize("frames", [1, 5, 9])
def test_every_length_of_1_plus_4k_comes_back_with_as_many_frames(tiny, frames):
    mean, logvar = tiny.encode(2 * uniform((2, 3, frames, 32, 16), VIDEO))
    assert mean.shape == logvar.shape == (2, 4, 1 + frames // 4, 2, 1)
    video = tiny.decode(mean)
    assert video.shape == (2, 3, frames, 32, 16) and bool(torch.isfinite(video).all())


def test_log_variances_are_kept_in_the_range_of_posteriors(tiny):
    video = 2 * uniform((1, 3, 1, 16, 16), VIDEO)
    bias = tiny.encoder.out[2].conv.bias
    before = bias.clone()
    try:
        bias[4:6] += torch.tensor([1e3, -1e3], dtype=torch.float64)
        assert tiny.encode(video)[1][0, :2].flatten().tolist() == [20.0, -30.0]
    finally:
        bias.copy_(before)


def test_later_frames_change_neither_earlier_latents_nor_earlier_frames(tiny):
    video, latents = 2 * uniform((1, 3, 9, 32, 16), VIDEO), 2 * uniform((1, 4, 3, 2, 1), LATENTS)
    both = torch.cat(tiny.encode(video), dim=1)
    for frames, groups in ((1, 1), (5, 2)):
        changed = video.clone()
        changed[:, :, frames:] *= -1
        found = torch.cat(tiny.encode(changed), dim=1)
        torch.testing.assert_close(found[:, :, :groups], both[:, :, :groups], rtol=0, atol=1e-12)
        assert (found[:, :, groups] - both[:, :, groups]).abs().max() > 1e-3
        prefix = torch.cat(tiny.encode(video[:, :, :frames]), dim=1)
        torch.testing.assert_close(prefix, both[:, :, :groups], rtol=0, atol=1e-12)
        decoded = tiny.decode(latents[:, :, :groups])
        torch.testing.assert_close(decoded, tiny.decode(latents)[:, :, :frames], rtol=0, atol=1e-12)


def test_clips_of_a_batch_and_calls_after_each_other_do_not_touch(tiny):
    video, latents = 2 * uniform((2, 3, 5, 32, 16), VIDEO), 2 * uniform((2, 4, 2, 2, 1), LATENTS)
    mean, logvar = tiny.encode(video)
    decoded = tiny.decode(latents)
    for index in (1, 0):
        alone = slice(index, index + 1)
        torch.testing.assert_close(tiny.encode(video[alone]), (mean[alone], logvar[alone]), rtol=0, atol=1e-12)
        torch.testing.assert_close(tiny.decode(latents[alone]), decoded[alone], rtol=0, atol=1e-12)


@pytest.mark.bf16
def test_bfloat16_is_near(tiny):
    latents, rounded = 2 * uniform((1, 4, 2, 1, 1), LATENTS), small()
    rounded.load_state_dict(tiny.state_dict())
    expected, found = tiny.decode(latents), rounded.bfloat16().decode(latents.bfloat16())
    # It keeps 8 bits; about 30 layers add up.
    assert found.dtype == torch.bfloat16 and (found.double() - expected).std() < 0.1 * expected.std()


def test_pixels_of_zeros_stay_zeros_in_half_precision():
    assert not RMSNorm(4).half()(torch.zeros(1, 4, 1, 1, 1, dtype=torch.half)).any()


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 3, 8, 32, 32), "8 frames do not fit ssvae"),
        ((1, 3, 5, 24, 32), "height 24 does not fit ssvae"),
        ((1, 3, 5, 32, 8), "width 8 does not fit ssvae"),
        ((1, 4, 5, 32, 32), r"a video is \[B, 3, 1\+T, H, W\], got \[1, 4, 5, 32, 32\]"),
        ((3, 5, 32, 32), r"a video is \[B, 3, 1\+T, H, W\]"),
    ],
)
def test_videos_of_wrong_shape_are_refused(tiny, shape, words):
    with pytest.raises(InputError, match=words):
        tiny.encode(torch.zeros(shape, dtype=torch.float64))


def test_videos_that_are_not_floats_in_range_are_refused(tiny):
    with pytest.raises(InputError, match="a video is float"):
        tiny.encode(torch.zeros(1, 3, 5, 32, 32, dtype=torch.uint8))
    with pytest.raises(InputError, match="from 0 to 255"):
        tiny.encode(torch.linspace(0, 255, 3 * 256, dtype=torch.float64).reshape(1, 3, 1, 16, 16))


@pytest.mark.parametrize("shape", [(1, 48, 2, 1, 1), (1, 4, 0, 1, 1), (4, 2, 1, 1)])
def test_latents_of_wrong_shape_are_refused(tiny, shape):
    with pytest.raises(InputError, match=r"ssvae decodes latents \[B, 4, G, h, w\]"):
        tiny.decode(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_the_authors_file_loads_without_what_was_only_trained_with(tiny, tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    beside = {"mask_token": torch.zeros(1, 4, 1, 1, 1), "loss.discriminator.weight": torch.zeros(2)}
    tensors = {**tiny.state_dict(), **beside}
    if suffix == ".ckpt":
        torch.save({"epoch": 3, "state_dict": tensors, "optimizer_states": [{"state": {}}], "callbacks": {}}, path)
    else:
        save_file(tensors, path)
    state = read_state_dict(path)
    assert state.keys() == tiny.state_dict().keys()
    other = small().double()
    load_strictly(other, state, path)
    assert all(torch.equal(value, tiny.state_dict()[name]) for name, value in other.state_dict().items())


def test_an_unknown_tensor_is_left_for_the_strict_load_to_refuse(tiny, tmp_path):
    torch.save({"state_dict": {**tiny.state_dict(), "quant_conv.weight": torch.zeros(2)}}, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match="quant_conv.weight is unknown"):
        load_strictly(tiny, read_state_dict(tmp_path / "a.ckpt"), "a.ckpt")


@pytest.mark.parametrize("way", ["torch", "pickle"])
def test_a_hostile_file_is_refused_in_one_line_and_not_run(tmp_path, way):
    path, trace = tmp_path / "weights.ckpt", tmp_path / "trace"
    hostile = Calls(os.mkdir, str(trace))
    content = {"state_dict": {"encoder.conv_in.conv.bias": torch.zeros(2)}, "hyper_parameters": hostile}
    if way == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(hostile, protocol=2))
    words = r"ckpt: not readable as weights \(it asks for \w+\.mkdir, .*again, or one that holds its state dict alone$"
    with pytest.raises(InputError, match=words) as caught:
        read_state_dict(path)
    assert not trace.exists() and "\n" not in str(caught.value) and "trust" not in str(caught.value)


def test_files_without_weights_are_refused_in_one_line(tmp_path):
    whole = tmp_path / "whole.ckpt"
    torch.save({"state_dict": {"encoder.a": torch.zeros(1000)}}, whole)
    (tmp_path / "cut.ckpt").write_bytes(whole.read_bytes()[:2000])
    (tmp_path / "text.ckpt").write_text("<html>not found</html>")
    (tmp_path / "text.safetensors").write_text("<html>not found</html>")
    torch.save([torch.zeros(2)], tmp_path / "list.ckpt")
    torch.save({"encoder.a": torch.zeros(2)}, tmp_path / "bare.ckpt")
    torch.save({"state_dict": {"encoder.a": 3}}, tmp_path / "numbers.ckpt")
    torch.save({"state_dict": {7: torch.zeros(2)}}, tmp_path / "names.ckpt")
    for name in ("cut", "text", "list", "bare", "numbers", "names", "absent", "text.safetensors"):
        path = tmp_path / (name if "." in name else f"{name}.ckpt")
        with pytest.raises(InputError, match=f"{path.name}: ") as caught:
            read_state_dict(path)
        assert "\n" not in str(caught.value), name
