"""The terms of the tokenizer's loss, each its own function (PV-VAE section 3.3; unpublished weights: see `presets`).

loss = mse + temporal + lpips_weight * LPIPS + kl_weight * KL, over the whole clip, predicted frames weighted like the
others. All terms are computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

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


def kl_loss(posterior: Posterior) -> Tensor:
    """KL to the standard normal in nats per latent element, averaged over batch and elements."""
    return posterior.kl().mean() / posterior.mean[0].numel()


def perceptual_loss(network: Callable[[Tensor, Tensor], Tensor], output: Tensor, video: Tensor) -> Tensor:
    """LPIPS of every frame, averaged. `network` maps two `[N, 3, H, W]` in [-1, 1] to `[N, 1, 1, 1]` distances."""
    frames_out = output.float().transpose(1, 2).flatten(0, 1)
    frames_in = video.float().transpose(1, 2).flatten(0, 1)
    return network(frames_out, frames_in).mean()


def tokenizer_loss(
    output: Tensor,
    video: Tensor,
    posterior: Posterior,
    *,
    kl_weight: float,
    temporal_weight: float = 1.0,
    lpips_weight: float = 0.0,
    lpips_network: Callable | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum and its unweighted terms (detached scalars) by name: mse, temporal, kl, and lpips when it is
    on."""
    terms = {"mse": pixel_loss(output, video), "temporal": temporal_loss(output, video), "kl": kl_loss(posterior)}
    loss = terms["mse"] + temporal_weight * terms["temporal"] + kl_weight * terms["kl"]
    if lpips_network is not None and lpips_weight > 0.0:
        terms["lpips"] = perceptual_loss(lpips_network, output, video)
        loss = loss + lpips_weight * terms["lpips"]
    return loss, {name: value.detach() for name, value in terms.items()}
