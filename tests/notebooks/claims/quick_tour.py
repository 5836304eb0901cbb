"""What 00_quick_tour says of its figures."""

from __future__ import annotations

import numpy as np

from claims import Claims
from fedrevive_core.timeline import Timeline


def by_duration(timeline: Timeline, values: np.ndarray) -> float:
    """The correlation of how long a job takes with `values` of its arrival."""
    jobs = timeline.arrivals
    return float(np.corrcoef(timeline.arrival_time[jobs] - timeline.dispatch_time[jobs], values)[0, 1])


CLAIMS: Claims = {
    "The same clients arrive at the same times, whatever the server does with their updates.": lambda n: (
        n.records[0].arrivals["client"].equals(n.records[2].arrivals["client"])
    ),
    "so each update misses half as many versions": lambda n: np.isclose(
        n.records[0].arrivals["staleness"].mean(), n.records[1].arrivals["staleness"].mean() / 2, rtol=0.05
    ),
    "The longer a job takes, the more of it is lost": lambda n: (
        by_duration(n.timelines["afl-dw"], n.records[1].arrivals["beta"]) > 0.8
    ),
    "on average they miss $(K-1)/B$ versions": lambda n: np.isclose(
        n.records[1].arrivals["staleness"].mean(), n.concurrency - 1, rtol=0.15
    ),
}
