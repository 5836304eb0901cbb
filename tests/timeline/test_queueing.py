"""Closed forms of queueing against the simulator: how many jobs arrive, and how stale, with K in flight."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from helpers import federation

from fedrevive_core.config import SCHEDULES
from fedrevive_core.timeline import Timeline, expected_staleness, expected_throughput, simulate_timeline
from fedrevive_core.widgets.timeline import ALL_ALIKE, with_stragglers

HEAVY = {**SCHEDULES["default"], "training": {**SCHEDULES["default"]["training"], "kind": "lognormal", "sigma": 1.0}}
DELAYS: dict[str, Any] = {
    "default": SCHEDULES["default"],
    "shifted": SCHEDULES["shifted"],
    "lognormal": HEAVY,
    "1 in 10 slower": with_stragglers(SCHEDULES["default"], 20),
    "all alike": ALL_ALIKE,
}


def run(schedule: Any = "default", arrivals: int = 6000, seed: int = 0, **sizes: int) -> Timeline:
    sizes = {"num_clients": 40, "concurrency": 10, "buffer_size": 1, **sizes}
    versions = arrivals // sizes["buffer_size"]
    return simulate_timeline(federation(**sizes, schedule=schedule, max_versions=versions), seed)


def test_three_clients_by_hand() -> None:
    """Durations 1, 2, 3 and K = 2: e(1) = 6, e(2) = 2 + 3 + 6 = 11, so 2 * 6 / 11.

    In sets: {1, 2}, {1, 3} and {2, 3} are at work with odds 2, 3 and 6, and jobs of 1, 2, 3 end at rates 1, 1/2, 1/3.
    """
    assert expected_throughput(np.array([1.0, 2.0, 3.0]), 2) == pytest.approx(12 / 11)
    durations = np.random.default_rng(0).uniform(0.1, 5, 7)
    for k in range(1, 8):
        sets = [np.array(chosen) for chosen in combinations(durations, k)]
        odds = np.array([chosen.prod() for chosen in sets])
        rates = np.array([(1 / chosen).sum() for chosen in sets])
        assert expected_throughput(durations, k) == pytest.approx((odds * rates).sum() / odds.sum())


def test_simple_cases_of_throughput() -> None:
    """One job at a time, clients all alike, and everybody at work; and no overflow with many clients."""
    durations = np.linspace(0.5, 4, 2000)
    assert expected_throughput(durations, 1) == pytest.approx(1 / durations.mean())
    assert expected_throughput(np.full(2000, 1.7), 1300) == pytest.approx(1300 / 1.7)
    assert expected_throughput(durations, 2000) == pytest.approx((1 / durations).sum())
    assert expected_throughput(durations, 1000) > 1000 / durations.mean()


@pytest.mark.parametrize("delays", DELAYS)
@pytest.mark.parametrize("concurrency", [1, 10, 36, 40])
def test_throughput_of_the_simulator(delays: str, concurrency: int) -> None:
    """Within four standard errors of A arrivals whose durations spread by c, and what the start changes.

    Also with K = 36 of 40 clients, where K / mean duration is wrong if clients differ much.
    """
    timeline = run(DELAYS[delays], concurrency=concurrency)
    lasted = (timeline.arrival_time - timeline.dispatch_time)[timeline.arrivals]
    count, spread = len(lasted), lasted.std() / lasted.mean()
    expected = expected_throughput(timeline.mean_duration, concurrency)
    bound = 4 * spread / np.sqrt(count) + concurrency * (1 + spread**2) / 2 / count
    assert count / timeline.sim_time == pytest.approx(expected, rel=bound)
    if delays == "1 in 10 slower" and concurrency == 36:
        assert concurrency / timeline.mean_duration.mean() < (1 - bound) * expected


@pytest.mark.parametrize("delays", [*DELAYS, "stragglers"])
@pytest.mark.parametrize("sizes", [(1, 1), (10, 1), (10, 4), (40, 8)], ids="K{0[0]}-B{0[1]}".format)
def test_littles_law_is_exact_in_every_run(delays: str, sizes: tuple[int, int]) -> None:
    """Staleness, summed over arrivals, is the sum of the versions from which the K - 1 jobs still in flight started.

    Every arrival makes one dispatch, so the versions at all arrivals, and those at all dispatches but the first K, are
    the same numbers. The K - 1 in flight started shortly before the end: the mean is a little below (K - 1) / B.
    """
    concurrency, buffer_size = sizes
    timeline = run(DELAYS.get(delays, delays), concurrency=concurrency, buffer_size=buffer_size)
    flying, count = timeline.staleness < 0, len(timeline.arrivals)
    assert flying.sum() == concurrency - 1
    assert timeline.arrival_staleness.sum() == timeline.base_version[flying].sum()
    missing = expected_staleness(timeline.federation) - timeline.arrival_staleness.mean()
    ages = (count - timeline.dispatched_after[flying]) / buffer_size
    assert ages.sum() - 1e-9 <= missing * count <= (ages + 1 - 1 / buffer_size).sum() + 1e-9


def test_slots_that_wait_make_it_slower() -> None:
    """A larger refill size leaves slots open; the closed form is of O = 1."""
    expected = expected_throughput(run().mean_duration, 10)
    found = [len(t.arrivals) / t.sim_time for t in (run(refill_size=open_slots) for open_slots in (1, 3, 6, 10))]
    assert sorted(found, reverse=True) == found
    assert found[0] == pytest.approx(expected, rel=0.03)
    assert found[-1] < 0.6 * expected
