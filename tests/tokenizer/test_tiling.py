"""Tiles: where they lie, how they blend, and what they change."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from runtime.errors import InputError
from tokenizer import PVVAE, Posterior, PVVAEConfig, TokenizerSpec
from tokenizer.tiling import blend_weights, decode_tiled, encode_tiled, tile_starts

TRANSFORMER = PVVAEConfig(architecture="transformer", latent_channels=4, patch=8, width=24, depth=1, heads=2)
CNN = PVVAEConfig(latent_channels=4, channels=(8, 8, 8), blocks=1, middle_blocks=1, patch=2)


class Pooling(nn.Module):
    """A deterministic tokenizer without borders: the mean of each 8x8 square of every fourth frame, and back."""

    spec = TokenizerSpec(name="pooling", temporal=4, spatial=8, channels=3)

    def encode(self, video, chunk_groups=None):
        return Posterior(F.avg_pool3d(video[:, :, ::4], (1, 8, 8)))

    def decode(self, latents, chunk_groups=None):
        frames = latents.repeat_interleave(8, dim=3).repeat_interleave(8, dim=4)
        return torch.cat([frames[:, :, :1], frames[:, :, 1:].repeat_interleave(4, dim=2)], dim=2)


class Numbered(Pooling):
    """Fills the tile of call n with n."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def decode(self, latents, chunk_groups=None):
        self.calls += 1
        return torch.full_like(super().decode(latents), self.calls - 1.0)


def built(config: PVVAEConfig) -> PVVAE:
    torch.manual_seed(0)
    return PVVAE(config).eval()


def clip(height: int, width: int) -> torch.Tensor:
    return torch.rand(2, 3, 5, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("overlap", [0, 1, 3])
@pytest.mark.parametrize("tile", [4, 5])
@pytest.mark.parametrize("length", range(1, 18))
def test_tiles_cover_everything_with_enough_overlap_and_weights_sum_to_one(length, tile, overlap):
    starts = tile_starts(length, tile, overlap)
    tile = min(tile, length)
    assert starts[0] == 0 and starts[-1] == length - tile
    assert all(left < right <= left + tile - overlap for left, right in zip(starts[:-1], starts[1:], strict=True))
    weights = blend_weights(starts, tile)
    total = torch.zeros(length)
    for start, row in zip(starts, weights, strict=True):
        total[start : start + tile] += row
    assert torch.allclose(total, torch.ones(length)) and (weights > 0).all()


def test_no_tile_more_than_needed():
    assert tile_starts(16, 8, 0) == [0, 8] and tile_starts(17, 8, 0) == [0, 4, 9] and tile_starts(8, 8, 4) == [0]


@pytest.mark.parametrize("config", [CNN, TRANSFORMER], ids=["cnn", "transformer"])
def test_one_tile_is_the_whole(config):
    vae, video = built(config), clip(32, 24)
    whole, tiled = vae.encode(video), encode_tiled(vae, video, tile=32, overlap=8)
    assert torch.equal(tiled.mean, whole.mean) and torch.equal(tiled.logvar, whole.logvar)
    assert torch.equal(decode_tiled(vae, whole.mean, tile=32, overlap=8), vae.decode(whole.mean))


@pytest.mark.parametrize(("tile", "overlap"), [(8, 0), (16, 8), (24, 8), (32, 24)])
def test_a_tokenizer_without_borders_is_the_same_in_tiles(tile, overlap):
    vae, video = Pooling(), clip(64, 40)
    latents = vae.encode(video).mean
    tiled = encode_tiled(vae, video, tile, overlap)
    assert tiled.logvar is None and torch.allclose(tiled.mean, latents, atol=1e-6)
    assert torch.allclose(decode_tiled(vae, latents, tile, overlap), vae.decode(latents), atol=1e-6)


@pytest.mark.parametrize("colour", [-1.0, 0.3])
def test_a_clip_of_one_colour_has_no_seams(colour):
    vae, video = built(TRANSFORMER), torch.full((1, 3, 5, 56, 40), colour)
    posterior = encode_tiled(vae, video, tile=24, overlap=8)
    assert posterior.mean.std((-2, -1)).max() < 1e-5 and posterior.logvar.std((-2, -1)).max() < 1e-5
    frames = decode_tiled(vae, posterior.mean, tile=24, overlap=8)
    # Every patch of 8x8 pixels is the same picture.
    patches = frames.unflatten(-1, (5, 8)).unflatten(-3, (7, 8))
    assert (patches - patches[..., :1, :, :1, :]).abs().max() < 1e-5


def test_overlapping_tiles_fade_linearly_into_each_other():
    frames = decode_tiled(Numbered(), torch.zeros(1, 3, 1, 2, 6), tile=32, overlap=16)
    row = frames[0, 0, 0, 0]
    assert row.shape == (48,)
    assert torch.equal(row[:16], torch.zeros(16)) and torch.equal(row[32:], torch.ones(16))
    assert torch.allclose(row[16:32].diff(), torch.full((15,), 1 / 17)) and torch.allclose(
        row[16], torch.tensor(1 / 17)
    )


def test_overlap_softens_the_borders_that_convolutions_see():
    vae = built(CNN)
    with torch.no_grad():
        latents = torch.randn(1, 4, 2, 8, 8)
        whole = vae.decode(latents)
        error = [
            float((decode_tiled(vae, latents, tile=32, overlap=overlap) - whole).square().mean()) for overlap in (0, 16)
        ]
    assert 0 < error[1] < error[0] / 2


def test_tiles_and_chunks_of_time_go_together_and_gradients_pass():
    vae, video = built(dataclasses.replace(TRANSFORMER, window=1)), clip(40, 40)
    tiled = encode_tiled(vae, video, 24, 8)
    assert torch.allclose(encode_tiled(vae, video, 24, 8, chunk_groups=1).mean, tiled.mean, atol=1e-5)
    decode_tiled(vae, tiled.mean, 24, 8, chunk_groups=1).square().sum().backward()
    assert vae.encoder.embed.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("tile", "overlap", "message"),
    [
        (20, 8, "tile 20 must be a multiple of 8 pixels, at least 8; nearest: 16"),
        (0, 0, "tile 0 must be a multiple of 8 pixels"),
        (16, 4, "overlap 4 must be a multiple of 8"),
        (16, -8, "overlap -8 must"),
        (16, 16, "overlap 16 must be less than tile 16"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(tile, overlap, message):
    vae = Pooling()
    with pytest.raises(InputError, match=message):
        encode_tiled(vae, clip(32, 32), tile, overlap)
    with pytest.raises(InputError, match=message):
        decode_tiled(vae, torch.zeros(1, 3, 1, 4, 4), tile, overlap)


def test_a_video_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match="height 36 does not fit"):
        encode_tiled(Pooling(), clip(36, 32), 16, 8)
