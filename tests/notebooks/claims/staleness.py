"""What 01_staleness says of its figures."""

from __future__ import annotations

import numpy as np

from claims import Claims
from fedrevive_core.timeline import Timeline


def by_duration(timeline: Timeline) -> float:
    """The correlation of how long a job takes with how stale its update is."""
    jobs = timeline.arrivals
    duration = timeline.arrival_time[jobs] - timeline.dispatch_time[jobs]
    return float(np.corrcoef(duration, timeline.staleness[jobs])[0, 1])


CLAIMS: Claims = {
    "Long jobs miss many versions.": lambda n: by_duration(n.timeline) > 0.9,
}
