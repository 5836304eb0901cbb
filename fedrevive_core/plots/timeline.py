"""Figures of a timeline: who works when, as a static plot and for the explorer."""

from __future__ import annotations

import math
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from fedrevive_core.config import CRASH, NEVER_RETURN
from fedrevive_core.plots.style import STYLE, Plot
from fedrevive_core.timeline import Timeline, expected_staleness, speed_groups

SIM_TIME = "simulated time (unitless)"
LOST = {NEVER_RETURN: ("lost: never returns, until given up", "////"), CRASH: ("lost: client crashes", "xx")}
STALENESS_COLOURS, IN_FLIGHT_COLOUR = "viridis_r", "#c4c4c4"


def times_of_versions(timeline: Timeline) -> np.ndarray:
    """Simulated time at which each version after the first is made."""
    buffer_size = timeline.federation.buffer_size
    return timeline.arrival_time[timeline.arrivals[buffer_size - 1 :: buffer_size]]


def choose_lanes(timeline: Timeline, max_clients: int = 40, until: float | None = None) -> tuple[np.ndarray, float]:
    """Clients to show, fastest first, and the end of the window; arguments as in `plot_timeline`."""
    if max_clients < 1 or (until is not None and until <= 0):
        raise ValueError(f"max_clients = {max_clients} and until = {until} must be positive")
    if until is None:  # four mean durations, or a little more than three versions if they take longer
        duration = timeline.arrival_time - timeline.dispatch_time
        four_jobs = 4 * float(np.mean(duration[np.isfinite(duration)]))
        until = max(four_jobs, 1.04 * float(times_of_versions(timeline)[:3][-1]))
    until = min(until, timeline.sim_time)
    by_speed = np.argsort(timeline.mean_duration, kind="stable")
    at_work = by_speed[np.isin(by_speed, timeline.client[timeline.dispatch_time < until])]
    chosen = np.linspace(0, len(at_work) - 1, min(max_clients, len(at_work))).round().astype(int)
    return at_work[chosen], until


def draw_lanes(axes: Axes, timeline: Timeline, clients: np.ndarray, until: float) -> tuple[PolyCollection, list[Patch]]:
    """Draw the jobs of `clients` up to `until`; returns the coloured bars, and a legend of those that do not arrive."""
    num_clients = timeline.federation.num_clients
    jobs = np.flatnonzero((timeline.dispatch_time < until) & np.isin(timeline.client, clients))
    lane = np.full(num_clients, -1)
    lane[clients] = np.arange(len(clients))
    left, right = timeline.dispatch_time[jobs], np.minimum(timeline.arrival_time[jobs], until)
    top, bottom = lane[timeline.client[jobs]] - 0.4, lane[timeline.client[jobs]] + 0.4
    bars = np.stack([left, top, right, top, right, bottom, left, bottom], axis=1).reshape(-1, 4, 2)
    staleness = timeline.staleness[jobs]
    arrives, fate = staleness >= 0, np.where(np.isin(jobs, timeline.lost), timeline.fault[jobs], 0)
    still = ~arrives & (fate == 0)
    axes.grid(visible=False)
    coloured = PolyCollection(list(bars[arrives]), cmap=STALENESS_COLOURS, edgecolors="white", linewidths=0.6)
    coloured.set_array(staleness[arrives])
    coloured.set_clim(0, max(1, staleness.max()))
    axes.add_collection(coloured)
    grey = PolyCollection(list(bars[still]), facecolors=IN_FLIGHT_COLOUR, edgecolors="white", linewidths=0.6)
    axes.add_collection(grey)
    handles = [Patch(color=IN_FLIGHT_COLOUR, label="still in flight at the end of the run")] if still.any() else []
    for code, (label, hatch) in LOST.items():
        if (fate == code).any():
            look: Any = {"facecolor": "white", "edgecolor": "#cc0000", "hatch": hatch, "linewidth": 1.0}
            axes.add_collection(PolyCollection(list(bars[fate == code]), **look))
            handles.append(Patch(label=label, **look))
    axes.set(xlim=(0, until), ylim=(len(clients) - 0.4, -0.6))
    seconds = timeline.federation.devices.trace is not None and timeline.federation.time_unit == 1
    axes.set_xlabel("simulated time (seconds)" if seconds else SIM_TIME)
    part = f"the start of the run, to time {until:.3g} of {round(timeline.sim_time, 1):,g}"
    part = part if until < timeline.sim_time else "the whole run"
    count = f"{len(clients)} of {num_clients} clients" if len(clients) < num_clients else f"all {num_clients} clients"
    axes.set_title(f"Who works when: {part}; {count}")
    label_lanes(axes, timeline, clients)
    return coloured, handles


def label_lanes(axes: Axes, timeline: Timeline, shown: np.ndarray) -> None:
    """Client numbers if there are few; otherwise the speed groups, with a line between them."""
    axes.tick_params(axis="y", length=0)
    if len(shown) <= 20:
        axes.set_yticks(range(len(shown)), [str(client) for client in shown], rotation=0, va="center")
        axes.set_ylabel("client, fastest on top")
        return
    groups = speed_groups(timeline.mean_duration)
    lanes = {name: numbers for name in groups if len(numbers := np.flatnonzero(np.isin(shown, groups[name])))}
    wide = {name: numbers.mean() for name, numbers in lanes.items() if 8 * len(numbers) > len(shown)}  # fits its name
    axes.set_yticks(list(wide.values()), list(wide), rotation=90, va="center")
    axes.set_ylabel("clients by expected job duration")
    axes.hlines([n[0] - 0.5 for n in lanes.values()][1:], 0, 1, "#888888", transform=axes.get_yaxis_transform(), lw=0.8)


def mark_versions(axes: Axes, made: np.ndarray) -> None:
    """Version numbers on top, each where it is made; if there are few, with lines to count across a bar."""
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


def staleness_bins(longest: int) -> np.ndarray:
    """Edges of at most 60 bars up to `longest`, each over equally many whole versions."""
    width = math.ceil((longest + 1) / 60)
    return np.arange(0, longest + width + 1, width) - 0.5


@mpl.rc_context(STYLE)
def plot_timeline(timeline: Timeline, *, max_clients: int = 40, until: float | None = None) -> Figure:
    """A lane per client with a bar per job from dispatch to arrival, coloured by its staleness at arrival.

    Lost jobs are outlined in red and hatched: crashed ones to the crash, others until they are given up.

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


# Everything below has fixed positions and is used again: layout engines, new axes and titles that move take longer than
# all the rest of a drawing.
FIXED_POSITIONS = {**STYLE, "axes.titley": 1.0}


def still_timeline(timeline: Timeline) -> Plot:
    """What the explorer shows of `timeline`, for pages without widgets."""
    figure = empty_figure()
    draw_timeline(figure, timeline)
    return figure


@mpl.rc_context(FIXED_POSITIONS)
def empty_figure() -> Plot:
    """A figure with empty axes: swim lanes above, a histogram below."""
    figure = Plot(figsize=(10, 5.2))  # low: the explorer has its controls above it on a laptop's screen
    for bottom, height in ((0.5, 0.44), (0.1, 0.22)):
        axes = figure.add_axes((0.08, bottom, 0.9, height))
        axes.xaxis.set_label_coords(0.5, -0.29 * 0.22 / height)
        axes.yaxis.set_label_coords(-0.055, 0.5)
    return figure


@mpl.rc_context(FIXED_POSITIONS)
def draw_timeline(figure: Plot, timeline: Timeline) -> None:
    """Show `timeline` in `figure`, made by `empty_figure`; the bars of the histogram explain the lanes' colours."""
    lanes, histogram = figure.axes
    for artist in [*lanes.collections, *histogram.collections, *histogram.lines]:
        artist.remove()
    staleness, expected = timeline.staleness[timeline.arrivals], expected_staleness(timeline.federation)
    longest = math.ceil(np.quantile(staleness, 0.99))  # a few stragglers would squeeze all others into one colour
    clients, until = choose_lanes(timeline)
    coloured, _ = draw_lanes(lanes, timeline, clients, until)
    coloured.set_clim(0, max(1, longest))
    edges = staleness_bins(longest)
    left, right = edges[:-1], edges[1:]
    share, floor = np.histogram(staleness, edges)[0] / len(staleness), np.zeros(len(left))
    bars = np.stack([left, floor, left, share, right, share, right, floor], axis=1).reshape(-1, 4, 2)
    colours = coloured.to_rgba((left + right) / 2)
    histogram.add_collection(PolyCollection(list(bars), facecolors=colours, edgecolors="#888888", linewidths=0.5))
    histogram.axvline(staleness.mean(), color="black")
    inside = histogram.get_xaxis_transform()
    histogram.plot(expected, 0.92, "v", color="white", markeredgecolor="black", markersize=9, transform=inside)
    beyond = np.mean(staleness > edges[-1])
    rest = f"; {beyond:.1%} of arrivals lie beyond, up to {staleness.max()}" if beyond else ""
    histogram.set(xlim=(-0.5, max(edges[-1], expected + 1)), xlabel="staleness (versions)" + rest)
    histogram.set(ylim=(0, 1.05 * share.max()), ylabel="share of arrivals")
    histogram.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    histogram.yaxis.set_major_formatter(lambda part, _: f"{100 * part:.3g}%")
    histogram.yaxis.set_major_locator(MaxNLocator(4))
    histogram.set_title(
        f"How stale, over {len(staleness)} arrivals: mean {staleness.mean():.3g} (line), "
        f"Little's law {expected:.3g} (triangle)"
    )
