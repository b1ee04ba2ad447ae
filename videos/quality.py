"""How two videos differ: PSNR, SSIM, LPIPS. Inputs are `[N, 3, T, H, W]` in [0, 1], results `[N]`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.errors import InputError

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5


def _check(x: Tensor, y: Tensor) -> None:
    if x.shape != y.shape or x.ndim != 5:
        raise InputError(f"videos to compare must both be [N, 3, T, H, W], got {list(x.shape)} and {list(y.shape)}")
    if not (x.is_floating_point() and y.is_floating_point()):
        raise InputError(
            f"videos to compare must be floats in [0, 1], got {x.dtype} and {y.dtype}; divide uint8 by 255"
        )
    # A decoder's output may go a little below 0; what both do is another range.
    if x.numel() and max(float(x.min()), float(y.min())) < -0.25:
        raise InputError("videos to compare must be in [0, 1], both go far below; (video + 1) / 2 converts [-1, 1]")


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, of each frame, averaged over frames; float64 `[N]`, inf where equal."""
    _check(x, y)
    error = (x.double() - y.double()).square().mean((1, 3, 4))  # [N, T]
    return (-10.0 * torch.log10(error)).mean(1)


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity: Gaussian window of 11 (sigma 1.5), valid region, mean over RGB and frames; float64 `[N]`.

    Equals scikit-image's `structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    data_range=1)`.
    """
    _check(x, y)
    if min(x.shape[-2:]) < SSIM_WINDOW:
        raise InputError(f"SSIM needs frames of at least {SSIM_WINDOW} pixels, got {x.shape[-2]}x{x.shape[-1]}")
    offset = torch.arange(SSIM_WINDOW, dtype=torch.float64, device=x.device) - SSIM_WINDOW // 2
    window = torch.exp(-0.5 * (offset / SSIM_SIGMA) ** 2)
    window = window / window.sum()

    def blur(planes: Tensor) -> Tensor:
        planes = F.conv2d(planes, window.view(1, 1, -1, 1))
        return F.conv2d(planes, window.view(1, 1, 1, -1))

    values = []
    for a, b in zip(x, y, strict=True):  # one video at a time bounds the memory of the float64 planes
        a, b = (v.double().transpose(0, 1).flatten(0, 1)[:, None] for v in (a, b))  # [T*3, 1, H, W]
        mean_a, mean_b = blur(a), blur(b)
        var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
        cov = blur(a * b) - mean_a * mean_b
        c1, c2 = 0.01**2, 0.03**2
        similarity = ((2 * mean_a * mean_b + c1) * (2 * cov + c2)) / (
            (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
        )
        values.append(similarity.mean())
    return torch.stack(values)


BACKBONES = {"alex": "alexnet", "vgg": "vgg16"}
# Sides in pixels below which nothing is left after a network's strides.
LPIPS_SMALLEST = {"alex": 31, "vgg": 16}
_networks: dict[str, Callable] = {}


def lpips_network(net: str = "alex", backbone: str | None = None):
    """The LPIPS v0.1 network with published weights, in evaluation mode and frozen.

    The linear heads come with the `lpips` package; the backbone's file is looked up (`runtime.published_weights`),
    never downloaded.

    Args:
        net: "alex" or "vgg".
        backbone: Path of the backbone's state dict, instead of looking for it.
    """
    if net not in BACKBONES:
        raise InputError(f"LPIPS network {net!r} is not known; known: {', '.join(BACKBONES)}")
    from runtime.published_weights import find_weights
    from runtime.seeds import seeded
    from runtime.state_dicts import read_state_dict

    weights = read_state_dict(find_weights(BACKBONES[net], backbone))
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's deprecation notes inside lpips
        import lpips as lpips_package

        network = seeded(lambda: lpips_package.LPIPS(net=net, pnet_rand=True, verbose=False))
    slices = [getattr(network.net, f"slice{i}") for i in range(1, network.net.N_slices + 1)]
    for part in slices:
        for index, layer in part.named_children():
            if f"features.{index}.weight" in weights:
                layer.load_state_dict({k: weights[f"features.{index}.{k}"] for k in ("weight", "bias")})
    return network.eval().requires_grad_(False)


@torch.no_grad()
def lpips(x: Tensor, y: Tensor, net: str = "alex", network: Callable | None = None) -> Tensor:
    """LPIPS of each frame, averaged over frames; float64 `[N]`. Lower is closer.

    Args:
        net: "alex" (the one of the paper's tables) or "vgg".
        network: An already built network mapping two `[N, 3, H, W]` in [-1, 1] to `[N, 1, 1, 1]`.
    """
    _check(x, y)
    if network is None:
        if net not in _networks:
            _networks[net] = lpips_network(net)
        if min(x.shape[-2:]) < LPIPS_SMALLEST[net]:
            raise InputError(
                f"LPIPS ({net}) needs frames of at least {LPIPS_SMALLEST[net]} pixels, got {x.shape[-2]}x{x.shape[-1]}"
            )
        network = _networks[net].to(x.device)  # type: ignore[attr-defined]
    values = [
        network(a.float().transpose(0, 1) * 2 - 1, b.float().transpose(0, 1) * 2 - 1).double().mean()
        for a, b in zip(x, y, strict=True)
    ]
    return torch.stack(values)
