"""Live runs with real processes, which are killed, stopped and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest
from helpers import SMALL

from fedrevive_core.config import RunConfig
from fedrevive_core.records import first_difference
from fedrevive_core.records.record import Record
from fedrevive_core.simulation.simulation import run
from reproduce.live import processes
from reproduce.live.messages import hello
from reproduce.live.settings import live_config
from reproduce.live.wire import pack

pytestmark = pytest.mark.processes

SETTINGS = [word for name, value in SMALL.items() if not name.startswith("federation.")
            for word in ("--set", f"{name}={value}")]  # fmt: skip
TIMEOUT = "8"  # seconds; after it a run must still have much to do, also on a fast machine


def live(out: Path, *words: str) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "reproduce",
        "live",
        "--clients",
        "3",
        "--arrivals",
        "200",
        "--slowdown",
        "20,30,40",
    ]
    return subprocess.Popen(
        [*command, "--out", str(out), "--checkpoint-every", "1", "--timeout", TIMEOUT, *SETTINGS, *words]
    )


def main(connection: Connection, values: dict, client: int, slowdown: float) -> None:
    """In place of `main` of the client's program: an older package, and another preset."""
    words = hello(client, RunConfig.from_dict(values), "data")
    other = live_config("lab-styles", "fedrevive", 0, 2, 9, Path("out"), {})
    words |= {"version": "0.0.9"} if client == 0 else {"config": other.to_dict()}
    connection.send_bytes(pack(words))
    time.sleep(60)


def test_who_is_refused_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides are named, and nobody waits for five starts."""
    monkeypatch.setattr(processes, "client_program", sys.modules[__name__])
    config = live_config("lab-digits", "fedrevive", 0, 2, 9, Path("out"), {})
    transport = processes.Processes(config, "data", [1, 1], 10, pause=0)
    events, latest = [], time.monotonic() + 300
    try:
        while len(transport.given_up) < 2:
            assert time.monotonic() < latest
            events += transport.wait(1)
        assert transport.wait(0.1) == []
    finally:
        transport.close()
    older, other = sorted(events)
    assert older.why.startswith("it has version 0.0.9 (code ")
    assert f"of the package, and the server {hello(0, config, '')['version']} (code" in older.why
    assert other.why == "it has the preset lab-styles, and the server lab-digits"


def num_arrivals(out: Path) -> int:
    names = os.listdir(f"{out}.partial") if Path(f"{out}.partial").exists() else []
    return max((int(name[:9]) for name in names if name[:9].isdigit()), default=0)


def clients(server: subprocess.Popen) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(server.pid).children():
        with suppress(psutil.Error):  # it has just ended
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def until(reached: Callable[[], bool], server: subprocess.Popen, seconds: float = 300) -> None:
    latest = time.monotonic() + seconds
    while not reached():
        assert server.poll() is None, "the server has ended"
        assert time.monotonic() < latest
        time.sleep(0.05)


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL and no SIGSTOP")
def test_a_killed_server_and_killed_clients(tmp_path: Path) -> None:
    """The server killed and resumed; then one client killed and one stopped. The record says so and can be repeated."""
    out = tmp_path / "live"
    server = live(out)
    until(lambda: num_arrivals(out) >= 5, server)
    left = clients(server)
    server.send_signal(signal.SIGKILL)
    server.wait()
    latest = time.monotonic() + 60
    while any(map(is_alive, left)):  # nobody is at the other end of their pipes
        assert time.monotonic() < latest
        time.sleep(0.1)

    resumed = live(out, "--resume")
    before = num_arrivals(out)
    until(lambda: num_arrivals(out) >= before + 5, resumed)
    killed, stopped, _ = clients(resumed)
    killed.send_signal(signal.SIGKILL)
    stopped.send_signal(signal.SIGSTOP)
    assert resumed.wait(300) == 0
    record = Record.load(out)
    assert record.summary["num_arrivals"] == 200
    said = " ".join(event["what"] for event in record.provenance["live"]["events"])
    assert "when the server stopped; the job is lost" in said
    assert "is gone: its process has ended; job" in said
    assert f"has not answered for {TIMEOUT} seconds; job" in said
    assert record.summary["faults"]["never_return"] == 1
    again = run(record.config, progress=False)
    assert first_difference(record, again) is None
