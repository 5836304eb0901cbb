"""What 01_staleness says of its figures."""

from __future__ import annotations

import numpy as np

from claims import Claims
from fedrevive_core.timeline import Timeline, expected_staleness, speed_groups


def durations(timeline: Timeline) -> np.ndarray:
    """The time from dispatch to arrival of every job that arrives."""
    return timeline.arrival_time[timeline.arrivals] - timeline.dispatch_time[timeline.arrivals]


def staleness(timeline: Timeline) -> np.ndarray:
    return timeline.staleness[timeline.arrivals]


def clients(timeline: Timeline) -> np.ndarray:
    return timeline.client[timeline.arrivals]


def from_fast_clients(timeline: Timeline) -> float:
    """The share of the longest tenth of all jobs that clients of the fast third work on."""
    longest = durations(timeline) > np.quantile(durations(timeline), 0.9)
    return float(np.isin(clients(timeline)[longest], speed_groups(timeline.mean_duration)["fast"]).mean())


def means_of_clients(timeline: Timeline) -> np.ndarray:
    """The mean staleness of each client's updates; NaN without any."""
    every = range(timeline.federation.num_clients)
    return np.array([staleness(timeline)[clients(timeline) == client].mean() for client in every])


def early_means(timeline: Timeline) -> np.ndarray:
    """The mean staleness of the first 1 to 5 K arrivals."""
    count = 5 * timeline.federation.concurrency
    return np.cumsum(staleness(timeline)[:count]) / np.arange(1, count + 1)


def measured(sweep) -> np.ndarray:
    """The mean over seeds of the measured staleness, for each value of the setting."""
    return sweep.groupby(sweep.columns[0])["measured"].mean().to_numpy()


CLAIMS: Claims = {
    "Long jobs miss many versions;": lambda n: np.corrcoef(durations(n.timeline), staleness(n.timeline))[0, 1] > 0.9,
    "the first bar that ends has missed none": lambda n: staleness(n.timeline)[0] == 0,
    "Long jobs do not all come from slow clients": lambda n: from_fast_clients(n.timeline) > 0.1,
    "So the mean approaches the law from below.": lambda n: (
        max(early_means(n.timeline)) < expected_staleness(n.federation)
    ),
    "Single updates differ widely": lambda n: np.std(staleness(n.timeline)) > staleness(n.timeline).mean() / 2,
    "Little's law predicts the mean staleness": lambda n: all(
        np.allclose(table["measured"], table["predicted"], rtol=0.05) for table in n.sweeps
    ),
    "Double the jobs in flight, and updates are about twice as stale": lambda n: np.allclose(
        np.diff(measured(n.sweeps[0])), np.diff(measured(n.sweeps[0])).mean(), rtol=0.2
    ),
    "A larger refill size lowers it, but even $O = K$ alone does not bring it to zero.": lambda n: (
        (np.diff(measured(n.sweeps[2])) < 0).all() and measured(n.sweeps[2])[-1] > 1
    ),
    "everybody waits for the slowest": lambda n: n.synchronous.sim_time > 2 * n.timeline.sim_time,
    "A finite run measures a little less": lambda n: (
        0.95 < staleness(n.slowed).mean() / expected_staleness(n.federation) < 1
    ),
    "The *spread* grows a lot.": lambda n: (
        np.std(staleness(n.slowed)) > 2 * np.std(staleness(n.timeline))
        and max(staleness(n.slowed)) > 3 * max(staleness(n.timeline))
    ),
    "A few updates of stragglers miss hundreds.": lambda n: np.count_nonzero(staleness(n.slowed) > 200) >= 3,
    "the stragglers stand far to the right": lambda n: (
        n.slowed.mean_duration.max() > 5 * n.timeline.mean_duration.max()
    ),
    "nearly everyone else has moved below the line": lambda n: (
        np.nanquantile(means_of_clients(n.slowed)[n.slowed.mean_duration < 10], 0.9) < expected_staleness(n.federation)
    ),
}
