"""Parts of the page: clips as sheets, tables, curves, and what was found in words."""

import base64
import hashlib
import io
import re
import tomllib
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from eval.page.clips import Clip, clip_grid, clip_table, picture, sheet
from eval.page.document import Cell, Finding, data_table, facts_table, folded, page, results_table, save_page, section
from eval.page.figures import curve, dots, log_ticks, short, smoothed, ticks
from eval.page.found import found_in, verdict
from eval.page.sections import curves_section
from eval.results.rows import Row

EVIL = "<script>alert(1)</script>\"'&"
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;"


def clip_of(seed: int = 0, frames: int = 5, side: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, side, side, 3), dtype=np.uint8)


# -- clips -------------------------------------------------------------------------------------------------------------


def test_a_page_makes_its_folder(tmp_path):
    save_page(tmp_path / "new" / "page.html", "a \udce9")
    assert (tmp_path / "new" / "page.html").read_text() == "a &#56553;"


def test_a_small_clip_keeps_every_pixel_of_every_frame():
    from PIL import Image

    frames = clip_of(frames=5)
    address, count, columns = re.search(
        r'base64,([^"]+)".*data-frames="(\d+)" data-columns="(\d+)"', clip_grid([Clip(frames, "noise")])
    ).groups()
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(address))).convert("RGB"))
    assert (count, columns) == ("5", "3") and pixels.shape == (16, 24, 3)
    for number, frame in enumerate(frames):
        row, column = divmod(number, 3)
        assert np.array_equal(pixels[8 * row : 8 * row + 8, 8 * column : 8 * column + 8], frame)


def test_a_sheet_is_never_wider_than_a_picture_can_be():
    frames = np.zeros((30, 2, 6000, 3), dtype=np.uint8)
    assert 'data-columns="2"' in clip_grid([Clip(frames)])
    assert sheet(frames, 2).shape == (30, 12000, 3)


def test_a_table_of_clips_has_a_place_for_each_and_leaves_places_empty():
    table = clip_table(["a", "b"], [("real", [Clip(clip_of()), Clip(clip_of(1))]), ("other", [None, Clip(clip_of(2))])])
    assert table.count("<img") == 3 and table.count("<td></td>") == 2
    # Who does not see a clip is told where it stands, and what is written below it.
    assert [f'alt="{words}"' in table for words in ("real, a", "real, b", "other, b")] == [True] * 3
    assert 'alt="real, a, 9 dB"' in clip_table(["a"], [("real", [Clip(clip_of(), "9 dB")])])
    with pytest.raises(ValueError):
        clip_table(["a", "b"], [("real", [Clip(clip_of())])])


def test_words_of_clips_are_escaped():
    shown = clip_grid([Clip(clip_of(), EVIL, observed=2)]) + clip_table([EVIL], [(EVIL, [Clip(clip_of(), text=EVIL)])])
    shown += picture(clip_of()[0], EVIL, EVIL)
    assert "<script" not in shown and shown.count(ESCAPED) == 8


# -- the document ------------------------------------------------------------------------------------------------------


def test_the_policy_lets_only_the_pages_own_script_run():
    text = page("title", "lead", [section("A & B", "words")], [Finding("FD", "1.5", "low is good")])
    script = re.search(r"<script>(.*)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text and "default-src 'none'" in text
    assert '<a href="#a-b">A &amp; B</a>' in text and '<section id="a-b"><h2>A &amp; B</h2>' in text


def test_script_and_style_are_part_of_an_installed_package():
    root = Path(__file__).parents[2]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["eval.page"]
    beside = {path.name for path in (root / "eval" / "page").iterdir() if path.suffix not in (".py", "")}
    assert beside == {"page.css", "page.js"}
    assert all(any(fnmatch(name, pattern) for pattern in patterns) for name in beside)


def test_words_of_the_page_are_escaped():
    rows = [Row(metric=EVIL, subject=EVIL, value=1.0, note=EVIL, features=EVIL)]
    text = page(EVIL, "", [section(EVIL, results_table(rows, EVIL), facts_table([(EVIL, EVIL)]), folded(EVIL))],
                [Finding(EVIL, EVIL, EVIL)])  # fmt: skip
    text += curve({EVIL: [(1, 2)], "b": [(1, 2)]}, x_label=EVIL, y_label=EVIL, title=EVIL, levels={EVIL: 1.0})
    assert text.count("<script") == 1 and "alert(1)</script>" not in text


def test_the_table_escapes_words_greys_controls_and_sorts_by_all_digits():
    rows = [
        Row(metric="FD <b>", subject="real", value=1.23456789, low=0.5, high=1.5, n=3),
        Row(metric="LPIPS", subject="reconstructed", value=None),
    ]
    drawn = results_table(rows)
    assert "FD &lt;b&gt;" in drawn and drawn.count('class="control"') == 1 and "0.5 … 1.5" in drawn
    assert 'data-value="1.23456789">1.235<' in drawn and ">–<" in drawn


def test_a_table_sets_numbers_to_the_right_and_gives_prose_room():
    drawn = data_table(["name", "value", "note"], [("a", 1.5, "w" * 50), ("b", None, ""), ("c", Cell("2 s", 2.0), "")])
    assert re.findall(r"<th( class=\w+)? scope=col>", drawn) == ["", " class=n", " class=words"]
    assert drawn.count("<td class=n") == 3 and 'data-value="2.0">2 s<' in drawn


# -- curves ------------------------------------------------------------------------------------------------------------


def test_ticks_are_round_and_inside():
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(0.013, 0.087) == [0.02, 0.04, 0.06, 0.08]
    assert log_ticks(0.5, 2000) == [1, 10, 100, 1000]
    assert log_ticks(3, 30) == [5, 10, 20]
    assert all(4.1 <= value <= 4.9 for value in log_ticks(4.1, 4.9))
    assert [short(value) for value in (0, 0.05, 1234.5, 250000, 4e-7, 3e9)] == [
        "0", "0.05", "1,234", "250,000", "4e-07", "3e+09",
    ]  # fmt: skip


def test_a_curve_leaves_out_what_cannot_be_drawn():
    drawn = curve(
        {"loss": [(1, 2.0), (2, float("nan")), (3, None), (4, -1.0), (5, 1.0)]},
        x_label="step",
        y_label="loss",
        log_y=True,
        bands={"loss": [(1, -1.0, 3.0), (5, 0.5, 1.5)]},
        levels={"below": -3.0},
    )
    assert drawn.count('class="mark"') == 2 and "nan" not in drawn and "below" not in drawn
    assert '<polygon class="area"' in drawn  # down to the axis where an interval reaches below what has a place
    assert "nothing was logged" in curve({"loss": []}, x_label="step", y_label="loss")
    for log in (True, False):
        points = [(1, 1e-320), (2, 1.7e308), (10**400, 1.0), (3, 5.0), (4, 5.0)]
        drawn = curve({"loss": points}, x_label="step", y_label="loss", log_y=log, levels={"far": 1e300})
        assert drawn.count('class="mark"') == 2 + (not log) and "inf" not in drawn and "far" not in drawn


def test_a_curve_says_in_words_where_it_begins_and_ends():
    drawn = curve({"a": [(1, 2.0), (4, 8.0)], "b": [(2, 3.0)]}, x_label="step", y_label="loss, nats")
    assert 'aria-label="loss, nats against step. a: from 2 at 1 to 8 at 4; b: 3 at 2"' in drawn
    assert drawn.count("<li>") == 2 and "<title>a: 4, 8</title>" in drawn


def test_every_row_of_dots_has_its_numbers_and_their_mean_on_its_interval():
    rows, means = {"A": [1.0, 3.0], "C <b>": [-2.0], "D": []}, {"A": (2.0, 0.5, 3.5), "C <b>": (-2.0, None, None)}
    drawn = dots(rows, means, x_label="FD", title="Distances", level=("no difference", 0.0))
    assert 'aria-label="Distances, FD. A: 2 (0.5 to 3.5); C &lt;b&gt;: -2"' in drawn and "<b>" not in drawn
    circles = [
        [float(place) for place in found] for found in re.findall(r'<circle class="seed" cx="(.*?)" cy="(.*?)"', drawn)
    ]
    (left, low), (right, same), (least, below) = circles
    ((start, end),) = re.findall(r'<line class="band" x1="(.*?)" x2="(.*?)"', drawn)
    (zero,) = re.findall(r'<line class="level" x1="(.*?)"', drawn)
    assert least < float(zero) < float(start) < left < right < float(end) and low == same < below
    assert drawn.count('class="mark"') == 2 and ">D</text>" in drawn
    assert "nothing was measured" in dots({"A": []}, {}, x_label="FD", title="Distances")


def test_points_stand_at_their_place_on_a_logarithmic_axis():
    drawn = curve({"a": [(1, 1)], "b": [(1, 10)], "c": [(1, 100)]}, x_label="x", y_label="y", log_y=True, joined=False)
    low, middle, high = (
        float(y) for y in re.findall(r'<text class="name" x="[\d.]+" y="([\d.]+)" text-anchor="\w+">[abc]<', drawn)
    )
    assert low > high and abs((low + high) / 2 - middle) < 0.2 and "<polyline" not in drawn


def test_a_long_log_becomes_a_short_line_of_means():
    points = [(float(i), float(i % 2)) for i in range(3000)]
    found = smoothed(points)
    assert len(found) == 150 and all(abs(y - 0.5) < 0.05 for _, y in found)
    assert smoothed(points[:10]) == points[:10]


# -- what was found ----------------------------------------------------------------------------------------------------


def row(metric: str, subject: str, value: float, low: float | None = None, high: float | None = None) -> Row:
    return Row(metric=metric, subject=subject, value=value, low=low, high=high)


def test_a_verdict_needs_intervals_that_do_not_meet():
    ours = row("FD-shapes", "generated", 5.0, 4.0, 6.0)
    assert verdict(ours, row("FD-shapes", "untrained", 9.0, 7.0, 11.0)) == "better than"
    assert verdict(ours, row("FD-shapes", "untrained", 9.0, 5.5, 11.0)) == "not told apart from"
    assert verdict(ours, row("FD-shapes", "untrained", 2.0, 1.0, 3.0)) == "worse than"
    assert verdict(ours, row("FD-shapes", "untrained", 9.0)) == "not told apart from"
    assert verdict(row("PSNR", "reconstructed", 9.0, 8, 10), row("PSNR", "frozen", 6.0, 5, 7)) == "better than"


def test_what_was_found_stands_in_words_beside_its_rivals():
    rows = [
        row("FD-shapes", "generated", 5.0, 4.0, 6.0),
        row("FD-shapes", "untrained", 90.0, 80.0, 99.0),
        row("FD-shapes", "real", 1.0, 0.5, 1.5),
        row("accuracy-class", "generated", 0.5, 0.4, 0.6),
    ]
    rest = [row("PSNR", "reconstructed", 9.0, 8, 10), row("PSNR", "frozen", 16.0, 15, 17)]
    rest += [row("error / repeat", "predicted", 0.6, 0.5, 0.7), row("error / repeat", "blank", 0.65, 0.6, 0.7)]
    rest += [row("error / repeat", "grey", 0.7, 0.65, 0.75)]
    words, findings = found_in([({"kind": "reconstruction"}, rest), ({"kind": "fvd"}, rows)])
    assert "FD-shapes of generated clips is 5, better than that of an untrained generator (90)" in words
    assert "other real clips come to 1." in words and "asked for in 50 %" in words
    fewer, _ = found_in([({"kind": "fvd"}, [replace(one, n=8 if one.subject == "real" else 16) for one in rows])])
    assert "; 8 other real clips come to 1." in fewer
    assert "9.00 dB, worse than repeating the first frame (16.00 dB)" in words
    assert "better than it and not told apart from a flat picture (0.65)" in words
    assert [found.value for found in findings] == ["5", "50 %", "9.00 dB", "0.6"]
    words, _ = found_in(
        [({"kind": "reconstruction"}, [*rest, row("error / repeat", "grey", 0.4, 0.35, 0.45)][-1:] + rest[:-1])]
    )
    assert "worse than a flat picture (0.4)" in words  # the better one of two counts
    words, _ = found_in([({"kind": "reconstruction"}, rest[:-1])])  # as measured by an earlier version
    assert "a flat picture (0.65; plain grey, which is harder, was not measured)" in words
    assert found_in([]) == ("Nothing was measured yet.", [])


def test_a_curve_says_how_its_clips_were_made_where_that_is_not_the_plain_way(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 0.5}\n')
    points = [{"step": step, "value": 4.0 / step, "low": None, "high": None} for step in (1, 2)]
    record = {"kind": "convergence", "metric": "FD-shapes", "samples": 8, "floor": 1.0, "untrained": 9.0}
    record |= {"curve": points, "curve_to_reconstructions": points}
    run, other = SimpleNamespace(dir=tmp_path), {"guidance_scale": 2.0, "tokenizer": "runs/fine"}
    titles = [curves_section(run, None, [(record | more, [])]) for more in ({}, other)]
    assert "FD-shapes, 8 clips" in titles[0] and "guidance" not in titles[0]
    assert "FD-shapes, 8 clips, guidance 2.0, decoded by runs/fine" in titles[1]
