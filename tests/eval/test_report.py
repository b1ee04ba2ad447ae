"""The page: whole, self-contained, and honest about what it shows."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from eval.convergence import ConvergenceConfig, convergence
from eval.fvd import FVDConfig, fvd
from eval.page.document import results_table
from eval.page.figures import OBSERVED, PREDICTED, animation, bordered, curve, log_ticks, side_by_side, smoothed, ticks
from eval.page.sections import adversarial_words
from eval.protocols.presets import guessed
from eval.reconstruction import ReconstructionConfig, reconstruction
from eval.report import ReportConfig, newest_results, report
from eval.results.rows import Row, write_results
from runtime.errors import InputError

COMMON = {"device": "cpu", "dtype": "float32"}
VOID = {"meta", "img", "line", "polyline", "circle", "br", "link", "input"}


class Page(HTMLParser):
    """Checks nesting, and collects tags, addresses and headings."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.addresses, self.headings, self.tags = [], [], [], set()
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


@pytest.fixture
def measured(chain, judge):
    flags = {"runs_dir": str(chain.runs), **COMMON}
    reconstruction(ReconstructionConfig(samples=12, **flags))
    fvd(FVDConfig(samples=12, steps=2, guidance_scales=(1.0, 2.0), **flags))
    convergence(ConvergenceConfig(samples=8, steps=2, **flags))
    return chain


@pytest.fixture
def written(measured, tmp_path, capsys):
    folder = measured.generator / "eval"
    facts = {"data": "moving_shapes", "protocols": {"latte": {"differences": ["frames: 16 (paper: 17)"]}}}
    made = [Row(metric="FD-shapes", subject="generated, latte", value=3.25, n=12, protocol="latte@0123")]
    write_results(folder / "protocols.json", kind="protocols", rows=made, **facts)
    for b, kind, value in (("old", "comparison", 7.125), ("new", "difference", 8.125)):
        row = Row(metric="PSNR", subject="generated, a - b", value=value, n=12, note="a is better")
        sides = {"a": "this.json", "b": f"{b}.json", "of": "fvd", "differences": ["errs in 5 % of cases"]}
        write_results(folder / f"{b}.json", kind=kind, rows=[row], **sides)
    out = report(
        ReportConfig(
            runs_dir=str(measured.runs), clips=12, steps=2, shipped=False, out=str(tmp_path / "report.html"), **COMMON
        )
    )
    yield out.read_text(), capsys.readouterr().out
    for name in ("protocols", "old", "new"):  # others measure in this folder too
        (folder / f"{name}.json").unlink()


def test_the_page_needs_nothing_but_itself(written):
    text, _ = written
    found = Page(text)
    assert found.addresses and all(address.startswith("data:image/webp;base64,") for address in found.addresses)
    assert "script" not in found.tags and "link" not in found.tags
    assert not re.search(r"https?://", re.sub(r'src="[^"]*"', "", text).replace("http://www.w3.org/2000/svg", ""))
    assert "prefers-color-scheme: dark" in text and "width=device-width" in text


def test_the_page_shows_every_kind_of_clip_and_the_clips_play(written):
    from PIL import Image

    text, _ = written
    headings = Page(text).headings
    assert headings[:3] == [
        "Real, reconstructed, predicted",
        "Generated, trained just now, guidance 1",
        "Generated, trained just now, guidance 2",
    ]
    pictures = re.findall(r'src="data:image/webp;base64,([^"]+)"', text)
    assert len(pictures) == 36
    first = Image.open(io.BytesIO(base64.b64decode(pictures[0])))
    assert first.n_frames == 17 and first.size == (32 + 2 + 32 + 2 + 36, 36)
    assert "that no training has seen" in text and "disc bounce" in text and "judge" in text


def test_the_page_holds_curves_numbers_times_and_differences(written):
    text, printed = written
    for words in (
        "flow loss",
        "PSNR on held-out clips",
        "FD-shapes, 8 clips",
        "other real clips",
        "How this differs from the paper",
        "What was run",
        "eval.fvd",
        "cores",
        "torch ",
        "paper: 250,000",
        "change explained",
    ):
        assert words in text, words
    assert text.count("<svg") == 5
    # One of the four steps of the tokenizer is the decoder stage's, where the adversarial loss begins at once.
    assert "adversarial loss of weight 0.05 in 1 of 4 steps" in text and "no GAN" not in text
    assert "FD-shapes" in printed and "report.html" in printed


def test_the_page_holds_differences_and_what_other_protocols_measured(written):
    text, printed = written
    for words in ("<td>3.25", "protocol latte@0123", "<li>frames: 16 (paper: 17)", "<td>FD-shapes ↓", "<td>PSNR ↑"):
        assert words in text.replace('<td class="n">', "<td>"), words
    # Two differences of this run, to two others, one of them in a file of an older name.
    for words in ("7.125", "8.125", "<li>a: this.json", "<li>b: old.json", "<li>b: new.json"):
        assert words in text, words
    assert text.count("<b>difference</b>") == 2 and "8.125" in printed
    # What is said of a difference is no difference to the paper.
    assert text.index("errs in 5 % of cases") < text.index("How this differs from the paper")
    assert text.count("errs in 5 % of cases") == 2


def test_the_page_says_what_the_paper_leaves_open(written):
    from html import escape

    text, _ = written
    after = text.index("What the paper leaves open")
    assert text.index("How this differs from the paper") < after < text.index("What was run")
    assert all(text.index(f"<li>{escape(words)}</li>") > after for words in guessed())
    for subject in ("which real clips", "real clips from", "real clips start", "frames", "flips", "guidance"):
        assert any(words.startswith(f"{subject}: ") for words in guessed()), subject


def test_a_tokenizer_without_adversarial_loss_is_not_said_to_have_one():
    log = [{"step": 1, "mse": 0.5}, {"step": 2, "mse": 0.5, "gan": 0.1}, {"step": 2, "val_psnr": 20.0}]
    assert adversarial_words({"gan_weight": 0.05}, log) == "adversarial loss of weight 0.05 in 1 of 2 steps"
    assert adversarial_words({"gan_weight": 0.0}, log) == adversarial_words({}, log) == "no adversarial loss"


def test_of_each_kind_the_newest_results_are_shown_run_by_run(tmp_path):
    def write(run: str, name: str, kind: str, created: str, **facts):
        write_results(tmp_path / run / "eval" / f"{name}.json", kind=kind, rows=[], **facts, created=created)

    for name, created in (("z-first", "2026-01-01"), ("a-second", "2026-01-02")):
        write("gen", name, "fvd", created, data="ucf101")
    write("gen", "other", "fvd", "2026-01-03", data="sky")
    write("gen", "speed", "speed", "2026-01-03", data="ucf101")
    for name, created in (("latte", "2026-01-01"), ("latte-again", "2026-01-02")):
        write("gen", name, "protocols", created, data="ucf101", protocols={"latte": {"differences": [name]}})
    write("gen", "tats", "protocols", "2026-01-01", data="ucf101", protocols={"tats": {"differences": ["tats"]}})
    write("vae", "rec", "reconstruction", "2026-01-03", data="ucf101")
    found = [facts for facts, _ in newest_results([tmp_path / "vae", tmp_path / "gen"], "ucf101")]
    assert [facts["kind"] for facts in found] == ["reconstruction", "fvd", "protocols", "protocols"]
    assert found[1]["created"] == "2026-01-02"
    said = [protocol["differences"] for facts in found for protocol in facts.get("protocols", {}).values()]
    assert said == [["latte-again"], ["tats"]]
    assert newest_results([tmp_path / "nowhere"], "ucf101") == []


def test_shipped_weights_have_a_section_that_names_their_hours_and_command(measured, tmp_path, monkeypatch):
    import json
    import shutil

    from runtime.checkpoint import find_checkpoint

    shipped, newest = tmp_path / "shipped", find_checkpoint(measured.generator)
    shipped.mkdir()
    shutil.copy(newest / "ema.safetensors", shipped / "model.safetensors")
    for name in ("config.json", "state.json"):
        shutil.copy(newest / name, shipped)
    row = {"metric": "FD-shapes", "subject": "generated", "value": 1.25, "low": 1.0, "high": 1.5, "n": 2048}
    manifest = {"hours": 3.5, "commands": ["make demo SCALE=long"], "rows": [row]}
    (shipped / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setitem(__import__("generator.loading").loading.SHIPPED, "moving-shapes", shipped)
    out = report(
        ReportConfig(runs_dir=str(measured.runs), clips=2, steps=1, out=str(tmp_path / "report.html"), **COMMON)
    )
    text = out.read_text()
    assert "Shipped, trained 3.5 hours by this command" in Page(text).headings
    assert "make demo SCALE=long" in text and "1.25" in text


def test_a_run_without_any_measurement_or_weights_to_predict_with_still_has_a_page(chain, judge, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr("tokenizer.zoo.video_folder", lambda _: None)

    runs = tmp_path / "runs"
    shutil.copytree(chain.generator, runs / "gen", ignore=shutil.ignore_patterns("samples", "eval"))
    out = report(
        ReportConfig(runs_dir=str(runs), clips=2, steps=1, shipped=False, out=str(tmp_path / "report.html"), **COMMON)
    )
    text = out.read_text()
    assert Page(text).headings[0] == "Real, reconstructed" and "of the video stage" not in text
    assert not list(tmp_path.glob("*.partial"))


def test_a_missing_folder_is_refused_before_any_work(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        report(ReportConfig(runs_dir=str(tmp_path / "none"), out=str(tmp_path / "nowhere" / "report.html")))


def test_no_run_says_which_command_makes_one(tmp_path):
    with pytest.raises(InputError, match="generator.train"):
        report(ReportConfig(runs_dir=str(tmp_path), out=str(tmp_path / "report.html")))


def test_animation_keeps_every_pixel_of_every_frame():
    from PIL import Image

    clip = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    picture = Image.open(io.BytesIO(base64.b64decode(animation(clip).split(",")[1])))
    for number, frame in enumerate(clip):
        picture.seek(number)
        assert np.array_equal(np.asarray(picture.convert("RGB")), frame)


def test_borders_tell_observed_from_predicted_frames():
    out = bordered(np.zeros((3, 4, 4, 3), dtype=np.uint8), observed=2, width=1)
    assert out.shape == (3, 6, 6, 3)
    assert [tuple(frame[0, 0]) for frame in out] == [OBSERVED, OBSERVED, PREDICTED]
    assert not out[:, 1:-1, 1:-1].any()


def test_clips_side_by_side_are_centred_with_transparent_gaps():
    out = side_by_side([np.full((2, 4, 4, 3), 7, np.uint8), np.full((2, 6, 6, 3), 9, np.uint8)], gap=2)
    assert out.shape == (2, 6, 12, 4)
    assert (out[:, :, 4:6, 3] == 0).all() and (out[:, 0, :4, 3] == 0).all() and (out[:, 1:5, :4, 0] == 7).all()


def test_ticks_are_round_and_inside():
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(0.013, 0.087) == [0.02, 0.04, 0.06, 0.08]
    assert log_ticks(0.5, 2000) == [1, 10, 100, 1000]
    assert log_ticks(3, 30) == [5, 10, 20]
    assert all(4.1 <= value <= 4.9 for value in log_ticks(4.1, 4.9))


def test_a_curve_leaves_out_what_cannot_be_drawn():
    drawn = curve(
        {"loss": [(1, 2.0), (2, float("nan")), (3, None), (4, -1.0), (5, 1.0)]},
        x_label="step",
        y_label="loss",
        log_y=True,
    )
    assert drawn.count("<circle") == 2 and "nan" not in drawn
    assert "Nothing was logged" in curve({"loss": []}, x_label="step", y_label="loss")


def test_a_long_log_becomes_a_short_line_of_means():
    points = [(float(i), float(i % 2)) for i in range(3000)]
    short = smoothed(points)
    assert len(short) == 150 and all(abs(y - 0.5) < 0.05 for _, y in short)
    assert smoothed(points[:10]) == points[:10]


def test_the_table_escapes_words_and_greys_controls():
    rows = [
        Row(metric="FD <b>", subject="real", value=1.0, low=0.5, high=1.5, n=3),
        Row(metric="LPIPS", subject="reconstructed", value=None),
    ]
    drawn = results_table(rows)
    assert "FD &lt;b&gt;" in drawn and drawn.count('class="control"') == 1 and "0.5 … 1.5" in drawn and "–" in drawn
