"""Who trains what, when it arrives, from which version and how stale it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from helpers import constant, federation, run_python, steady
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedrevive_core.config.federation import SCHEDULES, FederationConfig
from fedrevive_core.errors import ConfigError
from fedrevive_core.timeline.delays import BLOCK
from fedrevive_core.timeline.event_loop import play, simulate_timeline
from fedrevive_core.timeline.timeline import Timeline, speed_groups


def scripted(config: FederationConfig, durations: list[float], picks: list[float] | None = None) -> Timeline:
    """A timeline whose jobs last `durations`, in order of dispatch, and whose clients are picked by `picks` (or 0s)."""
    lasts = iter(durations)
    uniform = (lambda: 0.0) if picks is None else iter(picks).__next__
    return play(config, lambda client: next(lasts), uniform, np.zeros(config.num_clients))


# ---------------------------------------------------------------------------------------------- worked by hand


LASTS = [4, 1, 2, 2, 3]
# The free clients before each pick: [0 1 2], [2 1], [2 1] (1 is back), [2 1] (back again), [1 0].
PICKS = [0.0, 0.5, 0.5, 0.0, 0.99]


def test_four_jobs_immediate_updates() -> None:
    """Three clients, two in flight, a new version at every arrival (B = 1).

        time       0         1         2         3         4         5
        version    0         1                   2         3         4
        job 0      A---------------------------------------A                     from 0, arrives at 2: staleness 2
        job 1      B---------B                                                   from 0, arrives at 0: staleness 0
        job 2                B-------------------B                               from 1, arrives at 1: staleness 0
        job 3                                    C-------------------C           from 2, arrives at 3: staleness 1
        job 4                                              A------------------   from 3, still in flight at the end

    Clients are A = 0, B = 1, C = 2. Job 1 goes to 1 although the last client in the list took the place of client 0;
    job 2 goes to the very client that has just arrived.
    """
    timeline = scripted(federation(3, 2, max_versions=4), LASTS, PICKS)

    assert timeline.client.tolist() == [0, 1, 1, 2, 0]
    assert timeline.dispatch_time.tolist() == [0, 0, 1, 3, 4]
    assert timeline.arrival_time.tolist() == [4, 1, 3, 5, 7]
    assert timeline.arrivals.tolist() == [1, 2, 0, 3]
    assert timeline.base_version.tolist() == [0, 0, 1, 2, 3]
    assert timeline.arrival_version.tolist() == [2, 0, 1, 3, -1]
    assert timeline.staleness.tolist() == [2, 0, 0, 1, -1]
    assert timeline.num_versions == 4
    assert timeline.sim_time == 5


def test_four_jobs_buffer_of_two() -> None:
    """The same jobs with B = 2: the arrivals do not change, versions come half as often and are half as old.

    time       0         1         2         3         4         5
    version    0                             1                   2
    job 0      A---------------------------------------A                     from 0, arrives at 1: staleness 1
    job 1      B---------B                                                   from 0, arrives at 0: staleness 0
    job 2                B-------------------B                               from 0, arrives at 0: staleness 0
    job 3                                    C-------------------C           from 1, arrives at 1: staleness 0
    """
    timeline = scripted(federation(3, 2, buffer_size=2, max_versions=2), LASTS, PICKS)

    assert timeline.client.tolist() == [0, 1, 1, 2, 0]
    assert timeline.arrivals.tolist() == [1, 2, 0, 3]
    assert timeline.base_version.tolist() == [0, 0, 0, 1, 1]
    assert timeline.arrival_version.tolist() == [1, 0, 0, 1, -1]
    assert timeline.staleness.tolist() == [1, 0, 0, 0, -1]
    assert timeline.num_versions == 2


def test_synchronous_rounds_last_as_long_as_their_slowest_job() -> None:
    """O = B = K = 3: everybody waits, nothing is stale.

    time       0    1    2    3    4    5    6
    version    0              1              2
    job 0      |-------------|                    takes 3
    job 1      |----|                             takes 1
    job 2      |--------|                         takes 2
    job 3                    |----|               takes 1
    job 4                    |--------------|     takes 3
    job 5                    |----|               takes 1, and ties with job 3, which left first
    """
    config = federation(5, 3, buffer_size=3, refill_size=3, max_versions=2)
    timeline = scripted(config, [3, 1, 2, 1, 3, 1])

    assert timeline.dispatch_time.tolist() == [0, 0, 0, 3, 3, 3]
    assert timeline.arrivals.tolist() == [1, 2, 0, 3, 5, 4]
    assert timeline.base_version.tolist() == [0, 0, 0, 1, 1, 1]
    assert timeline.staleness.tolist() == [0] * 6
    assert timeline.sim_time == 6


def test_open_slots_wait_until_there_are_enough_of_them() -> None:
    """O = 2 of K = 3: the first slot that opens stays empty until the second one does."""
    timeline = scripted(federation(4, 3, refill_size=2, max_versions=3), [1, 2, 6, 3, 5])
    assert timeline.dispatch_time.tolist() == [0, 0, 0, 2, 2]
    assert timeline.arrivals.tolist() == [0, 1, 3]
    assert timeline.base_version.tolist() == [0, 0, 0, 2, 2]
    assert len(timeline.in_flight(1.5)) == 2


def test_ties_go_to_the_job_dispatched_first() -> None:
    """Jobs 0, 2 and 3 arrive together at time 2; job 3 left at time 1, so it is the last of them."""
    timeline = scripted(federation(4, 3, max_versions=4), [2, 1, 2, 1, 9, 9, 9])
    assert timeline.arrival_time[:4].tolist() == [2, 1, 2, 2]
    assert timeline.arrivals.tolist() == [1, 0, 2, 3]


def test_slots_are_refilled_inside_an_arrival_before_the_next_one_at_the_same_instant() -> None:
    """Two jobs arrive at time 1: the slot of the first is filled from the version that the first one made."""
    timeline = scripted(federation(4, 2, max_versions=2), [1, 1, 5, 5])
    assert timeline.arrivals.tolist() == [0, 1]
    assert timeline.dispatch_time.tolist() == [0, 0, 1]
    assert timeline.base_version.tolist() == [0, 0, 1]


def test_a_job_that_takes_no_time_still_waits_for_the_jobs_dispatched_before_it() -> None:
    timeline = scripted(federation(4, 2, max_versions=3), [1, 1, 0, 5, 5])
    assert timeline.arrivals.tolist() == [0, 1, 2]
    assert timeline.staleness.tolist()[:3] == [0, 1, 1]


def test_an_arrival_exactly_at_the_end_of_the_budget_counts() -> None:
    timeline = scripted(federation(3, 1, max_sim_time=2.0), [1, 1, 0.25])
    assert timeline.arrivals.tolist() == [0, 1]
    assert timeline.arrival_version.tolist() == [0, 1, -1]


def test_in_flight_counts_from_dispatch_to_just_before_arrival() -> None:
    timeline = scripted(federation(3, 2, max_versions=4), LASTS, PICKS)
    assert timeline.in_flight(0).tolist() == [0, 1]
    assert timeline.in_flight(0.99).tolist() == [0, 1]
    assert timeline.in_flight(1).tolist() == [0, 2]
    assert timeline.in_flight(3.5).tolist() == [0, 3]
    assert timeline.in_flight(4.5).tolist() == [3, 4]


def test_the_table_of_jobs_says_the_same() -> None:
    jobs = scripted(federation(3, 2, max_versions=4), LASTS, PICKS).jobs()
    assert jobs.index.name == "job"
    columns = ["client", "dispatch_time", "base_version", "arrival_time", "arrival_version", "staleness", "fault"]
    assert list(jobs) == columns
    assert jobs["staleness"].tolist() == [2, 0, 0, 1, -1]


def test_the_summary_is_about_arrivals() -> None:
    timeline = scripted(federation(3, 2, max_versions=4), LASTS, PICKS)
    assert timeline.summary() == {
        "num_arrivals": 4,
        "num_versions": 4,
        "mean_staleness": 0.75,
        "max_staleness": 2,
        "sim_time": 5,
    }


# ------------------------------------------------------------------------------------- limits that agree exactly


@pytest.mark.parametrize("duration", [0.0, 1.5])
def test_equal_delays_with_full_buffer_and_refill_are_synchronous_rounds(duration: float) -> None:
    size, rounds = 4, 6
    config = federation(
        9, size, buffer_size=size, refill_size=size, schedule=steady(duration), max_versions=rounds, max_sim_time=None
    )
    timeline = simulate_timeline(config, seed=3)
    jobs = np.arange(size * rounds)
    assert timeline.arrivals.tolist() == jobs.tolist()
    assert timeline.base_version.tolist() == (jobs // size).tolist()
    assert timeline.arrival_time.tolist() == (duration * (1 + jobs // size)).tolist()
    assert not timeline.staleness.any()
    assert all(len(set(of_round)) == size for of_round in timeline.client.reshape(rounds, size).tolist())


def test_equal_delays_with_immediate_updates_are_always_k_minus_one_stale() -> None:
    """K jobs arrive at once and are replaced one by one, so from then on each sees K - 1 versions pass."""
    timeline = simulate_timeline(federation(9, 4, schedule=steady(1.0), max_versions=20), seed=3)
    assert timeline.arrivals.tolist() == list(range(20))
    assert timeline.staleness[:20].tolist() == [0, 1, 2] + [3] * 17


def test_one_job_at_a_time_is_never_stale() -> None:
    timeline = simulate_timeline(federation(5, 1, max_versions=50), seed=0)
    assert not timeline.staleness[timeline.arrivals].any()


@given(seed=st.integers(0, 99), sizes=st.lists(st.integers(1, 7), min_size=2, max_size=2))
@settings(max_examples=20, deadline=None)
def test_buffer_size_does_not_change_who_arrives_when(seed: int, sizes: list[int]) -> None:
    one, other = (
        simulate_timeline(federation(12, 5, buffer_size=size, max_sim_time=20.0), seed=seed) for size in sizes
    )
    for column in ("client", "dispatch_time", "arrival_time", "arrivals", "dispatched_after", "mean_duration"):
        np.testing.assert_array_equal(getattr(one, column), getattr(other, column))


def test_a_longer_budget_only_appends() -> None:
    short, long = (simulate_timeline(federation(12, 5, max_sim_time=time), seed=1) for time in (10.0, 30.0))
    num = len(short.arrivals)
    assert long.arrivals[:num].tolist() == short.arrivals.tolist()
    np.testing.assert_array_equal(long.client[: len(short.client)], short.client)


def test_the_seed_decides() -> None:
    config = federation(12, 5, max_versions=40)
    one, again, other = (simulate_timeline(config, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.arrival_time, again.arrival_time)
    np.testing.assert_array_equal(one.client, again.client)
    assert not np.array_equal(one.arrival_time, other.arrival_time)
    assert not np.array_equal(one.client, other.client)


def test_draws_go_on_across_blocks() -> None:
    """Draws are made in blocks; the sequence must not repeat itself where a block ends."""
    timeline = simulate_timeline(federation(3, 1, max_versions=2 * BLOCK + 10), seed=0)
    durations = timeline.arrival_time - timeline.dispatch_time
    assert len(np.unique(durations)) > 0.99 * len(durations)
    assert not np.array_equal(timeline.client[:BLOCK], timeline.client[BLOCK : 2 * BLOCK])


# ----------------------------------------------------------------------------- a slow and obvious re-implementation


def slow_timeline(
    config: FederationConfig, duration: Callable[[int], float], uniform: Callable[[], float]
) -> list[dict[str, Any]]:
    """The event loop with plain lists: look through all jobs for the next arrival, count versions as they are made.

    Its only trick is the one that gives a pick its meaning: the place of a taken client goes to the last free one.
    """
    jobs: list[dict[str, Any]] = []
    free = list(range(config.num_clients))
    version = in_buffer = 0
    now = 0.0
    while True:
        flying = [job for job in jobs if job["order"] is None]
        if config.concurrency - len(flying) >= config.refill_size:
            while len(flying) < config.concurrency:
                place = int(uniform() * len(free))
                client = free[place]
                free[place] = free[-1]
                del free[-1]
                job = {
                    "client": client,
                    "dispatch_time": now,
                    "arrival_time": now + duration(client),
                    "base_version": version,
                    "arrival_version": -1,
                    "order": None,
                }
                jobs.append(job)
                flying.append(job)
        arriving = flying[0]
        for job in flying:
            if job["arrival_time"] < arriving["arrival_time"]:
                arriving = job
        now = arriving["arrival_time"]
        if config.max_sim_time is not None and now > config.max_sim_time:
            return jobs
        arriving["arrival_version"] = version
        arriving["order"] = sum(job["order"] is not None for job in jobs)
        free.append(arriving["client"])
        in_buffer += 1
        if in_buffer == config.buffer_size:
            version, in_buffer = version + 1, 0
            if version == config.max_versions:
                return jobs


@st.composite
def federations(draw: st.DrawFn) -> FederationConfig:
    num_clients = draw(st.integers(1, 12))
    concurrency = draw(st.integers(1, num_clients))
    return federation(
        num_clients,
        concurrency,
        buffer_size=draw(st.integers(1, 6)),
        refill_size=draw(st.integers(1, concurrency)),
        schedule=draw(st.sampled_from(["default", "shifted", steady(1.0, 0.5, 0.25), steady(0.0)])),
        max_versions=draw(st.integers(1, 15)),
    )


@given(config=federations(), lasts=st.lists(st.integers(0, 5), min_size=1), seed=st.integers(0, 999))
@settings(max_examples=80, deadline=None)
def test_play_agrees_exactly_with_the_slow_loop(config: FederationConfig, lasts: list[int], seed: int) -> None:
    """Whole-number durations make many ties."""

    def sources() -> tuple[Callable[[int], float], Callable[[], float]]:
        rng, dispatched = np.random.default_rng(seed), iter(range(10**9))
        return (lambda client: lasts[next(dispatched) % len(lasts)] + client % 2), rng.random

    timeline = play(config, *sources(), mean_duration=np.zeros(config.num_clients))
    jobs = slow_timeline(config, *sources())
    for column in ("client", "dispatch_time", "arrival_time", "base_version", "arrival_version"):
        assert getattr(timeline, column).tolist() == [job[column] for job in jobs]
    arrived = [number for number, job in enumerate(jobs) if job["order"] is not None]
    assert timeline.arrivals.tolist() == sorted(arrived, key=lambda number: jobs[number]["order"])
    late = [job["arrival_version"] - job["base_version"] if job["order"] is not None else -1 for job in jobs]
    assert timeline.staleness.tolist() == late


# ---------------------------------------------------------------------------------------------------- properties


@given(config=federations(), seed=st.integers(0, 999))
@settings(max_examples=80, deadline=None)
def test_properties_of_every_timeline(config: FederationConfig, seed: int) -> None:
    timeline = simulate_timeline(config, seed)
    arrived = timeline.arrivals

    # Arrivals are sorted, different, after their dispatch, and as many as the versions ask for.
    assert np.all(np.diff(timeline.arrival_time[arrived]) >= 0)
    assert len(set(arrived.tolist())) == len(arrived) == config.max_versions * config.buffer_size
    assert np.all(timeline.arrival_time >= timeline.dispatch_time)
    assert timeline.num_versions == config.max_versions

    # A job starts from the version made before its dispatch, and stales by those made until its arrival.
    order = np.full(len(timeline.client), len(arrived))
    order[arrived] = np.arange(len(arrived))
    assert np.all(timeline.dispatched_after <= order)
    assert timeline.base_version.tolist() == [after // config.buffer_size for after in timeline.dispatched_after]
    assert timeline.arrival_version[arrived].tolist() == [n // config.buffer_size for n in range(len(arrived))]
    assert np.all(timeline.staleness[arrived] >= 0)
    assert np.all(timeline.staleness[order == len(arrived)] == -1)

    # Never more than K in flight, never a client twice; between refills at least K - O + 1.
    for processed in range(len(arrived)):
        flying = (timeline.dispatched_after <= processed) & (order >= processed)
        clients = timeline.client[flying].tolist()
        assert config.concurrency - config.refill_size < len(clients) <= config.concurrency
        assert len(set(clients)) == len(clients)
    assert np.all((timeline.client >= 0) & (timeline.client < config.num_clients))


@given(seed=st.integers(0, 999), budget=st.floats(2, 20), size=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_nothing_after_the_budget_and_nothing_before_it_left_out(seed: int, budget: float, size: int) -> None:
    try:
        timeline = simulate_timeline(federation(8, 4, buffer_size=size, max_sim_time=budget), seed)
    except ConfigError:
        assume(False)
    assert timeline.sim_time <= budget
    left = np.setdiff1d(np.arange(len(timeline.client)), timeline.arrivals)
    assert np.all(timeline.arrival_time[left] > budget)
    assert len(left) == 4
    assert timeline.num_versions == len(timeline.arrivals) // size


@given(seed=st.integers(0, 999), time=st.floats(0, 30))
@settings(max_examples=40, deadline=None)
def test_k_different_clients_are_in_flight_at_any_time(seed: int, time: float) -> None:
    timeline = simulate_timeline(federation(8, 4, max_sim_time=30.0), seed)
    clients = timeline.client[timeline.in_flight(time)].tolist()
    assert len(clients) == len(set(clients)) == 4


def test_whichever_budget_ends_first() -> None:
    by_time = simulate_timeline(federation(8, 4, max_sim_time=10.0), seed=0)
    both = federation(8, 4, max_sim_time=10.0, max_versions=by_time.num_versions + 1)
    assert simulate_timeline(both, seed=0).arrivals.tolist() == by_time.arrivals.tolist()
    both = federation(8, 4, max_sim_time=10.0, max_versions=3)
    assert simulate_timeline(both, seed=0).arrivals.tolist() == by_time.arrivals[:3].tolist()


# ---------------------------------------------------------------------------------------- delays and selection

MANY = 20_000


def durations_of_one_job_each(schedule: str | dict[str, Any], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(duration, mean) of one job of each of MANY clients: with K = N the first K jobs go to everybody once."""
    timeline = simulate_timeline(federation(MANY, MANY, schedule=schedule, max_versions=1), seed)
    lasted = (timeline.arrival_time - timeline.dispatch_time)[:MANY]
    assert len(set(timeline.client[:MANY].tolist())) == MANY
    return lasted, timeline.mean_duration[timeline.client[:MANY]]


def only(schedule: str, part: str) -> dict[str, Any]:
    """The schedule with all but one of its delays set to zero."""
    return {**steady(0.0), part: SCHEDULES[schedule][part]}


def test_schedules_are_those_of_the_specification() -> None:
    default, shifted = SCHEDULES["default"], SCHEDULES["shifted"]
    assert default["training"] == {
        "kind": "exponential",
        "means": [1.0, 1.3, 1.6],
        "odds": [0.25, 0.5, 0.25],
        "half_width": 0,
    }
    assert default["download"] == {**constant(0.1), "half_width": 0}
    assert default["upload"] == {"kind": "uniform", "means": [0.15, 0.25], "odds": [0.5, 0.5], "half_width": 0.02}
    assert shifted["training"] == {"kind": "exponential", "means": [0.1], "odds": [1], "half_width": 0}
    assert shifted["download"] == {**constant(0.02), "half_width": 0}
    assert shifted["upload"] == {"kind": "uniform", "means": [0.05, 0.10], "odds": [0.5, 0.5], "half_width": 0.01}


@pytest.mark.parametrize(
    ("schedule", "mean", "least", "deviation"), [("default", 1.6, 0.23, 1.34), ("shifted", 0.195, 0.06, 0.104)]
)
def test_a_job_lasts_as_long_as_its_three_parts(schedule: str, mean: float, least: float, deviation: float) -> None:
    """Means 1.3 + 0.1 + 0.2 and 0.1 + 0.02 + 0.075; no job is shorter than download and shortest upload."""
    lasted, _ = durations_of_one_job_each(schedule)
    assert lasted.mean() == pytest.approx(mean, abs=4 * deviation / MANY**0.5)
    assert lasted.std() == pytest.approx(deviation, rel=0.05)
    assert least <= lasted.min() < least + 0.01


def test_clients_draw_their_means_with_the_given_odds() -> None:
    _, mean = durations_of_one_job_each(only("default", "training"))
    values, counts = np.unique(mean, return_counts=True)
    np.testing.assert_allclose(values, [1.0, 1.3, 1.6])
    np.testing.assert_allclose(counts / MANY, [0.25, 0.5, 0.25], atol=0.015)
    _, mean = durations_of_one_job_each("default")
    np.testing.assert_allclose(np.unique(mean.round(9)), [1.25, 1.35, 1.55, 1.65, 1.85, 1.95])


@pytest.mark.parametrize("schedule", ["default", "shifted"])
def test_training_times_are_exponential_around_the_clients_mean(schedule: str) -> None:
    lasted, mean = durations_of_one_job_each(only(schedule, "training"))
    for of_group in np.unique(mean):
        relative = np.sort(lasted[mean == of_group] / of_group)
        below = np.arange(1, len(relative) + 1) / len(relative)
        # Kolmogorov-Smirnov distance to 1 - exp(-x); 1.95 / sqrt(n) is exceeded once in a thousand samples.
        assert np.abs(below - (1 - np.exp(-relative))).max() < 1.95 / len(relative) ** 0.5


@pytest.mark.parametrize(("schedule", "half_width"), [("default", 0.02), ("shifted", 0.01)])
def test_upload_times_are_uniform_around_the_clients_mean(schedule: str, half_width: float) -> None:
    lasted, mean = durations_of_one_job_each(only(schedule, "upload"))
    offset = (lasted - mean) / half_width
    assert -1.0001 <= offset.min() < -0.99
    assert 0.99 < offset.max() <= 1.0001
    assert abs(offset.mean()) < 0.02
    assert offset.var() == pytest.approx(1 / 3, rel=0.05)


@pytest.mark.parametrize(("schedule", "duration"), [("default", 0.1), ("shifted", 0.02)])
def test_download_times_are_constant(schedule: str, duration: float) -> None:
    lasted, _ = durations_of_one_job_each(only(schedule, "download"))
    assert np.all(lasted == duration)


def test_a_client_keeps_its_mean_for_all_its_jobs() -> None:
    """Uploads differ from the client's own mean by less than the half width, job after job."""
    config = federation(10, 5, schedule=only("default", "upload"), max_versions=2000)
    timeline = simulate_timeline(config, seed=1)
    lasted = timeline.arrival_time - timeline.dispatch_time
    assert np.bincount(timeline.client, minlength=10).min() > 50
    assert np.abs(lasted - timeline.mean_duration[timeline.client]).max() <= 0.02 + 1e-12
    assert len(np.unique(timeline.mean_duration)) == 2


def test_parts_of_a_job_are_drawn_independently_of_each_other() -> None:
    training, _ = durations_of_one_job_each(only("default", "training"))
    upload, mean = durations_of_one_job_each(only("default", "upload"))
    assert abs(np.corrcoef(training, upload - mean)[0, 1]) < 0.03
    total, _ = durations_of_one_job_each("default")
    np.testing.assert_allclose(total, training + upload + 0.1)
    # Three equal uniform parts have three times the variance of one; drawn from one stream they would have nine times.
    part = {"kind": "uniform", "means": [1.0], "odds": [1.0], "half_width": 1.0}
    total, _ = durations_of_one_job_each(dict.fromkeys(("training", "download", "upload"), part))
    assert total.var() == pytest.approx(3 / 3, rel=0.05)


def test_any_free_client_is_equally_likely_also_the_one_that_just_arrived() -> None:
    """With N = K + 3 there are four to choose from at each dispatch; each way of having become free wins a quarter."""
    timeline = simulate_timeline(federation(8, 5, max_versions=8000), seed=2)
    arrived = timeline.client[timeline.arrivals]
    replaced_itself = arrived[:-1] == timeline.client[5 : 5 + len(arrived) - 1]
    assert replaced_itself.mean() == pytest.approx(0.25, abs=0.02)
    first = [simulate_timeline(federation(8, 5, max_versions=1), seed=seed).client[:5] for seed in range(800)]
    np.testing.assert_allclose(np.bincount(np.concatenate(first), minlength=8) / 800, 5 / 8, atol=0.07)


# ------------------------------------------------------------------------------------------- errors, cost, imports


def test_a_budget_that_ends_before_anything_arrives_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"max_sim_time = 0\.1 ends after 0 arrivals and before the first version: allow at least"
    ):
        simulate_timeline(federation(5, 3, max_sim_time=0.1), seed=0)


@given(seed=st.integers(0, 200), size=st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_the_budget_that_the_error_recommends_is_enough(seed: int, size: int) -> None:
    """Also where the buffer is larger than the concurrency, and although the number is rounded for the reader."""
    config = federation(5, 2, buffer_size=size, max_sim_time=0.1)
    with pytest.raises(ConfigError) as refusal:
        simulate_timeline(config, seed)
    recommended = float(str(refusal.value).rsplit("allow at least ", 1)[1])
    enough = FederationConfig.model_validate({**config.model_dump(), "max_sim_time": recommended})
    assert simulate_timeline(enough, seed).num_versions >= 1


@pytest.mark.parametrize("num_clients", [20, 20_000])
def test_work_per_job_does_not_depend_on_the_number_of_clients(num_clients: int) -> None:
    """Counted, not timed: one pick and one duration a job, and no client is looked at that has no job."""
    rng, picks, asked = np.random.default_rng(0), [], []

    def uniform() -> float:
        picks.append(rng.random())
        return picks[-1]

    def duration(client: int) -> float:
        asked.append(client)
        return 1.0 + rng.random()

    timeline = play(federation(num_clients, 10, max_versions=300), duration, uniform, np.zeros(num_clients))
    assert len(timeline.client) == 309  # K, and one for every arrival but the last
    assert len(picks) == 309
    assert asked == timeline.client.tolist()


def test_simulating_needs_neither_torch_nor_pandas() -> None:
    seen = run_python(
        "import sys\n"
        "from fedrevive_core import build, simulate_timeline\n"
        "federation = build('cifar10', 'fedrevive', overrides={'federation.max_sim_time': 3.0}).federation\n"
        "print(simulate_timeline(federation, 0).num_versions > 0)\n"
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules\n"
    )
    assert seen.strip() == "True"


def test_a_timeline_cannot_be_changed() -> None:
    timeline = scripted(federation(3, 1, max_versions=1), [1])
    with pytest.raises(AttributeError):
        timeline.client = np.array([1])
    assert replace(timeline, client=np.array([1])).client.tolist() == [1]


def test_speed_groups_are_thirds_from_fast_to_slow() -> None:
    mean = np.array([3.0, 1.0, 2.0, 1.0, 3.0, 2.0, 1.5])
    groups = speed_groups(mean)
    assert list(groups) == ["fast", "medium", "slow"]
    assert {name: clients.tolist() for name, clients in groups.items()} == {
        "fast": [1, 3, 6],
        "medium": [2, 5],
        "slow": [0, 4],
    }
    everyone = np.concatenate(list(groups.values()))
    assert sorted(everyone.tolist()) == list(range(7))
    assert all(mean[one] <= mean[other] for one, other in pairwise(everyone.tolist()))


def test_training_groups_of_the_hand_worked_timeline() -> None:
    """K = 2, jobs lasting 2, 5, 1, 1, 9: arrivals are jobs 0 (t = 2), 2 (3), 3 (4), 1 (5).

    Before arrival 0 both first jobs are trained; job 2 starts after it and is needed at arrival 1, job 3 at arrival 2;
    job 1 was trained with job 0.
    """
    played = scripted(federation(3, 2, max_sim_time=None, max_versions=4), [2.0, 5.0, 1.0, 1.0, 9.0])
    assert played.arrivals.tolist() == [0, 2, 3, 1]
    assert {number: jobs.tolist() for number, jobs in played.training_groups.items()} == {0: [0, 1], 1: [2], 2: [3]}


@given(seed=st.integers(0, 50), buffer_size=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_every_job_is_trained_once_before_it_arrives_and_after_its_version_exists(seed: int, buffer_size: int) -> None:
    played = simulate_timeline(federation(30, 12, buffer_size=buffer_size, max_sim_time=None, max_versions=30), seed)
    trained: list[int] = []
    for number, job in enumerate(played.arrivals.tolist()):
        group = played.training_groups.get(number, np.array([], dtype=int)).tolist()
        assert all(played.base_version[member] <= number // buffer_size for member in group)
        trained += group
        assert job in trained
    assert sorted(trained) == sorted(played.arrivals.tolist())
