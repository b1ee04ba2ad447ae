"""`eval.latents` on a run, on others beside it, and on latents files."""

import re

import numpy as np
import pytest
from pages import assert_readable

from eval.analysis import kept_latents
from eval.latents import LatentsConfig, latents
from eval.results.rows import read_results
from eval.verify import VERIFIED, VerifyConfig, verify
from runtime.command import parse
from runtime.errors import InputError

COMMON = {"device": "auto", "dtype": "float32"}


def rows_of(path):
    return {row.metric: row for row in read_results(path)[1]}


@pytest.fixture(scope="module")
def both(chain, tmp_path_factory):
    """The flags of a page of two tokenizers, and the page."""
    flags = {"runs_dir": str(chain.runs), "samples": 9, "clips": 2, "size": 32, **COMMON}
    names = (f"a<b={chain.tokenizer}", f"untrained={chain.tokenizer}")
    out = tmp_path_factory.mktemp("latents") / "latents.html"
    config = LatentsConfig(tokenizer=names, weights=("own", "random"), out=str(out), **flags)
    return config, latents(config)


def test_the_page_of_latents_can_be_read(both, browser):
    assert_readable(browser, both[1])


def test_two_tokenizers_stand_on_one_page_and_each_has_its_results(chain, both, capsys, monkeypatch):
    config, out = both
    runs, text = chain.runs, out.read_text()
    assert "a&lt;b" in text and "a<b" not in text and "untrained (random weights)" in text and "exact flow" in text
    assert len(re.findall(r"principal directions of", text)) >= 4 and "0.87 over 86 image tokenizers" in text
    own = chain.tokenizer / "eval" / "latents-moving_shapes-test-32px-n9.json"
    (other,) = (path for path in runs.glob("*-weights-*/eval/latents-*.json"))
    facts, rows = read_results(own)
    assert facts["label"] == "a<b" and facts["samples"] == 9 and facts["curves"]["eigenspectrum"][0][0] == 1.0
    assert {row.subject for row in rows} == {"latents"} and rows_of(own)["VIV"].value != rows_of(other)["VIV"].value
    assert all(row.low <= row.value <= row.high for row in rows if row.value is not None)
    states = {check.state for check in verify(VerifyConfig(results=str(own)))}
    assert states == {VERIFIED}
    # A second time nothing is encoded.
    monkeypatch.setattr(kept_latents, "see_latents", lambda *_: pytest.fail("encoded again"))
    before = own.read_text()
    latents(config)
    assert read_results(own)[1] == rows and own.read_text() != before  # but for the time
    assert "VIV" in capsys.readouterr().out


def test_a_latents_file_gives_the_numbers_of_the_rows_that_it_holds(chain, tmp_path):
    flags = {"runs_dir": str(tmp_path), "out": str(tmp_path / "a.html"), **COMMON}
    latents(LatentsConfig(latents=(str(chain.latents),), samples=24, **flags))
    facts, rows = read_results(tmp_path / "latents-shapes-n24.json")
    assert facts["data"] == "moving_shapes" and facts["encoder_hash"] and not rows[0].sources
    kept, _ = kept_latents.kept_of_file(chain.latents, 24, 0)
    found = kept_latents.latent_set(kept)
    assert found.latents.shape == (24, 4, 5, 2, 2) and np.bincount(found.labels).tolist() == [2] * 12
    values = {row.metric: row.value for row in rows}
    apart = np.linalg.norm(
        (found.latents[:, :, 1:] - found.latents[:, :, :-1]).swapaxes(1, 2).reshape(24, 4, -1), axis=2
    )
    assert values["LTD, interval 1"] == pytest.approx(apart.mean(), rel=1e-5) and values["rate"] > 0
    assert "Latents as colours" not in (tmp_path / "a.html").read_text()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--latents a.h5 --tokenizer b", "one of them will do"),
        ("--latents a.h5,b/a.h5", "two files of one name"),
        ("--tokenizer a,b --weights own,random,own", "gives 3 to 2"),
        ("--tokenizer a,a", "different labels"),
        ("--samples 1", "too small"),
    ],
)
def test_flags_that_contradict_are_refused(line, words):
    with pytest.raises(InputError, match=words):
        parse(line.split(), LatentsConfig)
