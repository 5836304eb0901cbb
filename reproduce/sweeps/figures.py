"""Figures of many runs at once, from tidy tables such as those of `load_many` and of a sweep."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedrevive_core.plots import STYLE, Plot, colours
from fedrevive_core.records import confidence_interval

LABELS = {
    "final_accuracy": "final accuracy (last 5% of the run)",
    "best_accuracy": "best accuracy of any evaluation",
    "last_accuracy": "accuracy of the last evaluation",
    "mean_accuracy": "accuracy averaged over the run",
    "mean_staleness": "mean staleness (versions)",
    "server_seconds": "seconds of the server (this machine's)",
}


def lead(runs: pd.DataFrame, metric: str, arm: str, baseline: str) -> np.ndarray:
    """Differences of `metric` within each seed that both arms share: (seeds,), arm minus baseline."""
    table = runs[runs["arm"].isin([arm, baseline])].pivot(index="seed", columns="arm", values=metric).dropna()
    return (table[arm] - table[baseline]).to_numpy(float) if {arm, baseline} <= set(table) else np.empty(0)


def in_order(column: pd.Series) -> list[Any]:
    """The values of a column: numbers sorted, text as it comes."""
    values = list(dict.fromkeys(column))
    return values if any(isinstance(value, str) for value in values) else sorted(values)


@mpl.rc_context(STYLE)
def plot_settings(runs: pd.DataFrame, metric: str, x: str, by: str = "arm") -> Figure:
    """`metric` at every value of `x`, in a colour per value of `by`: mean and 95% interval; small dots are seeds.

    Raises ValueError if a dot would mix runs that differ in more than their seeds.
    """
    columns = list(dict.fromkeys([x, by]))
    if runs.duplicated([*columns, "seed"]).any():
        raise ValueError(f"runs with the same {', '.join(columns)} and seed differ in something else: choose it first")
    figure = Plot(figsize=(10, 3.9), layout="constrained")
    axes = figure.subplots()
    values = in_order(runs[x])
    names = list(dict.fromkeys(runs[by]))
    for number, (name, colour) in enumerate(colours(list(map(str, names))).items()):
        shift = 0.0 if x == by else 0.5 * ((number + 0.5) / len(names) - 0.5)
        chosen = runs[runs[by] == names[number]]
        for position, value in enumerate(values):
            sample = chosen[chosen[x] == value][metric].dropna().to_numpy(float)
            if not len(sample):
                continue
            mean, half = confidence_interval(sample)
            axes.scatter(np.full(len(sample), position + shift), sample, 14, color=colour, alpha=0.45, lw=0)
            style: Any = {"color": colour, "ms": 8, "capsize": 4, "zorder": 3}
            axes.errorbar(position + shift, mean, np.nan_to_num(half), fmt="o", **style)
        if x != by:
            axes.plot([], [], "o", color=colour, label=name)
    axes.set_xticks(range(len(values)), [str(value) for value in values], rotation=25 if x == "arm" else 0, ha="center")
    axes.set(xlabel="" if x == "arm" else x, ylabel=LABELS.get(metric, metric), xlim=(-0.6, len(values) - 0.4))
    if metric.endswith("accuracy"):
        axes.yaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
    axes.set_title("Mean and 95% interval; small dots are seeds")
    if x != by:
        figure.legend(loc="outside right upper", title=by, alignment="left")
    return figure


def plot_lead(runs: pd.DataFrame, metric: str, x: str, y: str, arm: str, baseline: str) -> Figure:
    """A map of who wins: by how many points `arm` is ahead of `baseline` at every (x, y), paired by seed."""
    points, shown = runs[[x, y]].drop_duplicates(), f"{LABELS.get(metric, metric)}, in points"
    rows = []
    for at_x, at_y in points.itertuples(index=False):
        sample = 100 * lead(runs[(runs[x] == at_x) & (runs[y] == at_y)], metric, arm, baseline)
        mean, half = confidence_interval(sample) if len(sample) else (np.nan, np.nan)
        rows.append({x: at_x, y: at_y, "panel": shown, "mean": mean, "half": half})
    return plot_map(pd.DataFrame(rows), x, y, f"Lead of {arm} over {baseline}")


@mpl.rc_context(STYLE)
def plot_map(leads: pd.DataFrame, x: str, y: str, title: str) -> Figure:
    """Heat maps of a lead over (x, y): orange is ahead, blue behind; bold if the 95% interval excludes zero.

    leads: a row per `panel`, `x` and `y` with `mean` and `half` width of the interval; NaN for what was not run, or
    for the half width of one seed.
    """
    across, up, panels = in_order(leads[x]), in_order(leads[y]), list(dict.fromkeys(leads["panel"]))
    size = (max(5.0, 1.0 + 1.5 * len(across)) * len(panels), 1.8 + 0.8 * len(up))
    figure = Plot(figsize=size, layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        table = leads[leads["panel"] == panel].pivot(index=y, columns=x).reindex(up)
        means, halves = (table[name].reindex(columns=across).to_numpy(float) for name in ("mean", "half"))
        widest = max(1.0, float(np.nanmax(np.abs(means), initial=0.0)))
        norm = TwoSlopeNorm(0, -1.6 * widest, 1.6 * widest)  # beyond the largest, so that text stays readable
        axes.imshow(means, cmap="PuOr_r", norm=norm, origin="lower", aspect="auto")
        for (column, row), mean in np.ndenumerate(means.T):
            half = halves[row, column]
            spread = "one seed" if np.isnan(half) else f"± {half:.1f}"
            text = "not run" if np.isnan(mean) else f"{mean:+.1f}\n{spread}"
            axes.text(column, row, text, ha="center", va="center", fontweight="bold" if abs(mean) > half else "normal")
        axes.set_xticks(range(len(across)), list(map(str, across)))
        axes.set_yticks(range(len(up)), list(map(str, up)))
        axes.grid(visible=False)
        axes.set(xlabel=x, ylabel=y)
        axes.set_title(panel, fontsize=11)
    figure.suptitle(title, fontsize=13)
    return figure
