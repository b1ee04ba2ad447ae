"""Videos of any size: padded until they fit, and cropped back."""

import pytest
import torch

from runtime.errors import InputError
from tokenizer import PVVAE, PVVAEConfig, TokenizerSpec
from tokenizer.spec import SteppedSpec, crop_to

SPEC = TokenizerSpec(name="any", temporal=4, spatial=8, channels=4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("size", "padded"),
    [((1, 8, 8), (1, 8, 8)), ((2, 8, 9), (5, 8, 16)), ((5, 3, 16), (5, 8, 16)), ((6, 15, 17), (9, 16, 24))],
)
def test_padding_makes_any_video_fit_and_cropping_undoes_it(size, padded, dtype):
    video = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)).to(dtype)
    larger, found = SPEC.pad_to_valid(video)
    assert tuple(larger.shape) == (2, 3, *padded) and found == size and larger.dtype == dtype
    SPEC.latent_shape(*padded)
    assert torch.equal(crop_to(larger, found), video)
    for axis, length in zip((2, 3, 4), size, strict=True):
        edge = larger.narrow(axis, length - 1, 1)
        rest = larger.narrow(axis, length, larger.shape[axis] - length)
        assert torch.equal(rest, edge.expand_as(rest))


def test_a_video_that_fits_is_left_alone():
    video = torch.zeros(1, 3, 5, 8, 16)
    assert SPEC.pad_to_valid(video)[0] is video


def test_every_size_goes_through_a_tokenizer():
    torch.manual_seed(0)
    vae = PVVAE(PVVAEConfig(architecture="transformer", latent_channels=4, patch=8, width=12, depth=1, heads=2))
    video, size = vae.spec.pad_to_valid(torch.rand(1, 3, 7, 19, 9) * 2 - 1)
    assert crop_to(vae.decode(vae.encode(video).mean), size).shape == (1, 3, 7, 19, 9)


def test_cropping_to_more_than_there_is_is_refused():
    with pytest.raises(InputError, match="cannot be cropped"):
        crop_to(torch.zeros(1, 3, 5, 8, 8), (5, 8, 9))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 255.0, 64.0])
def test_videos_that_are_not_finite_or_of_another_range_are_refused_outside_of_training(value):
    config = PVVAEConfig(latent_channels=4, channels=(8, 8, 8), blocks=1, middle_blocks=1, patch=4, norm="layer")
    vae = PVVAE(config).eval()
    video = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    assert vae.encode(video * 1.5).mean.isfinite().all()  # an unclamped reconstruction may be encoded again
    video[0, 1, 3, 7, 5] = value
    with pytest.raises(InputError, match=r"finite and in \[-1, 1\], got values from"):
        vae.encode(video)
    with pytest.raises(InputError, match="finite"):
        vae.predict(video, 1)
    vae.train().encode(video)  # waits for no device; the loss tells


def test_clips_of_a_longer_step_are_counted_and_padded_in_steps():
    spec = SteppedSpec(name="pairs", temporal=4, spatial=8, channels=4, frame_step=8)
    assert [spec.groups(frames) for frames in (1, 9, 17)] == [1, 3, 5] and spec.step == 8 and SPEC.step == 4
    with pytest.raises(InputError, match=r"13 frames do not fit pairs: it takes 1 \+ 8k frames; .* 9 and 17$"):
        spec.groups(13)
    assert spec.pad_to_valid(torch.zeros(1, 3, 5, 8, 8))[0].shape[2] == 9
    assert SteppedSpec(**spec.to_dict()) == spec


def test_a_spec_without_a_step_is_written_as_it_always_was():
    written = {"name": "any", "temporal": 4, "spatial": 8, "channels": 4}
    assert SPEC.to_dict() == written and TokenizerSpec(**written) == SPEC
