"""How many jobs in flight: the same runs against simulated time and against work, from two packed sweeps."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, PercentFormatter

from fedrevive_core.config import build, method_title
from fedrevive_core.plots import STYLE, Plot, colours
from fedrevive_core.records import confidence_interval
from fedrevive_core.timeline import expected_staleness, expected_throughput, simulate_timeline
from reproduce.evidence.common import MAP, RECORDS, lead_over, percent
from reproduce.reports.text import interval
from reproduce.sweeps.results import collect

INFLIGHT, ALPHA, K = "jobs-in-flight", 0.1, "federation.concurrency"
ARMS = ("whole-updates", "fedrevive")
GOALS = (0.6, 0.7)
MEASURES = {"sim_time": "simulated time", "num_arrivals": "uploads"}  # what a goal may take


def inflight_evaluations() -> pd.DataFrame:
    """Every evaluation of whole updates and FedRevive at alpha = 0.1: of the map, and of smaller K if they ran."""
    known = [collect(RECORDS / name).records.evaluations for name in (MAP, INFLIGHT) if (RECORDS / name).exists()]
    every = pd.concat(known, ignore_index=True)
    chosen = every["arm"].isin(ARMS) & (every.get("data.alpha", ALPHA).fillna(ALPHA) == ALPHA)
    return every[chosen].sort_values([K, "arm", "seed", "version"], ignore_index=True)


def held(x: np.ndarray, accuracy: np.ndarray, start: float, end: float) -> float:
    """Mean accuracy from `start` to `end` on the axis `x`, each evaluation holding until the next."""
    lasts = np.diff(np.clip(np.append(x, max(end, x[-1])), start, end))
    return float((accuracy * lasts).sum() / (end - start))


def inflight_runs(evaluations: pd.DataFrame) -> pd.DataFrame:
    """A row per run: K, arm, seed, what it reaches by the same time and the same work, and what a goal takes it.

    same_time, same_work: accuracy over the last tenth of the shortest run's time, or of the uploads; mean_accuracy:
    over all uploads. 'sim_time 0.6' and so on: when an evaluation is first at the goal; the run's end, with
    'reached 0.6' False, if none is.
    """
    runs = evaluations.groupby([K, "arm", "seed"], observed=True)
    time, work = (float(runs[x].max().min()) for x in MEASURES)
    rows = []
    for (concurrency, arm, seed), run in runs:
        accuracy = run["accuracy"].to_numpy()
        at = {x: run[x].to_numpy(float) for x in MEASURES}
        row: dict[str, Any] = {K: concurrency, "arm": arm, "seed": seed, "run": run["run"].iloc[0]}
        row["same_time"] = held(at["sim_time"], accuracy, 0.9 * time, time)
        row["same_work"] = held(at["num_arrivals"], accuracy, 0.9 * work, work)
        row["mean_accuracy"] = held(at["num_arrivals"], accuracy, 0, work)
        row["throughput"] = at["num_arrivals"][-1] / at["sim_time"][-1]
        for goal in GOALS:
            reached = np.flatnonzero(accuracy >= goal)
            row[f"reached {goal}"] = len(reached) > 0
            row |= {f"{x} {goal}": values[reached[0] if len(reached) else -1] for x, values in at.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def takes(runs: pd.DataFrame, x: str, goal: float) -> str:
    """What `goal` takes `runs` on the axis `x`; '>' where a run never reaches it."""
    reached = runs[f"reached {goal}"]
    if not reached.any():
        return f"> {runs[f'{x} {goal}'].mean():.4g}"
    return ("" if reached.all() else "> ") + interval(*confidence_interval(runs[f"{x} {goal}"]))


def inflight_table() -> list[dict[str, str]]:
    """A row per K and method: how fast and how stale, what it reaches by the same time and work, what 60% takes."""
    runs = inflight_runs(inflight_evaluations())
    rows = []
    for (concurrency, arm), its in runs.groupby([K, "arm"], observed=True, sort=False):
        rows.append(
            {"K": str(concurrency), "method": method_title(str(arm))}
            | {"uploads per unit of time": f"{its['throughput'].mean():.1f}"}
            | {"same time %": percent(its["same_time"]), "same work %": percent(its["same_work"])}
            | {"over the work %": percent(its["mean_accuracy"])}
            | {f"{name} to {goal:.0%}": takes(its, x, goal) for goal in GOALS for x, name in MEASURES.items()}
            | {"lead over whole updates, over the run": _lead(runs, concurrency, str(arm))}
        )
    return rows


def _lead(runs: pd.DataFrame, concurrency: int, arm: str) -> str:
    if arm == ARMS[0]:
        return ""
    return lead_over(runs[runs[K] == concurrency], "mean_accuracy", arm, ARMS[0])


def inflight_laws_table(seeds: int = 5) -> list[dict[str, str]]:
    """A row per K: uploads per unit of time and mean staleness, in closed form and in the runs' timelines."""
    rows = []
    for concurrency in sorted(inflight_evaluations()[K].unique().tolist()):
        budget = {"federation.max_sim_time": None, "federation.max_versions": 500, K: concurrency}
        federation = build("lab-digits", "fedrevive", overrides=budget).federation
        runs = [simulate_timeline(federation, seed) for seed in range(seeds)]
        laws = [expected_throughput(run.mean_duration, concurrency) for run in runs]
        found = [len(run.arrivals) / run.sim_time for run in runs]
        stale = [float(run.arrival_staleness.mean()) for run in runs]
        rows.append(
            {"K": str(concurrency), "uploads per unit of time": interval(*confidence_interval(found))}
            | {"in closed form": f"{np.mean(laws):.1f}", "mean staleness": interval(*confidence_interval(stale))}
            | {"in closed form, (K - 1) / B": f"{expected_staleness(federation):.0f}"}
        )
    return rows


@mpl.rc_context(STYLE)
def plot_inflight(runs: pd.DataFrame, goal: float = 0.6) -> Figure:
    """What `goal` takes, in time and in uploads, over K; a dot is the mean over seeds, with its 95% interval.

    Open dots hold runs that never reach it, with their ends: it takes longer than they say.
    """
    figure = Plot(figsize=(11, 4.2), layout="constrained")
    panels = figure.subplots(1, 2)
    counts = sorted(runs[K].unique())
    for axes, (x, name) in zip(panels, MEASURES.items(), strict=True):
        for number, (arm, colour) in enumerate(colours(ARMS).items()):
            own = [runs[(runs["arm"] == arm) & (runs[K] == count)] for count in counts]
            means, halves = np.array([confidence_interval(its[f"{x} {goal}"]) for its in own]).T
            places = np.array(counts) * 1.03 ** (2 * number - 1)
            whole = np.array([its[f"reached {goal}"].all() for its in own])
            axes.plot(places, means, color=colour, lw=1.4, label=method_title(arm))
            for chosen, fill in ((whole, colour), (~whole, "white")):
                look: Any = {"color": colour, "mfc": fill, "ms": 7, "capsize": 3, "fmt": "o", "zorder": 3}
                axes.errorbar(places[chosen], means[chosen], yerr=halves[chosen], **look)
        _over_k(axes, counts)
        axes.set(ylabel=f"{name} to {goal:.0%}", ylim=(0, None))
    panels[0].set_title("In time", fontsize=11)
    panels[1].set_title("In work", fontsize=11)
    panels[0].legend()
    figure.suptitle("How many jobs in flight? (open dots: some runs end before)", fontsize=13, x=0.01, ha="left")
    return figure


def _over_k(axes: Axes, counts: list[int]) -> None:
    axes.set(xscale="log", xlabel="jobs in flight K")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)


@mpl.rc_context(STYLE)
def plot_inflight_curves(evaluations: pd.DataFrame, arm: str = "fedrevive") -> Figure:
    """Accuracy of `arm` for each K against simulated time and against uploads, mean over seeds."""
    figure = Plot(figsize=(11, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    draw_curves(list(panels), evaluations[evaluations["arm"] == arm])
    panels[0].set_ylabel("test accuracy")
    panels[1].legend(title="jobs in flight K", loc="lower right")
    figure.suptitle(f"{method_title(arm)}, the same runs against time and against work", fontsize=13, x=0.01, ha="left")
    return figure


def draw_curves(panels: list[Axes], evaluations: pd.DataFrame, marked: int | None = None) -> None:
    """Draw accuracy against time and against uploads, a curve for each K, dark for many jobs; thick for `marked`."""
    counts = sorted(evaluations[K].unique())
    shades = mpl.colormaps["viridis_r"](np.linspace(0.1, 1, len(counts)))
    for axes, (x, name) in zip(panels, MEASURES.items(), strict=True):
        for count, shade in zip(counts, shades, strict=True):
            # All seeds are evaluated after the same uploads; their times differ.
            mean = evaluations[evaluations[K] == count].groupby("version")[[x, "accuracy"]].mean()
            faint = marked is not None and count != marked
            axes.plot(mean[x], mean["accuracy"], color=shade, lw=1.2 if faint else 2.6, alpha=0.5 if faint else 1,
                      label=str(count))  # fmt: skip
        axes.set(xlabel=f"{name}, 500 uploads each" if x == "sim_time" else name, xlim=(0, None), ylim=(0, 1))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
