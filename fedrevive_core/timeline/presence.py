"""Who is there, and when a job ends on a device that comes and goes: the clients of a federation, taken from a trace.

Work takes time only while the device is there. So the seconds in which a device is there are a clock of its own, which
stands still while it is away; a job lasts a fixed time on that clock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import MutableSequence
from math import inf

import numpy as np

from fedrevive_core.config import FederationConfig
from fedrevive_core.errors import ConfigError
from fedrevive_core.seeding import stream
from fedrevive_core.timeline.traces import DeviceTrace, load_trace

MOST_PERIODS = 2**32


class Presence:
    """The devices of N clients, asked at times that never decrease; times are in units of simulated time.

    work (N,): time that a job takes while its device is there. mean_duration (N,): expected time from dispatch to
    arrival of a job that is dispatched at a random time at which its device is there; of jobs that can be lost, `work`.
    until: end of each client's latest interval, among those that have begun by the last `come`. is_away: whether a
    client is free and `come` shall report it.
    """

    def __init__(self, trace: DeviceTrace, devices: np.ndarray, work: np.ndarray, unit: float, lost: bool) -> None:
        """devices (N,): which of the trace's each client is. work (N,): seconds. unit: seconds of a unit of time."""
        parts = [np.arange(trace.first[device], trace.first[device + 1]) for device in devices]
        rows, self._lost, self._period = np.concatenate(parts), lost, trace.period / unit
        start, length = trace.start[rows] / unit, (trace.end[rows] - trace.start[rows]) / unit
        first = np.append(0, np.cumsum([len(part) for part in parts]))
        passed = np.append(0.0, np.cumsum(length))
        there = passed[first[1:]] - passed[first[:-1]]
        self.work = work / unit
        self.mean_duration = self.work if lost else self.work * self._period / there
        # In order of client and time: the start of each interval, and the time of its period in which its device was
        # there before it.
        client = np.repeat(np.arange(len(devices)), np.diff(first))
        self._start, self._before = start.tolist(), (passed[:-1] - passed[first[:-1]][client]).tolist()
        self._first, self._there = first.tolist(), there.tolist()
        # In order of time: start, end, client and place (in the order above) of each interval.
        order = np.argsort(start, kind="stable")
        begins, ends = start[order], (start + length)[order]
        self._begins, self._ends, self._clients = begins.tolist(), ends.tolist(), client[order].tolist()
        self._places = order.tolist()
        self._next, self._periods = 0, 0  # the next interval to begin, and the period that it is in
        self.until, self.is_away = [-inf] * len(devices), [False] * len(devices)
        self._latest = [0] * len(devices)  # number of the client's latest interval, counted through all periods

    def come(self, free: MutableSequence[int], now: float, *, until_one: bool = False) -> float:
        """Let clients come up to the time `now`: those that were away become `free`.

        until_one: stop at the first of these. Returns its time; infinite if nobody comes.
        """
        begins, ends, clients = self._begins, self._ends, self._clients  # local names: the loop is what devices cost
        until, latest, is_away = self.until, self._latest, self.is_away
        count, periods, place = len(begins), self._periods, self._next
        if now == inf and not any(is_away):
            return inf
        if now - periods * self._period > 2 * self._period and not until_one:  # one period shows everybody
            periods, place = int(now // self._period) - 1, 0
        came, base = inf, periods * self._period
        while base + begins[place] <= now:
            client = clients[place]
            until[client], latest[client] = base + ends[place], periods * count + place
            if is_away[client]:
                is_away[client] = False
                free.append(client)
                came = base + begins[place]
            place += 1
            if place == count:
                place, periods = 0, periods + 1
                base = periods * self._period
                if periods > MOST_PERIODS:  # such times cannot tell one interval from the next
                    raise ConfigError("federation.devices: the trace is repeated too often: lower the budget")
            if until_one and came < inf:
                break
        self._next, self._periods = place, periods
        return came

    def outlasts(self, client: int, now: float, work: float) -> tuple[float, bool]:
        """When a job ends that takes `work` and is not finished at `until[client]`, and whether it is lost then."""
        until = self.until[client]
        if self._lost:
            return until, True
        began, number = divmod(self._latest[client], len(self._places))
        place, there = self._places[number], self._there[client]
        # What the device's own clock shows at the end: from the beginning of the period to `until`, and what is left.
        shows = self._before[place] + (self._ends[number] - self._begins[number]) + (work - (until - now))
        periods, rest = divmod(shows, there)
        if rest == 0:  # it ends with the last interval of a period, not with the first of the next
            periods, rest = periods - 1, there
        place = bisect_left(self._before, rest, self._first[client], self._first[client + 1]) - 1
        ends = (began + periods) * self._period + self._start[place] + (rest - self._before[place])
        return max(ends, until), False


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
