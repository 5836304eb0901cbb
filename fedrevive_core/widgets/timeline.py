"""The timeline explorer: who works when, and how stale updates arrive, played out anew as a slider moves."""

from __future__ import annotations

import math
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.ticker import MaxNLocator

from fedrevive_core.config import FederationConfig, RunConfig
from fedrevive_core.plots_timeline import choose_lanes, draw_lanes, staleness_bins
from fedrevive_core.presets import build
from fedrevive_core.schedules import SCHEDULES, Schedule
from fedrevive_core.style import STYLE, Plot
from fedrevive_core.timeline import Timeline, expected_staleness, simulate_timeline
from fedrevive_core.widgets.panel import Panel, choice, slider

ALL_ALIKE: dict[str, Any] = {
    part: {"kind": "constant", "means": [mean], "odds": [1.0]}
    for part, mean in (("training", 1.3), ("download", 0.1), ("upload", 0.2))
}
STRAGGLERS = 0.1  # share of clients, on average


def explore_timeline(
    start: str | RunConfig | FederationConfig = "lab-digits", *, seed: int = 0, num_arrivals: int = 5000
) -> Panel:
    """Sliders over a federation, its swim lanes and its staleness against Little's law.

    Args:
        start: where the sliders stand at first: a preset's name, a run's configuration or its federation.
        seed: of selection and delays, at first. num_arrivals: length of the run in uploads, >= 1.

    Raises ConfigError for an unknown preset; what sliders ask for and cannot be played out is said in the panel.
    """
    if isinstance(start, str):
        start = build(start, "fedrevive")
    federation = start.federation if isinstance(start, RunConfig) else start
    schedules = {**SCHEDULES, "constant, all alike": ALL_ALIKE}
    known = [name for name, schedule in schedules.items() if Schedule.from_dict(schedule) == federation.schedule]
    if not known:
        schedules["as given"] = federation.schedule.model_dump()
    figure = empty_figure()

    def draw(schedule: str, slowdown: int, seed: int, buffer_size: int, **sizes: int) -> Plot:
        chosen = FederationConfig.from_dict(
            {
                **sizes,
                "buffer_size": buffer_size,
                "schedule": with_stragglers(schedules[schedule], slowdown),
                "max_versions": max(1, num_arrivals // buffer_size),
            }
        )
        draw_timeline(figure, simulate_timeline(chosen, seed))
        return figure

    sizes = range(1, max(200, 2 * federation.num_clients) + 1)
    controls = {
        "num_clients": slider("clients N", sizes, federation.num_clients),
        "concurrency": slider("jobs in flight K", sizes, federation.concurrency),
        "buffer_size": slider("updates per version B", sizes, federation.buffer_size),
        "refill_size": slider("open slots to refill O", sizes, federation.refill_size),
        "schedule": choice("delays of a job", list(schedules), [*known, "as given"][0]),
        "slowdown": slider("1 client in 10 slower (x)", range(1, 51), 1),
        "seed": slider("seed", range(max(100, seed + 1)), seed),
    }
    return Panel(draw, controls, title="Timeline explorer: who works when, and how stale are the updates?")


def with_stragglers(schedule: dict[str, Any], slowdown: float) -> dict[str, Any]:
    """`schedule` where one client in ten, on average, trains `slowdown` times as long."""
    training = schedule["training"]
    means = [*training["means"], *(slowdown * mean for mean in training["means"])]
    odds = [share * odd for share in (1 - STRAGGLERS, STRAGGLERS) for odd in training["odds"]]
    return schedule if slowdown == 1 else {**schedule, "training": {**training, "means": means, "odds": odds}}


# Everything below is placed by hand and used again: layout engines, new axes and titles that move out of the way take
# longer than all the rest of a drawing.
PLACED_BY_HAND = {**STYLE, "axes.titley": 1.0}


def still_timeline(timeline: Timeline) -> Plot:
    """What the explorer shows of `timeline`, for pages in which nothing moves."""
    figure = empty_figure()
    draw_timeline(figure, timeline)
    return figure


@mpl.rc_context(PLACED_BY_HAND)
def empty_figure() -> Plot:
    """Room for swim lanes above and a histogram below."""
    figure = Plot(figsize=(10, 6))
    for bottom, height in ((0.47, 0.47), (0.09, 0.24)):
        axes = figure.add_axes((0.08, bottom, 0.9, height))
        axes.xaxis.set_label_coords(0.5, -0.25 * 0.24 / height)
        axes.yaxis.set_label_coords(-0.055, 0.5)
    return figure


@mpl.rc_context(PLACED_BY_HAND)
def draw_timeline(figure: Plot, timeline: Timeline) -> None:
    """Replace what `figure`, made by `empty_figure`, shows: the histogram's bars are the key to the lanes' colours."""
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
