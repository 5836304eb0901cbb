"""The source of the book, as Sphinx reads it: the repository's pages in their folders, and pages of the API."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import nbformat

import fedrevive_core
from reproduce.reports.notebook_html import title

ROOT = Path(fedrevive_core.__file__).parents[1]
# In the order in which they are read; a document that is not named here stands at the end.
CONTENTS = {
    "Begin": ["docs/INSTALL", "docs/GUIDE", "docs/GLOSSARY"],
    "Notebooks": [],
    "Method": ["docs/METHODS", "docs/TEXT", "docs/FAULTS", "docs/LIVE", "docs/DEVICES", "docs/ARCHITECTURE"],
    "Results": ["docs/RESULTS", "docs/SPEED", "reproduce/README"],
    "Teach": ["docs/TEACHING", "docs/HANDOUT", "docs/CLASSROOM"],
    "API": [],
    "More": [],
}
DOCUMENTS = ("*.md", "docs/*.md", "reproduce/README.md", "reproduce/results/**/*.md")
PICTURE = re.compile(r"!\[[^\]]*\]\(([^):]+)\)")
NOTE = '<p class="note">In JupyterLab, controls to explore this stand here.</p>'
WIDGET = "application/vnd.jupyter.widget-view+json"


def write_source(folder: Path, executed: list[Path]) -> None:
    """Write to `folder` what Sphinx makes the book of; `executed` are the notebooks to show."""
    paths = [path for kind in DOCUMENTS for path in ROOT.glob(kind)]
    documents = {path.relative_to(ROOT).with_suffix("").as_posix(): path for path in paths}
    for name, path in documents.items():
        text = path.read_text(encoding="utf-8")
        for picture in PICTURE.findall(text):
            _copy((path.parent / picture).resolve(), folder)
        if name != "README":
            _write(folder / f"{name}.md", text)
    contents = {caption: [page for page in pages if page in documents] for caption, pages in CONTENTS.items()}
    contents["Notebooks"] = ["notebooks/index", *(_notebook(path, folder) for path in executed)]
    _copy(ROOT / "notebooks/index.ipynb", folder)
    contents["API"] = [_room(path, folder) for path in sorted((ROOT / "fedrevive_core").iterdir()) if _is_room(path)]
    named = {page for pages in contents.values() for page in pages}
    contents["More"] = sorted(set(documents) - named - {"README"})
    trees = [
        "\n".join([f"```{{toctree}}\n:hidden:\n:caption: {caption}\n", *pages, "```\n"])
        for caption, pages in contents.items()
    ]
    _write(folder / "index.md", documents["README"].read_text(encoding="utf-8") + "\n" + "\n".join(trees))


def _notebook(path: Path, folder: Path) -> str:
    """Write an executed notebook as the book shows it: solutions folded, frames or a sentence in place of widgets."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata["tags"] = [*tags, *(["hide-input"] if "solution" in tags else [])]
        for output in cell.get("outputs", []):
            data: Any = output.get("data", {})
            if WIDGET in data:
                output["data"] = {"text/html": data.get("text/html", NOTE)}
            elif "text/html" in data:
                output["data"] = {"text/html": data["text/html"]}
    _write(folder / "notebooks" / path.name, nbformat.writes(notebook))
    return f"{path.stem[:2]} {title(notebook)} <notebooks/{path.stem}>"


def _is_room(path: Path) -> bool:
    return (path / "__init__.py").exists() or (path.suffix == ".py" and not path.name.startswith("_"))


def _room(path: Path, folder: Path) -> str:
    """Write the page of a room of the core: a section for each of its modules."""
    modules = sorted(path.glob("*.py")) if path.is_dir() else [path]
    heading = f"fedrevive_core.{path.stem}"
    parts = [f"{heading}\n{'=' * len(heading)}\n"]
    for module in modules:
        inner = path.is_dir() and module.name != "__init__.py"
        name = f"{heading}.{module.stem}" if inner else heading
        parts += [f"{module.stem}\n{'-' * len(module.stem)}\n"] if inner else []
        parts += [f".. automodule:: {name}\n" + ("" if path.is_dir() and not inner else "   :members:\n")]
    _write(folder / "api" / f"{path.stem}.rst", "\n".join(parts))
    return f"api/{path.stem}"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _copy(path: Path, folder: Path) -> None:
    goal = folder / path.relative_to(ROOT)
    goal.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, goal)
