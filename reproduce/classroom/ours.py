"""The cells of a notebook as we wrote them, run in order as far as the exercises need them."""

from __future__ import annotations

import builtins
import contextlib
import io
import os
from collections.abc import Collection, Iterator
from typing import Any

from reproduce.classroom.course import defines, is_solution, steps, uses
from reproduce.notebook_runner import FOLDER, find, read_notebook


def cells_until(
    notebook: str, seed: int | None, ends: Collection[int], words: Collection[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Run the notebook's own cells; yield each position in `ends`, of a cell with a check, and the variables there.

    seed: None takes the notebook's own. words: what answers mention. Cells run only if the checks at `ends`, or the
    answers, need what they define; so a training run for a figure takes no time here.
    """
    namespace: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins}
    os.chdir(FOLDER)
    for at, source in _needed(notebook, ends, words):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            exec(compile(source, f"<cell {at} of {notebook}>", "exec"), namespace)
        if seed is not None and "seed" in defines(source):
            namespace["seed"] = seed
        if at in ends:
            yield at, namespace


def _needed(notebook: str, ends: Collection[int], words: Collection[str]) -> list[tuple[int, str]]:
    """Positions and statements of the cells that run, in order."""
    cells = read_notebook(find(notebook)).cells
    needed, found = set(words), []
    for at in range(max(ends, default=-1), -1, -1):
        if cells[at].cell_type == "code" and not is_solution(cells[at]):
            source = steps(cells[at].source)
            if at in ends:
                needed |= uses(cells[at].source)
            if at in ends or defines(source) & needed:
                needed |= uses(source)
                found.append((at, source))
    return found[::-1]
