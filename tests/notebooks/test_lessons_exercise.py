"""What every check does with missing answers, or with answers of the wrong kind."""

from __future__ import annotations

import importlib
import pkgutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from verdicts import TABLES, confusions, untried

from fedrevive_notebooks import lessons
from fedrevive_notebooks.lessons import exercise
from fedrevive_notebooks.lessons.exercise import Verdict, a_function, check, one_number, right, wrong

MODULES = [
    importlib.import_module(f"fedrevive_notebooks.lessons.{module.name}")
    for module in pkgutil.iter_modules(lessons.__path__)
]
CHECKS = {
    f"{module.__name__}.{name}"
    for module in MODULES
    for name, made in vars(module).items()
    if name.startswith("check_") and name != "check_model" and made.__module__ == module.__name__
}
for path in Path(__file__).parent.glob("test_lessons_*.py"):
    importlib.import_module(path.stem)  # which fills TABLES


@check(lambda answer: answer if isinstance(answer, float) else a_function(answer))
def check_double(answer: Any) -> Verdict:
    """A function that doubles, or 2.0."""
    found = one_number(answer(3)) / 3 if callable(answer) else answer
    return right("It is 2.") if found == 2 else wrong("It is not.")


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (None, "open", "Replace None"),
        (..., "open", "Replace None"),
        (lambda x: None, "open", "write its `return`"),
        (2.0, "right", ""),
        (np.float64(2), "right", ""),
        (len, "wrong", "TypeError"),
        (lambda x: 2 * x, "right", ""),
        (lambda x: torch.tensor([2.0 * x]), "right", ""),
        (lambda x: torch.tensor(2.0 * x, requires_grad=True), "right", ""),
        (3.0, "wrong", "It is not"),
        (np.ones((2, 3)), "wrong", "Give a function"),
        (lambda x: np.ones(4), "wrong", "returns shape (4,) instead of one number"),
        (lambda x: x + "1", "wrong", "could not be used. Python says: TypeError"),
    ],
)
def test_answers_of_every_kind(answer: object, kind: str, words: str) -> None:
    verdict = check_double(answer)
    assert (verdict.kind, words in verdict.message) == (kind, True), verdict


def test_only_a_function_without_a_return_is_open() -> None:
    def nothing(x):
        x + 1

    def bare(x):
        return

    def dots(x):
        return ...

    def docstring(x):
        """Return twice x."""

    def in_a_loop(x):
        for number in range(x):
            if number > 9:
                return number

    def in_an_if(x):
        if x > 9:
            return x

    def printed(x):
        return print(x)

    def one_of_two(x):
        with nullcontext():
            return 5 if x > 9 else None

    def constant(x):
        if x > 9:
            return "nine"

    for function in (nothing, bare, dots, docstring):
        assert check_double(function).kind == "open", function
    for function in (in_a_loop, in_an_if, printed, one_of_two, constant):
        assert "here it gave None" in check_double(function).message, function


def test_a_check_cell_without_its_answer_says_which_cell_to_run(capsys: pytest.CaptureFixture[str]) -> None:
    shell = mock.Mock()
    for source, told in (("lesson.check_blend(blended)", True), ("print(blended)", False)):
        with pytest.raises(NameError) as raised:
            exec(compile(source, "cell", "exec"), {"lesson": mock.Mock()})
        exercise._tell_which_cell(shell, NameError, raised.value, raised.tb)
        assert ("'blended' has no value: run the exercise's cell above first" in capsys.readouterr().out) is told
    assert shell.showtraceback.call_count == 2


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_every_check_has_a_table_of_answers(name: str) -> None:
    """Two right ones and eight wrong ones at least; each message its own; none for two values."""
    table = TABLES[name]
    assert len(table.right) >= 2
    assert len(table.wrong) >= 8
    assert table.check(None, *table.given()).kind == "open"
    assert not confusions(table)
    assert not untried(table)
