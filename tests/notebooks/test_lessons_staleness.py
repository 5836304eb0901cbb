"""Checks of 00_quick_tour and 01_staleness: the right answer, and each mistake that they name."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers import federation, record_of

from fedrevive_core.errors import ConfigError
from fedrevive_core.timeline.event_loop import simulate_timeline
from fedrevive_core.widgets.timeline import with_stragglers
from lessons import quick_tour
from lessons import staleness as lesson

BUFFERED = simulate_timeline(federation(12, 6, buffer_size=3, max_versions=60), 0)


def solved(dispatch_time: float, arrival_time: float, version_times: np.ndarray) -> int:
    return int(np.sum((version_times > dispatch_time) & (version_times < arrival_time)))


def test_counting_is_right_when_it_agrees_with_the_package() -> None:
    for buffer_size, refill_size in ((1, 1), (3, 1), (2, 4), (6, 6)):
        sizes = {"buffer_size": buffer_size, "refill_size": refill_size}
        timeline = simulate_timeline(federation(12, 6, max_versions=40, **sizes), 1)
        assert lesson.check_counting(solved, timeline).kind == "right"


@pytest.mark.parametrize("message", lesson.MISTAKES)
def test_every_mistake_of_counting_is_recognised(message: str) -> None:
    verdict = lesson.check_counting(lesson.MISTAKES[message], BUFFERED)
    assert (verdict.kind, verdict.message) == ("wrong", message)


def test_counting_that_is_open_or_broken_or_strange() -> None:
    assert lesson.check_counting(lambda d, a, v: None, BUFFERED).kind == "open"
    assert lesson.check_counting(None, BUFFERED).kind == "open"
    assert "Give a function" in lesson.check_counting(3, BUFFERED).message
    assert "ZeroDivisionError" in lesson.check_counting(lambda d, a, v: 1 / 0, BUFFERED).message
    assert "you say 7" in lesson.check_counting(lambda d, a, v: 7, BUFFERED).message


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (3.0, "right", "A run of 300 versions has 2.9"),
        (None, "open", "Replace None"),
        (13 / 4, "wrong", "How many others"),
        (12, "wrong", "how many of them make one version"),
        (13, "wrong", "Two things are missing"),
        (48, "wrong", "divide by B"),
        (59 / 4, "wrong", "not the clients"),
        (1.0, "wrong", "too small"),
        ("three", "wrong", "could not be used"),
    ],
)
def test_predictions(answer: object, kind: str, words: str) -> None:
    asked = lesson.changed(federation(60, 13, max_versions=1), 1200, buffer_size=4)
    verdict = lesson.check_prediction(answer, asked, 0)
    assert verdict.kind == kind
    assert words in verdict.message


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ((6, 6), "right", "this is FedAvg"),
        ((12, 6), "right", "2 of them for a version"),
        ((1, 6), "wrong", "makes versions before the last has arrived"),
        ((6, 1), "wrong", "jobs start at any time"),
        ((1, 1), "wrong", "Nobody may start before everybody has arrived"),
        ((6, 7), "wrong", "refill_size = 7 must be at most concurrency = 6"),
        (None, "open", ""),
    ],
)
def test_zero_staleness(answer: object, kind: str, words: str) -> None:
    verdict = lesson.check_zero(answer, federation(12, 6, max_versions=1), 300, 0)
    assert verdict.kind == kind
    assert words in verdict.message


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
    assert lesson.check_stragglers("stays", calm, slowed).kind == "right"
    for answer, words in (("rises", "rare"), ("falls", "fresher"), ("moves", "Answer")):
        assert words in lesson.check_stragglers(answer, calm, slowed).message


def test_sweeps_follow_the_law() -> None:
    table = lesson.sweep(federation(30, 8, max_versions=1), "buffer_size", (1, 2, 4), (0, 1), 3000)
    assert list(table.columns) == ["buffer_size", "seed", "measured", "predicted"]
    assert table["measured"].to_numpy() == pytest.approx(table["predicted"].to_numpy(), rel=0.03)
    with pytest.raises(ConfigError, match="concurrency = 0"):
        lesson.changed(federation(30, 8, max_versions=1), 100, concurrency=0)


def test_quick_tour() -> None:
    records = [record_of("fedbuff", staleness=(0, 1)), record_of("afl-dw", staleness=(0, 2))]
    for record in records:
        record.arrivals["client"], record.arrivals["beta"], record.arrivals["revived"] = [3, 4], [0.2, 0.4], False
    for answer, kind in (
        ("arrivals", "right"),
        ("both", "wrong"),
        ("staleness", "wrong"),
        ("x", "wrong"),
        (None, "open"),
    ):
        assert quick_tour.check_same_arrivals(answer, records).kind == kind
    for share, words in ((0.3, "30%"), (0.7, "kept"), (30, "percentage"), (0.1, "Too little"), (0.5, "Too much")):
        assert words in quick_tour.check_what_is_lost(share, records[1]).message
    summaries = [{**record.summary, "mean_accuracy": 0.5} for record in records]
    for record, summary in zip(records, summaries, strict=True):
        record.summary.update(summary)
    table = quick_tour.table(records)
    assert isinstance(table, pd.DataFrame)
    assert list(table.index) == ["FedBuff", "AFL-DW"]
