"""Devices that come and go: a timeline worked by hand, properties of every one, the synthetic trace, and bad tables."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrevive_core.config import CRASH, NEVER_RETURN, PRESETS, FederationConfig, build
from fedrevive_core.config.price import DATA, state_values
from fedrevive_core.errors import ConfigError
from fedrevive_core.models import StateLayout, build_model, build_text_model
from fedrevive_core.seeding import stream
from fedrevive_core.timeline.event_loop import play, simulate_timeline
from fedrevive_core.timeline.presence import Presence, presence_of
from fedrevive_core.timeline.timeline import Timeline
from fedrevive_core.timeline.traces import DeviceTrace, read_trace, synthetic_trace

# Client 0 is there from 0 to 10 and from 40 to 50; client 1 from 5 to 25; client 2 never. A period has 50 seconds.
AVAILABILITY = "client,from,to\n1,5,25\n0,40,50\n0,0,10\n"
# A job of 2 steps with 100 bytes each way takes client 0 1 + 2 x 3 + 2 = 9 seconds, and client 1 2 + 2 x 1 + 4 = 8.
SPEED = "client,seconds_per_step,down_bytes_per_second,up_bytes_per_second\n0,3,100,50\n1,1,50,25\n2,1,1,1\n"


def write(directory: Path, availability: str = AVAILABILITY, speed: str = SPEED) -> Path:
    (directory / "availability.csv").write_text(availability, encoding="utf-8")
    (directory / "speed.csv").write_text(speed, encoding="utf-8")
    return directory


def federation(trace: Path | str, num_clients: int, concurrency: int, **changes: Any) -> FederationConfig:
    devices = {"trace": str(trace), "steps": 2, "model_bytes": 100, **changes.pop("devices", {})}
    values = {"num_clients": num_clients, "concurrency": concurrency, "schedule": "devices", "devices": devices}
    return FederationConfig.from_dict({**values, "max_versions": 6, **changes})


# -------------------------------------------------------------------------------------------------------- by hand


def by_hand(tmp_path: Path, lost: bool) -> Timeline:
    presence = Presence(read_trace(write(tmp_path)), np.array([0, 1]), np.array([9.0, 8.0]), 1.0, lost)
    config = federation(tmp_path, 2, 2)
    return play(config, presence.work.tolist().__getitem__, lambda: 0.0, presence.mean_duration, presence=presence)


def jobs(timeline: Timeline, client: int) -> list[tuple[float, float]]:
    mine = timeline.client == client
    return list(zip(timeline.dispatch_time[mine].tolist(), timeline.arrival_time[mine].tolist(), strict=True))


def test_paused_jobs_continue_when_their_device_is_there_again(tmp_path: Path) -> None:
    """Client 0 works from 0 to 9; from 9 to 10 and 40 to 48; from 48 to 50, and 50 to 57 when the trace begins again.

    Client 1 works from 5 to 13, 13 to 21, and from 21 to 25 and 55 to 59. Its device is there for 20 of 50 seconds, as
    is that of client 0, so jobs take 2.5 times as long as their work on average.
    """
    timeline = by_hand(tmp_path, lost=False)
    assert jobs(timeline, 0) == [(0, 9), (9, 48), (48, 57), (57, 96)]
    assert jobs(timeline, 1) == [(5, 13), (13, 21), (21, 59)]
    assert timeline.arrival_time[timeline.arrivals].tolist() == [9, 13, 21, 48, 57, 59]
    assert timeline.staleness[timeline.arrivals].tolist() == [0, 1, 0, 2, 0, 2]
    assert len(timeline.lost) == 0
    assert timeline.mean_duration.tolist() == [9 * 50 / 20, 8 * 50 / 20]


def test_lost_jobs_end_with_their_interval(tmp_path: Path) -> None:
    """Client 0 delivers at 9, 49 and 59, and loses what it begins at 9, 49 and 59, at the end of the interval.

    The trace ends at 50, and with it the interval, although client 0 comes at once. Client 1 delivers at 13 and 21, and
    loses what it begins at 21.
    """
    timeline = by_hand(tmp_path, lost=True)
    assert jobs(timeline, 0) == [(0, 9), (9, 10), (40, 49), (49, 50), (50, 59), (59, 60)]
    assert jobs(timeline, 1) == [(5, 13), (13, 21), (21, 25), (55, 63)]
    assert timeline.arrival_time[timeline.arrivals].tolist() == [9, 13, 21, 49, 59, 63]
    assert timeline.arrival_time[timeline.lost].tolist() == [10, 25, 50, 60]
    assert set(timeline.fault[timeline.lost].tolist()) == {CRASH}
    assert timeline.mean_duration.tolist() == [9, 8]


def test_steps_bytes_and_speed_make_the_work(tmp_path: Path) -> None:
    presence = presence_of(federation(write(tmp_path), 2, 2), seed=0)
    assert sorted(presence.work) == [8, 9]
    presence = presence_of(federation(tmp_path, 2, 2, time_unit=4.0, devices={"steps": 1, "model_bytes": 200}), seed=0)
    assert sorted(presence.work) == [(2 + 3 + 4) / 4, (4 + 1 + 8) / 4]


def test_a_unit_of_time_only_changes_the_unit(tmp_path: Path) -> None:
    """A power of two divides exactly."""
    seconds = simulate_timeline(federation(write(tmp_path), 2, 2), seed=3)
    units = simulate_timeline(federation(tmp_path, 2, 2, time_unit=4.0), seed=3)
    for name in ("dispatch_time", "arrival_time", "mean_duration"):
        assert (getattr(seconds, name) == 4 * getattr(units, name)).all()


def test_the_mean_duration_is_that_of_jobs_begun_at_any_time_of_presence(tmp_path: Path) -> None:
    """Worked out slowly: a job is begun in every tenth of a second in which the device is there."""
    for device, work in ((0, 9.0), (1, 8.0), (0, 21.5), (1, 60.0), (0, 0.3)):
        presence = Presence(read_trace(write(tmp_path)), np.array([device]), np.array([work]), 1.0, lost=False)
        lasts = []
        for now in np.arange(0.05, 50, 0.1):
            presence.come([], now)
            if presence.until[0] > now:
                fits = now + work <= presence.until[0]
                lasts.append((now + work if fits else presence.outlasts(0, now, work)[0]) - now)
        assert len(lasts) == 200
        assert np.mean(lasts) == pytest.approx(presence.mean_duration[0])


def test_a_synchronous_round_waits_until_all_its_jobs_are_given_out() -> None:
    """FedAvg asks 80 clients; about 14 of 150 are there. Every job of a round starts from its version."""
    config = build("lab-digits", "fedavg", schedule="devices", overrides={"federation.max_sim_time": 1e6}).federation
    timeline = simulate_timeline(config, seed=0)
    assert timeline.num_versions > 10
    assert timeline.arrival_staleness.max() == 0
    assert len(set(timeline.dispatch_time[:80])) > 20


# ----------------------------------------------------------------------------------------------------- properties


@st.composite
def traces(draw: st.DrawFn) -> DeviceTrace:
    """Up to five devices in a period of 40 seconds, with ends on whole seconds; the first is always there once."""
    first, start, end = [0], [], []
    for device in range(draw(st.integers(1, 5))):
        size = draw(st.integers(0 if device else 1, 4))
        edges = sorted(draw(st.lists(st.integers(0, 40), min_size=2 * size, max_size=2 * size, unique=True)))
        start, end = start + edges[::2], end + edges[1::2]
        first.append(len(start))
    speeds = [draw(st.lists(st.integers(1, 9), min_size=len(first) - 1, max_size=len(first) - 1)) for _ in range(3)]
    arrays = (np.array(values, dtype=float) for values in (start, end))
    return DeviceTrace(np.array(first), *arrays, 40.0, *(np.array(values, dtype=float) for values in speeds))


@st.composite
def federations(draw: st.DrawFn, num_clients: int) -> FederationConfig:
    concurrency = draw(st.integers(1, num_clients))
    faults = draw(st.sampled_from([{}, {"crash": 0.2, "never_return": 0.2, "timeout": 30.0, "duplicate": 0.2}]))
    return federation(
        "hypothesis", num_clients, concurrency, refill_size=draw(st.integers(1, concurrency)), faults=faults,
        buffer_size=draw(st.integers(1, 3)), max_versions=draw(st.integers(1, 30)),
        devices={"steps": draw(st.integers(1, 4)), "model_bytes": draw(st.sampled_from([1, 20, 200])),
                 "unfinished": draw(st.sampled_from(["paused", "lost"]))},
    )  # fmt: skip


def there_between(trace: DeviceTrace, device: int, start: float, end: float) -> float:
    """Seconds in which the device is there from `start` to `end`, interval by interval."""
    total = 0.0
    for period in range(int(start // trace.period), int(end // trace.period) + 1):
        for row in range(trace.first[device], trace.first[device + 1]):
            begins, ends = trace.start[row] + period * trace.period, trace.end[row] + period * trace.period
            total += max(0.0, min(ends, end) - max(begins, start))
    return total


def is_there(trace: DeviceTrace, device: int, now: float) -> bool:
    rows = slice(trace.first[device], trace.first[device + 1])
    return bool(((trace.start[rows] <= now % trace.period) & (now % trace.period < trace.end[rows])).any())


@given(data=st.data(), trace=traces(), seed=st.integers(0, 99))
@settings(max_examples=120, deadline=None)
def test_properties_of_every_timeline(data: st.DataObject, trace: DeviceTrace, seed: int) -> None:
    usable = np.flatnonzero(np.diff(trace.first))
    config = data.draw(federations(data.draw(st.integers(1, len(usable)))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedrevive_core.timeline.presence.load_trace", lambda source: trace)
        patch.setenv("FEDREVIVE_MAX_COST", "0.0005")
        try:
            timeline, again = simulate_timeline(config, seed), simulate_timeline(config, seed)
        except ConfigError:  # no job can arrive, or next to none
            timeline = None
        if timeline is None:
            assert config.devices.unfinished == "lost" or any(config.faults.probabilities)
            return
        work = presence_of(config, seed).work
    of_client = usable[stream(seed, "clients").permutation(len(usable))]
    for name in ("client", "dispatch_time", "arrival_time", "arrivals", "lost", "fault"):
        assert (getattr(timeline, name) == getattr(again, name)).all()
    assert (timeline.arrival_time >= timeline.dispatch_time).all()
    assert not set(timeline.lost) & set(timeline.arrivals)
    for job, client in enumerate(timeline.client.tolist()):
        start, end = timeline.dispatch_time[job], timeline.arrival_time[job]
        assert is_there(trace, of_client[client], start)
        if job in timeline.arrivals:  # it had exactly the time that its work takes
            assert there_between(trace, of_client[client], start, end) == pytest.approx(work[client])
        if config.devices.unfinished == "lost" and job not in timeline.lost:
            assert end == start + work[client] or timeline.fault[job] in (CRASH, NEVER_RETURN)
    events = np.unique(np.append(timeline.dispatch_time, timeline.arrival_time))
    events = events[events < timeline.sim_time]
    for now in (events[1:] + events[:-1]) / 2:
        at_work = timeline.in_flight(now)
        assert len(at_work) <= config.concurrency
        assert len(set(timeline.client[at_work])) == len(at_work)
        if config.refill_size == 1 and len(at_work) < config.concurrency:  # a slot is open: nobody is there and free
            idle = set(range(config.num_clients)) - set(timeline.client[at_work].tolist())
            assert not [client for client in idle if is_there(trace, of_client[client], now)]


@given(seed=st.integers(0, 99), budget=st.floats(300, 3000), unfinished=st.sampled_from(["paused", "lost"]))
@settings(max_examples=20, deadline=None)
def test_a_timeline_comes_back_from_its_table(
    tmp_path_factory: pytest.TempPathFactory, seed: int, budget: float, unfinished: str
) -> None:
    overrides = {"federation.max_sim_time": budget, "federation.devices.unfinished": unfinished}
    timeline = simulate_timeline(
        build("lab-digits", "fedbuff", schedule="devices", overrides=overrides).federation, seed
    )
    path = tmp_path_factory.mktemp("devices") / "timeline.parquet"
    timeline.save(path)
    again = Timeline.load(path, timeline.federation)
    for name in ("client", "dispatch_time", "dispatched_after", "arrivals", "lost", "mean_duration"):
        assert (getattr(timeline, name) == getattr(again, name)).all()


# ---------------------------------------------------------------------------------------------- the synthetic trace


def test_the_synthetic_trace_has_the_published_figures() -> None:
    """Of FLHetBench's 1,000 devices: 290 never there; share of time of the others; length of intervals."""
    trace = synthetic_trace()
    share = trace.seconds_there / trace.period
    assert len(share) == 1000
    assert (share == 0).sum() == 290
    assert np.median(share[share > 0]) == pytest.approx(0.055, rel=0.01)
    assert np.quantile(share[share > 0], 0.95) == pytest.approx(0.32, rel=0.01)
    assert np.median(trace.end - trace.start) == pytest.approx(138, rel=0.01)
    assert np.bincount(trace.seconds_per_step.astype(int), minlength=9)[[1, 3, 8]].tolist() == [250, 500, 250]


def test_the_synthetic_trace_is_a_trace_and_always_the_same() -> None:
    trace = synthetic_trace()
    for device in range(1000):
        rows = slice(trace.first[device], trace.first[device + 1])
        edges = np.stack([trace.start[rows], trace.end[rows]], axis=1).ravel()
        assert (np.diff(edges) > 0).all()
        assert ((edges >= 0) & (edges <= trace.period)).all()
    there = [sum(is_there(trace, device, now) for device in range(1000)) for now in (0.0, 1e5, 5e5)]
    assert min(there) > 40  # also at the very beginning
    milliseconds = np.stack([trace.start, trace.end]) * 1000
    assert hashlib.sha256(milliseconds.round().astype("<i8").tobytes()).hexdigest()[:16] == "67791c16677f8b7b"


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "newsgroups"])
def test_bytes_are_those_of_the_model_and_steps_those_of_training(preset: str) -> None:
    config = build(preset, "fedbuff", schedule="devices")
    _, channels, side, classes = DATA[config.data.name]
    if config.model == "labtext":
        model = build_text_model("labtext", 50, config.data.max_tokens, 0, None, classes, "")
    else:
        model = build_model(config.model, channels, config.data.image_size or side, classes)
    assert state_values(config) == StateLayout(model).size
    assert config.federation.devices.model_bytes == 4 * StateLayout(model).size
    assert config.federation.devices.steps == config.training.steps
    chosen = build(preset, "fedbuff", schedule="devices", overrides={"federation.devices.model_bytes": 7}).federation
    assert (chosen.devices.model_bytes, chosen.devices.trace) == (7, "synthetic")


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("availability", "speed", "words"),
    [
        ("client,from,to\n0,0,10\n0,9,12\n", SPEED, "availability.csv, line 3: an interval of client 0 begins before"),
        ("client,from,to\n0,0,10\n3,9,12\n", SPEED, "availability.csv, line 3: client = 3 is unknown: .* 0 to 2"),
        ("client,from,to\n-1,0,10\n", SPEED, "availability.csv, line 2: client = -1 is unknown"),
        ("client,from,to\n0,10,10\n", SPEED, "availability.csv, line 2: to = 10 must be after from = 10"),
        ("client,from,to\n0,-1,10\n", SPEED, "availability.csv, line 2: from = -1: must be 0 or more seconds"),
        ("client,from,to\n0,,10\n", SPEED, "availability.csv, line 2: from = nan: must be 0 or more seconds"),
        ("client,from,to\n0,1,\n", SPEED, "availability.csv, line 2: to = nan: must be a number of seconds"),
        ("client,from,to\n0,1,nan\n", SPEED, "availability.csv, line 2: to = 'nan' must be a number"),
        ("client,from,to\n0,1,inf\n", SPEED, "availability.csv, line 2: to = 'inf' must be a number"),
        ("client,from,to\n0,1\n", SPEED, "availability.csv, line 2 has 2 cells, not 3"),
        ("client,from,till\n0,1,2\n", SPEED, "availability.csv: the column 'till' is unknown: .* client, from"),
        ("client,from,to\n", SPEED, "no client is ever there"),
        (AVAILABILITY, SPEED.replace("\n2,", "\n1,"), "speed.csv, line 4: client = 1 is there twice"),
        (AVAILABILITY, SPEED.replace("\n2,", "\n5,"), "speed.csv, line 4: client = 5: the 3 clients of this table"),
        (AVAILABILITY, SPEED.replace(",100,", ",0,"), "line 2: down_bytes_per_second = 0: must be a number above 0"),
        (AVAILABILITY, SPEED.replace(",25\n", ",\n"), "line 3: up_bytes_per_second = nan: must be a number above 0"),
        (AVAILABILITY, SPEED.replace("0,3,", "0,-3,"), "line 2: seconds_per_step = -3: must be a number of 0 or more"),
        (AVAILABILITY, "", "speed.csv: there is no column client; needed are client, seconds_per_step"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_its_line(tmp_path: Path, availability: str, speed: str, words: str) -> None:
    write(tmp_path, availability, speed)
    with pytest.raises(ConfigError, match=words):
        simulate_timeline(federation(tmp_path, 2, 2), seed=0)


def test_of_a_parquet_file_the_row_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "availability.csv").unlink()
    rows = pd.DataFrame({"client": [0, 1, 1], "from": [0.0, 5.0, 25.0], "to": [10.0, 25.0, np.inf]})
    rows.to_parquet(tmp_path / "availability.parquet", index=False)
    with pytest.raises(ConfigError, match=r"availability\.parquet, row 3: to = inf: must be a number of seconds"):
        read_trace(tmp_path)
    rows.assign(to=[10, 25, 50]).to_parquet(tmp_path / "availability.parquet", index=False)
    trace = read_trace(tmp_path)
    assert (trace.first.tolist(), trace.start.tolist(), trace.end.tolist()) == ([0, 1, 2, 2], [0, 5], [10, 50])


def test_a_trace_that_is_not_there_or_there_twice(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere' is no directory: give 'synthetic', or one with two tables"):
        simulate_timeline(federation(tmp_path / "nowhere", 2, 2), seed=0)
    with pytest.raises(ConfigError, match=r"speed\.csv and speed\.parquet are not there: give one of them"):
        simulate_timeline(federation(tmp_path, 2, 2), seed=0)
    write(tmp_path)
    (tmp_path / "availability.parquet").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"availability\.csv and availability\.parquet are both there: leave one"):
        simulate_timeline(federation(tmp_path, 2, 2), seed=0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_clients": 3}, "federation.num_clients = 3, but only 2 devices of the trace are ever there: lower it"),
        ({"devices": {"steps": None}}, "federation.devices.steps and federation.devices.model_bytes are unset"),
        ({"devices": {"unfinished": "lost", "steps": 30}}, "every job would be lost, because the shortest takes 36 "
         "seconds and the longest interval has 20: choose 'paused'"),
        ({"devices": {"unfinished": "gone"}}, "devices.unfinished = 'gone': input should be 'paused' or 'lost'"),
        ({"schedule": "shifted"}, "devices.trace and schedule both say how long jobs last: give schedule = 'devices'"),
        ({"max_versions": 10**6, "devices": {"steps": 10**9}}, "the trace is repeated too often: lower the budget"),
        ({"max_versions": None, "max_sim_time": 3.0}, "max_sim_time = 3.0 ends after 0 arrivals and before the first"),
    ],
)  # fmt: skip
def test_federations_that_do_not_fit_their_trace(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    write(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(words)):
        simulate_timeline(federation(tmp_path, **{"num_clients": 2, "concurrency": 2, **changes}), seed=0)
