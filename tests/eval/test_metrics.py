"""Set metrics, flow and tracks against closed forms and independent implementations."""

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.metrics.pairwise import polynomial_kernel
from threadpoolctl import threadpool_info, threadpool_limits

from eval import (
    endpoint_error,
    frechet_distance,
    inception_score,
    kernel_distance,
    tracking_auc,
)
from eval.metrics import frechet, kernel
from eval.metrics.frechet import Gaussian
from eval.metrics.jackknife import left_out
from runtime.errors import InputError


def exact_moments(count: int, mean: np.ndarray, covariance: np.ndarray, seed: int = 0) -> np.ndarray:
    """Samples whose sample mean and covariance (N - 1) are exactly the given ones."""
    raw = np.random.default_rng(seed).standard_normal((count, len(mean)))
    raw -= raw.mean(0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw.T))).T
    return white @ np.linalg.cholesky(covariance).T + mean


class TestFrechet:
    """frechet_distance."""

    def test_equals_the_closed_form_of_commuting_gaussians(self):
        variances = np.arange(1.0, 6.0)
        a = exact_moments(50, np.zeros(5), np.diag(variances))
        b = exact_moments(80, 0.1 * np.arange(5), np.diag(2 * variances), seed=1)
        expected = 0.01 * np.sum(np.arange(5) ** 2) + np.sum((np.sqrt(2 * variances) - np.sqrt(variances)) ** 2)
        assert frechet_distance(a, b) == pytest.approx(expected, abs=1e-10)
        assert expected == pytest.approx(2.8735931288071486, abs=1e-12)

    def test_equals_the_closed_form_of_covariances_that_do_not_commute(self):
        first, second = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([[3.0, -0.5], [-0.5, 1.0]])
        a, b = exact_moments(40, np.zeros(2), first), exact_moments(40, np.ones(2), second, seed=1)
        product = first @ second
        root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
        assert frechet_distance(a, b) == pytest.approx(2 + np.trace(first) + np.trace(second) - 2 * root, abs=1e-10)

    @pytest.mark.parametrize(("n", "m", "d"), [(200, 300, 20), (30, 25, 60), (15, 200, 60)])
    def test_agrees_with_the_matrix_root_of_scipy_also_with_fewer_clips_than_features(self, random, n, m, d):
        a, b = random.standard_normal((n, d)), 1.3 * random.standard_normal((m, d)) + 0.2
        root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T))
        shift = a.mean(0) - b.mean(0)
        expected = shift @ shift + np.trace(np.cov(a.T)) + np.trace(np.cov(b.T)) - 2 * np.trace(root).real
        # scipy's root of a singular matrix is the looser of the two
        assert frechet_distance(a, b) == pytest.approx(expected, abs=1e-6 if min(n, m) > d else 1e-3)

    def test_divides_by_n_where_a_protocol_does(self, random):
        a, b = random.standard_normal((30, 4)), 2 * random.standard_normal((20, 4))
        first, second = np.cov(a.T, ddof=0), np.cov(b.T, ddof=0)
        shift = a.mean(0) - b.mean(0)
        expected = shift @ shift + np.trace(first + second - 2 * scipy.linalg.sqrtm(first @ second).real)
        assert frechet_distance(a, b, ddof=0) == pytest.approx(expected, abs=1e-9)

    def test_agrees_with_torch_fidelity(self, random):
        from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

        a, b = random.standard_normal((100, 12)), random.standard_normal((120, 12)) + 0.3
        statistics = [fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)]
        theirs = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
        assert frechet_distance(a, b) == pytest.approx(theirs, abs=1e-8)

    @pytest.mark.parametrize("n", [30, 200])
    def test_obeys_its_laws(self, random, n):
        a, b = random.standard_normal((n, 40)), 2 * random.standard_normal((n, 40))
        turn = np.linalg.qr(random.standard_normal((40, 40)))[0]
        distance = frechet_distance(a, b)
        assert abs(frechet_distance(a, a)) < 1e-8
        assert frechet_distance(b, a) == pytest.approx(distance, abs=1e-8)
        assert frechet_distance(a[::-1], b) == pytest.approx(distance, abs=1e-8)
        assert frechet_distance(a @ turn, b @ turn) == pytest.approx(distance, abs=1e-8)
        assert frechet_distance(3 * a, 3 * b) == pytest.approx(9 * distance, rel=1e-10)
        assert frechet_distance(a + 1, a) == pytest.approx(40, abs=1e-8)

    def test_takes_torch_and_float32_alike(self, random):
        a, b = random.standard_normal((20, 4)).astype(np.float32), random.standard_normal((20, 4)).astype(np.float32)
        assert frechet_distance(torch.from_numpy(a), b) == pytest.approx(
            frechet_distance(a.astype(float), b), abs=1e-12
        )

    @pytest.mark.parametrize("fall", [0.0, 1.0, 2.0, 4.0])
    @pytest.mark.parametrize("n", [60, 300])
    def test_keeps_its_digits_however_steeply_the_spectrum_falls(self, random, fall, n):
        scale = np.arange(1.0, 51.0) ** -fall
        turn = np.linalg.qr(random.standard_normal((50, 50)))[0]
        a, b = ((random.standard_normal((n, 50)) * scale) @ turn for _ in range(2))
        root_a, root_b = ((x - x.mean(0)) / np.sqrt(n - 1) for x in (a, b))
        trace = np.square(root_a).sum() + np.square(root_b).sum()
        shift = a.mean(0) - b.mean(0)
        expected = shift @ shift + trace - 2 * np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
        assert frechet_distance(a, b) == pytest.approx(expected, abs=1e-12 * trace)
        assert abs(frechet_distance(a, a)) < 1e-12 * trace

    def test_features_that_never_change_or_repeat_others_do_no_harm(self, random):
        a, b = random.standard_normal((90, 6)), 2 * random.standard_normal((80, 6))
        distance = frechet_distance(a, b)
        dead_a, dead_b = (np.hstack([x, np.full((len(x), 2), 4.0)]) for x in (a, b))
        twice_a, twice_b = (np.hstack([x, x]) for x in (a, b))
        assert frechet_distance(dead_a, dead_b) == pytest.approx(distance, rel=1e-12)
        assert frechet_distance(twice_a, twice_b) == pytest.approx(2 * distance, rel=1e-10)
        assert frechet_distance(np.ones((9, 3)), np.zeros((8, 3))) == pytest.approx(3.0)

    def test_features_far_from_zero_lose_no_digits(self, random):
        a, b = random.standard_normal((90, 6)), 2 * random.standard_normal((80, 6))
        assert frechet_distance(a + 1e6, b + 1e6) == pytest.approx(frechet_distance(a, b), rel=1e-8)

    def test_decomposes_with_one_thread_and_gives_the_others_back(self, random, monkeypatch):
        def threads() -> set[int]:
            return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

        found, a, b = [], *random.normal(size=(2, 64, 8))
        for module, name in ((np.linalg, "eigvalsh"), (frechet.Gaussian, "without"), (kernel, "_kernel")):
            real = getattr(module, name)
            monkeypatch.setattr(module, name, lambda *args, real=real: found.append(threads()) or real(*args))
        with threadpool_limits(2, user_api="blas"):
            frechet_distance(a, b)
            assert found == [{1}] and threads() == {2}
            for metric in (frechet_distance, kernel_distance):
                without = left_out(metric, a, b)
                found.clear()
                without(np.arange(4), np.arange(4))
                assert len(found) > 1 and {1} in found and {2} not in found and threads() == {2}


class TestGaussian:
    """Gaussian: a reference kept for many sets."""

    @pytest.mark.parametrize(("n", "m", "d"), [(200, 90, 20), (30, 25, 60), (15, 200, 60), (200, 15, 60)])
    def test_gives_the_distance_either_way_round_and_computes_its_root_once(self, random, monkeypatch, n, m, d):
        a, b = random.standard_normal((n, d)), 1.3 * random.standard_normal((m, d)) + 0.2
        expected = frechet_distance(a, b)
        reference = Gaussian(b)
        assert reference.distance(Gaussian(a)) == expected
        monkeypatch.setattr(np.linalg, "cholesky", None)
        monkeypatch.setattr(np.linalg, "qr", None)
        if m > d and n > d:
            assert reference.distance(Gaussian(2 * a)) > 0  # of the other set no root is needed
        assert reference.root is reference.root and reference.root.shape == (min(m, d) if m > d else m, d)
        np.testing.assert_allclose(reference.root.T @ reference.root, np.cov(b.T), atol=1e-12)
        monkeypatch.undo()
        assert Gaussian(a).distance(reference) == pytest.approx(expected, abs=1e-10)

    @pytest.mark.parametrize(("n", "d"), [(60, 7), (60, 55), (30, 40)])
    def test_without_some_clips_is_that_of_the_others(self, random, n, d):
        features = random.standard_normal((n, d)) * 3 + 1000.0
        rows = random.permutation(n)[: n // 5]
        left, expected = Gaussian(features).without(rows), Gaussian(np.delete(features, rows, 0))
        assert left.count == expected.count
        np.testing.assert_allclose(left.mean, expected.mean, rtol=1e-13)
        np.testing.assert_allclose(left.covariance, expected.covariance, atol=1e-9)
        np.testing.assert_allclose(left.covariance, np.cov(np.delete(features, rows, 0).T), atol=1e-9)
        assert Gaussian(features).without([]).covariance.shape == (d, d)

    def test_of_other_widths_or_a_single_clip_is_refused(self):
        with pytest.raises(InputError, match="same network"):
            Gaussian(np.eye(3)).distance(Gaussian(np.eye(4)))
        with pytest.raises(InputError, match="at least 2 clips"):
            Gaussian(np.ones((1, 3)))


class TestKernel:
    """kernel_distance."""

    def test_equals_the_unbiased_form_of_scikit_learns_kernel(self, random):
        a, b = random.standard_normal((30, 8)), random.standard_normal((20, 8)) + 0.5
        xx, yy, xy = (polynomial_kernel(x, y, degree=3, coef0=1) for x, y in ((a, a), (b, b), (a, b)))
        expected = (xx.sum() - np.trace(xx)) / (30 * 29) + (yy.sum() - np.trace(yy)) / (20 * 19) - 2 * xy.mean()
        assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-12)

    def test_equals_torch_fidelity_with_one_subset_of_everything(self, random):
        from torch_fidelity.metric_kid import kid_features_to_metric

        a, b = random.standard_normal((40, 6)), random.standard_normal((40, 6)) + 0.4
        theirs = kid_features_to_metric(
            torch.from_numpy(a),
            torch.from_numpy(b),
            kid_subsets=1,
            kid_subset_size=40,
            kid_degree=3,
            kid_gamma=None,
            kid_coef0=1,
            kid_kernel="poly",
            rng_seed=0,
            verbose=False,
        )["kernel_inception_distance_mean"]
        assert kernel_distance(a, b) == pytest.approx(theirs, rel=1e-9)

    def test_equals_the_hand_value_of_two_point_masses(self):
        assert kernel_distance(np.full((5, 1), 1.0), np.full((4, 1), 2.0)) == pytest.approx(79.0)

    def test_is_exactly_unbiased_over_all_samples_of_a_small_population(self):
        population, other = np.array([[0.0], [1.0], [3.0]]), np.array([[1.0], [2.0], [5.0]])
        kernel = lambda x, y: (x @ y.T + 1) ** 3  # noqa: E731
        truth = (
            kernel(population, population).mean() + kernel(other, other).mean() - 2 * kernel(population, other).mean()
        )
        pairs = [(i, j) for i in range(3) for j in range(3)]
        draws = [kernel_distance(population[list(p)], other[list(q)]) for p in pairs for q in pairs]
        assert np.mean(draws) == pytest.approx(truth, rel=1e-12)

    def test_of_a_set_is_the_mean_over_all_its_subsets(self, random):
        a, b = random.standard_normal((6, 3)), random.standard_normal((5, 3)) + 0.5
        halves = [kernel_distance(a[list(rows)], b) for rows in itertools.combinations(range(6), 3)]
        assert np.mean(halves) == pytest.approx(kernel_distance(a, b), rel=1e-10)

    def test_does_not_depend_on_the_tiles_it_is_summed_in(self, random, monkeypatch):
        a, b = random.standard_normal((40, 6)), random.standard_normal((33, 6)) + 0.4
        whole = kernel_distance(a, b)
        for tile in (1, 7, 33):
            monkeypatch.setattr("eval.metrics.kernel.TILE", tile)
            assert kernel_distance(a, b) == pytest.approx(whole, rel=1e-10)

    def test_of_a_set_to_itself_is_not_positive(self, random):
        a = random.standard_normal((30, 4))
        assert kernel_distance(a, a) < 0  # its own pairs count across the sets, but not within them


class TestInception:
    """inception_score."""

    def test_of_uniform_is_one_and_of_balanced_one_hot_the_number_of_classes(self):
        assert inception_score(np.full((20, 7), 1 / 7)) == pytest.approx(1.0)
        assert inception_score(np.eye(7)[np.arange(70) % 7]) == pytest.approx(7.0)

    def test_agrees_with_torch_fidelity_and_does_not_depend_on_order_with_one_split(self, random):
        from torch_fidelity.metric_isc import isc_features_to_metric

        logits = torch.from_numpy(random.standard_normal((60, 9)) * 3)
        theirs = isc_features_to_metric(logits, splits=1, shuffle=False)["inception_score_mean"]
        p = logits.softmax(1).numpy()
        assert inception_score(p) == pytest.approx(theirs, rel=1e-9)
        assert inception_score(p[::-1]) == pytest.approx(inception_score(p), rel=1e-12)

    def test_splits_are_averaged(self, random):
        p = random.dirichlet(np.ones(5), 40)
        assert inception_score(p, splits=2) == pytest.approx((inception_score(p[:20]) + inception_score(p[20:])) / 2)

    @pytest.mark.parametrize("splits", [1, 10])
    def test_parts_and_shuffle_are_those_of_torch_fidelity(self, random, splits):
        from torch_fidelity.metric_isc import isc_features_to_metric

        logits = torch.from_numpy(random.standard_normal((204, 9)) * 3)  # ten parts of unequal size
        theirs = isc_features_to_metric(logits, splits=splits, shuffle=True, rng_seed=42)["inception_score_mean"]
        p = logits.softmax(1).numpy()
        assert inception_score(p, splits=splits, shuffle_seed=42) == pytest.approx(theirs, rel=1e-9)

    def test_ten_shuffled_parts_are_those_of_stylegan_v(self, random):
        p = random.dirichlet(np.ones(5), 123)
        mixed = p.copy()
        np.random.RandomState(42).shuffle(mixed)  # rows in place, as there
        parts = [mixed[i * 123 // 10 : (i + 1) * 123 // 10] for i in range(10)]
        scores = [np.exp((q * (np.log(q) - np.log(q.mean(0)))).sum(1).mean()) for q in parts]
        assert inception_score(p, splits=10, shuffle_seed=42) == pytest.approx(np.mean(scores), rel=1e-12)

    def test_exact_zeros_are_zero_information_and_no_error(self):
        p = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])  # the third class has no mass at all
        expected = np.exp((np.log(1 / 0.75) + 0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25)) / 2)
        assert inception_score(p) == pytest.approx(expected, rel=1e-12)

    def test_ten_parts_hold_even_a_perfect_generator_below_77(self):
        perfect = np.eye(101)[np.random.default_rng(1).integers(101, size=2048)]
        assert 74 < inception_score(perfect, splits=10) < 77 and 97 < inception_score(perfect) < 100

    @pytest.mark.parametrize(
        ("p", "splits", "words"),
        [
            (np.ones((4, 3)), 1, "non-negative and sum to 1"),
            (np.array([[2.0, -1.0]] * 3), 1, "non-negative and sum to 1"),
            (np.eye(4), 3, "1…2 for 4 clips, got 3"),
            (np.eye(4), 0, "1…2 for 4 clips, got 0"),
        ],
    )
    def test_refuses_what_is_no_distribution_and_too_many_splits(self, p, splits, words):
        with pytest.raises(InputError, match=words):
            inception_score(p, splits=splits)


@pytest.mark.parametrize("metric", [frechet_distance, kernel_distance])
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((1, 3)), np.zeros((5, 3)), "at least 2 clips"),
        (np.zeros((5, 3)), np.zeros((5, 4)), "same network"),
        (np.full((5, 3), np.nan), np.zeros((5, 3)), "not finite"),
        (np.zeros((5, 3, 1)), np.zeros((5, 3)), r"\[N, d\]"),
    ],
)
def test_bad_sets_are_refused(metric, a, b, message):
    with pytest.raises(InputError, match=message):
        metric(a, b)


class TestMotion:
    """endpoint_error, tracking_auc."""

    def test_endpoint_error_is_the_mean_length(self, random):
        truth = random.standard_normal((4, 2, 8, 9))
        assert endpoint_error(truth, truth) == 0.0
        assert endpoint_error(truth + np.array([3.0, 4.0])[:, None, None], truth) == pytest.approx(5.0)
        assert endpoint_error(np.zeros_like(truth), truth) == pytest.approx(np.hypot(truth[:, 0], truth[:, 1]).mean())
        valid = np.zeros((4, 8, 9), bool)
        valid[0] = True
        assert endpoint_error(np.zeros_like(truth), truth, valid) == pytest.approx(np.hypot(*truth[0]).mean())

    def test_tracking_auc_equals_the_integral_over_thresholds(self, random):
        errors = random.uniform(0, 15, (20, 30))
        visible = random.uniform(size=(20, 30)) < 0.7
        thresholds = np.linspace(0, 10, 20_001)
        curve = [(errors[visible] <= threshold).mean() for threshold in thresholds]
        assert tracking_auc(errors, visible) == pytest.approx(10 * np.trapezoid(curve, thresholds), abs=0.02)
        assert (
            tracking_auc(np.full(5, 2.5), np.ones(5, bool)) == 75.0
            and tracking_auc(np.full(5, 11), np.ones(5, bool)) == 0.0
        )

    @pytest.mark.parametrize(
        ("call", "words"),
        [
            (lambda: endpoint_error(np.zeros((2, 3, 3)), np.zeros((2, 3, 4))), r"got \[2, 3, 3\] and \[2, 3, 4\]"),
            (lambda: endpoint_error(np.zeros((3, 3, 3)), np.zeros((3, 3, 3))), r"both be \[..., 2, H, W\]"),
            (lambda: tracking_auc(np.zeros(3), np.zeros(3, bool)), "no visible point"),
            (lambda: tracking_auc(np.zeros(3), np.ones(4, bool)), "same shape"),
            (lambda: tracking_auc(np.array([np.nan]), np.ones(1, bool)), "finite and not negative"),
        ],
    )
    def test_bad_input_is_refused(self, call, words):
        with pytest.raises(InputError, match=words):
            call()
