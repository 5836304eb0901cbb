"""The checks of 06 and 08: the right answer, each mistake by its name, nothing for an open one."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

from lessons import ablations, reproduction

LEADS = pd.DataFrame(
    {"lead": [-4.0, -1.0, 2.0, -3.0], "half": [1.0, 3.0, 3.0, 3.5], "clear": ["yes", "no", "no", "no"]}
)


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (None, "open", "Replace None"),
        (1.897, "right", "same clients and delays"),
        (20.14, "wrong", "within a seed first"),
        (0.864, "wrong", "1.96 is for many seeds"),
        (1.549, "wrong", "n - 1"),
        (3.286, "wrong", "divide by sqrt"),
        (0.764, "wrong", "standard deviation"),
        (3.167, "wrong", "lead itself"),
        (100, "wrong", "three leads"),
        ("much", "wrong", "could not be used"),
    ],
)
def test_half_width(answer: object, kind: str, words: str) -> None:
    verdict = reproduction.check_half_width(answer)
    assert (verdict.kind, words in verdict.message) == (kind, True), verdict


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (lambda time, accuracy: accuracy[time >= 0.95 * time[-1]].mean(), "right", "nobody could have chosen"),
        (lambda time, accuracy: accuracy.max(), "wrong", "luckiest one"),
        (lambda time, accuracy: accuracy[-1], "wrong", "one point"),
        (lambda time, accuracy: accuracy.mean(), "wrong", "beginning included"),
        (lambda time, accuracy: accuracy[-2:].mean(), "wrong", "last 5% of what"),
        (lambda time, accuracy: np.nan, "wrong", "28.03"),
        (lambda time, accuracy: None, "open", "write its `return`"),
        (None, "open", "Replace None"),
    ],
)
def test_final(answer: object, kind: str, words: str) -> None:
    verdict = reproduction.check_final(answer)
    assert (verdict.kind, words in verdict.message) == (kind, True), verdict


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (14.5, "right", "later still"),
        (28 / 3, "wrong", "drops the run"),
        (7, "wrong", "no time at all"),
        (30, "wrong", "last time"),
    ],
)
def test_mean_time(answer: float, kind: str, words: str) -> None:
    verdict = reproduction.check_mean_time(answer)
    assert (verdict.kind, words in verdict.message) == (kind, True), verdict


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [(1, "right", "1 of 4"), (4, "wrong", "so would two"), (3, "wrong", "below zero"), (2, "wrong", "half width")],
)
def test_clear(answer: int, kind: str, words: str) -> None:
    verdict = ablations.check_clear(answer, LEADS)
    assert (verdict.kind, words in verdict.message) == (kind, True), verdict


@pytest.mark.parametrize(("answer", "kind"), [(1, "right"), (0, "wrong"), (0.05, "wrong"), (19, "wrong"), (3, "wrong")])
def test_false_alarms(answer: float, kind: str) -> None:
    assert ablations.check_false_alarms(answer).kind == kind


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (5, "right", "few classes"),
        (100, "wrong", "any one recent model"),
        (50, "wrong", "each halving"),
        (0.1, "wrong", "percent"),
    ],
)
def test_one_teacher(answer: float, kind: str, words: str) -> None:
    verdict = ablations.check_one_teacher(answer, 1.0)
    assert (verdict.kind, words in verdict.message) == (kind, True), verdict


def test_what_one_teacher_keeps() -> None:
    """Leads over down-weighting and one teacher as docs/RESULTS.md has them."""
    sweeps = ablations.open_sweeps("")
    kept = ablations.kept_by_one_teacher(sweeps, "mean_accuracy")
    assert kept == pytest.approx(100 * (1 - 14.1 / 14.2), abs=1)
    del sweeps["beta-rules"]
    assert ablations.kept_by_one_teacher(sweeps, "mean_accuracy") is None
    assert "not among these records" in ablations.check_one_teacher(50, None).message


def test_only_sweeps_of_parts_are_opened_unasked() -> None:
    assert set(ablations.open_sweeps("")) < {path.name for path in reproduction.RECORDS.iterdir()}
    assert "figure2-cifar10" in ablations.open_sweeps(str(reproduction.RECORDS))


def test_a_directory_without_sweeps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no sweep in"):
        ablations.open_sweeps(str(tmp_path))


def test_the_committed_records_are_small_and_hold_no_model() -> None:
    files = [path for path in reproduction.RECORDS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3e6
    assert not [path for path in files if path.suffix == ".safetensors"]
