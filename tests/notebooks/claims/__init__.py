"""What the notebooks say of their figures, each sentence with a function that must be true of the executed notebook.

`claims/NAME.py` has the sentences of `NN_NAME.ipynb`: `CLAIMS`, a dictionary from a sentence (as the notebook has it,
in Markdown or in a lesson's figure; line breaks do not matter) to a function of the notebook's variables. Not in it:
what the cells compute, and what names its seed. `test_claims.py` finds each sentence; `make test-notebooks` runs every
notebook with three seeds and evaluates the functions at the end (see `test_notebooks.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

Claims = Mapping[str, Callable[[Any], Any]]


def of(notebook: str) -> Claims:
    """Return the claims of `notebook`, such as '01_staleness'; none if it has no file here."""
    name = f"claims.{notebook[3:]}"
    return import_module(name).CLAIMS if find_spec(name) else {}


def hold(claims: Claims, variables: Mapping[str, Any]) -> None:
    """Raise an AssertionError that quotes every one of `claims` which is not true of a notebook's `variables`."""
    notebook = SimpleNamespace(**variables)
    wrong = [sentence for sentence, true in claims.items() if not bool(true(notebook))]
    assert not wrong, "not true of this run:\n" + "\n".join(wrong)
