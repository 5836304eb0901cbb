"""What the book asks of Sphinx beyond its extensions: formulas that need no script, and links to files."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename
from pygments.lexers.special import TextLexer
from pygments.util import ClassNotFound
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging

import fedrevive_core
from reproduce.book.source import ROOT
from reproduce.reports.notebook_html import draw_formula, with_formulas

LOGGER = logging.getLogger(__name__)
LONGEST = 200_000  # bytes of a file that gets a page
draw = functools.cache(draw_formula)
linked: set[str] = set()  # files that get a page, by their path in the repository


class Links(SphinxPostTransform):
    """Lead links to files, rooms and the README to pages of the book.

    A file gets a page of its own, with a place for each line; the link to any other folder becomes plain text.
    """

    default_priority = 8  # before MyST looks for what is left

    def run(self, **_: Any) -> None:
        """Replace the links of a page."""
        for node in list(self.document.findall(addnodes.pending_xref)):
            if node["reftype"] != "myst":
                continue
            target, _, place = node["reftarget"].partition("#")
            path = (ROOT / self.env.docname).parent / target
            path = path.resolve()
            if not (target and path.exists() and path.is_relative_to(ROOT)):
                continue
            name = path.relative_to(ROOT).as_posix()
            if name == "README.md":
                page, anchor = "index", place
            elif path.is_dir():
                page, anchor = f"api/{path.name}", ""
            else:
                page, anchor = f"files/{name}", re.sub(r"^L(?=\d)", "L-", place)
                linked.add(name)
            inner = node[0].deepcopy()
            if page.startswith("api/") and page not in self.env.found_docs:
                node.replace_self(inner)
                continue
            uri = self.app.builder.get_relative_uri(self.env.docname, page) + (f"#{anchor}" if anchor else "")
            node.replace_self(nodes.reference("", "", inner, internal=True, refuri=uri))


def file_pages(app: Any) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A page for each file that a link leads to, in its colours."""
    for name in sorted(linked):
        content = (ROOT / name).read_bytes()
        text = content[:LONGEST].decode("utf-8", errors="replace")
        try:
            lexer = get_lexer_for_filename(name)
        except ClassNotFound:
            lexer = TextLexer()
        lines = highlight(text, lexer, HtmlFormatter(linenos="inline", linespans="L"))
        more = "<p>The file is longer.</p>" if len(content) > LONGEST else ""
        title = name.rpartition("/")[2]
        yield f"files/{name}", {"title": title, "body": f"<h1>{name}</h1>{lines}{more}"}, "page.html"


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(_drawn(node, node.astext(), display=False))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.math_block) -> None:
    lines = [line for line in re.split(r"\\\\(?:\[[^\]]*\])?", node.astext()) if line.strip(" &\n")]
    translator.body.append("".join(_drawn(node, line, display=True) for line in lines))
    raise nodes.SkipNode


def _drawn(node: nodes.Node, source: str, *, display: bool) -> str:
    try:
        return draw(source, display=display)
    except ValueError as error:
        LOGGER.warning("a formula cannot be drawn: %s: %s", source, error, location=node)
        return ""


def _raw(app: Any, doctree: nodes.document, _: str) -> None:
    """Draw the formulas in HTML that stands in a document."""
    for node in doctree.findall(nodes.raw):
        if node.get("format") == "html" and "$" in node.astext() and "<script" not in node.astext():
            node.children = [nodes.Text(with_formulas(node.astext()))]


def _docstring(app: Any, what: str, name: str, it: Any, options: Any, lines: list[str]) -> None:
    """Our docstrings are plain text with `code`: nothing else in them is a mark."""
    for number, line in enumerate(lines):
        parts = re.split(r"(`[^`]*`)", line)
        lines[number] = "".join(
            part.replace("`", "``") if place % 2 else re.sub(r"(?<!\\)([*_|])", r"\\\1", part)
            for place, part in enumerate(parts)
        )


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    for module in pkgutil.walk_packages(fedrevive_core.__path__, "fedrevive_core."):
        importlib.import_module(module.name)  # before autodoc changes the annotations of pydantic's base class
    app.add_html_math_renderer("drawn", (_inline, None), (_block, None))
    app.add_post_transform(Links)
    app.connect("html-collect-pages", file_pages)
    app.connect("doctree-resolved", _raw)
    app.connect("autodoc-process-docstring", _docstring, priority=400)  # before napoleon, which writes marks
    return {"parallel_read_safe": False, "parallel_write_safe": False}
