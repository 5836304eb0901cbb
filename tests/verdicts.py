"""Tables of answers to the exercises, and what is asked of every table."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any
from unittest import mock

import numpy as np
import pytest

from fedrevive_notebooks.lessons import exercise

TABLES: dict[str, Answers] = {}  # by the module and the name of the check


@dataclass(frozen=True)
class Answers:
    """Answers to one exercise: right ones, written in different ways, and wrong ones by words of their verdict."""

    check: Callable[..., exercise.Verdict]
    praise: str
    right: Sequence[Any]
    wrong: Mapping[str, Any]
    given: Callable[[], tuple[Any, ...]] = tuple

    def __post_init__(self) -> None:
        TABLES[f"{self.check.__module__}.{self.check.__name__}"] = self


def cases(*tables: Answers) -> list[Any]:
    """Return the parameters (table, answer, kind, words) of all answers in `tables`."""
    return [
        pytest.param(table, answer, kind, words, id=f"{table.check.__name__}-{words[:50]}")
        for table in tables
        for kind, pairs in (
            ("right", [(table.praise, answer) for answer in table.right]),
            ("wrong", table.wrong.items()),
        )
        for words, answer in pairs
    ]


def judge(table: Answers, answer: Any, kind: str, words: str) -> None:
    verdict = table.check(answer, *table.given())
    assert (verdict.kind, words in verdict.message) == (kind, True), verdict


def mistakes_of(table: Answers) -> tuple[list[tuple[str, Any]], float]:
    """Return what the check of `table` compares an answer with, by message or praise, and its tolerance."""
    seen: list[tuple[list[tuple[str, Any]], float]] = []

    def spy(result, expected, mistakes, praise, *, tolerance=1e-5, otherwise=""):
        values = [(m, value) for m, some in mistakes.items() for value in (some if isinstance(some, list) else [some])]
        seen.append(([(praise, expected), *values], tolerance))
        return exercise.diagnose(result, expected, mistakes, praise, tolerance=tolerance, otherwise=otherwise)

    for module in (
        sys.modules[table.check.__module__],
        importlib.import_module("fedrevive_notebooks.lessons.quick_tour"),
    ):
        if hasattr(module, "diagnose"):
            with mock.patch.object(module, "diagnose", spy):
                table.check(table.right[0], *table.given())
    return seen[0] if seen else ([], 0)


def confusions(table: Answers) -> list[tuple[str, str]]:
    """Return pairs of messages, or of a message and the praise, that one and the same answer would get."""
    values, tolerance = mistakes_of(table)

    def far(first: Any, second: Any) -> bool:
        one, other = (exercise._values(value) for value in (first, second))
        return bool((np.abs(one - other) > tolerance * np.maximum(1, np.abs(one))).any())

    return [(a, b) for (a, x), (b, y) in combinations(values, 2) if a != b and not far(x, y)]


def untried(table: Answers) -> set[str]:
    """Return the messages of usual mistakes that no answer in `table` gets."""
    messages = {message for message, _ in mistakes_of(table)[0][1:]}
    return messages - {table.check(answer, *table.given()).message for answer in table.wrong.values() if messages}
