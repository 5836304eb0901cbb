"""The checks of 05_fedrevive: the right answer, and each usual mistake by its name."""

from __future__ import annotations

from math import cos, pi, radians
from types import SimpleNamespace

import pandas as pd
import pytest
from helpers import small

from lessons import blend as lesson

CONFIG = small("fedrevive")


def stamped(answer):
    """The same function, that spoils its arguments."""

    def spoiling(client, distilled, beta):
        client *= 1 - beta
        return client + beta * distilled

    return spoiling if answer == "in place" else answer


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda client, distilled, beta: (1 - beta) * client + beta * distilled, None),
        (lambda client, distilled, beta: beta * client + (1 - beta) * distilled, "wrong way round"),
        (lambda client, distilled, beta: client + beta * distilled, "Nothing is taken"),
        (lambda client, distilled, beta: (1 - beta) * client, "down-weighting"),
        (lambda client, distilled, beta: (1 - beta) * client + distilled, "beta weighs the distilled"),
        (lambda client, distilled, beta: (client + distilled) / 2, "plain mean"),
        ("in place", "changes the updates"),
        (lambda client, distilled, beta: client.sum(), "shape ()"),
        (lambda client, distilled, beta: client * 9, "on paper"),
    ],
)
def test_blend(answer, said):
    verdict = lesson.check_blend(stamped(answer))
    assert verdict.kind == ("right" if said is None else "wrong")
    assert said is None or said in verdict.message


def rule(tau, s_max):
    return 1.0 if tau >= 2 * s_max else (1 - cos(pi * tau / (2 * s_max))) / 2


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (rule, None),
        (lambda tau, s_max: (1 - cos(pi * tau / (2 * s_max))) / 2, "turns back"),
        (lambda tau, s_max: rule(2 * tau, s_max), "reaches 1 at s_max"),
        (lambda tau, s_max: 2 * rule(tau, s_max), "half in front is missing"),
        (lambda tau, s_max: 1 - rule(tau, s_max), "what the client keeps"),
        (lambda tau, s_max: (1 - cos(radians(pi * tau / (2 * s_max)))) / 2, "radians"),
        (lambda tau, s_max: 0.3, "beta(0) should be 0; yours is 0.3"),
        (lambda tau, s_max: 0.0 if tau >= 2 * s_max else rule(tau, s_max), "beta(80) should be 1; yours is 0"),
        (
            lambda tau, s_max: 1.0 if tau >= 2 * s_max else (1 - cos(pi * tau / 2 * s_max)) / 2,
            "put 2 * s_max in parentheses",
        ),
    ],
)
def test_cosine_rule(answer, said):
    verdict = lesson.check_cosine_rule(answer, CONFIG)
    assert verdict.kind == ("right" if said is None else "wrong")
    assert said is None or said in verdict.message


# Three arrivals: beta(75) = 1/2 is at the mean staleness, and the mean of the betas is 0.4.
ARRIVALS = pd.DataFrame({"version": [100, 120, 400], "staleness": [0, 15, 210], "beta": [0.0, 0.2, 1.0]})
RECORD = SimpleNamespace(arrivals=ARRIVALS, config=CONFIG)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (105, None),
        (135, "not made yet"),
        (120, "that the server had"),
        (104, "Off by one"),
        (7, "version is the server"),
    ],
)
def test_downloaded(answer, said):
    verdict = lesson.check_downloaded(answer, RECORD, 1)
    assert verdict.kind == ("right" if said is None else "wrong")
    assert said is None or said in verdict.message


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (0.4, None),
        (40, "fraction from 0 to 1"),
        (0.5, "beta of the mean staleness"),
        (0.6, "what the clients keep"),
        (2 / 3, "counts the updates"),
        (0.1, "mean of one column"),
    ],
)
def test_lost(answer, said):
    verdict = lesson.check_lost(answer, RECORD)
    assert verdict.kind == ("right" if said is None else "wrong")
    assert said is None or said in verdict.message


def test_the_committed_records_are_of_the_methods_as_they_are_configured():
    """Otherwise the notebook would show runs of settings that are no longer there."""
    from fedrevive_core import Record, build

    for method in lesson.SHOWN:
        record = Record.load(f"notebooks/records/methods/{method}")
        assert record.config == build("lab-digits", method)
        assert record.model == {}
