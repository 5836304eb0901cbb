"""The page holds everything it shows, loads nothing, and shows text as text."""

from __future__ import annotations

import base64
import struct
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from fedrevive_core.plots import STYLE
from reproduce.reports.html import Illustration, figure_data_uri, write_page

VOID = {"meta", "img"}
LOADS = {"src", "href", "srcset", "data", "action", "poster", "background"}


class Page(HTMLParser):
    """Tags with attributes in order, text by the tag it stands in, and whether tags are closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[tuple[str, str]] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append((self.open[-1], data.strip()))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    def texts(self, tag: str) -> list[str]:
        return [text for name, text in self.text if name == tag]


def small_figure() -> Figure:
    figure = Figure(figsize=(3, 2), dpi=100)
    figure.subplots().plot([0, 1])
    return figure


def page_with(path: Path, **changes: object) -> Page:
    content: dict = {
        "title": "Eight methods",
        "intro": ["First paragraph.", "Second paragraph."],
        "tables": [
            (
                "",
                "",
                [
                    {"Method": "FedBuff", "Accuracy": "71.2% ± 1.3%", "Uploads": 1200, "Source": "arXiv 2106.06639"},
                    {"Method": "FedAvg", "Accuracy": "65.0%", "Uploads": "\u2013", "Source": "arXiv 1602.05629"},
                ],
            )
        ],
        "illustrations": [Illustration("Accuracy", "Higher is better.", small_figure())],
        "command": "python -m reproduce --seeds 5",
        "provenance": {"python": "3.11", "git_commit": None},
    }
    return Page(write_page(path / "page.html", **{**content, **changes}))


def test_everything_given_is_on_the_page_and_the_page_is_well_formed(tmp_path: Path) -> None:
    page = page_with(tmp_path)
    assert page.open == []
    assert page.source.startswith("<!doctype html>")
    assert page.texts("title") == page.texts("h1") == ["Eight methods"]
    assert page.texts("p") == ["First paragraph.", "Second paragraph."]
    assert page.texts("h2")[0] == "Accuracy"
    assert page.texts("figcaption") == ["Higher is better."]
    assert page.texts("code") == ["python -m reproduce --seeds 5"]
    assert list(zip(page.texts("dt"), page.texts("dd"), strict=True)) == [("python", "3.11"), ("git_commit", "None")]


def test_nothing_is_loaded_from_elsewhere_and_nothing_is_run(tmp_path: Path) -> None:
    page = page_with(tmp_path)
    loaded = [value for _, attrs in page.tags for name, value in attrs.items() if name in LOADS]
    assert len(loaded) == 1
    assert all(value and value.startswith("data:") for value in loaded)
    assert not page.of("script")
    assert not page.of("link")
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert "@import" not in page.source
    assert "url(" not in page.source
    assert "http://" not in page.source
    assert "https://" not in page.source
    policy = next(attrs["content"] for attrs in page.of("meta") if "http-equiv" in attrs)
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_text_that_looks_like_html_stays_text(tmp_path: Path) -> None:
    nasty = """<script>alert("x")</script> & '<b>"""
    page = page_with(
        tmp_path,
        title=nasty,
        intro=[nasty],
        tables=[(nasty, nasty, [{nasty: nasty, "number": nasty}])],
        illustrations=[Illustration(nasty, nasty, small_figure())],
        command=nasty,
        provenance={nasty: nasty},
    )
    assert not page.of("script")
    assert not page.of("b")
    for tag in ("title", "h1", "p", "th", "td", "h2", "figcaption", "code", "dt", "dd"):
        assert nasty in page.texts(tag), tag
    assert str(page.of("img")[0]["alt"]).startswith(f"{nasty}. Across: ")


def test_columns_of_numbers_are_set_flush_right(tmp_path: Path) -> None:
    page = page_with(tmp_path)
    header = [attrs.get("class") for attrs in page.of("th") if attrs["scope"] == "col"]
    assert header == [None, "number", "number", None]
    assert [attrs.get("class") for attrs in page.of("td")] == ["number", "number", None] * 2
    assert page.texts("td") == ["71.2% ± 1.3%", "1200", "arXiv 2106.06639", "65.0%", "\u2013", "arXiv 1602.05629"]
    assert [text for text in page.texts("th") if text.startswith("Fed")] == ["FedBuff", "FedAvg"]


def test_figures_are_inlined_with_two_dots_per_pixel(tmp_path: Path) -> None:
    (image,) = page_with(tmp_path).of("img")
    assert (image["width"], image["height"]) == ("300", "200")
    assert image["src"] is not None
    kind, data = image["src"].split(",")
    assert kind == "data:image/png;base64"
    png = base64.b64decode(data)
    assert struct.unpack(">II", png[16:24]) == (600, 400)  # width and height in the header of a PNG
    assert image["src"] == figure_data_uri(small_figure()), "the same figure gives the same page"


def test_dark_mode_keeps_figures_on_light_cards(tmp_path: Path) -> None:
    source = page_with(tmp_path).source
    assert "@media (prefers-color-scheme: dark)" in source
    assert '<div class="card"><img' in source
    card = source.split(".card {")[1].split("}")[0]
    assert f"background: {STYLE['figure.facecolor']};" in card


def test_rows_with_other_columns_are_refused_and_no_table_is_fine(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"same columns: \['a', 'b'\] and \['a'\]"):
        page_with(tmp_path, tables=[("", "", [{"a": 1, "b": 2}, {"a": 1}])])
    assert not page_with(tmp_path, tables=[]).of("table")


def test_directories_are_made_and_the_path_is_returned(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deeper" / "page.html"
    written = write_page(path, title="t", intro=[], tables=[], illustrations=[], command="c", provenance={})
    assert written == path
    assert path.exists()
