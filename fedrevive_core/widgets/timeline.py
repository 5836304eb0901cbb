"""The timeline explorer: who works when, and how stale updates arrive, simulated again when a slider moves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fedrevive_core.config import SCHEDULES, FederationConfig, RunConfig, Schedule, build
from fedrevive_core.errors import ConfigError
from fedrevive_core.plots import Plot, draw_timeline, empty_figure
from fedrevive_core.timeline import Timeline, simulate_timeline
from fedrevive_core.widgets.panel import Panel, choice, slider

ALL_ALIKE: dict[str, Any] = {
    part: {"kind": "constant", "means": [mean], "odds": [1.0]}
    for part, mean in (("training", 1.3), ("download", 0.1), ("upload", 0.2))
}
DEVICES_LOST = "devices, jobs lost"  # what is not finished in an interval; with "devices", it is paused
STRAGGLERS = 0.1  # share of clients, on average


def explore_timeline(
    start: str | RunConfig | FederationConfig | Timeline = "lab-digits", *, seed: int = 0, num_arrivals: int = 5000
) -> Panel:
    """Sliders for a federation, above its swim lanes and its staleness against Little's law.

    Args:
        start: first values of the sliders: a preset's name, a run's configuration or its federation. A timeline (see
            `Timeline.load`) is shown as it is, with a slider for the buffer size alone.
        seed: first seed of selection and delays. num_arrivals: length of the run in uploads, >= 1.

    Raises ConfigError for an unknown preset; the panel says why values of sliders cannot be simulated.
    """
    if isinstance(start, Timeline):
        return _explore_recorded(start)
    if isinstance(start, str):
        start = build(start, "fedrevive")
    federation = start.federation if isinstance(start, RunConfig) else start
    schedules = {**SCHEDULES, DEVICES_LOST: SCHEDULES["devices"], "constant, all alike": ALL_ALIKE}
    known = [name for name, schedule in schedules.items() if Schedule.from_dict(schedule) == federation.schedule]
    if not known:
        schedules["as given"] = federation.schedule.model_dump()
    devices = federation.devices
    if devices.trace is None:  # those of a job on lab-digits
        devices = build("lab-digits", "fedrevive", schedule="devices").federation.devices
    else:
        known = [DEVICES_LOST if devices.unfinished == "lost" else "devices"]
    unfinished = {"devices": "paused", DEVICES_LOST: "lost"}
    figure = empty_figure()

    def draw(schedule: str, slowdown: int, seed: int, buffer_size: int, **sizes: int) -> Plot:
        if schedule in unfinished:
            if slowdown > 1:
                raise ConfigError(f"1 client in 10 slower = {slowdown}: devices have their own speeds, choose 1")
            delays: dict[str, Any] = {
                "schedule": "devices",
                "devices": {**devices.model_dump(), "unfinished": unfinished[schedule]},
                "time_unit": federation.time_unit,
            }
        else:
            delays = {"schedule": with_stragglers(schedules[schedule], slowdown)}
        budget = max(1, num_arrivals // buffer_size)
        chosen = FederationConfig.from_dict({**sizes, **delays, "buffer_size": buffer_size, "max_versions": budget})
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


def _explore_recorded(timeline: Timeline) -> Panel:
    figure = empty_figure()

    def draw(buffer_size: int) -> Plot:
        federation = timeline.federation.model_copy(update={"buffer_size": buffer_size})
        draw_timeline(figure, replace(timeline, federation=federation))
        return figure

    sizes = range(1, min(len(timeline.arrivals), max(200, timeline.federation.buffer_size)) + 1)
    controls = {"buffer_size": slider("updates per version B", sizes, timeline.federation.buffer_size)}
    return Panel(draw, controls, title="A recorded timeline: who worked when, and how stale were the updates?")


def with_stragglers(schedule: dict[str, Any], slowdown: float) -> dict[str, Any]:
    """`schedule` where one client in ten, on average, trains `slowdown` times as long."""
    training = schedule["training"]
    means = [*training["means"], *(slowdown * mean for mean in training["means"])]
    odds = [share * odd for share in (1 - STRAGGLERS, STRAGGLERS) for odd in training["odds"]]
    return schedule if slowdown == 1 else {**schedule, "training": {**training, "means": means, "odds": odds}}
