"""Where the variance of latents lies: along which channels, and at which frequencies in time and space.

SSVAE (arXiv 2512.05394) finds latents easy to generate in when few directions of the channels hold most of the
variance, and low frequencies most of the power. All sums are float64, over a few clips at a time.
"""

from __future__ import annotations

import numpy as np

from eval.analysis.arrays import as_latents, blocks_of_clips
from runtime.errors import InputError


def channel_covariance(latents: object) -> np.ndarray:
    """Covariance of the channels over all clips, groups and places, population: float64 `[C, C]`.

    Args:
        latents: `[N, C, G, h, w]`.
    """
    values = as_latents(latents)
    channels, count = values.shape[1], 0
    centre, scatter = np.zeros(channels), np.zeros((channels, channels))
    for block in blocks_of_clips(values):
        rows = np.moveaxis(block, 1, 0).reshape(channels, -1)
        mean, more = rows.mean(1), rows.shape[1]
        rows = rows - mean[:, None]
        # As Chan updates a variance: sums of squares would cancel where means are large.
        step, total = mean - centre, count + more
        scatter += rows @ rows.T + np.outer(step, step) * count * more / total
        centre, count = centre + step * more / total, total
    return scatter / count


def channel_eigenspectrum(latents: object) -> np.ndarray:
    """Shares of the variance along the principal directions of the channels: float64 `[C]`, falling, of sum 1.

    Source: SSVAE, arXiv 2512.05394: in latents that are easy to generate in, few modes dominate.

    Args:
        latents: `[N, C, G, h, w]`.

    Raises:
        InputError: When all latents are the same, so that there is no variance to share.
    """
    return shares_of(channel_covariance(latents))


def shares_of(covariance: np.ndarray) -> np.ndarray:
    """Eigenvalues of a covariance `[C, C]` over their sum, falling; InputError when it is zero."""
    values = np.clip(np.linalg.eigvalsh(covariance)[::-1], 0.0, None)
    if not values.sum() > 0:
        raise InputError("all latents are the same: there is no variance")
    return values / values.sum()


def principal_directions(latents: object, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k directions of the channels along which latents vary most, and the variance along each.

    Source: PV-VAE, figure 4, shows the first three as red, green and blue.

    Args:
        latents: `[N, C, G, h, w]`.
        k: 1 … C.

    Returns:
        Unit vectors float64 `[k, C]`, the entry of largest size of each positive, and variances float64 `[k]`, falling.

    Raises:
        InputError: When k is not in 1 … C.
    """
    values = as_latents(latents)
    if not 1 <= k <= values.shape[1]:
        raise InputError(f"k must lie in 1…{values.shape[1]} for {values.shape[1]} channels, got {k}")
    variances, vectors = np.linalg.eigh(channel_covariance(values))
    directions = vectors.T[::-1][:k]
    signs = np.sign(np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], 1))
    return directions * signs, np.clip(variances[::-1][:k], 0.0, None)


def temporal_spectrum(latents: object) -> np.ndarray:
    """Mean power by frequency along the groups: float64 `[G // 2 + 1]`, bin k at k / G cycles a group.

    The mean of each series of G values is taken off first, so bin 0 is 0. Power is |DFT|² / G: white noise of variance
    1 has nearly 1 in every other bin.

    Args:
        latents: `[N, C, G, h, w]`.
    """
    values = as_latents(latents)
    found = [temporal_power(block) for block in blocks_of_clips(values)]
    return np.concatenate(found).mean((0, 1))


def temporal_power(block: np.ndarray) -> np.ndarray:
    """`temporal_spectrum` of each clip and channel: `[N, C, G // 2 + 1]`."""
    series = block - block.mean(2, keepdims=True)
    return np.square(np.abs(np.fft.rfft(series, axis=2))).mean((3, 4)) / block.shape[2]


def spatial_spectrum(latents: object) -> np.ndarray:
    """Mean power by spatial frequency: float64 `[bins]`, bin k at k cycles over the shorter side.

    The mean of each picture (a channel of a group) is taken off first, so bin 0 is 0. Power is |DFT|² / (h w), averaged
    over the frequencies (y, x) whose length in cycles a cell, times the shorter side, rounds to k: white noise of
    variance 1 has nearly 1 in every other bin. The last bins are those of the corners, beyond what either axis has.

    Args:
        latents: `[N, C, G, h, w]`.
    """
    values = as_latents(latents)
    found = [spatial_power(block) for block in blocks_of_clips(values)]
    return np.concatenate(found).mean((0, 1))


def spatial_power(block: np.ndarray) -> np.ndarray:
    """`spatial_spectrum` of each clip and channel: `[N, C, bins]`."""
    height, width = block.shape[3:]
    pictures = block - block.mean((3, 4), keepdims=True)
    power = np.square(np.abs(np.fft.fft2(pictures))).mean(2) / (height * width)
    place = radial_bins(height, width)
    onehot = np.eye(place.max() + 1)[place.ravel()]
    return power.reshape(*power.shape[:2], -1) @ (onehot / onehot.sum(0).clip(1))


def radial_bins(height: int, width: int) -> np.ndarray:
    """The bin of each frequency of a two-dimensional DFT: int `[h, w]`; only frequency 0 is in bin 0."""
    length = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    return np.maximum(np.rint(length * min(height, width)), length > 0).astype(int)


def high_frequency_energy(latents: object, rho: float = 0.5) -> float:
    """Share of the energy of latents at high frequencies, in [0, 1]: SEC with threshold rho; lower is smoother.

    Source: "Diffusing in the Right Space", arXiv 2606.03578: of a DCT (type 2, orthonormal) of each channel, what lies
    at u + v > rho (h - 1 + w - 1). Latents of clips have a third axis, so here u + v + s > rho (h - 1 + w - 1 + G - 1);
    of one group both are the same.

    Args:
        latents: `[N, C, G, h, w]`, normalised by channel as the generator sees them.
        rho: Threshold, 0 … 1.

    Raises:
        InputError: When rho is not in [0, 1], or all latents are 0.
    """
    values = as_latents(latents)
    if not 0 <= rho <= 1:
        raise InputError(f"rho must lie in [0, 1], got {rho}")
    energy = np.concatenate([energies(block, (rho,)) for block in blocks_of_clips(values)]).sum((0, 1))
    if not energy[0] > 0:
        raise InputError("all latents are 0: there is no energy")
    return float(energy[1] / energy[0])


def energies(block: np.ndarray, thresholds: tuple[float, ...]) -> np.ndarray:
    """Energy of each clip and channel in all, and beyond each threshold: `[N, C, 1 + len(thresholds)]`."""
    from scipy.fft import dctn

    groups, height, width = block.shape[2:]
    energy = np.square(dctn(block, axes=(2, 3, 4), norm="ortho"))
    order = np.add.outer(np.add.outer(np.arange(groups), np.arange(height)), np.arange(width))
    beyond = [order > rho * (groups + height + width - 3) for rho in thresholds]
    return np.stack([energy.sum((2, 3, 4)), *(energy[:, :, high].sum(2) for high in beyond)], axis=2)
