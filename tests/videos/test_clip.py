"""Windows, sizes, batches, and quality measures against independent implementations."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from runtime.errors import InputError
from videos import BatchLoader, Bucket, ClipSpec, lpips, open_dataset, psnr, ssim, to_float, to_uint8
from videos.batches import batch_indices, window_seed
from videos.clip import resize_and_crop


def test_windows_lie_inside_and_start_where_they_should():
    clip = ClipSpec(5, 32, frame_stride=3)
    starts = {int(clip.frame_indices(20, seed)[0]) for seed in range(200)}
    assert starts == set(range(8))
    assert ClipSpec(5, 32, 3, "first").frame_indices(20, 9).tolist() == [0, 3, 6, 9, 12]
    assert ClipSpec(5, 32, 3, "center").frame_indices(20, 9).tolist() == [3, 6, 9, 12, 15]


@pytest.mark.parametrize(("available", "stride"), [(49, 3), (48, 2), (33, 2), (32, 1), (17, 1), (16, 0)])
def test_the_largest_stride_that_fits_is_used(available, stride):
    assert ClipSpec(17, 32, frame_stride=3).fitting_stride(available) == stride


@pytest.mark.parametrize(
    "bad", [{"num_frames": 0}, {"size": 0}, {"frame_stride": 0}, {"window": "last"}, {"size": (32, 1.5)}]
)
def test_impossible_clips_are_refused(bad):
    with pytest.raises(InputError):
        ClipSpec(**bad)


def test_resizing_keeps_the_aspect_and_crops_the_centre():
    frames = np.zeros((2, 60, 120, 3), np.uint8)
    frames[:, :, 30:90] = 200
    out = resize_and_crop(frames, 30)
    assert out.shape == (2, 30, 30, 3) and (out == 200).mean() > 0.9
    assert (resize_and_crop(frames.swapaxes(1, 2), 30) == 200).mean() > 0.9
    assert np.array_equal(resize_and_crop(frames[:, :, 30:90], 60), frames[:, :, 30:90])


def test_conversion_between_bytes_and_floats_loses_nothing():
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(values)), values)
    assert to_uint8(torch.tensor([-2.0, 2.0])).tolist() == [0, 255]
    with pytest.raises(InputError, match="converted already"):
        to_float(to_float(values))
    with pytest.raises(InputError, match="converted already"):
        to_uint8(values)


def test_an_epoch_holds_every_item_once_and_batches_are_functions_of_the_step():
    drawn = np.concatenate([batch_indices(10, 4, step, seed=3) for step in range(5)])
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10)) and drawn[:10].tolist() != drawn[10:].tolist()
    assert np.array_equal(batch_indices(10, 4, 2, 3), drawn[8:12])


def test_a_range_of_strides_is_drawn_uniformly_from_the_seed_of_random_windows():
    clip = ClipSpec(5, 32, frame_stride=(1, 3))
    drawn = [clip.frame_indices(40, seed) for seed in range(600)]
    counts = np.bincount([int(frames[1] - frames[0]) for frames in drawn])
    assert counts[0] == 0 and (counts[1:] > 150).all() and len(counts) == 4  # 200 each, deviation 11.5
    assert all(np.array_equal(np.diff(frames), [frames[1] - frames[0]] * 4) for frames in drawn)
    assert {int(np.diff(clip.frame_indices(9, seed))[0]) for seed in range(50)} == {1, 2}  # 3 does not fit
    assert np.array_equal(clip.frame_indices(40, 3), drawn[3]) and clip.fitting_stride(40) == 3
    same, plain = ClipSpec(5, 32, frame_stride=(2, 2)), ClipSpec(5, 32, frame_stride=2)
    assert all(np.array_equal(same.frame_indices(40, s), plain.frame_indices(40, s)) for s in range(20))
    shapes = open_dataset("moving_shapes", clip=ClipSpec(5, 32, frame_stride=(1, 3)))
    fixed = [
        open_dataset("moving_shapes", clip=ClipSpec(5, 32, frame_stride=k))[4]["video"].tobytes() for k in (1, 2, 3)
    ]
    assert {shapes.item(4, seed)["video"].tobytes() for seed in range(20)} == set(fixed)
    for bad in ({"frame_stride": (3, 1)}, {"frame_stride": (1, 2, 3)}, {"frame_stride": (0, 2)}):
        with pytest.raises(InputError, match="frame_stride"):
            ClipSpec(**bad)
    with pytest.raises(InputError, match="random windows only"):
        ClipSpec(frame_stride=(1, 3), window="center")


def test_processes_share_a_batch_and_a_resumed_loader_goes_on():
    dataset = open_dataset("moving_shapes", clip=ClipSpec(5, 32))

    def batches(start, rows=None, count=2):
        loader = iter(BatchLoader([Bucket(dataset, 4, rows)], seed=1, start_step=start))
        found = [next(loader) for _ in range(count)]
        loader.close()
        return found

    whole = batches(0, count=4)
    assert [step for step, _ in whole] == [0, 1, 2, 3]
    assert torch.equal(batches(2)[1][1]["video"], whole[3][1]["video"])
    parts = [batches(0, rows)[1][1] for rows in ((0, 1), (2, 3))]
    assert torch.equal(torch.cat([part["video"] for part in parts]), whole[1][1]["video"])
    assert sum((part["names"] for part in parts), []) == whole[1][1]["names"]
    assert window_seed(1, 2, 3) == window_seed(1, 2, 3) != window_seed(1, 3, 2)


@pytest.fixture
def pair():
    random = np.random.default_rng(0)
    x = random.uniform(size=(2, 3, 4, 24, 32))
    return torch.from_numpy(x), torch.from_numpy(np.clip(x + 0.1 * random.standard_normal(x.shape), 0, 1))


def frames_of(video):
    return [[frame.permute(1, 2, 0).numpy() for frame in clip.transpose(0, 1)] for clip in video]


def test_psnr_equals_scikit_image(pair):
    expected = [
        np.mean([peak_signal_noise_ratio(a, b, data_range=1.0) for a, b in zip(x, y, strict=True)])
        for x, y in zip(*map(frames_of, pair), strict=True)
    ]
    assert np.allclose(psnr(*pair).numpy(), expected, atol=1e-10, rtol=0)


def test_ssim_equals_scikit_image(pair):
    """scikit-image averages over everything but a border of half a window, which is the valid region."""

    def one(a, b):
        return structural_similarity(
            a, b, channel_axis=2, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )

    expected = [
        np.mean([one(a, b) for a, b in zip(x, y, strict=True)]) for x, y in zip(*map(frames_of, pair), strict=True)
    ]
    assert np.allclose(ssim(*pair).numpy(), expected, atol=1e-10, rtol=0)


def test_known_values_of_psnr_and_ssim():
    x = torch.full((1, 3, 2, 16, 16), 0.4)
    assert float(psnr(x, x + 0.1)) == pytest.approx(20.0, abs=1e-5) and float(psnr(x, x)) == float("inf")
    c1 = 0.01**2
    a, b = 0.25, 0.75
    flat = [torch.full((1, 3, 1, 16, 16), v, dtype=torch.float64) for v in (a, b)]
    assert float(ssim(*flat)) == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1), abs=1e-9)
    assert float(ssim(x, x)) == pytest.approx(1.0)


def test_lpips_averages_a_network_over_frames_in_its_own_range():
    ranges = []

    def network(a, b):
        ranges.append((float(a.min()), float(a.max())))
        return (a - b).abs().mean((1, 2, 3), keepdim=True)

    x, y = torch.zeros(2, 3, 5, 16, 16), torch.ones(2, 3, 5, 16, 16)
    assert lpips(x, y, network=network).tolist() == [2.0, 2.0] and ranges[0] == (-1.0, -1.0)


def test_lpips_without_its_weights_says_which_file_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("PVVAE_WEIGHTS", raising=False)
    with pytest.raises(InputError, match=r"alexnet-owt-7be5be79\.pth"):
        lpips(torch.zeros(1, 3, 1, 64, 64), torch.zeros(1, 3, 1, 64, 64))
    with pytest.raises(InputError, match="not known"):
        lpips(torch.zeros(1, 3, 1, 64, 64), torch.zeros(1, 3, 1, 64, 64), net="resnet")


def test_videos_of_different_shapes_cannot_be_compared():
    for measure in (psnr, ssim):
        with pytest.raises(InputError, match="to compare"):
            measure(torch.zeros(1, 3, 2, 16, 16), torch.zeros(1, 3, 3, 16, 16))
    with pytest.raises(InputError, match="at least 11"):
        ssim(torch.zeros(1, 3, 2, 8, 8), torch.zeros(1, 3, 2, 8, 8))


def test_scattered_frames_are_different_ones_from_anywhere_and_decided_by_the_seed():
    clip = ClipSpec(num_frames=6, size=8, window="scattered")
    found = [clip.frame_indices(100, seed) for seed in range(50)]
    assert all((np.diff(frames) > 0).all() and frames[0] >= 0 and frames[-1] < 100 for frames in found)
    assert {int(frame) for frames in found for frame in frames} > set(range(10, 90, 20))
    assert np.array_equal(found[3], clip.frame_indices(100, 3)) and not np.array_equal(found[3], found[4])
    assert clip.frame_indices(6, 0).tolist() == [0, 1, 2, 3, 4, 5]
