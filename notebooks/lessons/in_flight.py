"""For 06_ablations: how many jobs in flight. Closed forms beside the simulator, and learning in time and in work."""

from __future__ import annotations

import functools

import matplotlib as mpl
import numpy as np
import pandas as pd
from IPython.display import Markdown

from fedrevive_core.config import SCHEDULES, build
from fedrevive_core.plots import STYLE, TITLE_COLOURS, Plot
from fedrevive_core.timeline import expected_staleness, expected_throughput, simulate_timeline
from fedrevive_core.widgets.panel import Panel, choice, slider
from fedrevive_core.widgets.timeline import ALL_ALIKE, with_stragglers
from fedrevive_notebooks.lessons.exercise import Verdict, a_number, check, diagnose
from fedrevive_notebooks.lessons.reproduction import table
from reproduce.evidence.inflight import K, draw_curves, inflight_runs

BLUE, ORANGE = TITLE_COLOURS[:2]
DELAYS = {name: SCHEDULES[name] for name in ("default", "stragglers", "shifted")}
DELAYS |= {"1 client in 10 slower": with_stragglers(SCHEDULES["default"], 20), "constant, all alike": ALL_ALIKE}
FEW, MANY, GOAL = 20, 80, 0.6  # of the exercise
ARRIVALS = 5000  # of a simulated run


def uploads_to_goal(evaluations: pd.DataFrame, arm: str = "fedrevive") -> pd.Series:
    """Return the uploads after which `arm` is first at 60%, mean over seeds, by K."""
    return _mean(evaluations, arm, "num_arrivals")


def _mean(evaluations: pd.DataFrame, arm: str, x: str) -> pd.Series:
    runs = inflight_runs(evaluations)
    return runs[runs["arm"] == arm].groupby(K)[f"{x} {GOAL}"].mean()


def goal_table(uploads: pd.Series) -> Markdown:
    """Show `uploads` by K."""
    return table([{"jobs in flight K": str(k), f"uploads to {GOAL:.0%}": f"{n:.0f}"} for k, n in uploads.items()])


@mpl.rc_context(STYLE)
def _laws(figure: Plot, schedule: str, concurrency: int, buffer_size: int) -> None:
    """Draw the closed forms over K, and a simulated run with `concurrency`, in the upper panels of `figure`."""
    sizes = {K: concurrency, "federation.buffer_size": buffer_size, "federation.schedule": DELAYS[schedule]}
    budget = {"federation.max_sim_time": None, "federation.max_versions": max(1, ARRIVALS // buffer_size)}
    federation = build("lab-digits", "fedrevive", overrides=sizes | budget).federation
    timeline = simulate_timeline(federation, 0)
    mean_duration, every = timeline.mean_duration, range(1, federation.num_clients + 1)
    measured = len(timeline.arrivals) / timeline.sim_time, float(timeline.arrival_staleness.mean())
    law = expected_throughput(mean_duration, concurrency), expected_staleness(federation)
    some = [k for k in every if k in (1, concurrency) or k % 15 == 0]
    lines = (
        (some, [expected_throughput(mean_duration, k) for k in some], "Uploads per unit of time"),
        (every, [(k - 1) / buffer_size for k in every], "Mean staleness (versions)"),
    )
    for axes, (ks, values, name), found, said in zip(figure.axes, lines, measured, law, strict=False):
        axes.plot(ks, values, color=ORANGE)
        axes.plot(concurrency, found, "o", color=BLUE, ms=8)
        axes.set(xlabel="jobs in flight K", ylim=(0, None), xlim=(0, None))
        axes.set_title(f"{name}: simulated {found:.3g} (dot),\nclosed form {said:.3g} (line)", fontsize=10)


@mpl.rc_context(STYLE)
def plot_choice(
    evaluations: pd.DataFrame,
    concurrency: int = 40,
    buffer_size: int = 1,
    schedule: str = "default",
    arm: str = "fedrevive",
) -> Plot:
    """Plot how fast and how stale uploads are with `concurrency`, above what `arm` learned with the nearest measured K.

    evaluations: see `inflight_evaluations`; they were measured with B = 1 and the default delays.
    """
    figure = Plot(figsize=(10, 5.6))
    for left, bottom in ((0.07, 0.6), (0.57, 0.6), (0.07, 0.09), (0.57, 0.09)):
        figure.add_axes((left, bottom, 0.4, 0.3))
    _laws(figure, schedule, concurrency, buffer_size)
    own = evaluations[evaluations["arm"] == arm]
    nearest = min(own[K].unique(), key=lambda k: abs(np.log(k / concurrency)))
    draw_curves(figure.axes[2:], own, marked=nearest)
    for axes, x in zip(figure.axes[2:], ("time", "work"), strict=True):
        axes.set_title(f"Learned with K = {nearest} (thick), B = 1, default delays: in {x}", fontsize=10)
    figure.axes[3].legend(title="K", loc="lower right", fontsize=9)
    return figure


def explore_jobs_in_flight(evaluations: pd.DataFrame) -> Panel:
    """Show sliders for K, B, delays and method above `plot_choice`."""
    controls = {
        "concurrency": slider("jobs in flight K", range(1, 151), 40),
        "buffer_size": slider("updates per version B", range(1, 41), 1),
        "schedule": choice("delays of a job", list(DELAYS), "default"),
        "arm": choice("learning of", [("FedRevive", "fedrevive"), ("whole updates", "whole-updates")], "fedrevive"),
    }
    draw = functools.partial(plot_choice, evaluations)
    return Panel(draw, controls, title="How many jobs in flight? Fast and stale, or slow and fresh")


@check(a_number)
def check_times_sooner(answer: float, evaluations: pd.DataFrame) -> Verdict:
    """Judge how many times sooner FedRevive is at 60% with 80 jobs in flight than with 20, to within 3%."""
    uploads, time = (_mean(evaluations, "fedrevive", x) for x in ("num_arrivals", "sim_time"))
    jobs, work = MANY / FEW, uploads[MANY] / uploads[FEW]
    expected = jobs / work
    mistakes = {
        f"{MANY} jobs bring {jobs:g} times as many uploads per unit of time. But how many uploads are needed?": jobs,
        "This compares the uploads alone. How long does each run take to get them?": [work, 1 / work],
        f"This is the other way round: how many times as long does K = {MANY} take?": 1 / expected,
        "More uploads to come take longer: divide by their ratio.": jobs * work,
        "This is the time saved, in percent. Give the ratio of the two times.": 100 - 100 / expected,
    }
    praise = (
        f"Measured: {time[FEW]:.1f} and {time[MANY]:.1f} units of time, {time[FEW] / time[MANY]:.2f} times. With K = "
        f"{MANY} the uploads come {jobs:g} times as fast, but {work:.2f} times as many are needed, as each is staler."
    )
    otherwise = "Time is uploads needed, over uploads per unit of time. Write this for both K, and divide."
    return diagnose(answer, expected, mistakes, praise, tolerance=0.03, otherwise=otherwise)
