"""Pages of all notebooks of the course, with an index."""

from __future__ import annotations

import base64
import time
from html import escape
from pathlib import Path

from fedrevive_core.errors import ConfigError
from fedrevive_core.files import atomic_file, check_file, writing
from reproduce.notebook_runner import CELL_SECONDS, NotebookFailed, check_copy, execute, find, read_notebook, shipped
from reproduce.reports.html import document
from reproduce.reports.notebook_html import title, to_html


def write_pages(out: Path, cell_seconds: int = CELL_SECONDS) -> tuple[Path, list[str]]:
    """Execute every notebook of the course into `out`; a cell that takes longer than `cell_seconds` fails.

    Returns the index of their pages, and a sentence for each notebook that failed.
    """
    entries, failures, index = [], [], out / "index.html"
    title_of_index = "FedRevive: the course"
    check_file(index)
    if index.exists() and title_of_index not in index.read_text(encoding="utf-8", errors="replace"):
        raise ConfigError(f"out = '{out}' holds another index.html: choose another directory")
    for path in map(find, shipped()):
        check_copy(path, out / path.name)
    for path in map(find, shipped()):
        started, problem = time.monotonic(), ""
        try:
            execute(path, out / path.name, cell_seconds=cell_seconds)
        except NotebookFailed as error:
            problem = str(error)
            failures.append(problem)
        entries.append(_entry(path, out / f"{path.stem}.png", time.monotonic() - started, problem))
    body = f"<h1>{title_of_index}</h1>\n<p>Every notebook as it ran, from the command below.</p>\n"
    command = "<h2>Make these pages</h2>\n<pre><code>python -m reproduce pages</code></pre>"
    with writing(index), atomic_file(index) as work:
        work.write_text(document(title_of_index, f"{body}{''.join(entries)}{command}"), encoding="utf-8")
    return index, failures


def _entry(path: Path, picture: Path, seconds: float, problem: str) -> str:
    """A notebook in the index: its question, what it is about, its picture if there is one, how it went."""
    notebook = read_notebook(path)
    first = next((cell.source for cell in notebook.cells if cell.cell_type == "markdown"), "")
    about = next((part for part in first.split("\n\n")[1:] if not part.startswith("#")), "")
    how = f"<b>Failed:</b> {escape(problem)}" if problem else f"Ran in {seconds:.0f} seconds."
    link = f'<a href="{escape(path.stem)}.html">{escape(title(notebook) or path.stem)}</a>'
    shown = ""
    if picture.exists() and not problem:
        uri = f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
        shown = f'<div class="card"><img src="{uri}" alt="A figure of {escape(path.stem)}"></div>'
    heading = f"<h2>{escape(path.stem[:2])} &middot; {link}</h2>"
    return f"{heading}\n{to_html(about)}\n{shown}\n<p><small>{how}</small></p>\n"
