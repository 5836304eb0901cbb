"""One self-contained HTML page for a set of runs: a table, figures with captions, the command, the provenance.

No scripts and nothing loaded from elsewhere: the file can be mailed, archived or opened offline, and stays as it is.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup
from matplotlib.figure import Figure

from fedrevive_core.files import atomic_file, writing
from fedrevive_core.plots import in_words, png_bytes

# With this policy a browser loads nothing from the network, even if a mistake puts a link into the page.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
# 1,234.5, 81.2% ± 1.3% and 1e-08 are numbers, with either minus sign; a blank or a dash stands for a missing one.
NUMBER = re.compile(r"[-+\u2212]?[\d.,]+(e[-+]?\d+)?\s*%?(\s*±\s*[\d.,]+\s*%?)?|[-\u2013\u2014]?")


@dataclass(frozen=True)
class Illustration:
    """A figure of the page: heading, and a caption of a sentence or two that tells a newcomer what to see."""

    heading: str
    caption: str
    figure: Figure


def write_page(
    path: Path | str,
    *,
    title: str,
    intro: Sequence[str],
    tables: Sequence[tuple[str, str, Sequence[Mapping[str, object]]]],
    illustrations: Sequence[Illustration],
    command: str,
    provenance: Mapping[str, object],
) -> Path:
    """Write the page as `path` and return it; directories are made, an older page is replaced.

    Args:
        intro: paragraphs of plain text.
        tables: heading, caption (each may be empty) and rows with the same columns, the first of which names the row;
            columns of numbers are set flush right. A table without rows is left out.
        command: what made the page, to be copied as it stands.
        provenance: what to print under it, by name, such as versions and the commit.

    All text is escaped. Raises ValueError if the rows of a table differ in their columns.
    """
    path = Path(path)
    page = _render(
        title,
        intro=intro,
        tables=[_table(*table) for table in tables if table[2]],
        illustrations=[_illustration(illustration) for illustration in illustrations],
        command=command.strip(),
        provenance=provenance,
    )
    with writing(path), atomic_file(path) as work:
        work.write_text(page, encoding="utf-8")
    return path


def document(title: str, body: str, style: str = "") -> str:
    """The page around `body`, which is HTML; `style` is CSS beyond that of all pages."""
    return _render(title, style, body=body)


def _render(title: str, style: str = "", **content: object) -> str:
    text = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    template = Environment(autoescape=True, trim_blocks=True, keep_trailing_newline=True).from_string(text)
    return template.render(title=title, policy=POLICY, style=style, **content)


def figure_data_uri(figure: Figure) -> str:
    """`figure` as a data URI of a PNG with two dots per pixel."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(figure, scale=2.0)).decode("ascii")


def _illustration(illustration: Illustration) -> dict[str, Any]:
    width, height = (illustration.figure.get_size_inches() * illustration.figure.dpi).round().astype(int)
    shown = {"heading": illustration.heading, "caption": illustration.caption, "words": in_words(illustration.figure)}
    return shown | {"source": figure_data_uri(illustration.figure), "width": width, "height": height}


def _table(heading: str, caption: str, rows: Sequence[Mapping[str, object]]) -> dict[str, Any]:
    """What the template shows of a table: each heading and each cell with its class."""
    columns = list(rows[0])
    for row in rows:
        if list(row) != columns:
            raise ValueError(f"rows of the table must have the same columns: {columns} and {list(row)}")
    cells = [[str(row[column]) for column in columns] for row in rows]
    numeric = [all(NUMBER.fullmatch(cell) for cell in column) for column in zip(*cells, strict=True)]
    kinds = [Markup(' class="number"' if is_numeric else "") for is_numeric in numeric]
    return {
        "heading": heading,
        "caption": caption,
        "columns": list(zip(columns, kinds, strict=True)),
        "rows": [list(zip(row, kinds, strict=True)) for row in cells],
    }


def made_with(provenance: Mapping[str, Any]) -> dict[str, str]:
    """The lines of the page about a record's provenance."""
    return {
        "device": f"{provenance['device']}, {provenance['num_threads']} CPU threads",
        "versions": ", ".join(f"{name} {version}" for name, version in provenance["versions"].items()),
        "commit": provenance["git_commit"] or "not a git checkout",
    }
