"""The cells of a notebook as we wrote them, run in order as far as the exercises need them."""

from __future__ import annotations

import builtins
import contextlib
import io
import os
from collections.abc import Collection, Iterator
from typing import Any

from reproduce.classroom.course import is_solution, steps
from reproduce.notebook_runner import FOLDER, find, read_notebook


def cells_until(notebook: str, seed: int | None, ends: Collection[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Run the notebook's own cells; yield each position in `ends`, of a cell with a check, and the variables there.

    Cells that only show something are left out, and so are solutions. seed: None takes the notebook's own.
    """
    namespace: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins}
    if not ends:
        return
    os.chdir(FOLDER)
    for at, cell in enumerate(read_notebook(find(notebook)).cells):
        if cell.cell_type != "code" or is_solution(cell):
            continue
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            exec(compile(steps(cell.source), f"<cell {at} of {notebook}>", "exec"), namespace)
        if "parameters" in cell.metadata.get("tags", []) and seed is not None:
            namespace["seed"] = seed
        if at in ends:
            yield at, namespace
            if at == max(ends):
                return


