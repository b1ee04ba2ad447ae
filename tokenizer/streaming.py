"""Videos of any length and size through encoder and decoder, a few groups at a time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tokenizer.spec import TokenizerSpec, VideoTokenizer, crop_to
from tokenizer.tiling import blend_tiles, check_tiles, decode_tiled, encode_tiled


class Stream:
    """Reconstruct one video part by part; memory is set by the part, not by the length.

    Parts together equal the whole within float summation error, but for tiles, which are blended (see
    `tokenizer.tiling`). The transformer attends to all earlier groups unless its config has a `window`.

    Args:
        vae: A PV-VAE.
        tile: Largest height and width in pixels of what is computed at once; None: the whole frame.
        overlap: Pixels that neighbouring tiles share at least.
    """

    def __init__(self, vae, tile: int | None = None, overlap: int = 0):
        if tile is not None:
            check_tiles(tile, overlap, vae.spec.spatial)
        self.vae, self.tile, self.overlap = vae, tile, overlap
        self._pasts: dict[tuple, object] = {}  # of each network and tile
        self._begun = False

    @torch.no_grad()  # what is kept of earlier parts would keep all of their graph
    def reconstruct(self, video: Tensor) -> Tensor:
        """The next frames, decoded from the posterior mean.

        Args:
            video: `[B, 3, N, H, W]` float in [-1, 1], of any height and width. N is 1 + k * temporal of the first part
                and k * temporal of the others; the last part may have any.

        Returns:
            Like `video`, float32, not clamped.
        """
        spec = self.vae.spec
        padded, size = spec.pad_to_valid(video, first=0 if self._begun else 1)
        self._begun = True
        mean = self._blended(self.vae.encoder, padded, (spec.spatial, 1)).chunk(2, dim=1)[0]
        return crop_to(self._blended(self.vae.decoder, mean, (1, spec.spatial)), size)

    def _blended(self, network, inputs: Tensor, scales: tuple[int, int]) -> Tensor:
        """A network over the tiles of a part, each going on from its own past.

        Args:
            scales: Cells of input and output along a side of a latent cell.
        """
        inputs = inputs.to(next(network.parameters()).dtype)

        def compute(rows: slice, columns: slice) -> Tensor:
            place = (network, rows.start, columns.start)
            here = (slice(part.start * scales[0], part.stop * scales[0]) for part in (rows, columns))
            output, self._pasts[place] = network(inputs[(..., *here)], self._pasts.get(place))
            return output.float()

        cells = inputs.shape[-2] // scales[0], inputs.shape[-1] // scales[0]
        spatial = self.vae.spec.spatial
        tile = max(cells) if self.tile is None else self.tile // spatial
        return blend_tiles(compute, cells, tile, self.overlap // spatial, scales[1])


class Parts:
    """`Stream` for any tokenizer: every part is a clip of its own, which sees nothing of the others."""

    def __init__(self, vae: VideoTokenizer, tile: int | None = None, overlap: int = 0):
        if tile is not None:
            check_tiles(tile, overlap, vae.spec.spatial)
        self.vae, self.tile, self.overlap = vae, tile, overlap

    @torch.no_grad()
    def reconstruct(self, video: Tensor) -> Tensor:
        """The frames of `[B, 3, N, H, W]` in [-1, 1], of any N, H and W, decoded from the posterior mean."""
        padded, size = self.vae.spec.pad_to_valid(video)
        if self.tile is None:
            return crop_to(self.vae.decode(self.vae.encode(padded).mode()), size)
        latents = encode_tiled(self.vae, padded, self.tile, self.overlap).mode()
        return crop_to(decode_tiled(self.vae, latents, self.tile, self.overlap), size)


def read_parts(path: str | Path, spec: TokenizerSpec, groups: int, size: int | None = None) -> Iterator[Tensor]:
    """A video file in parts of `groups` latent groups, uint8 `[1, 3, N, H, W]`; no more than a part is in memory.

    Args:
        size: Resize so that the shorter side has so many pixels; None: as it is.

    Raises:
        InputError: If the file is no video, or is damaged.
    """
    from videos.clip import resize_and_crop
    from videos.codec import iterate_video

    frames = iterate_video(path)
    count = spec.frames(groups)
    while part := list(islice(frames, count)):
        pictures = np.stack(part)
        if size is not None:
            scale = size / min(pictures.shape[1:3])
            pictures = resize_and_crop(pictures, tuple(round(side * scale) for side in pictures.shape[1:3]))
        yield torch.from_numpy(pictures).permute(3, 0, 1, 2)[None].contiguous()
        count = groups * spec.temporal


def side_by_side(left: Tensor, right: Tensor) -> np.ndarray:
    """Two uint8 `[1, 3, N, H, W]` as one to write: `[N, H, 2 W, 3]`."""
    return torch.cat([left, right], dim=-1)[0].permute(1, 2, 3, 0).contiguous().numpy()
