"""The report in a real browser: it opens from disk, the console stays silent, tables are sorted by hand and by key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.report.html import write_site
from tests.support.browser import PROGRAM, Browser
from tests.support.site_pages import read_site
from tests.support.stores import example_store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed: the pages are not opened in a browser"),
]

# Of every text that can be seen: its colour against the first background below it.
CONTRAST = """
(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (text) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => { for (let e = element; e; e = e.parentElement) {
    const colour = rgba(getComputedStyle(e).backgroundColor); if (colour[3] > 0) return colour; }
    return [255, 255, 255, 255]; };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const ink = rgba(element.closest("svg") ? style.fill : style.color);
    const [a, b] = [light(ink), light(behind(element))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), walker.currentNode.data.trim()]);
  }
  return found.sort((x, y) => x[0] - y[0])[0];
})()
"""
METHODS = '[...document.querySelector("table.results").tBodies[0].rows].map((one) => one.cells[0].dataset.value)'
HEAD = '[...document.querySelectorAll("table.results thead th")].find((one) => one.textContent.startsWith("accuracy"))'


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("site")
    maker, _ = example_store(root / "home")
    write_site(maker.store, root / "site")
    return root / "site"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as window:
        yield window


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1366, 390])
def test_every_page_opens_fits_and_can_be_read(site: Path, browser: Browser, width: int, dark: bool) -> None:
    browser.look(width, 800, dark)
    for name in read_site(site):
        browser.complaints.clear()
        browser.open(site / name)
        assert browser.complaints == []
        # Wide tables scroll by themselves; the page does not.
        assert browser.run("document.documentElement.scrollWidth") <= width, name
        assert browser.run("[...document.images].every((one) => one.complete && one.naturalWidth > 0)")
        contrast, text = browser.run(CONTRAST)
        assert contrast >= 4.5, (name, text)
        assert browser.run("getComputedStyle(document.body).backgroundColor") == (
            "rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)"
        )


def test_a_table_is_sorted_by_a_click(site: Path, browser: Browser) -> None:
    browser.look(1366, 800)
    browser.open(site / "index.html")
    first = browser.run(METHODS)
    assert first[:2] == ["ours", "protopnet"]
    browser.run(f"{HEAD}.querySelector('button').click()")
    assert browser.run(f"{HEAD}.getAttribute('aria-sort')") == "descending"
    assert browser.run(METHODS)[:3] == ["blackbox", "ours", "protopnet"]
    browser.run(f"{HEAD}.querySelector('button').click()")
    assert browser.run(f"{HEAD}.getAttribute('aria-sort')") == "ascending"
    # What has no value stands below, whichever way.
    assert browser.run(METHODS)[:3] == ["protopnet", "ours", "blackbox"]
    assert sorted(browser.run(METHODS)) == sorted(first)
    assert "sorted by accuracy" in browser.run("document.querySelector('[role=status]').textContent")


def test_a_table_is_sorted_from_the_keyboard(site: Path, browser: Browser) -> None:
    browser.look(1366, 800)
    browser.open(site / "index.html")
    browser.press("Tab")
    assert browser.run("document.activeElement.className") == "skip"
    for _ in range(200):
        if browser.run(f"{HEAD}.contains(document.activeElement)"):
            break
        browser.press("Tab")
    browser.press("Enter", "\r")
    assert browser.run(METHODS)[:3] == ["blackbox", "ours", "protopnet"]
    browser.press(" ", " ")
    assert browser.run(f"{HEAD}.getAttribute('aria-sort')") == "ascending"


def test_rows_of_the_leaderboard_stay_with_their_backbone(site: Path, browser: Browser) -> None:
    browser.look(1366, 800)
    browser.open(site / "index.html")
    bodies = '[...document.querySelector("table.leaderboard").tBodies]'
    read = f"{bodies}.map((one) => [...one.rows].map((row) => row.innerText))"
    before = browser.run(read)
    browser.run('document.querySelectorAll("table.leaderboard thead button")[1].click()')
    browser.run('document.querySelectorAll("table.leaderboard thead button")[1].click()')
    after = browser.run(read)
    assert after != before
    assert [sorted(rows) for rows in after] == [sorted(rows) for rows in before]
    assert [rows[0] for rows in after] == [rows[0] for rows in before]


def test_the_first_screen_has_finding_leaderboard_and_scatter(site: Path, browser: Browser) -> None:
    browser.look(1280, 800)
    browser.open(site / "index.html")
    for name, share in ((".finding", 1), ("table.leaderboard", 0.6), (".hero figure img", 0.8)):
        place = f"document.querySelector('{name}').getBoundingClientRect()"
        top, height = browser.run(f"[{place}.top, {place}.height]")
        assert top + share * height <= 800, name


def test_text_columns_are_sorted_too(site: Path, browser: Browser) -> None:
    browser.open(site / "cells.html")
    browser.run("document.querySelectorAll('table.cells thead button')[1].click()")
    names = browser.run(
        '[...document.querySelectorAll("table.cells tbody tr")].map((one) => one.cells[1].dataset.value)'
    )
    assert names == sorted(names, key=str.lower)


def test_without_scripts_everything_is_there(site: Path, browser: Browser) -> None:
    browser.scripts(allowed=False)
    try:
        browser.open(site / "index.html")
        # The document as the browser has it is what the file says: no script has added buttons.
        assert browser.run("document.querySelectorAll('button').length") == 0
        assert browser.run("document.querySelector('table.results').tBodies[0].rows.length") == 5
    finally:
        browser.scripts(allowed=True)
