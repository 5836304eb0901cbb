"""What a classroom needs to know of a notebook of the course: its code cells, its exercises, its students' edition."""

from __future__ import annotations

import ast
import copy
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from IPython.core.inputtransformer2 import TransformerManager

from reproduce.notebook_runner import defaults, find, read_notebook, shipped

HIDDEN = re.compile(r"<details>\s*<summary>[^<]*(explain|answer|solution)[^<]*</summary>.*?</details>", re.I | re.S)
SOLVE = re.compile(r"^solve = .*\n?", re.MULTILINE)


@dataclass(frozen=True)
class Exercise:
    """One question: `name` is the variable that holds the answer, which the call `check` judges."""

    notebook: str
    number: int  # from 1, in the notebook
    name: str
    cell: str  # id of the cell that the student fills in
    stub: str  # its source as it is released
    check: str  # such as 'lesson.check_prediction(predicted_mean, asked, seed)'
    at: int  # position of the cell with the check, among all cells
    solution: str

    @property
    def title(self) -> str:
        """How tables call it."""
        return f"{self.notebook}/{self.number}"


@cache
def released() -> tuple[str, ...]:
    """Names of the notebooks that have exercises."""
    return tuple(name for name in shipped() if exercises(name))


@cache
def exercises(notebook: str) -> tuple[Exercise, ...]:
    """The exercises of a notebook of the course, in order."""
    found: list[Exercise] = []
    cells = read_notebook(find(notebook)).cells
    for at, cell in enumerate(cells):
        for call in checks(cell.source) if cell.cell_type == "code" else ():
            name = ast.unparse(call.args[0])
            asking, solving = (
                next(c for c in cells[:at] if c.cell_type == "code" and is_solution(c) is solved and gives(name, c))
                for solved in (False, True)
            )
            found.append(
                Exercise(
                    notebook, len(found) + 1, name, asking.id, asking.source, ast.unparse(call), at, solving.source
                )
            )
    return tuple(found)


def is_solution(cell: Any) -> bool:
    """Is this a cell with a solution?"""
    return "solution" in cell.metadata.get("tags", [])


def gives(name: str, cell: Any) -> bool:
    """Does a cell give the variable `name` a value? The source may be of anyone: it is searched, not parsed."""
    return re.search(rf"^\s*(def\s+{name}\s*\(|class\s+{name}\b|{name}\s*(:[^=\n]+)?=[^=])", cell.source, re.M) is not None


def checks(source: str) -> Iterator[ast.Call]:
    """The calls of checks in a code cell of ours."""
    for node in ast.walk(ast.parse(plain(source))):
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Attribute) and called.attr.startswith("check_"):
            yield node  # type: ignore[misc]


def steps(source: str) -> str:
    """The statements of a code cell of ours that later cells can need: without checks, and nothing that only shows."""
    body = [
        node for node in ast.parse(plain(source)).body if not (isinstance(node, ast.Expr) or list(checks(ast.unparse(node))))
    ]
    return "\n".join(map(ast.unparse, body)) if any(not isinstance(node, ast.Expr) for node in body) else ""


def plain(source: str) -> str:
    """Python code of a cell of ours."""
    return str(TransformerManager().transform_cell(source))


def edition(notebook: str, *, seed: int | None, student: str = "") -> Any:
    """The students' edition of a notebook: no solutions, nothing folded but hints, and the student's own `seed`.

    seed: None leaves the notebook's own, as does a notebook without one.
    """
    document = copy.deepcopy(read_notebook(find(notebook)))
    cells = []
    for cell in document.cells:
        if cell.cell_type == "markdown":
            cell.source = HIDDEN.sub("", cell.source).strip()
        elif "parameters" in cell.metadata.get("tags", []):
            cell.source = SOLVE.sub("", cell.source).rstrip()
            if seed is not None:
                cell.source = re.sub(r"^seed = \d+", f"seed = {seed}", cell.source, flags=re.MULTILINE)
        if cell.source and not is_solution(cell):
            cells.append(cell)
    document.cells = cells
    document.metadata["fedrevive"] = {"notebook": notebook, "student": student}
    return document


def has_seed(notebook: str) -> bool:
    """Does what the notebook computes depend on a seed?"""
    return "seed" in defaults(find(notebook))


def fingerprint(notebook: str) -> str:
    """Changes with any change of the notebook of the course."""
    return hashlib.sha256(Path(find(notebook)).read_bytes()).hexdigest()
