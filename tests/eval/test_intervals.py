"""Intervals against simulation: how often do they cover what they say they cover?"""

from functools import partial

import numpy as np
import pytest
import torch

from eval import (
    compare_at_infinity,
    compare_paired,
    estimate,
    frechet_at_infinity,
    frechet_distance,
    inception_score,
    kernel_distance,
)
from eval.metrics.frechet import NO_ROWS
from eval.metrics.jackknife import blocks_of, deal, left_out
from runtime.errors import InputError


def coverage(found, truth: float) -> float:
    return np.mean([one.low <= truth <= one.high for one in found])


def gaussians(random, count: int, dim: int, apart: float):
    """Two sets; the second has standard deviation 1 + apart and mean apart: distance 2 apart² a feature."""
    return random.standard_normal((count, dim)), random.standard_normal((count, dim)) * (1 + apart) + apart


class TestCoverage:
    """Nominal 95 %. 300 draws leave ±2.5 points of chance (two standard errors)."""

    @pytest.mark.parametrize(("apart", "least", "most"), [(0.0, 0.93, 1.0), (0.5, 0.90, 0.98)])
    def test_of_the_frechet_distance_at_this_number_of_clips_and_at_infinity(self, apart, least, most):
        random, clips, dim = np.random.default_rng(3), 60, 6
        here, at_infinity = [], []
        for _ in range(300):
            a, b = gaussians(random, clips, dim, apart)
            here.append(estimate(frechet_distance, a, b, rounds=2))
            at_infinity.append(frechet_at_infinity(a, b, rounds=2))
        expectation = np.mean([frechet_distance(*gaussians(random, clips, dim, apart)) for _ in range(2000)])
        truth = 2 * dim * apart**2
        assert least <= coverage(here, expectation) <= most
        assert least <= coverage(at_infinity, truth) <= most
        bias = np.mean([one.value for one in at_infinity]) - truth
        assert abs(bias) < 0.1 * (expectation - truth)  # nine tenths of the bias are gone

    def test_at_2048_clips_of_400_features_the_truth_is_far_below_and_within_the_interval_at_infinity(self):
        a, b = gaussians(np.random.default_rng(0), 2048, 400, apart=0.05)
        truth = 2 * 400 * 0.05**2
        here, beyond = estimate(frechet_distance, a, b, rounds=1), frechet_at_infinity(a, b, rounds=1)
        assert here.low > 10 * truth
        assert beyond.low <= truth <= beyond.high

    @pytest.mark.parametrize(("scale", "least", "most"), [(1.0, 0.93, 1.0), (1.5, 0.90, 0.98)])
    def test_of_the_kernel_distance(self, scale, least, most):
        random, clips, dim = np.random.default_rng(4), 60, 6
        found = [
            estimate(
                kernel_distance, random.standard_normal((clips, dim)), scale * random.standard_normal((clips, dim))
            )
            for _ in range(300)
        ]
        truth = 3 / dim * (1 - scale**2) ** 2  # of zero-mean isotropic Gaussians
        assert least <= coverage(found, truth) <= most

    @pytest.mark.parametrize(
        ("correlation", "least", "most"), [(0.0, 0.90, 0.98), (0.3, 0.75, 0.85), (0.6, 0.63, 0.73)]
    )
    def test_of_clips_that_were_cut_from_one_recording_is_too_small_for_new_ones(self, correlation, least, most):
        """A negative result that docs/evaluation.md states: 6 classes of 2 recordings of 5 clips."""
        random, labels = np.random.default_rng(6), np.repeat(np.arange(6), 10)
        found = []
        for _ in range(400):
            recordings = np.repeat(random.standard_normal(12), 5) * correlation**0.5
            clips = recordings + random.standard_normal(60) * (1 - correlation) ** 0.5
            found.append(estimate(np.mean, clips, labels=labels, rounds=1))
        assert least <= coverage(found, 0.0) <= most

    def test_of_the_inception_score(self):
        random = np.random.default_rng(5)

        def draw():
            p = np.exp(3 * random.standard_normal((80, 8)))
            return p / p.sum(1, keepdims=True)

        expectation = np.mean([inception_score(draw()) for _ in range(3000)])
        assert 0.90 <= coverage([estimate(inception_score, draw()) for _ in range(300)], expectation) <= 0.98

    def test_of_a_paired_distance_and_of_the_difference_of_two(self):
        random, found, differences = np.random.default_rng(6), [], []
        for _ in range(250):
            a = random.standard_normal((60, 5))
            noise = random.standard_normal((60, 5))
            found.append(estimate(frechet_distance, a, a + 0.5 * noise, paired=True, rounds=2))
            differences.append(compare_paired(frechet_distance, a, a + 0.5 * noise, a, a + 0.7 * noise, rounds=2))
        sets = [
            (x, x + np.multiply.outer((0.5, 0.7), random.standard_normal((60, 5))))
            for x in random.standard_normal((2000, 60, 5))
        ]
        expected = np.array([[frechet_distance(a, b) for b in bs] for a, bs in sets]).mean(0)
        assert 0.90 <= coverage(found, expected[0]) <= 0.99
        assert 0.90 <= coverage(differences, expected[0] - expected[1]) <= 0.99

    def test_of_any_other_metric(self):
        random = np.random.default_rng(1)
        found = [
            estimate(
                lambda x, y: float(np.square(x.mean(0) - y.mean(0)).sum()),
                random.standard_normal((60, 3)),
                random.standard_normal((60, 3)) + 1.0,
                rounds=2,
            )
            for _ in range(400)
        ]
        assert 0.90 <= coverage(found, 3 + 6 / 60) <= 0.98  # the expectation at this sample size, bias included


class TestLeftOut:
    """The short cuts are the metrics themselves."""

    @pytest.mark.parametrize("metric", [frechet_distance, kernel_distance])
    @pytest.mark.parametrize(("n", "m", "d"), [(100, 120, 20), (30, 40, 60), (30, 200, 60), (200, 24, 20)])
    def test_of_two_sets_equals_computing_without_the_rows(self, random, metric, n, m, d):
        a, b = random.standard_normal((n, d)) + 5, 1.2 * random.standard_normal((m, d)) + 5
        rows_a, rows_b = random.permutation(n)[: n // 10], random.permutation(m)[: m // 10]
        without = left_out(metric, a, b)
        for out_a, out_b in ((rows_a, NO_ROWS), (NO_ROWS, rows_b), (rows_a, rows_b), (NO_ROWS, NO_ROWS)):
            expected = metric(np.delete(a, out_a, 0), np.delete(b, out_b, 0))
            assert without(out_a, out_b) == pytest.approx(expected, rel=1e-9)

    def test_of_probabilities_equals_computing_without_the_rows(self, random):
        p = np.eye(6)[random.integers(6, size=50)] * 0.5 + random.dirichlet(np.ones(6), 50) * 0.5
        p[3] = np.eye(6)[0]
        rows = random.permutation(50)[:7]
        assert left_out(inception_score, p, None)(rows, NO_ROWS) == pytest.approx(
            inception_score(np.delete(p, rows, 0)), rel=1e-12
        )

    def test_gives_the_interval_of_the_long_way(self, random):
        a, b = gaussians(random, 80, 6, 0.2)
        short = estimate(frechet_distance, a, b)
        long = estimate(lambda x, y: frechet_distance(x, y), a, b)
        assert (short.value, short.method) == (long.value, long.method)
        assert (short.low, short.high) == pytest.approx((long.low, long.high), rel=1e-9)


class TestDeal:
    """Which clips leave together."""

    def test_every_clip_leaves_once_a_round_in_blocks_of_a_tenth(self):
        rounds = deal(205, rounds=3, seed=1)
        assert len(rounds) == 3 and not np.array_equal(rounds[0][0], rounds[1][0])
        for blocks in rounds:
            assert sorted(len(block) for block in blocks) == [20] * 5 + [21] * 5
            assert sorted(np.concatenate(blocks)) == list(range(205))
        assert all(np.array_equal(x, y) for x, y in zip(rounds[2], deal(205, rounds=3, seed=1)[2], strict=True))

    def test_labels_give_every_block_its_share_of_every_class(self):
        labels = np.arange(240) % 12  # cycling labels, and ten blocks: dealing in turn would part even from odd
        for blocks in deal(240, labels):
            counts = np.array([np.bincount(labels[block], minlength=12) for block in blocks])
            assert (counts == 2).all()

    def test_classes_of_fewer_than_ten_clips_make_as_many_blocks_as_hold_all_classes_alike(self):
        labels = np.arange(505) % 101
        dealt = deal(505, labels)
        assert len(dealt) == 8 and not np.array_equal(dealt[0][0], dealt[1][0])
        for blocks in dealt:
            assert sorted(np.concatenate(blocks)) == list(range(505))
            assert all((np.bincount(labels[block], minlength=101) == 1).all() for block in blocks)
        assert estimate(np.mean, np.arange(505.0), labels=labels).method.endswith("5 blocks dealt 8 times")

    def test_what_is_over_of_a_class_stays_in_for_a_round_and_leaves_in_another(self):
        labels = np.repeat(np.arange(60), [2, 3] * 30)
        dealt = deal(150, labels, rounds=4)
        assert blocks_of(150, labels) == 2 and len(dealt) == 20
        for blocks in dealt:
            assert all((np.bincount(labels[block], minlength=60) == 1).all() for block in blocks)
        assert len(np.unique(np.concatenate([np.concatenate(blocks) for blocks in dealt]))) == 150

    @pytest.mark.parametrize(("count", "classes"), [(2048, 101), (240, 12), (3000, 101), (505, None)])
    def test_large_classes_and_none_are_dealt_in_turn_into_tenths(self, count, classes):
        labels = np.arange(count) % classes if classes else None
        random = np.random.default_rng(7)
        for blocks in deal(count, labels, seed=7):
            order = random.permutation(count)
            if classes:
                order = order[np.argsort(labels[order], kind="stable")]
            assert all(np.array_equal(block, order[start::10]) for start, block in enumerate(blocks))

    def test_classes_of_one_clip_are_dealt_as_without_labels(self):
        with_labels, without = deal(50, np.arange(50)), deal(50)
        assert all(
            np.array_equal(x, y) for p, q in zip(with_labels, without, strict=True) for x, y in zip(p, q, strict=True)
        )

    @pytest.mark.parametrize(("count", "classes"), [(512, 101), (256, 101), (512, 400), (330, 30), (450, 30)])
    def test_intervals_of_small_classes_are_as_wide_as_the_mean_scatters(self, count, classes):
        random = np.random.default_rng(11)
        labels = random.permutation(np.arange(count) % classes)
        means, found = 2.0 * random.standard_normal(classes), []
        for _ in range(200):
            found.append(estimate(np.mean, means[labels] + random.standard_normal(count), labels=labels))
        wide = np.mean([one.high - one.low for one in found]) / (2 * 1.96 / np.sqrt(count))
        assert 0.95 < wide < 1.15  # a lone block of a class more, and it is 1.3 to 2.7
        assert 0.90 <= coverage(found, means[labels].mean()) <= 0.985

    def test_stratified_clips_have_the_narrower_interval_that_they_earn(self):
        random, labels = np.random.default_rng(2), np.repeat(np.arange(5), 40)
        found = [estimate(np.mean, 10.0 * labels + random.standard_normal(200), labels=labels) for _ in range(200)]
        assert 0.90 <= coverage(found, 20.0) <= 0.99
        assert np.mean([one.high - one.low for one in found]) < 0.4
        free = estimate(np.mean, 10.0 * labels + random.standard_normal(200))
        assert free.high - free.low > 2.0  # as if the classes had been drawn too


class TestEstimate:
    """Values, pairing and refusals."""

    def test_of_a_mean_is_the_classical_interval(self, random):
        values = random.standard_normal(1000)
        found = estimate(np.mean, torch.from_numpy(values))
        classical = 1.96 * values.std(ddof=1) / np.sqrt(1000)
        assert found.value == pytest.approx(values.mean()) and found.n == 1000
        # forty left-out tenths leave the width itself uncertain by about an eighth
        assert 0.6 < (found.high - found.value) / classical < 1.5

    def test_pairing_uses_that_the_sets_move_together(self, random):
        a = random.standard_normal(500)
        b = a + 0.01 * random.standard_normal(500)
        difference = lambda x, y: x.mean() - y.mean()  # noqa: E731
        paired, free = estimate(difference, a, b, paired=True), estimate(difference, a, b)
        assert paired.high - paired.low < 0.1 * (free.high - free.low)

    def test_too_few_clips_give_no_interval_and_fewer_an_error(self):
        assert np.isinf(estimate(np.mean, np.arange(2.0)).high)
        assert np.isfinite(estimate(np.mean, np.arange(3.0)).high)
        with pytest.raises(InputError, match="at least 2"):
            estimate(np.mean, np.zeros(1))

    def test_sets_and_labels_that_do_not_fit_are_refused(self):
        with pytest.raises(InputError, match="same number"):
            estimate(lambda x, y: 0.0, np.zeros(5), np.zeros(6), paired=True)
        with pytest.raises(InputError, match="one for each of 5 clips"):
            estimate(np.mean, np.zeros(5), labels=[0, 1])


class TestComparePaired:
    """Two tokenizers on the same clips."""

    def test_sees_a_difference_that_separate_intervals_hide(self, random):
        real = random.standard_normal((800, 4)) * 3
        noise = random.standard_normal((800, 4))
        worse, better = real + 0.6 * noise, real + 0.5 * noise
        apart = compare_paired(frechet_distance, worse, real, better, real)
        one, other = (estimate(frechet_distance, x, real, paired=True) for x in (worse, better))
        assert one.low < other.high and apart.low > 0
        assert apart.value == pytest.approx(one.value - other.value)
        swapped = compare_paired(frechet_distance, better, real, worse, real)
        assert (swapped.low, swapped.high) == pytest.approx((-apart.high, -apart.low))

    def test_of_a_set_with_itself_is_exactly_nothing(self, random):
        a, b = gaussians(random, 50, 4, 0.3)
        found = compare_paired(kernel_distance, a, b, a, b, paired=False)
        assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)

    def test_generated_against_one_reference_need_not_have_its_size(self, random):
        a, b = gaussians(random, 50, 4, 0.3)
        found = compare_paired(frechet_distance, 3 * a, b[:40], a, b[:40], paired=False)
        assert found.low > 0 and found.n == 50
        with pytest.raises(InputError, match="same number of clips"):
            compare_paired(frechet_distance, a, b[:40], a, b[:40])

    def test_other_clips_on_the_other_side_are_refused(self):
        with pytest.raises(InputError, match="same clips on both sides, got 5 and 4"):
            compare_paired(frechet_distance, np.eye(5), np.eye(5), np.eye(5)[:4], np.eye(5))


class TestInfinity:
    """frechet_at_infinity."""

    def test_contains_the_truth_where_the_distance_itself_never_does(self):
        truth, inside = 2 * 40 * 0.1**2, 0
        for seed in range(12):
            a, b = gaussians(np.random.default_rng(seed), 205, 40, 0.1)  # the ratio of 2,048 clips to 400 features
            here, at_infinity = (f(a, b, rounds=1) for f in (partial(estimate, frechet_distance), frechet_at_infinity))
            assert here.low > 4 * truth
            inside += at_infinity.low <= truth <= at_infinity.high
        assert inside >= 11
        assert "1/N" in at_infinity.method

    def test_of_heavy_tails_takes_off_most_of_the_bias_and_not_all(self):
        # Clips of one spread each, t with five degrees of freedom: the fourth moments that the bias is made of are
        # themselves hardly known from 205 clips.
        here, beyond = [], []
        for seed in range(12):
            random = np.random.default_rng(seed)
            a, b = (random.standard_normal((205, 40)) / np.sqrt(random.chisquare(5, (205, 1)) / 3) for _ in range(2))
            here.append(frechet_distance(a, b))
            beyond.append(frechet_at_infinity(a, b, rounds=1))
        left = np.mean([one.value for one in beyond]) / np.mean(here)
        assert 0.05 < left < 0.25
        assert all(0.0 < one.high - one.low < 3 * bias for one, bias in zip(beyond, here, strict=True))

    def test_takes_sets_whose_classes_are_dealt_into_unequal_numbers_of_blocks(self):
        a, b = gaussians(np.random.default_rng(12), 300, 8, 0.0)
        found = frechet_at_infinity(a[:240], b[:120], labels=np.arange(240) % 20, labels_b=np.arange(120) % 30)
        assert found.low <= 0 <= found.high and "4 blocks dealt 10 times" in found.method
        alone = frechet_at_infinity(a, b, labels=np.arange(300), labels_b=np.arange(300))
        assert alone.value == frechet_at_infinity(a, b).value  # classes of one clip count for nothing

    def test_of_sets_drawn_by_class_takes_off_the_bias_of_such_sets(self):
        random, found = np.random.default_rng(13), []
        for _ in range(12):
            centres, labels = 3.0 * random.standard_normal((20, 20)), np.arange(100) % 20
            other = random.permutation(labels)
            a, b = (centres[rows] + random.standard_normal((100, 20)) for rows in (labels, other))
            found.append(
                (
                    frechet_distance(a, b),
                    *(
                        frechet_at_infinity(a, b, labels=x, labels_b=y, rounds=1).value
                        for x, y in ((labels, other), (None, None))
                    ),
                )
            )
        here, by_class, free = np.mean(found, 0)
        assert abs(by_class) < 0.1 * here and free < -here  # free shuffles take off a bias that the sets do not have

    def test_agrees_between_numbers_of_clips_where_the_distance_does_not(self):
        a, b = gaussians(np.random.default_rng(9), 1200, 10, 0.3)
        few, many = (frechet_at_infinity(a[:n], b[:n]).value for n in (100, 1200))
        assert frechet_distance(a[:100], b[:100]) - frechet_distance(a, b) > 0.5
        assert abs(few - many) < 0.5

    def test_sets_of_unequal_size_and_paired_ones(self):
        a, b = gaussians(np.random.default_rng(10), 400, 8, 0.0)
        unequal = frechet_at_infinity(a, b[:150])
        assert unequal.low <= 0 <= unequal.high
        paired = frechet_at_infinity(a, a + 0.1 * b, paired=True)
        assert paired.high - paired.low < 0.2 * (unequal.high - unequal.low)

    def test_fewer_than_two_clips_a_feature_are_refused(self):
        with pytest.raises(InputError, match="at least 80 clips in each set, got 79"):
            frechet_at_infinity(np.zeros((79, 40)), np.zeros((100, 40)))
        with pytest.raises(InputError, match="same number"):
            frechet_at_infinity(np.zeros((90, 4)), np.zeros((100, 4)), paired=True)


class TestCompareAtInfinity:
    """compare_at_infinity."""

    def test_has_the_right_sign_where_the_paired_interval_excludes_zero_on_the_wrong_side(self):
        clips, dim, less, shift = 100, 40, 0.12, 0.2
        truth = dim * less**2 - shift**2  # 0.536: the second is better
        wrong, right, covered = 0, 0, 0
        for seed in range(12):
            random = np.random.default_rng(seed)
            same, real = random.standard_normal((2, clips, dim))
            narrow, moved = (1 - less) * same, same + shift * np.eye(dim)[0]
            here = compare_paired(frechet_distance, narrow, real, moved, real, paired=False, rounds=1)
            beyond = compare_at_infinity(narrow, real, moved, real, rounds=1)
            wrong += here.high < 0
            right += beyond.low > 0
            covered += beyond.low <= truth <= beyond.high
            assert beyond.value > 0
        assert wrong >= 11 and right >= 8 and covered >= 11
        assert "1/N" in beyond.method and beyond.n == clips

    def test_is_the_difference_of_two_extrapolations_and_nothing_between_a_set_and_itself(self):
        a, b = gaussians(np.random.default_rng(14), 120, 6, 0.3)
        labels = np.arange(120) % 12
        for classes in ({}, {"labels": labels, "labels_b": labels}):
            found = compare_at_infinity(2 * a, b, a, b, **classes)
            sides = [frechet_at_infinity(x, b, **classes) for x in (2 * a, a)]
            assert found.value == pytest.approx(sides[0].value - sides[1].value)
            assert found.high - found.low < sum(side.high - side.low for side in sides)
            nothing = compare_at_infinity(a, b, a, b, **classes)
            assert (nothing.value, nothing.low, nothing.high) == (0.0, 0.0, 0.0)

    def test_other_clips_and_too_few_are_refused(self):
        with pytest.raises(InputError, match="same clips on both sides, got 90 and 89"):
            compare_at_infinity(np.zeros((90, 4)), np.zeros((90, 4)), np.zeros((89, 4)), np.zeros((90, 4)))
        with pytest.raises(InputError, match="at least 80 clips in each set, got 79"):
            compare_at_infinity(*[np.zeros((79, 40))] * 4)


def test_tensors_of_half_the_precision_are_taken_by_all_alike():
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randn(40, 4, generator=random).to(torch.bfloat16) for _ in range(2))
    labels = torch.arange(40) % 2
    found = estimate(frechet_distance, a, b, labels=labels)
    assert found == estimate(frechet_distance, a.float().numpy(), b.float().numpy(), labels=labels.numpy())
    assert found.value == frechet_distance(a, b)
