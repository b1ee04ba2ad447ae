"""Validation: every number by hand on a tokenizer whose answers are known, and pictures that show what is said."""

import math

import numpy as np
import pytest
import torch

from runtime.errors import InputError
from runtime.published_weights import PUBLISHED
from tokenizer import PVVAE, PVVAEConfig, validation
from tokenizer.spec import Posterior, TokenizerSpec
from tokenizer.strips import BORDER, FRAMES_SHOWN, PREDICTED, REST, SIDE, playing, strip
from tokenizer.validation import blank_like, find_lpips_networks, moving_pixels, prediction_errors, validate
from videos import to_uint8

CPU = torch.device("cpu")
TINY = PVVAEConfig(latent_channels=4, channels=(8, 8, 8), blocks=1, middle_blocks=1, patch=4, norm="layer")


def scene(frames: int = 5, size: int = 8) -> torch.Tensor:
    """A white square that steps right each frame over black, `[1, 3, frames, size, size]`."""
    video = torch.full((1, 3, frames, size, size), -1.0)
    for frame in range(frames):
        left = frame % (size - 1)
        video[:, :, frame, 2:4, left : left + 2] = 1.0
    return video


class Known(torch.nn.Module):
    """Latents and outputs that do not depend on the weights: the clip off by `error[n]` in frame n, and predictions
    that are so much of the way from the last observed frame to the truth."""

    spec = TokenizerSpec(name="known", temporal=4, spatial=1, channels=3)

    def __init__(self, clip: torch.Tensor, error=None, way: float = 1.0):
        super().__init__()
        self.clip, self.way = clip, way
        self.error = torch.zeros(clip.shape[2]) if error is None else error

    def encode(self, video, chunk_groups=None):
        groups = self.spec.groups(video.shape[2])
        mean = torch.zeros(len(video), 3, groups, 2, 1)
        mean[:, 0, :, 0], mean[:, 0, :, 1] = 1.0, -3.0  # mean -1, variance 4
        mean[:, 1] = 2.0
        logvar = torch.zeros_like(mean)
        logvar[:, 1] = math.log(0.25)
        return Posterior(mean, logvar)

    def decode(self, latents, chunk_groups=None):
        return self.clip + self.error.view(1, 1, -1, 1, 1)

    def predict(self, observed_video, groups, chunk_groups=None):
        seen = observed_video.shape[2]
        assert seen + 4 * groups == self.clip.shape[2]
        last = observed_video[:, :, -1:]
        future = last + self.way * (self.clip[:, :, seen:] - last)
        return torch.cat([observed_video, future], dim=2)


def values_of(model, clip, **rest) -> dict[str, float]:
    return validate(model, [to_uint8(clip)], CPU, torch.float32, **rest).values


def test_moving_pixels_are_where_frames_leave_the_last_observed_one():
    moving = moving_pixels(scene(), 3)
    assert moving.shape == (1, 1, 2, 8, 8)
    # one column leaves and one comes; then two and two
    assert moving[0, 0, 0].sum() == 4 and moving[0, 0, 1].sum() == 8


def test_a_perfect_prediction_has_no_error_and_repetition_scores_one():
    video = scene()
    ours, repeat = prediction_errors(video, video, 3)
    assert float(ours.sum()) == 0.0 and float(repeat.sum()) > 0
    frozen = video.clone()
    frozen[:, :, 3:] = video[:, :, 2:3]
    ours, repeat = prediction_errors(video, frozen, 3)
    assert float(ours.sum() / repeat.sum()) == pytest.approx(1.0)


def test_errors_outside_moving_pixels_do_not_count():
    video = scene()
    wrong = video.clone()
    wrong[:, :, 3:, 7, 7] = 1.0
    assert float(prediction_errors(video, wrong, 3)[0].sum()) == 0.0


def test_blank_is_the_most_common_colour_of_the_first_frame():
    video = torch.zeros(1, 3, 5, 4, 4)
    video[:, 0] = 0.5
    video[:, :, :, 0, 0] = 1.0
    assert blank_like(video)[0, :, 4, 2, 2].tolist() == [0.5, 0.0, 0.0]


def test_psnr_of_each_frame_follows_its_error_and_the_mean_is_over_frames():
    clip = torch.zeros(1, 3, 5, 8, 8) - 1.0
    values = values_of(Known(clip, error=torch.tensor([0.02, 0.2, 0.2, 0.2, 2.0])), clip)  # of a range of 2
    frames = [values[f"val_psnr_frame_{n:02d}"] for n in range(5)]
    assert frames == pytest.approx([40.0, 20.0, 20.0, 20.0, 0.0], abs=1e-4)
    assert values["val_psnr"] == pytest.approx(20.0, abs=1e-4) and "val_psnr_frame_05" not in values


def test_clips_count_alike_in_batches_of_any_size():
    clips = torch.cat([scene(size=12), -scene(size=12), 0.5 * scene(size=12)])
    torch.manual_seed(0)
    vae = PVVAE(PVVAEConfig(latent_channels=4, channels=(8, 8, 8), blocks=1, middle_blocks=1, patch=1)).eval()
    whole, parts = (validate(vae, [*to_uint8(clips).split(n)], CPU, torch.float32).values for n in (3, 2))
    assert whole == pytest.approx(parts, rel=1e-4) and whole.keys() == parts.keys()


@pytest.mark.parametrize(("frames", "groups"), [(17, 5), (8, 2), (1, 1)])
def test_networks_see_no_more_pixels_at_a_time_than_allowed_and_the_numbers_stay(frames, groups, monkeypatch):
    clips = torch.rand(3, 3, 17, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.manual_seed(0)
    vae = PVVAE(TINY).eval()
    seen = {"encoder": [], "decoder": [], "lpips": []}

    # In clips times groups; 1 + 4k frames are 1 + k groups.
    vae.encoder.register_forward_pre_hook(lambda _, x: seen["encoder"].append(len(x[0]) * -(-x[0].shape[2] // 4)))
    vae.decoder.register_forward_pre_hook(lambda _, x: seen["decoder"].append(len(x[0]) * x[0].shape[2]))

    def network(a, b):
        seen["lpips"].append(len(a))
        return (a - b).square().mean((1, 2, 3), keepdim=True)

    whole = validate(vae, [to_uint8(clips)], CPU, torch.float32, {"alex": network})
    most = {name: max(sizes) for name, sizes in seen.items()}
    assert most == {"encoder": 3 * 5, "decoder": 3 * 5, "lpips": 17}
    for sizes in seen.values():
        sizes.clear()
    monkeypatch.setattr(validation, "PIXELS", frames * 32 * 48)
    parts = validate(vae, [to_uint8(clips)], CPU, torch.float32, {"alex": network})
    assert {name: max(sizes) for name, sizes in seen.items()} == {"encoder": groups, "decoder": groups, "lpips": frames}
    assert parts.values == pytest.approx(whole.values, rel=1e-5, abs=1e-5)
    for name, picture in whole.pictures.items():
        assert np.abs(picture.astype(int) - parts.pictures[name]).max() <= 1  # rounded to uint8


def test_values_outside_the_range_are_clamped_before_they_are_judged():
    clip = torch.ones(1, 3, 1, 16, 16)
    values = values_of(Known(clip, error=torch.tensor([0.7])), clip)
    assert values["val_psnr"] == math.inf and values["val_ssim"] == pytest.approx(1.0)


def test_ssim_needs_eleven_pixels_and_is_left_out_below():
    assert "val_ssim" in values_of(Known(scene(size=11)), scene(size=11))
    assert "val_ssim" not in values_of(Known(scene(size=8)), scene(size=8))


def test_prediction_is_compared_at_every_frame_ahead_with_repetition_and_with_a_flat_picture():
    clip = scene(frames=9, size=16)
    values = values_of(Known(clip, way=0.75), clip)
    # a quarter of the way is missing wherever something moved: a sixteenth of the squared error
    ahead = [values[f"val_predicted_over_repeat_plus_{n}"] for n in range(1, 5)]
    assert ahead == pytest.approx([1 / 16] * 4, rel=1e-4)
    assert values["val_predicted_over_repeat"] == pytest.approx(1 / 16, rel=1e-4)
    # black is wrong only where the square is: half of the pixels that moved, 4 of 8, or 2 of 4 one frame ahead
    assert values["val_predicted_over_blank_plus_1"] == pytest.approx(1 / 8, rel=1e-4)
    assert values["val_predicted_over_blank"] == pytest.approx(1 / 8, rel=1e-4)
    assert "val_predicted_over_repeat_plus_5" not in values


def test_horizons_weigh_by_their_error():
    clip = scene(frames=9, size=16)
    model = Known(clip)
    genuine = model.predict

    def wrong_at_the_end(observed_video, groups, chunk_groups):
        out = genuine(observed_video, groups)
        out[:, :, -1] = observed_video[:, :, -1]
        return out

    model.predict = wrong_at_the_end
    values = values_of(model, clip)
    assert values["val_predicted_over_repeat_plus_3"] == 0.0
    assert values["val_predicted_over_repeat_plus_4"] == pytest.approx(1.0)
    # moving pixels of the four frames: 4, 8, 8, 8
    assert values["val_predicted_over_repeat"] == pytest.approx(8 / 28, rel=1e-4)


def test_a_still_clip_has_no_ratio_over_repetition():
    clip = torch.zeros(1, 3, 5, 8, 8)
    assert not [name for name in values_of(Known(clip), clip) if "predicted" in name]


def test_a_model_of_images_is_validated_on_single_frames():
    clip = scene(frames=1, size=16)
    values = values_of(Known(clip), clip)
    assert {"val_psnr", "val_ssim", "val_kl"} <= set(values)
    assert not [name for name in values if "predicted" in name]


def test_latent_statistics_are_those_of_the_three_channels():
    values = values_of(Known(scene()), scene())
    assert values["val_latent_mean_abs"] == pytest.approx((1 + 2 + 0) / 3)
    # variance of the mean plus that of the posterior: 4 + 1, 0 + 0.25, 0 + 1
    assert values["val_latent_std_max"] == pytest.approx(math.sqrt(5.0))
    assert values["val_latent_std_min"] == pytest.approx(0.5)
    # nats per element: mean² / 2 is (1 + 9) / 4 in the first; (4 + 1/4 - 1 + ln 4) / 2 in the second; none in the third
    assert values["val_kl"] == pytest.approx((2.5 + (3.25 + math.log(4.0)) / 2 + 0.0) / 3, rel=1e-5)
    assert values["val_dead_channels"] == pytest.approx(1 / 3)


def test_lpips_is_named_after_its_network_and_skipped_where_frames_are_too_small_for_it():
    networks = {"alex": lambda x, y: (x - y).abs().mean((1, 2, 3), keepdim=True), "vgg": lambda x, y: torch.ones(1)}
    clip = torch.zeros(1, 3, 5, 31, 31)
    values = values_of(Known(clip, error=torch.full((5,), 0.5)), clip, lpips_networks=networks)
    assert values["val_lpips_alex"] == pytest.approx(0.5, abs=1e-2) and values["val_lpips_vgg"] == 1.0
    small = values_of(Known(clip[..., :30, :30]), clip[..., :30, :30], lpips_networks=networks)
    assert "val_lpips_alex" not in small and "val_lpips_vgg" in small


def test_lpips_networks_are_those_that_are_here_and_nothing_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("PVVAE_WEIGHTS", raising=False)
    assert find_lpips_networks(CPU) == {}
    assert find_lpips_networks(CPU, vgg=max) == {"vgg": max}
    (tmp_path / "pvvae").mkdir()
    (tmp_path / "pvvae" / PUBLISHED["alexnet"].filename).write_bytes(b"not those weights")
    with pytest.raises(InputError, match="fetch it again"):
        find_lpips_networks(CPU)


@pytest.mark.parametrize("padding", ["learnable", "gaussian", "conditional"])
def test_values_depend_on_weights_and_clips_alone_and_training_notices_nothing(padding):
    torch.manual_seed(0)
    from dataclasses import replace

    vae = PVVAE(replace(TINY, padding=padding)).train()
    clips = [to_uint8(scene(frames=9, size=32))]
    first = validate(vae, clips, CPU, torch.float32)
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    again = validate(vae, clips, CPU, torch.float32)
    assert torch.equal(torch.random.get_rng_state(), before) and vae.training
    assert first.values == again.values
    assert all(np.array_equal(picture, again.pictures[name]) for name, picture in first.pictures.items())
    assert all(math.isfinite(value) for value in first.values.values())


def test_a_strip_shows_rows_of_frames_and_underlines_the_predicted_ones():
    real, ours, ahead = scene(9, 16)[0], -scene(9, 16)[0], scene(9, 16)[0]
    (picture,) = strip([real, ours, ahead], observed=5)
    cell = SIDE + BORDER
    assert picture.shape == (3 * cell, 9 * cell, 3) and picture.dtype == np.uint8
    factor = SIDE // 16
    for frame in range(9):
        corner = frame * cell + frame * factor  # the square's
        assert picture[2 * factor, corner].tolist() == [255] * 3
        assert picture[cell + 2 * factor, corner].tolist() == [0] * 3
        line = picture[3 * cell - 1, frame * cell].tolist()
        assert line == list(PREDICTED if frame >= 5 else REST)
    assert picture[cell - 1, 8 * cell].tolist() == list(REST)


def test_long_and_large_clips_are_shown_by_some_frames_and_smaller():
    video = torch.zeros(3, 33, 100, 300)
    (picture,) = strip([video, video], observed=33)
    assert picture.shape == (2 * (43 + BORDER), FRAMES_SHOWN * (SIDE + BORDER), 3)
    assert playing([video, video], observed=33).shape == (33, 43 + BORDER, 2 * (SIDE + BORDER), 3)


def test_the_first_clips_are_shown_and_single_frames_do_not_play():
    clips = [to_uint8(scene(size=8)).expand(3, -1, -1, -1, -1)] * 2
    pictures = validate(Known(scene().expand(3, -1, -1, -1, -1)), clips, CPU, torch.float32).pictures
    assert sorted(pictures) == sorted([f"val_clip_{n}{end}" for n in range(4) for end in ("", "_playing")])
    images = validate(Known(scene(1)), [to_uint8(scene(1))], CPU, torch.float32).pictures
    assert list(images) == ["val_clip_0"]
