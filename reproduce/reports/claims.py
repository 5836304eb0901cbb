"""What a sweep says about each claim: pure functions from the table of runs to tables of verdicts, arms and times.

`runs` has a row per finished run: `arm`, `seed`, a column per grid field, the summary of the record ('final_accuracy',
'time_to 0.8', ...), `sim_time`, and for `arms_table` what `results.with_costs` adds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fedrevive_core.records import TARGETS, confidence_interval
from reproduce.sweeps.experiment import Claim, Experiment, ScaleName
from reproduce.sweeps.grid import holds, points, text

COSTS = ("sim_time", "client_steps", "server_seconds", "bytes_up", "bytes_down")
SCORES = ("final_accuracy", "best_accuracy", "mean_accuracy")
OWNED = "slow_classes final_accuracy"


def label(point: Mapping[str, Any]) -> str:
    """'alpha=0.1, concurrency=80'; empty without a grid."""
    return ", ".join(f"{field.rpartition('.')[2]}={text(value)}" for field, value in point.items())


def said(row: Mapping[str, Any]) -> str:
    """The claim of a row of `judge_claims`, where it holds, and what stands for 'ends at': one evaluation."""
    last = " (last evaluation)" if row["metric"] == "last_accuracy" else ""
    return row["claim"] + last + (f" ({row['at']})" if row["at"] else "")


def judge_claims(experiment: Experiment, scale: ScaleName, runs: pd.DataFrame) -> pd.DataFrame:
    """A row for every claim at every point of the grid that it is about.

    claim, source, metric, unit, at (the point), paper, tolerance: as claimed. against: the best baseline, by its mean.
    ours, low, high: mean and 95% interval over num_seeds; of differences within a seed if the arms share seeds
    (`paired`). reached: for times, of how many runs; bound: 'at least', 'at most' or 'restricted' if some never did.
    direction, within: 'yes', 'no', 'unclear', or empty where it is no question. verdict: all of this in words.
    """
    rows = []
    for claim in experiment.claims:
        for point, own in points(runs, experiment.grid_at(scale)):
            if holds(claim.where, point):
                rows.append(_judge(claim, label(point), own, claim.comparable[scale]))
    return pd.DataFrame(rows)


def _judge(claim: Claim, at: str, runs: pd.DataFrame, comparable: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "claim": claim.text, "source": claim.source, "metric": claim.metric, "unit": claim.unit, "at": at,
        "paper": math.nan if claim.paper_value is None else claim.paper_value, "tolerance": claim.tolerance,
        "against": "", "ours": math.nan, "low": math.nan, "high": math.nan, "num_seeds": 0, "paired": False,
        "reached": "", "bound": "", "direction": "", "within": "", "comparable": comparable, "verdict": "not run",
    }  # fmt: skip
    horizon = float(runs["sim_time"].min()) if len(runs) else 0.0
    arm, censored = _values(runs, claim.arm, claim.metric, horizon)
    others = {name: _values(runs, name, claim.metric, horizon) for name in claim.baselines}
    others = {name: pair for name, pair in others.items() if len(pair[0])}
    if not len(arm) or len(others) < bool(claim.baselines):
        return row
    missing = sorted(set(claim.baselines) - set(others))
    if claim.baselines:
        sign = -1 if claim.metric.startswith("time_to") else 1
        best = max(others, key=lambda name: sign * float(_shared(others[name][0], arm).mean()))
        base, base_censored = others[best]
        row["against"] = best + (f" (not run: {', '.join(missing)})" if missing else "")
        mean, half, row["num_seeds"], row["paired"] = _lead(arm, base, relative=sign < 0)
    else:
        base_censored = censored[:0]
        mean, half = confidence_interval(100 * arm)
        row["num_seeds"] = len(arm)
    row |= {"ours": mean, "low": mean - half, "high": mean + half}
    if claim.metric.startswith("time_to"):
        counts = [f"{(~lost).sum()} of {len(lost)}" for lost in (censored, base_censored) if len(lost)]
        row["reached"] = " against ".join(counts)
        never = bool(censored.any()), bool(base_censored.any())
        row["bound"] = {(False, False): "", (False, True): "at least", (True, False): "at most"}.get(
            never, "restricted"
        )
        if censored.all() and (base_censored.all() or not claim.baselines):
            return row | {"ours": math.nan, "low": math.nan, "high": math.nan, "verdict": "never reached"}
    row["direction"] = _direction(claim, row)
    if claim.paper_value is not None and not row["bound"]:
        row["within"] = "yes" if abs(mean - claim.paper_value) <= claim.tolerance else "no"
    return row | {"verdict": _verdict(row)}


def _values(runs: pd.DataFrame, arm: str, metric: str, horizon: float) -> tuple[pd.Series, np.ndarray]:
    """The metric by seed, and which are censored: a time that was not reached is restricted to the `horizon`."""
    own = runs[runs["arm"] == arm].set_index("seed").sort_index()
    values = own[metric].astype(float)
    if not metric.startswith("time_to"):
        return values, np.zeros(len(values), dtype=bool)
    return values.fillna(horizon).clip(upper=horizon), (values.isna() | (values > horizon)).to_numpy()


def _shared(values: pd.Series, arm: pd.Series) -> pd.Series:
    shared = values.index.intersection(arm.index)
    return values[shared] if len(shared) else values


def _lead(arm: pd.Series, base: pd.Series, *, relative: bool) -> tuple[float, float, int, bool]:
    """How far the arm is ahead, in percent of the base or in points: mean, half width, seeds, and if paired by seed."""
    shared = arm.index.intersection(base.index)
    if len(shared):
        here, there = arm[shared].to_numpy(), base[shared].to_numpy()
        return *confidence_interval(100 * (1 - here / there) if relative else 100 * (here - there)), len(shared), True
    if relative:  # spread of the base is left to its mean
        lead = confidence_interval(100 * (1 - arm.to_numpy() / base.mean()))
    else:
        lead = _welch(100 * arm.to_numpy(), 100 * base.to_numpy())
    return *lead, min(len(arm), len(base)), False


def _welch(here: np.ndarray, there: np.ndarray) -> tuple[float, float]:
    """Difference of means and half width of its 95% interval, for independent samples of unequal spread."""
    from scipy import stats

    mean = float(here.mean() - there.mean())
    if min(len(here), len(there)) < 2:
        return mean, math.nan
    if not (here.var() or there.var()):
        return mean, 0.0  # scipy divides by the spread
    interval = stats.ttest_ind(here, there, equal_var=False).confidence_interval()
    return mean, float(interval.high - interval.low) / 2


def _direction(claim: Claim, row: Mapping[str, Any]) -> str:
    """Does the interval lie on the claimed side? One seed has no interval, so it cannot tell."""
    low, high = row["low"], row["high"]
    if claim.direction is None:
        return ""
    if claim.direction == "equal":
        inside = low >= -claim.tolerance and high <= claim.tolerance
        outside = low > claim.tolerance or high < -claim.tolerance
        return "yes" if inside else "no" if outside else "unclear"
    if claim.direction == "lower":
        low, high = -high, -low
    return "yes" if low > 0 else "no" if high < 0 else "unclear"


def _verdict(row: Mapping[str, Any]) -> str:
    direction = {"yes": "same direction", "no": "opposite direction", "unclear": "direction unclear", "": ""}
    words = direction[row["direction"]]
    if not row["comparable"]:
        return "not comparable (other data)" + (f"; {words}" if words else "")
    if row["direction"] == "no":
        return "contradicted"
    if row["within"] == "yes":
        return "reproduced" if row["direction"] != "unclear" else f"within tolerance; {words}"
    if row["within"] == "no":
        return f"{words}, other size" if words else "another value"
    return f"{words}, size not known: some runs never reach it" if row["bound"] else words


def arms_table(runs: pd.DataFrame, grid: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """A row per arm and point: accuracy at the end, at best and over the run, with half widths; what it cost."""
    rows = []
    for point, own in points(runs, grid):
        for arm, group in own.groupby("arm", sort=False, observed=True):
            row: dict[str, Any] = {"arm": arm, "at": label(point), "num_seeds": len(group)}
            for score in SCORES:
                row[score], row[f"{score}_half"] = confidence_interval(group[score].to_numpy())
            row["mean_staleness"] = float(group["mean_staleness"].mean())
            rows.append(row | {cost: float(group[cost].mean()) for cost in COSTS})
    return pd.DataFrame(rows)


def times_table(runs: pd.DataFrame, grid: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """A row per arm, point and target that any run of the point reaches: when, and in how many runs.

    time, half: the mean over seeds restricted to `horizon`, the end of the shortest run of the point: a run that has
    not reached the target by then counts with the horizon, so that it is not dropped; the true mean is later.
    """
    rows = []
    for point, own in points(runs, grid):
        horizon = float(own["sim_time"].min()) if len(own) else 0.0
        for target in TARGETS:
            metric = f"time_to {target}"
            if metric not in own or own[metric].isna().all():
                continue
            for arm in own["arm"].unique():
                values, censored = _values(own, arm, metric, horizon)
                mean, half = confidence_interval(values.to_numpy())
                reached = int((~censored).sum())
                rows.append((arm, label(point), target, reached, len(values), mean, half, horizon))
    columns = ["arm", "at", "target", "reached", "num_seeds", "time", "half", "horizon"]
    return pd.DataFrame(rows, columns=columns)


def heard_table(runs: pd.DataFrame, grid: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """A row per arm and point: who was heard, as means over seeds; no rows if older versions made the runs.

    gini: of updates per client. fast, slow: updates per client of that third. owned, held, own, distilled, accuracy,
    accuracy_half: of the classes that the slowest third of clients owns (see `slow_classes` of a record).
    """
    names = {"gini": "gini"} | {name: f"speed_group_updates {name}" for name in ("fast", "slow")}
    names |= {"owned": "slow_classes number"} | {name: f"slow_classes {name}" for name in ("held", "own", "distilled")}
    if not {*names.values(), OWNED} <= {*runs}:
        return pd.DataFrame()
    rows = []
    runs = runs.assign(**{name: pd.to_numeric(runs[name], errors="coerce") for name in (*names.values(), OWNED)})
    for point, own in points(runs, grid):
        for arm, group in own.groupby("arm", sort=False, observed=True):
            row = {"arm": arm, "at": label(point)} | {name: float(group[of].mean()) for name, of in names.items()}
            known = group[OWNED].dropna()
            row["accuracy"], row["accuracy_half"] = confidence_interval(known) if len(known) else (math.nan,) * 2
            rows.append(row)
    return pd.DataFrame(rows)
