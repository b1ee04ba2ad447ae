"""Drop schedule, padding and random reverse."""

import pytest
import torch

from runtime.errors import InputError
from tokenizer.predictive import GaussianPadding, LearnablePadding, SuffixDrop, pad_dropped, reverse_time


@pytest.mark.parametrize(("ratio", "largest"), [(1.0, 4), (0.75, 3), (0.5, 2), (0.1, 0), (0.0, 0)])
def test_dropped_groups_are_uniform_up_to_the_maximum_ratio(ratio, largest):
    counts = torch.bincount(
        torch.tensor([SuffixDrop(ratio).num_dropped(5, 7, step) for step in range(4000)]), minlength=5
    )
    assert counts[largest + 1 :].sum() == 0
    expected = 4000 / (largest + 1)
    # Five standard deviations of a binomial count.
    assert all(abs(int(c) - expected) <= 5 * expected**0.5 for c in counts[: largest + 1])


def test_the_number_dropped_is_a_function_of_seed_and_step():
    drop = SuffixDrop()
    draws = [drop.num_dropped(5, 1, step) for step in range(50)]
    assert draws == [drop.num_dropped(5, 1, step) for step in range(50)]
    assert draws != [drop.num_dropped(5, 2, step) for step in range(50)]


def test_an_image_never_loses_its_only_group():
    assert {SuffixDrop().num_dropped(1, 0, step) for step in range(20)} == {0}


def test_a_ratio_outside_the_unit_interval_is_refused():
    with pytest.raises(InputError, match="max_drop_ratio"):
        SuffixDrop(1.5)


def test_learnable_padding_is_one_token_everywhere_and_learns():
    padding = LearnablePadding(3)
    padded = pad_dropped(padding, torch.zeros(2, 3, 1, 4, 4), 2)
    assert padded.shape == (2, 3, 3, 4, 4)
    assert torch.equal(padded[:, :, 1:], padding.token.expand(2, 3, 2, 4, 4))
    padded.sum().backward()
    assert torch.allclose(padding.token.grad, torch.full((1, 3, 1, 1, 1), 64.0))  # 2 clips x 2 groups x 16 cells


def test_gaussian_padding_uses_the_noise_it_is_given():
    noise = torch.randn(2, 3, 2, 4, 4)
    padded = pad_dropped(GaussianPadding(3), torch.zeros(2, 3, 1, 4, 4), 2, noise)
    assert torch.equal(padded[:, :, 1:], noise)


def test_reverse_plays_about_half_of_the_clips_backwards_by_row():
    video = torch.arange(5.0).view(1, 1, 5, 1, 1).expand(400, 3, 5, 1, 1)
    rows = list(range(400))
    out = reverse_time(video, 0, 3, rows, 0.5)
    flipped = out[:, 0, 0, 0, 0] == 4
    assert torch.equal(out[flipped], video[flipped].flip(2)) and torch.equal(out[~flipped], video[~flipped])
    assert 150 < int(flipped.sum()) < 250
    part = reverse_time(video[100:200], 0, 3, rows[100:200], 0.5)
    assert torch.equal(part, out[100:200])


def test_reverse_leaves_images_and_probability_zero_alone():
    video = torch.randn(2, 3, 1, 4, 4)
    assert reverse_time(video, 0, 0, [0, 1], 1.0) is video
    clip = torch.randn(2, 3, 5, 4, 4)
    assert reverse_time(clip, 0, 0, [0, 1], 0.0) is clip
