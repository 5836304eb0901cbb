"""A sweep on a real Ray cluster of three nodes on this machine, one of which is killed: the same tables.

Not part of the usual tests: `python -m pytest -m cluster`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_sweep import SHORT, Inline, assert_same, children, is_alive, until, write_experiment

from reproduce.sweeps.collection import load_many
from reproduce.sweeps.experiment import load_experiment
from reproduce.sweeps.scheduler import run_all
from reproduce.sweeps.sweep import opened, plan

RAY = str(Path(sys.executable).with_name("ray"))
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not Path(RAY).exists(), reason="Ray is not installed"),
]
PORT = "46379"
ADDRESS = f"127.0.0.1:{PORT}"


def processes(*words: str) -> set[int]:
    """Processes whose command line holds all `words`."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if all(word in entry.read_text() for word in words):
                found.add(int(entry.parent.name))
    return found


def below(pid: int) -> set[int]:
    """`pid` and all processes that it started, directly or not."""
    found = {pid}
    for child in children(pid) if is_alive(pid) else ():
        found |= below(child)
    return found


def kill(pids: set[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def start_node(*arguments: str) -> int:
    """Add a node with one CPU, as one would from a terminal; the process that all others of it hang on."""
    before = processes("raylet/raylet", PORT)
    command = [RAY, "start", "--num-cpus=1", "--num-gpus=0", f"--object-store-memory={100 * 2**20}", *arguments]
    # Ray gives its own parts a short time to start, too short on a busy machine.
    patient = {"RAY_agent_register_timeout_ms": "300000", "RAY_USAGE_STATS_ENABLED": "0"}
    started = subprocess.run(command, capture_output=True, text=True, env=os.environ | patient, check=False)
    assert started.returncode == 0, started.stderr
    (node,) = processes("raylet/raylet", PORT) - before
    return node


@pytest.fixture
def workers() -> Iterator[list[int]]:
    """The two workers of a cluster, which has a head besides."""
    try:
        start_node("--head", f"--port={PORT}", "--include-dashboard=false")
        yield [start_node(f"--address={ADDRESS}") for _ in range(2)]
    finally:
        for node in processes("raylet/raylet", PORT):
            kill(below(node))
        kill(processes("/ray/", PORT))


def test_a_cluster_that_loses_a_node_gives_the_same_tables(workers, tmp_path):
    scale = {"preset": "lab-digits", "seeds": [0, 1, 2], "checkpoint_every": 10}
    scale["settings"] = SHORT | {"federation.max_versions": 60}
    path = write_experiment(tmp_path, scales={"lab": scale})
    local, out = tmp_path / "local" / "out", tmp_path / "ray" / "out"
    sweep = plan(load_experiment(path), "lab", "cpu")
    with opened(sweep, local):
        run_all(sweep.runs, Inline(local), lambda _: None)

    arguments = [str(path), "--no-report", "--out", str(out), "--engine", "ray", "--address", ADDRESS]
    driver = subprocess.Popen(
        [sys.executable, "-m", "reproduce", "sweep", *arguments], stderr=subprocess.PIPE, text=True
    )
    # All three nodes have a run in the middle.
    until(lambda: len({checkpoint.parent for checkpoint in (out / "runs").glob("*.partial/0*")}) == 3)
    kill(below(workers[1]))
    _, error = driver.communicate(timeout=500)
    assert driver.returncode == 0, error
    assert_same(local, out)
    resumed = sum('"num_resumed": 1' in header.read_text() for header in (out / "runs").glob("*/run.json"))
    assert resumed >= 1, "a run of the lost node went on from its checkpoint"
    assert len(load_many(out).runs) == 6
