"""Samples become clips, with the right tokenizer only."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eval.decode import DecodeConfig, decode, decoded_clips, fitting_tokenizer
from latents_cache import open_latents
from runtime.errors import InputError

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
