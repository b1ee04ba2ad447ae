"""Planted truth: what is put into latents is found in them."""

import numpy as np
import pytest
import torch

import eval.analysis.arrays as arrays
from eval import (
    channel_eigenspectrum,
    high_frequency_energy,
    latent_temporal_distance,
    principal_directions,
    spatial_spectrum,
    temporal_spectrum,
    velocity_irreducible_variance,
)
from eval.analysis.irreducible_variance import ScatterSums
from runtime.errors import InputError


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# -- temporal distance ------------------------------------------------------------------------------------------------


def test_lines_stand_k_apart_what_stands_does_not_move_and_a_walk_goes_as_the_root(rng):
    step = rng.normal(size=(6, 3, 1, 2, 2))
    line = step * np.arange(9).reshape(1, 1, 9, 1, 1) + 5.0
    length = np.linalg.norm(step.reshape(6, -1), axis=1).mean()
    assert latent_temporal_distance(line, [1, 3, 8]) == pytest.approx([length, 3 * length, 8 * length])
    assert latent_temporal_distance(np.ones((2, 4, 5, 2, 2)), [1, 4]).tolist() == [0.0, 0.0]
    walk = rng.normal(size=(200, 8, 9, 4, 4)).cumsum(2)
    found = latent_temporal_distance(torch.tensor(walk), [1, 2, 4])
    assert found / found[0] == pytest.approx(np.sqrt([1, 2, 4]), rel=0.01)


# -- channels ---------------------------------------------------------------------------------------------------------


def planted(rng, variances, count=40):
    """Latents with exactly these principal variances, a mean far from zero, and their directions as rows."""
    channels = len(variances)
    directions = np.linalg.qr(rng.normal(size=(channels, channels)))[0].T
    white = rng.normal(size=(channels, count * 3 * 4 * 2))
    white -= white.mean(1, keepdims=True)
    white = np.linalg.solve(np.linalg.cholesky(white @ white.T / white.shape[1]), white)
    values = directions.T @ (np.sqrt(variances)[:, None] * white) + 1e4
    return np.moveaxis(values.reshape(channels, count, 3, 4, 2), 0, 1), directions


def test_planted_directions_and_variances_are_found(rng, monkeypatch):
    variances = np.array([9.0, 4.0, 1.0, 0.5])
    latents, directions = planted(rng, variances)
    monkeypatch.setattr(arrays, "BLOCK_ELEMENTS", 7 * latents[0].size)  # several blocks, the last one smaller
    shares = channel_eigenspectrum(latents)
    assert shares == pytest.approx(variances / variances.sum(), rel=1e-6) and shares.sum() == pytest.approx(1)
    found, along = principal_directions(latents, 3)
    assert along == pytest.approx(variances[:3], rel=1e-6)
    assert np.abs((found * directions[:3]).sum(1)) == pytest.approx(np.ones(3))
    assert (np.take_along_axis(found, np.abs(found).argmax(1)[:, None], 1) > 0).all()
    assert channel_eigenspectrum(torch.tensor(latents - 1e4, dtype=torch.bfloat16)) == pytest.approx(shares, abs=0.01)


# -- spectra ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cycles", [1, 3, 4])
def test_a_sine_in_time_has_its_power_at_its_frequency(cycles):
    wave = np.cos(2 * np.pi * cycles * np.arange(8) / 8)
    found = temporal_spectrum(np.ones((2, 3, 1, 2, 2)) * wave.reshape(1, 1, 8, 1, 1) + 7.0)
    expected = np.zeros(5)
    expected[cycles] = 8 / 4 if cycles < 4 else 8  # |DFT|² / G of a cosine; at the last bin both halves coincide
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("height", "width", "turn"), [(8, 8, False), (8, 8, True), (6, 12, True)])
def test_a_sine_in_space_has_its_power_at_its_frequency(height, width, turn):
    across = np.cos(2 * np.pi * 2 * np.arange(width) / width)
    upright = np.cos(2 * np.pi * 2 * np.arange(height) / height)
    picture = np.tile(upright[:, None], width) if turn else np.tile(across, (height, 1))
    found = spatial_spectrum(picture.reshape(1, 1, 1, height, width).repeat(3, 2) - 2.0)
    assert found.argmax() == 2 and found[2] > 0 and np.delete(found, 2) == pytest.approx(0, abs=1e-9)


def test_white_noise_is_flat_in_time_and_space(rng):
    noise = 3.0 * rng.normal(size=(400, 2, 9, 8, 8)) + rng.normal(size=(400, 2, 1, 1, 1))
    time, space = temporal_spectrum(noise), spatial_spectrum(noise)
    assert time[0] == pytest.approx(0, abs=1e-20) and space[0] == pytest.approx(0, abs=1e-20)
    assert time[1:] == pytest.approx(9.0, rel=0.03) and space[1:] == pytest.approx(9.0, rel=0.03)
    assert spatial_spectrum(noise[:4].reshape(4, 2, 9, 4, 16))[0] == pytest.approx(0, abs=1e-20)


def test_high_frequencies_are_what_lies_beyond_the_threshold(rng):
    from scipy.fft import dctn, idctn

    coefficients = np.zeros((1, 1, 5, 4, 4))
    coefficients[0, 0, 0, 0, 0] = 3.0  # order 0
    coefficients[0, 0, 1, 1, 2] = 2.0  # order 4 of 4 + 3 + 3
    coefficients[0, 0, 3, 3, 1] = 1.0  # order 7
    latents = idctn(coefficients, axes=(2, 3, 4), norm="ortho")
    assert high_frequency_energy(latents, 0.69) == pytest.approx(1 / 14)
    assert high_frequency_energy(latents, 0.70) == pytest.approx(0, abs=1e-12)  # beyond, not at
    assert high_frequency_energy(latents, 0.39) == pytest.approx(5 / 14)
    assert high_frequency_energy(latents, 0.0) == pytest.approx(5 / 14)
    picture = rng.normal(size=(1, 1, 1, 4, 4))  # of one group: the rule of pictures
    energy = np.square(dctn(picture[0, 0, 0], norm="ortho"))
    beyond = np.add.outer(np.arange(4), np.arange(4)) > 0.5 * 6
    assert high_frequency_energy(picture) == pytest.approx(energy[beyond].sum() / energy.sum())


# -- irreducible variance ---------------------------------------------------------------------------------------------


def test_of_gaussians_the_irreducible_variance_is_that_of_the_closed_form(rng):
    channels, groups, places = np.array([4.0, 1.0, 0.25]), np.array([1.0, 0.5]), np.array([2.0, 1.0, 0.5, 0.1])
    roots = np.sqrt(channels[:, None, None] * groups[:, None] * places)
    latents = roots.reshape(3, 2, 2, 2) * rng.normal(size=(20_000, 3, 2, 2, 2)) + rng.normal(size=(3, 2, 2, 2)) * 5
    truth = np.pi / 2 * roots.sum()
    assert velocity_irreducible_variance(latents) == pytest.approx(truth, rel=0.01)
    assert velocity_irreducible_variance(3 * latents) == pytest.approx(3 * truth, rel=0.01)
    # The directions do not matter, only the variances along them.
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    assert velocity_irreducible_variance(np.einsum("dc,ncghw->ndghw", turn, latents)) == pytest.approx(truth, rel=0.01)


def test_the_closed_form_is_the_integral_of_what_a_linear_guess_leaves(rng):
    data, noise = 1.7 * rng.normal(size=400_000), rng.normal(size=400_000)
    left = []
    for t in np.linspace(0.0005, 0.9995, 1000)[::10]:
        point, velocity = (1 - t) * noise + t * data, data - noise
        left.append(velocity.var() - np.cov(point, velocity)[0, 1] ** 2 / point.var())
    assert np.mean(left) == pytest.approx(velocity_irreducible_variance(data[:, None, None, None, None]), rel=0.02)


def test_labels_take_the_difference_of_classes_off(rng):
    labels = np.repeat([0, 1, 7], [3000, 2999, 1])
    latents = rng.normal(size=(6000, 2, 1, 1, 2)) * np.where(labels == 1, 2.0, 1.0).reshape(-1, 1, 1, 1, 1)
    shifted = latents + 10.0 * labels.reshape(-1, 1, 1, 1, 1)
    by_class = velocity_irreducible_variance(shifted, labels)  # of the class of one clip nothing is known
    assert by_class == pytest.approx(np.pi / 2 * 4 * (1 + 2) / 2, rel=0.02)
    assert velocity_irreducible_variance(latents, labels) == pytest.approx(by_class)
    assert velocity_irreducible_variance(shifted) > 1.5 * by_class


def test_without_some_clips_it_is_that_of_the_others(rng, monkeypatch):
    latents, labels = rng.normal(size=(30, 3, 2, 2, 3)) + 1e3, np.arange(30) % 4
    monkeypatch.setattr(arrays, "BLOCK_ELEMENTS", 4 * latents[0].size)
    for classes in (None, labels):
        without = ScatterSums(latents, classes)
        assert without([]) == velocity_irreducible_variance(latents, classes)
        for rows in ([3], [0, 4, 8, 12, 17, 29], range(0, 28, 4)):  # of the last, a class has one clip left
            left = np.delete(np.arange(30), rows)
            truth = velocity_irreducible_variance(latents[left], None if classes is None else labels[left])
            assert without(np.array(rows)) == pytest.approx(truth, rel=1e-9)
    assert velocity_irreducible_variance(np.full((3, 2, 2, 1, 1), 7.7)) == 0.0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: latent_temporal_distance(np.zeros((1, 2, 3, 1, 1)), [3]), r"lie in 1…2 .* got \[3\]"),
        (lambda: latent_temporal_distance(np.zeros((2, 3, 1, 1)), [1]), r"must be \[N, C, G, h, w\]"),
        (lambda: temporal_spectrum(np.zeros((0, 3, 1, 1, 1))), r"must be \[N, C, G, h, w\]"),
        (lambda: spatial_spectrum(np.full((1, 3, 1, 2, 1), np.nan)), "not finite"),
        (lambda: channel_eigenspectrum(np.ones((2, 3, 2, 2, 1))), "no variance"),
        (lambda: principal_directions(np.zeros((2, 3, 2, 2, 1)), 4), "k must lie in 1…3"),
        (lambda: high_frequency_energy(np.zeros((2, 3, 2, 2, 1))), "all latents are 0"),
        (lambda: high_frequency_energy(np.ones((2, 3, 2, 2, 1)), 1.5), "rho must lie"),
        (lambda: velocity_irreducible_variance(np.ones((1, 3, 2, 2, 1))), "at least 2 clips"),
        (lambda: velocity_irreducible_variance(np.ones((2, 3, 2, 2, 1)), [0]), "one for each of 2 clips"),
        (lambda: velocity_irreducible_variance(np.ones((2, 3, 2, 2, 1)), [0, 1]), "2 clips of a class"),
    ],
)
def test_what_cannot_be_measured_is_refused(call, words):
    with pytest.raises(InputError, match=words):
        call()
