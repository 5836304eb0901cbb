"""The timeline: who trains what, from which version, when it arrives and how stale it is.

Durations never depend on what a model has learned, so the whole arrival sequence is computed before any training, with
NumPy only. The cost of an arrival does not depend on the number of clients: a heap holds the K jobs in flight, and the
free clients are in a list from which one is taken by swapping it with the last.

Order of events at the same simulated time: jobs arrive in the order of their dispatch, and each arrival refills the
open slots before the next is processed. A timeline can be saved and loaded, and be one of a real federation (table.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedrevive_core.config import DROP_OUT, DUPLICATE, FAULTS, FederationConfig
from fedrevive_core.errors import ConfigError
from fedrevive_core.timeline.table import FORMAT, Jobs, read_jobs

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
    client. In a loaded timeline, a job that was still in flight at the end has an infinite arrival_time.
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

    @classmethod
    def load(cls, source: Path | str, federation: FederationConfig | None = None) -> Timeline:
        """The timeline of a run (its directory) or in a .csv or .parquet file, for `federation` or for that of the run.

        Buffer size and budgets are those of `federation`, so versions may be others than when it was recorded. Without
        one, a file makes a version of every arrival. Raises ConfigError naming file and line of what cannot be.
        """
        path = Path(source)
        if path.is_dir():
            from fedrevive_core.records import read_header

            try:
                recorded = read_header(path)[0].federation
            except (OSError, ValueError) as error:
                raise ConfigError(f"timeline = '{source}' does not hold a readable run: {error}") from None
            path = path / "timeline.parquet"
            if not path.exists():
                raise ConfigError(f"timeline = '{source}' was left by an older version, which kept no timeline")
            federation = federation or recorded
        jobs = read_jobs(path, federation)
        return _cut(jobs, federation or _federation_of(jobs, str(source)), source)

    def save(self, path: Path | str) -> None:
        """Write the table of jobs as a .csv or .parquet file, from which `load` gives the same timeline.

        What is in flight at the end is written without arrival. Raises ConfigError if it cannot be written.
        """
        from fedrevive_core.files import atomic_file, check_file, writing

        path = Path(path)
        if path.suffix not in (".csv", ".parquet"):
            raise ConfigError(f"cannot write a timeline as '{path}': its name must end in .csv or .parquet")
        check_file(path)
        table = self.table()
        with writing(path), atomic_file(path) as work:
            (table.to_csv if path.suffix == ".csv" else table.to_parquet)(work, index=False)

    def table(self) -> pd.DataFrame:
        """The table that `save` writes (see table.py): a row per job, then one per client that had none."""
        import pandas as pd

        count, num_clients = len(self.client), self.federation.num_clients
        idle = np.setdiff1d(np.arange(num_clients), self.client)
        arrived = np.full(count, np.nan)
        ended = np.append(self.arrivals, self.lost)
        arrived[ended] = self.arrival_time[ended]
        fault = self.fault.copy()
        if len(self.arrivals) and not self.is_copy[-1] and fault[self.arrivals[-1]] == DUPLICATE:
            fault[self.arrivals[-1]] = 0  # the budget ended before the copy
        client = np.append(self.client, idle)
        unknown = np.full(len(idle), np.nan)
        return pd.DataFrame(
            {
                "client": client,
                "dispatched": np.append(self.dispatch_time, unknown),
                "arrived": np.append(arrived, unknown),
                "lost": np.isin(np.arange(len(client)), self.lost),
                "fault": np.array(FAULTS, dtype=object)[np.append(fault, np.zeros(len(idle), fault.dtype))],
                "dispatched_after": np.append(self.dispatched_after, np.full(len(idle), -1)),
                "mean_duration": self.mean_duration[client],
                "format": np.full(len(client), FORMAT),
            }
        )

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


def _federation_of(jobs: Jobs, source: str) -> FederationConfig:
    """The smallest federation in which `jobs` are possible, with a version for every arrival."""
    size = {"num_clients": len(jobs.mean_duration), "concurrency": jobs.at_work}
    return FederationConfig.from_dict({**size, "schedule": "default", "timeline": source})


def _cut(jobs: Jobs, federation: FederationConfig, source: Path | str) -> Timeline:
    """The timeline of `jobs` as far as the budget goes. Raises ConfigError if that is before the first version."""
    arrivals, end = jobs.arrivals, jobs.end
    limit = (federation.max_versions or len(arrivals)) * federation.buffer_size
    deadline = federation.max_sim_time or np.inf
    kept = min(limit, int(np.searchsorted(end[arrivals], deadline, "right")))
    if kept < federation.buffer_size:
        raise ConfigError(
            f"timeline = '{source}' has {kept} arrivals within the budget, and a version takes "
            f"federation.buffer_size = {federation.buffer_size}: record more, or lower it"
        )
    lost = np.flatnonzero(jobs.lost)
    lost = lost[np.argsort(end[lost], kind="stable")]
    if kept == limit < len(arrivals):  # nothing is dispatched after the last arrival, and no loss is noticed
        last = arrivals[kept - 1]
        is_in = jobs.dispatched_after < kept
        lost = lost[(end[lost] < end[last]) | ((end[lost] == end[last]) & (lost < last))]
    else:
        is_in = jobs.start <= deadline
        lost = lost[end[lost] <= deadline]
    return Timeline(
        federation=federation,
        client=jobs.client[is_in],
        dispatch_time=jobs.start[is_in],
        arrival_time=end[is_in],
        dispatched_after=jobs.dispatched_after[is_in],
        fault=jobs.fault[is_in].astype(np.int8),
        arrivals=arrivals[:kept],
        lost=lost,
        mean_duration=jobs.mean_duration,
    )


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


def expected_throughput(mean_duration: np.ndarray, concurrency: int) -> float:
    """Arrivals per unit of simulated time of a long run, for refill_size 1, random delays and no faults.

    By Little's law, K over the mean duration of a job. A client at work is not drawn, so slow clients are drawn less
    often as K grows: those at work are any set of K with a probability proportional to the product of their mean
    durations, whatever the distributions. This gives (N - K + 1) e(K - 1) / e(K), where e(k) sums the products of k
    different durations: K / mean for K = 1 or clients all alike, the sum of 1 / duration for K = N. (In arXiv
    2502.08206 clients queue jobs; its closed forms are of that model.) At the start of a run K (1 - c^2) / 2 arrivals
    are missing, c being the durations' standard deviation over their mean.

    Args:
        mean_duration: (N,) expected duration of a job of each client, simulated time, > 0. concurrency: K, 1 to N.
    """
    log_e = np.append(0.0, np.full(concurrency, -np.inf))  # of the clients so far; by logarithms, as e(k) is huge
    for log_mean in np.log(mean_duration):
        log_e[1:] = np.logaddexp(log_e[1:], log_e[:-1] + log_mean)
    return float((len(mean_duration) - concurrency + 1) * np.exp(log_e[-2] - log_e[-1]))


def speed_groups(mean_duration: np.ndarray) -> dict[str, np.ndarray]:
    """Client numbers in three groups of (nearly) equal size by expected job duration; ties by client number."""
    order = np.argsort(mean_duration, kind="stable")
    return dict(zip(("fast", "medium", "slow"), np.array_split(order, 3), strict=True))
