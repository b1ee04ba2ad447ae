"""Values of the loss terms against hand calculations."""

import pytest
import torch

from tokenizer import Posterior
from tokenizer.losses import kl_loss, perceptual_loss, pixel_loss, temporal_loss, tokenizer_loss


def test_pixel_loss_is_the_mean_square():
    assert float(pixel_loss(torch.full((2, 3, 5, 4, 4), 0.5), torch.zeros(2, 3, 5, 4, 4))) == pytest.approx(0.25)


def test_temporal_loss_ignores_a_constant_error_and_sees_a_changing_one():
    video = torch.randn(2, 3, 5, 4, 4)
    assert float(temporal_loss(video + 0.7, video)) == pytest.approx(0.0, abs=1e-10)
    ramp = torch.arange(5.0).view(1, 1, 5, 1, 1)
    assert float(temporal_loss(video + 0.5 * ramp, video)) == pytest.approx(0.25, rel=1e-4)


def test_temporal_loss_of_an_image_is_zero_and_differentiable():
    output = torch.randn(1, 3, 1, 4, 4, requires_grad=True)
    loss = temporal_loss(output, torch.zeros(1, 3, 1, 4, 4))
    loss.backward()
    assert float(loss.detach()) == 0.0 and float(output.grad.abs().sum()) == 0.0


def test_kl_loss_is_nats_per_latent_element():
    posterior = Posterior(torch.full((2, 3, 1, 2, 2), 2.0), torch.zeros(2, 3, 1, 2, 2))
    assert float(kl_loss(posterior)) == pytest.approx(2.0)
    standard = Posterior(torch.zeros(2, 3, 1, 2, 2), torch.zeros(2, 3, 1, 2, 2))
    assert float(kl_loss(standard)) == 0.0


def test_perceptual_loss_compares_frame_by_frame():
    seen = []

    def network(a, b):
        seen.append(tuple(a.shape))
        return (a - b).square().mean((1, 2, 3), keepdim=True)

    output, video = torch.randn(2, 3, 5, 4, 4), torch.randn(2, 3, 5, 4, 4)
    assert float(perceptual_loss(network, output, video)) == pytest.approx(float(pixel_loss(output, video)), rel=1e-5)
    assert seen == [(10, 3, 4, 4)]


def test_total_is_the_weighted_sum_of_the_terms():
    output, video = torch.randn(2, 3, 5, 4, 4), torch.randn(2, 3, 5, 4, 4)
    posterior = Posterior(torch.randn(2, 3, 2, 1, 1), torch.randn(2, 3, 2, 1, 1))
    loss, terms = tokenizer_loss(
        output,
        video,
        posterior,
        kl_weight=0.5,
        temporal_weight=2.0,
        lpips_weight=3.0,
        lpips_network=lambda a, b: torch.ones(len(a), 1, 1, 1),
    )
    expected = terms["mse"] + 2.0 * terms["temporal"] + 0.5 * terms["kl"] + 3.0
    assert float(loss) == pytest.approx(float(expected), rel=1e-6) and float(terms["lpips"]) == 1.0
