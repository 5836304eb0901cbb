"""The event loop: it draws delays and clients and simulates who arrives when, without any training."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable
from typing import Any

import numpy as np

from fedrevive_core.config import CRASH, DROP_OUT, DUPLICATE, NEVER_RETURN, FederationConfig, check_jobs, counted
from fedrevive_core.errors import ConfigError
from fedrevive_core.seeding import stream
from fedrevive_core.timeline.delays import blocks, delay_draws, fault_draws
from fedrevive_core.timeline.presence import Presence, presence_of
from fedrevive_core.timeline.timeline import Timeline


def simulate_timeline(federation: FederationConfig, seed: int) -> Timeline:
    """Simulate the federation with delays and clients drawn from `seed`; or read `federation.timeline`, if it is set.

    The draws depend on (N, K, schedule, seed) and are used in order of dispatch: methods with refill_size 1 and the
    same seed see identical arrivals for every buffer size. Raises ConfigError if the budget allows no version, or more
    jobs than the limit (see `config.price`), or if the timeline that is to be read does not fit.
    """
    if federation.timeline is not None:
        return Timeline.load(federation.timeline, federation)
    check_jobs(federation)
    presence = presence_of(federation, seed) if federation.devices.trace is not None else None
    if presence is None:
        mean_of, duration = delay_draws(federation, seed)
    else:
        mean_of, duration = presence.mean_duration, presence.work.tolist().__getitem__
    uniform = blocks(stream(seed, "selection").random)
    draws = fault_draws(federation.faults, seed) if any(federation.faults.probabilities) else ()
    return play(federation, counted(duration), uniform, mean_of, *draws, presence=presence)


def play(
    federation: FederationConfig,
    duration: Callable[[int], float],
    uniform: Callable[[], float],
    mean_duration: np.ndarray,
    fault: Callable[[], int] | None = None,
    share_done: Callable[[], float] = lambda: 0.5,
    *,
    presence: Presence | None = None,
) -> Timeline:
    """Simulate a federation whose next job lasts `duration(client)`; `uniform()`, in [0, 1), picks the next client.

    The next job has the fault with code `fault()` (unset: no job has one). A client that crashes has done the share
    `share_done()`, in [0, 1), of its job. `simulate_timeline` passes random sources; tests and lessons may pass
    hand-written ones. With `presence`, only clients that are there are chosen, and they work only then; slots that may
    be filled wait until somebody comes.
    """
    jobs = _jobs(federation, duration, uniform, fault, share_done, presence)
    _check_first_version(federation, jobs["arrivals"], jobs["arrival_time"])
    types = {"dispatch_time": float, "arrival_time": float, "fault": np.int8}
    arrays = {name: np.array(values, dtype=types.get(name, np.int64)) for name, values in jobs.items()}
    return Timeline(federation=federation, mean_duration=mean_duration, **arrays)


def _jobs(
    federation: FederationConfig,
    duration: Callable[[int], float],
    uniform: Callable[[], float],
    fault: Callable[[], int] | None,
    share_done: Callable[[], float],
    presence: Presence | None,
) -> dict[str, list[Any]]:
    """The columns of the timeline; arguments as in `play`."""
    limit = federation.max_versions * federation.buffer_size if federation.max_versions else None
    deadline = federation.max_sim_time or np.inf
    free = array("q", range(federation.num_clients))  # an array: fewer cache misses than a list of a million objects
    in_flight: list[tuple[float, int]] = []
    dispatch_time, arrival_time = (list[float]() for _ in range(2))
    client, dispatched_after, faults, arrivals, lost = (list[int]() for _ in range(5))
    now, open_slots, to_fill = 0.0, federation.concurrency, 0
    while len(arrivals) != limit:
        if open_slots - to_fill >= federation.refill_size:
            to_fill = open_slots
        if presence is not None and to_fill:
            presence.come(free, now)
        while to_fill and free:
            position = int(uniform() * len(free))
            chosen, free[position] = free[position], free[-1]
            free.pop()
            if presence is not None and presence.until[chosen] <= now:
                presence.is_away[chosen] = True
                continue
            open_slots, to_fill = open_slots - 1, to_fill - 1
            code, lasts = 0 if fault is None else fault(), duration(chosen)
            if code == NEVER_RETURN:
                lasts = federation.faults.timeout or np.inf
            elif code == CRASH:
                lasts *= share_done()
            arrives = now + lasts
            if presence is not None and arrives > presence.until[chosen] and code != NEVER_RETURN:
                arrives, lost_there = presence.outlasts(chosen, now, lasts)
                code = CRASH if lost_there else code
            if code == DUPLICATE:  # equal entries leave the heap directly one after the other
                heapq.heappush(in_flight, (arrives, len(client)))
            heapq.heappush(in_flight, (arrives, len(client)))
            client.append(chosen)
            dispatch_time.append(now)
            arrival_time.append(arrives)
            dispatched_after.append(len(arrivals))
            faults.append(code)
        if presence is None:
            to_fill = 0  # slots stay open if no client is free
        elif to_fill:  # nobody who is free is there: the next one, if it comes before a job ends
            comes = presence.come(free, in_flight[0][0] if in_flight else np.inf, until_one=True)
            if comes < np.inf:
                now = comes
                if now > deadline and len(arrivals) >= federation.buffer_size:
                    break
                continue
        if not in_flight:
            break  # every client has left
        now, job = heapq.heappop(in_flight)
        if now > deadline and len(arrivals) >= federation.buffer_size:
            break
        if code := faults[job]:
            if code == DUPLICATE and arrivals and arrivals[-1] == job:
                arrivals.append(job)
                continue  # the first copy has already opened the slot and freed the client
            (lost if code in (NEVER_RETURN, CRASH) else arrivals).append(job)
            if code != DROP_OUT:
                free.append(client[job])
        else:
            arrivals.append(job)
            free.append(client[job])
        open_slots += 1
    return {
        "client": client,
        "dispatch_time": dispatch_time,
        "arrival_time": arrival_time,
        "dispatched_after": dispatched_after,
        "fault": faults,
        "arrivals": arrivals,
        "lost": lost,
    }


def _check_first_version(federation: FederationConfig, arrivals: list[int], arrival_time: list[float]) -> None:
    """Raise ConfigError if the arrivals are too few, or too late, for one version."""
    if len(arrivals) < federation.buffer_size:
        raise ConfigError(
            f"federation.faults.drop_out: every client has left after {len(arrivals)} arrivals and before the first "
            "version: lower it, or raise federation.num_clients"
        )
    # `play` goes beyond a deadline until the first version, so that the message can say what budget is enough.
    first_version = arrival_time[arrivals[federation.buffer_size - 1]]
    if federation.max_sim_time is not None and first_version > federation.max_sim_time:
        in_time = sum(arrival_time[job] <= federation.max_sim_time for job in arrivals)
        raise ConfigError(
            f"federation.max_sim_time = {federation.max_sim_time} ends after {in_time} arrivals and before the first "
            f"version: allow at least {1.01 * first_version:.3g}"
        )
