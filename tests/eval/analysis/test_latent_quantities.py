"""Numbers of kept latents are those of the public functions, and of tables by hand."""

import math

import numpy as np
import pytest
import torch

import eval.analysis.arrays as arrays
from eval import (
    channel_eigenspectrum,
    high_frequency_energy,
    latent_temporal_distance,
    spatial_spectrum,
    temporal_spectrum,
    velocity_irreducible_variance,
)
from eval.analysis.curves import curves_of
from eval.analysis.kept_latents import latent_set, latents_key, see_latents
from eval.analysis.latent_rows import latent_rows
from eval.features.store import FeatureSet
from eval.quantities import better
from eval.tokenizer_clips import Encoded
from runtime.errors import InputError
from tokenizer.spec import Posterior, TokenizerSpec
from videos import ClipSpec


class Nameless:
    spec = TokenizerSpec(name="four", temporal=4, spatial=2, channels=4)
    encoder_hash = "four"


def kept_of(mean, logvar=None, labels=None) -> FeatureSet:
    """Kept latents of a posterior `[N, 4, 5, 4, 6]`."""
    mean = torch.as_tensor(mean, dtype=torch.float32)
    logvar = None if logvar is None else torch.full_like(mean, logvar)
    encoded = Encoded(tuple((None, Posterior(mean[part], None if logvar is None else logvar[part]))
                            for part in (slice(0, 3), slice(3, None))))  # fmt: skip
    rows, _ = see_latents(encoded)
    key = latents_key(Nameless, ClipSpec(17, (8, 12)), logvar is not None, torch.float32, False)
    labels = np.full(len(mean), -1) if labels is None else np.asarray(labels)
    return FeatureSet(rows.numpy(), None, labels, key=key)


@pytest.fixture
def latents():
    scale = np.array([3.0, 1.0, 0.5, 0.1]).reshape(1, 4, 1, 1, 1)
    random = np.random.default_rng(0)
    return (scale * random.normal(size=(12, 4, 5, 4, 6)).cumsum(2) + 10 * scale).astype(np.float32)


def test_rows_are_what_the_public_functions_say(latents, monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK_ELEMENTS", 5 * latents[0].size)
    kept = kept_of(latents, logvar=-2.0, labels=[0, 1, 2] * 4)
    rows = {row.metric: row for row in latent_rows(kept)}
    values = {name: row.value for name, row in rows.items()}
    std = np.sqrt(latents.astype(np.float64).var((0, 2, 3, 4)) + math.exp(-2.0))
    mean = latents.astype(np.float64).mean((0, 2, 3, 4))
    normal = (latents - mean.reshape(4, 1, 1, 1)) / std.reshape(4, 1, 1, 1)
    found = latent_set(kept)
    assert found.std == pytest.approx(std) and found.normalised() == pytest.approx(normal, abs=1e-5)
    for k, raw, scaled in zip(
        range(1, 5),
        latent_temporal_distance(latents, range(1, 5)),
        latent_temporal_distance(normal, range(1, 5)),
        strict=True,
    ):
        assert values[f"LTD, interval {k}"] == pytest.approx(raw)
        assert values[f"LTD normalised, interval {k}"] == pytest.approx(scaled, rel=1e-5)
        if k > 1:
            assert values[f"LTD / LTD 1, interval {k}"] == pytest.approx(raw / values["LTD, interval 1"])
    shares = channel_eigenspectrum(latents)
    assert values["effective channels"] == pytest.approx(1 / (shares**2).sum())
    assert values["variance in 3 directions"] == pytest.approx(shares[:3].sum())
    assert values["VIV"] == pytest.approx(velocity_irreducible_variance(normal), rel=1e-5)
    assert values["VIV by class"] == pytest.approx(velocity_irreducible_variance(normal, [0, 1, 2] * 4), rel=1e-5)
    assert values["SEC 0.5"] == pytest.approx(high_frequency_energy(normal), rel=1e-5)
    assert values["SEC 0.25"] == pytest.approx(high_frequency_energy(normal, 0.25), rel=1e-5)
    power = temporal_spectrum(normal)  # bins at 0, 1/5, 2/5
    assert values["high frequencies, time"] == pytest.approx(power[2] / power[1:].sum(), rel=1e-5)
    spectrum = np.square(np.abs(np.fft.fft2(normal - normal.mean((3, 4), keepdims=True)))).sum((0, 1, 2))
    length = np.hypot(np.fft.fftfreq(4)[:, None], np.fft.fftfreq(6)[None])
    fine = np.rint(length * 4) / 4 > 0.25
    assert values["high frequencies, space"] == pytest.approx(spectrum[fine].sum() / spectrum.sum(), rel=1e-5)
    for row in rows.values():
        assert row.low < row.value < row.high and row.n == 12, row
    curves = curves_of(kept)
    assert curves["eigenspectrum"] == [[n + 1.0, pytest.approx(share)] for n, share in enumerate(shares)]
    assert [y for _, y in curves["time"]] == pytest.approx(power[1:], rel=1e-5)
    assert [y for _, y in curves["space"]] == pytest.approx(spatial_spectrum(normal)[1:], rel=1e-5)
    assert curves["distance"][2] == [3.0, pytest.approx(values["LTD / LTD 1, interval 3"])]
    (x0, density), (x1, _) = curves["histogram"][:2]
    assert sum(y for _, y in curves["histogram"]) * (x1 - x0) == pytest.approx(1) and density > 0


def test_the_rate_of_a_posterior_is_that_by_hand():
    # Mean 2, variance 1/4: (4 + 1/4 - 1 + ln 4) / 2 nats an element; 4 x 5 x 4 x 6 elements for 17 x 8 x 12 pixels.
    kept = kept_of(np.full((4, 4, 5, 4, 6), 2.0), logvar=-math.log(4))
    rate = next(row for row in latent_rows(kept) if row.metric == "rate")
    assert rate.value == pytest.approx((4 + 0.25 - 1 + math.log(4)) / 2 * 480 / 1632, rel=1e-6)
    assert rate.value == pytest.approx(0.6818081, rel=1e-6)


def test_a_deterministic_tokenizer_has_no_rate_and_clips_without_classes_none_by_class(latents):
    rows = {row.metric: row for row in latent_rows(kept_of(latents))}
    assert rows["rate"].value is None and "deterministic" in rows["rate"].note
    assert "VIV by class" not in rows and rows["VIV"].value > 0


def test_latents_that_stand_still_have_no_number_where_there_is_none_to_have(latents):
    still = np.repeat(latents[:, :, :1], 5, axis=2)
    rows = {row.metric: row for row in latent_rows(kept_of(still))}
    assert rows["LTD, interval 4"].value == 0.0
    assert rows["LTD / LTD 1, interval 2"].value is None and rows["high frequencies, time"].value is None


def test_which_way_is_better_is_said_where_somebody_has_shown_it():
    assert [better(name) for name in ("VIV", "SEC 0.5", "high frequencies, time")] == ["lower"] * 3
    assert [better(name) for name in ("LTD, interval 1", "rate", "effective channels")] == [""] * 3
    assert better("tfd-shapes-1+4k") == better("tFVD") == "lower" and better("tfvd-1+4") == ""


@pytest.mark.parametrize(
    "change",
    [
        {"latents": [4, 5, 4]},
        {"latents": [4, 5, 4, 0]},
        {"latents": [4, 5, 4, 7]},
        {"latents": "4"},
        {"posterior": None},
        {"pixels": 0},
    ],
)
def test_rows_that_are_not_as_their_key_says_are_refused(latents, change):
    kept = kept_of(latents)
    with pytest.raises(InputError):
        latent_set(FeatureSet(kept.features, None, kept.labels, key=kept.key | change))
    with pytest.raises(InputError, match="no latents"):
        latent_set(FeatureSet(kept.features, None, kept.labels, key={}))
