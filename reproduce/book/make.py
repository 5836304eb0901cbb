"""Make the book: execute the notebooks that changed, gather its source, and let Sphinx write the pages."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat

from fedrevive_core.errors import ConfigError
from fedrevive_core.files import atomic_directory, work_directory, writing
from reproduce import notebook_runner
from reproduce.book.source import ROOT, write_source
from reproduce.notebook_runner import CELL_SECONDS, NotebookFailed, check_copy, execute, read_notebook

FRAMES = "from reproduce.book.frames import show_frames\n\nshow_frames()"
MARK = "fedrevive_book"  # in the metadata of an executed copy: what it was made from


def make_book(
    out: Path,
    names: Sequence[str] | None = None,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    cell_seconds: int = CELL_SECONDS,
) -> tuple[Path, list[str]]:
    """Write the book to `out`/html, with executed notebooks in `out`/executed.

    Args:
        names: of the notebooks to show; unset: all of the course. parameters: of a notebook, by its name.
        cell_seconds: a cell that takes longer fails; 0: no limit.

    Returns its first page, and a sentence for each notebook that failed. An executed copy is used again as long as
    nothing changed from which it was made. Raises ConfigError outside a checkout, or if a page is not as it should be.
    """
    if not (ROOT / "docs" / "conf.py").exists() or not (ROOT / "README.md").exists():
        raise ConfigError("the book is made from the documents of a checkout, and this is an installed copy: clone it")
    check_sphinx()
    paths = [notebook_runner.find(name) for name in names or notebook_runner.shipped()]
    copies = [out / "executed" / path.name for path in paths]
    for path, copy in zip(paths, copies, strict=True):
        check_copy(path, copy)
    failures = []
    for path, copy in zip(paths, copies, strict=True):
        try:
            _execute(path, copy, dict((parameters or {}).get(path.stem, {})), cell_seconds)
        except NotebookFailed as error:
            failures.append(str(error))
    with writing(out), work_directory(out) as work, atomic_directory(out / "html", last="index.html") as pages:
        write_source(work / "source", [copy for copy in copies if copy.exists()])
        if not run_sphinx(work, pages):
            raise ConfigError(f"the book is not written to '{out}': put right what Sphinx says above")
    return out / "html" / "index.html", failures


def check_sphinx() -> None:
    """Raise ConfigError without the packages that only the book needs."""
    for package in ("sphinx", "myst_nb", "furo"):
        if not importlib.util.find_spec(package):
            raise ConfigError(f"{package} is not installed: pip install -e '.[book]'")


def run_sphinx(work: Path, pages: Path) -> bool:
    """Make `pages` of `work`/source; False after any warning, which Sphinx has printed then."""
    options = ["-W", "--keep-going", "-q", "-E", "-b", "html", "-c", ROOT / "docs", "-d", work / "doctrees"]
    command = [sys.executable, "-m", "sphinx", *map(str, [*options, work / "source", pages])]
    done = subprocess.run(command, cwd=ROOT, check=False).returncode == 0
    (pages / ".buildinfo").unlink(missing_ok=True)
    return done


def _execute(path: Path, copy: Path, parameters: dict[str, Any], cell_seconds: int) -> None:
    """Execute a notebook with frames for its panels, unless `copy` was made from the same."""
    made_from = _digest(path, parameters)
    if copy.exists():
        metadata = read_notebook(copy).metadata
        if metadata.get(MARK) == made_from and not metadata.papermill.exception:
            return
    notebook = read_notebook(path)
    first = nbformat.v4.new_code_cell(FRAMES, metadata={"tags": ["remove-cell"]})
    notebook.cells.insert(0, first)
    notebook.metadata[MARK] = made_from
    with work_directory(copy.parent) as work:
        (work / path.name).write_text(nbformat.writes(notebook), encoding="utf-8")
        execute(work / path.name, copy, parameters, cell_seconds=cell_seconds)


def _digest(path: Path, parameters: dict[str, Any]) -> str:
    """Of the notebook, its parameters, and all code and records that it could read."""
    digest = hashlib.sha256(path.read_bytes() + json.dumps(parameters, sort_keys=True).encode())
    for package in ("fedrevive_core", "notebooks", "reproduce"):
        for file in sorted((ROOT / package).rglob("*")):
            if file.is_file() and file.suffix not in (".pyc", ".ipynb", ".md", ".html"):
                digest.update(file.relative_to(ROOT).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()
