"""Figures: a Timeline or Records in, a matplotlib Figure out.

Nothing here trains or changes global state: figures are made without pyplot, the style holds while one is being made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fedrevive_core.config import FederationConfig, StalenessConfig
from fedrevive_core.presets import METHODS
from fedrevive_core.record import Record, confidence_interval
from fedrevive_core.staleness import beta
from fedrevive_core.style import DASHES, METHOD_COLOURS, STYLE, TITLE_COLOURS, UNKNOWN_COLOUR, Plot
from fedrevive_core.timeline import Timeline, expected_staleness, speed_groups

SIM_TIME = "simulated time (unitless)"
X_LABELS = {"sim_time": SIM_TIME, "num_arrivals": "uploads processed (count)", "version": "version of the global model"}


@mpl.rc_context(STYLE)
def plot_timeline(timeline: Timeline, *, max_clients: int = 40, until: float | None = None) -> Figure:
    """A lane per client with a bar per job from dispatch to arrival, coloured by its staleness at arrival.

    Args:
        max_clients: most lanes; if more clients work, some are shown, evenly spread over expected job duration.
        until: end of the window (simulated time), cut at the run's end; unset shows a readable start of the run.
    """
    if max_clients < 1 or (until is not None and until <= 0):
        raise ValueError(f"max_clients = {max_clients} and until = {until} must be positive")
    buffer_size, num_clients = timeline.federation.buffer_size, timeline.federation.num_clients
    made = timeline.arrival_time[timeline.arrivals[buffer_size - 1 :: buffer_size]]  # when each version is made
    if until is None:  # four mean durations, or a little more than three versions if they take longer
        until = max(4 * float(np.mean(timeline.arrival_time - timeline.dispatch_time)), 1.04 * float(made[:3][-1]))
    until = min(until, timeline.sim_time)

    started = timeline.dispatch_time < until
    by_speed = np.argsort(timeline.mean_duration, kind="stable")
    at_work = by_speed[np.isin(by_speed, timeline.client[started])]
    shown = at_work[np.linspace(0, len(at_work) - 1, min(max_clients, len(at_work))).round().astype(int)]
    jobs = np.flatnonzero(started & np.isin(timeline.client, shown))
    lane = np.full(num_clients, -1)
    lane[shown] = np.arange(len(shown))
    left, right = timeline.dispatch_time[jobs], np.minimum(timeline.arrival_time[jobs], until)
    top, bottom = lane[timeline.client[jobs]] - 0.4, lane[timeline.client[jobs]] + 0.4
    bars = np.stack([left, top, right, top, right, bottom, left, bottom], axis=1).reshape(-1, 4, 2)
    staleness = timeline.staleness[jobs]
    arrives = staleness >= 0

    figure = Plot(figsize=(10, min(12, 2 + 0.14 * max(len(shown), 12))), layout="constrained")
    axes = figure.subplots()
    axes.grid(visible=False)
    coloured = PolyCollection(list(bars[arrives]), cmap="viridis_r", edgecolors="white", linewidths=0.6)
    coloured.set_array(staleness[arrives])
    coloured.set_clim(0, max(1, staleness.max()))
    axes.add_collection(coloured)
    axes.add_collection(PolyCollection(list(bars[~arrives]), facecolors="#c4c4c4", edgecolors="white", linewidths=0.6))
    axes.set(xlim=(0, until), ylim=(len(shown) - 0.4, -0.6), xlabel=SIM_TIME)
    whole = until >= timeline.sim_time
    part = "the whole run" if whole else f"the start of the run, to time {until:.3g} of {timeline.sim_time:.3g}"
    clients = f"{len(shown)} of {num_clients} clients" if len(shown) < num_clients else f"all {num_clients} clients"
    axes.set_title(f"Who works when: {part}; {clients}")
    _label_lanes(axes, timeline, shown)
    _mark_versions(axes, made[made <= until])
    bar = figure.colorbar(coloured, ax=axes, aspect=30, pad=0.02, ticks=MaxNLocator(6, integer=True))
    bar.set_label("staleness at arrival (versions)")
    if not arrives.all():
        grey = Patch(color="#c4c4c4", label="still in flight at the end of the run")
        figure.legend(handles=[grey], loc="outside lower center")
    return figure


def _label_lanes(axes: Axes, timeline: Timeline, shown: np.ndarray) -> None:
    """Client numbers if they can be read; otherwise the speed groups, with a line between them."""
    if len(shown) <= 20:
        axes.set_yticks(range(len(shown)), [str(client) for client in shown])
        axes.set_ylabel("client, fastest on top")
        return
    groups = speed_groups(timeline.mean_duration)
    lanes = {name: numbers for name in groups if len(numbers := np.flatnonzero(np.isin(shown, groups[name])))}
    axes.set_yticks([numbers.mean() for numbers in lanes.values()], list(lanes), rotation=90, va="center")
    axes.tick_params(axis="y", length=0)
    axes.set_ylabel("clients by expected job duration")
    axes.hlines([n[0] - 0.5 for n in lanes.values()][1:], 0, 1, "#888888", transform=axes.get_yaxis_transform(), lw=0.8)


def _mark_versions(axes: Axes, made: np.ndarray) -> None:
    """Version numbers on top, each where it is made; if there are few, lines that can be counted across a bar."""
    if len(made) <= 30:
        axes.vlines(made, 0, 1, "black", transform=axes.get_xaxis_transform(), lw=0.8, alpha=0.4)
    times, room = np.append(0.0, made), 0.04 * axes.get_xlim()[1]
    wanted = [0]
    for version in map(int, MaxNLocator(8, integer=True).tick_values(0, len(made))):
        if version <= len(made) and times[version] - times[wanted[-1]] > room:
            wanted.append(version)
    above = axes.secondary_xaxis("top")
    above.set_xticks(times[wanted], [str(version) for version in wanted])
    above.set_xlabel("version of the global model")
    above.spines["top"].set_visible(True)


@mpl.rc_context(STYLE)
def plot_staleness(runs: Timeline | Record | Sequence[Record] | Mapping[str, Timeline | Record]) -> Figure:
    """Histogram of the staleness of all arrivals with its mean and Little's prediction; a panel per method or title."""
    if isinstance(runs, Timeline):
        runs = {f"Up to {runs.federation.concurrency} jobs in flight": runs}
    groups = _groups([runs] if isinstance(runs, Record) else runs)
    panels = [np.concatenate([_staleness(run) for run in group]) for _, _, group in groups]
    longest = max(int(staleness.max()) for staleness in panels)
    width = math.ceil((longest + 1) / 60)  # whole versions, so that no bar counts more of them than its neighbour
    bins = np.arange(0, longest + width + 1, width) - 0.5
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
    return run.staleness[run.arrivals] if isinstance(run, Timeline) else run.arrivals["staleness"].to_numpy()


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
        same = [{**config, "device": None, "num_threads": None} for config in configs]
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
