"""The page as a reader meets it: in a browser, on a phone, in the dark, by keyboard alone, without a network."""

import json

import numpy as np
import pytest
from pages import PHONE, SILENT, assert_fits, assert_legible

from eval.page.clips import Clip, clip_grid, clip_table, picture
from eval.page.document import Finding, bullet_list, data_table, folded, page, results_table, section
from eval.page.figures import curve
from eval.results.rows import Row

FRAMES, OBSERVED = 7, 3
CLIPS = np.random.default_rng(0).integers(0, 256, (4, FRAMES, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A page with something of everything, and a long word in every place for one."""
    long = "runs_" + "a_very_long_name_" * 12
    clips = [Clip(frames, f"clip {number} {long}") for number, frames in enumerate(CLIPS)]
    real, predicted = Clip(CLIPS[0], text="real"), Clip(CLIPS[1], text="predicted", observed=OBSERVED)
    table = clip_table([f"clip {i}" for i in range(8)], [("real", [real] * 8), ("predicted", [predicted] * 8)])
    values = [(7 * i % 30) + 0.5 for i in range(30)]
    about = {"metric": "FD-shapes", "low": 1.0, "high": 2.0, "n": 9, "note": long}
    rows = [Row(subject=f"generated {i}", value=value, **about) for i, value in enumerate(values)]
    rows[4] = Row(metric="FD-shapes", subject="real", value=None, note="not measured")
    points = [(float(x), 2.0 + np.sin(x)) for x in range(12)]
    charts = "".join(
        curve({"a": points, long: points[::-1]}, x_label="step", y_label="loss", log_y=log, levels={"floor": 1.5})
        for log in (True, False)
    )
    sections = [
        section(
            "Clips", clip_grid(clips), table, picture(np.zeros((40, 1500, 3), np.uint8), "a strip of frames", long)
        ),
        section("Numbers", results_table(rows), data_table(["a", "b"], [("x", 2.0), ("y", 10.0), ("z", None)])),
        section("Curves", f'<div class="charts">{charts}</div>'),
        section("Rest", folded("More", bullet_list([long])), f"<pre>{long}</pre>", f"<p>{long}</p>"),
    ]
    path = tmp_path_factory.mktemp("page") / "page.html"
    findings = [Finding(f"number {i}", "12.5 dB", long) for i in range(5)]
    path.write_text(page(f"Title {long}", f"Lead {long}", sections, findings), "utf-8")
    return path


def numbers_in(browser, place: int) -> list[str]:
    """The visible cells of a column of the first table of results."""
    rows = "[...document.querySelector('table.results').tBodies[0].rows].filter(row => !row.hidden)"
    return browser.run(f"{rows}.map(row => row.cells[{place}].textContent)")


def frames_shown(browser) -> list[int]:
    """Of every clip in the first player."""
    return browser.run("[...document.querySelector('.player').querySelectorAll('canvas')].map(c => +c.dataset.frame)")


@pytest.mark.parametrize("width", [320, PHONE, 1200])
def test_nothing_is_wider_than_the_screen_nor_complained_of_nor_asked_for(browser, shown, width):
    assert_fits(browser, shown, width)
    scrolls = browser.run("[...document.querySelectorAll('.wide')].some(box => box.scrollWidth > box.clientWidth)")
    assert scrolls == (width < 600)
    # Words of curves stay legible when the curve is as narrow as the screen.
    assert (
        browser.run(
            "Math.min(...[...document.querySelectorAll('.chart text')].map(t => t.getBoundingClientRect().height))"
        )
        > 9
    )
    assert browser.run(SILENT) == []


def test_what_slips_into_the_page_neither_runs_nor_loads(browser, tmp_path):
    evil = (
        "<script>window.ran = 1</script><img src=x: onerror='window.ran = 2'><img src='https://example.org/seen.png'>"
    )
    (tmp_path / "page.html").write_text(page("t", "", [section("s", evil, clip_grid([Clip(CLIPS[0], "clip")]))]))
    browser.open(tmp_path / "page.html")
    assert browser.run("window.ran") is None and browser.run("document.querySelectorAll('canvas').length") == 1
    assert sum("Content Security Policy" in words for words in browser.complaints()) >= 3


def test_clips_play_in_step_and_every_frame_is_the_clips_own(browser, shown):
    browser.open(shown)
    for wanted in (2, 4):
        browser.wait(f"document.querySelector('canvas').dataset.frame == {wanted}")
    frames = frames_shown(browser)
    assert len(frames) == len(CLIPS) and len(set(frames)) == 1
    browser.click(".controls button")
    assert browser.run("document.querySelector('.controls button').textContent") == "Play"
    (frame,) = set(frames_shown(browser))
    browser.run("new Promise(done => setTimeout(done, 400))")
    assert set(frames_shown(browser)) == {frame}
    pixels = browser.run("""[...document.querySelector('.player').querySelectorAll('canvas')].map(c =>
        [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data])""")
    for seen, clip in zip(pixels, CLIPS, strict=True):
        assert np.array_equal(np.array(seen).reshape(8, 8, 4)[..., :3], clip[frame])


def test_clips_are_scrubbed_by_single_frames_and_told_observed_from_predicted(browser, shown):
    browser.open(shown, still=True)  # who asked for less motion is not shown any, unasked
    assert browser.run("[...document.querySelectorAll('.player')].map(p => p.dataset.playing)") == ["false"] * 2
    browser.run("document.querySelectorAll('.controls input')[1].focus()")
    state = """[document.querySelectorAll('output')[1].textContent,
        ...new Set([...document.querySelectorAll('.rows canvas')].map(c => c.dataset.frame)),
        ...document.querySelectorAll('.rows canvas')[8].classList]"""
    assert browser.run(state) == [f"1 of {FRAMES}, observed", "0", "seen"]
    for _ in range(OBSERVED):
        browser.press("ArrowRight")
    assert browser.run(state) == [f"{OBSERVED + 1} of {FRAMES}, predicted", str(OBSERVED), "ahead"]
    browser.press("ArrowLeft")
    assert browser.run(state) == [f"{OBSERVED} of {FRAMES}, observed", str(OBSERVED - 1), "seen"]
    browser.press("End")
    assert browser.run(state)[1] == str(FRAMES - 1)
    browser.press(" ")
    assert browser.run("document.querySelectorAll('.player')[1].dataset.playing") == "true"
    assert frames_shown(browser) == [0] * 4  # the other player is not touched


def test_a_table_is_folded_and_sorts_by_a_click_both_ways_and_back(browser, shown):
    browser.open(shown)
    first = [f"generated {i}" if i != 4 else "real" for i in range(30)]
    values = [(7 * i % 30) + 0.5 for i in range(30) if i != 4]
    assert numbers_in(browser, 1) == first[:10]
    browser.click("th:nth-child(3) button")
    assert numbers_in(browser, 2) == [f"{value:.4g}" for value in sorted(values)[:10]]
    assert browser.run("document.querySelector('.results th:nth-child(3)').ariaSort") == "ascending"
    browser.click(".more")
    assert numbers_in(browser, 2) == [*(f"{value:.4g}" for value in sorted(values)), "–"]
    browser.click("th:nth-child(3) button")
    assert numbers_in(browser, 2) == [*(f"{value:.4g}" for value in sorted(values, reverse=True)), "–"]
    browser.click("th:nth-child(2) button")
    sorts = browser.run("[...document.querySelectorAll('#numbers .results:first-of-type th')].map(h => h.ariaSort)")
    assert sorts[:6] == ["none", "ascending", "none", "none", "none", "none"]
    assert numbers_in(browser, 1)[:3] == ["generated 0", "generated 1", "generated 2"]
    browser.click("th:nth-child(2) button")
    browser.click("th:nth-child(2) button")
    assert numbers_in(browser, 1) == first
    browser.click(".more")
    assert numbers_in(browser, 1) == first[:10]


@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark_can_both_be_read_and_switched(browser, shown, dark):
    browser.open(shown, dark=dark)
    assert_legible(browser, dark=dark)


def test_the_keyboard_alone_suffices(browser, shown):
    browser.open(shown, width=PHONE)
    browser.wait("document.querySelectorAll('.wide[tabindex]').length == 3")  # known when the page was laid out
    about = """(node => [node.tagName, node.type || node.className || '', getComputedStyle(node).outlineStyle,
        node.getAttribute('aria-label') || node.textContent.trim() || node.alt || ''])(document.activeElement)"""
    met = []
    while len(met) < 200:
        browser.press("Tab")
        found = browser.run(about)
        if found[0] == "BODY":
            break
        met.append(found)
    kinds = [f"{tag}.{kind}" for tag, kind, *_ in met]
    assert kinds.count("INPUT.range") == 2 and kinds.count("A.") == 4 and kinds.count("SUMMARY.") == 1
    # The switch, two players, eight headings, one fold.
    assert kinds.count("BUTTON.button") == 1 + 2 + 8 + 1
    assert sum(kind.startswith("DIV.wide") for kind in kinds) == 3 and "PRE." in kinds
    assert all(outline != "none" and name for *_, outline, name in met), json.dumps(met)
    browser.run("document.querySelector('.results th:nth-child(3) button').focus()")
    browser.press("Enter")
    assert browser.run("document.activeElement.closest('th').ariaSort") == "ascending"
    browser.run("document.querySelector('.controls button').focus()")
    browser.press(" ")
    assert browser.run("document.querySelector('.player').dataset.playing") == "false"
    browser.press("ArrowRight")
    assert browser.run("document.activeElement.textContent") == "Play"
