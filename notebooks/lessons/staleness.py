"""Checks, tables and figures of 01_staleness: who works on what, and how stale it arrives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from fedrevive_core.config import FederationConfig
from fedrevive_core.errors import ConfigError
from fedrevive_core.plots import STYLE, TITLE_COLOURS, Plot, times_of_versions
from fedrevive_core.timeline import Timeline, expected_staleness, simulate_timeline
from fedrevive_notebooks.lessons.exercise import (
    Verdict,
    a_function,
    a_number,
    a_whole_number,
    a_word,
    check,
    diagnose,
    one_number,
    right,
    wrong,
)

BLUE, ORANGE = TITLE_COLOURS[:2]
LABELS = {
    "concurrency": "jobs in flight K",
    "buffer_size": "updates per version B",
    "refill_size": "open slots to refill O",
}


def changed(federation: FederationConfig, num_arrivals: int, **values: Any) -> FederationConfig:
    """Return `federation` with other `values`, long enough to process about `num_arrivals` uploads."""
    chosen = {**federation.model_dump(), **values, "max_sim_time": None}
    return FederationConfig.from_dict({**chosen, "max_versions": max(1, num_arrivals // chosen["buffer_size"])})


def mean_staleness(federation: FederationConfig, seed: int) -> float:
    """Return the measured mean staleness (versions) of one simulated run."""
    return simulate_timeline(federation, seed).summary()["mean_staleness"]


def sweep(
    federation: FederationConfig, field: str, values: Iterable[int], seeds: Sequence[int], num_arrivals: int
) -> pd.DataFrame:
    """Tabulate measured and predicted mean staleness (versions) for each value of one setting and each seed."""
    rows = []
    for value in values:
        chosen = changed(federation, num_arrivals, **{field: value})
        rows += [(value, seed, mean_staleness(chosen, seed), expected_staleness(chosen)) for seed in seeds]
    return pd.DataFrame(rows, columns=[field, "seed", "measured", "predicted"])


@mpl.rc_context(STYLE)
def plot_sweeps(sweeps: Sequence[pd.DataFrame]) -> Plot:
    """Plot Little's law as a line and the measurement of every seed as a dot; one panel per sweep."""
    figure = Plot(figsize=(10, 3.6), layout="constrained")
    for axes, table in zip(figure.subplots(1, len(sweeps), squeeze=False)[0], sweeps, strict=True):
        field = table.columns[0]
        axes.plot(table[field], table["predicted"], color=ORANGE, label="Little's law")
        axes.plot(table[field], table["measured"], "o", color=BLUE, ms=4, alpha=0.7, label="measured, one dot per seed")
        axes.set(xlabel=LABELS[field], ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    figure.axes[0].set_ylabel("mean staleness (versions)")
    figure.axes[0].legend(loc="upper left", fontsize=9)
    figure.suptitle("Little's law predicts the mean staleness", x=0.01, ha="left", fontsize=13)
    return figure


@mpl.rc_context(STYLE)
def plot_running_mean(timelines: Sequence[Timeline]) -> Plot:
    """Plot the mean staleness of the arrivals so far: it starts at 0 and approaches the law."""
    figure = Plot(figsize=(10, 3.2), layout="constrained")
    axes = figure.subplots()
    expected, settled, shortest = expected_staleness(timelines[0].federation), 1, math.inf
    for number, timeline in enumerate(timelines):
        staleness = timeline.staleness[timeline.arrivals]
        so_far = np.cumsum(staleness) / np.arange(1, len(staleness) + 1)
        axes.plot(so_far, color=BLUE, lw=1.2, alpha=0.8, label="measured, one line per seed" if number == 0 else None)
        settled = max(settled, 2 + max(np.flatnonzero(np.abs(so_far - expected) > 0.05 * expected), default=-1))
        shortest = min(shortest, len(staleness))
    axes.axhline(expected, color=ORANGE, ls="--", label=f"Little's law: {expected:.3g}")
    axes.set(xlabel="uploads processed (count)", ylabel="mean staleness so far", xscale="log", xlim=(1, None))
    times = f"{settled / timelines[0].federation.concurrency:.0f} times K"
    axes.set_title(
        f"From {settled:,} uploads on, {times}, the mean stays within 5% of the law"
        if settled <= shortest
        else f"After {shortest:,} uploads the mean is still more than 5% off the law"
    )
    axes.legend(loc="lower right")
    return figure


@mpl.rc_context(STYLE)
def plot_clients(timelines: dict[str, Timeline]) -> Plot:
    """Plot one dot per client: mean duration of its jobs against mean staleness; the area counts its uploads."""
    figure = Plot(figsize=(10, 3.9), layout="constrained")
    row = figure.subplots(1, len(timelines), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (title, timeline) in zip(row, timelines.items(), strict=True):
        jobs = timeline.arrivals
        count = np.bincount(timeline.client[jobs], minlength=timeline.federation.num_clients)
        total = np.bincount(timeline.client[jobs], timeline.staleness[jobs], timeline.federation.num_clients)
        seen = count > 0
        mean = total[seen] / count[seen]
        area = 6000 * count[seen] / count.sum()
        axes.scatter(timeline.mean_duration[seen], mean, area, color=BLUE, alpha=0.45, lw=0)
        overall = timeline.summary()["mean_staleness"]
        axes.axhline(overall, color="black", lw=1.2, label=f"mean over arrivals {overall:.3g}")
        expected = expected_staleness(timeline.federation)
        axes.axhline(expected, color=ORANGE, ls="--", label=f"Little's law {expected:.3g}")
        axes.set(xscale="log", yscale="log", xlabel="expected duration of a client's job (simulated time)")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        axes.set_title(title, fontsize=11)
        axes.legend(loc="upper left", fontsize=9)
    row[0].set_ylabel("mean staleness of a client's updates")
    figure.suptitle("Who is stale: a dot per client, its area counts uploads", x=0.01, ha="left", fontsize=13)
    return figure


# -- exercises ---------------------------------------------------------------------------------------------------------

Counting = Callable[[float, float, np.ndarray], float]


def _of_job(timeline: Timeline, counting: Counting) -> np.ndarray:
    """Return the count of `counting` for each arrival."""
    made = times_of_versions(timeline)
    times = zip(timeline.dispatch_time[timeline.arrivals], timeline.arrival_time[timeline.arrivals], strict=True)
    return np.array([one_number(counting(dispatch, arrival, made)) for dispatch, arrival in times])


MISTAKES: dict[str, Counting] = {
    "You count the version that the update itself completes. A version that is made exactly at the arrival does not "
    "count: staleness looks at the version just before.": lambda d, a, v: np.sum((v > d) & (v <= a)),
    "You count the version that the job starts from. It is made exactly at the dispatch, and the job has it, so it is "
    "not missed.": lambda d, a, v: np.sum((v >= d) & (v < a)),
    "You count both ends: neither the version that the job starts from nor the one that it completes makes it "
    "stale.": lambda d, a, v: np.sum((v >= d) & (v <= a)),
    "This counts from the arrival on: the versions that are made after the update was used. Staleness looks back, "
    "to what was made while the client worked.": lambda d, a, v: np.sum(v > a),
    "This counts from the arrival on, to the end of the run. Staleness looks back, to what was made while the client "
    "worked.": lambda d, a, v: np.sum(v >= a),
    "This is the version at arrival, counted from the start of the run. The versions that were made before the job "
    "started are not missed.": lambda d, a, v: np.sum(v < a),
    "This is the version that the job starts from. How many more were made before it arrived?": lambda d, a, v: np.sum(
        v <= d
    ),
    "This counts all versions of the run, for every job. Count those that were made while the job ran.": (
        lambda d, a, v: len(v)
    ),
    "This is how long the job took in simulated time. Staleness counts versions.": lambda d, a, v: a - d,
    "The sign is wrong: take versions at arrival minus versions at dispatch.": lambda d, a, v: (
        -np.sum((v > d) & (v < a))
    ),
}


@check(a_function)
def check_counting(answer: Counting, timeline: Timeline) -> Verdict:
    """Judge exercise 1: a function (dispatch_time, arrival_time, version_times) that counts what the package counts."""
    given, truth = _of_job(timeline, answer), timeline.staleness[timeline.arrivals]
    first = int(np.argmax(given != truth))
    return diagnose(
        given,
        truth,
        {message: _of_job(timeline, mistake) for message, mistake in MISTAKES.items()},
        f"It agrees with the package on all {len(truth)} arrivals.",
        otherwise=f"{np.mean(given == truth):.0%} of the arrivals agree. Look at job {timeline.arrivals[first]}: you "
        f"say {given[first]:g}, but {truth[first]} versions were made while it ran.",
    )


@check(a_number)
def check_prediction(answer: float, federation: FederationConfig, seed: int) -> Verdict:
    """Judge exercise 2: the mean staleness of `federation`, to within 3% of the law."""
    expected = expected_staleness(federation)
    num_clients, k, b = federation.num_clients, federation.concurrency, federation.buffer_size
    waiting = "Clients that wait for work delay nobody: count the jobs in flight, not the clients."
    buffered = "A larger buffer makes fewer versions, so fewer are missed: divide by B."
    mistakes = {
        "Nearly. While a job runs, the other jobs arrive. How many others are there?": k / b,
        "This is the number of uploads that arrive while a job runs. But how many of them make one version?": k - 1,
        "Two things are missing: the job itself does not count, and the server needs B uploads for one version.": k,
        buffered: [(k - 1) * b, k * b],
        waiting: [(num_clients - 1) / b, num_clients / b, num_clients - 1, num_clients],
        "This is the other way round: more jobs in flight make updates staler, a larger buffer less so.": b / (k - 1),
    }
    measured = f"{mean_staleness(federation, seed):.3g}"
    praise = f"A run of {federation.max_versions} versions has {measured}; Little's law, below, says {expected:.3g}."
    otherwise = (
        f"Your answer is too {'large' if answer > expected else 'small'}. How many other jobs arrive while one job "
        "runs, and how many versions do they make?"
    )
    return diagnose(answer, expected, mistakes, praise, tolerance=0.03, otherwise=otherwise)


VERSIONS = 10  # that a run must make at least before it shows that no update is stale


def pair(answer: Any) -> tuple[int, int]:
    """Read (B, O)."""
    try:
        buffer_size, refill_size = answer
    except TypeError:
        raise ConfigError("Give two whole numbers in parentheses, (B, O)") from None
    except ValueError:
        raise ConfigError(f"Give two whole numbers in parentheses, (B, O); these are {len(answer)}") from None
    sizes = a_whole_number(buffer_size), a_whole_number(refill_size)
    if min(sizes) < 1:
        raise ConfigError(f"B = {sizes[0]} and O = {sizes[1]} must be at least 1")
    return sizes


@check(pair)
def check_zero(answer: tuple[int, int], federation: FederationConfig, num_arrivals: int, seed: int) -> Verdict:
    """Judge exercise 3: values of B and O with which no update is ever stale."""
    buffer_size, refill_size = answer
    if buffer_size > num_arrivals:
        return wrong(
            f"With B = {buffer_size} the {num_arrivals} uploads of a run make no version at all, so nothing is "
            "learned. Choose a B with which a run makes versions."
        )
    enough = max(num_arrivals, VERSIONS * buffer_size)
    chosen = changed(federation, enough, buffer_size=buffer_size, refill_size=refill_size)
    staleness = simulate_timeline(chosen, seed).summary()
    k = chosen.concurrency
    if staleness["max_staleness"] == 0:
        rounds = f", {buffer_size // k} of them for a version" if buffer_size > k else ": this is FedAvg"
        return right(
            f"All {k} jobs start together, and the server waits for all of them. These are synchronous rounds{rounds}. "
            f"In {chosen.max_versions} versions no update was stale."
        )
    measured = f"The mean is {staleness['mean_staleness']:.3g} with B = {buffer_size} and O = {refill_size}."
    if refill_size == k and buffer_size < k:
        return wrong(f"{measured} All jobs start together, but the server makes versions before the last has arrived.")
    if refill_size == k:
        return wrong(f"{measured} All jobs start together, but {buffer_size} uploads are not whole rounds of {k}.")
    if buffer_size >= k:
        return wrong(f"{measured} A version takes {buffer_size} uploads, but jobs start at any time in between.")
    return wrong(f"{measured} Nobody may start before everybody has arrived, and only then may a version be made.")


@check(a_word("rises", "stays", "falls"))
def check_stragglers(answer: str, calm: Timeline, slowed: Timeline) -> Verdict:
    """Judge exercise 4: the mean staleness 'rises', 'stays' or 'falls' when some clients are far slower."""
    before, after = calm.summary()["mean_staleness"], slowed.summary()["mean_staleness"]
    measured = f"The mean goes from {before:.3g} to {after:.3g}"
    worst = f"the stalest update from {calm.summary()['max_staleness']} to {slowed.summary()['max_staleness']}"
    if answer == "stays":
        return right(f"{measured}, {worst}. The law depends on how many jobs are in flight, not on how long they take.")
    if answer == "rises":
        return wrong(f"{measured}, {worst}. The stragglers' updates are staler, but rare. What happens to the others?")
    return wrong(f"{measured}. Most updates become fresher, but the few updates of the stragglers make up for it.")
