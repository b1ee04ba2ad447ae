"""The card of a tokenizer: one file and one page, for anybody's."""

import json
import sys

import pytest
from pages import assert_readable

from eval import speed as speed_module
from eval.analysis.sources import source_of
from eval.card import CardConfig, card
from eval.measurements import Measurer
from eval.results.rows import read_results
from eval.verify import VERIFIED, VerifyConfig, verify
from tokenizer import PVVAE

COMMON = {"device": "auto", "dtype": "float32", "samples": 6, "clips": 2, "features": "shapes"}
OWN = '''
import torch
from tokenizer import Posterior, TokenizerSpec
from tokenizer.spec import LatentStatistics

class Frames(LatentStatistics):
    """The mean colour of 4 frames and 8x8 pixels."""
    spec = TokenizerSpec(name="<frames>", temporal=4, spatial=8, channels=3)
    encoder_hash = decoder_hash = "frames"

    def __init__(self):
        super().__init__(3)

    def encode(self, video, chunk_groups=None):
        video = torch.nn.functional.avg_pool3d(video, (1, 8, 8))
        rest = video[:, :, 1:].unflatten(2, (-1, 4)).mean(3)
        return Posterior(torch.cat([video[:, :, :1], rest], dim=2))

    def decode(self, latents, chunk_groups=None):
        frames = torch.cat([latents[:, :, :1], latents[:, :, 1:].repeat_interleave(4, dim=2)], dim=2)
        return torch.nn.functional.interpolate(frames, scale_factor=(1, 8, 8))
'''


def counting(patch: pytest.MonkeyPatch) -> list[int]:
    """Will hold how many clips were encoded at a time, of those that are measured; shown ones go one by one."""
    encoded, original = [], PVVAE.encode

    def counted(self, video, chunk_groups=None):
        if video.shape[2] == 17 and len(video) > 1:
            encoded.append(len(video))
        return original(self, video, chunk_groups)

    patch.setattr(PVVAE, "encode", counted)
    return encoded


@pytest.fixture(scope="module")
def made(chain, judging, tmp_path_factory):
    """The flags of a card that was made where nothing had been kept, its file, and what was encoded for it."""
    flags = {"runs_dir": str(tmp_path_factory.mktemp("card")), "tokenizer": str(chain.tokenizer), "speed": False}
    with judging() as patch:
        encoded = counting(patch)
        return flags, card(CardConfig(**flags, **COMMON)), encoded


def test_the_page_of_a_card_can_be_read(made, browser):
    assert_readable(browser, made[1].with_suffix(".html"))


def test_a_run_has_every_number_and_clips_are_encoded_once(made, judge, monkeypatch):
    flags, out, encoded = made
    assert encoded == [6]
    facts, rows = read_results(out)
    found = {(row.metric, row.subject): row for row in rows}
    assert facts["kind"] == "card" and facts["label"] == "vae" and facts["random_weights"] is False
    wanted = [("PSNR", "reconstructed"), ("rFD-shapes", "reconstructed"), ("error / repeat, frame +1", "predicted")]
    wanted += [("LTD, interval 4", "latents"), ("VIV", "latents"), ("rate", "latents")]
    wanted += [("tfd-shapes-1+4k", "averaged latents"), ("tfd-shapes-1+4k", "latents as they are")]
    assert all(found[name].value is not None and found[name].low < found[name].high for name in wanted)
    assert facts["shown_to_go_with"]["VIV"] == {"what": source_of("VIV").shown, "by": source_of("VIV").by}
    assert {row.metric for row in rows} == facts["shown_to_go_with"].keys()
    page = out.with_suffix(".html").read_text()
    assert "Card of vae" in page and "By frames ahead" in page and "untrained network" not in page
    checks = verify(VerifyConfig(results=str(out)))
    assert {check.state for check in checks if "LPIPS" not in check.what} == {VERIFIED}
    # A second time nothing is measured again.
    monkeypatch.setattr(Measurer, "measure", lambda *_: pytest.fail("measured again"))
    encoded = counting(monkeypatch)
    card(CardConfig(**flags, **COMMON))
    assert encoded == [] and read_results(out)[1] == rows


def test_random_weights_are_called_random_in_file_and_page(chain, judge, tmp_path):
    flags = {"runs_dir": str(tmp_path), "tokenizer": str(chain.tokenizer), "weights": "random", **COMMON}
    flags |= {"data": "moving_shapes", "size": 32, "speed": False, "out": str(tmp_path / "a.json"), "clips": 0}
    facts, rows = read_results(card(CardConfig(**flags)))
    assert facts["label"] == "vae (random weights)" and facts["random_weights"] is True
    assert (
        next(row for row in rows if row.metric == "error / repeat").value is None
    )  # those learned to predict are others
    page = (tmp_path / "a.html").read_text()
    assert "Card of vae (random weights)" in page and "Its weights are random" in page


def test_a_class_of_ones_own_has_a_card_with_speed(judge, tmp_path, monkeypatch):
    (tmp_path / "own_tokenizer.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(speed_module.DEFAULTS["cpu"], "repeats", 1)
    config = CardConfig(tokenizer="own_tokenizer:Frames", data="moving_shapes", size=16, out="card.html", **COMMON)
    out = card(config)
    sys.modules.pop("own_tokenizer", None)
    assert out.name == "card.json" and "&lt;frames&gt;" in (tmp_path / "card.html").read_text()
    facts, rows = read_results(out)
    found = {(row.metric, row.subject): row for row in rows}
    assert facts["label"] == "<frames>" and json.loads(out.read_text())["spec"]["spatial"] == 8
    assert found["rate", "latents"].value is None and found["error / repeat", "predicted"].value is None
    assert found["ISpeed", "speed"].value > 0 and found["tokens", "speed"].value == 20
    assert found["PSNR", "reconstructed"].value > 10


def test_a_class_of_ones_own_may_predict(judge, tmp_path, monkeypatch):
    more = """
    def predict(self, observed, groups):
        return torch.cat([observed, observed[:, :, -1:].expand(-1, -1, 4 * groups, -1, -1)], dim=2)
"""
    (tmp_path / "standing_tokenizer.py").write_text(OWN + more)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    flags = {"tokenizer": "standing_tokenizer:Frames", "data": "moving_shapes", "size": 16, "speed": False}
    _, rows = read_results(card(CardConfig(**flags, out="a.json", **COMMON)))
    found = {row.metric: row.value for row in rows if row.subject == "predicted"}
    assert found["error / repeat"] == pytest.approx(1.0) and found["change explained"] == pytest.approx(0.0)


def test_what_cannot_be_measured_says_why(judge, tmp_path, monkeypatch):
    (tmp_path / "single_tokenizer.py").write_text(
        OWN.replace("temporal=4", "temporal=1").replace("(-1, 4)", "(-1, 1)").replace("interleave(4", "interleave(1")
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    flags = {
        "tokenizer": "single_tokenizer:Frames",
        "data": "moving_shapes",
        "size": 16,
        "speed": False,
        "out": "a.json",
    }
    _, rows = read_results(card(CardConfig(**flags, **COMMON)))
    row = next(row for row in rows if row.metric == "tFVD")
    assert row.value is None and "four groups are 4 frames" in row.note


@pytest.mark.real
def test_real_clips_have_a_card(tmp_path, real_data):
    root = str(real_data / "ucf101_96")
    flags = {"tokenizer": "moving-shapes", "data": "ucf101", "root": root, "split": "all", "size": 32, "speed": False}
    flags |= {"runs_dir": str(tmp_path), "out": str(tmp_path / "a.json")}
    facts, rows = read_results(card(CardConfig(**flags, **COMMON)))
    found = {(row.metric, row.subject): row for row in rows}
    assert (
        "stride 3, less of shorter videos" in found["tfd-shapes-1+4k", "averaged latents"].note
        and facts["frame_stride"] == 1
    )
    assert found["VIV", "latents"].low < found["VIV", "latents"].value
