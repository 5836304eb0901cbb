"""The book, made of two notebooks and all documents: its links, its size, and in a real browser its widgets.

`make test-browser` runs these (marker `browser`). Screenshots are left in build/browser.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from test_browser import FLAGS, OUT, chromium
from test_notebooks import TINY

from reproduce.book.make import make_book

NOTEBOOKS = {"01_staleness": 1, "02_why_stale_hurts": 2, "05_fedrevive": 1}  # with the number of their panels
MOST_BYTES = 3_000_000  # of a page with its frames, beyond its own text and figures
PAGES = ["index", "notebooks/01_staleness", "notebooks/05_fedrevive", "docs/METHODS", "docs/GLOSSARY", "api/revival",
         "files/fedrevive_core/server.py"]  # fmt: skip

pytestmark = pytest.mark.browser


class Page(HTMLParser):
    """Links, places and text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.ids: set[str] = set()
        self.text, self.inside = "", [""]
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        given = dict(attrs)
        self.ids |= {given["id"]} if given.get("id") else set()
        self.links += [given["href"]] if tag == "a" and given.get("href") else []
        self.loaded += [given[name] for name in ("src", "href") if given.get(name) and tag != "a"]
        if tag in ("script", "style", "code", "pre"):
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == self.inside[-1]:
            self.inside.pop()

    def handle_data(self, data: str) -> None:
        self.text += data if len(self.inside) == 1 else ""


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not importlib.util.find_spec("myst_nb"):
        (pytest.fail if os.environ.get("FEDREVIVE_BROWSER") == "required" else pytest.skip)("myst-nb is not installed")
    first, failures = make_book(tmp_path_factory.mktemp("book"), list(NOTEBOOKS), TINY)  # fails after any warning of Sphinx
    assert not failures
    return first.parent


@pytest.fixture(scope="module")
def pages(book: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in book.rglob("*.html")}


def test_every_link_leads_somewhere_and_nothing_is_loaded_from_elsewhere(book: Path, pages: dict[Path, Page]) -> None:
    assert {book / f"{name}.html" for name in PAGES} <= set(pages)
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            if link.startswith("data:") or (link in page.links and re.match(r"https?:|mailto:", link)):
                continue
            assert not re.match(r"\w+:|//", link), (path, link)
            name, _, place = link.partition("#")
            goal = path.parent / unquote(name.partition("?")[0]) if name else path
            assert goal.resolve().is_file(), (path, link)
            if place and goal.suffix == ".html" and not place.startswith("__"):
                assert unquote(place) in pages[goal.resolve()].ids, (path, link)


def test_no_formula_is_left_as_source(pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        if "files" not in path.parts and "api" not in path.parts:
            assert not re.search(r"\\[a-z]{2,}\b|\$[^$\n]{1,60}\$", page.text), path


def test_pages_are_small_and_solutions_are_folded(book: Path) -> None:
    for name, panels in NOTEBOOKS.items():
        text = (book / "notebooks" / f"{name}.html").read_text(encoding="utf-8")
        frames = re.findall(r'<div class="frames".*?</script></div>', text, re.DOTALL)
        assert len(frames) == panels
        assert sum(map(len, frames)) <= MOST_BYTES
        assert "show_frames" not in text
        assert "Show the solution" in text
        assert "widget-view" not in text
        assert "00:00 gone" not in text  # the progress of a run


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    executable = chromium()
    from playwright.sync_api import sync_playwright

    OUT.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(params=["desktop", "dark", "phone"])
def view(browser: Any, request: pytest.FixtureRequest) -> Iterator[tuple[str, Any]]:
    """A context of the browser that fails the test at its end if anything asked for another address than a file."""
    kind, asked = request.param, []
    size = {"width": 390, "height": 844} if kind == "phone" else {"width": 1280, "height": 800}
    scheme = "dark" if kind == "dark" else "light"
    context = browser.new_context(viewport=size, color_scheme=scheme, has_touch=kind == "phone")
    context.on("request", lambda it: asked.append(it.url))
    yield kind, context
    context.close()
    assert asked
    assert not [url for url in asked if not url.startswith(("file:", "data:"))]


def test_pages_fit_the_screen(book: Path, view: tuple[str, Any]) -> None:
    kind, context = view
    page = context.new_page()
    for name in PAGES:
        page.goto((book / f"{name}.html").as_uri())
        page.screenshot(path=OUT / f"book-{name.replace('/', '-')}-{kind}.png")
        assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0, name


def test_frames_move_by_key_and_by_touch(book: Path, view: tuple[str, Any]) -> None:
    kind, context = view
    page = context.new_page()
    for name in ("01_staleness", "05_fedrevive"):
        page.goto((book / "notebooks" / f"{name}.html").as_uri())
        panel = page.locator(".frames")
        state = """panel => {
            const image = panel.querySelector('img');
            const said = [...panel.querySelectorAll('output')].map(output => output.value);
            return [image.getAttribute('src'), image.alt, said.join()];
        }"""
        for number, control in enumerate(panel.locator("input[type=range]").all()):
            before = panel.evaluate(state)
            if kind == "phone":
                values = ("-1", "1") if control.evaluate("it => it.value === it.max") else ("1", "-1")
                way, back = (panel.locator("label").nth(number).locator(f"button[value='{n}']") for n in values)
                way.tap()
                assert panel.evaluate(state) != before
                back.tap()
                assert panel.evaluate(state) == before
                continue
            keys = ["ArrowRight", "ArrowLeft"]
            if control.evaluate("it => it.value === it.max"):
                keys.reverse()
            control.press(keys[0])
            after = panel.evaluate(state)
            assert all(new != old for new, old in zip(after, before, strict=True))
            assert control.get_attribute("aria-valuetext") in after[2].split(",")
            panel.locator(".words", has_text=after[1][:40]).wait_for(state="attached")
            control.press(keys[1])
            assert panel.evaluate(state) == before
        panel.screenshot(path=OUT / f"book-frames-{name}-{kind}.png")


def test_the_search_finds_a_word_of_a_docstring_and_one_of_a_notebook(book: Path, browser: Any) -> None:
    page = browser.new_page()
    for word, goal in (("reptile", "api/"), ("Little", "notebooks/01_staleness.html")):
        page.goto((book / "search.html").as_uri() + f"?q={word}")
        page.locator(f"ul.search a[href*='{goal}']").first.wait_for()
    page.close()
