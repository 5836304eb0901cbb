"""Figures: a Timeline or Records in, a matplotlib Figure out.

Nothing here trains or changes global state: figures are made without pyplot, the style holds while one is being made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fedrevive_core.config import FederationConfig, StalenessConfig
from fedrevive_core.plots_timeline import (
    SIM_TIME,
    choose_lanes,
    draw_lanes,
    mark_versions,
    staleness_bins,
    times_of_versions,
)
from fedrevive_core.presets import METHODS
from fedrevive_core.record import Record, confidence_interval
from fedrevive_core.staleness import beta
from fedrevive_core.style import DASHES, METHOD_COLOURS, STYLE, TITLE_COLOURS, UNKNOWN_COLOUR, Plot
from fedrevive_core.timeline import Timeline, expected_staleness

X_LABELS = {"sim_time": SIM_TIME, "num_arrivals": "uploads processed (count)", "version": "version of the global model"}


@mpl.rc_context(STYLE)
def plot_timeline(timeline: Timeline, *, max_clients: int = 40, until: float | None = None) -> Figure:
    """A lane per client with a bar per job from dispatch to arrival, coloured by its staleness at arrival.

    Bars of lost jobs are outlined in red and hatched: of crashed ones to the crash, of others until they are given up.

    Args:
        max_clients: most lanes; if more clients work, some are shown, evenly spread over expected job duration.
        until: end of the window (simulated time), cut at the run's end; unset shows a readable start of the run.
    """
    clients, until = choose_lanes(timeline, max_clients, until)
    figure = Plot(figsize=(10, min(12, 2 + 0.14 * max(len(clients), 12))), layout="constrained")
    axes = figure.subplots()
    coloured, handles = draw_lanes(axes, timeline, clients, until)
    made = times_of_versions(timeline)
    mark_versions(axes, made[made <= until])
    bar = figure.colorbar(coloured, ax=axes, aspect=30, pad=0.02, ticks=MaxNLocator(6, integer=True))
    bar.set_label("staleness at arrival (versions)")
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


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
        colours = [TITLE_COLOURS[number % len(TITLE_COLOURS)] for number in range(len(values))]
        groups = list(zip(runs, colours, values, strict=True))
    else:
        methods = sorted({run.config.method for run in runs}, key=lambda name: [*METHODS, name].index(name))
        groups = [
            (METHODS[name].title if name in METHODS else name, METHOD_COLOURS.get(name, UNKNOWN_COLOUR), group)
            for name in methods
            if (group := [run for run in runs if run.config.method == name])
        ]
    if not groups:
        raise ValueError("there are no runs to plot")
    for title, _, group in groups:
        configs = [run.config.to_dict() for run in group if isinstance(run, Record)]
        seeds = [(config.pop("seed"), config["data"].pop("split_seed")) for config in configs]
        own = [run.provenance.get("own", {}) for run in group if isinstance(run, Record)]
        same = [{**c, "device": None, "num_threads": None, "own": o} for c, o in zip(configs, own, strict=True)]
        if any(config != same[0] for config in same):
            raise ValueError(f"runs of '{title}' differ in more than seeds: pass {{title: runs}} to keep them apart")
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"runs of '{title}' repeat a seed: {sorted(seed for seed, _ in seeds)}")
    return groups


@mpl.rc_context(STYLE)
def plot_accuracy(records: Sequence[Record] | Mapping[str, Sequence[Record]], *, x: str = "sim_time") -> Figure:
    """Accuracy over a run, a curve per method or title; over several seeds their mean and 95% interval.

    An evaluation holds until the next one, and a mean reaches as far as its shortest run. Records of one curve may
    differ in their seeds only. x: 'sim_time', 'num_arrivals' or 'version'. Raises ValueError for anything else.
    """
    if x not in X_LABELS:
        raise ValueError(f"x = '{x}' must be one of {', '.join(X_LABELS)}")
    groups = _groups(records)
    figure = Plot(figsize=(10, 4.6), layout="constrained")
    axes = figure.subplots()
    finals: dict[Line2D, float] = {}
    for title, colour, group in groups:
        grid, accuracy = _on_common_grid(group, x)
        mean, half_width = np.array([confidence_interval(column) for column in accuracy.T]).T
        axes.fill_between(grid, mean - half_width, mean + half_width, step="post", color=colour, alpha=0.18, lw=0)
        final, spread = confidence_interval([record.summary["final_accuracy"] for record in group])
        seeds = f" ± {spread:.1%} ({len(group)} seeds)" if len(group) > 1 else ""
        dashes = next((dashes for start, dashes in DASHES.items() if title.startswith(start)), "-")
        label = f"{title}\n{final:.1%}{seeds}"
        (line,) = axes.plot(grid, mean, dashes, color=colour, drawstyle="steps-post", label=label)
        finals[line] = final
    ranked = sorted(finals, key=lambda line: -finals[line])
    figure.legend(handles=ranked, loc="outside right upper", title="final accuracy", alignment="left")
    axes.set(xlabel=X_LABELS[x], ylabel=f"{groups[0][2][0].config.evaluation.split} accuracy", xlim=(0, None))
    axes.set_ylim(0, min(1, axes.get_ylim()[1]))  # an interval over two seeds may leave what is possible
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    several = any(len(group) > 1 for _, _, group in groups)
    axes.set_title("Accuracy of the global model" + (": mean and 95% interval over seeds" if several else ""))
    return figure


def _on_common_grid(group: Sequence[Record], x: str) -> tuple[np.ndarray, np.ndarray]:
    """Every x (G,) at which a run was evaluated, as far as all runs reach, and accuracy (runs, G) held until there."""
    curves = [(run.evaluations[x].to_numpy(float), run.evaluations["accuracy"].to_numpy()) for run in group]
    ends = [at[-1] for at, _ in curves]
    if x == "sim_time":  # what was evaluated last holds to the end of the budget
        ends = [max(end, float(run.summary["sim_time"])) for end, run in zip(ends, group, strict=True)]
    every = np.unique(np.concatenate([*(at for at, _ in curves), [min(ends)]]))
    grid = every[(every >= max(at[0] for at, _ in curves)) & (every <= min(ends))]
    return grid, np.array([accuracy[np.searchsorted(at, grid, side="right") - 1] for at, accuracy in curves])


@mpl.rc_context(STYLE)
def plot_samples(record: Record, *, moments: int = 8) -> Figure:
    """Synthesised images over time: a row per class, a column per moment, in each cell the newest (first) of the class.

    At most ten classes (those seen most) and `moments` columns, evenly spread. Raises ValueError without samples.
    """
    versions, labels = record.samples["version"], record.samples["labels"]
    seen, counts = np.unique(labels[labels >= 0], return_counts=True)
    classes = np.sort(seen[np.argsort(-counts, kind="stable")[:10]])
    if moments < 1:
        raise ValueError(f"moments = {moments} must be positive")
    if "images" not in record.samples:
        raise ValueError("the samples are texts: use text_plots.plot_text_samples")
    if len(classes) == 0:
        raise ValueError(f"'{record.config.method}' left no samples: only runs with revival.source = 'synthetic' do")
    chosen = np.linspace(0, len(versions) - 1, min(moments, len(versions))).round().astype(int)
    mosaic, pitch = _mosaic(record.samples["images"][chosen], labels[chosen], classes)
    figure = Plot(figsize=(0.9 + 0.72 * max(len(chosen), 6), 1.5 + 0.72 * len(classes)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(mosaic, interpolation="nearest")
    middle = (record.samples["images"].shape[-1] - 1) / 2
    axes.set_xticks(middle + pitch * np.arange(len(chosen)), [str(version) for version in versions[chosen]])
    axes.set_yticks(middle + pitch * np.arange(len(classes)), [str(label) for label in classes])
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    axes.xaxis.set_label_position("top")
    axes.set(xlabel="version of the global model", ylabel="class")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    figure.suptitle("What the generator draws: newest image of each class", fontsize=13)
    figure.supxlabel(f"blank: none among the {labels.shape[1]} newest images", fontsize=10)
    return figure


def _mosaic(images: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, int]:
    """RGB pixels of the first, so newest, image of each class at each moment, and the side of a cell with its gap."""
    side = images.shape[-1]
    gap = max(1, side // 8)
    pitch = side + gap
    mosaic = np.full((len(classes) * pitch, len(images) * pitch, 3), 255, dtype=np.uint8)
    for row, label in enumerate(classes):
        for column in range(len(images)):
            cell = mosaic[row * pitch :, column * pitch :][:side, :side]
            newest = np.flatnonzero(labels[column] == label)[:1]
            # One channel is broadcast to grey; a blank is a little darker than the gaps.
            cell[:] = images[column, newest[0]].transpose(1, 2, 0) if len(newest) else 245
    return mosaic[:-gap, :-gap], pitch


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
