"""Samples become clips, with the right tokenizer only."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eval.clip_sets import reconstructed
from eval.decode import DecodeConfig, decode, decoded, decoded_clips, fitting_tokenizer, side_by_side, weights_of
from eval.tokenizer_clips import encoder_of
from latents_cache import open_latents
from runtime.errors import InputError
from tokenizer.spec import Posterior, TokenizerSpec

COMMON = {"device": "cpu", "dtype": "float32"}


def test_decoded_clips_are_uint8_and_do_not_depend_on_the_batch_size(chain, monkeypatch):
    with open_latents(chain.latents) as reader:
        vae = fitting_tokenizer(reader.attributes, reader.path, device="cpu")
        all_at_once = list(decoded_clips(reader, vae, 5, **COMMON))
        monkeypatch.setattr("eval.decode.BATCH", 1)
        one = list(decoded_clips(reader, vae, 5, **COMMON))
    assert [len(video) for video, _ in one] == [1] * 5
    video = torch.cat([video for video, _ in one])
    assert video.dtype == torch.uint8 and video.shape == (5, 3, 17, 32, 32)
    # float32 sums in another order move a value by less than one step of uint8
    assert (video.int() - all_at_once[0][0].int()).abs().max() <= 1
    assert np.array_equal(np.concatenate([labels for _, labels in one]), all_at_once[0][1])


def test_weights_that_latents_name_are_those_of_their_tokenizer_alone():
    facts = {"tokenizer": "a", "weights": "w"}
    assert weights_of(facts, None, None) == weights_of(facts, "a", None) == "w"
    assert weights_of(facts, "b", None) is None and weights_of({"tokenizer": "a"}, "a", None) is None
    assert weights_of(facts, "a", "v") == weights_of(facts, "b", "v") == "v"


class Sized:
    """A tokenizer that notes how many clips it is given at once."""

    def __init__(self):
        self.spec, self.passes = TokenizerSpec(name="sized", temporal=4, spatial=8, channels=2), []

    def to(self, device):
        return self

    def encode(self, video):
        self.passes.append(len(video))
        latents = torch.zeros(len(video), *self.spec.latent_shape(*video.shape[2:]))
        latents[:, :] = video.mean((1, 2, 3, 4))[:, None, None, None, None]
        return Posterior(latents, latents)

    def decode(self, latents):
        self.passes.append(len(latents))
        frames, spatial = self.spec.frames(latents.shape[2]), self.spec.spatial
        shape = (len(latents), 3, frames, latents.shape[3] * spatial, latents.shape[4] * spatial)
        return latents.mean((1, 2, 3, 4))[:, None, None, None, None].expand(shape)


@pytest.mark.parametrize(("limit", "passes"), [(3 * 5 * 16 * 8, [3, 3, 2]), (1, [1] * 8), (10**9, [8])])
def test_no_pass_of_a_tokenizer_has_more_pixels_than_fit(limit, passes, monkeypatch):
    """A block of clips is 32 of any size; of 256 pixels these are 95 GiB of the paper's decoder."""
    monkeypatch.setattr("eval.decode.PIXELS", limit)
    vae, cpu = Sized(), torch.device("cpu")
    video = (torch.arange(8, dtype=torch.uint8) * 30)[:, None, None, None, None].expand(8, 3, 5, 16, 8).contiguous()
    assert torch.equal(reconstructed(video, vae, cpu), video)
    assert vae.passes == [size for size in passes for _ in range(2)]
    latents = np.arange(8, dtype=np.float16).reshape(8, 1, 1, 1, 1) * np.ones((1, 2, 2, 2, 1), np.float16)
    vae, reader = Sized(), SimpleNamespace(batch=lambda rows: {"mean": latents[list(rows)], "label": np.arange(8)})
    ((made, _),) = decoded(reader, vae, [range(8)], cpu, torch.float32)
    assert vae.passes == passes and made.shape == (8, 3, 5, 16, 8) and made[:, 0, 0, 0, 0].tolist() == list(range(8))
    vae = Sized()
    assert sum(len(clip) for clip, _ in encoder_of(vae, cpu, torch.float32, None)(video).parts) == 8
    assert vae.passes == passes


def test_the_decoder_of_another_encoder_is_refused(chain):
    with pytest.raises(InputError, match="the latents are of encoder 0123"):
        fitting_tokenizer({"tokenizer": str(chain.tokenizer), "encoder_hash": "0123"}, "samples.h5", device="cpu")


def test_latents_without_a_tokenizer_ask_for_one():
    with pytest.raises(InputError, match="--tokenizer"):
        fitting_tokenizer({}, "samples.h5")


def test_more_clips_than_rows_are_refused(chain):
    with open_latents(chain.latents) as reader, pytest.raises(InputError, match="41 clips asked, it has 40"):
        next(decoded_clips(reader, fitting_tokenizer(reader.attributes, reader.path, device="cpu"), 41, **COMMON))


def test_the_command_writes_one_playable_file_a_clip(chain, tmp_path, capsys):
    from videos import read_video

    decode(DecodeConfig(runs_dir=str(chain.runs), count=3, steps=2, out=str(tmp_path / "clips"), **COMMON))
    files = sorted((tmp_path / "clips").iterdir())
    assert [file.name for file in files] == ["00000-disc-bounce.mp4", "00001-disc-orbit.mp4", "00002-disc-sway.mp4"]
    assert read_video(files[0]).shape == (17, 32, 32, 3)
    assert "3 clips" in capsys.readouterr().out


def test_a_grid_shows_all_clips_at_once(chain, tmp_path):
    from PIL import Image

    from videos import read_video

    out = tmp_path / "clips"
    flags = {"guidance_scale": 2.0, "guidance_interval": (0.5, 1.0), "labels": "drawn"}
    decode(DecodeConfig(runs_dir=str(chain.runs), count=3, steps=2, out=str(out), grid=True, **flags, **COMMON))
    assert len(list(out.glob("0000?-*.mp4"))) == 3
    video = read_video(out / "grid.mp4")
    assert video.shape == (17, 66, 66, 3)
    # Lossy: a clip on its own and in the grid differ by little.
    own = read_video(next(out.glob("00002-*.mp4"))).astype(int)
    assert abs(video[:, 34:, :32] - own).mean() < 8
    assert np.asarray(Image.open(out / "grid.png")).shape == (66, 66, 3)


def test_a_grid_is_filled_by_rows_on_white():
    clips = [np.full((2, 4, 6, 3), value, np.uint8) for value in (10, 20, 30, 40, 50)]
    grid = side_by_side(clips)
    assert grid.shape == (2, 10, 22, 3)
    assert grid[:, [0, 0, 0, 6, 6, 6], [0, 8, 16, 0, 8, 16], 0].tolist() == [[10, 20, 30, 40, 50, 255]] * 2
    assert (grid[:, 4:6] == 255).all() and (grid[:, :, 6:8] == 255).all()
