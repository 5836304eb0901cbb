"""What every check does with missing answers, or with answers of the wrong kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lessons import own, staleness, synthesis
from lessons.exercise import Verdict, check, one_number, right, wrong


@check
def check_double(answer: Any) -> Verdict:
    """A function that doubles, or 2."""
    found = one_number(answer(3)) / 3 if callable(answer) else answer
    return right("It is 2.") if found == 2 else wrong("It is not.")


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (None, "open", "Replace None"),
        (..., "open", "Replace None"),
        (lambda x: None, "open", "write its `return`"),
        (2, "right", ""),
        (np.float64(2), "right", ""),
        (lambda x: 2 * x, "right", ""),
        (lambda x: torch.tensor([2.0 * x]), "right", ""),
        (lambda x: torch.tensor(2.0 * x, requires_grad=True), "right", ""),
        (3, "wrong", "It is not"),
        (np.ones((2, 3)), "wrong", "array of shape (2, 3)"),
        (lambda x: np.ones(4), "wrong", "returns shape (4,) instead of one number"),
        (lambda x: x + "1", "wrong", "could not be used: TypeError"),
    ],
)
def test_answers_of_every_kind(answer: object, kind: str, words: str) -> None:
    verdict = check_double(answer)
    assert (verdict.kind, words in verdict.message) == (kind, True), verdict


def test_a_model_is_not_a_function_that_makes_one() -> None:
    assert "Write a function" in own.check_own_model(nn.Linear(2, 2), (1, 8, 8), 10).message


def test_one_number_is_not_a_pair() -> None:
    assert "(B, O)" in staleness.check_zero(12, None, 0, 0).message


@pytest.mark.parametrize("correction", [0, 1])
def test_standard_deviations_are_recognised_however_they_are_computed(correction: int) -> None:
    def answer(x: torch.Tensor, mean: torch.Tensor, var: torch.Tensor) -> torch.Tensor:
        spread = x.std(dim=(0, 2, 3), correction=correction)
        return (x.mean(dim=(0, 2, 3)) - mean).norm() + (spread - var).norm()

    assert "standard deviations" in synthesis.check_feature_loss(answer).message
