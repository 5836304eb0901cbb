"""The checks of 06 and 08: the right answer, each mistake by its name, nothing for an open one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from verdicts import Answers, cases, judge

from fedrevive_notebooks.lessons import ablations, reproduction
from reproduce.reports.report import read_report

LEADS = pd.DataFrame(
    {
        "lead": [-4.0, -1.0, 2.0, -3.0, -2.0, 5.0, 1.0],
        "half": [1.0, 3.0, 3.0, 3.5, 9.0, 2.0, 3.0],
        "clear": ["yes", "no", "no", "no", "no", "yes", "no"],
    }
)

WIDTH = Answers(
    reproduction.check_half_width,
    "same clients and delays",
    [2, 1.897, 1.9, 4.303 * np.std([3, 4, 2.5], ddof=1) / np.sqrt(3)],
    {
        "within a seed first": 20.14,
        "Take differences within": 31.2,
        "1.96 is for many seeds": 0.864,
        "two groups": 1.224,
        "n - 1": 1.549,
        "divide by sqrt": 3.286,
        "standard error s / sqrt": 1.095,
        "standard deviation": 0.764,
        "multiplies it by Student's t": 0.441,
        "lead itself": 3.167,
        "whole width": 3.79,
        "three leads are 3, 4, 2.5": 100,
        "quotation marks": "about 2",
        "These are 2 values": (1.27, 5.06),
    },
)
FINAL = Answers(
    reproduction.check_final,
    "nobody could have chosen",
    [
        lambda time, accuracy: accuracy[time >= 0.95 * time[-1]].mean(),
        lambda time, accuracy: np.mean([a for t, a in zip(time, accuracy, strict=True) if t >= 0.95 * max(time)]),
        lambda time, accuracy: np.average(accuracy, weights=time > time.max() - 0.05 * time.max()),
    ],
    {
        "but not for a run that ends": lambda time, accuracy: accuracy[time >= 28.025].mean(),
        "luckiest one": lambda time, accuracy: accuracy.max(),
        "one point": lambda time, accuracy: accuracy[-1],
        "beginning included": lambda time, accuracy: accuracy.mean(),
        "last 5% of what": lambda time, accuracy: accuracy[-2:].mean(),
        "wrong way round": lambda time, accuracy: accuracy[time < 0.95 * time[-1]].mean(),
        "leaves out the beginning alone": lambda time, accuracy: accuracy[time >= 0.05 * time[-1]].mean(),
        "best of the last 5%": lambda time, accuracy: accuracy[time >= 0.95 * time[-1]].max(),
        "median": lambda time, accuracy: np.median(accuracy[time >= 0.95 * time[-1]]),
        "This is a sum": lambda time, accuracy: accuracy[time >= 0.95 * time[-1]].sum(),
        "percentage": lambda time, accuracy: 100 * accuracy[time >= 0.95 * time[-1]].mean(),
        "number of all evaluations": lambda time, accuracy: (accuracy * (time >= 0.95 * time[-1])).mean(),
        "28.025": lambda time, accuracy: 0.5,
        "Your result is nan": lambda time, accuracy: np.nan,
        "shape (4,)": lambda time, accuracy: accuracy[time >= 0.95 * time[-1]],
        "in parentheses": lambda time, accuracy: accuracy[time > 28 & time < 30].mean(),
    },
)
MEAN = Answers(
    reproduction.check_mean_time,
    "The true mean is later",
    [14.5, (8 + 11 + 30 + 9) / 4, np.float64(14.5)],
    {
        "drops the run": 28 / 3,
        "no time at all": 7,
        "median": 10,
        "is the median": 9,
        "This is a sum": 58,
        "by three": 58 / 3,
        "faster": 30,
        "last time": 12,
        "finite number": float("inf"),
        "quotation marks": "14.5",
        "4 values": [8, 11, 30, 9],
    },
)
CLEAR = Answers(
    ablations.check_clear,
    "2 of 7",
    [2, 2.0, np.int64(2)],
    {
        "so would two": 7,
        "below zero": 4,
        "above zero": 3,
        "not clear": 5,
        "half width": 1,
        "half width is": 0,
        "from 0 to 7": 8,
        "give a number from 0": -1,
        "whole number": 2.5,
        "quotation marks": "two",
        "These are 7 values": LEADS["clear"] == "yes",
    },
    lambda: (LEADS,),
)
ALARMS = Answers(
    ablations.check_false_alarms,
    "One in twenty",
    [1, 20 * 0.05, 1 - 1e-12],
    {
        "in 5% of all cases": 0,
        "for one comparison": 0.05,
        "the percentage": 5,
        "either side": 0.5,
        "contain zero": 19,
        "Not all": 20,
        "at least one": 0.64,
        "at least one excludes": 64,
        "with probability 0.05": 3,
        "quotation marks": "one",
        "These are 0 values": [],
    },
)
TEACHER = Answers(
    ablations.check_one_teacher,
    "1%: one teacher",
    [5, 0, 1, 0.7, -3],
    {
        "what is left": 99,
        "any one recent model": 83,
        "better than eight": 120,
        "of leads": 50,
        "Compare two rows": 20,
        "in percent": 0.1,
        "Give your answer in percent": 0.5,
        "worse than none": -30,
        "quotation marks": "50%",
        "2 values": (0, 5),
    },
    lambda: (0.7,),
)


@pytest.mark.parametrize(("table", "answer", "kind", "words"), cases(WIDTH, FINAL, MEAN, CLEAR, ALARMS, TEACHER))
def test_verdicts(table: Answers, answer: object, kind: str, words: str) -> None:
    judge(table, answer, kind, words)


def test_what_is_praised_is_true() -> None:
    """The numbers in the praises, computed again; the false alarms by 20 noisy comparisons, 20,000 times."""
    assert "18 points, leads by 1.5" in reproduction.check_half_width(2).message
    assert "It is 1.90" in reproduction.check_half_width(2).message
    assert "8 points more" in reproduction.check_final(FINAL.right[0]).message  # 0.86 and (80 + 74 + 83 + 75) / 400
    for seed in range(3):
        samples = np.random.default_rng(seed).standard_normal((20_000, 20, 3))
        half = 4.303 * samples.std(axis=2, ddof=1) / np.sqrt(3)
        alarms = (np.abs(samples.mean(axis=2)) > half).sum(axis=1)
        assert alarms.mean() == pytest.approx(1, abs=0.03)
        assert (alarms > 0).mean() == pytest.approx(0.64, abs=0.02)


def test_what_one_teacher_keeps() -> None:
    """Leads over down-weighting and one teacher as docs/RESULTS.md has them."""
    sweeps = ablations.open_sweeps("")
    kept = ablations.kept_by_one_teacher(sweeps, "mean_accuracy")
    assert kept == pytest.approx(100 * (1 - 14.1 / 14.2), abs=1)
    del sweeps["beta-rules"]
    assert ablations.kept_by_one_teacher(sweeps, "mean_accuracy") is None
    assert "not among these records" in ablations.check_one_teacher(50, None).message


def test_every_arm_says_what_it_changes_and_every_note_is_said_once() -> None:
    sweeps = ablations.open_sweeps("")
    assert ablations.changes(sweeps["ablation-distillation"])["slower"] == "`distillation.lr` = 0.0003, not 0.001"
    assert ablations.changes(sweeps["beta-rules"])["down-weighting"] == "AFL-DW; `server.lr` = 0.1"
    text = ablations.overview(sweeps).data
    assert text.count("At lab scale runs end after 500 updates") == 1
    assert all(report.experiment.question in text for report in sweeps.values())
    assert "| digits | 25 | 5 |" in text


def test_the_largest_and_the_smallest_lead_of_the_map() -> None:
    """As the map shows them: +12.5 where updates are stalest and clients most different."""
    (report,) = ablations.maps(ablations.open_sweeps("")).values()
    said = ablations.largest_and_smallest(report, "mean_accuracy", "fedrevive", "afl-dw").data
    assert "largest at federation.concurrency = 80, data.alpha = 0.1: **+12.5 ± 3.7** points" in said
    assert "smallest at federation.concurrency = 20, data.alpha = 5: **+0.2 ± 0.1** points" in said


def test_the_last_evaluation_and_the_final_accuracy_are_told_apart() -> None:
    report = read_report(reproduction.directory(""))
    assert "`fedbuff`: last evaluation 91.5 ± 10.4, final 91.7 ± 6.0" in reproduction.last_and_final(report).data
    assert "on the data set **digits**" in reproduction.about(report).data
    assert "FedBuff ends at 0.61 (last evaluation)" in reproduction.tables(report)["Claims"].data


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
