"""The page: whole, self-contained, and honest about what it shows."""

from __future__ import annotations

import base64
import io
import re
import shutil
from html.parser import HTMLParser

import pytest

from eval.convergence import ConvergenceConfig, convergence
from eval.fvd import FVDConfig, fvd
from eval.page.sections import adversarial_words, curves_section, differences_section, real_section
from eval.protocols.presets import guessed
from eval.reconstruction import ReconstructionConfig, reconstruction
from eval.report import ReportConfig, folders_without_run, newest_results, report
from eval.results.rows import Row, format_number, read_results, write_results
from latents_cache import open_latents
from runtime.checkpoint import list_checkpoints
from runtime.errors import InputError
from runtime.records import read_json, write_json
from runtime.run import read_run

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
    pictures = [address for address in found.addresses if not address.startswith("#")]
    assert pictures and all(address.startswith("data:image/webp;base64,") for address in pictures)
    assert "link" not in found.tags and text.count("<script") == 1
    assert not re.search(r"https?://", re.sub(r'src="[^"]*"', "", text))
    # Every link of the page leads to a section of it.
    assert {address[1:] for address in found.addresses if address.startswith("#")} == set(
        re.findall(r'<section id="([^"]+)"', text)
    )


def test_the_page_shows_every_kind_of_clip_and_says_what_it_is(written):
    from PIL import Image

    text, _ = written
    headings = Page(text).headings
    assert headings[:3] == [
        "Real, reconstructed, predicted",
        "Generated, trained just now, guidance 1",
        "Generated, trained just now, guidance 2",
    ]
    pictures = re.findall(
        r'<img src="data:image/webp;base64,([^"]+)" alt="([^"]+)" data-frames="17" data-columns="5"', text
    )
    assert len(pictures) == text.count("<img") == 60
    first = Image.open(io.BytesIO(base64.b64decode(pictures[0][0])))
    assert first.size == (5 * 32, 4 * 32) and pictures[0][1].startswith("real: disc")
    assert text.count('data-observed="9"') == 12
    assert "that no training has seen" in text and "disc bounce" in text and "judge" in text


@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_is_sound_in_a_browser(written, browser, tmp_path, width):
    (tmp_path / "page.html").write_text(written[0], "utf-8")
    browser.open(tmp_path / "page.html", width=width, dark=width < 600)
    assert browser.complaints() == [] and browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("document.querySelectorAll('canvas').length") == 60
    assert {address.partition(":")[0] for address in browser.requests()} == {"file", "data"}


def test_the_page_begins_with_what_was_found(written):
    text, _ = written
    top = text[: text.index("<main>")]
    for words in ("FD-shapes of generated clips", "The tokenizer reconstructs at", "of the squared error of repeating"):
        assert words in top, words
    assert top.count("<div class=finding>") == 4 and "other real clips" in top


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
    assert text.count('<figure class="chart">') == 5
    # One of the four steps of the tokenizer is the decoder stage's, where the adversarial loss begins at once.
    assert "adversarial loss of weight 0.05 in 1 of 4 steps" in text and "no GAN" not in text
    assert "FD-shapes" in printed and "report.html" in printed


def test_the_page_holds_differences_and_what_other_protocols_measured(written):
    text, printed = written
    for words in (">3.25<", "protocol latte@0123", "<li>frames: 16 (paper: 17)", "<td>FD-shapes ↓", "<td>PSNR ↑"):
        assert words in text, words
    # Two differences of this run, to two others, one of them in a file of an older name.
    for words in ("7.125", "8.125", "<li>a: this.json", "<li>b: old.json", "<li>b: new.json"):
        assert words in text, words
    assert text.count("<h3>difference</h3>") == 2 and "8.125" in printed
    # What is said of a difference is no difference to the paper.
    assert text.index("errs in 5 % of cases") < text.index("<h2>How this differs from the paper")
    assert text.count("errs in 5 % of cases") == 2


def test_the_page_says_what_the_paper_leaves_open(written):
    from html import escape

    text, _ = written
    after = text.index("What the paper leaves open")
    assert text.index("<h2>How this differs from the paper") < after < text.index("<h2>What was run")
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
    found = [facts for facts, _ in newest_results([tmp_path / "vae/eval", tmp_path / "gen/eval"], "ucf101")]
    assert [facts["kind"] for facts in found] == ["reconstruction", "fvd", "protocols", "protocols"]
    assert found[1]["created"] == "2026-01-02"
    said = [protocol["differences"] for facts in found for protocol in facts.get("protocols", {}).values()]
    assert said == [["latte-again"], ["tats"]]
    assert newest_results([tmp_path / "nowhere"], "ucf101") == []
    more = {"old": {}, "new": {}, "guided": {"guidance_scale": 2.0}, "finer": {"tokenizer": "d"}}
    for day, (name, facts) in enumerate(more.items(), 1):
        write("gen", f"c-{name}", "convergence", f"2026-01-0{day}", data="ucf101", title=name, **facts)
    curves = [facts for facts, _ in newest_results([tmp_path / "gen/eval"], "ucf101") if facts["kind"] == "convergence"]
    assert sorted(facts["title"] for facts in curves) == ["finer", "guided", "new"]


def test_results_of_a_tokenizer_without_a_run_are_found_by_its_encoder(tmp_path):
    for folder, encoder in (("shipped-mine", "ours"), ("baseline-other-0123", "theirs"), ("some-run", "ours")):
        path = tmp_path / folder / "eval" / "a.json"
        write_results(path, kind="reconstruction", rows=[], encoder_hash=encoder, data="ucf101", tokenizer=folder)
    folders = folders_without_run(tmp_path)
    assert [folder.parent.name for folder in folders] == ["baseline-other-0123", "shipped-mine"]
    (only,) = newest_results(folders, "ucf101", "ours")
    assert only[0]["tokenizer"] == "shipped-mine"


def test_shipped_weights_have_a_section_that_names_their_hours_and_commands(measured, tmp_path, monkeypatch):
    import json
    import shutil

    from runtime.checkpoint import find_checkpoint

    shipped, newest = tmp_path / "shipped", find_checkpoint(measured.generator)
    shipped.mkdir()
    shutil.copy(newest / "ema.safetensors", shipped / "model.safetensors")
    for name in ("config.json", "state.json"):
        shutil.copy(newest / name, shipped)
    row = {"metric": "FD-shapes", "subject": "generated", "value": 1.25, "low": 1.0, "high": 1.5, "n": 2048}
    made = {"tokenizer": {"hours": 1.5, "command": "make it"}, "generator": {"hours": 2, "command": "make the other"}}
    manifest = made | {"rows": [row]}
    (shipped / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setitem(__import__("generator.loading").loading.SHIPPED, "moving-shapes", shipped)
    out = report(
        ReportConfig(runs_dir=str(measured.runs), clips=2, steps=1, out=str(tmp_path / "report.html"), **COMMON)
    )
    text = out.read_text()
    assert "Shipped, trained 1.5 + 2.0 hours by these commands" in Page(text).headings
    assert "make it\nmake the other" in text and "1.25" in text


def test_a_run_without_any_measurement_or_weights_to_predict_with_still_has_a_page(chain, judge, tmp_path, monkeypatch):
    monkeypatch.setattr("tokenizer.zoo.video_folder", lambda _: None)

    runs = tmp_path / "runs"
    shutil.copytree(chain.generator, runs / "gen", ignore=shutil.ignore_patterns("samples", "eval"))
    out = report(
        ReportConfig(runs_dir=str(runs), clips=2, steps=1, shipped=False, out=str(tmp_path / "report.html"), **COMMON)
    )
    text = out.read_text()
    assert Page(text).headings[0] == "Real, reconstructed" and "of the video stage" not in text
    assert not list(tmp_path.glob("*.partial"))


def test_beside_reconstructions_by_other_weights_than_a_runs_own_nothing_is_predicted(chain):
    config, run = ReportConfig(runs_dir=str(chain.runs), clips=2, **COMMON), read_run(chain.generator, "generator")
    with open_latents(chain.latents) as reader:
        facts = reader.attributes
    assert "of the video stage, from padding," in real_section(config, run, facts)
    other = {name: value for name, value in facts.items() if name != "encoder_hash"} | {"weights": "random"}
    assert "what is predicted" not in real_section(config, run, other)


def test_curves_that_were_drawn_in_different_ways_have_different_titles(chain):
    record = {"kind": "convergence", "metric": "FD-shapes", "samples": 8, "floor": 1.0, "untrained": 9.0}
    record |= dict.fromkeys(("curve", "curve_to_reconstructions"), [{"step": 1, "value": 2.0, "low": 1.5, "high": 2.5}])
    ways = [{}, {"guidance_scale": 2.0}, {"guidance_scale": 2.0, "guidance_interval": [0.1, 0.9]}, {"labels": "drawn"},
            {"tokenizer": "finer"}, {"weights": "w"}]  # fmt: skip
    text = curves_section(read_run(chain.generator, "generator"), None, [(record | way, []) for way in ways])
    titles = re.findall(r"<figcaption>(FD-shapes, .*?)</figcaption>", text)
    assert len(titles) == len(set(titles)) == len(ways)


def test_a_run_that_began_from_another_does_not_call_its_steps_all(chain):
    run, vae = read_run(chain.generator, "generator"), read_run(chain.tokenizer, "tokenizer")
    vae.config["init_from"] = None
    assert "steps in all" in differences_section(run, vae, [])
    vae.config["init_from"] = "runs/pictures"
    assert "steps after those of runs/pictures (paper" in differences_section(run, vae, [])


def test_latents_of_a_checkpoint_have_its_results_and_its_steps_on_the_page(chain, judge, tmp_path):
    """RUN@STEP: here the weights before the decoder's fine-tuning, which have the same encoder."""
    runs = tmp_path / "runs"
    vae = shutil.copytree(chain.tokenizer, runs / "vae", ignore=shutil.ignore_patterns("eval"))
    run = shutil.copytree(chain.generator, runs / "gen", ignore=shutil.ignore_patterns("samples", "eval"))
    *_, (step, _), _ = list_checkpoints(vae)
    manifest = read_json(run / "manifest.json")
    manifest["latents"]["tokenizer"] = f"{vae}@{step}"
    write_json(run / "manifest.json", manifest)
    flags = {"runs_dir": str(runs), **COMMON}
    reconstruction(ReconstructionConfig(tokenizer=str(vae), samples=4, **flags))
    found = reconstruction(ReconstructionConfig(tokenizer=f"{vae}@{step}", samples=4, **flags))
    assert found.parent == vae / "eval" / f"step_{step:08d}"
    decibels = next(
        row.value for row in read_results(found)[1] if (row.metric, row.subject) == ("PSNR", "reconstructed")
    )
    out = report(ReportConfig(clips=2, steps=1, shipped=False, out=str(tmp_path / "report.html"), **flags))
    text = out.read_text()
    assert f"trained {step:,} steps in all" in text and "tokenizer loss terms" in text
    assert "eval.reconstruction</th>" in text and not (vae / "eval" / "parts.jsonl").exists()
    assert f">{format_number(decibels)}<" in text


def test_the_folder_whose_clips_a_run_would_show_is_said(chain, tmp_path, capsys):
    run = shutil.copytree(chain.generator, tmp_path / "gen", ignore=shutil.ignore_patterns("samples", "eval"))
    manifest = read_json(run / "manifest.json")
    private = {"data": "videos", "root": str(tmp_path / "private")}
    write_json(run / "manifest.json", manifest | {"latents": manifest["latents"] | private})
    with pytest.raises(InputError, match="private"):
        report(ReportConfig(run=str(run), runs_dir=str(tmp_path), out=str(tmp_path / "r.html"), **COMMON))
    assert f"shows clips of {tmp_path / 'private'}" in capsys.readouterr().out


def test_a_missing_folder_is_refused_before_any_work(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        report(ReportConfig(runs_dir=str(tmp_path / "none"), out=str(tmp_path / "nowhere" / "report.html")))


def test_no_run_says_which_command_makes_one(tmp_path):
    with pytest.raises(InputError, match="generator.train"):
        report(ReportConfig(runs_dir=str(tmp_path), out=str(tmp_path / "report.html")))
