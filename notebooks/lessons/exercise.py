"""The verdict on an exercise: open, wrong with the likely mistake, or right with the reason."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from types import FunctionType
from typing import Any, Literal

import numpy as np

SIGNS = {"open": "&#9711; Not answered yet.", "wrong": "&#10007; Not yet.", "right": "&#10003; Right."}


@dataclass(frozen=True)
class Verdict:
    """The result of a check; the last line of a check cell shows it."""

    kind: Literal["open", "wrong", "right"]
    message: str

    def __repr__(self) -> str:
        return f"[{self.kind}] {self.message}"

    def _repr_html_(self) -> str:
        return f'<div class="verdict {self.kind}"><b>{SIGNS[self.kind]}</b> {html.escape(self.message)}</div>'


def wrong(message: str) -> Verdict:
    """Return the verdict "wrong"; `message` names the likely mistake and where to look, not the answer."""
    return Verdict("wrong", message)


def right(message: str) -> Verdict:
    """Return the verdict "right"; `message` says why, or what follows."""
    return Verdict("right", message)


class _Judged(Exception):
    """Ends a check early, with `verdict`."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.message)
        self.verdict = verdict


def check(judge: Callable[..., Verdict]) -> Callable[..., Verdict]:
    """Decorate a check: a missing answer is open, and an answer that cannot be judged says why.

    Missing are None, ... and functions that return one of these.
    """

    @wraps(judge)
    def judged(answer: Any, *given: Any, **named: Any) -> Verdict:
        if answer is None or answer is ...:
            return Verdict("open", "Replace None with your answer and run both cells again.")
        if np.ndim(answer) and hasattr(answer, "shape"):
            shape = tuple(np.shape(answer))
            return wrong(f"This is an array of shape {shape}; the task asks for one number, or for a function.")
        try:
            return judge(_returning(answer) if isinstance(answer, FunctionType) else answer, *given, **named)
        except _Judged as ended:
            return ended.verdict
        except Exception as error:  # a student's function may raise anything
            return wrong(f"Your answer could not be used: {type(error).__name__}: {error}")

    return judged


def _returning(answer: FunctionType) -> Callable[..., Any]:
    def called(*given: Any) -> Any:
        result = answer(*given)
        if result is None or result is ...:
            raise _Judged(Verdict("open", "Your function returns None: write its `return`, and run both cells again."))
        return result

    return called


def one_number(result: Any) -> float:
    """Return what a student's function returned as one number; several numbers end the check with a verdict."""
    shape = tuple(np.shape(result))
    if math.prod(shape) != 1:
        raise _Judged(wrong(f"Your function returns shape {shape} instead of one number: is a sum or mean missing?"))
    return float(result.item() if hasattr(result, "item") else result)


def diagnose(result: Any, expected: Any, mistakes: Mapping[str, Any], praise: str) -> Verdict:
    """Compare the result of an answer with the right value and with the values of usual mistakes (by message).

    result, expected and the mistakes' values are numbers or arrays. They agree within 1e-5 (relative above 1).
    A list holds several values of one mistake.
    """
    result, expected = np.asarray(result, dtype=float), np.asarray(expected, dtype=float)
    if result.shape != expected.shape:
        return wrong(f"Your answer has shape {result.shape}, not {expected.shape}.")

    def close(value: Any) -> bool:
        return bool(np.allclose(result, np.asarray(value, dtype=float), rtol=1e-5, atol=1e-5))

    if close(expected):
        return right(praise)
    for message, value in mistakes.items():
        if any(map(close, value if isinstance(value, list) else [value])):
            return wrong(message)
    return wrong(
        f"The right value is {_short(expected)}, yours is {_short(result)}; this check does not know this mistake."
    )


def _short(value: np.ndarray) -> str:
    return np.array2string(value, precision=4, threshold=6)
