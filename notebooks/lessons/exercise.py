"""An exercise's verdict: open, wrong with the likely mistake, or right with what follows from it."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal

SIGNS = {"open": "&#9711; Not answered yet.", "wrong": "&#10007; Not yet.", "right": "&#10003; Right."}


@dataclass(frozen=True)
class Verdict:
    """What a check says; the last line of a check cell shows it."""

    kind: Literal["open", "wrong", "right"]
    message: str

    def __repr__(self) -> str:
        return f"[{self.kind}] {self.message}"

    def _repr_html_(self) -> str:
        return f'<div class="verdict {self.kind}"><b>{SIGNS[self.kind]}</b> {html.escape(self.message)}</div>'


def wrong(message: str) -> Verdict:
    """The answer is wrong; `message` says which mistake it looks like and where to look, not the answer."""
    return Verdict("wrong", message)


def right(message: str) -> Verdict:
    """The answer is right; `message` says why, or what follows."""
    return Verdict("right", message)


def check(judge: Callable[..., Verdict]) -> Callable[..., Verdict]:
    """Decorator of a check: an answer of None (or ...) is open, and an answer that cannot be judged says why."""

    @wraps(judge)
    def judged(answer: Any, *given: Any, **named: Any) -> Verdict:
        if answer is None or answer is ...:
            return Verdict("open", "Replace None with your answer and run both cells again.")
        try:
            return judge(answer, *given, **named)
        except Exception as error:  # a student's function may raise anything
            return wrong(f"Your answer could not be used: {type(error).__name__}: {error}")

    return judged
