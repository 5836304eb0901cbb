"""Nodes of a grid as the clients of a live run; the grid is in this process, and its nodes do what a test wants."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import SMALL, run_python

from fedrevive_core.data import load_federated
from fedrevive_core.errors import ConfigError
from fedrevive_core.records import first_difference
from fedrevive_core.simulation.simulation import run
from reproduce.live import flower, nodes
from reproduce.live.messages import NOBODY, Event, hello, to_bytes
from reproduce.live.nodes import SERVER, Nodes, Reply
from reproduce.live.resident import Answers
from reproduce.live.run import LiveRun
from reproduce.live.settings import live_config
from reproduce.live.wire import pack, unpack

CHANGES = {name: value for name, value in SMALL.items() if not name.startswith("federation.")}
CONFIG = live_config("lab-digits", "fedrevive", 0, 3, 9, Path("out"), CHANGES)
SIZE = 5
ROOT = Path(__file__).parents[2]


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Grid:
    """Nodes number 10 and so on are clients 0 and so on; `answer` makes the reply to a message, or none."""

    def __init__(self, there: set[int], answer: Callable[[int, dict, bytes], bytes | Reply | None] | None = None):
        self.there, self.answer, self.refused = there, answer or (lambda *_: None), set()
        self.mail: list[Reply] = []
        self.pushed: list[tuple[int, dict]] = []

    def nodes(self) -> set[int]:
        return set(self.there)

    def push(self, node: int, message: bytes, seconds: float) -> str:
        if node in self.refused:
            return ""
        words, state = unpack(message)
        self.pushed.append((node, words))
        name = f"m{len(self.pushed)}"
        said = self.answer(node, words, state)
        if said is None and "hello" in words:
            said = pack(hello(node - 10, CONFIG, "data"))
        if said is not None:
            self.mail.append(said._replace(answers=name) if isinstance(said, Reply) else Reply(name, node, said))
        return name

    def pull(self, ids: list[str], limit: int) -> list[Reply]:
        """Whatever there is, asked for or not; a reply that is too long is an error, as in Flower's grid."""
        mail, self.mail = self.mail, []
        return [r if len(r.message) <= limit else Reply(r.answers, r.node, error="too long") for r in mail]


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(nodes, "time", clock)
    return clock


def transport(grid: Grid) -> Nodes:
    return Nodes(grid, CONFIG, "data", SIZE, 60)


def all_events(given: Nodes, seconds: float = 0.3) -> list[Event]:
    """What happens until nothing does for some seconds."""
    events = []
    while found := given.wait(seconds):
        events += found
    return events


def joined(grid: Grid) -> Nodes:
    """The transport when the nodes that are there have joined."""
    given = transport(grid)
    assert [(event.client, event.kind) for event in all_events(given)] == [
        (n - 10, "joined") for n in sorted(grid.there)
    ]
    return given


def test_a_job_reaches_its_node_and_comes_back(clock):
    grid = Grid({10, 11, 12}, lambda node, words, state: pack(words, state + b"!") if "job" in words else None)
    given = joined(grid)
    given.send(1, 7, b"start")
    assert grid.pushed[-1] == (11, {"job": 7})
    assert all_events(given) == [Event(1, "result", b"start!")]
    assert given.asked == {}


def test_a_refused_push_loses_the_job_and_the_node_is_asked_again(clock):
    grid = Grid({10})
    given = joined(grid)
    grid.refused = {10}
    given.send(0, 3, b"")
    assert given.wait(0.3) == [Event(0, "gone", why="the grid refused its job")]
    grid.refused = set()
    assert all_events(given, nodes.PAUSE + 1) == [Event(0, "joined")]


def test_a_node_that_fails_too_often_stays_away(clock):
    """A failed reply, with its reason; five times in a row."""
    grid = Grid({10}, lambda node, words, _: Reply("", SERVER, error="no torch") if "job" in words else None)
    given = joined(grid)
    for again in range(nodes.MOST_FAILURES):
        given.send(0, again, b"")
        events = all_events(given, nodes.PAUSE + 1)
        assert events[0] == Event(0, "gone", why="no torch")
        assert events[1:] == ([Event(0, "joined")] if again < nodes.MOST_FAILURES - 1 else [])
    grid.there = set()
    all_events(given, 2)
    grid.there = {10}  # its SuperNode was started again
    assert all_events(given, 2) == [Event(0, "joined")]
    given.send(0, 9, b"")
    assert all_events(given, nodes.PAUSE + 1) == [Event(0, "gone", why="no torch"), Event(0, "joined")]


def test_a_node_cannot_speak_for_another(clock):
    """A reply of another node is passed over; that of the node that has the job counts, once."""
    grid = Grid({10, 11})
    given = joined(grid)
    given.send(0, 3, b"")
    name = next(iter(given.asked))
    right = Reply(name, 10, pack({"job": 3}, b"mine"))
    grid.mail = [Reply(name, 11, pack({"job": 3}, b"forged")), Reply("other", 11, right.message), right, right]
    assert all_events(given) == [Event(0, "result", b"mine")]
    grid.mail = [right]  # and later
    assert all_events(given) == []


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"x" * (4 * SIZE + 70_000), "too long"),
        (pack({"job": 4}), "it answers a job that it does not have"),
        (b"\x80\x04pickle", "a message is no JSON"),
        (b"[]", "a message is no JSON object"),
    ],
)
def test_a_reply_that_is_no_answer_loses_the_job(clock, answer, why):
    grid = Grid({10}, lambda node, words, _: answer if "job" in words else None)
    given = joined(grid)
    given.send(0, 3, b"")
    assert all_events(given) == [Event(0, "gone", why=why)]


@pytest.mark.parametrize(
    ("change", "client", "why"),
    [
        ({"version": "0.0.9"}, 0, "it has version 0.0.9 (code "),
        ({"config": {**CONFIG.to_dict(), "preset": "lab-text"}}, 0, "it has the preset lab-text, and the server lab-d"),
        ({"why": "no data"}, 0, "it cannot take part: no data"),
        ({"data": "other"}, 0, "it has other data than the server"),
        ({"client": 3}, NOBODY, "it calls itself client 3, which the run does not have"),
        ({"client": True}, NOBODY, "it calls itself client True, which the run does not have"),
    ],
)
def test_who_may_take_part(clock, change, client, why):
    grid = Grid({10}, lambda *_: pack(hello(0, CONFIG, "data") | change))
    given = transport(grid)
    (event,) = all_events(given, 3 * nodes.PAUSE)  # and is not asked again
    assert (event.client, event.kind) == (client, "refused")
    assert why in event.why
    assert len(grid.pushed) == 1


def test_of_two_nodes_that_are_one_client_the_first_works_and_the_other_waits(clock):
    grid = Grid({10})
    given = joined(grid)
    given.send(0, 3, b"")
    grid.answer = lambda *_: pack(hello(0, CONFIG, "data"))
    grid.there = {10, 20}
    assert all_events(given, 2) == [Event(0, "refused", why="another node has its place; this one waits")]
    grid.there = {20}
    assert given.wait(2) == [Event(0, "gone", why="its node is not there any more")]
    given.send(0, 4, b"")  # by a run that knows nothing of the other node yet
    assert given.wait(2) == [Event(0, "joined")]
    assert [words for _, words in grid.pushed] == [{"hello": True}, {"job": 3}, {"hello": True}, {"job": 4}]


def test_a_job_is_not_sent_to_a_node_that_has_gone(clock):
    """Its client is present for a run that has not heard of it; the job is lost when it does."""
    grid = Grid({10})
    given = joined(grid)
    given.events = [Event(1, "result")]  # so that there is something before
    grid.there = set()
    given.looked = 0
    given._look()
    assert given.wait(1) == [Event(1, "result")]
    given.send(0, 4, b"")
    assert [words for _, words in grid.pushed] == [{"hello": True}]
    assert given.wait(1)[0].kind == "gone"


def test_what_is_given_up_is_open_no_more(clock):
    grid = Grid({10})
    given = joined(grid)
    given.send(0, 3, b"")
    name = next(iter(given.asked))
    given.drop(0, "it did not answer")
    grid.mail = [Reply(name, 10, pack({"job": 3}, b"late"))]
    assert all_events(given, nodes.PAUSE + 1) == [Event(0, "gone", why="it did not answer"), Event(0, "joined")]


def test_a_node_that_never_says_who_it_is(clock):
    grid = Grid({10}, lambda *_: Reply("", 99))
    given = transport(grid)
    events = all_events(given, nodes.START + 2 * nodes.PAUSE)
    assert {event.why for event in events} == {"it has not said who it is for 900 seconds"}
    assert len(events) == nodes.MOST_FAILURES
    assert given.asked == {}
    clock.now += nodes.ABSENT
    assert given.given_up == [0, 1, 2]


def test_a_run_ends_in_a_sentence_if_nobody_ever_comes(clock):
    live = LiveRun(CONFIG, 60)
    given = transport(Grid(set()))
    clock.now += nodes.ABSENT + 1
    with pytest.raises(ConfigError, match="0 of 3 clients are left: see to it that they can run"):
        live.give_up(given)


def test_a_run_is_repeated_to_the_bit(tmp_path, monkeypatch):
    """Three nodes that train; one is gone in the middle and comes back, and one sends what is not finite."""
    monkeypatch.setattr(nodes, "LOOK", 0)
    config = live_config("lab-digits", "fedrevive", 0, 3, 12, tmp_path / "out", CHANGES)
    answers = [Answers() for _ in range(3)]

    def answer(node: int, words: dict, state: bytes) -> bytes | None:
        if words.get("job") == 4:
            grid.there.discard(node)
            return None
        if words.get("job") == 6:
            grid.there.update({10, 11, 12})
            return pack(words, to_bytes(torch.full((live.layout.size,), torch.nan).numpy()))
        own = {"config": config.to_dict(), "client": node - 10, "slowdown": 1.0, "preset": ""}
        return answers[node - 10].answer(pack(words | own, state))

    live = LiveRun(config, 60)
    grid = Grid({10, 11, 12}, answer)
    record = live.serve(Nodes(grid, config, live.data.fingerprint, live.layout.size, 60))
    assert record.summary["faults"] == {"crash": 1, "non_finite": 1}
    record.save(tmp_path / "out")
    assert first_difference(record, run(record.config, progress=False)) is None


def test_a_trainer_says_that_it_cannot_take_part():
    """Its version does not know a setting; and a node that takes part in one preset only says so."""
    own = {"client": 2, "slowdown": 1.0, "preset": "lab-text"}
    said, _ = unpack(Answers().answer(pack({"hello": True, "config": {"preset": "new"}, **own})))
    assert said["client"] == 2
    assert "federation is missing" in said["why"]
    said, _ = unpack(Answers().answer(pack({"hello": True, "config": CONFIG.to_dict(), **own})))
    assert said["config"]["preset"] == "lab-text"
    data = load_federated(CONFIG.data, 3, torch.device("cpu")).fingerprint
    assert said["data"] == data


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--superlink", "lab"), "--superlink lab is for --transport flower, without --slowdown"),
        (("--superlink", "lab", "--transport", "flower", "--slowdown", "2"), "every node says its own"),
        (("--transport", "pigeons"), "--transport pigeons: "),
        (("--transport", "flower"), "Flower 1.41.0 is not supported: install flwr>=1.42,<2"),
    ],
)
def test_bad_input_is_refused(call, tmp_path, monkeypatch, words, error):
    monkeypatch.setattr(flower.importlib.metadata, "version", lambda _: "1.41.0")
    code, _, said = call("live", "--out", tmp_path / "out", *words)
    assert code == 2
    assert error in said
    assert not list(tmp_path.iterdir())


def test_flower_that_is_not_installed(monkeypatch):
    def missing(name: str) -> str:
        raise flower.importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(flower.importlib.metadata, "version", missing)
    with pytest.raises(ConfigError, match="Flower is not installed: pip install"):
        flower.check_flower()


def test_the_extra_has_the_versions_that_are_supported():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["optional-dependencies"]["flower"] == [f"flwr>={flower.LOWEST},<{flower.BELOW}"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no process can be forked")
def test_a_resident_does_what_its_children_ask(tmp_path):
    """Flower's program is done by a fork of the resident; a message gets its answer; without the key there is none."""
    run_python(f"""
import multiprocessing.connection, os, subprocess, sys, threading
from pathlib import Path
from types import SimpleNamespace
from reproduce.live import resident

def client_app():
    Path("said").write_text(f"{{os.getpid()}} {{sys.argv}} {{resident.ask(dict(job=1), b'state')}}")

class Answers:
    def answer(self, message, warm):
        return b"answer to " + message

os.chdir({str(tmp_path)!r})
resident.entry_points = lambda **_: [SimpleNamespace(load=lambda: client_app)]
resident.Answers = Answers
here = resident.Resident()
here.stand_in(Path("."))

def children():
    try:
        try:
            multiprocessing.connection.Client(("127.0.0.1", int(os.environ[resident.PORT])), authkey=b"another")
        except multiprocessing.AuthenticationError:
            print("refused")
        subprocess.run(["./flwr-clientapp", "--token", "x y"], check=True)
        while not Path("said").exists() or not Path("said").read_text():
            pass
    finally:
        here.end()

threading.Thread(target=children).start()
here.serve()
pid, said = Path("said").read_text().split(" ", 1)
assert int(pid) != os.getpid()
answer = b'answer to {{"job": 1}}' + bytes([10]) + b"state"
assert said == str(["flwr-clientapp", "--token", "x y"]) + " " + str(answer), said
""")
