"""Values and gradients of the loss terms against hand calculations."""

import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from runtime.published_weights import PublishedFile
from runtime.run import file_sha256
from tokenizer import Posterior
from tokenizer.losses import (
    adaptive_weight,
    hinge_discriminator_loss,
    hinge_generator_loss,
    kl_loss,
    mixed_precision_lpips,
    perceptual_loss,
    pixel_loss,
    spatial_loss,
    temporal_loss,
    tokenizer_loss,
)


def pair(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """An output that wants a gradient, and the video it should be."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).requires_grad_(), torch.randn(shape, generator=generator)


def test_pixel_loss_is_the_mean_square():
    assert float(pixel_loss(torch.full((2, 3, 5, 4, 4), 0.5), torch.zeros(2, 3, 5, 4, 4))) == pytest.approx(0.25)


def test_gradient_of_the_pixel_loss_is_twice_the_error_over_the_number_of_values():
    output, video = pair(2, 3, 5, 4, 4)
    pixel_loss(output, video).backward()
    assert torch.allclose(output.grad, 2 * (output.detach() - video) / output.numel(), atol=1e-9)


def test_temporal_loss_ignores_a_constant_error_and_sees_a_changing_one():
    video = torch.randn(2, 3, 5, 4, 4)
    assert float(temporal_loss(video + 0.7, video)) == pytest.approx(0.0, abs=1e-10)
    ramp = torch.arange(5.0).view(1, 1, 5, 1, 1)
    assert float(temporal_loss(video + 0.5 * ramp, video)) == pytest.approx(0.25, rel=1e-4)


def test_value_and_gradient_of_the_temporal_loss_of_three_frames():
    # Errors 1, 3, 0 in the frames of one pixel; differences 2, -3; their mean square 13/2.
    output = torch.tensor([1.0, 3.0, 0.0]).view(1, 1, 3, 1, 1).requires_grad_()
    loss = temporal_loss(output, torch.zeros(1, 1, 3, 1, 1))
    loss.backward()
    assert float(loss.detach()) == 6.5
    # d/de0 = -2, d/de1 = 2 - (-3), d/de2 = -3: twice the difference, over two differences.
    assert output.grad.flatten().tolist() == [-2.0, 5.0, -3.0]


def test_spatial_loss_ignores_an_even_error_and_sees_an_edge():
    video = torch.randn(2, 3, 5, 4, 4)
    assert float(spatial_loss(video + 0.7, video)) == pytest.approx(0.0, abs=1e-10)
    # Rows of errors 0, 1, 1: differences 1, 0 between rows, none between columns.
    error = torch.tensor([0.0, 1.0, 1.0]).view(1, 1, 1, 3, 1).expand(1, 3, 2, 3, 5)
    assert float(spatial_loss(error, torch.zeros_like(error))) == 0.5
    assert float(spatial_loss(error.mT, torch.zeros_like(error.mT))) == 0.5


def test_the_spatial_term_is_off_unless_it_has_a_weight():
    output, video = pair(1, 3, 5, 4, 4)
    posterior = Posterior(torch.zeros(1, 2, 2, 1, 1), torch.zeros(1, 2, 2, 1, 1))
    plain, terms = tokenizer_loss(output, video, posterior, kl_weight=0.0)
    weighted, more = tokenizer_loss(output, video, posterior, kl_weight=0.0, spatial_weight=0.5)
    assert "spatial" not in terms
    assert float((weighted - plain).detach()) == pytest.approx(0.5 * float(more["spatial"]), rel=1e-5)


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


def test_kl_loss_is_that_of_torch_and_its_gradient_the_closed_form():
    mean, logvar = (tensor.detach().requires_grad_() for tensor in pair(2, 3, 2, 2, 2))
    loss = kl_loss(Posterior(mean, logvar))
    loss.backward()
    ours, standard = torch.distributions.Normal(mean, (0.5 * logvar).exp()), torch.distributions.Normal(0.0, 1.0)
    assert float(loss.detach()) == pytest.approx(
        float(torch.distributions.kl_divergence(ours, standard).mean().detach()), rel=1e-5
    )
    assert torch.allclose(mean.grad, mean.detach() / mean.numel(), atol=1e-8)
    assert torch.allclose(logvar.grad, 0.5 * (logvar.detach().exp() - 1) / mean.numel(), atol=1e-8)


def test_perceptual_loss_compares_frame_by_frame():
    seen = []

    def network(a, b):
        seen.append(tuple(a.shape))
        return (a - b).square().mean((1, 2, 3), keepdim=True)

    output, video = torch.randn(2, 3, 5, 4, 4), torch.randn(2, 3, 5, 4, 4)
    assert float(perceptual_loss(network, output, video)) == pytest.approx(float(pixel_loss(output, video)), rel=1e-5)
    assert seen == [(10, 3, 4, 4)]


@pytest.mark.parametrize(
    "loss",
    [
        pixel_loss,
        temporal_loss,
        spatial_loss,
        partial(perceptual_loss, lambda a, b: (a - b).square().mean((1, 2, 3), keepdim=True)),
        hinge_discriminator_loss,
        lambda output, _: hinge_generator_loss(output),
    ],
)
def test_terms_of_bfloat16_are_computed_in_float32(loss):
    rounded = [each.detach().bfloat16() for each in pair(2, 3, 5, 4, 4)]
    found = loss(*rounded)
    assert found.dtype == torch.float32 and found == loss(*(each.float() for each in rounded))


@pytest.fixture(scope="module")
def vgg(tmp_path_factory):
    """Our LPIPS-VGG with random weights in the place of the published ones, and the package's with the same."""
    package = pytest.importorskip("lpips")
    from videos.quality import lpips_network

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's deprecation notes inside lpips
        torch.manual_seed(0)
        reference = package.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval().requires_grad_(False)
        layers = {name.split(".", 1)[1]: value for name, value in reference.net.state_dict().items()}
        path = tmp_path_factory.mktemp("weights") / "vgg16-397923af.pth"
        torch.save({f"features.{name}": value for name, value in layers.items()}, path)
        published = PublishedFile(path.name, path.stat().st_size, file_sha256(path), "https://example.org/vgg16.pth")
        patch.setattr("runtime.published_weights.PUBLISHED", {"vgg16": published})
        return lpips_network("vgg", str(path)), reference


def lpips_by_hand(network, output: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
    """LPIPS v0.1 (Zhang et al. 2018, equation 1) of `[N, 3, H, W]` in [-1, 1], written anew in float64."""
    weights = {name.split(".", 1)[1]: value.double() for name, value in network.net.state_dict().items()}
    heads = [head.model[-1].weight.double() for head in network.lins]
    shift = torch.tensor([-0.030, -0.088, -0.188], dtype=torch.float64).view(3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450], dtype=torch.float64).view(3, 1, 1)

    def features(x):
        x, found = (x.double() - shift) / scale, []
        convolutions = iter(sorted({int(name.split(".")[0]) for name in weights}))
        for block, count in enumerate((2, 2, 3, 3, 3)):
            x = F.max_pool2d(x, 2) if block else x
            for _ in range(count):
                index = next(convolutions)
                x = F.relu(F.conv2d(x, weights[f"{index}.weight"], weights[f"{index}.bias"], padding=1))
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    pairs = zip(heads, features(output), features(video), strict=True)
    return sum(F.conv2d((a - b).square(), head).mean((1, 2, 3)) for head, a, b in pairs)


@pytest.mark.bf16
def test_lpips_in_mixed_precision_is_close_and_leaves_the_one_that_is_reported_alone(vgg):
    network, _ = vgg
    output, video = pair(1, 3, 2, 32, 32)
    exact = perceptual_loss(network, output, video)
    mixed = perceptual_loss(mixed_precision_lpips(network), output, video)
    gradients = [torch.autograd.grad(loss, output, retain_graph=True)[0] for loss in (mixed, exact)]
    assert mixed.dtype == torch.float32 and float(mixed.detach()) == pytest.approx(float(exact.detach()), rel=0.02)
    assert mixed.detach() != exact.detach()
    # Rounding closes some units of thirteen random layers and opens others, and their gradients with them.
    assert torch.cosine_similarity(*(gradient.flatten() for gradient in gradients), dim=0) > 0.95
    assert perceptual_loss(network, output, video).detach() == exact.detach()


def test_perceptual_loss_with_vgg_is_that_of_the_lpips_package_and_of_the_formula(vgg):
    network, reference = vgg
    output, video = pair(1, 3, 2, 32, 32)
    loss = perceptual_loss(network, output, video)
    loss.backward()
    frames = [(output.detach()[:, :, i], video[:, :, i]) for i in range(2)]
    package = torch.stack([reference(a, b).mean() for a, b in frames]).mean()
    assert float(loss.detach()) == pytest.approx(float(package), rel=1e-5)
    again = output.detach().double().requires_grad_()
    by_hand = torch.stack([lpips_by_hand(reference, again[:, :, i], video[:, :, i]).mean() for i in range(2)]).mean()
    by_hand.backward()
    assert float(loss.detach()) == pytest.approx(float(by_hand.detach()), rel=1e-4)
    # float32 through thirteen layers
    assert (output.grad - again.grad).norm() < 1e-3 * again.grad.norm()


def test_gradient_of_the_perceptual_loss_is_finite_where_every_feature_is_zero(vgg):
    """The norm in LPIPS has an infinite slope at zero; other trainers met NaN there."""
    network, _ = vgg
    bias = network.net.slice1[0].bias.clone()
    network.net.slice1[0].bias.fill_(-100.0)
    output, video = pair(1, 3, 1, 32, 32)
    perceptual_loss(network, output, video).backward()
    network.net.slice1[0].bias.copy_(bias)
    assert torch.isfinite(output.grad).all()


def test_hinge_loss_of_the_discriminator_by_hand():
    real = torch.tensor([2.0, 0.5, -1.0], requires_grad=True)  # hinges 0, 0.5, 2
    fake = torch.tensor([-3.0, 0.0, 1.0, -0.5], requires_grad=True)  # hinges 0, 1, 2, 0.5
    loss = hinge_discriminator_loss(real, fake)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.5 * (2.5 / 3 + 3.5 / 4))
    assert real.grad.tolist() == pytest.approx([0.0, -1 / 6, -1 / 6])
    assert fake.grad.tolist() == pytest.approx([0.0, 1 / 8, 1 / 8, 1 / 8])
    assert float(hinge_discriminator_loss(torch.zeros(5), torch.zeros(7))) == 1.0


def test_hinge_loss_of_the_generator_by_hand():
    fake = torch.tensor([[-3.0, 0.0], [1.0, 4.0]], requires_grad=True)
    loss = hinge_generator_loss(fake)
    loss.backward()
    assert float(loss.detach()) == -0.5 and fake.grad.flatten().tolist() == [-0.25] * 4


@pytest.mark.parametrize(
    ("adversarial_slope", "bounds", "expected"),
    [(0.5, (0.0, 1e4), 10.0), (0.5, (0.0, 3.0), 3.0), (50.0, (0.2, 3.0), 0.2), (0.0, (0.0, 1e4), 1e4)],
)
def test_adaptive_weight_is_the_clamped_ratio_of_gradient_norms(adversarial_slope, bounds, expected):
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    reconstruction = (torch.tensor([3.0, 4.0]) * weight).sum()  # gradient of norm 5
    adversarial = adversarial_slope * weight[0]
    factor = adaptive_weight(reconstruction, adversarial, weight, *bounds)
    assert float(factor) == pytest.approx(expected) and not factor.requires_grad
    (reconstruction + factor * adversarial).backward()  # both graphs are still there, and the factor is a constant
    assert weight.grad.tolist() == pytest.approx([3.0 + expected * adversarial_slope, 4.0])


def test_adaptive_weight_with_no_gradient_at_all_is_the_lower_bound():
    weight = torch.ones(2, requires_grad=True)
    assert float(adaptive_weight(0.0 * weight.sum(), 0.0 * weight.sum(), weight, 0.1, 1e4)) == pytest.approx(0.1)


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
