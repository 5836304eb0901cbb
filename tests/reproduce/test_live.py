"""Runs with real clients, here in this process: whatever they do, the record's timeline repeats the run to the bit."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import SMALL, Here
from rich.console import Console

from fedrevive_core.config import METHODS
from fedrevive_core.config.run import RunConfig
from fedrevive_core.errors import ConfigError
from fedrevive_core.records import first_difference
from fedrevive_core.records.record import Record
from fedrevive_core.simulation.simulation import run
from reproduce.live.log import Log
from reproduce.live.messages import Event, check_hello, from_bytes, hello, to_bytes
from reproduce.live.run import LiveRun
from reproduce.live.settings import live_config, parse_slowdowns
from reproduce.live.show import table
from reproduce.live.wire import pack, unpack

SETTINGS = {name: value for name, value in SMALL.items() if not name.startswith("federation.")}


def config_for(out: Path, method: str = "fedrevive", clients: int = 5, arrivals: int = 24, **settings) -> RunConfig:
    changes = SETTINGS | {name.replace("__", "."): value for name, value in settings.items()}
    return live_config("lab-digits", method, 0, clients, arrivals, out, changes)


def assert_repeated(record: Record, out: Path) -> None:
    """Save it as the run would, and let its timeline happen again."""
    record.save(out)
    again = run(record.config, progress=False)
    difference = first_difference(record, again)
    assert difference is None, str(difference)
    assert {**record.summary, "faults": None} == {**again.summary, "faults": None}
    assert record.timeline.equals(again.timeline)
    Record.load(out)


TAUGHT = {"fare-dust": "returned", "fedadt": "current"}


@pytest.mark.parametrize("method", TAUGHT)
def test_real_clients_have_no_teacher(tmp_path, method):
    with pytest.raises(ConfigError, match=rf"^training.lesson.teacher = '{TAUGHT[method]}': real clients are sent one"):
        config_for(tmp_path / "out", method)
    assert config_for(tmp_path / "out", method, training__lesson__weight=0).method == method


@pytest.mark.parametrize("method", [method for method in METHODS if method not in TAUGHT])
def test_a_live_run_is_repeated_to_the_bit(tmp_path, method):
    """Five clients, four of them at work; two are gone in the middle and come back."""
    config = config_for(tmp_path / "out", method, federation__concurrency=4)
    live = LiveRun(config, 60)
    transport = Here(live.config, gone=((1, 5), (3, 9)))
    record = live.serve(transport)
    assert record.summary["num_arrivals"] == 24 - 24 % config.federation.buffer_size
    assert transport.most_at_work == 4
    assert record.summary["faults"] == {"crash": 2}
    said = [event["what"] for event in record.provenance["live"]["events"]]
    assert sum("is gone: its process has ended; job" in words for words in said) == 2
    assert_repeated(record, tmp_path / "out")


def test_rounds_wait_for_all_slots(tmp_path):
    """FedAvg: nobody gets a job before everybody has answered, so nothing is stale, and each round has all clients."""
    live = LiveRun(config_for(tmp_path / "out", "fedavg", clients=4, arrivals=12), 60)
    record = live.serve(Here(live.config))
    assert record.arrivals["staleness"].tolist() == [0] * 12
    assert [sorted(record.arrivals["client"][first : first + 4]) for first in (0, 4, 8)] == [[0, 1, 2, 3]] * 3


def test_what_is_no_model_is_rejected_and_repeated(tmp_path):
    """Too short, too long by one number (which the simulation would cut off), not a number; the rest is good."""

    def upload(client: int, job: int, answer: bytes) -> bytes:
        if job == 5:
            return answer[:-4] + to_bytes(np.array([np.nan]))
        return {3: answer[:-4], 4: answer + answer[:4], 6: b"", 7: b"x"}.get(job, answer)

    live = LiveRun(config_for(tmp_path / "out"), 60)
    record = live.serve(Here(live.config, upload=upload))
    rejected = record.arrivals.set_index("job")["rejected"]
    assert rejected[5] == "client update not finite"
    assert {rejected[job] for job in (3, 4, 6, 7)} == {"client update of wrong size"}
    assert (rejected != "").sum() == 5
    assert record.summary["faults"] == {"wrong_size": 4, "non_finite": 1}
    said = [event["what"] for event in record.provenance["live"]["events"]]
    assert "uploads for job 3 what is no model (wrong_size): rejected" in said
    assert_repeated(record, tmp_path / "out")


def test_a_client_that_never_answers_is_given_up(tmp_path, monkeypatch):
    """Its job is lost, its slot is filled, and it is used again when it is back."""
    config = config_for(tmp_path / "out", clients=3, arrivals=9)
    live = LiveRun(config, 100)
    late = iter([None])

    def upload(client: int, job: int, answer: bytes) -> bytes | None:
        if client == 1 and job > 3 and next(late, 0) is None:
            monkeypatch.setattr(live.log, "began", live.log.began - 1000)  # 1,000 seconds pass
            return None
        return answer

    transport = Here(live.config, upload=upload)
    record = live.serve(transport)
    assert record.summary["faults"] == {"never_return": 3}  # the others were at work for so long, too
    lost = record.timeline[record.timeline["lost"]]
    assert sorted(lost["client"]) == [0, 1, 2]
    assert "has not answered for 100 seconds; job" in record.provenance["live"]["events"][3]["what"]
    assert_repeated(record, tmp_path / "out")


def test_a_server_that_was_killed_continues_and_says_what_is_lost(tmp_path):
    """Killed after 11 arrivals, with a checkpoint after 10: four others were at work then, and their jobs are lost."""
    config = config_for(tmp_path / "out")

    class Killed(Exception):
        pass

    live = LiveRun(config, 60)

    def show(run: LiveRun) -> None:
        if run.num_processed == 11:
            raise Killed

    with pytest.raises(Killed):
        live.serve(Here(live.config), checkpoints=tmp_path / "kept", checkpoint_every=5, show=show)
    again = LiveRun(config, 60)
    record = again.serve(Here(again.config, seed=1), checkpoints=tmp_path / "kept", checkpoint_every=5)
    assert record.summary["num_arrivals"] == 24
    assert record.summary["faults"] == {"crash": 4}
    said = [event["what"] for event in record.provenance["live"]["events"]]
    assert sum("when the server stopped; the job is lost" in words for words in said) == 4
    assert record.provenance["num_resumed"] == 1
    assert record.arrivals["sim_time"].is_monotonic_increasing
    assert_repeated(record, tmp_path / "out")


def test_a_target_ends_it_and_its_repetition(tmp_path):
    live = LiveRun(config_for(tmp_path / "out", "fedbuff", evaluation__target_accuracy=0.01, evaluation__every=2), 60)
    record = live.serve(Here(live.config))
    assert (record.summary["num_versions"], record.summary["stopped"]) == (2, "target accuracy reached")
    assert_repeated(record, tmp_path / "out")


def test_without_clients_it_ends_in_a_sentence(tmp_path):
    live = LiveRun(config_for(tmp_path / "out", clients=3), 60)

    class Broken(Here):
        def wait(self, seconds: float) -> list[Event]:
            self.given_up = [2]
            return [Event(2, "gone", why="its process has ended")]

    with pytest.raises(ConfigError, match="2 of 3 clients are left, the last that ended is gone: its process has"):
        live.serve(Broken(live.config))


def test_other_methods_on_the_same_real_arrivals(call, tmp_path):
    live = LiveRun(config_for(tmp_path / "out", "fedrevive"), 60)
    live.serve(Here(live.config)).save(tmp_path / "out")
    for name, words in (("replay", ()), ("other", ("--method", "fedbuff"))):
        assert call("run", "--timeline", tmp_path / "out", "--out", tmp_path / name, *words)[0] == 0
    assert call("verify", tmp_path / "out", tmp_path / "replay")[1].startswith("identical")
    one, other = Record.load(tmp_path / "out"), Record.load(tmp_path / "other")
    assert other.summary["num_versions"] == 12
    assert other.arrivals["client"].equals(one.arrivals["client"])
    assert other.config.executor == "single"


# -------------------------------------------------------------------------------------------------------- its parts


def test_no_two_events_have_the_same_time(monkeypatch):
    monkeypatch.setattr("reproduce.live.log.time.monotonic", lambda: 7.0)  # a clock that stands still
    log = Log(config_for(Path("out")).federation)
    jobs = [log.dispatch(client) for client in (0, 1, 2)]
    log.end(jobs[2], 0, lost=False)
    log.end(jobs[0], 2, lost=True)
    times = [*log.dispatched, log.ended[2], log.ended[0]]
    assert times == sorted(set(times))
    assert times[0] == 0.0
    assert log.timeline().arrivals.tolist() == [2]
    again = Log(log.federation)
    assert again.load_state_dict(json.loads(json.dumps(log.state_dict()))) == [1]
    assert again.timeline().jobs().equals(log.timeline().jobs())
    assert again.tick() > log.last


def test_messages_come_back_and_nonsense_is_refused():
    state = np.arange(5, dtype=np.float32)
    words, content = unpack(pack({"job": 3}, to_bytes(state)))
    assert words == {"job": 3}
    assert np.array_equal(from_bytes(content), state)
    assert unpack(pack({"job": 3}, b"\n\n"))[1] == b"\n\n"
    for message in (b"", b"\xff\n", b"[1]\n", b"1" * 70_000, b"[" * 60_000 + b"\n", b'"a"\nstate'):
        with pytest.raises(ValueError, match="message"):
            unpack(message)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ""),
        ({"client": 4}, "it calls itself client 4, and its line is that of client 3"),
        ({"client": "3" * 99}, "it calls itself client '3333333333333333333, and its line is that of client 3"),
        ({"version": "0.0.9"}, "it has version 0.0.9 (code "),
        ({"code": "0" * 64}, "(code 000000000000) of the package, and the server 0.1.0 (code "),
        ({"config": None}, "its settings cannot be read: "),
        ({"config": {"preset": "lab-digits"}}, "its settings cannot be read: federation is missing"),
        ({"data": "other"}, "it has other data than the server"),
    ],
)
def test_who_may_take_part(change, words):
    config = config_for(Path("out"))
    why = check_hello(hello(3, config, "data") | change, 3, config, "data")
    assert words in why
    assert bool(why) == bool(words)
    other = live_config("lab-styles", "fedrevive", 0, 5, 24, Path("out"), SETTINGS)
    assert check_hello(hello(3, other, "data"), 3, config, "data") == (
        "it has the preset lab-styles, and the server lab-digits"
    )
    slower = config_for(Path("out"), training__steps=4)
    assert check_hello(hello(3, slower, "data"), 3, config, "data") == (
        "it has other settings than the server: training.steps: 3 / 4"
    )


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--set", "federation.concurrency=9"), "concurrency = 9 must be at most num_clients = 8"),
        (("--set", "federation.num_clients=9"), "federation.num_clients = 9: --clients says that in a live run"),
        (("--set", "federation.max_versions=9"), "federation.max_versions = 9: --arrivals says that in a live run"),
        (("--set", "executor=stacked"), "executor = 'stacked': real clients train one job at a time"),
        (("--set", "federation.faults.crash=0.1"), "federation.faults are for simulated clients"),
        (("--method", "fedavg", "--arrivals", "5"), "arrivals = 5 is not enough for one version, which takes"),
        (
            ("--slowdown", "1,0.5"),
            "--slowdown 1,0.5: must be numbers from 1 to 1000000, separated by commas, not '0.5'",
        ),
        (("--slowdown", "1,x"), "separated by commas, not 'x'"),
        (("--slowdown", "1,2,3", "--clients", "2"), "3 factors for 2 clients: give at most one for each"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(call, tmp_path, monkeypatch, words, error):
    monkeypatch.setattr("reproduce.live.processes.Processes", None)
    code, _, said = call("live", "--out", tmp_path / "out", *words)
    assert code == 2
    assert error in said
    assert not list(tmp_path.iterdir())


def test_a_taken_directory_is_refused(call, tmp_path):
    (tmp_path / "mine").touch()
    code, _, said = call("live", "--out", tmp_path)
    assert (code, "is not empty: choose another directory" in said) == (2, True)


def test_slowdowns_go_round():
    assert parse_slowdowns("1,5", 5) == [1, 5, 1, 5, 1]


def test_the_table_says_who_works_on_what(tmp_path):
    """At first who is there; then a line for each client, and none is broken on a terminal of 80 columns."""
    live = LiveRun(config_for(tmp_path / "out", clients=3, arrivals=111, federation__concurrency=2), 60)
    seen = []

    def show(run: LiveRun) -> None:
        console = Console(file=io.StringIO(), width=80)
        console.print(table("live", run, [1, 2, 5]))
        seen.append(console.file.getvalue())

    show(live)
    assert "live: the clients start, 0 of 3 are there" in seen[0]
    assert seen[0].count("starts") == 3
    live.serve(Here(live.config, gone=((0, 3),)), show=show)
    (text,) = [text for text in seen if "live: 107 of 111 arrivals, version 107, accuracy 0." in text]
    assert text.count("job ") == 2
    assert text.count("waits") == 1
    assert re.search(r" job 1\d\d from version 10\d ", text)
    assert [line.split()[0] for line in text.splitlines()[4:7]] == ["0", "1", "2"]
