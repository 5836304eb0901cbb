"""Who is there, and when a job ends on a device that comes and goes: the clients of a federation, taken from a trace.

Work takes time only while the device is there. So the seconds in which a device is there are a clock of its own, which
stands still while it is away; a job lasts a fixed time on that clock.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from heapq import heappop, heappush
from math import inf

import numpy as np

from fedrevive_core.config import FederationConfig
from fedrevive_core.errors import ConfigError
from fedrevive_core.seeding import stream
from fedrevive_core.timeline.traces import Trace, load_trace

MOST_PERIODS = 2**32


class Presence:
    """The devices of N clients, asked at times that never decrease.

    work (N,): time that a job takes while its device is there. mean_duration (N,): expected time from dispatch to
    arrival of a job that is dispatched at a random time at which its device is there; of jobs that can be lost, `work`.
    until[client]: end of the client's interval that `is_there` looked at. Times are in units of simulated time.
    """

    def __init__(self, trace: Trace, devices: np.ndarray, work: np.ndarray, unit: float, lost: bool) -> None:
        """devices (N,): which of the trace's each client is. work (N,): seconds. unit: seconds of a unit of time."""
        self._lost, self._period = lost, trace.period / unit
        of = [slice(trace.first[device], trace.first[device + 1]) for device in devices]
        length = [trace.end[part] - trace.start[part] for part in of]
        self._first = np.append(0, np.cumsum([len(part) for part in length])).tolist()
        self._start = (np.concatenate([trace.start[part] for part in of]) / unit).tolist()
        self._end = (np.concatenate([trace.end[part] for part in of]) / unit).tolist()
        # Of each interval, the time of its period in which the device was there before it; then of the whole period.
        self._before = (np.concatenate([np.cumsum(part) - part for part in length]) / unit).tolist()
        self._there = (np.array([part.sum() for part in length]) / unit).tolist()
        self.work = work / unit
        self.mean_duration = self.work if lost else self.work * self._period / np.array(self._there)
        self.until = [-inf] * len(devices)
        self._begin = [-inf] * len(devices)
        self._place, self._periods = [0] * len(devices), [0] * len(devices)  # of that interval
        self._coming: list[
            tuple[float, int]
        ] = []  # free clients that are away, by the beginning of their next interval

    def is_there(self, client: int, now: float) -> bool:
        """Whether a free client is there at `now`; one that is not is remembered until its next interval."""
        if self.until[client] <= now:
            self._find(client, now)
        if self._begin[client] <= now:
            return True
        heappush(self._coming, (self._begin[client], client))
        return False

    def next_time(self) -> float:
        """When the next client comes of those that are remembered; infinite if there is none."""
        return self._coming[0][0] if self._coming else inf

    def come(self, now: float) -> list[int]:
        """The remembered clients whose interval has begun; they are forgotten."""
        came = []
        while self._coming and self._coming[0][0] <= now:
            came.append(heappop(self._coming)[1])
        return came

    def outlasts(self, client: int, now: float, work: float) -> tuple[float, bool]:
        """When a job ends that takes `work` and is not finished at `until[client]`, and whether it is lost then."""
        until = self.until[client]
        if self._lost:
            return until, True
        place, there = self._place[client], self._there[client]
        # What the device's own clock shows at the end: from the beginning of the period to `until`, and what is left.
        shows = self._before[place] + (self._end[place] - self._start[place]) + (work - (until - now))
        periods, rest = divmod(shows, there)
        if rest == 0:  # it ends with the last interval of a period, not with the first of the next
            periods, rest = periods - 1, there
        place = bisect_left(self._before, rest, self._first[client], self._first[client + 1]) - 1
        ends = (self._periods[client] + periods) * self._period + self._start[place] + (rest - self._before[place])
        return max(ends, until), False

    def _find(self, client: int, now: float) -> None:
        """Look at the interval of the client that contains `now`, or at the next one."""
        first, last, periods = self._first[client], self._first[client + 1], int(now // self._period)
        if periods > MOST_PERIODS:  # numbers of this size cannot tell one interval from the next
            raise ConfigError(f"federation.devices: the trace would be repeated {periods:.2g} times: lower the budget")
        place = bisect_right(self._end, now - periods * self._period, first, last)
        while True:
            if place == last:
                place, periods = first, periods + 1
            until = periods * self._period + self._end[place]
            if until > now:
                break
            place += 1  # by rounding
        self.until[client], self._begin[client] = until, periods * self._period + self._start[place]
        self._place[client], self._periods[client] = place, periods


def presence_of(federation: FederationConfig, seed: int) -> Presence:
    """The devices of `federation`, drawn from those of its trace that are ever there.

    Raises ConfigError if the trace cannot be read or has too few such devices, or if no job could ever arrive.
    """
    devices = federation.devices
    if devices.trace is None or devices.steps is None or devices.model_bytes is None:
        raise ConfigError(
            "federation.devices.steps and federation.devices.model_bytes are unset: give both, or take the federation "
            "of a run (build), which knows its training and its model"
        )
    trace = load_trace(devices.trace)
    usable = np.flatnonzero(trace.seconds_there > 0)
    if len(usable) < federation.num_clients:
        raise ConfigError(
            f"federation.num_clients = {federation.num_clients}, but only {len(usable)} devices of the trace are ever "
            "there: lower it, or give a larger trace as federation.devices.trace"
        )
    picked = stream(seed, "clients").permutation(len(usable))[: federation.num_clients]
    chosen = usable[picked]
    moved = devices.model_bytes / trace.down + devices.model_bytes / trace.up
    work = (moved + devices.steps * trace.seconds_per_step)[chosen]
    lost = devices.unfinished == "lost"
    longest = np.maximum.reduceat(trace.end - trace.start, trace.first[usable])[picked]
    if lost and np.all(longest < work):
        raise ConfigError(
            f"federation.devices.unfinished = 'lost': every job would be lost, because the shortest takes "
            f"{work.min():.3g} seconds and the longest interval has {longest.max():.3g}: choose 'paused'"
        )
    return Presence(trace, chosen, work, federation.time_unit, lost)
