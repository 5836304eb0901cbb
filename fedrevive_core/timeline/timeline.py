"""The timeline: who trains what, from which version, when it arrives and how stale it is.

Durations never depend on what a model has learned, so the whole arrival sequence is computed before any training, with
NumPy only. The cost of an arrival does not depend on the number of clients: a heap holds the K jobs in flight, and the
free clients are in a list from which one is taken by swapping it with the last.

Order of events at the same simulated time: jobs arrive in the order of their dispatch, and each arrival refills the
open slots before the next is processed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from fedrevive_core.config import DROP_OUT, DUPLICATE, FAULTS, FederationConfig

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Timeline:
    """Every job of a run, in order of dispatch (arrays of length J), and the order in which they arrive.

    client: who trains the job. dispatch_time, arrival_time: simulated time (unitless); the slot of a lost job reopens
    at its arrival_time. dispatched_after: number of arrivals processed before the dispatch. fault: code of the job's
    fault, an index into FAULTS. arrivals: job numbers in order of arrival, length A. A job that is still in flight when
    the budget ends is in the table but not among the arrivals; a job whose upload is duplicated arrives twice in a row.
    lost: numbers of the lost jobs, in order of arrival_time. mean_duration (N,): expected duration of a job of each
    client.
    """

    federation: FederationConfig
    client: np.ndarray
    dispatch_time: np.ndarray
    arrival_time: np.ndarray
    dispatched_after: np.ndarray
    fault: np.ndarray
    arrivals: np.ndarray
    lost: np.ndarray
    mean_duration: np.ndarray

    @cached_property
    def base_version(self) -> np.ndarray:
        """(J,) version of the global model that the job starts from."""
        return self.dispatched_after // self.federation.buffer_size

    @cached_property
    def arrival_version(self) -> np.ndarray:
        """(J,) current version just before the job (its first copy) is processed; -1 for jobs that do not arrive."""
        version = np.full(len(self.client), -1, dtype=np.int64)
        first = ~self.is_copy
        version[self.arrivals[first]] = (np.arange(len(self.arrivals)) // self.federation.buffer_size)[first]
        return version

    @cached_property
    def staleness(self) -> np.ndarray:
        """(J,) number of versions made between dispatch and arrival, >= 0; -1 for jobs that do not arrive."""
        return np.where(self.arrival_version >= 0, self.arrival_version - self.base_version, -1)

    @cached_property
    def is_copy(self) -> np.ndarray:
        """(A,) whether the arrival is the second copy of a duplicated upload."""
        return np.append(False, self.arrivals[1:] == self.arrivals[:-1])

    @cached_property
    def arrival_staleness(self) -> np.ndarray:
        """(A,) staleness of each arrival; the second copy of an upload may be one version staler."""
        return np.arange(len(self.arrivals)) // self.federation.buffer_size - self.base_version[self.arrivals]

    @cached_property
    def arrival_fault(self) -> np.ndarray:
        """(A,) code of the fault that each arrival shows; for a duplicated upload only the second copy does."""
        codes = self.fault[self.arrivals]
        return np.where((codes == DUPLICATE) & ~self.is_copy, 0, codes)

    def fault_counts(self, num_arrivals: int | None = None) -> dict[str, int]:
        """How often each fault took effect, in total or up to arrival `num_arrivals`; without those that never did."""
        lost = self.lost
        if num_arrivals is not None and num_arrivals < len(self.arrivals):
            lost = lost[self.arrival_time[lost] <= self.arrival_time[self.arrivals[num_arrivals - 1]]]
        codes = np.concatenate([self.fault[lost], self.arrival_fault[:num_arrivals]])
        counts = np.bincount(codes, minlength=len(FAULTS)).tolist()
        return {name: count for name, count in zip(FAULTS[1:], counts[1:], strict=True) if count}

    @property
    def ran_dry(self) -> bool:
        """Whether the run ended because every client had left."""
        return int((self.arrival_fault == DROP_OUT).sum()) == self.federation.num_clients

    @property
    def num_versions(self) -> int:
        """Number of versions made after version 0."""
        return len(self.arrivals) // self.federation.buffer_size

    @property
    def sim_time(self) -> float:
        """Simulated time of the last arrival."""
        return float(self.arrival_time[self.arrivals[-1]])

    @cached_property
    def training_groups(self) -> dict[int, np.ndarray]:
        """Jobs that are trained together, by the arrival (from 0) before which they are trained: look-ahead batching.

        When an arrival needs a job that is not trained yet, every job dispatched so far is trained with it, because the
        version that it starts from exists. Jobs that never arrive are not trained.
        """
        arrives = self.arrival_version >= 0
        # Number of jobs dispatched by the time that arrival i is processed.
        dispatched = np.searchsorted(self.dispatched_after, np.arange(len(self.arrivals)), side="right")
        groups, trained = {}, 0
        for number, job in enumerate(self.arrivals.tolist()):
            if job >= trained:
                jobs = np.arange(trained, dispatched[number])
                groups[number], trained = jobs[arrives[jobs]], int(dispatched[number])
        return groups

    def in_flight(self, sim_time: float) -> np.ndarray:
        """Numbers of the jobs in flight at `sim_time`: dispatched at or before it and not yet arrived."""
        return np.flatnonzero((self.dispatch_time <= sim_time) & (sim_time < self.arrival_time))

    def jobs(self) -> pd.DataFrame:
        """The table of jobs, one row each in order of dispatch; the index is the job's number."""
        import pandas as pd  # here, because importing pandas takes longer than a simulation

        return pd.DataFrame(
            {
                "client": self.client,
                "dispatch_time": self.dispatch_time,
                "base_version": self.base_version,
                "arrival_time": self.arrival_time,
                "arrival_version": self.arrival_version,
                "staleness": self.staleness,
                "fault": np.array(FAULTS)[self.fault],
            }
        ).rename_axis("job")

    def summary(self) -> dict[str, float]:
        """Counts, staleness (versions) and simulated time of the arrivals, and how often each fault took effect."""
        return {
            "num_arrivals": len(self.arrivals),
            "num_versions": self.num_versions,
            "mean_staleness": float(self.arrival_staleness.mean()),
            "max_staleness": int(self.arrival_staleness.max()),
            "sim_time": self.sim_time,
            **self.fault_counts(),
        }


def expected_staleness(federation: FederationConfig) -> float:
    """Mean staleness (versions) of a long run by Little's law; (K - 1) / B for refill_size 1.

    Count time in arrivals: K - (O - 1) / 2 jobs are in flight on average, and the same number of arrivals pass between
    the dispatch of a job and its arrival. B of them make a version; the gcd corrects for dispatches that coincide with
    new versions. The mean of a short run is lower: its first jobs meet few versions, and its slowest never arrive.
    Faults are ignored: lost jobs hold slots without arriving, which lowers the mean; duplicates are extra arrivals,
    which raise it.
    """
    common = math.gcd(federation.refill_size, federation.buffer_size)
    return (federation.concurrency - (federation.refill_size + common) / 2) / federation.buffer_size


def speed_groups(mean_duration: np.ndarray) -> dict[str, np.ndarray]:
    """Client numbers in three groups of (nearly) equal size by expected job duration; ties by client number."""
    order = np.argsort(mean_duration, kind="stable")
    return dict(zip(("fast", "medium", "slow"), np.array_split(order, 3), strict=True))
