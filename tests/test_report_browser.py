"""The report in a real browser: it fits, it is legible, it asks for nothing, and its pictures have names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import browser as chromium
from browser import Browser
from report_runs import CHECKS, EXPLOSION, OVERFITTING, SLOW, Says, evil_run, run
from tinygrad_cr import data, nn
from tinygrad_cr.errors import DataError
from tinygrad_cr.report import write_report
from tinygrad_cr.report.page import LIMIT

pytestmark = pytest.mark.skipif(chromium.BINARY is None, reason=chromium.WHY_NOT)

A4 = 688
"""Pixels between the margins of a printed page."""

CONTRAST = """
(() => {
  const channel = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4
  const parse = text => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number)
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b)
  const back = element => {
    for (; element; element = element.parentElement) {
      const colour = parse(getComputedStyle(element).backgroundColor)
      if (colour.length < 4 || colour[3] > 0) return colour
    }
    return [255, 255, 255]
  }
  const faint = new Set()
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  for (let node; (node = walker.nextNode());) {
    if (!node.textContent.trim()) continue
    const pair = [parse(getComputedStyle(node.parentElement).color), back(node.parentElement)].map(luminance).sort()
    const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05)
    if (ratio < 4.5) faint.add(`${ratio.toFixed(1)}: ${node.textContent.slice(0, 30)}`)
  }
  return [...faint]
})()
"""
"""Texts with less contrast than WCAG 2 wants (AA)."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of several kinds."""
    import json

    root = tmp_path_factory.mktemp("runs")
    warned = run(root / "warned", callbacks=[Says(SLOW, OVERFITTING)])
    (warned / "preflight.json").write_text(json.dumps(CHECKS))
    exploded = run(root / "exploded", callbacks=[Says(EXPLOSION)])
    other = run(root / "a-run-whose-name-is-so-long-that-no-narrow-screen-has-room-for-it-in-one-line", lr=0.05)
    half = root / "half"
    half.mkdir()
    (half / "config.json").write_bytes((warned / "config.json").read_bytes())
    return {
        "one run": write_report([warned]),
        "exploded": write_report([exploded]),
        "no epoch": write_report([half]),
        "four runs": write_report([warned, exploded, other, half], root / "four.html"),
        "evil names": write_report([evil_run(root)]),
    }


def faults(browser: Browser, path: Path, width: int = 1280, scheme: str = "light") -> list[str]:
    """What is wrong with a page in a window of this width."""
    browser.open(path, width, scheme)
    found = [f"complaint: {text}" for text in browser.complaints]
    found += [f"request: {url}" for url in browser.requests[1:] if not url.startswith("data:")]
    wide = browser.run("document.scrollingElement.scrollWidth")
    if wide > width:
        found.append(f"too wide: {wide} pixels")
    named, there = browser.images(), browser.run("document.querySelectorAll('img, svg').length")
    if len(named) != there or not all(name.strip() for name in named):
        found.append(f"nameless: of {there} pictures, {sum(bool(name.strip()) for name in named)} have a text")
    broken = browser.run("[...document.images].filter(image => !image.naturalWidth).length")
    if broken:
        found.append(f"not drawn: {broken} pictures")
    return found + [f"faint: {text}" for text in browser.run(CONTRAST)]


KINDS = ["one run", "exploded", "no epoch", "four runs", "evil names"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("kind", KINDS)
def test_a_report_is_without_fault(
    kind: str, width: int, scheme: str, browser: Browser, pages: dict[str, Path]
) -> None:
    assert faults(browser, pages[kind], width, scheme) == []


PLANTED = {
    "too wide": "<div style='width: 1500px'>wide</div>",
    "nameless": "<img src='data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAACAkQBADs='>",
    "not drawn": "<img alt='a picture' src='data:image/png;base64,AAAA'>",
    "request": "<link rel='stylesheet' href='http://127.0.0.1:9/style.css'>",
    "complaint": "<script>console.error('oh')</script>",
    "faint": "<p style='color: #999'>grey on white</p>",
}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_fault_is_found(kind: str, browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(f"<!DOCTYPE html><html lang='en'><title>planted</title><body>{PLANTED[kind]}")
    assert kind in {fault.partition(":")[0] for fault in faults(browser, path)}


def test_a_page_without_faults_has_none(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("<!DOCTYPE html><html lang='en'><title>planted</title><body><p>nothing is wrong</p>")
    assert faults(browser, path) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_lets_no_script_run(kind: str, browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages[kind])
    assert browser.run("document.scripts.length") == 0
    browser.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked = 1\">')")
    browser.run("new Promise(done => setTimeout(done, 100))")
    assert browser.run("window.hacked ?? 'no'") == "no"


def test_a_wide_comparison_scrolls_in_its_own_box(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["four runs"], 400)
    box = "document.querySelector('.scroll')"
    assert browser.run(f"{box}.scrollWidth > {box}.clientWidth && getComputedStyle({box}).overflowX == 'auto'")
    assert browser.run(f"{box}.tabIndex") == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_fits_on_paper(kind: str, browser: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    browser.open(pages[kind], A4, "dark")
    browser.ask("Emulation.setEmulatedMedia", media="print")
    assert browser.run("document.scrollingElement.scrollWidth") <= A4
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.run("[...document.images].filter(i => getComputedStyle(i).filter != 'none').length") == 0
    browser.pdf(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").stat().st_size > 10_000


def test_on_a_phone_every_cell_of_the_events_says_what_it_is(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["one run"], 400)
    label = "getComputedStyle(document.querySelector('.events td:last-child'), '::before').content"
    assert "What it means" in browser.run(label)
    roles = [n["role"]["value"] for n in browser.ask("Accessibility.getFullAXTree")["nodes"] if not n["ignored"]]
    assert (roles.count("columnheader") >= 10, roles.count("table") >= 2) == (True, True)


def test_a_report_on_fashion_mnist_is_small_and_without_fault(browser: Browser, tmp_path: Path) -> None:
    try:
        parts = data.split(data.load("fashion-mnist", download=False), seed=0)
    except DataError:
        pytest.skip("Fashion-MNIST is not on this machine")
    config = {"data": "fashion-mnist", "label": None, "split_seed": 0}
    model = nn.MLP([784, 128, 64, 10], dropout=0.3, generator=0)
    options = {"epochs": 2, "batch_size": 256, "config": config}
    path = write_report([run(tmp_path / "run", model=model, parts=(parts.train, parts.validation), **options)])
    assert (path.stat().st_size < LIMIT, faults(browser, path, 400)) == (True, [])
    assert len(browser.images()) == 13
