"""What a notebook says of its figures stands in it, word for word, with a test: see `claims/__init__.py`."""

from __future__ import annotations

import ast
from pathlib import Path

import claims
import nbformat
import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("[0-9]*.ipynb"))


def words(text: str) -> str:
    return " ".join(text.split())


def said(notebook: str) -> str:
    """The texts of a notebook, and all fixed strings of the lessons, which have the titles of figures."""
    cells = nbformat.read(FOLDER / f"{notebook}.ipynb", as_version=4).cells
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted((FOLDER / "lessons").glob("*.py"))]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    strings = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return words("\n".join([cell.source for cell in cells if cell.cell_type == "markdown"] + strings))


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_every_claim_is_said(notebook: str) -> None:
    text = said(notebook)
    for sentence in claims.of(notebook):
        assert words(sentence) in text, sentence


def test_every_file_of_claims_has_its_notebook() -> None:
    files = {path.stem for path in Path(claims.__file__).parent.glob("*.py")} - {"__init__"}
    assert files <= {notebook[3:] for notebook in NOTEBOOKS}


def test_what_is_not_true_is_quoted() -> None:
    made = {"It grows.": lambda n: n.last > n.first, "It is small.": lambda n: n.last < 10, "": lambda n: True}
    claims.hold(made, {"first": 1, "last": 5})
    with pytest.raises(AssertionError, match=r"not true of this run:\nIt grows.\nIt is small.$"):
        claims.hold(made, {"first": 30, "last": 20})
