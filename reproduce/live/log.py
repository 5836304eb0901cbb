"""What has happened so far: the timeline of a run with real clients while it grows."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedrevive_core.config import FederationConfig
from fedrevive_core.timeline import Timeline
from fedrevive_core.timeline.table import measured_means

COLUMNS = ("client", "dispatched", "ended", "dispatched_after", "fault")


class Log:
    """Jobs in order of dispatch, and those that arrived or were lost. Times are seconds since the first dispatch.

    No two events have the same time, so their order can be read off the times.
    """

    def __init__(self, federation: FederationConfig) -> None:
        self.federation = federation
        self.client: list[int] = []
        self.dispatched: list[float] = []
        self.ended: list[float] = []
        self.dispatched_after: list[int] = []
        self.fault: list[int] = []
        self.arrivals: list[int] = []
        self.lost: list[int] = []
        self.last, self.began = -1.0, 0.0

    def now(self) -> float:
        """Seconds since the first dispatch."""
        return time.monotonic() - self.began if self.client else 0.0

    def tick(self) -> float:
        """The time of an event, later than that of the event before."""
        self.last = max(self.now(), math.nextafter(self.last, math.inf)) if self.client else 0.0
        return self.last

    def dispatch(self, client: int) -> int:
        """Write down that `client` gets a job; returns its number."""
        if not self.client:
            self.began = time.monotonic()
        self.dispatched.append(self.tick())
        self.client.append(client)
        self.ended.append(math.inf)
        self.dispatched_after.append(len(self.arrivals))
        self.fault.append(0)
        return len(self.client) - 1

    def end(self, job: int, fault: int, *, lost: bool) -> None:
        """Write down that `job` arrived, or was lost, with the code of a fault (0: none)."""
        self.ended[job], self.fault[job] = self.tick(), fault
        (self.lost if lost else self.arrivals).append(job)

    def timeline(self) -> Timeline:
        """The timeline as far as it has come."""
        columns = {name: np.array(getattr(self, name)) for name in COLUMNS}
        client, start, end = columns["client"].astype(np.int64), columns["dispatched"], columns["ended"]
        arrivals = np.array(self.arrivals, dtype=np.int64)
        return Timeline(
            federation=self.federation,
            client=client,
            dispatch_time=start.astype(float),
            arrival_time=end.astype(float),
            dispatched_after=columns["dispatched_after"].astype(np.int64),
            fault=columns["fault"].astype(np.int8),
            arrivals=arrivals,
            lost=np.array(self.lost, dtype=np.int64),
            mean_duration=measured_means(client[arrivals], (end - start)[arrivals], self.federation.num_clients),
        )

    def state_dict(self) -> dict[str, Any]:
        """All of it; jobs still at work have no end."""
        columns = {name: list(getattr(self, name)) for name in COLUMNS}
        columns["ended"] = [None if math.isinf(time) else time for time in self.ended]
        return {**columns, "arrivals": list(self.arrivals), "lost": list(self.lost), "last": self.last}

    def load_state_dict(self, state: Mapping[str, Any]) -> list[int]:
        """Restore what `state_dict` gave, and let the clock run on from there; returns the jobs that were at work."""
        for name in (*COLUMNS, "arrivals", "lost"):
            setattr(self, name, list(state[name]))
        self.ended = [math.inf if time is None else float(time) for time in state["ended"]]
        self.last = float(state["last"])
        self.began = time.monotonic() - self.last
        return [job for job, ended in enumerate(self.ended) if math.isinf(ended)]
