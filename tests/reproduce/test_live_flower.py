"""Live runs whose clients are Flower's SuperNodes, on this machine; not in `make test`, which has no Flower."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from helpers import SMALL

from fedrevive_core.records import first_difference
from fedrevive_core.records.record import Record
from fedrevive_core.simulation.simulation import run
from reproduce.live.flower import environment
from reproduce.live.nodes import SERVER, Reply

pytestmark = pytest.mark.flower
pytest.importorskip("flwr", reason="Flower is not installed: make test-flower")

SETTINGS = [word for name, value in SMALL.items() if not name.startswith("federation.")
            for word in ("--set", f"{name}={value}")]  # fmt: skip
PROGRAM = [sys.executable, "-m", "reproduce"]


def processes(server: subprocess.Popen, words: str) -> list[psutil.Process]:
    """Those below `server` whose command line has `words`, the oldest first."""
    found = []
    for process in psutil.Process(server.pid).children(recursive=True):
        try:
            if words in " ".join(process.cmdline()):
                found.append((process.create_time(), process))
        except psutil.Error:  # it has just ended
            continue
    return [process for _, process in sorted(found, key=lambda pair: pair[0])]


def until(reached: Callable[[], bool], server: subprocess.Popen, seconds: float = 600) -> None:
    latest = time.monotonic() + seconds
    while not reached():
        assert server.poll() is None, "the run has ended"
        assert time.monotonic() < latest
        time.sleep(0.2)


def num_arrivals(out: Path) -> int:
    names = os.listdir(f"{out}.partial") if Path(f"{out}.partial").exists() else []
    return max((int(name[:9]) for name in names if name[:9].isdigit()), default=0)


def test_a_killed_supernode_and_a_refused_one(tmp_path: Path) -> None:
    """30 arrivals; a fourth node takes part in another preset only, and in the middle a SuperNode is killed."""
    out = tmp_path / "live"
    words = ["--transport", "flower", "--clients", "3", "--arrivals", "30", "--timeout", "30"]
    server = subprocess.Popen([*PROGRAM, "live", *words, "--checkpoint-every", "1", "--out", str(out), *SETTINGS])
    until(lambda: len(processes(server, "flower-supernode")) == 3, server)
    address = re.search(r"--superlink (\S+)", " ".join(processes(server, "reproduce node")[0].cmdline()))
    assert address is not None
    own = ["node", "--superlink", address[1], "--client", "0", "--preset", "lab-text", "--", "--insecure"]
    fourth = subprocess.Popen([*PROGRAM, *own], env=environment({"FLWR_HOME": str(tmp_path)}))
    until(lambda: num_arrivals(out) >= 5, server)
    processes(server, "flower-supernode")[0].kill()
    assert server.wait(600) == 0
    fourth.terminate()
    fourth.wait(60)

    record = Record.load(out)
    assert record.summary["num_arrivals"] == 30
    said = [event["what"] for event in record.provenance["live"]["events"]]
    lost = [words for words in said if words.endswith("is lost")]
    assert len(lost) == 1
    assert re.match(r"has not answered for 30 seconds; job|is gone: its node is not there any more; job", lost[0])
    assert "is refused: it has the preset lab-text, and the server lab-digits" in said
    assert first_difference(record, run(record.config, progress=False)) is None
    assert not Path(f"{out}.partial").exists()


# ------------------------------------------------------------------------------------------------ messages of Flower


@pytest.fixture
def _in_a_run(monkeypatch):
    """Flower makes messages only in a process that it has started for a run."""
    from flwr.supercore.task_identity import TaskIdentity

    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


class Grid:
    """In place of Flower's: a push is answered as `answer` says."""

    def __init__(self, answer):
        self.answer, self.replies = answer, []

    def get_node_ids(self):
        return [7]

    def push_messages(self, messages):
        (message,) = messages
        message.metadata.__dict__["_message_id"] = "id"
        self.replies = self.answer(message)
        return [None if self.replies is None else "id"]

    def pull_messages(self, ids):
        assert ids == ["id"]
        return self.replies


def reply_of(answer) -> list[Reply]:
    from reproduce.live.flower_server import FlowerGrid

    grid = FlowerGrid(Grid(answer))
    assert grid.nodes() == {7}
    return grid.pull(["id"], 100) if grid.push(7, b"question", 60) else []


@pytest.mark.usefixtures("_in_a_run")
def test_messages_come_back() -> None:
    from flwr.app import Message

    from reproduce.live.flower_messages import from_record, to_record

    def answer(message):
        return [Message(to_record(from_record(message.content, 100) + b", answer"), reply_to=message)]

    assert reply_of(answer) == [Reply("id", 7, b"question, answer")]
    assert reply_of(lambda _: None) == []  # Flower refuses to take it


@pytest.mark.usefixtures("_in_a_run")
def test_what_is_no_answer() -> None:
    """Too long, of another program, of another kind, a failure."""
    from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

    from reproduce.live.flower_messages import KIND, NAME, to_record

    def error(content) -> str:
        (reply,) = reply_of(lambda message: [Message(content, reply_to=message)])
        assert (reply.answers, reply.node, reply.message) == ("id", 7, b"")
        return reply.error

    assert error(to_record(b"x" * 101)) == "it sent a message of 101 bytes, and at most 100 are read"
    other = ArrayRecord({NAME: Array("uint8", (1,), "numpy.ndarray", b"\x80")})
    for content in (RecordDict(), RecordDict({NAME: ConfigRecord({NAME: b"x"})}), RecordDict({NAME: other})):
        assert error(content) == "it sent a message of another program"
    assert KIND != "numpy.ndarray"
    assert error(Error(code=3, reason="no torch")) == "Flower says: no torch"


@pytest.mark.usefixtures("_in_a_run")
def test_what_the_superlink_says_of_a_reply() -> None:
    from flwr.app import Error, Message
    from flwr.common.constant import SUPERLINK_NODE_ID

    def answer(message):
        reply = Message(Error(code=3, reason="gone"), reply_to=message)
        reply.metadata.__dict__["_src_node_id"] = SUPERLINK_NODE_ID
        return [reply]

    assert reply_of(answer) == [Reply("id", SERVER, error="Flower says: gone")]
