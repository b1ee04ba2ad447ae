"""The judge of a tokenizer, on tokenizers whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from eval.reconstruction import ReconstructionConfig, make_rows, measure, reconstruction
from eval.results import read_results
from runtime.errors import InputError
from runtime.processes import start_processes
from tokenizer.spec import Posterior, TokenizerSpec
from videos import to_float

ALONE = start_processes("cpu")
COMMON = {"device": "cpu", "dtype": "float32"}


class Known(torch.nn.Module):
    """A tokenizer whose latents are the video; `shift` is added to what it decodes, `predict` answers with `future`."""

    spec = TokenizerSpec(name="known", temporal=4, spatial=1, channels=3)

    def __init__(self, shift: float = 0.0, future=None):
        super().__init__()
        self.shift, self.future = shift, future

    def encode(self, video):
        return Posterior(video)

    def decode(self, latents):
        return latents + self.shift

    def predict(self, observed, groups):
        last = observed[:, :, -1:].expand(-1, -1, 4 * groups, -1, -1)
        return torch.cat([observed, last if self.future is None else self.future], dim=2)


class Clips:
    """A fixed data set: a bright square that steps to the right on mid-grey noise."""

    def __init__(self, count: int = 4):
        rng = np.random.default_rng(0)
        self.videos = rng.integers(90, 110, (count, 3, 17, 16, 32), dtype=np.uint8)
        for frame in range(17):
            self.videos[:, :, frame, 4:8, frame : frame + 4] = 240

    def __len__(self):
        return len(self.videos)

    def item(self, index, seed):
        return {"video": self.videos[index], "label": 0, "name": str(index)}


def rows_of(vae, predictor=None, count: int = 4):
    measured = measure(vae, predictor or vae, Clips(count), count, 9, None, ReconstructionConfig(**COMMON), ALONE)
    return {(row.metric, row.subject): row for row in make_rows(measured, None, "not asked for; see elsewhere")}


def test_a_shift_by_a_known_amount_has_the_psnr_of_the_closed_form(judge):
    rows = rows_of(Known(shift=2 * 5 / 255))  # [-1, 1] spans 255 steps: five steps of uint8
    assert rows["PSNR", "reconstructed"].value == pytest.approx(-20 * math.log10(5 / 255), abs=1e-9)
    assert rows["change explained", "reconstructed"].value == pytest.approx(1.0)
    assert rows["PSNR", "reconstructed"].n == 4


def test_repeating_the_last_frame_scores_one_and_explains_no_change(judge):
    rows = rows_of(Known(shift=0.1))
    assert rows["error / repeat", "predicted"].value == pytest.approx(1.0)
    assert rows["change explained", "predicted"].value == pytest.approx(0.0, abs=1e-12)


def test_a_perfect_prediction_scores_zero_and_explains_all_change(judge):
    truth = to_float(torch.from_numpy(Clips().videos))
    rows = rows_of(Known(shift=0.1), Known(future=truth[:, :, 9:]))
    assert rows["error / repeat", "predicted"].value == pytest.approx(0.0, abs=1e-12)
    assert rows["change explained", "predicted"].value == pytest.approx(1.0)
    horizons = [metric for metric, subject in rows if metric.startswith("error / repeat, frame")]
    assert len(horizons) == 4


def test_what_was_not_measured_says_so(judge):
    rows = rows_of(Known(shift=0.1))
    assert rows["LPIPS (alex)", "reconstructed"].value is None
    assert rows["LPIPS (alex)", "reconstructed"].note.startswith("not measured: alexnet")
    assert rows["rFVD", "reconstructed"].note == "not measured: not asked for"


def test_rounding_to_uint8_costs_little_and_is_printed_as_a_ceiling(judge):
    rows = rows_of(Known(shift=0.1234))
    # the error of rounding lies within half a step: at least 54 dB
    assert rows["PSNR", "rounding"].value > 54 > rows["PSNR", "reconstructed"].value > rows["PSNR", "frozen"].value


def test_the_command_measures_a_run_and_writes_its_facts(chain, judge, capsys):
    out = reconstruction(ReconstructionConfig(runs_dir=str(chain.runs), samples=12, **COMMON))
    facts, rows = read_results(out)
    assert out == chain.tokenizer / "eval" / "reconstruction-moving_shapes-test-n12.json"
    assert facts["observed_frames"] == 9 and facts["data"] == "moving_shapes" and facts["split"] == "test"
    assert {"PSNR", "SSIM", "change explained", "error / repeat", "rFD-shapes"} <= {row.metric for row in rows}
    assert all(row.low <= row.value <= row.high for row in rows if row.value is not None)
    assert any("Kinetics-400" in words for words in facts["differences"])
    assert "rFD-shapes" in capsys.readouterr().out


def test_a_folder_that_names_no_data_set_asks_for_one(chain, judge, tmp_path):
    from tokenizer.zoo import load

    load(chain.tokenizer).save_pretrained(tmp_path / "vae")
    with pytest.raises(InputError, match="--data is needed"):
        reconstruction(ReconstructionConfig(runs_dir=str(tmp_path), tokenizer=str(tmp_path / "vae"), **COMMON))


def test_an_unknown_tokenizer_is_named_and_not_its_data(tmp_path):
    with pytest.raises(InputError, match="'nosuch' is neither a folder nor a known name"):
        reconstruction(ReconstructionConfig(runs_dir=str(tmp_path), tokenizer="nosuch", **COMMON))


def test_a_size_that_does_not_fit_names_the_nearest_one(chain, judge):
    with pytest.raises(InputError, match="must be a multiple of 16; nearest: 32"):
        reconstruction(ReconstructionConfig(runs_dir=str(chain.runs), samples=2, size=36, **COMMON))
