"""What the tables of docs/RESULTS.md share: where packed sweeps are, how a cell, a mean and a lead are written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from fedrevive_core.config import method_title
from fedrevive_core.records import confidence_interval
from reproduce.reports.claims import label
from reproduce.reports.report import Report, read_report
from reproduce.reports.text import interval
from reproduce.sweeps.figures import lead
from reproduce.sweeps.grid import points

MAP = "staleness-vs-heterogeneity"  # the sweep that other studies are paired with
RECORDS = Path(__file__).parents[1] / "results" / "records"
TRIALS = Path(__file__).parents[1] / "results" / "tuning"  # packed sweeps, too
SCORES = {"final_accuracy": "at the end", "mean_accuracy": "over the run"}
TUNED = {  # what tuning varies, and what it is called
    "server.lr": "eta", "distillation.lr": "lr_kd", "server.memory_horizon": "tau_algo", "staleness.half": "half",
    "staleness.s_max": "s_max", "staleness.constant": "b", "training.lesson.weight": "weight", "server.auxiliary": "g",
}  # fmt: skip
NAMED = {"federation.concurrency": "K", "data.alpha": "alpha", "data.speed_skew": "skew"}


def cell_columns(point: Mapping[str, Any]) -> dict[str, str]:
    """The columns that name a point of the grid."""
    return {NAMED[field]: str(value) for field, value in point.items()}


def percent(accuracies: pd.Series) -> str:
    """Mean of shares in percent, with its 95% interval."""
    return interval(*confidence_interval(100 * accuracies))


def lead_over(runs: pd.DataFrame, score: str, arm: str, against: str, family: int = 1) -> str:
    """How far `arm` is ahead, in points paired by seed.

    family: number of comparisons that the table makes; a dagger if zero is outside the interval that is as wide as
    their family-wise error of 5% asks for (Bonferroni).
    """
    from scipy.special import stdtrit

    sample = 100 * lead(runs, score, arm, against)
    mean, half = confidence_interval(sample)
    wider = stdtrit(len(sample) - 1, 1 - 0.025 / family) / stdtrit(len(sample) - 1, 0.975)
    return interval(mean, half, lead=True) + ("†" if family > 1 and abs(mean) > half * wider else "")


def best_settings(tuning: Report, by: str = "method") -> list[tuple[dict[str, Any], str, dict[str, float]]]:
    """(point of the grid, value of `by`, settings) with the highest accuracy over the run, mean of the tuning seeds.

    The accuracy is 'score'; settings are those that the trials vary.
    """
    best = []
    for point, runs in points(tuning.records.runs, tuning.grid):
        for value, trials in runs.groupby(by, observed=True, sort=False):
            scores = trials.groupby("arm", observed=True)["mean_accuracy"].mean()
            row = trials[trials["arm"] == scores.idxmax()].iloc[0]
            varied = {name: float(row[name]) for name in TUNED if name in trials and trials[name].nunique() > 1}
            best.append((point, str(value), varied | {"score": float(scores.max())}))
    return best


def tuning_table(name: str, by: str = "method") -> list[dict[str, str]]:
    """A row per point of the tuning sweep `name`: the settings that each method (or other value of `by`) got."""
    rows: dict[str, dict[str, str]] = {}
    for point, value, best in best_settings(read_report(TRIALS / name), by):
        said = ", ".join(f"{TUNED[name]} {best[name]:g}" for name in TUNED if name in best)
        rows.setdefault(label(point), cell_columns(point))[method_title(value)] = f"{said} ({100 * best['score']:.1f})"
    return list(rows.values())
