"""The checks of 09_your_own: the right answer, and each usual mistake by its name."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from fedrevive_core import StatisticProbe
from lessons import own as lesson


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda tau: min(1.0, tau / 100), None),
        (lambda tau: tau / 100, r"beta(101) = 1.01"),
        (lambda tau: 0.5, "whatever the staleness"),
        (lambda tau: max(0.0, 1 - tau / 100), "what the client keeps"),
        (lambda tau: min(1.0, 0.2 + tau / 100), "beta(0) = 0.20"),
        (lambda tau: 0.9 if tau == 3 else min(1.0, tau / 100), "falls from staleness 3 to 4"),
        (lambda tau: np.float32(min(1.0, tau / 100)), "returns a float32"),
        (lambda tau: 2.0, "min(1, ...)"),
    ],
)
def test_rule(answer, said):
    verdict = lesson.check_rule(answer)
    assert verdict.kind == ("right" if said is None else "wrong")
    assert said is None or said in verdict.message


def net(*tail: nn.Module, width: int = 10) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), StatisticProbe(8), nn.Linear(8, width), *tail)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (net, None),
        (lambda: net(nn.Softmax(dim=1)), "probabilities"),
        (lambda: net(width=9), "not (2, 10)"),
        (lambda: net(nn.BatchNorm1d(10)), "BatchNorm"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "no StatisticProbe"),
        (lambda: nn.Linear(7, 10), "does not take images"),
        (lambda: "net", "not a str"),
    ],
)
def test_own_model(answer, said):
    verdict = lesson.check_own_model(answer, (1, 8, 8), 10)
    assert verdict.kind == ("right" if said is None else "wrong")
    assert said is None or said in verdict.message
