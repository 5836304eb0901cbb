"""Timelines as files: what comes back, what a log of a real federation means, and what is refused with its line."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import SMALL, federation, small, steady
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrevive_core.config import METHODS
from fedrevive_core.config.federation import FederationConfig
from fedrevive_core.config.price import LIMITS, VARIABLE, price
from fedrevive_core.errors import ConfigError
from fedrevive_core.records import first_difference
from fedrevive_core.records.record import Record
from fedrevive_core.simulation.simulation import Simulation, run
from fedrevive_core.timeline.event_loop import simulate_timeline
from fedrevive_core.timeline.timeline import Timeline

LOG = """client,dispatched,arrived,lost
0,100,160,
1,100,190,true
2,100,220,

0,160,230,0
1,200,,
"""


def log(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "log.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_log_worked_by_hand(tmp_path: Path) -> None:
    """Three clients, all of them asked at second 100, which is time 0; a minute is the unit.

    time       0         1    1.5       2    2.2
    version    0         1              2    3
    job 0      A---------A                           from 0, arrives at 0: staleness 0
    job 1      B--------------x                      lost at 1.5
    job 2      C--------------------C                from 0, arrives at 1: staleness 1
    job 3                A---------------A           from 1, arrives at 2: staleness 1
    job 4                        B-----------        from 1 (at 1.67), still at work at the end
    """
    timeline = Timeline.load(log(tmp_path, LOG), federation(3, 3, max_versions=3, time_unit=60.0))
    assert timeline.client.tolist() == [0, 1, 2, 0, 1]
    assert timeline.dispatch_time.tolist() == [0, 0, 0, 1, 100 / 60]
    assert timeline.arrival_time.tolist() == [1, 1.5, 2, 130 / 60, np.inf]
    assert timeline.arrivals.tolist() == [0, 2, 3]
    assert timeline.lost.tolist() == [1]
    assert timeline.base_version.tolist() == [0, 0, 0, 1, 1]
    assert timeline.staleness.tolist() == [0, -1, 1, 1, -1]
    assert timeline.summary()["crash"] == 1
    # Of the jobs that arrived: 1 and 70 / 60 of client 0, 2 of client 2; client 1 has the mean of these three.
    assert timeline.mean_duration == pytest.approx([13 / 12, 25 / 18, 2])


def test_rows_may_stand_in_any_order_and_a_file_says_enough_by_itself(tmp_path: Path) -> None:
    path = log(tmp_path, "arrived,client,dispatched\n4,2,1\n3,0,0\n9,1,0\n")
    timeline = Timeline.load(path)
    assert timeline.client.tolist() == [0, 1, 2]
    assert timeline.arrivals.tolist() == [0, 2, 1]
    assert timeline.federation.num_clients == timeline.federation.concurrency == 3
    assert timeline.federation.buffer_size == 1


def test_equal_times(tmp_path: Path) -> None:
    """Jobs 0 and 1 arrive together, in the order of the table; both before job 2 leaves, unless the table says so.

    Job 3 takes no time, so it is dispatched before it arrives, and job 4 after it.
    """
    rows = ["0,0,1", "1,0,1", "2,1,2", "3,1,1", "0,1,3"]
    timeline = Timeline.load(log(tmp_path, "\n".join(["client,dispatched,arrived", *rows])), federation(4, 4, **LONG))
    assert timeline.arrivals.tolist() == [0, 1, 3, 2, 4]
    assert timeline.dispatched_after.tolist() == [0, 0, 2, 2, 3]
    stated = [f"{row},{after}" for row, after in zip(rows, [0, 0, 1, 2, 3], strict=True)]
    path = log(tmp_path, "\n".join(["client,dispatched,arrived,dispatched_after", *stated]))
    assert Timeline.load(path, federation(4, 4, **LONG)).base_version.tolist() == [0, 0, 1, 2, 3]


LONG = {"max_versions": 1000}
HEAD = "client,dispatched,arrived"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{HEAD}\n0,0,2\n0,1,3\n", "line 3: client 0 gets a job while it has another"),
        (f"{HEAD}\n0,0,\n0,1,3\n", "line 3: client 0 gets a job while it has another"),
        (f"{HEAD}\n0,0,2\n\n1,5,4.5\n", "line 4: arrived = 4.5 is before dispatched = 5"),
        (f"{HEAD}\n2,1.5,3\n1,1,3\n0,0,2\n", "line 2: a job is dispatched while 2 others are at work, and "
         "federation.concurrency = 2 allows no more"),
        (f"{HEAD}\n0,0,2\n9,0,3\n", "line 3: client = 9 is unknown: the 3 clients of federation.num_clients are "
         "numbered from 0 to 2"),
        (f"{HEAD}\n-1,0,3\n", "line 2: client = -1 is unknown"),
        (f"{HEAD}\n0,nan,2\n", "line 2: dispatched = 'nan' must be a number, or empty"),
        (f"{HEAD}\n0,0,inf\n", "line 2: arrived = 'inf' must be a number, or empty"),
        (f"{HEAD}\n0,,2\n", "line 2: arrived = 2, but dispatched is empty: give both"),
        (f"{HEAD}\nann,0,2\n", "line 2: client = 'ann' must be a whole number"),
        (f"{HEAD}\n0,0\n", "line 2 has 2 cells, not 3"),
        (f"{HEAD},lost\n0,0,,1\n", "line 2: lost, but arrived is empty: give the time when the job was given up"),
        (f"{HEAD},lost\n0,0,1,maybe\n", "line 2: lost = 'maybe' must be true, false, 1, 0 or empty"),
        (f"{HEAD},fault\n0,0,1,crash\n", "line 2: fault = 'crash' without lost"),
        (f"{HEAD},lost,fault\n0,0,1,1,scaled\n", "line 2: lost, but its fault is not never_return or crash"),
        (f"{HEAD},fault\n0,0,1,broken\n", "line 2: fault = 'broken' is unknown: allowed: never_return, crash"),
        (f"{HEAD},dispatched_after\n0,0,1,0\n1,2,3,0\n", "line 3: dispatched_after = 0 contradicts the times"),
        (f"{HEAD},dispatched_after\n0,0,1,1\n", "line 2: dispatched_after = 1 contradicts the times"),
        (f"{HEAD},mean_duration\n0,0,1,-1\n", "line 2: mean_duration = -1.0: must be 0 or more"),
        (f"{HEAD},format\n0,0,1,2\n", "line 2: format = 2, and this version reads 1: use the version that wrote"),
        (f"{HEAD}\n", "has 0 arrivals within the budget, and a version takes federation.buffer_size = 1"),
        ("client,dispatched\n0,0\n", "there is no column arrived; needed are client, dispatched, arrived"),
        (f"{HEAD},speed\n0,0,1,1\n", "the column 'speed' is unknown"),
        (f"{HEAD},client\n0,0,1,0\n", "the column 'client' is there twice"),
        ("", "there is no column client"),
        (f'{HEAD}\n0,0,"1', "cannot be read: unexpected end of data"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Timeline.load(log(tmp_path, text), federation(3, 2, **LONG))
    assert words in str(caught.value)
    assert "log.csv" in str(caught.value)


def test_of_a_parquet_file_the_row_is_named(tmp_path: Path) -> None:
    table = pd.DataFrame({"client": [0, 0], "dispatched": [0.0, 1.0], "arrived": [2.0, np.nan]})
    table.to_parquet(tmp_path / "log.parquet", index=False)
    with pytest.raises(ConfigError, match=r"log.parquet, row 2: client 0 gets a job while it has another"):
        Timeline.load(tmp_path / "log.parquet", federation(3, 2, **LONG))
    table.assign(arrived=[2.0, np.inf], dispatched=[0.0, 3.0]).to_parquet(tmp_path / "log.parquet", index=False)
    with pytest.raises(ConfigError, match=r"row 2: arrived = inf: must be a number, or empty"):
        Timeline.load(tmp_path / "log.parquet", federation(3, 2, **LONG))
    table.assign(client=["a", "b"]).to_parquet(tmp_path / "log.parquet", index=False)
    with pytest.raises(ConfigError, match=r"log.parquet: 'client' is .*string, not int"):
        Timeline.load(tmp_path / "log.parquet")


@pytest.mark.parametrize("name", ["absent.csv", "absent.parquet"])
def test_a_file_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}' cannot be read: there is no file {name}"):
        Timeline.load(tmp_path / name)


def test_what_is_no_timeline(tmp_path: Path) -> None:
    for name, words in [("log.txt", "is neither a run nor a .csv or .parquet file"), ("", "does not hold a readable")]:
        with pytest.raises(ConfigError, match=words):
            Timeline.load(tmp_path / name)
    with pytest.raises(ConfigError, match=r"its name must end in \.csv or \.parquet"):
        simulate_timeline(federation(3, 2, max_versions=2), 0).save(tmp_path / "timeline.txt")


def test_a_log_with_too_many_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "4e-7")  # four jobs
    with pytest.raises(ConfigError, match="this run would take about 5 jobs, and 4 are allowed"):
        Timeline.load(log(tmp_path, LOG))


# ------------------------------------------------------------------------------------------------- round trips


FAULTY = {
    "never_return": 0.1, "timeout": 0.7, "crash": 0.1, "drop_out": 0.02, "duplicate": 0.15, "non_finite": 0.1,
}  # fmt: skip
SCHEDULES = ["default", "stragglers", "shifted", steady(1.0), steady(0.0)]


def assert_same(one: Timeline, other: Timeline) -> None:
    """Equal in all but the arrival of what is in flight at the end, which a file does not know."""
    known = np.append(one.arrivals, one.lost)
    assert np.array_equal(one.arrival_time[known], other.arrival_time[known])
    assert np.isinf(np.delete(other.arrival_time, known)).all()
    for field in fields(Timeline):
        if field.name not in ("arrival_time", "federation", "fault"):
            assert np.array_equal(getattr(one, field.name), getattr(other, field.name)), field.name
    assert np.array_equal(one.arrival_fault, other.arrival_fault)
    assert one.fault_counts() == other.fault_counts()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.integers(1, 15),
    st.sampled_from(SCHEDULES), st.booleans(), st.sampled_from(["csv", "parquet"]), st.integers(0, 99),
)  # fmt: skip
def test_a_simulated_timeline_comes_back(tmp_path_factory, clients, slots, refill, buffer, versions, schedule, faulty,
                                         ending, seed):  # fmt: skip
    slots = min(slots, clients)
    chosen = federation(clients, slots, refill_size=min(refill, slots), buffer_size=buffer, max_versions=versions,
                        schedule=schedule, faults=FAULTY if faulty else {})  # fmt: skip
    try:
        timeline = simulate_timeline(chosen, seed)
    except ConfigError:  # every client has left before the first version
        return
    path = tmp_path_factory.mktemp("saved") / f"timeline.{ending}"
    timeline.save(path)
    loaded = Timeline.load(path, chosen)
    assert_same(timeline, loaded)
    again = Timeline.load(path, chosen.model_copy(update={"buffer_size": 1, "max_versions": None}))
    assert np.array_equal(again.arrivals, timeline.arrivals)
    loaded.save(path)
    assert_same(loaded, Timeline.load(path, chosen))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 3), st.booleans(), st.integers(0, 99), st.floats(0.5, 9))
def test_a_lower_budget_ends_it_as_it_would_end_the_simulation(
    tmp_path_factory, clients, slots, buffer, faulty, seed, deadline
):
    def budget(**values) -> FederationConfig:
        return federation(clients, min(slots, clients), buffer_size=buffer, faults=FAULTY if faulty else {}, **values)

    path = tmp_path_factory.mktemp("saved") / "timeline.parquet"
    try:
        simulate_timeline(budget(max_versions=20), seed).save(path)
        shorter = [budget(max_versions=3), budget(max_versions=20, max_sim_time=deadline)]
        expected = [simulate_timeline(chosen, seed) for chosen in shorter]
    except ConfigError:  # too few arrivals
        return
    for chosen, timeline in zip(shorter, expected, strict=True):
        loaded = Timeline.load(path, chosen)
        for name in ("client", "dispatch_time", "dispatched_after", "arrivals", "lost", "staleness"):
            assert np.array_equal(getattr(loaded, name), getattr(timeline, name)), name


def test_a_refused_budget(tmp_path: Path) -> None:
    path = log(tmp_path, LOG)
    with pytest.raises(ConfigError, match=r"has 0 arrivals within the budget, and a version takes .*buffer_size = 1"):
        Timeline.load(path, federation(3, 3, max_sim_time=10.0))
    with pytest.raises(ConfigError, match=r"has 3 arrivals within the budget, and a version takes .*buffer_size = 4"):
        Timeline.load(path, federation(3, 3, buffer_size=4, max_versions=2))


# ---------------------------------------------------------------------------------------------- runs on a timeline


@pytest.mark.parametrize("method", METHODS)
def test_a_run_on_its_own_timeline_is_the_same_run(tmp_path: Path, method: str) -> None:
    faults = {"federation.faults.duplicate": 0.1, "federation.faults.crash": 0.1, "federation.faults.sign_flip": 0.1}
    config = small(method, **{name.replace(".", "__"): value for name, value in faults.items()})
    one = run(config, progress=False)
    one.save(tmp_path / "run")
    values = config.to_dict()
    values["federation"]["timeline"] = str(tmp_path / "run")
    other = run(type(config).from_dict(values), progress=False)
    assert first_difference(one, other) is None
    assert one.summary == other.summary
    assert one.timeline.equals(other.timeline)
    assert Record.load(tmp_path / "run").timeline.equals(one.timeline)


def test_a_buffer_of_its_own_gives_its_own_versions(tmp_path: Path) -> None:
    """FedBuff with B = 2 on the arrivals of FedRevive with B = 1: the same clients and times, half the versions."""
    one = run(small("fedrevive"), progress=False)
    one.save(tmp_path / "run")
    other = run(small("fedbuff", federation__timeline=str(tmp_path / "run")), progress=False)
    assert other.summary["num_versions"] == 8
    assert other.arrivals[["job", "client", "sim_time"]].equals(one.arrivals[["job", "client", "sim_time"]])
    own = run(small("fedbuff", federation__max_versions=8), progress=False)
    assert first_difference(other, own) is None


def test_a_resumed_run_needs_the_same_timeline(tmp_path: Path) -> None:
    timeline = simulate_timeline(small("fedbuff").federation, 0)
    timeline.save(tmp_path / "t.parquet")
    config = small("fedbuff", federation__timeline=str(tmp_path / "t.parquet"), federation__max_versions=None)
    simulation = Simulation(config)
    assert simulation.differences(simulation.identity()) == []
    simulate_timeline(small("fedbuff").federation, 1).save(tmp_path / "t.parquet")
    assert Simulation(config).differences(simulation.identity()) == ["the timeline itself"]


def test_a_timeline_is_priced_by_its_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulate_timeline(small("fedbuff").federation, 0).save(tmp_path / "t.parquet")
    config = small("fedbuff", federation__timeline=str(tmp_path / "t.parquet"))
    limit = 1.1 * price(config)["operations"]  # of the few jobs that it must have
    monkeypatch.setitem(LIMITS, "operations", limit)
    with pytest.raises(ConfigError, match=r"operations, and .* are allowed"):
        Simulation(config)


def test_the_command_line_repeats_a_run_on_its_timeline(call, tmp_path: Path) -> None:
    tiny = SMALL | {"federation.max_versions": 6}
    words = [word for name, value in tiny.items() for word in ("--set", f"{name}={'null' if value is None else value}")]
    first = tmp_path / "first"
    assert call("run", "--method", "afl-dw", "--seed", 3, "--out", first, *words)[0] == 0
    for name, more in (("again", ()), ("other", ("--method", "fedbuff"))):
        assert call("run", "--timeline", first, "--out", tmp_path / name, *more)[0] == 0
    assert call("verify", first, tmp_path / "again")[1].startswith("identical")
    assert call("verify", tmp_path / "again")[1].startswith("identical")
    other = Record.load(tmp_path / "other")
    assert (other.config.method, other.config.seed, other.summary["num_versions"]) == ("fedbuff", 3, 3)
    assert other.config.training.steps == tiny["training.steps"]
    code, out, _ = call("timeline", "--timeline", log(tmp_path, LOG), "--json")
    assert (code, '"num_arrivals": 3' in out) == (0, True)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--schedule", "shifted"), "schedule = 'shifted' and --timeline both say who arrives when"),
        (("--preset", "lab-text"), "preset = 'lab-text', but the run in '.*' has lab-digits: leave it out"),
        (("--set", "federation.num_clients=9"), "client = .* is unknown: the 9 clients"),
    ],
)
def test_what_does_not_go_together(call, tmp_path: Path, words: tuple[str, ...], error: str) -> None:
    run(small("fedbuff"), progress=False).save(tmp_path / "run")
    code, _, said = call("run", "--timeline", tmp_path / "run", "--out", tmp_path / "out", *words)
    assert code == 2
    assert re.search(error, said), said
    assert not (tmp_path / "out").exists()
