"""What holds of every page that a command writes, seen in a browser."""

import re

PHONE = 390

# What overlaps the right edge, but for what scrolls inside a box of its own.
TOO_WIDE = """[...document.querySelectorAll('body *')].filter(node => !node.closest('.wide *, pre')
    && node.getBoundingClientRect().right > innerWidth + 1).map(node => node.outerHTML.slice(0, 120))"""
# Pictures, played clips and charts that say nothing to who does not see them.
SILENT = """[...[...document.querySelectorAll('img')].filter(node => !node.alt),
    ...[...document.querySelectorAll('canvas, .chart > svg')].filter(node => !node.getAttribute('aria-label'))]
    .map(node => node.outerHTML.slice(0, 120))"""
# The colour of the paper, and how words stand out from it, by kind: of those that the page has, and of all curves.
CONTRASTS = """(() => {
    const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map(v => (v /= 255) <= .04045 ? v / 12.92
        : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b };
    const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((m, n) => n - m); return (x + .05) / (y + .05) };
    const style = node => getComputedStyle(node), paper = style(document.body).backgroundColor;
    const found = {};
    for (const selector of ['body', '.quiet, figcaption', 'nav a', 'tr.control td', '.finding dt', 'td', 'button',
            '.chart text', 'p a', 'th']) {
        const node = document.querySelector(selector);
        if (node) found[selector] = ratio(selector === '.chart text' ? style(node).fill : style(node).color, paper);
    }
    for (let i = 0; i < 8; i++) {
        const node = document.querySelector('main').appendChild(document.createElement('i'));
        node.className = 's' + i; found[node.className] = ratio(style(node).color, paper);
    }
    return [paper, found] })()"""
# Of every table, of every column: what is read in each cell, and the number that it stands for where that is another.
CELLS = """[...document.querySelectorAll('table.sortable')].map(table => { const rows = [...table.tBodies[0].rows];
    return [...table.tHead.rows[0].cells].map((_, column) => rows.map(row => row.cells[column]).map(
        cell => [cell.textContent, cell.dataset.value ?? null])) })"""
NUMBER = re.compile(r"-?\d[\d,]*(\.\d+)?(e[-+]?\d+)?")


def assert_fits(browser, path, width: int, *, dark: bool = False) -> None:
    """Open a page in a window of that width: nothing overlaps it, nothing is complained of or asked for."""
    browser.open(path, width=width, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run(TOO_WIDE) == []
    assert browser.complaints() == []
    addresses = browser.requests()
    assert addresses[0] == path.as_uri() and all(address.startswith("data:image/") for address in addresses[1:])


def assert_legible(browser, *, dark: bool) -> None:
    """Of the open page: it can be read as it is, and after light and dark were switched."""
    for is_dark in (dark, not dark):
        paper, contrasts = browser.run(CONTRASTS)
        assert (max(map(int, paper[4:-1].split(","))) < 60) == is_dark
        assert {name: round(ratio, 2) for name, ratio in contrasts.items() if ratio < 4.5} == {}
        browser.click(".theme")


def assert_sorts(browser) -> int:
    """Of the open page: every column sorts, those of numbers by these, by click and by key; returns how many are of
    numbers."""
    browser.run("document.querySelectorAll('details').forEach(each => { each.open = true })")
    tables = browser.run(CELLS)
    numeric = 0
    for number, columns in enumerate(tables):
        table = f"document.querySelectorAll('table.sortable')[{number}]"
        for place, before in enumerate(columns):
            head = f"{table}.tHead.rows[0].cells[{place}]"
            browser.run(f"{head}.querySelector('button').focus()")
            browser.press("Enter" if place % 2 else " ")
            assert browser.run(f"{head}.ariaSort") == "ascending"
            after = browser.run(CELLS)[number][place]
            assert sorted(after, key=str) == sorted(before, key=str)
            measured = [cell for cell in after if cell[0] not in ("", "–")]
            assert after[: len(measured)] == measured  # what was not measured stays below
            found = [value or (NUMBER.match(text) or [None])[0] for text, value in measured]
            if measured and all(found):
                numeric += 1
                values = [float(each.replace(",", "")) for each in found]
                assert values == sorted(values), f"{browser.run(f'{head}.textContent')}: {measured}"
    assert tables
    first = "table.sortable th:first-child button"
    browser.run(f"document.querySelector('{first}').closest('th').setAttribute('aria-sort', 'none')")
    for wanted in ("ascending", "descending", "none"):
        browser.click(first)
        assert browser.run(f"document.querySelector('{first}').closest('th').ariaSort") == wanted
    return numeric


def assert_readable(browser, path) -> None:
    """All of it, of a page with at least one table with numbers: on a phone and on a screen, light and dark."""
    assert_fits(browser, path, 320)
    assert_fits(browser, path, PHONE)
    assert_legible(browser, dark=False)
    assert_fits(browser, path, 1200, dark=True)
    assert browser.run(SILENT) == []
    assert assert_sorts(browser) > 0
    assert_legible(browser, dark=True)
    assert browser.complaints() == []
