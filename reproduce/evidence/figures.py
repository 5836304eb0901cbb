"""Figures of docs/RESULTS.md, from tables."""

from __future__ import annotations

import itertools
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from fedrevive_core.config import method_title
from fedrevive_core.plots import STYLE, Plot, colours
from fedrevive_core.records import confidence_interval
from reproduce.reports.claims import label
from reproduce.reports.report import Report
from reproduce.sweeps.figures import plot_map


def plot_winners(report: Report, scores: dict[str, str]) -> Figure:
    """FedRevive's lead over the better baseline in every cell: the map of who wins.

    scores: metric and what its panel is called, such as "over the run".
    """
    (up, up_values), (across, across_values) = report.grid.items()
    x, y = "alpha: clients alike to the right", "jobs in flight K: staler upwards"
    rows = []
    for score, name in scores.items():
        verdicts = report.verdicts[report.verdicts["metric"] == score].set_index("at")
        for at_up, at_across in itertools.product(up_values, across_values):
            verdict = verdicts.loc[label({up: at_up, across: at_across})]
            lead = {"mean": verdict["ours"], "half": verdict["ours"] - verdict["low"]}
            rows.append({x: at_across, y: at_up, "panel": f"Lead {name}, in points", **lead})
    title = "FedRevive against the better tuned baseline (bold: the 95% interval excludes zero)"
    return plot_map(pd.DataFrame(rows), x, y, title)


@mpl.rc_context(STYLE)
def plot_leads(leads: pd.DataFrame) -> Figure:
    """A row per ablation: its lead over unchanged FedRevive, in accuracy over the run, with 95% interval."""
    shown = leads.iloc[::-1].reset_index(drop=True)
    figure = Plot(figsize=(10, 1.2 + 0.32 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for height, row in shown.iterrows():
        clear = abs(row["mean_accuracy"]) > row["mean_accuracy_half"]
        colour = "#888888" if not clear else "#0072B2" if row["mean_accuracy"] < 0 else "#D55E00"
        style: Any = {"color": colour, "ms": 7, "capsize": 3}
        axes.errorbar(row["mean_accuracy"], height, xerr=np.nan_to_num(row["mean_accuracy_half"]), fmt="o", **style)
    axes.axvline(0, color="#888888", lw=1)
    axes.set_yticks(range(len(shown)), list(shown["arm"]), fontsize=10)
    for height, (below, above) in enumerate(itertools.pairwise(shown["question"])):
        if below != above:
            axes.axhline(height + 0.5, color="#cccccc", lw=1)
    axes.set(xlabel="accuracy over the run, points above unchanged FedRevive", ylim=(-0.7, len(shown) - 0.3))
    axes.set_title("What each part is worth (grey: the 95% interval includes zero)")
    return figure


@mpl.rc_context(STYLE)
def plot_compute(evaluations: pd.DataFrame, flops: dict[str, float], staleness: int = 80, alpha: float = 0.1) -> Figure:
    """Accuracy in one cell of the map against simulated time, and against the compute of clients and server.

    flops: operations of a 'client_job', and those that 'fedrevive' adds to an arrival.
    """
    cell = (evaluations["federation.concurrency"] == staleness) & (evaluations["data.alpha"] == alpha)
    evaluations = evaluations[cell]
    per_arrival = flops["client_job"] + flops["fedrevive"] * (evaluations["arm"] == "fedrevive")
    evaluations = evaluations.assign(compute=evaluations["num_arrivals"] * per_arrival / 1e9)
    figure = Plot(figsize=(11, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, x, name in zip(
        panels, ("sim_time", "compute"), ("simulated time", "GFLOP of clients and server"), strict=True
    ):
        for arm, colour in colours(list(dict.fromkeys(evaluations["arm"]))).items():
            # All seeds are evaluated at the same versions, so at the same compute; their times differ.
            mean = evaluations[evaluations["arm"] == arm].groupby("version")[[x, "accuracy"]].mean()
            axes.plot(mean[x], mean["accuracy"], color=colour, label=arm)
        axes.set(xlabel=name, ylim=(0, 1))
    panels[0].set_xlim(0, None)
    panels[1].set_xscale("log")
    panels[0].set_ylabel("test accuracy, mean of 5 seeds")
    panels[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    panels[0].legend()
    figure.suptitle(f"K = {staleness}, alpha = {alpha}: the same runs, against time and against work", fontsize=13)
    return figure


@mpl.rc_context(STYLE)
def plot_slow_owners(runs: pd.DataFrame) -> Figure:
    """Accuracy over the run at each skew, on the classes that slow clients own at skew 1 and on the others.

    runs: see `slow_runs`; a dot is the mean over seeds, with its 95% interval.
    """
    figure = Plot(figsize=(11, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    titles = {
        "owned": f"Classes {runs['named'].iloc[0]}: slow clients own them at skew 1",
        "others": "The other classes",
    }
    skews = sorted(runs["data.speed_skew"].unique())
    for axes, (score, title) in zip(panels, titles.items(), strict=True):
        for number, (arm, colour) in enumerate(colours(list(dict.fromkeys(runs["arm"]))).items()):
            own = runs[runs["arm"] == arm]
            found = [confidence_interval(own.loc[own["data.speed_skew"] == skew, score]) for skew in skews]
            means, halves = np.array(found).T
            places = np.arange(len(skews)) + 0.08 * (number - 1.5)
            style: Any = {"color": colour, "ms": 7, "capsize": 3, "lw": 1.4, "label": method_title(str(arm))}
            axes.errorbar(places, means, np.nan_to_num(halves), fmt="o-", **style)
        axes.set_xticks(range(len(skews)), [f"{skew:g}" for skew in skews])
        axes.set(xlabel="data.speed_skew", ylim=(0, None))
        axes.set_title(title, fontsize=11)
    panels[0].set_ylabel("accuracy over the run")
    panels[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper")
    figure.suptitle("Does reviving help those who are heard least?", fontsize=13, x=0.01, ha="left")
    return figure
