"""The checks of 05_fedrevive: the right answer, and each usual mistake by its name."""

from __future__ import annotations

from math import cos, pi, radians, sin
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import small
from verdicts import Answers, cases, judge

from fedrevive_core import simulate_timeline
from fedrevive_notebooks.lessons import blend as lesson

CONFIG = small("fedrevive")


def in_place(client, distilled, beta):
    client *= 1 - beta
    return client + beta * distilled


BLEND = Answers(
    lesson.check_blend,
    "At beta = 0",
    [
        lambda client, distilled, beta: (1 - beta) * client + beta * distilled,
        lambda client, distilled, beta: client + beta * (distilled - client),
        torch.lerp,
    ],
    {
        "wrong way round": lambda client, distilled, beta: beta * client + (1 - beta) * distilled,
        "Nothing is taken": lambda client, distilled, beta: client + beta * distilled,
        "down-weighting": lambda client, distilled, beta: (1 - beta) * client,
        "beta weighs the distilled": lambda client, distilled, beta: (1 - beta) * client + distilled,
        "plain mean": lambda client, distilled, beta: (client + distilled) / 2,
        "plain sum": lambda client, distilled, beta: client + distilled,
        "client's update alone": lambda client, distilled, beta: client,
        "distilled update alone": lambda client, distilled, beta: distilled,
        "have the weight 1 - beta": lambda client, distilled, beta: (1 - beta) * (client + distilled),
        "have the weight beta": lambda client, distilled, beta: beta * (client + distilled),
        "is subtracted": lambda client, distilled, beta: (1 - beta) * client - beta * distilled,
        "divide by 2": lambda client, distilled, beta: ((1 - beta) * client + beta * distilled) / 2,
        "changes the updates": in_place,
        "has shape ()": lambda client, distilled, beta: client.sum(),
        "on paper": lambda client, distilled, beta: client * 9,
        "0.8 for beta = 0.8": lambda client, distilled, beta: torch.lerp(client, distilled, min(beta, 0.5)),
        "look at one value": lambda client, distilled, beta: client if client > distilled else distilled,
        "Give a function": torch.tensor([3.0, 2.0, -1.0]),
        "is called with 3 arguments": lambda client, distilled: client,
    },
)


def rule(tau, s_max):
    return 1.0 if tau >= 2 * s_max else (1 - cos(pi * tau / (2 * s_max))) / 2


def capped(formula):
    return lambda tau, s_max: 1.0 if tau >= 2 * s_max else formula(tau, s_max)


def without_else(tau, s_max):
    if tau < 2 * s_max:
        return rule(tau, s_max)


RULE = Answers(
    lesson.check_cosine_rule,
    "beta is 1/2 at s_max",
    [
        rule,
        lambda tau, s_max: (1 - cos(min(pi, pi * tau / (2 * s_max)))) / 2,
        lambda tau, s_max: np.where(tau >= 2 * s_max, 1, np.sin(pi * tau / 4 / s_max) ** 2),
    ],
    {
        "but not for s_max = 75": lambda tau, s_max: rule(tau, 40),
        "turns back": lambda tau, s_max: (1 - cos(pi * tau / (2 * s_max))) / 2,
        "reaches 1 at s_max": lambda tau, s_max: rule(2 * tau, s_max),
        "the denominator is 2 s_max": lambda tau, s_max: (1 - cos(pi * tau / s_max)) / 2,
        "jumps to 1": lambda tau, s_max: 1.0 if tau >= s_max else rule(tau, s_max),
        "half in front is missing": lambda tau, s_max: 2 * rule(tau, s_max),
        "The half in front": capped(lambda tau, s_max: 1 - cos(pi * tau / (2 * s_max))),
        "what the client keeps": lambda tau, s_max: 1 - rule(tau, s_max),
        "radians": lambda tau, s_max: (1 - cos(radians(pi * tau / (2 * s_max)))) / 2,
        "beta(0) should be 0; yours is 0.3": lambda tau, s_max: 0.3,
        "takes 0 beyond": lambda tau, s_max: 0.0 if tau >= 2 * s_max else rule(tau, s_max),
        "put 2 * s_max in parentheses": capped(lambda tau, s_max: (1 - cos(pi * tau / 2 * s_max)) / 2),
        "straight line": lambda tau, s_max: min(1, tau / (2 * s_max)),
        "halves the cosine alone": capped(lambda tau, s_max: 1 - cos(pi * tau / (2 * s_max)) / 2),
        "take the cosine": lambda tau, s_max: sin(pi * tau / (2 * s_max)),
        "ended without it": without_else,
        "is no function is called": lambda tau, s_max: s_max(tau),
    },
    lambda: (CONFIG,),
)

# Three arrivals, with beta of the cosine rule, s_max = 75.
TAU = [0, 40, 210]
ARRIVALS = pd.DataFrame({"version": [100, 120, 400], "staleness": TAU, "beta": [rule(tau, 75) for tau in TAU]})
RECORD = SimpleNamespace(arrivals=ARRIVALS, config=CONFIG)
BETA = float(ARRIVALS["beta"].mean())
DOWNLOADED = Answers(
    lesson.check_downloaded,
    "120 - 40",
    [80, 80.0, np.int64(80)],
    {
        "not made yet": 160,
        "that the server had": 120,
        "Off by one": 79,
        "Off by": 81,
        "which one it was": 40,
        "The sign is wrong": -80,
        "one of 0 to 120": 500,
        "started from one of 0": -1,
        "version is the server": 7,
        "whole number": 79.5,
        "quotation marks": "80",
        "parentheses of a call": max,
    },
    lambda: (RECORD, 1),
)
LOST = Answers(
    lesson.check_lost,
    f"{BETA:.1%} of all weight",
    [BETA, round(BETA, 2), ARRIVALS["beta"].to_numpy().sum() / 3],
    {
        "no percentage": 100 * BETA,
        "no sum": 3 * BETA,
        "beta of the mean staleness": rule(250 / 3, 75),
        "share that is kept": 1 - BETA,
        "lose something": 2 / 3,
        "lose everything": 1 / 3,
        "median": rule(40, 75),
        "too small": 0.1,
        "too large": 0.9,
        "These are 3 values": ARRIVALS["beta"],
        "parentheses of a call": ARRIVALS["beta"].mean,
        "without quotation marks, not True": True,
    },
    lambda: (RECORD,),
)


@pytest.mark.parametrize(("table", "answer", "kind", "words"), cases(BLEND, RULE, DOWNLOADED, LOST))
def test_verdicts(table: Answers, answer: object, kind: str, words: str) -> None:
    judge(table, answer, kind, words)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_is_praised_is_true(seed):
    """The rule is the server's, and the version is that from which the run's job started."""
    timeline = simulate_timeline(CONFIG.federation, seed)
    jobs = timeline.arrivals
    staleness = timeline.staleness[jobs]
    arrivals = pd.DataFrame({"version": timeline.arrival_version[jobs], "staleness": staleness})
    for number in range(0, len(jobs), 5):
        verdict = lesson.check_downloaded(
            timeline.base_version[jobs[number]], SimpleNamespace(arrivals=arrivals), number
        )
        assert verdict.kind == "right"
    lost = np.mean([rule(tau, CONFIG.staleness.s_max) for tau in staleness])
    verdict = lesson.check_lost(lost, SimpleNamespace(arrivals=arrivals, config=CONFIG))
    assert f"{lost:.1%} of all weight" in verdict.message


def test_the_committed_records_are_of_the_methods_as_they_are_configured():
    """Otherwise the notebook would show runs of settings that are no longer there."""
    from fedrevive_core import Record, build

    for method in lesson.SHOWN:
        record = Record.load(lesson.RECORDS / method)
        assert record.config == build("lab-digits", method)
        assert record.model == {}
