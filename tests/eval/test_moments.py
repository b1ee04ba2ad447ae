"""Moments gathered in any pieces and any order are those of the whole set, and give its Fréchet distance."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval import frechet_distance, inception_score
from eval.metrics.inception import ScoreSums
from eval.metrics.moments import FeatureMoments, frechet_from_moments
from runtime.errors import InputError

RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.standard_normal((60, 7)) * 3 + 1000.0  # far from zero, where sums of squares would lose digits


def assert_same(found: FeatureMoments, expected: FeatureMoments) -> None:
    assert found.count == expected.count
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-13)
    np.testing.assert_allclose(found.scatter, expected.scatter, rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=50)
@given(cuts=st.sets(st.integers(1, 59), max_size=12), data=st.data())
def test_any_cuts_into_processes_merged_in_any_order_give_the_same(cuts, data):
    parts = np.split(FEATURES, sorted(cuts))
    processes = [FeatureMoments(7) for _ in range(data.draw(st.integers(1, 4)))]
    for part in data.draw(st.permutations(parts)):
        processes[data.draw(st.integers(0, len(processes) - 1))].add(part)
    merged = FeatureMoments(7)
    for process in data.draw(st.permutations(processes)):
        merged.merge(process)
    assert_same(merged, FeatureMoments.of(FEATURES))
    np.testing.assert_allclose(merged.covariance, np.cov(FEATURES.T), rtol=1e-9, atol=1e-11)


@settings(deadline=None, max_examples=30)
@given(cuts=st.sets(st.integers(1, 39), max_size=9), data=st.data())
def test_the_inception_score_too_is_the_same_from_any_pieces_in_any_order(cuts, data):
    p = np.random.default_rng(2).dirichlet(np.ones(5) * 0.3, 40)
    merged = ScoreSums(5)
    for part in data.draw(st.permutations(np.split(p, sorted(cuts)))):
        merged.merge(ScoreSums(5).add(part))
    assert merged.count == 40 and merged.score() == pytest.approx(inception_score(p), rel=1e-12)


def test_one_clip_at_a_time_is_a_batch_too():
    found = FeatureMoments(7)
    for clip in FEATURES.astype(np.float32):
        found.add(clip[None])
    assert_same(found, FeatureMoments.of(FEATURES.astype(np.float32)))


def test_taking_a_batch_out_undoes_taking_it_in():
    assert_same(
        FeatureMoments.of(FEATURES).without(FEATURES[20:33]), FeatureMoments.of(np.delete(FEATURES, range(20, 33), 0))
    )


@pytest.mark.parametrize(("n", "m", "d"), [(200, 90, 20), (30, 25, 60), (15, 200, 60)])
def test_the_distance_from_moments_is_that_from_features(n, m, d):
    a, b = RANDOM.standard_normal((n, d)), 1.3 * RANDOM.standard_normal((m, d)) + 0.2
    found = frechet_from_moments(FeatureMoments.of(a), FeatureMoments.of(b))
    assert found == pytest.approx(frechet_distance(a, b), abs=1e-9)
    assert abs(frechet_from_moments(FeatureMoments.of(a), FeatureMoments.of(a))) < 1e-9


def test_a_feature_that_never_changes_does_no_harm():
    a, b = RANDOM.standard_normal((50, 6)), RANDOM.standard_normal((40, 6))
    a[:, 2] = b[:, 2] = 4.0
    assert frechet_from_moments(FeatureMoments.of(a), FeatureMoments.of(b)) == pytest.approx(
        frechet_distance(a[:, [0, 1, 3, 4, 5]], b[:, [0, 1, 3, 4, 5]]), abs=1e-7
    )


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="same network"):
        FeatureMoments(3).add(np.zeros((2, 4)))
    with pytest.raises(InputError, match="not finite"):
        FeatureMoments(3).add(np.full((2, 3), np.inf))
    with pytest.raises(InputError, match="at least 2 clips"):
        frechet_from_moments(FeatureMoments(3).add(np.zeros((1, 3))), FeatureMoments.of(np.eye(3)))
    with pytest.raises(InputError, match="at least 2 clips"):
        ScoreSums(3).add(np.eye(3)[:1]).score()
    with pytest.raises(InputError, match="sum to 1"):
        ScoreSums(3).add(np.ones((2, 3)))
    with pytest.raises(InputError, match="take 3 clips out of 3"):
        FeatureMoments.of(np.eye(3)).without(np.eye(3))
    with pytest.raises(InputError, match="same network"):
        frechet_from_moments(FeatureMoments.of(np.eye(3)), FeatureMoments.of(np.eye(4)))
