"""Checks of 00_quick_tour and 01_staleness: the right answer, and each mistake that they name."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import federation, record_of
from verdicts import Answers, cases, judge

from fedrevive_core import Record, Timeline, build
from fedrevive_core.errors import ConfigError
from fedrevive_core.timeline.event_loop import simulate_timeline
from fedrevive_core.widgets.timeline import with_stragglers
from fedrevive_notebooks.lessons import quick_tour
from fedrevive_notebooks.lessons import staleness as lesson

BUFFERED = simulate_timeline(federation(12, 6, buffer_size=3, max_versions=60), 0)


def solved(dispatch_time: float, arrival_time: float, version_times: np.ndarray) -> int:
    return int(np.sum((version_times > dispatch_time) & (version_times < arrival_time)))


def test_counting_is_right_when_it_agrees_with_the_package() -> None:
    for buffer_size, refill_size in ((1, 1), (3, 1), (2, 4), (6, 6)):
        sizes = {"buffer_size": buffer_size, "refill_size": refill_size}
        timeline = simulate_timeline(federation(12, 6, max_versions=40, **sizes), 1)
        assert lesson.check_counting(solved, timeline).kind == "right"


def looped(dispatch_time: float, arrival_time: float, version_times: np.ndarray) -> int | None:
    for count, time in enumerate(version_times):
        if time > 1e9:
            return count
    return None


COUNTING = Answers(
    lesson.check_counting,
    "agrees with the package on all",
    [
        solved,
        lambda d, a, v: len([time for time in v if d < time < a]),
        lambda d, a, v: np.searchsorted(v, a) - np.searchsorted(v, d, side="right"),
    ],
    {
        "returns the text '": lambda d, a, v: str(solved(d, a, v)),
        **lesson.MISTAKES,
        "in parentheses": lambda d, a, v: np.sum(v > d & v < a),
        "(a < b) & (b < c)": lambda d, a, v: np.sum(v > d and v < a),
        "look at one value": lambda d, a, v: np.sum(d < v < a),
        "shape (60,) instead of one number": lambda d, a, v: (v > d) & (v < a),
        "you say 7": lambda d, a, v: 7,
        "has a `return`, but here it gave None": looped,
        "is called with 3 arguments": lambda d, a: 0,
        "Your function uses a name that has no value": lambda d, a, v: np.sum(v > dispatch),  # noqa: F821
        "which imports it": eval("lambda d, a, v: nn.sum(v > d)"),
        "Give a function": 3,
        "Python says: ZeroDivisionError": lambda d, a, v: 1 / 0,
    },
    lambda: (BUFFERED,),
)
PREDICTION = Answers(
    lesson.check_prediction,
    "A run of 300 versions has 2.9",
    [3, 12 / 4, np.float32(3.0), np.array([3.0])],
    {
        "How many others": 13 / 4,
        "how many of them make one version": 12,
        "Two things are missing": 13,
        "divide by B": 48,
        "not the clients": 59 / 4,
        "other way round": 4 / 12,
        "too small": 1.0,
        "too large": 9,
        "quotation marks": "three",
        "parentheses of a call": np.array([3.0]).mean,
        "These are 2 values": [3, 3],
        "give a finite number": float("nan"),
    },
    lambda: (lesson.changed(federation(60, 13, max_versions=1), 1200, buffer_size=4), 0),
)
ZERO = Answers(
    lesson.check_zero,
    "no update was stale",
    [(6, 6), (12, 6), [18, 6], np.array([6, 6])],
    {
        "makes versions before the last has arrived": (1, 6),
        "are not whole rounds of 6": (8, 6),
        "A version takes 300 uploads, but jobs start": (300, 1),
        "jobs start at any time in between": (6, 1),
        "Nobody may start before everybody has arrived": (1, 1),
        "make no version at all": (5000, 1),
        "refill_size = 7 must be at most concurrency = 6": (6, 7),
        "Give two whole numbers": 12,
        "these are 3": (6, 6, 6),
        "Give a whole number, not 6.5": (6.5, 6),
        "must be at least 1": (0, 6),
        "quotation marks": ("6", "6"),
    },
    lambda: (federation(12, 6, max_versions=1), 300, 0),
)
CALM = simulate_timeline(lesson.changed(federation(60, 12, max_versions=1), 2000), 0)
WORDS = {"quotation marks": 1, "with quotation": True, "'": "x", "or '": "", "Answer": ["stays"], "Answer '": 0.5}
STRAGGLERS = Answers(
    lesson.check_stragglers,
    "not on how long they take",
    ["stays", "Stays ", np.str_("stays")],
    {"but rare": "rises", "fresher": "falls", "'rises', 'stays' or 'falls'": "moves", **WORDS},
    lambda: (CALM, CALM),
)


def compared() -> list[Record]:
    """Three methods on one timeline; 4 arrivals."""
    made = [record_of(method, staleness=(0, 10, 60, 110)) for method in ("fedbuff", "afl-dw", "fedrevive")]
    for record in made:
        record.arrivals["client"], record.arrivals["revived"] = [3, 4, 5, 6], False
    return made


def timeline_of(method: str) -> Timeline:
    sizes = {"federation.max_sim_time": None, "federation.max_versions": 20 if method == "fedbuff" else 40}
    return simulate_timeline(build("lab-digits", method, overrides=sizes).federation, 0)


SAME = Answers(
    quick_tour.check_same_arrivals,
    "The same clients arrive",
    ["arrivals", " Arrivals"],
    {
        "FedBuff makes fewer": "both",
        "other way round": "staleness",
        "'arrivals', 'staleness' or 'both'": "all",
        **WORDS,
    },
    lambda: ({method: timeline_of(method) for method in ("fedbuff", "afl-dw", "fedrevive")},),
)


def betas(staleness: np.ndarray, s_max: float) -> np.ndarray:
    """The cosine rule, written again."""
    return np.array([1 if tau >= 2 * s_max else np.sin(np.pi * tau / 4 / s_max) ** 2 for tau in staleness])


S_MAX = compared()[1].config.staleness.s_max
BETAS = betas(np.array([0, 10, 60, 110]), S_MAX)
LOST = Answers(
    quick_tour.check_what_is_lost,
    "FedRevive fills",
    [BETAS.mean(), round(float(BETAS.mean()), 2), torch.tensor(BETAS).mean()],
    {
        "the share that is kept": 1 - BETAS.mean(),
        "beta of the mean staleness": betas(np.array([45.0]), S_MAX)[0],
        "counts the updates that lose something": 0.75,
        "that lose everything": 0.0,
        "median": np.median(BETAS),
        "too large": 0.9,
        "too small": 0.1,
        "no percentage": 100 * BETAS.mean(),
        "no sum": BETAS.sum(),
        "between 0 and 1": -0.3,
        "parentheses of a call": pd.Series(BETAS).mean,
        "These are 4 values": pd.Series(BETAS),
        "quotation marks": "0.3",
    },
    lambda: (compared()[1],),
)


@pytest.mark.parametrize(
    ("table", "answer", "kind", "words"), cases(COUNTING, PREDICTION, ZERO, STRAGGLERS, SAME, LOST)
)
def test_verdicts(table: Answers, answer: object, kind: str, words: str) -> None:
    judge(table, answer, kind, words)


def test_what_is_praised_is_true() -> None:
    """On three seeds and sizes: the law, rounds without staleness, and a buffer that divides staleness."""
    for seed, (k, b) in enumerate([(6, 2), (10, 5), (20, 4)]):
        ground = federation(40, k, max_versions=1)
        law = (k - 1) / b
        asked = lesson.changed(ground, 4000, buffer_size=b)
        verdict = lesson.check_prediction(law, asked, seed)
        assert verdict.kind == "right"
        measured = float(verdict.message.split(" has ")[1].split(";")[0])
        assert measured == pytest.approx(law, rel=0.05)
        for rounds in (1, 3):
            assert "no update was stale" in lesson.check_zero((rounds * k, k), ground, 400, seed).message
            timeline = simulate_timeline(lesson.changed(ground, 2000, buffer_size=rounds * k, refill_size=k), seed)
            assert timeline.summary()["max_staleness"] == 0
        one = lesson.mean_staleness(lesson.changed(ground, 4000), seed)
        assert lesson.mean_staleness(asked, seed) == pytest.approx(one / b, rel=0.1)


def test_stragglers_do_not_move_the_mean() -> None:
    """What exercise 4 teaches, over three seeds."""
    ground = lesson.changed(federation(60, 12, max_versions=1), 5000)
    slow = with_stragglers(ground.schedule.model_dump(), 20)
    for seed in range(3):
        calm, slowed = (
            simulate_timeline(lesson.changed(ground, 5000, schedule=schedule), seed)
            for schedule in (ground.schedule.model_dump(), slow)
        )
        assert slowed.summary()["mean_staleness"] == pytest.approx(calm.summary()["mean_staleness"], rel=0.05)
        assert slowed.summary()["max_staleness"] > 3 * calm.summary()["max_staleness"]
        means = f"{calm.summary()['mean_staleness']:.3g} to {slowed.summary()['mean_staleness']:.3g}"
        assert means in lesson.check_stragglers("stays", calm, slowed).message


def test_sweeps_follow_the_law() -> None:
    table = lesson.sweep(federation(30, 8, max_versions=1), "buffer_size", (1, 2, 4), (0, 1), 3000)
    assert list(table.columns) == ["buffer_size", "seed", "measured", "predicted"]
    assert table["measured"].to_numpy() == pytest.approx(table["predicted"].to_numpy(), rel=0.03)
    with pytest.raises(ConfigError, match="concurrency = 0"):
        lesson.changed(federation(30, 8, max_versions=1), 100, concurrency=0)


def test_the_table_of_the_quick_tour() -> None:
    records = compared()[:2]
    for record in records:
        record.summary.update(record.summary | {"mean_accuracy": 0.5})
    assert list(quick_tour.table(records).index) == ["FedBuff", "AFL-DW"]


def test_who_leads() -> None:
    """FedBuff has 0.1, 0.5, 0.6 at times 0, 1, 2; AFL-DW 0.1, 0.4, 0.8 at 0, 1.5, 2: it leads from 2 on.

    The curves move by 40, 10, 30 and 40 points: 25 and 35 on average.
    """
    fedbuff = record_of("fedbuff", accuracy=(0.1, 0.5, 0.6))
    afl = record_of("afl-dw", accuracy=(0.1, 0.4, 0.8), sim_time=(0.0, 1.5, 2.0))
    said = quick_tour.who_leads([fedbuff, afl]).data
    assert "**AFL-DW** ends best, at 80.0% (20.0 points above FedBuff), and leads for good from time 2.0 on" in said
    assert "moves by 30 points" in said
    afl.summary["final_accuracy"], fedbuff.summary["final_accuracy"] = 0.5, 0.6
    assert "but is not ahead at the last evaluation" in quick_tour.who_leads([fedbuff, afl]).data


def test_the_running_mean_says_when_it_settles() -> None:
    ground = federation(30, 8, max_versions=1)
    long = simulate_timeline(lesson.changed(ground, 3000), 0)
    said = lesson.plot_running_mean([long]).axes[0].get_title(loc="left")
    settled = int(said.removeprefix("From ").split(" ")[0].replace(",", ""))
    staleness = long.staleness[long.arrivals]
    means = [staleness[:count].mean() for count in range(1, len(staleness) + 1)]
    off = [abs(mean - 7) > 0.05 * 7 for mean in means]  # the law says (8 - 1) / 1
    assert off[settled - 2]
    assert not any(off[settled - 1 :])
    short = simulate_timeline(lesson.changed(ground, 20), 0)
    assert (
        lesson.plot_running_mean([short, long]).axes[0].get_title(loc="left").startswith("After 20 uploads the mean is")
    )
