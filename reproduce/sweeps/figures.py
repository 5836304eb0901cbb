"""Figures of many runs at once: tidy tables, as `record.load_many` and a sweep give them, in; a Figure out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from fedrevive_core.plots import METHOD_COLOURS, SIM_TIME, STYLE, TITLE_COLOURS, X_LABELS, Plot
from fedrevive_core.records import confidence_interval

LABELS = {
    "final_accuracy": "final accuracy (last 5% of the run)",
    "best_accuracy": "best accuracy of any evaluation",
    "last_accuracy": "accuracy of the last evaluation",
    "mean_accuracy": "accuracy averaged over the run",
    "mean_staleness": "mean staleness (versions)",
    "server_seconds": "seconds of the server (this machine's)",
}


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name: its method's where it is one, the next free one otherwise."""
    free = [colour for colour in TITLE_COLOURS if colour not in {METHOD_COLOURS.get(name) for name in names}]
    return {name: METHOD_COLOURS.get(name) or free[number % len(free)] for number, name in enumerate(names)}


def lead(runs: pd.DataFrame, metric: str, arm: str, baseline: str) -> np.ndarray:
    """Differences of `metric` within each seed that both arms have: (seeds,), arm minus baseline."""
    table = runs[runs["arm"].isin([arm, baseline])].pivot(index="seed", columns="arm", values=metric).dropna()
    return (table[arm] - table[baseline]).to_numpy(float) if {arm, baseline} <= set(table) else np.empty(0)


@mpl.rc_context(STYLE)
def plot_curves(evaluations: pd.DataFrame, *, x: str = "sim_time", by: str = "arm") -> Figure:
    """Accuracy over the run for each value of `by`: mean over seeds with 95% interval, as far as all seeds reach."""
    figure = Plot(figsize=(10, 4.4), layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(evaluations[by]))
    for name, colour in colours(names).items():
        runs = [run for _, run in evaluations[evaluations[by] == name].groupby("run", observed=True)]
        grid = np.unique(np.concatenate([run[x].to_numpy(float) for run in runs]))
        grid = grid[grid <= min(run[x].max() for run in runs)]
        held = [run["accuracy"].to_numpy()[np.searchsorted(run[x], grid, side="right") - 1] for run in runs]
        mean, half = np.array([confidence_interval(column) for column in np.array(held).T]).T
        axes.plot(
            grid, mean, color=colour, drawstyle="steps-post", label=f"{name} ({len(runs)} seed{'s' * (len(runs) > 1)})"
        )
        axes.fill_between(grid, mean - half, mean + half, step="post", color=colour, alpha=0.18, lw=0)
    axes.set(xlabel=X_LABELS.get(x, SIM_TIME), ylabel="test accuracy", xlim=(0, None))
    axes.set_ylim(0, min(1, axes.get_ylim()[1]))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_title("Accuracy of the global model: mean and 95% interval over seeds")
    figure.legend(loc="outside right upper", title=by, alignment="left")
    return figure


@mpl.rc_context(STYLE)
def plot_settings(runs: pd.DataFrame, metric: str, x: str, by: str = "arm") -> Figure:
    """`metric` at every value of `x`, a row of dots per value of `by`: mean and 95% interval, each seed a small dot.

    Raises ValueError if a dot would mix runs that differ in more than their seeds.
    """
    columns = list(dict.fromkeys([x, by]))
    if runs.duplicated([*columns, "seed"]).any():
        raise ValueError(f"runs with the same {', '.join(columns)} and seed differ in something else: choose it first")
    figure = Plot(figsize=(10, 4.4), layout="constrained")
    axes = figure.subplots()
    values = list(dict.fromkeys(runs[x]))
    if not any(isinstance(value, str) for value in values):
        values = sorted(values)
    names = list(dict.fromkeys(runs[by]))
    for number, (name, colour) in enumerate(colours(list(map(str, names))).items()):
        shift = 0.0 if x == by else 0.5 * ((number + 0.5) / len(names) - 0.5)
        own = runs[runs[by] == names[number]]
        for place, value in enumerate(values):
            sample = own[own[x] == value][metric].dropna().to_numpy(float)
            if not len(sample):
                continue
            mean, half = confidence_interval(sample)
            axes.scatter(np.full(len(sample), place + shift), sample, 14, color=colour, alpha=0.45, lw=0)
            style: Any = {"color": colour, "ms": 8, "capsize": 4, "zorder": 3}
            axes.errorbar(place + shift, mean, np.nan_to_num(half), fmt="o", **style)
        if x != by:
            axes.plot([], [], "o", color=colour, label=name)
    axes.set_xticks(range(len(values)), [str(value) for value in values], rotation=25 if x == "arm" else 0, ha="center")
    axes.set(xlabel="" if x == "arm" else x, ylabel=LABELS.get(metric, metric), xlim=(-0.6, len(values) - 0.4))
    if metric.endswith("accuracy"):
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_title("Mean and 95% interval; small dots are seeds")
    if x != by:
        figure.legend(loc="outside right upper", title=by, alignment="left")
    return figure


@mpl.rc_context(STYLE)
def plot_lead(runs: pd.DataFrame, metric: str, x: str, y: str, arm: str, baseline: str) -> Figure:
    """A map of who wins: by how many points `arm` is ahead of `baseline` at every (x, y), paired by seed.

    Bold where the 95% interval leaves zero out; orange is ahead, blue behind, and the sign is printed.
    """
    across, up = (sorted(runs[name].unique()) for name in (x, y))
    lead_of = {
        (here, there): 100 * lead(runs[(runs[x] == here) & (runs[y] == there)], metric, arm, baseline)
        for here in across
        for there in up
    }
    figure = Plot(figsize=(2.4 + 1.7 * len(across), 1.9 + 0.95 * len(up)), layout="constrained")
    axes = figure.subplots()
    means = np.array([[_mean(lead_of[here, there]) for here in across] for there in up])
    widest = max(1.0, float(np.nanmax(np.abs(means)))) if np.isfinite(means).any() else 1.0
    shown = axes.imshow(means, cmap="PuOr_r", norm=TwoSlopeNorm(0, -1.6 * widest, 1.6 * widest), origin="lower")
    shown.set_extent((-0.5, len(across) - 0.5, -0.5, len(up) - 0.5))
    axes.set_aspect("auto")
    for column, here in enumerate(across):
        for row, there in enumerate(up):
            text, clear = _cell(lead_of[here, there])
            axes.text(column, row, text, ha="center", va="center", fontweight="bold" if clear else "normal")
    axes.set_xticks(range(len(across)), list(map(str, across)))
    axes.set_yticks(range(len(up)), list(map(str, up)))
    axes.grid(visible=False)
    axes.set(xlabel=x, ylabel=y)
    figure.suptitle(f"Lead of {arm} over {baseline}\n{LABELS.get(metric, metric)}, in points", fontsize=12)
    return figure


def _mean(sample: np.ndarray) -> float:
    return float(sample.mean()) if len(sample) else float("nan")


def _cell(sample: np.ndarray) -> tuple[str, bool]:
    """The lead as text, and whether its interval leaves zero out."""
    if not len(sample):
        return "not run", False
    mean, half = confidence_interval(sample)
    return (f"{mean:+.1f}\n± {half:.1f}" if len(sample) > 1 else f"{mean:+.1f}\none seed"), bool(abs(mean) > half)
