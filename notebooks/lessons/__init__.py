"""What only the notebooks need: figures, and exercises with checks that name the mistake."""

from __future__ import annotations

import ast

from IPython import get_ipython
from IPython.core.error import InputRejected

from fedrevive_core.config import choices
from fedrevive_core.errors import ConfigError


class UnknownParameter(ConfigError, InputRejected):
    """papermill was given a parameter that the notebook does not have."""


class _Parameters:
    """Refuses the cell that papermill adds, if it assigns what the cell of parameters before it does not.

    Papermill itself only warns, so that the run would have the default of a name that was mistyped.
    """

    def visit(self, cell: ast.Module) -> ast.Module:
        """`cell`, about to run; IPython calls this for each cell. Raises UnknownParameter."""
        before, source = shell.history_manager.input_hist_parsed[-2:]
        if source.startswith("# Parameters\n"):
            known = _assigned(ast.parse(before))
            for name in _assigned(cell):
                if name not in known:
                    raise UnknownParameter(f"the notebook has no parameter '{name}': {choices(name, known)}")
        return cell


def _assigned(cell: ast.Module) -> list[str]:
    return [ast.unparse(target) for part in cell.body if isinstance(part, ast.Assign) for target in part.targets]


if shell := get_ipython():
    shell.ast_transformers.append(_Parameters())
