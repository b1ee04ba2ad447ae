"""Encode and decode frames that are too large for the memory: overlapping tiles, blended linearly.

Only height and width are tiled; for time there is `chunk_groups`, which is exact. Tiling is not: near its edges a tile
does not see what the whole frame would show it. `tile` and `overlap` are in pixels on both sides, so that the same two
numbers belong to encoding and decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from runtime.errors import InputError
from tokenizer.spec import Posterior, VideoTokenizer


def encode_tiled(
    vae: VideoTokenizer, video: Tensor, tile: int, overlap: int, chunk_groups: int | None = None
) -> Posterior:
    """`vae.encode`, one tile after the other.

    Args:
        vae: Any tokenizer.
        video: `[B, 3, 1+T, H, W]` float in [-1, 1], of a size that fits the tokenizer.
        tile: Largest height and width in pixels of what is encoded at once, a multiple of the spatial stride.
        overlap: Pixels that neighbouring tiles share at least, a multiple of the spatial stride, less than `tile`.
        chunk_groups: As of `vae.encode`.

    Returns:
        Posterior over `[B, C, G, h, w]`; where tiles overlap, means and log-variances are blended.

    Raises:
        InputError: If a size does not fit.
    """
    spec = vae.spec
    check_tiles(tile, overlap, spec.spatial)
    spec.latent_shape(*video.shape[-3:])

    def moments(rows: slice, columns: slice) -> Tensor:
        pixels = (slice(part.start * spec.spatial, part.stop * spec.spatial) for part in (rows, columns))
        posterior = vae.encode(video[(..., *pixels)], chunk_groups)
        # A deterministic tokenizer has no log-variance.
        return posterior.mean if posterior.logvar is None else torch.cat([posterior.mean, posterior.logvar], dim=1)

    cells = video.shape[-2] // spec.spatial, video.shape[-1] // spec.spatial
    blended = blend_tiles(moments, cells, tile // spec.spatial, overlap // spec.spatial, scale=1)
    mean, logvar = blended.split(spec.channels, dim=1) if blended.shape[1] > spec.channels else (blended, None)
    return Posterior(mean, logvar)


def decode_tiled(
    vae: VideoTokenizer, latents: Tensor, tile: int, overlap: int, chunk_groups: int | None = None
) -> Tensor:
    """`vae.decode`, one tile after the other.

    Args:
        vae: Any tokenizer.
        latents: `[B, C, G, h, w]`, raw.
        tile: Largest height and width in pixels of what is decoded at once, a multiple of the spatial stride.
        overlap: Pixels that neighbouring tiles share at least, a multiple of the spatial stride, less than `tile`.
        chunk_groups: As of `vae.decode`.

    Returns:
        `[B, 3, 1+T, H, W]`; where tiles overlap, pixels are blended.

    Raises:
        InputError: If a size does not fit.
    """
    spatial = vae.spec.spatial
    check_tiles(tile, overlap, spatial)

    def frames(rows: slice, columns: slice) -> Tensor:
        return vae.decode(latents[..., rows, columns], chunk_groups)

    return blend_tiles(frames, tuple(latents.shape[-2:]), tile // spatial, overlap // spatial, scale=spatial)


def predict_tiled(
    vae, observed_video: Tensor, groups: int | Sequence[int], tile: int | None = None, overlap: int = 0
) -> Tensor:
    """`vae.predict`, one tile after the other; sizes are as of `encode_tiled`, without `tile` it is one."""
    spatial = vae.spec.spatial
    if tile is None:
        return vae.predict(observed_video, groups)
    check_tiles(tile, overlap, spatial)

    def frames(rows: slice, columns: slice) -> Tensor:
        pixels = (slice(part.start * spatial, part.stop * spatial) for part in (rows, columns))
        return vae.predict(observed_video[(..., *pixels)], groups)

    cells = observed_video.shape[-2] // spatial, observed_video.shape[-1] // spatial
    return blend_tiles(frames, cells, tile // spatial, overlap // spatial, scale=spatial)


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """First cells of the fewest tiles of equal size that cover `length` cells and share at least `overlap`."""
    if tile >= length:
        return [0]
    steps = -(-(length - tile) // (tile - overlap))
    return [step * (length - tile) // steps for step in range(steps + 1)]


def blend_weights(starts: list[int], tile: int, device: torch.device | None = None) -> Tensor:
    """Weights `[tiles, tile]` float32 of 1D tiles at `starts`; over all tiles they sum to one at every cell.

    Where two tiles overlap, one fades out linearly and the other in.
    """
    position = torch.arange(tile, device=device)
    ramps = torch.ones(len(starts), tile, device=device)
    for left, right in pairwise(range(len(starts))):
        shared = starts[left] + tile - starts[right]
        ramps[left] = torch.minimum(ramps[left], (tile - position) / (shared + 1))
        ramps[right] = torch.minimum(ramps[right], (position + 1) / (shared + 1))
    # Two ramps sum to one already; at the end of a frame three tiles can meet.
    cells = torch.tensor(starts, device=device)[:, None] + position
    total = torch.zeros(starts[-1] + tile, device=device).index_add_(0, cells.flatten(), ramps.flatten())
    return ramps / total[cells]


def blend_tiles(
    compute: Callable[[slice, slice], Tensor], cells: tuple[int, int], tile: int, overlap: int, scale: int
) -> Tensor:
    """Sum of weighted tiles `[..., rows * scale, columns * scale]`; `compute` is given rows and columns of cells."""
    sizes = [min(tile, length) for length in cells]
    starts = [tile_starts(length, size, overlap) for length, size in zip(cells, sizes, strict=True)]
    if len(starts[0]) == len(starts[1]) == 1:
        return compute(slice(0, cells[0]), slice(0, cells[1]))
    blended, weights = None, []
    for row_number, row in enumerate(starts[0]):
        for column_number, column in enumerate(starts[1]):
            part = compute(slice(row, row + sizes[0]), slice(column, column + sizes[1]))
            if blended is None:
                blended = part.new_zeros(*part.shape[:-2], cells[0] * scale, cells[1] * scale)
                weights = [
                    blend_weights([start * scale for start in axis], size * scale, part.device)
                    for axis, size in zip(starts, sizes, strict=True)
                ]
            mask = weights[0][row_number][:, None] * weights[1][column_number]
            rows = slice(row * scale, (row + sizes[0]) * scale)
            columns = slice(column * scale, (column + sizes[1]) * scale)
            blended[..., rows, columns] += part * mask
    return blended


def check_tiles(tile: int, overlap: int, spatial: int) -> None:
    """InputError unless both are multiples of the spatial stride, and the overlap is the smaller."""
    for name, size, low in (("tile", tile, spatial), ("overlap", overlap, 0)):
        if size < low or size % spatial:
            near = max(low, round(size / spatial) * spatial)
            raise InputError(f"{name} {size} must be a multiple of {spatial} pixels, at least {low}; nearest: {near}")
    if overlap >= tile:
        raise InputError(f"overlap {overlap} must be less than tile {tile}")
