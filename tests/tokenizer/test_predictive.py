"""Drop schedules, padding strategies, the forward pass that uses them, and random reverse."""

import dataclasses

import pytest
import torch
from scipy.stats import chisquare

from runtime.errors import InputError
from tokenizer import PVVAE, PVVAEConfig
from tokenizer.config import PADDINGS
from tokenizer.predictive import (
    SCHEDULES,
    ConditionalPadding,
    GaussianPadding,
    InfillDrop,
    LearnablePadding,
    SuffixDrop,
    dropped_places,
    observed_places,
    pad_dropped,
    reverse_time,
    unused_parameters_term,
)

SMALL = PVVAEConfig(latent_channels=4, channels=(8, 8, 8), blocks=1, middle_blocks=1, patch=4)


def clip(frames: int, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 3, frames, 32, 32, generator=torch.Generator().manual_seed(frames)) * 2 - 1


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """All weights random, so that nothing is hidden by a zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * parameter[0].numel() ** -0.5)
    return module


# -- schedules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ratio", "largest"), [(1.0, 4), (0.75, 3), (0.5, 2), (0.1, 0), (0.0, 0)])
def test_dropped_groups_are_uniform_up_to_the_maximum_ratio(ratio, largest):
    counts = torch.bincount(
        torch.tensor([len(SuffixDrop(ratio).dropped(5, 7, step)) for step in range(4000)]), minlength=5
    )
    assert counts[largest + 1 :].sum() == 0
    expected = 4000 / (largest + 1)
    # Five standard deviations of a binomial count.
    assert all(abs(int(c) - expected) <= 5 * expected**0.5 for c in counts[: largest + 1])


def test_a_ratio_whose_product_is_rounded_down_loses_no_group():
    assert 100 * 0.29 < 29 == SuffixDrop(0.29).largest(101)


def test_the_number_dropped_is_a_function_of_seed_and_step():
    drop = SuffixDrop()
    draws = [len(drop.dropped(5, 1, step)) for step in range(50)]
    assert draws == [len(drop.dropped(5, 1, step)) for step in range(50)]
    assert draws != [len(drop.dropped(5, 2, step)) for step in range(50)]


def test_an_image_never_loses_its_only_group():
    assert {len(SuffixDrop().dropped(1, 0, step)) for step in range(20)} == {0}


def test_a_ratio_outside_the_unit_interval_is_refused():
    with pytest.raises(InputError, match="max_drop_ratio"):
        SuffixDrop(1.5)


@pytest.mark.parametrize("groups", [5, 9])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_k_and_the_place_of_the_gap_follow_their_law(schedule, ratio, groups):
    """Pearson's test of 4,000 draws: k uniform, and the first dropped group uniform given k."""
    drop, draws = SCHEDULES[schedule](ratio), 4000
    largest = int((groups - 1) * ratio)
    expected = {(): draws / (largest + 1)}
    for k in range(1, largest + 1):
        starts = [groups - k] if schedule == "suffix" else list(range(1, groups - k)) or [1]
        for start in starts:
            expected[tuple(range(start, start + k))] = draws / (largest + 1) / len(starts)
    counts = dict.fromkeys(expected, 0)
    for step in range(draws):
        counts[drop.dropped(groups, 11, step)] += 1  # a KeyError is a draw that the law forbids
    # 16 tests at 1e-4: one in six hundred seeds would fail.
    assert chisquare(list(counts.values()), list(expected.values())).pvalue > 1e-4


def test_both_schedules_draw_the_same_k_and_infill_keeps_a_group_on_each_side():
    suffix, infill = SuffixDrop(), InfillDrop()
    for step in range(200):
        hidden = infill.dropped(5, 3, step)
        assert len(hidden) == len(suffix.dropped(5, 3, step)) == len(infill.dropped(5, 3, step))
        assert 0 not in hidden and (4 not in hidden or len(hidden) == 4)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_places_are_a_function_of_seed_and_step_and_an_image_keeps_its_group(schedule):
    drop = SCHEDULES[schedule]()
    draws = [drop.dropped(9, 1, step) for step in range(50)]
    assert draws == [drop.dropped(9, 1, step) for step in range(50)] != [drop.dropped(9, 2, step) for step in range(50)]
    assert {drop.dropped(1, 0, step) for step in range(20)} == {()}


def test_places_of_the_dropped_and_of_the_observed_groups():
    assert dropped_places(2, 5) == (3, 4) and dropped_places([3, 1], 5) == (1, 3) and dropped_places(0, 1) == ()
    assert observed_places((1, 3), 5) == (0, 2, 4)
    for wrong in (5, -1, [0], [5], [2, 2]):
        with pytest.raises(InputError, match="dropped groups"):
            dropped_places(wrong, 5)


# -- paddings ---------------------------------------------------------------------------------------------------------


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


def test_gaussian_padding_is_standard_normal_noise_where_none_is_given():
    first, second = (GaussianPadding(8)(torch.zeros(1, 8, 1, 32, 32), [1]) for _ in range(2))
    # Six standard errors of a standard deviation of 8,192 values.
    assert abs(float(first.std()) - 1.0) < 0.05 and not torch.equal(first, second)


def test_padding_goes_into_the_gaps_and_the_observed_groups_stay_in_order():
    observed = torch.arange(1.0, 4.0).view(1, 1, 3, 1, 1)
    noise = torch.tensor([-1.0, -2.0]).view(1, 1, 2, 1, 1)

    def places(dropped):
        return pad_dropped(GaussianPadding(1), observed, dropped, noise).flatten().tolist()

    assert places([1, 2]) == [1, -1, -2, 2, 3]
    assert places([1, 3]) == [1, -1, 2, -2, 3]
    assert places([3, 4]) == places(2) == [1, 2, 3, -1, -2]


def test_conditional_padding_starts_as_the_learned_token():
    torch.manual_seed(0)
    padding = ConditionalPadding(3)
    padded = pad_dropped(padding, torch.randn(2, 3, 3, 4, 4), [1, 2])
    assert torch.equal(padded[:, :, 1:3], padding.token.expand(2, 3, 2, 4, 4))


def test_conditional_padding_by_hand():
    """One channel: token + sum_j f_j(d) (a_j z + b_j), with f = 1, e^-d, e^-d/2, e^-d/4, e^-d/8."""
    padding = randomised(ConditionalPadding(1)).double()
    observed = torch.tensor([5.0, -2.0, 3.0], dtype=torch.float64).view(1, 1, 3, 1, 1)
    padded = pad_dropped(padding, observed, [2, 3]).flatten()  # latents 5, -2, ?, ?, 3

    def term(projection, z, distance):
        factors = torch.exp(-distance / torch.tensor([float("inf"), 1, 2, 4, 8], dtype=torch.float64))
        return (factors * (projection.weight.flatten() * z + projection.bias)).sum()

    for place, since, until in ((2, 1, 2), (3, 2, 1)):
        expected = padding.token.flatten() + term(padding.before, -2.0, since) + term(padding.after, 3.0, until)
        assert float((padded[place] - expected).abs().detach()) < 1e-6  # the factors are float32


def test_conditional_padding_can_be_appended_to_a_stream_group_by_group():
    def equal(a, b):
        return torch.allclose(a, b, atol=1e-5)  # convolutions of other sizes sum in another order

    padding, observed = randomised(ConditionalPadding(3)), torch.randn(1, 3, 4, 2, 5)
    with torch.no_grad():
        three, one = (padding(observed, range(4, 4 + k)) for k in (3, 1))
        assert equal(three[:, :, :1], one)
        # Only the last observed group matters, and its place in the clip does not.
        assert equal(three, padding(observed[:, :, 3:], range(1, 4)))
        assert (three[:, :, 0] - three[:, :, 1]).abs().max() > 1e-2  # the distance does
        assert equal(padding(observed[..., 2:3], range(4, 7)), three[..., 2:3])  # cell by cell


def test_conditional_padding_of_a_gap_listens_to_both_sides_of_it_and_no_further():
    padding, observed = randomised(ConditionalPadding(3)), torch.randn(1, 3, 4, 2, 2)
    with torch.no_grad():
        before = padding(observed, [2, 3])  # observed: 0, 1, 4, 5
        for index, matters in enumerate([False, True, True, False]):
            changed = observed.clone()
            changed[:, :, index] += 1.0
            assert bool((padding(changed, [2, 3]) != before).any()) == matters


def test_conditional_padding_far_from_the_observed_group_tends_to_a_limit():
    padding, observed = randomised(ConditionalPadding(3)), torch.randn(1, 3, 1, 2, 2)
    with torch.no_grad():
        far = padding(observed, range(1, 500))
    assert torch.isfinite(far).all() and torch.allclose(far[:, :, 200], far[:, :, -1], atol=1e-6)


@pytest.mark.parametrize("dropped", [[4], [2], [1, 2, 3]])
def test_every_parameter_of_the_conditional_padding_learns_from_its_first_step(dropped):
    torch.manual_seed(0)
    padding, observed = ConditionalPadding(3), torch.randn(2, 3, 5 - len(dropped), 2, 2)
    pad_dropped(padding, observed, dropped).square().sum().backward()
    learns = {name: bool(p.grad.abs().sum() > 0) for name, p in padding.named_parameters()}
    assert all(learns.pop(name) for name in ("token", "before.weight", "before.bias"))
    assert set(learns.values()) == {4 not in dropped}  # `after`: zeros where nothing comes after, but there


# -- the forward pass -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", PADDINGS)
def test_infilling_encodes_both_sides_as_one_shorter_clip_and_puts_the_latents_back(padding):
    vae = randomised(PVVAE(dataclasses.replace(SMALL, padding=padding))).eval()
    video, noise, gaussian = clip(17), torch.randn(1, 4, 5, 2, 2), torch.randn(1, 4, 2, 2, 2)
    with torch.no_grad():
        output, posterior = vae(video, dropped=[2, 3], noise=noise, padding_noise=gaussian)
        shorter = vae.encode(torch.cat([video[:, :, :5], video[:, :, 13:]], dim=2))
        assert torch.equal(posterior.mean, shorter.mean) and posterior.mean.shape == (1, 4, 3, 2, 2)
        latents = shorter.sample(noise[:, :, [0, 1, 4]])
        between = vae.padding(latents, [2, 3], gaussian)
        assert torch.equal(output, vae.decode(torch.cat([latents[:, :, :2], between, latents[:, :, 2:]], dim=2)))
        changed = video.clone()
        changed[:, :, 5:13] = 0.0
        assert torch.equal(output, vae(changed, dropped=[2, 3], noise=noise, padding_noise=gaussian)[0])


def test_naming_the_last_groups_is_the_same_as_counting_them():
    vae, video, noise = randomised(PVVAE(SMALL)).eval(), clip(17), torch.randn(1, 4, 5, 2, 2)
    assert torch.equal(vae(video, dropped=2, noise=noise)[0], vae(video, dropped=[3, 4], noise=noise)[0])
    assert torch.equal(vae.predict(video[:, :, :9], 2), vae.predict(video[:, :, :9], [3, 4]))


def test_predict_fills_a_gap_like_the_trained_pass():
    vae, video = randomised(PVVAE(SMALL)).eval(), clip(17)
    expected, _ = vae(video, dropped=[1, 3], noise=torch.zeros(1, 4, 5, 2, 2))
    observed = torch.cat([video[:, :, :1], video[:, :, 5:9], video[:, :, 13:]], dim=2)
    assert torch.equal(vae.predict(observed, [1, 3]), expected)


def test_groups_that_may_not_be_dropped_are_refused():
    vae = PVVAE(SMALL)
    for call, message in (
        (lambda: vae(clip(9), dropped=[0]), "different ones of 1 … 2"),
        (lambda: vae(clip(9), dropped=[3]), "different ones of 1 … 2"),
        (lambda: vae(clip(9), dropped=3), r"must lie in \[0, 2\]"),
        (lambda: vae.predict(clip(9), [5]), "different ones of 1 … 3"),
    ):
        with pytest.raises(InputError, match=message):
            call()


# -- many processes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("frames", "dropped"), [(1, []), (5, []), (5, [1]), (17, []), (17, [2]), (17, [3, 4])])
@pytest.mark.parametrize("padding", PADDINGS)
def test_every_parameter_gets_a_gradient_whatever_is_dropped_and_from_images(padding, frames, dropped):
    vae = PVVAE(dataclasses.replace(SMALL, padding=padding)).train()
    output, posterior = vae(clip(frames), dropped=dropped)
    (output.square().mean() + posterior.kl().mean()).backward()
    assert [name for name, parameter in vae.named_parameters() if parameter.grad is None] == []
    if not dropped:
        assert all(float(parameter.grad.abs().sum()) == 0.0 for parameter in vae.padding.parameters())


def test_the_term_of_unused_parameters_changes_no_value_and_wakes_no_frozen_parameter():
    vae, video, noise = randomised(PVVAE(SMALL)), clip(5), torch.zeros(1, 4, 2, 2, 2)
    assert torch.equal(vae.train()(video, noise=noise)[0], vae.eval()(video, noise=noise)[0])
    vae.padding.requires_grad_(False)
    vae.train()(video, noise=noise)[0].sum().backward()
    assert vae.padding.token.grad is None and unused_parameters_term(vae.padding) == 0.0


@pytest.mark.parametrize("padding", ["learnable", "conditional"])
def test_distributed_data_parallel_takes_any_mixture_of_steps(padding):
    """In a group of one; a parameter without a gradient makes the next forward pass raise all the same."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        vae = torch.nn.parallel.DistributedDataParallel(PVVAE(dataclasses.replace(SMALL, padding=padding)).train())
        for frames, dropped in ((17, []), (1, []), (17, [2]), (5, []), (5, [1])):
            output, posterior = vae(clip(frames), dropped=dropped)
            (output.square().mean() + posterior.kl().mean()).backward()
    finally:
        torch.distributed.destroy_process_group()


# -- augmentation -----------------------------------------------------------------------------------------------------


def test_reverse_plays_about_half_of_the_clips_backwards_by_row():
    video = torch.arange(5.0).view(1, 1, 5, 1, 1).expand(400, 3, 5, 1, 1)
    rows = list(range(400))
    out = reverse_time(video, 0, 3, rows, 0.5)
    flipped = out[:, 0, 0, 0, 0] == 4
    assert torch.equal(out[flipped], video[flipped].flip(2)) and torch.equal(out[~flipped], video[~flipped])
    assert 150 < int(flipped.sum()) < 250
    part = reverse_time(video[100:200], 0, 3, rows[100:200], 0.5)
    assert torch.equal(part, out[100:200])
    for seed, step in ((0, 4), (1, 3)):
        assert not torch.equal(reverse_time(video, seed, step, rows, 0.5), out)


def test_reverse_leaves_images_and_probability_zero_alone():
    video = torch.randn(2, 3, 1, 4, 4)
    assert reverse_time(video, 0, 0, [0, 1], 1.0) is video
    clip = torch.randn(2, 3, 5, 4, 4)
    assert reverse_time(clip, 0, 0, [0, 1], 0.0) is clip
