"""Live runs with real processes, which are killed, stopped and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from helpers import SMALL

from fedrevive_core.records import first_difference
from fedrevive_core.records.record import Record
from fedrevive_core.simulation.simulation import run

pytestmark = pytest.mark.processes

SETTINGS = [word for name, value in SMALL.items() if not name.startswith("federation.")
            for word in ("--set", f"{name}={value}")]  # fmt: skip


def live(out: Path, *words: str) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "reproduce",
        "live",
        "--clients",
        "3",
        "--arrivals",
        "150",
        "--slowdown",
        "10,15,20",
    ]
    return subprocess.Popen(
        [*command, "--out", str(out), "--checkpoint-every", "1", "--timeout", "10", *SETTINGS, *words]
    )


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
    assert record.summary["num_arrivals"] == 150
    said = " ".join(event["what"] for event in record.provenance["live"]["events"])
    assert "when the server stopped; the job is lost" in said
    assert "is gone: its process has ended; job" in said
    assert "has not answered for 10 seconds; job" in said
    assert record.summary["faults"]["never_return"] == 1
    again = run(record.config, progress=False)
    assert first_difference(record, again) is None
