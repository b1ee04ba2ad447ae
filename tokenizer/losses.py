"""The terms of the tokenizer's loss, each its own function (PV-VAE section 3.3; unpublished weights: see `presets`).

loss = mse + temporal + lpips_weight * LPIPS + kl_weight * KL, over the whole clip, predicted frames weighted like the
others; spatial_weight, ours, adds differences between neighbouring pixels. All terms are computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenizer.spec import Posterior


def pixel_loss(output: Tensor, video: Tensor) -> Tensor:
    """Mean squared error over everything, for `[B, 3, 1+T, H, W]` in [-1, 1]."""
    return (output.float() - video.float()).square().mean()


def temporal_loss(output: Tensor, video: Tensor) -> Tensor:
    """Mean squared error of the differences between adjacent frames; 0 for an image."""
    if video.shape[2] == 1:
        return output.float().sum() * 0.0  # keeps the graph whole without a special case for the caller
    error = output.float() - video.float()
    return (error[:, :, 1:] - error[:, :, :-1]).square().mean()


def spatial_loss(output: Tensor, video: Tensor) -> Tensor:
    """Mean squared error of the differences between neighbouring rows plus that between neighbouring columns.

    Not in the paper. Edges weigh more than areas in it, so that small networks learn outlines sooner.
    """
    error = output.float() - video.float()
    rows, columns = error[..., 1:, :] - error[..., :-1, :], error[..., 1:] - error[..., :-1]
    return rows.square().mean() + columns.square().mean()


def kl_loss(posterior: Posterior) -> Tensor:
    """KL to the standard normal in nats per latent element, averaged over batch and elements."""
    return posterior.kl().mean() / posterior.mean[0].numel()


def perceptual_loss(network: Callable[[Tensor, Tensor], Tensor], output: Tensor, video: Tensor) -> Tensor:
    """LPIPS of every frame, averaged. `network` maps two `[N, 3, H, W]` in [-1, 1] to `[N, 1, 1, 1]` distances."""
    frames_out = output.float().transpose(1, 2).flatten(0, 1)
    frames_in = video.float().transpose(1, 2).flatten(0, 1)
    return network(frames_out, frames_in).mean()


class _MixedFeatures(nn.Module):
    """A network of features in bfloat16 and channels-last memory; the features come back float32."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(images.device.type, torch.bfloat16):
            features = self.network(images.contiguous(memory_format=torch.channels_last))
        return type(features)(*(feature.float() for feature in features))


def mixed_precision_lpips(network: nn.Module) -> nn.Module:
    """An LPIPS network that shares the weights of `network`: convolutions in bfloat16, distances in float32.

    For training on GPUs; what is measured and reported stays float32.
    """
    mixed = copy(network)
    mixed._modules = dict(network._modules)
    mixed.net = _MixedFeatures(network.net.to(memory_format=torch.channels_last))
    return mixed


def tokenizer_loss(
    output: Tensor,
    video: Tensor,
    posterior: Posterior,
    *,
    kl_weight: float,
    temporal_weight: float = 1.0,
    spatial_weight: float = 0.0,
    lpips_weight: float = 0.0,
    lpips_network: Callable | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum and its unweighted terms (detached scalars) by name: mse, temporal, kl, and spatial and lpips
    when they are on."""
    terms = {"mse": pixel_loss(output, video), "temporal": temporal_loss(output, video), "kl": kl_loss(posterior)}
    loss = terms["mse"] + temporal_weight * terms["temporal"] + kl_weight * terms["kl"]
    if spatial_weight > 0.0:
        terms["spatial"] = spatial_loss(output, video)
        loss = loss + spatial_weight * terms["spatial"]
    if lpips_network is not None and lpips_weight > 0.0:
        terms["lpips"] = perceptual_loss(lpips_network, output, video)
        loss = loss + lpips_weight * terms["lpips"]
    return loss, {name: value.detach() for name, value in terms.items()}


def hinge_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Half of mean(max(0, 1 - real)) + mean(max(0, 1 + fake)): 1 for a discriminator that knows nothing, 0 for one that
    is right everywhere by a margin of 1.

    Source: Lim and Ye 2017, arXiv 1705.02894, equation 3 (without the half); logits of any shape, float32 result.
    """
    return 0.5 * (F.relu(1.0 - real_logits.float()).mean() + F.relu(1.0 + fake_logits.float()).mean())


def hinge_generator_loss(fake_logits: Tensor) -> Tensor:
    """-mean(fake): falls without bound as the discriminator takes the output for real; arXiv 1705.02894, equation 4."""
    return -fake_logits.float().mean()


def adaptive_weight(
    reconstruction_loss: Tensor, adversarial_loss: Tensor, last_layer: Tensor, low: float = 0.0, high: float = 1e4
) -> Tensor:
    """The factor that makes the adversarial loss pull at the decoder's last layer as hard as reconstruction does.

    Source: Esser et al. 2021, arXiv 2012.09841, equation 7. Each process computes it of its own rows.

    Args:
        reconstruction_loss, adversarial_loss: Scalars whose graphs stay usable.
        last_layer: The weight that both losses depend on.
        low, high: Finite bounds; a vanishing adversarial gradient gives `high` and not infinity.

    Returns:
        Detached float32 scalar, |gradient of reconstruction| / |gradient of adversarial| within [low, high]; NaN only
        if a gradient is not finite.
    """

    def gradient_norm(loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, last_layer, retain_graph=True)[0].float().norm()

    adversarial = gradient_norm(adversarial_loss).clamp_min(torch.finfo(torch.float32).tiny)
    return (gradient_norm(reconstruction_loss) / adversarial).clamp(low, high).detach()
