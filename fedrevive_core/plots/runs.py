"""Figures of recorded runs: accuracy over the run, staleness, and the weights that staleness costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fedrevive_core.config import METHODS, FederationConfig, StalenessConfig, method_title
from fedrevive_core.plots.style import METHOD_COLOURS, STYLE, TITLE_COLOURS, UNKNOWN_COLOUR, Plot, colours, dashes
from fedrevive_core.plots.timeline import SIM_TIME, staleness_bins
from fedrevive_core.records import Record, confidence_interval
from fedrevive_core.staleness import beta
from fedrevive_core.timeline import Timeline, expected_staleness

FEW = 4  # seeds: an interval over so few hides the figure, so that their curves are shown instead
X_LABELS = {"sim_time": SIM_TIME, "num_arrivals": "uploads processed (count)", "version": "version of the global model"}


def plot_accuracy(records: Sequence[Record] | Mapping[str, Sequence[Record]], *, x: str = "sim_time") -> Figure:
    """Accuracy over a run, a curve per method or title; over several seeds their mean, as in `plot_curves`.

    An evaluation holds until the next one, and a mean reaches as far as its shortest run. Records of one curve may
    differ in their seeds only. x: 'sim_time', 'num_arrivals' or 'version'. Raises ValueError for anything else.
    """
    groups = _groups(records)
    tables: list[pd.DataFrame] = []
    for title, _, group in groups:
        for record in group:
            table = record.evaluations.assign(title=title, final_accuracy=record.summary["final_accuracy"])
            end = table.tail(1).assign(sim_time=max(record.summary["sim_time"], table["sim_time"].iloc[-1]))
            # The last evaluation holds to the end of the budget, which is one of simulated time.
            tables.append(pd.concat([table, end] if x == "sim_time" else [table]).assign(run=len(tables)))
    return plot_curves(
        pd.concat(tables),
        x=x,
        by="title",
        colour={title: colour for title, colour, _ in groups},
        split=groups[0][2][0].config.evaluation.split,
    )


@mpl.rc_context(STYLE)
def plot_curves(
    evaluations: pd.DataFrame,
    *,
    x: str = "sim_time",
    by: str = "arm",
    colour: Mapping[str, str] | None = None,
    split: str = "test",
) -> Figure:
    """Accuracy over the run for each value of `by`: the mean over seeds, as far as all seeds reach.

    With it stands the 95% interval; for at most FEW seeds a thin curve for each instead.

    Args:
        evaluations: a row per evaluation with `run`, `by`, `x` and `accuracy`, in the order of time. With a column
            `final_accuracy` of its run, the legend gives the final accuracy of each curve, the best first.
        x: 'sim_time', 'num_arrivals' or 'version'. colour: of each value of `by`. split: that was evaluated.

    Raises ValueError for another `x`.
    """
    if x not in X_LABELS:
        raise ValueError(f"x = '{x}' must be one of {', '.join(X_LABELS)}")
    figure = Plot(figsize=(10, 4.6), layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(evaluations[by]))
    colour, ranked, most = colour or colours(names), "final_accuracy" in evaluations, 1
    finals: dict[Line2D, float] = {}
    for name in names:
        runs = [run for _, run in evaluations[evaluations[by] == name].groupby("run", observed=True)]
        grid, accuracy = _on_common_grid([(run[x].to_numpy(float), run["accuracy"].to_numpy()) for run in runs])
        mean = accuracy.mean(axis=0)
        final, spread = confidence_interval([run["final_accuracy"].iloc[0] for run in runs]) if ranked else (0.0, 0.0)
        seeds = f"({len(runs)} seed{'s' * (len(runs) > 1)})"
        score = f"\n{final:.1%}" + (f" ± {spread:.1%} {seeds}" if len(runs) > 1 else "")
        look: Any = {"color": colour[name], "ls": dashes(name), "label": name + (score if ranked else f" {seeds}")}
        (line,) = axes.plot(grid, mean, drawstyle="steps-post", **look)
        finals[line] = final
        if len(runs) > FEW:
            half = np.array([confidence_interval(column)[1] for column in accuracy.T])
            axes.fill_between(grid, mean - half, mean + half, step="post", color=colour[name], alpha=0.18, lw=0)
        elif len(runs) > 1:
            axes.plot(grid, accuracy.T, drawstyle="steps-post", color=colour[name], alpha=0.4, lw=0.7)
        most = max(most, len(runs))
    handles = sorted(finals, key=lambda line: -finals[line])
    title = "final accuracy" if ranked else by
    figure.legend(handles=handles, loc="outside right upper", title=title, alignment="left")
    axes.set(xlabel=X_LABELS[x], ylabel=f"{split} accuracy", xlim=(0, None))
    axes.set_ylim(0, min(1, axes.get_ylim()[1]))  # an interval over two seeds may leave what is possible
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    beside = "" if most == 1 else ": mean over seeds" + (" and 95% interval" if most > FEW else "; thin: each seed")
    axes.set_title(f"Accuracy of the global model{beside}")
    return figure


def _on_common_grid(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Every x (G,) of `curves` (x, accuracy) that all reach, and the accuracy (runs, G) of the evaluation before."""
    every = np.unique(np.concatenate([x for x, _ in curves]))
    grid = every[(every >= max(x[0] for x, _ in curves)) & (every <= min(x[-1] for x, _ in curves))]
    return grid, np.array([accuracy[np.searchsorted(x, grid, side="right") - 1] for x, accuracy in curves])


@mpl.rc_context(STYLE)
def plot_staleness(runs: Timeline | Record | Sequence[Record] | Mapping[str, Timeline | Record]) -> Figure:
    """Histogram of the staleness of all arrivals with its mean and Little's prediction; a panel per method or title."""
    if isinstance(runs, Timeline):
        runs = {f"Up to {runs.federation.concurrency} jobs in flight": runs}
    groups = _groups([runs] if isinstance(runs, Record) else runs)
    panels = [np.concatenate([_staleness(run) for run in group]) for _, _, group in groups]
    bins = staleness_bins(max(int(staleness.max()) for staleness in panels))
    figure = Plot(figsize=(8, 1.2 + (2.6 if len(panels) == 1 else 1.8) * len(panels)), layout="constrained")
    column = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (title, colour, group), staleness in zip(column, groups, panels, strict=True):
        federation = group[0].federation if isinstance(group[0], Timeline) else group[0].config.federation
        axes.hist(staleness, bins, weights=np.full(len(staleness), 1 / len(staleness)), color=colour, alpha=0.7)
        axes.axvline(staleness.mean(), color="black", label=f"mean {staleness.mean():.3g}")
        expected = expected_staleness(federation)
        formula = f"$({federation.concurrency}-1)/{federation.buffer_size}$ = " if federation.refill_size == 1 else ""
        # A marker and not a second line: where theory and run agree, one line would hide the other.
        law, inside = f"Little's law: {formula}{expected:.3g}", axes.get_xaxis_transform()
        axes.scatter(expected, 0.92, 80, "white", marker="v", ec="black", zorder=3, transform=inside, label=law)
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g}%")
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.legend(loc="upper right")
        axes.set_title(title, fontsize=11, pad=6)
    column[-1].set_xlabel("staleness (versions)")
    figure.supylabel("share of arrivals", fontsize=11)
    figure.suptitle("How stale updates are when they arrive", fontsize=13, x=0.01, ha="left")
    return figure


def _staleness(run: Timeline | Record) -> np.ndarray:
    return run.arrival_staleness if isinstance(run, Timeline) else run.arrivals["staleness"].to_numpy()


def _groups(runs: Any) -> list[tuple[str, str, list[Any]]]:
    """Title, colour and runs of each curve or panel: as titled, or by method in the order of METHODS, others last.

    Raises ValueError if there are none, and if runs under one title differ in more than their seeds or repeat one: a
    mean over those would look like a result.
    """
    if isinstance(runs, Mapping):
        values = [list(run) if isinstance(run, Sequence) else [run] for run in runs.values()]
        shown = [TITLE_COLOURS[number % len(TITLE_COLOURS)] for number in range(len(values))]
        groups = list(zip(runs, shown, values, strict=True))
    else:
        methods = sorted({run.config.method for run in runs}, key=lambda name: [*METHODS, name].index(name))
        groups = [
            (method_title(name), METHOD_COLOURS.get(name, UNKNOWN_COLOUR), group)
            for name in methods
            if (group := [run for run in runs if run.config.method == name])
        ]
    if not groups:
        raise ValueError("there are no runs to plot")
    for title, _, group in groups:
        configs = [run.config.to_dict() for run in group if isinstance(run, Record)]
        seeds = [(config.pop("seed"), config["data"].pop("split_seed")) for config in configs]
        parts = [run.provenance.get("own", {}) for run in group if isinstance(run, Record)]
        same = [{**c, "device": None, "num_threads": None, "own": p} for c, p in zip(configs, parts, strict=True)]
        if any(config != same[0] for config in same):
            raise ValueError(f"runs of '{title}' differ in more than seeds: pass {{title: runs}} to keep them apart")
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"runs of '{title}' repeat a seed: {sorted(seed for seed, _ in seeds)}")
    return groups


@mpl.rc_context(STYLE)
def plot_staleness_weights(
    staleness_config: StalenessConfig, federation: FederationConfig, max_staleness: int = 300
) -> Figure:
    """The rule beta(tau): how much of an update is replaced at each staleness from 0 to `max_staleness` versions."""
    tau = np.linspace(0, max_staleness, 4 * max_staleness + 1)
    weight = np.array([beta(value, staleness_config, federation) for value in tau.tolist()])
    figure = Plot(figsize=(8, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(tau, 0, weight, color="#D55E00", alpha=0.22, lw=0, label=r"replaced: $\beta(\tau)$")
    axes.fill_between(tau, weight, 1, color="#0072B2", alpha=0.12, lw=0, label=r"kept of the update: $1-\beta(\tau)$")
    axes.plot(tau, weight, color="#D55E00", clip_on=False)
    expected = expected_staleness(federation)
    if expected <= max_staleness:
        axes.axvline(expected, color="black", ls="--", lw=1.4, label=f"mean staleness expected: {expected:.3g}")
    axes.set(xlabel=r"staleness $\tau$ (versions)", ylabel="weight", xlim=(0, max_staleness), ylim=(0, 1))
    axes.set_title(f"How much of an update its staleness costs: {staleness_config.rule} rule")
    figure.legend(loc="outside lower center", ncols=3)
    return figure
