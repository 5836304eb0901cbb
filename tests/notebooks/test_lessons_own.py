"""The checks of 09_your_own: the right answer, and each usual mistake by its name."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, exp, log, pi

import numpy as np
import pytest
import torch
from helpers import small
from torch import nn
from verdicts import Answers, cases, judge

from fedrevive_core import StatisticProbe, run
from fedrevive_notebooks.lessons import own as lesson


def forgetful() -> Callable[[int], float]:
    calls = []

    def answer(tau: int) -> float:
        calls.append(tau)
        return min(1.0, len(calls) / 1e5)

    return answer


def one_sided(tau: int) -> float | None:
    if tau < 60:
        return tau / 60


RULE = Answers(
    lesson.check_rule,
    "reaches one half at staleness 50",
    [lambda tau: min(1.0, tau / 100), lambda tau: 0 if tau < 50 else 1, lambda tau: float(np.clip(tau / 100, 0, 1))],
    {
        "beta(101) = 1.01": lambda tau: tau / 100,
        "whatever the staleness": lambda tau: 0.5,
        "what the client keeps": lambda tau: max(0.0, 1 - tau / 100),
        "beta(0) = 0.20": lambda tau: min(1.0, 0.2 + tau / 100),
        "falls from staleness 3 to 4": lambda tau: 0.9 if tau == 3 else min(1.0, tau / 100),
        "returns a float32": lambda tau: np.float32(min(1.0, tau / 100)),
        "min(1, ...)": lambda tau: 2.0,
        "keeps it in range": lambda tau: -tau / 100,
        "falls from staleness 300 to 301": lambda tau: (1 - cos(pi * tau / 300)) / 2,
        "ended without it": one_sided,
        "returns a str": lambda tau: "0.5",
        "Usual causes": lambda tau: float("nan"),
        "random or remembered": forgetful(),
        "ZeroDivisionError": lambda tau: 1 - 1 / tau,
        "logarithm of 0": lambda tau: log(tau) / 10,
        "OverflowError": lambda tau: 1 - 1 / exp(tau),
        "is called with 1 argument:": lambda tau, s_max: 0.5,
        "Give a function": 0.5,
    },
)


def net(*tail: nn.Module, width: int = 10, probe: int = 8) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), StatisticProbe(probe), nn.Linear(8, width), *tail)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.probe, self.head = nn.Conv2d(1, 4, 3), StatisticProbe(4), nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.probe(self.conv(x)).relu().mean(dim=(2, 3)))


ONE = net()
MODEL = Answers(
    lesson.check_own_model,
    "ready to run",
    [net, Net, lambda: net(nn.Dropout(0.1)), lambda: net(nn.LogSoftmax(dim=1))],
    {
        "probabilities": lambda: net(nn.Softmax(dim=1)),
        "not (2, 10)": lambda: net(width=9),
        "BatchNorm": lambda: net(nn.BatchNorm1d(10)),
        "no StatisticProbe": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        "does not take images": lambda: nn.Linear(7, 10),
        "not a str": lambda: "net",
        "StatisticProbe(32) as '2'": lambda: net(probe=32),
        "a probe needs": lambda: net(probe=1),
        "Write a function": net(),
        "the same model each time": lambda: ONE,
        "torch.float64": lambda: net().double(),
        "lazy module": lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(10)),
        "several clients at once": lambda: nn.Sequential(nn.Flatten(1, 2), Last(), nn.Linear(8, 10)),
        "not a list": lambda: [nn.Flatten(), nn.Linear(64, 10)],
        "not a type": lambda: Net,
        "changes its input in place": lambda: nn.Sequential(nn.ReLU(inplace=True), net()),
    },
    lambda: ((1, 8, 8), 10),
)


class Last(nn.Module):
    """The last state of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 8, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0][:, -1]


@pytest.mark.parametrize(("table", "answer", "kind", "words"), cases(RULE, MODEL))
def test_verdicts(table: Answers, answer: object, kind: str, words: str) -> None:
    judge(table, answer, kind, words)


@pytest.mark.parametrize("number", range(3))
def test_what_is_praised_runs(number: int) -> None:
    model, rule = MODEL.right[number], RULE.right[number]
    config = small("fedrevive", federation__max_versions=4, revival__warmup=2, synthesis__every=1)
    record = run(config, model=model(), beta=rule, progress=False)
    assert len(record.arrivals) == 4
    count = sum(parameter.numel() for parameter in model().parameters())
    assert f"{count:,} parameters, 1 probe:" in lesson.check_own_model(model, (1, 8, 8), 10).message
    half = next(tau for tau in range(200) if rule(tau) >= 0.5)
    assert f"one half at staleness {half}." in lesson.check_rule(rule).message
