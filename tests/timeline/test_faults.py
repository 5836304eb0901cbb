"""Faults in the federation: when they happen, what they upload, what the server makes of it, what the record says."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import constant, federation, small, steady
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedrevive_core.config.faults import FAULTS, FaultsConfig
from fedrevive_core.config.federation import SCHEDULES, FederationConfig
from fedrevive_core.config.presets import PRESETS, build
from fedrevive_core.config.run import ServerConfig, StalenessConfig
from fedrevive_core.errors import ConfigError
from fedrevive_core.evaluation import diverged
from fedrevive_core.models.state import StateLayout
from fedrevive_core.server import LARGEST, METRICS, Server, Upload
from fedrevive_core.simulation.simulation import Simulation, run
from fedrevive_core.timeline.delays import delay_draws, fault_codes
from fedrevive_core.timeline.event_loop import play, simulate_timeline
from fedrevive_core.timeline.timeline import Timeline
from fedrevive_core.training import apply_fault

EVERY = {
    "never_return": 0.08, "timeout": 3.0, "crash": 0.08, "drop_out": 0.06, "duplicate": 0.08,
    "non_finite": 0.08, "wrong_size": 0.08, "sign_flip": 0.08, "scaled": 0.08,
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


def with_faults(method: str, faults: dict[str, Any], **overrides: Any):
    return small(method, **{f"federation__faults__{name}": value for name, value in faults.items()}, **overrides)


# --- timelines worked by hand ----------------------------------------------------------------------------------------


def scripted(config: FederationConfig, durations: list[float], faults: dict[int, str], share: float = 0.5) -> Timeline:
    """A timeline of jobs with `durations` and `faults` (by job number); crashes come after `share` of a job."""
    lasts, numbers = iter(durations), iter(range(100))
    return play(
        config,
        lambda client: next(lasts),
        lambda: 0.0,
        np.zeros(config.num_clients),
        lambda: FAULTS.index(faults.get(next(numbers), "")),
        lambda: share,
    )


def test_a_job_that_never_returns_holds_its_slot_until_the_timeout():
    """Two slots, timeout 2.5; every other job lasts 1.

        time       0         1         2    2.5  3    3.5
        version    0         1         2         3    4
        job 0      x/////////////////////////                from 0, lost; its slot reopens at 2.5
        job 1      |---------|                               from 0, arrives at 0: staleness 0
        job 2                |---------|                     from 1, arrives at 1: staleness 0
        job 3                          |---------|           from 2, arrives at 2: staleness 0
        job 4                               |---------|      from 2, arrives at 3: staleness 1
        job 5                                    |-------    from 3, still in flight at the end

    Job 0 is not among the arrivals and never trained; nobody knows how long it would have lasted.
    """
    config = federation(4, 2, max_versions=4, faults={"never_return": 0.1, "timeout": 2.5})
    timeline = scripted(config, [1, 1, 1, 1, 1, 9], {0: "never_return"})
    assert timeline.arrivals.tolist() == [1, 2, 3, 4]
    assert timeline.lost.tolist() == [0]
    assert timeline.dispatch_time.tolist() == [0, 0, 1, 2, 2.5, 3]
    assert timeline.arrival_time[0] == 2.5
    assert timeline.base_version.tolist() == [0, 0, 1, 2, 2, 3]
    assert timeline.staleness.tolist() == [-1, 0, 0, 0, 1, -1]
    assert timeline.in_flight(2.4).tolist() == [0, 3]
    assert timeline.in_flight(2.5).tolist() == [3, 4]
    assert [jobs.tolist() for jobs in timeline.training_groups.values()] == [[1], [2], [3, 4]]
    assert timeline.jobs()["fault"].tolist() == ["never_return", "", "", "", "", ""]
    assert timeline.summary()["never_return"] == 1


def test_a_crash_frees_its_slot_at_once():
    """Job 0 would last 4 and crashes after a quarter of it; its slot is filled from a version not yet replaced.

    time       0         1         2         3
    version    0                   1         2, 3
    job 0      x//////////                          from 0, crashes at 1
    job 1      |-------------------|                from 0, arrives at 0: staleness 0
    job 2                |-------------------|      from 0, arrives at 1: staleness 1
    job 3                          |---------|      from 1, arrives at 2, just after job 2: staleness 1
    """
    config = federation(4, 2, max_versions=3, faults={"crash": 0.1})
    timeline = scripted(config, [4, 2, 2, 1, 9, 9], {0: "crash"}, share=0.25)
    assert timeline.lost.tolist() == [0]
    assert timeline.dispatch_time.tolist() == [0, 0, 1, 2, 3]
    assert timeline.arrivals.tolist() == [1, 2, 3]
    assert timeline.arrival_staleness.tolist() == [0, 1, 1]
    assert timeline.fault_counts() == {"crash": 1}


def test_clients_leave_until_nobody_is_left():
    """Three clients, two slots; each leaves after its job. At time 2 a slot stays open, at 4 the federation is dry."""
    config = federation(3, 2, max_versions=10, faults={"drop_out": 0.5})
    timeline = scripted(config, [1, 2, 3], dict.fromkeys(range(3), "drop_out"))
    assert timeline.arrivals.tolist() == [0, 1, 2]
    assert sorted(timeline.client.tolist()) == [0, 1, 2]
    assert timeline.arrival_time.tolist() == [1, 2, 4]
    assert timeline.num_versions == 3
    assert timeline.ran_dry
    assert len(timeline.in_flight(3.0)) == 1
    assert timeline.fault_counts() == {"drop_out": 3}
    assert timeline.fault_counts(2) == {"drop_out": 2}


def test_one_that_stays_keeps_the_federation_going():
    config = federation(2, 2, max_versions=4, faults={"drop_out": 0.5})
    timeline = scripted(config, [1, 2, 2, 2, 2], {0: "drop_out"})
    assert timeline.arrivals.tolist() == [0, 1, 2, 3]
    assert timeline.dispatch_time.tolist() == [0, 0, 2, 4]
    assert not timeline.ran_dry


def test_a_federation_that_dries_up_before_its_first_version_is_refused():
    config = federation(3, 2, buffer_size=4, max_versions=1, faults={"drop_out": 0.5})
    with pytest.raises(ConfigError, match=r"drop_out: every client has left after 3 arrivals and before the first ver"):
        scripted(config, [1, 2, 3], dict.fromkeys(range(3), "drop_out"))


def test_a_duplicated_upload_arrives_again_at_once():
    """The first copy opens the slot, which is refilled, and the second follows before anything else at that time.

    time       0         1         2
    version    0         1         2, 3
    job 0      |-------------------||     from 0; arrives at 1: staleness 1, and at 2: staleness 2
    job 1      |---------|                from 0; arrives at 0: staleness 0
    job 3                          |---   from 2, which the first copy made
    """
    config = federation(4, 2, max_versions=3, faults={"duplicate": 0.1})
    timeline = scripted(config, [2, 1, 5, 9], {0: "duplicate"})
    assert timeline.arrivals.tolist() == [1, 0, 0]
    assert timeline.is_copy.tolist() == [False, False, True]
    assert timeline.arrival_staleness.tolist() == [0, 1, 2]
    assert timeline.staleness.tolist() == [1, 0, -1, -1]
    assert timeline.base_version.tolist() == [0, 0, 1, 2]
    assert timeline.dispatch_time.tolist() == [0, 0, 1, 2]
    assert [FAULTS[code] for code in timeline.arrival_fault] == ["", "", "duplicate"]
    assert {number: jobs.tolist() for number, jobs in timeline.training_groups.items()} == {0: [0, 1]}
    assert timeline.fault_counts(2) == {}, "the copy has not come yet"


def test_what_happens_after_the_end_is_not_counted():
    """The run ends at time 2; the crash at 2.5 and the upload at 3 would have been faults."""
    config = federation(4, 3, max_sim_time=2.0, faults={"crash": 0.1})
    timeline = scripted(config, [1, 5, 3, 9, 9], {1: "crash", 2: "scaled"})
    assert timeline.arrivals.tolist() == [0]
    assert timeline.fault_counts() == {}


# --- limits and properties of timelines ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "schedule", "wanted", "total"),
    [
        ("fedavg", "default", "4df77bea26693db0", 6126.142768147059),
        ("fedrevive", "default", "1a199d5be8682ca6", 26238.909694173744),
        ("fedrevive", "shifted", "3f07876f44d42004", 3086.476226382202),
    ],
)
def test_without_faults_timelines_are_what_they_were_before_there_were_any(method, schedule, wanted, total):
    timeline = simulate_timeline(build("lab-digits", method, schedule=schedule).federation, 3)
    numbers = np.concatenate([timeline.client, timeline.dispatched_after, timeline.arrivals]).astype("<i8")
    assert hashlib.sha256(numbers.tobytes()).hexdigest()[:16] == wanted
    assert timeline.arrival_time.sum() == pytest.approx(total, rel=1e-12)
    assert not timeline.fault.any()
    assert len(timeline.lost) == 0


def test_faults_of_the_upload_leave_the_timeline_as_it_is():
    only_corrupt = {"non_finite": 0.2, "wrong_size": 0.2, "sign_flip": 0.2, "scaled": 0.2}
    plain, faulty = (simulate_timeline(federation(12, 5, max_versions=300, faults=f), 1) for f in ({}, only_corrupt))
    for column in ("client", "dispatch_time", "arrival_time", "dispatched_after", "arrivals"):
        np.testing.assert_array_equal(getattr(plain, column), getattr(faulty, column))
    assert len(np.unique(faulty.fault)) == 5


@pytest.mark.parametrize("fault", ["never_return", "crash", "drop_out", "duplicate"])
def test_a_fault_takes_no_draws_from_other_jobs(fault):
    """With one mean for everybody, what job j lasts depends on j alone, whatever became of the jobs before it."""
    exponential = {"kind": "exponential", "means": [1.0], "odds": [1.0]}
    values = {"schedule": {**steady(0.1), "training": exponential}, "max_versions": 200}
    plain, faulty = (
        simulate_timeline(federation(300, 20, **values, faults=faults), 1)
        for faults in ({}, {fault: 0.2, "timeout": 4.0})
    )
    assert plain.client[:20].tolist() == faulty.client[:20].tolist()
    common = min(len(plain.client), len(faulty.client))
    whole = ~np.isin(faulty.fault[:common], [FAULTS.index("never_return"), FAULTS.index("crash")])
    lasts = [(t.arrival_time - t.dispatch_time)[:common][whole] for t in (plain, faulty)]
    np.testing.assert_allclose(*lasts, rtol=0, atol=1e-9)
    assert faulty.fault_counts()[fault] > 10


@st.composite
def faulty_federations(draw: st.DrawFn) -> FederationConfig:
    num_clients = draw(st.integers(1, 12))
    concurrency = draw(st.integers(1, num_clients))
    faults = {name: draw(st.sampled_from([0.0, 0.02, 0.12])) for name in FAULTS[1:]}
    return federation(
        num_clients,
        concurrency,
        buffer_size=draw(st.integers(1, 5)),
        refill_size=draw(st.integers(1, concurrency)),
        schedule=draw(st.sampled_from(["default", "stragglers", steady(1.0)])),
        max_versions=draw(st.integers(1, 15)),
        max_sim_time=draw(st.sampled_from([None, 40.0])),
        faults={**faults, "timeout": 2.0},
    )


@given(config=faulty_federations(), seed=st.integers(0, 999))
@settings(max_examples=120, deadline=None)
def test_properties_of_timelines_with_faults(config: FederationConfig, seed: int) -> None:
    try:
        timeline = simulate_timeline(config, seed)
    except ConfigError:  # everybody left, or time was up, before the first version
        assume(False)
    kinds = np.array(FAULTS)[timeline.fault]
    arrived, lost = timeline.arrivals, timeline.lost
    assert not set(arrived) & set(lost)
    assert np.isin(kinds[lost], ["never_return", "crash"]).all()
    assert not np.isin(kinds[arrived], ["never_return", "crash"]).any()
    # A job arrives once, one that is duplicated at most twice, and then twice in a row.
    jobs, times = np.unique(arrived, return_counts=True)
    assert (times <= np.where(kinds[jobs] == "duplicate", 2, 1)).all()
    assert timeline.is_copy.sum() == (times == 2).sum()
    assert (np.diff(timeline.arrival_time[arrived]) >= 0).all()
    assert (timeline.arrival_staleness >= 0).all()
    assert (np.diff(timeline.dispatched_after) >= 0).all()
    # A client has one job at a time, and none after it has left.
    for client in range(config.num_clients):
        own = np.flatnonzero(timeline.client == client)
        assert (timeline.dispatch_time[own[1:]] >= timeline.arrival_time[own[:-1]]).all()
        assert not (kinds[own[:-1]] == "drop_out").any()
    for time in timeline.dispatch_time:
        assert len(timeline.in_flight(time)) <= config.concurrency
    # The run ends where it should, and every job that arrives is trained exactly once, no other.
    if not timeline.ran_dry and config.max_sim_time is None:
        assert timeline.num_versions == config.max_versions
    trained = np.concatenate(list(timeline.training_groups.values()))
    assert sorted(trained.tolist()) == sorted(set(arrived.tolist()))
    assert sum(timeline.fault_counts().values()) == len(lost) + (timeline.arrival_fault > 0).sum()


# --- draws and configuration -----------------------------------------------------------------------------------------


def test_codes_divide_the_unit_interval():
    """never_return below 0.25, scaled from there to 0.75, nothing above."""
    faults = FaultsConfig(never_return=0.25, timeout=1.0, scaled=0.5)
    codes = fault_codes(faults, np.array([0.0, 0.2499, 0.25, 0.7499, 0.75, 0.9999]))
    assert [FAULTS[code] for code in codes] == ["never_return", "never_return", "scaled", "scaled", "", ""]


def test_faults_come_as_often_as_they_should():
    timeline = simulate_timeline(federation(500, 100, max_versions=20_000, faults={**EVERY, "drop_out": 0.005}), 0)
    share = np.bincount(timeline.fault, minlength=len(FAULTS)) / len(timeline.fault)
    wanted = [timeline.federation.faults.probabilities[code] for code in range(len(FAULTS) - 1)]
    np.testing.assert_allclose(share[1:], wanted, atol=0.01)


def test_crashes_are_uniform_within_the_job():
    config = federation(2000, 2000, schedule=steady(1.0), max_versions=1, faults={"crash": 0.5})
    timeline = simulate_timeline(config, 0)
    crashed = timeline.fault[:2000] == FAULTS.index("crash")
    at = np.sort((timeline.arrival_time - timeline.dispatch_time)[:2000][crashed])
    assert np.abs(at - np.arange(1, len(at) + 1) / len(at)).max() < 1.95 / len(at) ** 0.5  # Kolmogorov-Smirnov


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        ({"never_return": 0.1}, "never_return = 0.1 needs timeout"),
        ({"sign_flip": 0.6, "scaled": 0.6}, "sum to 1.2: at most 1"),
        ({"crash": 0.6, "never_return": 0.4, "timeout": 1.0}, "lose every job: their sum must be below 1"),
        ({"crash": 1.5}, "federation.faults.crash = 1.5"),
        ({"timeout": 0.0}, "federation.faults.timeout = 0.0"),
        ({"crashes": 0.5}, "federation.faults.crashes is unknown: did you mean 'crash'?"),
    ],
)
def test_faults_that_cannot_be_are_refused(faults, words):
    with pytest.raises(ConfigError) as refusal:
        with_faults("fedbuff", faults)
    assert words in str(refusal.value)


MANY = 20_000


def drawn(kind: str, **values: Any) -> np.ndarray:
    """Sorted durations of one job of each of MANY clients whose mean is 2."""
    delay = {"kind": kind, "means": [2.0], "odds": [1.0], **values}
    mean, duration = delay_draws(federation(MANY, 1, schedule={**steady(0.0), "training": delay}, max_versions=1), 0)
    assert (mean == 2.0).all()
    return np.sort([duration(client) for client in range(MANY)])


def test_lognormal_durations_keep_the_clients_mean():
    lasted = drawn("lognormal", sigma=0.8)
    deviation = 2 * math.sqrt(math.exp(0.8**2) - 1)
    assert lasted.mean() == pytest.approx(2.0, abs=4 * deviation / MANY**0.5)
    assert np.log(lasted).std() == pytest.approx(0.8, rel=0.02)


def test_pareto_durations_keep_the_clients_mean():
    """Shape 2.5: none below 2 * 1.5 / 2.5 = 1.2, longer than x with probability (1.2 / x)^2.5, variance 3.2."""
    lasted = drawn("pareto", shape=2.5)
    assert lasted.mean() == pytest.approx(2.0, abs=4 * 3.2**0.5 / MANY**0.5)
    below = np.arange(1, MANY + 1) / MANY
    assert np.abs(below - (1 - (1.2 / lasted) ** 2.5)).max() < 1.95 / MANY**0.5  # Kolmogorov-Smirnov
    assert lasted[0] >= 1.2


def test_a_pareto_shape_without_a_mean_is_refused():
    with pytest.raises(ConfigError, match=r"shape = 1\.0: input should be greater than 1"):
        small("fedbuff", federation__schedule={**steady(1.0), "upload": {**constant(1.0), "shape": 1.0}})


def test_schedules_without_a_budget_have_the_mean_durations_of_the_default():
    """The rule by which they borrow its budget; and "stragglers" are stragglers: half of the jobs are quicker."""
    for preset in PRESETS.values():
        for name in set(SCHEDULES) - set(preset.sim_time):
            for part, delay in SCHEDULES[name].items():
                default = SCHEDULES["default"][part]
                assert (delay["means"], delay["odds"]) == (default["means"], default["odds"])
    config = build("lab-digits", "fedbuff", schedule="stragglers").federation
    assert config.max_sim_time == 30.0
    timelines = [
        simulate_timeline(federation(5000, 5000, schedule=name, max_versions=1), 0)
        for name in ("default", "stragglers")
    ]
    default, stragglers = (np.sort((t.arrival_time - t.dispatch_time)[:5000]) for t in timelines)
    assert stragglers[2500] < default[2500]
    assert stragglers[-5] > 3 * default[-5]


# --- what faulty clients upload --------------------------------------------------------------------------------------


def test_corrupted_uploads_by_hand():
    """BatchNorm of one channel: parameters (weight, bias), statistics (mean, var). Downloaded 1, returned 3."""
    layout = StateLayout(nn.BatchNorm1d(1))
    downloaded, returned = torch.ones(4), torch.full((4,), 3.0)
    made = {fault: apply_fault(layout, downloaded, returned, fault, scale=10.0) for fault in FAULTS}
    assert made["sign_flip"].tolist() == [-1, -1, 3, 3]
    assert made["scaled"].tolist() == [21, 21, 3, 3]
    assert made["wrong_size"].tolist() == [3, 3, 3]
    assert math.isnan(made["non_finite"][0])
    assert made["non_finite"][1:].tolist() == [3, 3, 3]
    for fault in ("", "duplicate", "drop_out"):
        assert made[fault] is returned
    assert returned.tolist() == [3] * 4
    assert downloaded.tolist() == [1] * 4


# --- what the server makes of uploads --------------------------------------------------------------------------------


def tiny_server(buffer_size: int = 1, **values: Any) -> Server:
    """Of a linear model with 3 parameters, all 0."""
    config = federation(4, 4, buffer_size=buffer_size, max_versions=1)
    staleness = StalenessConfig(rule="constant", constant=0.0)
    layout = StateLayout(nn.Linear(3, 1, bias=False))
    return Server(torch.zeros(3), layout, ServerConfig(**{"lr": 1.0, **values}), staleness, config)


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        (torch.zeros(2), "client update of wrong size"),
        (torch.zeros(1, 3), "client update of wrong size"),
        (torch.zeros(3, dtype=torch.float64), "client update of wrong type"),
        (torch.tensor([0.0, math.nan, 0.0]), "client update not finite"),
        (torch.tensor([0.0, math.inf, 0.0]), "client update not finite"),
        (torch.tensor([0.0, -2e38, 0.0]), "client update too large"),
        (torch.ones(3), ""),
    ],
)
def test_rejections_by_reason(returned, reason):
    server = tiny_server()
    receipt = server.receive(Upload(0, 0, torch.zeros(3), returned))
    assert receipt.rejected == reason
    assert server.version == 1
    assert server.state.tolist() == ([0.0] * 3 if reason else [1.0] * 3)


def test_a_second_copy_is_rejected_and_another_job_is_not():
    server = tiny_server()
    receipts = [server.receive(Upload(0, 0, torch.zeros(3), torch.ones(3), job=job)) for job in (7, 7, 8)]
    assert [receipt.rejected for receipt in receipts] == ["", "duplicate upload", ""]
    assert server.state.tolist() == [2.0] * 3


def test_steps_that_add_up_to_an_overflow_are_stopped_in_time():
    """Each is finite and so is every single new version; without the bound the fourth would overflow."""
    server = tiny_server()
    rejected = [server.receive(Upload(0, 0, torch.zeros(3), torch.full((3,), 4e37))).rejected for _ in range(12)]
    assert rejected == ["", ""] + ["client update too large"] * 10
    assert server.state.max() == pytest.approx(8e37)


def test_clipping_by_hand():
    """(3, 4, 0) has length 5; at most 2.5 is half of it. (0, 1, 0) stays. Norms are recorded as they came."""
    server = tiny_server(clip_norm=2.5)
    updates = torch.tensor([[3.0, 4.0, 0.0], [0.0, 1.0, 0.0]])
    receipts = [server.receive(Upload(0, 0, torch.zeros(3), update)) for update in updates]
    assert server.state.tolist() == [1.5, 3.0, 0.0]
    assert [r.metrics[METRICS.index("client_norm")].item() for r in receipts] == [5.0, 1.0]


def test_a_teacher_is_clipped_with_its_update():
    server = (simulation := Simulation(small("fedrevive", server__clip_norm=0.5))).server
    start = server.state.clone()
    for upload in (start + 1.0, start + 1e-4):
        server.receive(Upload(0, 0, start, upload))
    short, long = (teacher.state - start for teacher in simulation.reviver.buffer)
    parameters = simulation.layout.parameters
    assert parameters(long).norm().item() == pytest.approx(0.5, rel=1e-4)
    assert long[-1].item() == pytest.approx(1.0), "statistics stay"
    assert torch.equal(short, (start + 1e-4) - start)


def test_a_limit_that_no_update_reaches_changes_no_bit():
    plain, clipped = (run(small("fedrevive", **c), progress=False) for c in ({}, {"server__clip_norm": 1e6}))
    assert clipped.summary["state_sha256"] == plain.summary["state_sha256"]
    assert clipped.summary["clipped_updates"] == 0


NUMBERS = st.one_of(
    st.sampled_from([math.nan, math.inf, -math.inf, 3.4e38, -3.4e38, 2e38, 1e38, -1e38, 5e37, 1e30, 1e19, 1e-45, 0.0]),
    st.floats(-1e3, 1e3, width=32),
)
DTYPES = st.sampled_from([torch.float64, torch.float16, torch.int64, torch.bool, torch.complex64])
# Three equal numbers, any three, and any number of them in any type. As float32 first, from where no cast is an error.
UPLOADS = st.one_of(
    NUMBERS.map(lambda number: torch.full((3,), number)),
    st.lists(NUMBERS, min_size=3, max_size=3).map(torch.tensor),
    st.tuples(st.lists(NUMBERS, max_size=4), DTYPES).map(lambda pair: torch.tensor(pair[0]).float().to(pair[1])),
)


@given(
    uploads=st.lists(UPLOADS, min_size=4, max_size=20),
    buffer_size=st.integers(1, 4),
    values=st.fixed_dictionaries(
        {
            "lr": st.sampled_from([0.05, 1.0, 30.0]),
            "clip_norm": st.sampled_from([None, 1.0]),
            "update_from": st.sampled_from(["downloaded", "current"]),
        }
    ),
)
@settings(max_examples=100, deadline=None)
def test_nothing_that_is_uploaded_makes_the_model_non_finite(uploads, buffer_size, values):
    server = tiny_server(buffer_size, **values)
    for returned in uploads:
        receipt = server.receive(Upload(0, 3, torch.full((3,), 0.5), returned))
        assert server.state.isfinite().all()
        assert server.state.abs().max() <= LARGEST * 1.0001
        assert receipt.rejected or (returned.dtype == torch.float32 and returned.isfinite().all())
    assert server.version == len(uploads) // buffer_size


WILD = st.sampled_from(["nan", "inf", "size", "type", "1e38", "3e38", "1e30", "1e12", "1e4", "honest"])


def wild(kind: str, state: Tensor) -> Tensor:
    if kind == "size":
        return state[:-3]
    if kind == "type":
        return state.double()
    if kind == "honest":
        return state + 0.01
    upload = state.clone()
    upload[::7] = float(kind)
    return upload


@pytest.mark.parametrize("method", ["fedrevive", "dd-fedrevive"])
@given(kinds=st.lists(WILD, min_size=3, max_size=6))
@settings(max_examples=12, deadline=None)
def test_nothing_that_is_uploaded_spoils_what_revives(method, kinds):
    """Model, teachers, class proportions, generator and pool stay finite; what is rejected is no teacher."""
    simulation = Simulation(small(method, revival__warmup=None, synthesis__every=1))
    server, reviver = simulation.server, simulation.reviver
    accepted = 0
    for client, kind in enumerate(kinds):
        receipt = server.receive(Upload(client, 75, server.state, wild(kind, server.state), job=client))
        accepted += not receipt.rejected.startswith("client")
        assert server.state.isfinite().all()
        assert len(reviver.buffer) == min(accepted, reviver.config.num_teachers)
    assert all(teacher.state.isfinite().all() for teacher in reviver.buffer)
    assert all(np.isfinite(reviver.proportions.of(teacher.client)).all() for teacher in reviver.buffer)
    assert reviver.pool.samples.isfinite().all()
    if reviver.synthesizer is not None:
        assert all(parameter.isfinite().all() for parameter in reviver.synthesizer.generator.parameters())


# --- whole runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fedavg", "fedasync-poly", "fedrevive"])
def test_every_fault_is_accounted_for(method):
    versions = 8 if method == "fedavg" else 40
    config = with_faults(method, EVERY, federation__max_versions=versions, federation__num_clients=40)
    simulation = Simulation(config)
    record, timeline = simulation.run(progress=False), simulation.timeline
    assert record.summary["num_versions"] == versions
    assert all(np.isfinite(tensor).all() for tensor in record.model.values())

    faults, arrivals = record.summary["faults"], record.arrivals
    assert faults == timeline.fault_counts()
    assert set(faults) == set(FAULTS[1:]), "otherwise this run shows less than it should"
    shown = arrivals.loc[arrivals["fault"] != "", "fault"].value_counts().to_dict()
    lost = timeline.jobs()["fault"][timeline.lost].value_counts().to_dict()
    assert faults == shown | lost

    rejected = record.summary["rejected"]
    assert rejected["duplicate upload"] == faults["duplicate"]
    assert rejected["client update of wrong size"] == faults["wrong_size"]
    # On a wild model honest clients may fail too.
    assert rejected["client update not finite"] >= faults["non_finite"]
    assert sum(rejected.values()) == record.summary["rejected_uploads"]
    by_fault = arrivals.groupby("fault")["rejected"].unique()
    assert by_fault["duplicate"].tolist() == ["duplicate upload"]
    assert by_fault["wrong_size"].tolist() == ["client update of wrong size"]
    assert by_fault["non_finite"].tolist() == ["client update not finite"]

    trained = int(record.timings.set_index("part").loc["training", "calls"])
    assert trained == len(set(timeline.arrivals.tolist())) == len(arrivals) - faults["duplicate"]
    assert (arrivals["staleness"] >= 0).all()
    assert not simulation.snapshots
    assert not simulation.returned


def test_a_run_that_stops_early_counts_the_faults_until_then():
    stops = {"evaluation__every": 2, "evaluation__target_accuracy": 0.01}
    config = with_faults("fedbuff", EVERY, federation__max_versions=40, **stops)
    simulation = Simulation(config)
    record = simulation.run(progress=False)
    assert record.summary["stopped"] == "target accuracy reached"
    assert record.summary["num_versions"] == 2
    assert record.summary["faults"] == simulation.timeline.fault_counts(record.summary["num_arrivals"])
    assert sum(record.summary["faults"].values()) < sum(simulation.timeline.fault_counts().values())


def test_clipping_is_counted():
    record = run(with_faults("fedbuff", {"scaled": 0.3}, server__clip_norm=3.0), progress=False)
    long = record.arrivals["client_norm"] > 3.0
    assert record.summary["clipped_updates"] == long.sum() > 0
    assert long[record.arrivals["fault"] == "scaled"].all()


def test_a_federation_that_runs_dry_ends_the_run_and_says_so(capsys):
    config = with_faults("fedbuff", {"drop_out": 0.4}, federation__max_versions=None, federation__max_sim_time=500.0)
    record = run(config)
    assert record.summary["stopped"] == "every client has left the federation"
    assert record.summary["faults"]["drop_out"] == 14
    assert record.summary["sim_time"] == record.evaluations["sim_time"].iloc[-1] < 500
    assert "stopped at time" in (said := capsys.readouterr().err)
    assert "every client has left the federation" in said


# --- early stop ------------------------------------------------------------------------------------------------------


def rows(losses: list[float], accuracy: float = 0.5) -> list[dict[str, float]]:
    return [{"loss": loss, "accuracy": accuracy, "sim_time": float(time)} for time, loss in enumerate(losses)]


def test_ten_losses_in_a_row_that_are_not_finite():
    bad, good = [math.nan, math.inf] * 5, [1.0] * 3
    assert diverged(rows(good + bad), 10, 1e9) == "diverged: loss not finite in 10 evaluations in a row"
    assert diverged(rows(good + bad[:9]), 10, 1e9) == ""
    assert diverged(rows(bad[:5] + good + bad[:5]), 10, 1e9) == ""


def test_ten_accuracies_in_a_row_at_chance_from_the_stated_time_on():
    """Chance among 10 classes reaches to 0.15; the last ten of 15 evaluations are at times 5 to 14."""
    assert diverged(rows([1.0] * 15, 0.15), 10, 5.0) == "diverged: accuracy at chance in 10 evaluations in a row"
    assert diverged(rows([1.0] * 15, 0.15), 10, 5.5) == ""
    assert diverged(rows([1.0] * 15, 0.151), 10, 0.0) == ""
    assert diverged(rows([1.0] * 9, 0.1), 10, 0.0) == ""


@pytest.mark.parametrize(
    ("lr", "chance_from", "reason"), [(1e34, 1e9, "loss not finite"), (1e-30, 0.0, "accuracy at chance")]
)
def test_a_diverged_run_stops_if_asked_to_and_says_so(lr, chance_from, reason, capsys):
    config = small("fedbuff", server__lr=lr, evaluation__every=1, evaluation__stop_diverged=chance_from)
    record = run(config)
    assert reason in record.summary["stopped"]
    assert record.summary["num_versions"] < 16
    assert reason in capsys.readouterr().err
    whole = run(small("fedbuff", server__lr=lr, evaluation__every=1), progress=False)
    assert whole.summary["stopped"] == ""
    assert whole.summary["num_versions"] == 16
